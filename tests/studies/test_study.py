"""A study against single runs and the bounds of theory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import parareal as pr

D = torch.float64
GRID = pr.TimeGrid.uniform(0.0, 3.0, slices=6, steps=4)
START = torch.tensor([0.5, -1.0], dtype=D)


def f(t: Tensor, u: Tensor) -> Tensor:
    return torch.stack([u[1], -torch.sin(u[0]) - 0.2 * u[1]])


def test_rows_are_those_of_single_runs() -> None:
    problem = pr.ODE(f)
    table = pr.study(
        problem,
        START,
        GRID,
        pr.RK4(),
        {"Euler": pr.Euler(), "none": pr.Identity()},
        slices=[4, 6],
        schedules=[pr.Barrier(), pr.Wavefront()],
    )
    assert len(table.last()) == 2 * 2 * 2
    assert len({row["run"] for row in table}) == 8
    for row in table:
        if row["iteration"] not in (2, 3) or row["schedule"] != "Barrier()":
            continue
        grid = pr.TimeGrid.from_points(GRID.points, row["slices"])
        coarse: Any = pr.Euler() if row["coarse"] == "Euler" else pr.Identity()
        stop, expected = pr.Iterations(row["iteration"]), pr.serial(problem, START, grid, fine=pr.RK4())
        sol = pr.solve(problem, START, grid, fine=pr.RK4(), coarse=coarse, schedule=pr.Barrier(), stop=stop)
        assert row["error"] == pytest.approx(float((sol.us - expected.us).abs().max()), abs=1e-14)
        assert row["error_at_end"] == pytest.approx(float((sol.u - expected.u).abs().max()), abs=1e-14)
        assert (row["rounds"], row["evaluations"]) == (sol.stats.rounds, sol.stats.evaluations)
        assert row["serial_rounds"] == expected.stats.rounds
    assert all(row["error"] == 0.0 for row in table.last() if row["schedule"] == "Barrier()" or row["error"] < 1e-14)


@pytest.mark.parametrize("coarse", [pr.Euler(), pr.Coarse(pr.Heun()), pr.ImplicitEuler()])
def test_bounds_of_measured_constants_hold(coarse: Any) -> None:
    table = pr.study(pr.ODE(f), START, GRID, pr.RK4(), coarse)
    assert table[0]["bound_generating"] > table[0]["error"] > 0
    for row in table:
        assert row["error"] <= row["bound_generating"] + 1e-14
        if row["iteration"] < row["slices"]:
            assert row["error"] <= row["bound_superlinear"] + 1e-14
        assert row["error"] <= row["bound_linear"] + 1e-14
        assert row["bound_generating"] <= row["bound_nonlinear"] * (1 + 1e-12)


def test_constants_of_a_linear_equation_are_those_of_stability_functions() -> None:
    problem, u0 = pr.ODE(lambda t, u: -u), torch.ones(1, dtype=D)
    (row, *_) = pr.study(problem, u0, GRID, pr.RK4(), pr.ImplicitEuler())
    z = -0.5
    fine, coarse = (pr.theory.stability_function(m, s)(z) for m, s in ((pr.RK4(), 4), (pr.ImplicitEuler(), 1)))
    assert row["alpha"] == pytest.approx(abs(fine - coarse), rel=1e-4)
    assert row["beta"] == pytest.approx(abs(coarse), rel=1e-6)
    assert row["gamma"] == pytest.approx(abs(fine - coarse), rel=1e-6)


def test_a_table_without_and_with_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    table = pr.study(pr.ODE(f), START, [GRID, GRID], pr.RK4(), [pr.Heun(), pr.Zero()], stop=pr.Iterations(2))
    columns = table.to_dict()
    assert columns["iteration"] == [0, 1, 2] * 4
    frame = table.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == table.columns == list(columns)
    assert len(table.where(iteration=2, coarse="Heun()")) == 2
    assert [row["iteration"] for row in table.first(below=1e9)] == [0] * len(table.last())
    assert not table.first(below=-1.0)
    assert isinstance(table[:2], pr.Study)
    assert "Heun()" in str(table)
    assert "12 rows" in repr(table)
    assert table.plot().get_xlabel() == "iteration"
    assert len(table.plot(bounds=False).lines) == 4
    assert len(table[:3].plot(bounds=["nonlinear"]).lines) == 2
    with pytest.raises(ValueError, match="bound 'sharp' is unknown"):
        table.plot(bounds=["sharp"])
    with pytest.raises(ValueError, match="'iteraton' is unknown"):
        table.where(iteraton=2)


def test_trees_and_complex_states() -> None:
    u0 = {"a": START, "b": torch.tensor(1.0 + 1.0j, dtype=torch.complex128)}
    problem = pr.ODE(lambda t, u: {"a": -u["a"], "b": 1j * u["b"]})
    for row in pr.study(problem, u0, GRID, pr.RK4(), pr.Heun()):
        assert row["error"] <= row["bound_generating"] + 1e-14


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"grids": 3}, TypeError, "grids is"),
        ({"grids": []}, ValueError, "grids is empty"),
        ({"coarse": [pr.Euler(), "euler"]}, TypeError, "coarse"),
        ({"schedules": {}}, ValueError, "schedules is empty"),
        ({"slices": []}, ValueError, "slices is empty"),
        ({"slices": [100]}, ValueError, "slices=100"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], says: str) -> None:
    given: dict[str, Any] = {"grids": GRID, "fine": pr.RK4(), "coarse": pr.Euler(), **change}
    with pytest.raises(error, match=says):
        pr.study(pr.ODE(f), START, **given)
