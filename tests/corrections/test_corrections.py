"""A correction is an approximation of F(new) - F(old); the engine asks nothing else of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import on_leaves
from torch import Tensor

import parareal as pr

GRID = pr.TimeGrid.uniform(0.0, 2.0, slices=6, steps=4)
PROBLEM = pr.ODE(lambda t, u: -u)
U0 = torch.tensor([1.0, 2.0], dtype=torch.float64)


def run(coarse: Any, **options: Any) -> pr.Solution:
    return pr.solve(PROBLEM, U0, GRID, fine=pr.RK4(), coarse=coarse, **options)


def test_an_integrator_is_its_coarse_correction() -> None:
    a, b = (run(coarse, stop=pr.Iterations(2)) for coarse in (pr.Heun(steps=2), pr.Coarse(pr.Heun(steps=2))))
    assert torch.equal(a.us, b.us)
    assert a.stats.coarse_evaluations == b.stats.coarse_evaluations


@pytest.mark.parametrize("coarse", [pr.Identity(), pr.Zero()])
def test_picard_and_jacobi_evaluate_nothing_of_their_own(coarse: pr.Correction) -> None:
    sol = run(coarse, stop=pr.Iterations(2))
    assert sol.stats.coarse_evaluations == 0
    assert sol.stats.rounds == 2 * 4 * 4


def test_jacobi_knows_one_more_slice_each_iteration_and_nothing_else() -> None:
    ref = pr.serial(PROBLEM, U0, GRID, fine=pr.RK4()).us
    sol = run(pr.Zero(), stop=pr.Iterations(2), executor=pr.Serial())
    assert torch.equal(sol.us[:3], ref[:3])
    # u0 carried over two slices from wherever: the equation is autonomous and the slices are equal.
    assert torch.allclose(sol.us[3:], ref[2].expand(4, 2), rtol=1e-12)


def test_picard_is_the_integral_equation() -> None:
    """One iteration from a constant state: U_n = u0 + sum over slices of (F(u0) - u0)."""
    sol = run(pr.Identity(), stop=pr.Iterations(1))
    step = pr.serial(PROBLEM, U0, GRID, fine=pr.RK4()).us[1] - U0
    expected = U0 + torch.arange(7, dtype=torch.float64)[:, None] * step
    torch.testing.assert_close(sol.us, expected, rtol=1e-13, atol=1e-14)


@dataclass(frozen=True)
class Newton(pr.Correction):
    """The exact derivative of the fine map of u' = -u, applied to the change of the input."""

    factor: float
    propagator = None
    uses_input = True

    def guess(self, at: Any, new: pr.Known) -> Any:
        return on_leaves(lambda u: self.factor * u, new.u)

    def difference(self, at: Any, new: pr.Known, old: pr.Known) -> Any:
        assert at.t0.shape == at.t1.shape == (new.u.shape[0],)
        assert new.f is None
        assert old.f is not None
        return self.factor * (new.u - old.u)


def test_a_users_own_correction() -> None:
    ref = pr.serial(PROBLEM, U0, GRID, fine=pr.RK4())
    factor = float(ref.us[1, 0] / U0[0])
    sol = run(Newton(factor), stop=pr.Tolerance(rtol=1e-12, atol=0.0))
    assert sol.iterations == 1
    torch.testing.assert_close(sol.us, ref.us, rtol=1e-13, atol=0.0)
    rough = run(Newton(0.5 * factor), stop=pr.Tolerance(rtol=0.0, atol=0.0))
    assert rough.iterations == 6
    torch.testing.assert_close(rough.us, ref.us, rtol=1e-13, atol=0.0)


@dataclass(frozen=True)
class Spy(pr.Correction):
    """A coarse correction without inputs that notes what it is shown."""

    seen: list[tuple[Any, ...]]
    propagator = pr.Euler()
    uses_input = False

    def guess(self, at: Any, new: pr.Known) -> Tensor:
        self.seen.append(("guess", at.t0.tolist(), new.u))
        return new.g

    def difference(self, at: Any, new: pr.Known, old: pr.Known) -> Tensor:
        self.seen.append(("difference", at.t0.tolist(), new.u))
        return new.g - old.g


def test_a_correction_is_asked_only_where_the_input_is_not_final() -> None:
    spy = Spy([])
    run(spy, stop=pr.Iterations(3))
    edges = GRID.edges.tolist()
    assert [item[1] for item in spy.seen if item[0] == "guess"] == [[t] for t in edges[:-1]]
    asked = [t for kind, times, _ in spy.seen if kind == "difference" for t in times]
    assert asked == edges[1:-1] + edges[2:-1] + edges[3:-1]
    shown = [u for kind, _, u in spy.seen if kind == "difference"]
    assert all(u is None for u in shown), "inputs are kept only for corrections that use them"


class OneByOne(pr.Correction):
    """Another correction without its stacked sweep: the plain recursion, slice after slice."""

    uses_input = True

    def __init__(self, inner: pr.Correction) -> None:
        self.inner, self.propagator = inner, inner.propagator

    def guess(self, at: Any, new: pr.Known) -> Any:
        return self.inner.guess(at, new)

    def difference(self, at: Any, new: pr.Known, old: pr.Known) -> Any:
        return self.inner.difference(at, new, old)


@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront()], ids=["barrier", "wavefront"])
@given(case=own.cases(batch=(2,)), correction=st.sampled_from((pr.Identity(), pr.Zero())), data=st.data())
def test_a_stacked_sweep_is_the_sweep_slice_after_slice(
    schedule: pr.Schedule, case: own.Case, correction: pr.Correction, data: Any
) -> None:
    stop = pr.Iterations(data.draw(st.integers(1, case.grid.num_slices)))
    options = {"fine": case.fine, "stop": stop, "schedule": schedule, "samples": True, "executor": pr.Serial()}
    stacked = pr.solve(case.problem, case.u0, case.grid, coarse=correction, **options)
    plain = pr.solve(case.problem, case.u0, case.grid, coarse=OneByOne(correction), **options)
    assert stacked.stats.rounds == plain.stats.rounds
    assert stacked.stats.evaluations == plain.stats.evaluations
    assert torch.equal(stacked.iterations, plain.iterations)
    assert own.distance(stacked.us, plain.us) <= case.rounding
