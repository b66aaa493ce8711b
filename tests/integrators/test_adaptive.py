"""Adaptive methods on lanes: torchdiffeq's own steps in one lane, and the sequential run under every schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchdiffeq
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import parareal as pr
from parareal.integrators._embedded import EMBEDDED

D = torch.float64
THEIRS = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")


class Counted:
    """A right-hand side of two numbers that notes when it was called."""

    def __init__(self, dtype: torch.dtype = D, jump: float | None = None) -> None:
        self.times: list[float] = []
        self._dtype, self._jump = dtype, jump

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.times.append(float(t))
        t = t.to(self._dtype)
        jumped = 0.0 if self._jump is None else torch.where(t < self._jump, 0.0, 2.0).to(self._dtype)
        return torch.stack([y[1] - 0.3 * y[0] ** 2 + jumped, -2.0 * torch.sin(y[0]) + torch.cos(3 * t)])


def both(method: str, start: float, end: float, rtol: float, dtype: torch.dtype, **options: Any) -> tuple[Any, ...]:
    """torchdiffeq's state at the end and its calls, and a single slice of ours."""
    theirs, ours = Counted(dtype), Counted(dtype)
    y0, t = torch.tensor([1.0, -0.5], dtype=dtype), torch.tensor([start, end], dtype=D)
    tolerances = {"rtol": rtol, "atol": rtol / 100}
    expected = torchdiffeq.odeint(theirs, y0, t, method=method, options=dict(options), **tolerances)[-1]
    fine = pr.Adaptive(method, **tolerances, **options)
    sol = pr.serial(pr.ODE(ours, batching="loop"), y0, pr.TimeGrid.from_edges(t), fine=fine)
    return expected, theirs.times, sol, ours.times


@pytest.mark.parametrize("name", EMBEDDED)
def test_tables_are_consistent(name: str) -> None:
    table = EMBEDDED[name]
    assert abs(sum(table.error)) < 1e-14
    assert abs(sum(table.middle) - 0.5) < 1e-13
    assert table.step.nodes[-1] == 1.0


@pytest.mark.parametrize(
    ("name", "order"), [("dopri5", 5), ("tsit5", 5), ("bosh3", 3), ("fehlberg2", 2), ("dopri8", 8)]
)
def test_orders_are_measured(name: str, order: int) -> None:
    def error(h: float) -> float:
        fine = pr.Adaptive(name, 1.0, 1e6, first_step=h, max_step=h, land=True)
        grid = pr.TimeGrid.uniform(0.0, 2.0, slices=1)
        u = pr.serial(pr.ODE(lambda t, u: torch.cos(t) * u), torch.ones(1, dtype=D), grid, fine=fine).u
        return float((u.log() - torch.sin(torch.tensor(2.0, dtype=D))).abs())

    h = 0.5 if order == 8 else 0.1
    measured = torch.log2(torch.tensor(error(h) / error(h / 2)))
    assert order - 0.4 < measured < order + 1.5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_step": 0.05},
        {"first_step": 0.3},
        {"min_step": 0.04},
        {"step_t": torch.tensor([0.7, 1.5])},
        {"jump_t": torch.tensor([0.7, 1.5]), "step_t": torch.tensor([1.0])},
        {"norm": lambda y: y.abs().max()},
        {"safety": 0.8, "ifactor": 4.0, "dfactor": 0.5},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("span", [(0.0, 2.5), (2.0, -1.0)], ids=["rising", "falling"])
@pytest.mark.parametrize("method", THEIRS)
@pytest.mark.sweep(25)
def test_one_lane_takes_torchdiffeqs_steps(method: str, span: tuple[float, float], options: Any) -> None:
    rtol = {"dopri5": 1e-6, "dopri8": 1e-6, "adaptive_heun": 1e-3}.get(method, 1e-4)
    expected, calls, sol, ours = both(method, *span, rtol, D, **options)
    assert len(ours) == len(calls) == sol.stats.evaluations == sol.stats.rounds
    if method == "dopri8":  # its first error estimates are rounding, and steps differ by what that makes of them
        torch.testing.assert_close(sol.u, expected, rtol=1e-5, atol=1e-5)
        return
    torch.testing.assert_close(sol.u, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(calls), rtol=1e-6, atol=1e-9)


@given(
    method=st.sampled_from(THEIRS[:1] + THEIRS[2:]),
    start=st.floats(-2.0, 2.0),
    length=st.floats(0.05, 2.0),
    falling=st.booleans(),
    digits=st.floats(2.5, 5.0),
    wide=st.booleans(),
)
def test_any_single_slice_has_torchdiffeqs_evaluations(
    method: str, start: float, length: float, falling: bool, digits: float, wide: bool
) -> None:
    end = start - length if falling else start + length
    dtype = D if wide else torch.float32
    expected, calls, sol, ours = both(method, start, end, 10.0**-digits, dtype)
    # In float32 rounding decides which of two steps is taken: both solutions are as far off as was allowed.
    assert len(ours) == len(calls) or not wide
    close = 1e-9 if wide else 10 * 10.0**-digits
    torch.testing.assert_close(sol.u, expected, rtol=close, atol=close)


def test_the_slope_is_evaluated_on_both_sides_of_a_jump() -> None:
    y0, t = torch.tensor([1.0, -0.5], dtype=D), torch.tensor([0.0, 2.0], dtype=D)
    theirs, ours = Counted(jump=0.7), Counted(jump=0.7)
    options = {"jump_t": torch.tensor([0.7], dtype=D)}
    expected = torchdiffeq.odeint(theirs, y0, t, options=options)[-1]
    grid = pr.TimeGrid.from_edges(t)
    sol = pr.serial(pr.ODE(ours, batching="loop"), y0, grid, fine=pr.Adaptive(jump_t=[0.7]))
    assert len(ours.times) == len(theirs.times)
    torch.testing.assert_close(sol.u, expected, rtol=1e-10, atol=1e-12)


# --- lanes -----------------------------------------------------------------------------------------------------------


def swing(t: Tensor, u: Tensor) -> Tensor:
    return torch.stack([u[1], -2.0 * torch.sin(u[0]) + torch.cos(3 * t)])


U0, GRID = torch.tensor([1.0, -0.5], dtype=D), pr.TimeGrid.uniform(0.0, 4.0, slices=6)
FINE = (
    pr.Adaptive("bosh3", 1e-3, 1e-5),
    pr.Adaptive("tsit5", 1e-5, 1e-7, carry=True),
    pr.Adaptive("dopri5", 1e-4, 1e-6, land=True, jump_t=[0.9, 2.3]),
)


@pytest.mark.parametrize("schedule", [None, pr.Barrier(), pr.Wavefront(), pr.Windowed(3)], ids=str)
@pytest.mark.parametrize("coarse", [pr.RK4(), pr.Adaptive("bosh3", 1e-2, 1e-2), pr.Secant(pr.Identity())], ids=str)
@pytest.mark.parametrize("fine", FINE, ids=lambda fine: fine.tableau)
@pytest.mark.sweep(12)
def test_every_run_ends_in_the_sequential_one(fine: Any, coarse: Any, schedule: Any) -> None:
    problem = pr.ODE(swing)
    reference = pr.serial(problem, U0, GRID, fine=fine, executor=pr.Serial())
    given: dict[str, Any] = {"fine": fine, "coarse": coarse, "schedule": schedule}
    sol = pr.solve(problem, U0, GRID, stop=pr.Iterations(6), executor=pr.Serial(), **given)
    assert torch.equal(sol.us, reference.us)
    if not isinstance(schedule, pr.Barrier):
        assert sol.stats.rounds <= reference.stats.rounds
    sol = pr.solve(problem, U0, GRID, stop=pr.Tolerance(1e-8, 1e-10), **given)
    torch.testing.assert_close(sol.us, reference.us, rtol=1e-7, atol=1e-8)


def test_lanes_that_arrive_leave_and_none_depends_on_the_others() -> None:
    rates = torch.tensor([0.1, 1.0, 10.0], dtype=D)
    problem = pr.ODE(lambda t, u, rate: -rate * u + torch.cos(t), per_sample=rates[:, None])
    fine, grid = pr.Adaptive(rtol=1e-5, atol=1e-7), pr.TimeGrid.uniform(0.0, 3.0, slices=1)
    u0 = torch.ones(3, 1, dtype=D)
    together = pr.serial(problem, u0, grid, fine=fine, samples=True)
    alone = [
        pr.serial(pr.ODE(lambda t, u, rate=rate: -rate * u + torch.cos(t)), u0[:1], grid, fine=fine) for rate in rates
    ]
    assert torch.equal(together.u, torch.cat([one.u for one in alone]))
    assert together.stats.rounds == max(one.stats.rounds for one in alone)
    assert together.stats.evaluations == sum(one.stats.evaluations for one in alone)


def test_each_sample_may_have_tolerances_of_its_own() -> None:
    rtol, atol = torch.tensor([1e-3, 1e-6, 1e-9]), torch.tensor([1e-5, 1e-8, 1e-11])
    u0 = torch.tensor([[1.0, 0.0], [0.5, 0.1], [-1.0, 2.0]], dtype=D)
    problem, fine = pr.ODE(lambda t, u: torch.cos(3 * t) * u), pr.Adaptive(rtol=rtol, atol=atol, per_sample=True)
    sol = pr.serial(problem, u0, GRID, fine=fine, samples=True)
    for i in range(3):
        own = pr.Adaptive(rtol=float(rtol[i]), atol=float(atol[i]))
        assert torch.equal(sol.us[:, i : i + 1], pr.serial(problem, u0[i : i + 1], GRID, fine=own).us)


def test_tolerances_of_elements_and_of_tensors_are_torchdiffeqs() -> None:
    rtol, t = torch.tensor([1e-3, 1e-7], dtype=D), torch.tensor([0.0, 2.0], dtype=D)
    expected = torchdiffeq.odeint(swing, U0, t, rtol=rtol, atol=rtol / 10)[-1]
    found = pr.serial(pr.ODE(swing), U0, pr.TimeGrid.from_edges(t), fine=pr.Adaptive(rtol=rtol, atol=rtol / 10)).u
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_carried_step_sizes_spare_evaluations() -> None:
    fresh, carried = (
        pr.serial(pr.ODE(swing), U0, GRID, fine=pr.Adaptive(rtol=1e-6, atol=1e-8, carry=carry))
        for carry in (False, True)
    )
    assert carried.stats.evaluations <= fresh.stats.evaluations - 5  # none of the later slices selects a first step
    torch.testing.assert_close(carried.us, fresh.us, rtol=1e-5, atol=1e-6)


def test_gradients_are_torchdiffeqs() -> None:
    t = torch.tensor([0.0, 1.5], dtype=D)

    def gradient(run: Any) -> tuple[Tensor, ...]:
        rate, u0 = torch.tensor(1.3, dtype=D, requires_grad=True), U0.clone().requires_grad_()
        u = run(lambda t, u: rate * swing(t, u), u0)
        return torch.autograd.grad(u.square().sum(), (rate, u0))

    found = gradient(lambda f, u: pr.serial(pr.ODE(f), u, pr.TimeGrid.from_edges(t), fine=pr.Adaptive()).u)
    expected = gradient(lambda f, u: torchdiffeq.odeint(f, u, t)[-1])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "where"),
    [
        (lambda t, u: u**2, "underflowed at t=0.99"),
        (
            lambda t, u: torch.where(t < 0.7, u, torch.nan * u),
            "underflowed at t=0.1",
        ),  # a step from there to where nothing is known
        (lambda t, u: torch.nan * u, "underflowed at t=0.0"),
    ],
    ids=["blow-up", "nan-later", "nan"],
)
def test_a_run_that_cannot_go_on_says_where_after_as_many_calls_as_torchdiffeq(f: Any, where: str) -> None:
    calls = 0

    def counted(t: Tensor, u: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return f(t, u)

    u0, t = torch.ones(1, dtype=D), torch.tensor([0.0, 2.0], dtype=D)
    with pytest.raises(AssertionError):
        torchdiffeq.odeint(counted, u0, t, rtol=1e-3, atol=1e-5)
    theirs, fine = calls, pr.Adaptive(rtol=1e-3, atol=1e-5)
    calls = 0
    sol = pr.serial(pr.ODE(counted, batching="loop"), u0, pr.TimeGrid.from_edges(t), fine=fine)
    assert calls == sol.stats.evaluations == theirs
    assert sol.status is pr.Status.NONFINITE
    assert sol.failure is not None
    assert where in sol.failure
    with pytest.raises(pr.SolveError, match="underflowed at") as caught:
        pr.solve(pr.ODE(f), u0, pr.TimeGrid.uniform(0.0, 2.0, slices=8), fine=fine, coarse=pr.Euler())
    assert caught.value.solution.failure in str(caught.value)
    exact = 1.0 if where.endswith("0.0") else None
    assert float(caught.value.solution.us[0]) == (exact or 1.0)


def test_steps_are_limited() -> None:
    sol = pr.serial(pr.ODE(swing), U0, GRID, fine=pr.Adaptive(max_num_steps=3))
    assert sol.status is pr.Status.NONFINITE
    assert sol.failure is not None
    assert "max_num_steps was reached at t=" in sol.failure


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"tableau": "rk45"}, ValueError, ["'rk45'", "'dopri5'"]),
        ({"tableau": 5}, TypeError, ["an int", "'dopri5'"]),
        ({"rtol": -1.0}, ValueError, ["rtol=-1.0"]),
        ({"rtol": "a"}, TypeError, ["rtol='a'"]),
        ({"atol": torch.tensor([1.0, -1.0])}, ValueError, ["atol", "above 0"]),
        ({"rtol": torch.ones(2, requires_grad=True)}, ValueError, ["rtol.detach()"]),
        ({"rtol": torch.ones(2, 2), "per_sample": True}, ValueError, ["(2, 2)", "(B,)"]),
        ({"min_step": 1.0, "max_step": 0.5}, ValueError, ["min_step=1.0", "max_step=0.5"]),
        ({"first_step": 0.0}, ValueError, ["first_step=0.0"]),
        ({"ifactor": 0.5}, ValueError, ["ifactor=0.5"]),
        ({"max_num_steps": 0}, ValueError, ["max_num_steps=0"]),
        ({"norm": 2}, TypeError, ["norm is an int"]),
        ({"land": 1}, TypeError, ["land=1"]),
        ({"step_t": [1.0], "jump_t": [1.0]}, ValueError, ["[1.0]", "jump_t"]),
    ],
)
def test_what_is_wrong_is_said(arguments: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        pr.Adaptive(**arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_tolerances_that_do_not_fit_the_state_are_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="broadcasts"):
        pr.serial(pr.ODE(swing), U0, GRID, fine=pr.Adaptive(rtol=torch.ones(3)))
    with pytest.raises(ValueError, match="a tuple of 2"):
        pr.serial(pr.ODE(swing), U0, GRID, fine=pr.Adaptive(rtol=(1e-3, 1e-3)))


HALF = (
    (torch.float16, 1e-7, 1e-9),
    (torch.float16, 1e-3, 1e-9),
    (torch.bfloat16, 1e-2, 1e-4),
    (torch.bfloat16, 1e-2, 1e-9),
)


@pytest.mark.parametrize(("dtype", "rtol", "atol"), HALF)
def test_states_of_half_precision_go_as_far_as_they_can(dtype: torch.dtype, rtol: float, atol: float) -> None:
    """Errors are measured in single precision, in which neither tolerances are zero nor squares of ratios infinite."""
    problem = pr.ODE(lambda t, u: torch.cos(t).to(u.dtype) * u)
    u0, grid = torch.tensor([1.0, 0.25, 0.0], dtype=dtype), pr.TimeGrid.uniform(0.0, 1.0, slices=2)
    sol = pr.serial(problem, u0, grid, fine=pr.Adaptive(rtol=rtol, atol=atol))
    assert sol.u.dtype is dtype
    rounded = 0.03 if dtype is torch.float16 else 0.1
    assert torch.allclose(sol.u.double(), u0.double() * math.exp(math.sin(1.0)), rtol=rounded)
    sol = pr.solve(problem, u0, grid, fine=pr.Adaptive(rtol=1e-2, atol=1e-3), coarse=pr.Euler())
    assert sol.converged
