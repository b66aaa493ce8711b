"""A grid is what was asked for: exact edges, slices that differ by at most a step, and no grid that is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parareal as pr
from parareal.grid._mesh import Mesh


@given(
    st.floats(-1e3, 1e3, allow_subnormal=False),
    st.floats(1e-3, 1e3),
    st.booleans(),
    st.integers(1, 40),
    st.integers(1, 9),
)
def test_uniform(t0: float, length: float, falling: bool, slices: int, steps: int) -> None:
    t1 = t0 - length if falling else t0 + length
    grid = pr.TimeGrid.uniform(t0, t1, slices, steps)
    assert (grid.num_slices, grid.num_steps) == (slices, slices * steps)
    assert grid.steps_per_slice == (steps,) * slices
    assert grid.points.dtype == grid.edges.dtype == torch.float64
    assert (float(grid.edges[0]), float(grid.edges[-1])) == (t0, t1)  # not accumulated: both ends are exact
    assert torch.equal(grid.edges, grid.points[::steps])
    exact = t0 + (t1 - t0) * torch.arange(slices * steps + 1, dtype=torch.float64) / (slices * steps)
    assert float((grid.points - exact).abs().max()) <= 4 * 2.3e-16 * max(abs(t0), abs(t1))


@given(st.lists(st.floats(0.01, 5.0), min_size=1, max_size=40), st.booleans(), st.data())
def test_from_points_spreads_steps_evenly(widths: list[float], falling: bool, data: st.DataObject) -> None:
    points = np.cumsum([0.0, *widths]) * (-1 if falling else 1)
    slices = data.draw(st.integers(1, len(widths)))
    grid = pr.TimeGrid.from_points(torch.from_numpy(points), slices)
    sizes = grid.steps_per_slice
    assert sum(sizes) == len(widths)
    assert len(sizes) == slices
    assert max(sizes) - min(sizes) <= 1
    assert list(sizes) == sorted(sizes, reverse=True)
    assert np.array_equal(grid.points.numpy(), points)
    assert np.array_equal(grid.edges.numpy(), points[list(grid.bounds)])


def test_from_points_chooses_about_the_square_root_of_the_steps() -> None:
    assert [pr.TimeGrid.from_points(torch.arange(n + 1.0)).num_slices for n in (1, 2, 25, 100, 1024)] == [
        1,
        1,
        5,
        10,
        32,
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.float16])
def test_points_become_float64(dtype: torch.dtype) -> None:
    grid = pr.TimeGrid.from_points(torch.tensor([0, 1, 3], dtype=dtype), slices=2)
    assert grid.points.dtype == torch.float64
    assert grid.points.tolist() == [0.0, 1.0, 3.0]


def test_points_are_a_copy_without_gradient() -> None:
    points = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    grid = pr.TimeGrid.from_points(points, slices=2)
    with torch.no_grad():
        points[0] = -9.0
    assert grid.points.tolist() == [0.0, 1.0, 2.0]
    assert not grid.points.requires_grad
    array = np.array([0.0, 1.0, 2.0])
    grid = pr.TimeGrid.from_edges(array)
    array[0] = -9.0
    assert grid.edges.tolist() == [0.0, 1.0, 2.0]


def test_from_edges() -> None:
    grid = pr.TimeGrid.from_edges(torch.tensor([1.0, 0.5, 0.25]))
    assert (grid.num_slices, grid.num_steps, grid.steps_per_slice) == (2, 2, (1, 1))
    assert repr(grid) == "TimeGrid(1 -> 0.25, slices=2, steps=2)"


@given(st.integers(1, 12), st.integers(1, 7), st.booleans())
def test_a_mesh_of_uniform_steps_keeps_the_edges_exact(slices: int, steps: int, falling: bool) -> None:
    edges = torch.linspace(0.1, 0.7, slices + 1, dtype=torch.float64) ** 3
    grid = pr.TimeGrid.from_edges(edges.flip(0) if falling else edges)
    mesh = Mesh.build(grid, steps, torch.device("cpu"))
    for n in range(slices):
        points = mesh.points[mesh.start[n] : mesh.start[n] + mesh.count[n] + 1]
        assert len(points) == steps + 1
        assert (points[0], points[-1]) == (grid.edges[n], grid.edges[n + 1])
        lengths = points.diff()
        torch.testing.assert_close(
            lengths, ((grid.edges[n + 1] - grid.edges[n]) / steps).expand(steps), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize(
    "points",
    [
        np.linspace(0.0, 1.0, 7)[::-1],
        np.linspace(1.0, 0.0, 7, dtype=np.longdouble),
        np.linspace(1.0, 0.0, 7).astype(">f8"),
        np.linspace(12.0, 0.0, 13)[::2] / 12.0,
    ],
    ids=["negative strides", "long double", "other byte order", "strided"],
)
def test_any_numpy_array_of_numbers_will_do(points: np.ndarray) -> None:
    points.setflags(write=False)
    grid = pr.TimeGrid.from_points(points, slices=3)
    assert grid.points.tolist() == np.asarray(points, dtype=np.float64).tolist()


@pytest.mark.parametrize("points", [np.array(["a", "b"]), np.array([0.0, None]), np.array([0j, 1j]), np.array([True])])
def test_arrays_of_anything_else_are_refused(points: np.ndarray) -> None:
    with pytest.raises(TypeError, match=rf"points is an ndarray of {points.dtype}; expected .* of real numbers"):
        pr.TimeGrid.from_points(points, slices=1)


def test_ends_of_an_interval_are_numbers() -> None:
    assert pr.TimeGrid.uniform(torch.tensor(0.0), np.float32(1.0), slices=2).edges.tolist() == [0.0, 0.5, 1.0]
    for wrong in ("a", None, torch.zeros(2), 1j):
        with pytest.raises(TypeError, match=r"t1 is .* expected one real number"):
            pr.TimeGrid.uniform(0.0, wrong, slices=2)  # pyright: ignore
