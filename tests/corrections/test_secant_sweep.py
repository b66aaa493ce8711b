"""The sweep of `Secant` over many slices: in blocks it is the dense solve, with memory in proportion to the slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import distance
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import parareal as pr
from parareal.corrections import _secant

DTYPES = {torch.float32: 1e-4, torch.float64: 1e-12, torch.complex64: 1e-4, torch.complex128: 1e-12}


def one_by_one(a: Tensor, b: Tensor, x: Tensor, products: Tensor | None) -> np.ndarray:
    """c_n = <b_n, x_n + sum of a_j c_j over j < n>, slice after slice, in numpy's double precision."""
    wide = np.complex128 if a.is_complex() else np.float64
    left, right, base = (each.numpy().astype(wide) for each in (a, b, x))
    rows, length, pairs, _ = left.shape
    c = np.zeros((rows, length, pairs), dtype=wide)
    for row in range(rows):
        gained = np.zeros_like(base[row, 0])
        for n in range(length):
            c[row, n] = right[row, n].conj() @ (base[row, n] + gained)
            if products is not None:
                c[row, n] = products[row, n].numpy().astype(wide) @ c[row, n]
            gained = gained + c[row, n] @ left[row, n]
    return c


@given(
    st.integers(1, 3),
    st.integers(1, 41),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 45),
    st.sampled_from(list(DTYPES)),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_blocks_are_the_dense_solve(
    rows: int, length: int, pairs: int, size: int, block: int, dtype: torch.dtype, pooled: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    a, b = drawn(rows, length, pairs, size) / (length * pairs), drawn(rows, length, pairs, size) / size
    x, products = drawn(rows, length, size), drawn(rows, length, pairs, pairs) if pooled else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_secant, "_block", lambda *_: min(block, length))
        found = _secant._triangular(a, b, x, products).numpy()
    expected = one_by_one(a, b, x, products)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= DTYPES[dtype] * max(1.0, np.abs(expected).max())


@given(
    st.integers(1, 64),
    st.integers(1, 20_000),
    st.integers(1, 14),
    st.integers(1, 10**6),
    st.sampled_from(["cpu", "cuda"]),
)
def test_blocks_are_as_long_as_they_may_be(rows: int, length: int, pairs: int, numbers: int, device: str) -> None:
    size = _secant._block(rows, length, pairs, numbers, device)
    assert 1 <= size <= min(length, 2 * _secant._MOST)
    assert size >= min(length, _secant._LEAST // 2)


@pytest.mark.parametrize("neighbours", [(), (1, 2, 4)])
def test_long_grids_end_where_a_sweep_slice_by_slice_ends(neighbours: tuple[int, ...]) -> None:
    """600 slices are several blocks of the library's own choice; a block as long as the grid is the dense solve."""
    problem, grid = pr.ODE(lambda t, u: torch.sin(u.flip(-1)) - 0.3 * u), pr.TimeGrid.uniform(0.0, 6.0, 600)
    u0 = torch.linspace(-1.0, 2.0, 6, dtype=torch.float64)
    assert _secant._block(1, 600, len(neighbours) + 1, 6, "cpu") < 600
    options: dict[str, Any] = {"fine": pr.Euler(), "stop": pr.Iterations(4)}
    options["coarse"] = pr.Secant(pr.Identity(), neighbours=neighbours)
    blocks = pr.solve(problem, u0, grid, **options).us
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_secant, "_block", lambda rows, length, *_: length)
        dense = pr.solve(problem, u0, grid, **options).us
    assert distance(blocks, dense) < 1e-12


@pytest.mark.parametrize("samples", [3, 40])
def test_large_batches_are_swept_in_shorter_blocks(samples: int) -> None:
    u0 = torch.randn(samples, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem, grid = pr.ODE(lambda t, u: torch.sin(u.flip(-1)) - 0.3 * u), pr.TimeGrid.uniform(0.0, 2.0, 40)
    options: dict[str, Any] = {"fine": pr.Heun(), "coarse": pr.Secant(pr.Identity(), 2), "stop": pr.Iterations(4)}
    together = pr.solve(problem, u0, grid, samples=True, **options).us
    alone = [pr.solve(problem, u0[i], grid, **options).us for i in range(samples)]
    assert distance(together, torch.stack(alone, 1)) < 1e-11


def test_gradients_through_blocks_are_those_of_the_sequential_run() -> None:
    problem, grid = pr.ODE(lambda t, u: torch.sin(u.flip(-1)) - 0.3 * u), pr.TimeGrid.uniform(0.0, 2.0, 20)
    gradients: list[Any] = []
    for parallel in (False, True):
        u0 = torch.linspace(-1.0, 2.0, 4, dtype=torch.float64).requires_grad_()
        coarse = pr.Secant(pr.Identity(), 2, (1, 2))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_secant, "_block", lambda rows, length, *_: min(6, length))
            options: dict[str, Any] = {"fine": pr.Heun(), "coarse": coarse, "stop": pr.Tolerance(1e-13, 0.0)}
            run = pr.solve(problem, u0, grid, **options) if parallel else pr.serial(problem, u0, grid, fine=pr.Heun())
        run.u.square().sum().backward()
        gradients.append(u0.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-10)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation made, in bytes."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, Tensor):
                self.size = max(self.size, each.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("neighbours", [(), (1, 2, 4)])
def test_memory_grows_with_the_slices_and_not_with_their_square(neighbours: tuple[int, ...]) -> None:
    sizes: list[int] = []
    for slices in (2_000, 10_000):
        grid = pr.TimeGrid.uniform(0.0, 1.0, slices)
        with Largest() as largest:
            pr.solve(
                pr.ODE(lambda t, u: -u, batching="native"),
                torch.ones(3),
                grid,
                fine=pr.Euler(),
                coarse=pr.Secant(pr.Identity(), neighbours=neighbours),
                stop=pr.Iterations(2),
            )
        sizes.append(largest.size)
    assert sizes[1] <= 5.5 * sizes[0]
    assert sizes[1] < 50 * 2**20
