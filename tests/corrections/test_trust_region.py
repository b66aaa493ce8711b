"""Newton's method with bounded derivatives: where full steps leave the basin, and what still holds."""

from __future__ import annotations

from typing import Any

import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import distance, equal, part

import parareal as pr

NEVER = pr.Tolerance(rtol=0.0, atol=0.0)
WELLS = pr.ODE(lambda t, u: 5 * (u - u**3))
NEAR = torch.tensor([0.05, -0.1], dtype=torch.float64)
"""Near the top between two wells, where derivatives are large; in the wells they are small."""


def basin(slices: int) -> pr.TimeGrid:
    return pr.TimeGrid.uniform(0.0, slices * 0.05, slices, steps=2)


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_it_solves_what_full_newton_steps_leave(kind: Any) -> None:
    grid = basin(40)
    ref = pr.serial(WELLS, NEAR, grid, fine=pr.RK4())
    options: dict[str, Any] = {"fine": pr.RK4(), "schedule": pr.Barrier(), "stop": pr.Tolerance(1e-6, 0.0)}
    full = pr.solve(WELLS, NEAR, grid, coarse=pr.Jacobian(kind), **options)
    kept = pr.solve(WELLS, NEAR, grid, coarse=pr.TrustRegion(pr.Jacobian(kind)), **options)
    assert full.iterations > 25  # finite termination alone ends it
    assert kept.iterations <= 12
    assert distance(kept.us, ref.us) < 1e-5
    longer = pr.solve(WELLS, NEAR, basin(64), coarse=pr.TrustRegion(pr.Jacobian(kind)), **options)
    assert longer.iterations == kept.iterations


def test_where_derivatives_are_below_the_bound_it_is_newtons_method() -> None:
    problem, grid = pr.ODE(lambda t, u: torch.sin(u.flip(0)) - 2 * u), pr.TimeGrid.uniform(0.0, 4.0, slices=40)
    for kind in ("full", "diagonal"):
        runs = [
            pr.solve(problem, NEAR, grid, fine=pr.RK4(), coarse=coarse, stop=pr.Tolerance(1e-10), keep="all")
            for coarse in (pr.Jacobian(kind), pr.TrustRegion(pr.Jacobian(kind), most=10.0))
        ]
        assert equal(runs[0].us, runs[1].us)
        assert runs[0].iterations == runs[1].iterations


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_the_norm_of_each_map_is_bounded(kind: Any) -> None:
    """One iteration of u' = 3 u from zero defects but the first: boundaries move by powers of ``most``."""
    problem, grid = pr.ODE(lambda t, u: 3 * u), pr.TimeGrid.uniform(0.0, 4.0, slices=4, steps=8)
    u0 = torch.tensor([1.0, -2.0], dtype=torch.float64)
    coarse = pr.TrustRegion(pr.Jacobian(kind), most=0.5)
    sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=coarse, stop=pr.Iterations(1), schedule=pr.Barrier())
    one = pr.serial(problem, u0, pr.TimeGrid.uniform(0.0, 1.0, slices=1, steps=8), fine=pr.RK4()).u
    moved, at = torch.zeros_like(u0), u0
    for n in range(4):  # all first guesses are u0, and so all defects are the same
        at = one + 0.5 * moved
        torch.testing.assert_close(sol.us[n + 1], at)
        moved = at - u0


KINDS = st.sampled_from(("full", "diagonal"))


@given(own.cases(one_step=True, max_slices=6), KINDS, st.sampled_from((0.3, 1.0, 1e6)), st.data())
@own.examples(6)
def test_after_k_iterations_the_first_k_boundaries_are_the_serial_solution(
    case: own.Case, kind: Any, most: float, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, case.grid.num_slices), label="k")
    plan: Any = data.draw(st.sampled_from((pr.Barrier(), pr.Wavefront())), label="schedule")
    inner = pr.Damped(pr.Jacobian(kind), 0.8) if data.draw(st.booleans(), label="damped") else pr.Jacobian(kind)
    options: dict[str, Any] = {"fine": case.fine, "coarse": pr.TrustRegion(inner, most), "schedule": plan}
    sol = pr.solve(case.problem, case.u0, case.grid, executor=pr.Serial(), stop=pr.Iterations(k), **options)
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    assert distance(part(sol.us, slice(k + 1)), part(ref.us, slice(k + 1))) <= case.rounding
    whole = pr.solve(case.problem, case.u0, case.grid, stop=NEVER, **options)
    assert whole.converged
    assert distance(whole.us, ref.us) <= case.rounding


def test_derivatives_that_are_not_finite_count_as_zero() -> None:
    problem = pr.ODE(lambda t, u: torch.sqrt(u.abs()) + 1)  # no derivative at zero
    grid, zero = pr.TimeGrid.uniform(0.0, 1.0, slices=8), torch.zeros(2, dtype=torch.float64)
    ref = pr.serial(problem, zero, grid, fine=pr.Euler())
    for kind in ("full", "diagonal"):
        coarse = pr.TrustRegion(pr.Jacobian(kind), most=3.0)
        sol = pr.solve(problem, zero, grid, fine=pr.Euler(), coarse=coarse, stop=NEVER)
        assert distance(sol.us, ref.us) < 1e-14


def test_what_it_refuses() -> None:
    for inner in (pr.Euler(), pr.Identity(), pr.LinearFlow(0.9), pr.Secant(pr.Identity())):
        with pytest.raises(ValueError, match="brings no derivatives of the slices"):
            pr.TrustRegion(inner)
    with pytest.raises(TypeError, match="most='1' is a str"):
        pr.TrustRegion(pr.Jacobian(), most="1")  # type: ignore[arg-type]
    for most in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="is out of range"):
            pr.TrustRegion(pr.Jacobian(), most=most)
    with pytest.raises(TypeError, match="correction is None"):
        pr.TrustRegion(None)  # type: ignore[arg-type]
