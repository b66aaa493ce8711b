"""A run that has ended by a count comes back as it was, whatever the schedule, and goes on as it would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import parareal as pr

D = torch.float64
U0 = torch.tensor([0.5, 1.0, 1.5], dtype=D)
SCHEDULES = (None, pr.Barrier(), pr.Wavefront(), pr.Wavefront(ahead=0), pr.Wavefront(ahead=1), pr.Windowed(3))
CORRECTIONS = (
    pr.Euler(),
    pr.Damped(pr.Euler(), 0.8),
    pr.Secant(pr.Identity()),
    pr.Secant(pr.Euler()),
    pr.Anderson(pr.Identity()),
    pr.Jacobian(),
)
COUNTS = (
    lambda k: {"stop": pr.Iterations(k)},
    lambda k: {"stop": pr.Tolerance(0.0, 0.0), "max_iterations": k},
    lambda k: {"stop": pr.Tolerance(1e-12, rule="error"), "max_iterations": k},
)


def f(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(t) * u - u / (1 + u * u)


def untouched(t: Tensor, u: Tensor) -> Tensor:
    raise AssertionError("nothing was left to do")


def go(function: Any = f, slices: int = 5, **options: Any) -> pr.Solution:
    grid = pr.TimeGrid.uniform(0.0, 6.0, slices=slices)
    u0 = torch.stack([U0, U0.flip(0), 1e-12 * U0]) if options.get("samples") else U0
    given = {"fine": pr.RK4(), "executor": pr.Serial(), "throw": False}
    return pr.solve(pr.ODE(function), u0, grid, **{**given, **options})


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(-9.0), b.nan_to_num(-9.0))


def assert_as_it_is(again: pr.Solution, sol: pr.Solution) -> None:
    assert same(again.us, sol.us)
    assert (again.status, again.sample_status) == (sol.status, sol.sample_status)
    assert torch.equal(torch.as_tensor(again.iterations), torch.as_tensor(sol.iterations))
    assert again.residuals is not None
    assert sol.residuals is not None
    assert same(again.residuals, sol.residuals)
    assert same(*(torch.as_tensor(one.error_estimate, dtype=D) for one in (again, sol)))
    assert [r.rounds for r in again.history] == [r.rounds for r in sol.history]
    assert again.stats.evaluations == sol.stats.evaluations


@given(
    st.sampled_from(SCHEDULES),
    st.sampled_from(CORRECTIONS),
    st.sampled_from(COUNTS),
    st.integers(1, 4),
    st.sampled_from((pr.RK4(), pr.AdamsBashforth(3))),
    st.booleans(),
)
@example(None, pr.Euler(), COUNTS[0], 1, pr.RK4(), False)
@example(None, pr.Euler(), COUNTS[1], 2, pr.RK4(), True)
@example(pr.Wavefront(ahead=0), pr.Secant(pr.Euler()), COUNTS[0], 2, pr.AdamsBashforth(3), False)
def test_a_run_that_has_ended_by_count_comes_back_and_goes_on(
    schedule: pr.Schedule | None, coarse: Any, count: Any, k: int, fine: Any, samples: bool
) -> None:
    if isinstance(coarse, pr.Jacobian):
        fine = pr.RK4()
    call = {"coarse": coarse, "schedule": schedule, "fine": fine, "samples": samples}
    sol = go(**call, **count(k))
    again = go(untouched, **call, **count(k), resume=sol)
    assert_as_it_is(again, sol)
    third = go(untouched, **call, **count(k), resume=again)
    assert_as_it_is(third, sol)
    # The snapshot of the second is that of the first: what goes on from either is one run.
    ends = [go(**call, **count(k + 1), resume=one) for one in (sol, third)]
    assert_as_it_is(ends[1], ends[0])


def test_what_has_ended_is_not_saved_again(tmp_path: Path) -> None:
    call = {"coarse": pr.Euler(), "stop": pr.Iterations(2), "checkpoint": tmp_path / "job"}
    sol = go(**call)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = go(**call)
    assert_as_it_is(again, sol)
    assert same(
        again.dense()(torch.linspace(0.0, 6.0, 13, dtype=D)), sol.dense()(torch.linspace(0.0, 6.0, 13, dtype=D))
    )
    assert files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_the_boundary_at_the_frontier_is_final_after_it_came_back(tmp_path: Path) -> None:
    ref = pr.serial(pr.ODE(f), U0, pr.TimeGrid.uniform(0.0, 6.0, slices=5), fine=pr.RK4(), executor=pr.Serial())
    sol = go(coarse=pr.Euler(), stop=pr.Iterations(1))
    frontier = int(sol.history[-1].frontier)
    assert frontier == 2  # ahead of the iteration
    sol.save(tmp_path / "run")
    for resume in (sol, pr.Solution.load(tmp_path / "run")):
        again = go(coarse=pr.Euler(), stop=pr.Iterations(1), resume=resume)
        assert torch.equal(again.us[: frontier + 1], ref.us[: frontier + 1])


def test_what_comes_back_may_keep_less_or_more() -> None:
    sol = go(coarse=pr.Euler(), stop=pr.Iterations(2))
    ends = go(untouched, coarse=pr.Euler(), stop=pr.Iterations(2), resume=sol, dense=False)
    assert torch.equal(ends.us, sol.us[[0, -1]])
    kept = go(untouched, coarse=pr.Euler(), stop=pr.Iterations(2), resume=sol, keep="all")
    assert torch.equal(kept.us, sol.us)


def test_samples_that_have_ended_stay_beside_those_that_go_on() -> None:
    """One sample has made as many iterations as are allowed, the others have met a looser rule before."""
    call: dict[str, Any] = {"coarse": pr.Euler(), "samples": True, "max_iterations": 2}
    sol = go(**call, stop=pr.Tolerance(1e-6))
    assert sol.iterations.tolist() == [2, 2, 1]  # type: ignore[union-attr]
    again = go(**call, stop=pr.Tolerance(1e-12, 0.0), resume=sol)
    assert again.iterations.tolist() == [2, 2, 2]  # type: ignore[union-attr]
    assert torch.equal(again.us[:, :2], sol.us[:, :2])
    assert again.residuals is not None
    assert sol.residuals is not None
    assert torch.equal(again.residuals[:2], sol.residuals[:2])
    assert not torch.equal(again.us[:, 2], sol.us[:, 2])


@pytest.mark.parametrize("dense", [True, False])
def test_a_narrow_window_leaves_what_has_ended(dense: bool) -> None:
    sol = go(coarse=pr.Euler(), stop=pr.Iterations(2), slices=8)
    again = go(
        untouched, coarse=pr.Euler(), stop=pr.Iterations(2), resume=sol, schedule=pr.Windowed(2), slices=8, dense=dense
    )
    if dense:
        assert_as_it_is(again, sol)
    else:  # a window keeps no more than the states at its frontier
        assert bool(torch.isfinite(again.us).all())
