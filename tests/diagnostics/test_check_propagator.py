"""`check_propagator`: sound methods pass, and each kind of mistake is found by the check that is meant for it."""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
import torchdiffeq
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from stochastic import Case as NoisyCase
from stochastic import stochastic
from strategies import Case, equal, examples, make_state
from torch import Tensor

import parareal as pr
from parareal._core.preserve_state import held_by

DOUBLE = torch.float64
U0 = torch.tensor([1.0, -0.5, 0.3], dtype=DOUBLE)
RISING = pr.TimeGrid.uniform(0.5, 3.5, slices=6, steps=8)
FALLING = pr.TimeGrid.uniform(3.5, 0.5, slices=6, steps=8)
UNEVEN = pr.TimeGrid.from_points(0.5 + 3 * torch.linspace(0, 1, 32, dtype=DOUBLE) ** 1.3, slices=6)


def swing(t: Tensor, u: Tensor) -> Tensor:
    """du/dt = u cos 2t, in one lane or in many."""
    return u * torch.cos(2 * t).to(u.dtype).reshape(*t.shape, *[1] * (u.ndim - t.ndim))


def flow(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
    """Its solution."""
    growth = torch.exp((torch.sin(2 * t1) - torch.sin(2 * t0)) / 2)
    return u * growth.to(u.dtype).reshape(*t0.shape, *[1] * (u.ndim - t0.ndim))


PROBLEM = pr.ODE(swing)
NATIVE = pr.ODE(swing, batching="native")


def wrong(report: pr.PropagatorReport) -> dict[str, str]:
    """What is neither in order nor not applicable."""
    return {one.name: one.status for one in report.findings if one.status in ("warning", "failure")}


# --- what is sound passes --------------------------------------------------------------------------------------------


@examples(6)
@given(own.cases(with_stiff=False))
def test_methods_pass_on_random_problems(case: Case) -> None:
    """Whatever the state, its dtype and the grid; local errors may be large where steps are long, orders not met."""
    report = pr.check_propagator(case.fine, case.problem, case.u0, case.grid)
    assert report.ok, str(report)
    assert wrong(report).keys() <= {"order"}, str(report)


@examples(8)
@given(stochastic())
def test_methods_for_noise_pass(case: NoisyCase) -> None:
    report = pr.check_propagator(case.fine, case.problem, case.u0, case.grid, samples=case.samples)
    assert not wrong(report), str(report)
    assert report["direction"].status == report["order"].status == "not applicable"


SEMILINEAR = pr.SemilinearODE(-torch.tensor([1.0, 3.0, 9.0], dtype=DOUBLE), lambda t, u: torch.cos(t + u))
EXPLICIT = ("Euler", "Midpoint", "Heun", "Ralston", "Heun3", "Kutta3", "SSPRK33", "RK4", "BogackiShampine")
OTHERS = ("ThreeEighths", "DormandPrince", "CashKarp", "ExponentialEuler", "ETDRK2", "ETDRK4", "DPMSolver", "UniPC")
IMPLICIT = ("ImplicitEuler", "ImplicitMidpoint", "Trapezoid", "SDIRK2", "RadauIIA", "LobattoIIIC", "GaussLegendre")
BUILT_IN: dict[str, Any] = {
    **{name: getattr(pr, name)() for name in (*EXPLICIT, *OTHERS, *IMPLICIT)},
    "RK4, 2 steps": pr.RK4(steps=2),
    "DEIS": pr.DEIS(3, lower_order_start=False),
    "DEIS anew": pr.DEIS(3, lower_order_start=False, restart=True),
    "DPMSolverPP multistep": pr.DPMSolverPP(2, "multistep"),
    **{f"Adams {order} {restart}": pr.AdamsBashforth(order, restart) for order in (2, 4) for restart in (False, True)},
    "torchdiffeq": pr.TorchDiffEq("dopri5", 1e-6, 1e-8),
    "torchdiffeq rk4": pr.TorchDiffEq("rk4", steps=4),
    "scipy": pr.SciPy("RK45", 1e-6, 1e-8),
    "scipy loose": pr.SciPy("RK23", 1e-2, 1e-3),
    "scipy stiff": pr.SciPy("BDF", 1e-6, 1e-8),
    "torchode": pr.TorchODE("tsit5", 1e-6, 1e-8),
}


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.sweep(4)
def test_every_method_passes(name: str) -> None:
    for grid in (UNEVEN,) if name in IMPLICIT else (UNEVEN, FALLING):
        sign = 1 if grid is UNEVEN else -1  # decays in the direction of time
        problem = pr.SemilinearODE(sign * SEMILINEAR.linear, SEMILINEAR.f)
        report = pr.check_propagator(BUILT_IN[name], problem, U0, grid)
        assert report.ok, str(report)
        adaptive = {"evaluations"} if BUILT_IN[name].evaluations is None else set()
        assert wrong(report).keys() <= adaptive, str(report)


def test_a_start_of_low_order_is_seen() -> None:
    """As published, DEIS begins with a step of order 1, whose error is of order 2."""
    for order in (2, 3):
        report = pr.check_propagator(pr.DEIS(order), SEMILINEAR, U0, UNEVEN)
        assert report["order"].value == pytest.approx(2.2, abs=0.3), str(report)


def test_a_report_of_a_sound_method() -> None:
    report = pr.check_propagator(pr.RK4(), PROBLEM, U0, RISING)
    assert not wrong(report)
    report.raise_if_failed()
    assert report["order"].value == pytest.approx(4.0, abs=0.3)
    assert report["lanes"].value == report["determinism"].value == report["steps"].value == 0.0
    assert report.slices == (0, 2, 5)
    lines = str(report).splitlines()
    assert [line.split("  ")[0] for line in lines[1 : 1 + len(report.findings)]] == [
        one.name for one in report.findings
    ]
    assert lines[-2] == "RK4(steps=None) is valid for Parareal as far as was tried."
    with pytest.raises(KeyError, match="'lanes'"):
        report["lane"]


def test_the_docs_show_what_is_printed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "check.md").read_text()
    grid = pr.TimeGrid.uniform(0.0, 6.0, slices=12, steps=20)
    problem = pr.ODE(lambda t, u: torch.cos(t) * u)
    assert f"```text\n{pr.check_propagator(pr.RK4(), problem, torch.ones(3, dtype=DOUBLE), grid)}\n```" in page
    rows = re.findall(r"^\| `([a-z ]+)` \|", page, re.MULTILINE)
    assert rows == [one.name for one in pr.check_propagator(pr.Propagator(raises), problem, U0, grid).findings]


def test_wrapped_solvers_of_other_libraries() -> None:
    """As a user writes them, calls of the library in a black box."""

    def scipy_step(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        f = lambda t, y: np.cos(2 * t) * y  # noqa: E731
        return torch.tensor(solve_ivp(f, (t0.item(), t1.item()), u.numpy(), rtol=1e-6, atol=1e-8).y[:, -1])

    def torchdiffeq_step(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        ends: Any = torchdiffeq.odeint(swing, u, torch.stack([t0, t1]), rtol=1e-6, atol=1e-8)
        return ends[-1]

    for grid in (RISING, FALLING):
        report = pr.check_propagator(pr.Propagator(scipy_step), PROBLEM, U0, grid)
        assert report.ok, str(report)
        assert wrong(report).keys() <= {"stray lanes"}, str(report)
        report = pr.check_propagator(pr.Propagator(torchdiffeq_step), PROBLEM, U0, grid)
        assert wrong(report) == {"stray lanes": "warning"}, report  # torchdiffeq fails an assertion on NaN
        assert "AssertionError" in report["stray lanes"].measured


# --- what is not is found --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heun(pr.Integrator):
    """Heun's method with room for mistakes."""

    steps: int | None = None
    order: Any = 2
    evaluations: Any = 2

    def length(self, t0: Tensor, t1: Tensor) -> Tensor:
        return (t1 - t0)[:, None]

    def times(self, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor]:
        return t0, t1

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        left, right = self.times(t0, t1)
        h = self.length(t0, t1).to(u.dtype)
        k1 = yield problem.rhs, left, u
        k2 = yield problem.rhs, right, u + h * k1
        return u + h / 2 * (k1 + k2)


class Late(Heun):
    def times(self, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor]:
        return t0 - 0.5, t1 - 0.5  # as if the first slice began at 0


class Held(Heun):
    def times(self, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor]:
        return t0, t0


class Forward(Heun):
    def length(self, t0: Tensor, t1: Tensor) -> Tensor:
        return (t1 - t0).abs()[:, None]


class Mirrored(Forward):
    def times(self, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor]:
        return t0, t0 + (t1 - t0).abs()


class Rewriting(Heun):
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        k = yield problem.rhs, t0, u
        return u.add_((t1 - t0)[:, None] * k)


class Narrowing(Heun):
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        k = yield problem.rhs, t0, u
        return (u + (t1 - t0)[:, None] * k).float()


class Lingering(Heun):
    """Keeps the last slope from call to call."""

    kept: list[Tensor] = []  # noqa: RUF012

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        k = yield problem.rhs, t0, u
        yield problem.rhs, t0, u
        before = self.kept[-1][:1] if self.kept else k
        self.kept.append(k)
        return u + (t1 - t0)[:, None] * (1.5 * k - 0.5 * before)


class Calling(Heun):
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        h = self.length(t0, t1)
        k1 = yield problem.rhs, t0, u
        yield problem.rhs, t0, u
        return u + h / 2 * (k1 + problem.rhs(t1, u + h * k1))


class Uneven(Heun):
    """As many corrections as it likes, and says 2."""

    apart = True

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        h = self.length(t0, t1)
        k1 = yield problem.rhs, t0, u
        k2 = yield problem.rhs, t1, u + h * k1
        for _ in range(int(t0[0] > 1.5)):
            k2 = yield problem.rhs, t1, u + h / 2 * (k1 + k2)
        return u + h / 2 * (k1 + k2)


@dataclass(frozen=True)
class Planned(pr.Integrator):
    """Substeps of a length that it takes from the slices of the grid."""

    steps: int | None = None
    parts: int = 0
    order: Any = 1
    evaluations: Any = None

    def bind(self, problem: Any, u0: Any, grid: pr.TimeGrid) -> pr.Integrator:
        return Planned(self.steps, max(1, round(float(grid.edges.diff().abs().max()) / 0.1)))

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        h = (t1 - t0) / self.parts
        for i in range(self.parts):
            u = u + h[:, None] * (yield problem.rhs, t0 + i * h, u)
        return u


def solver(kind: str) -> pr.Propagator:
    """RK4 in eight steps on a problem in which time matters, right or with a mistake."""
    problem = pr.ODE(own.single(own.TIME_DEPENDENT.rows))

    def mistaken(t: Tensor, u: Any) -> Any:
        return own.on_leaves(lambda k: -k if kind == "direction" else k, problem.f(t, u))

    def fn(t0: Tensor, t1: Tensor, u: Any) -> Any:
        a = 0.0 if kind == "time" else t0.item()
        grid = pr.TimeGrid.uniform(a, a + (t1 - t0).item(), slices=1, steps=8)
        return pr.serial(pr.ODE(mistaken), u, grid, fine=pr.RK4()).u

    return pr.Propagator(fn)


@examples(6)
@given(own.grids(min_slices=2), own.states(), st.sampled_from(["time", "direction", "nothing"]))
def test_mistakes_in_time_are_told_apart_on_random_grids(grid: pr.TimeGrid, u0: Any, kind: str) -> None:
    report = pr.check_propagator(solver(kind), pr.ODE(own.single(own.TIME_DEPENDENT.rows)), u0, grid)
    assert wrong(report) == ({} if kind == "nothing" else {kind: "failure"}), str(report)


@dataclass(frozen=True)
class Repeating(pr.Integrator):
    """Euler-Maruyama with a clock that starts anew in each slice."""

    steps: int | None = None
    edges: Any = None
    order: Any = None
    evaluations: Any = 1
    solves = (pr.SDE,)

    def bind(self, problem: Any, u0: Any, grid: pr.TimeGrid) -> pr.Integrator:
        return self if self.edges is not None else Repeating(self.steps, grid.edges)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Any:
        left = self.edges[torch.searchsorted(self.edges, t0, right=True) - 1]
        dw = yield problem.increments(self.steps), t0 - left, t1 - left, u
        f, g = yield problem.terms, t0, u
        return u + (t1 - t0)[:, None] * f + g * dw


@dataclass
class Counter:
    """Steps that it has made."""

    made: int = 0
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def drift(self, t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        self.made += 1
        return flow(t0, t1, u) * (1 + 1e-9 * self.made)

    def noise(self, t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        return flow(t0, t1, u) + 1e-6 * torch.randn(u.shape, generator=self.generator, dtype=u.dtype)


def raises(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
    raise RuntimeError("no such luck")


def coupled(t: Tensor, u: Tensor) -> Tensor:
    return swing(t, u) * u.norm() / 2


def first_time(t: Tensor, u: Tensor) -> Tensor:
    return swing(t[:1].expand_as(t), u)


def coarser(t: Tensor, u: Tensor) -> Tensor:
    """As kernels do that are less precise for many lanes."""
    return swing(t, u) if len(t) == 1 else swing(t, u).bfloat16().to(u.dtype)


def picky(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
    if not torch.isfinite(u).all():
        raise ValueError("array must not contain infs or NaNs")
    return flow(t0, t1, u)


def vmapped_only(t: Tensor, u: Tensor) -> Tensor:
    return swing(t, u) if bool(t > 0) else u


def dropping() -> pr.ODE:
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5)).double()
    return pr.ODE(lambda t, u: network(u), batching="native")


def normed() -> pr.ODE:
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).double()
    return pr.ODE(lambda t, u: network(u.repeat(1, 1)) + 0 * u, batching="native")


ADAPTIVE = pr.ODE(lambda t, u: torch.where(t > 3.0, -40 * (t - 3) * u * torch.sin(60 * t), 0.0 * u))
ENDS_AT_0 = pr.TimeGrid.uniform(3.0, 0.0, slices=6, steps=8)

MUTANTS: dict[str, tuple[Any, pr.Problem, pr.TimeGrid, dict[str, str], str]] = {
    "raises": (pr.Propagator(raises), PROBLEM, RISING, {"call": "failure"}, "see the message"),
    "shape": (pr.Propagator(lambda t0, t1, u: u[:1]), PROBLEM, RISING, {"call": "failure"}, "message"),
    "dtype": (Narrowing(), PROBLEM, RISING, {"call": "failure"}, ".to(u.dtype)"),
    "in place": (Rewriting(), PROBLEM, RISING, {"call": "failure"}, "u.clone()"),
    "in place, box": (pr.Propagator(lambda t0, t1, u: u.mul_(2)), PROBLEM, RISING, {"call": "failure"}, "message"),
    "noise": (pr.Propagator(Counter().noise), PROBLEM, RISING, {"determinism": "failure"}, "pr.BrownianPath"),
    "global noise": (
        pr.Propagator(lambda t0, t1, u: flow(t0, t1, u) + 1e-9 * torch.randn_like(u)),
        PROBLEM, RISING, {"determinism": "failure"}, "fixed path",
    ),
    "counter": (pr.Propagator(Counter().drift), PROBLEM, RISING, {"determinism": "failure"}, "from call to call"),
    "history": (Lingering(), PROBLEM, RISING, {"determinism": "failure"}, "pr.Multistep"),
    "dropout": (pr.RK4(), dropping(), RISING, {"determinism": "failure"}, "in training mode: call network.eval()"),
    "norm": (pr.RK4(), pr.ODE(coupled, batching="native"), RISING, {"lanes": "failure"}, "axes of the state alone"),
    "time of lane 0": (pr.RK4(), pr.ODE(first_time, batching="native"), RISING, {"lanes": "failure"}, "not t[0]"),
    "steps of all": (
        pr.TorchDiffEq("dopri5", 1e-5, 1e-7, together=True), PROBLEM, RISING, {"lanes": "failure"}, "together=False"
    ),
    "less precise": (pr.RK4(), pr.ODE(coarser, batching="native"), RISING, {"lanes": "warning"}, "allow_tf32"),
    "no vmap": (pr.RK4(), pr.ODE(vmapped_only), RISING, {"lanes": "failure"}, 'batching="loop"'),
    "clock": (
        pr.Propagator(lambda t0, t1, u: flow(0 * t0, t1 - t0, u)), PROBLEM, RISING, {"time": "failure"}, "t0 + s"
    ),
    "clock of the grid": (
        pr.Propagator(lambda t0, t1, u: flow(0 * t0 + 0.5, t1 - t0 + 0.5, u)),
        PROBLEM, RISING, {"time": "failure"}, "t0 + s",
    ),
    "noise of the first slice": (
        Repeating(edges=torch.linspace(0, 3, 7, dtype=DOUBLE)),
        pr.SDE(swing, lambda t, u: 0.2 * u, generator=torch.Generator().manual_seed(0)),
        pr.TimeGrid.uniform(0.0, 3.0, slices=6, steps=8), {"time": "failure"}, "t0 + s",
    ),
    "too long steps": (
        pr.Euler(), pr.ODE(lambda t, u: -100 * (u - torch.cos(t))), RISING, {"time": "warning"}, "implicit"
    ),
    "late": (Late(), NATIVE, RISING, {"time": "failure"}, "at its own time"),
    "late, falling": (Late(), NATIVE, FALLING, {"time": "failure"}, "at its own time"),
    "forward": (Forward(), NATIVE, FALLING, {"direction": "failure"}, "no abs()"),
    "mirrored": (Mirrored(), NATIVE, FALLING, {"direction": "failure"}, "no abs()"),
    "planned": (Planned(), NATIVE, RISING, {"steps": "warning"}, "on its own t0 and t1 alone"),
    "zero": (
        pr.Propagator(lambda t0, t1, u: flow(t0, t1, u) * (t1 / t1)),
        PROBLEM, ENDS_AT_0, {"finite": "warning"}, "division by zero",
    ),
    "overflow": (
        pr.Propagator(lambda t0, t1, u: flow(t0, t1, u) / (u * 0)), PROBLEM, RISING, {"finite": "failure"}, "float64"
    ),
    "leak": (
        pr.Propagator(lambda t0, t1, u: flow(t0, t1, u) + 0 * u.sum(), batching="native"),
        PROBLEM, RISING, {"stray lanes": "failure"}, "torch.where",
    ),
    "picky": (pr.Propagator(picky), PROBLEM, RISING, {"stray lanes": "warning"}, "return NaN"),
    "miscounted": (Heun(evaluations=1), NATIVE, RISING, {"evaluations": "warning"}, "evaluations = 2"),
    "varying": (Uneven(), NATIVE, RISING, {"evaluations": "failure"}, "evaluations = None"),
    "calls": (Calling(), NATIVE, RISING, {"evaluations": "warning"}, "yield problem.rhs"),
    "adaptive": (pr.SciPy("RK45", 1e-6, 1e-8), ADAPTIVE, RISING, {"evaluations": "warning"}, "from_edges"),
    "order": (Heun(order=4), NATIVE, RISING, {"order": "warning"}, "check coefficients"),
    "held": (Held(), NATIVE, RISING, {"order": "warning"}, "times at which"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mistake_is_found_by_its_check(name: str) -> None:
    fine, problem, grid, expected, fix = MUTANTS[name]
    report = pr.check_propagator(fine, problem, U0, grid)
    assert wrong(report) == expected, str(report)
    (finding,) = (*report.failures, *report.warnings)
    assert finding.consequence
    assert fix in finding.fix
    assert finding.fix in " ".join(str(report).split())  # which is wrapped
    assert report.ok is ("failure" not in expected.values())
    if not report.ok:
        with pytest.raises(ValueError, match=r"Slices .* were tried") as raised:
            report.raise_if_failed()
        said = " ".join(str(raised.value).split())
        assert f"is not valid for Parareal: {len(report.failures)} failed" in said


def test_a_text_of_an_exception_is_in_the_report() -> None:
    report = pr.check_propagator(pr.Propagator(raises), PROBLEM, U0, RISING)
    assert report["call"].measured == "slice 0 raises RuntimeError: no such luck"
    assert [one.status for one in report.findings[1:]] == ["not applicable"] * (len(report.findings) - 1)


def test_an_order_that_is_asked_for() -> None:
    def two_steps(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        h = (t1 - t0) / 2
        for t in (t0, t0 + h):
            u = u + h * swing(t + h / 2, u + h / 2 * swing(t, u))
        return u

    for order, status in ((2, "ok"), (3, "warning")):
        report = pr.check_propagator(pr.Propagator(two_steps), PROBLEM, U0, RISING, order=order)
        assert report["order"].status == status
        assert report["order"].value == pytest.approx(2.0, abs=0.1)


def test_states_that_are_not_finite_have_no_order() -> None:
    report = pr.check_propagator(pr.RK4(), pr.ODE(lambda t, u: u * float("nan")), U0, RISING)
    assert report["finite"].status == "failure"
    assert report["order"].status == "not applicable"
    assert "not finite" in report["order"].measured


@torch.inference_mode()
def test_inference_mode() -> None:
    network = torch.nn.Linear(3, 3).double()
    report = pr.check_propagator(pr.RK4(), pr.ODE(lambda t, u: network(u), batching="native"), U0, RISING)
    assert not wrong(report), str(report)


def test_low_precision_and_single_slices() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        report = pr.check_propagator(pr.RK4(), PROBLEM, U0.to(dtype), pr.TimeGrid.uniform(0.0, 1.0, 4, steps=2))
        assert not wrong(report), str(report)
    network = torch.nn.Linear(3, 3)
    report = pr.check_propagator(pr.RK4(), pr.ODE(lambda t, u: network(u)), U0.float(), RISING)
    assert not wrong(report), str(report)
    assert "no double precision" in report["order"].measured
    report = pr.check_propagator(pr.RK4(), PROBLEM, U0, pr.TimeGrid.uniform(0.0, 1.0, 1, steps=8))
    assert not wrong(report), str(report)
    assert report.slices == (0,)


# --- nothing is changed ----------------------------------------------------------------------------------------------


def test_random_numbers_and_networks_are_left_as_they_were() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)).double()
    generator = torch.Generator().manual_seed(3)

    def f(t: Tensor, u: Tensor) -> Tensor:
        _ = torch.randn(1), torch.randn(1, generator=generator), np.random.rand(), random.random()
        both = torch.cat([u, u + 1])  # one lane alone has no variance
        return network(both)[: len(u)]

    problem, u0 = pr.ODE(f, batching="native"), U0.clone()
    states: list[Callable[[], Any]] = [
        torch.get_rng_state,
        generator.get_state,
        lambda: torch.tensor(np.random.get_state()[1].astype(np.int64)),  # type: ignore[union-attr]
        lambda: torch.tensor(random.getstate()[1]),
        lambda: {name: value.clone() for name, value in network.state_dict().items()},
    ]
    before = [state() for state in states]
    report = pr.check_propagator(pr.RK4(), problem, u0, RISING)
    assert wrong(report) == {"lanes": "failure"}, str(report)
    assert network.training
    assert all(equal(state(), was) for state, was in zip(states, before, strict=True))
    assert torch.equal(u0, U0)


def test_networks_are_found_in_what_holds_them() -> None:
    network = torch.nn.Linear(3, 3)
    holding: list[Callable[..., Tensor]] = [
        lambda t, u, net=network: net(u),
        lambda t, u, *, net=network: net(u),
        lambda t, u, nets=frozenset({network}): next(iter(nets))(u),
        lambda t, u, nets=deque([network]): nets[0](u),
        partial(lambda t, u, nets: nets["a"][0](u), nets={"a": (network,)}),
    ]
    assert all(held_by([f])[0] == [network] for f in holding)


def test_the_cost_is_counted_and_bounded() -> None:
    calls = 0

    def f(t: Tensor, u: Tensor) -> Tensor:
        nonlocal calls
        calls += len(t)
        return swing(t, u)

    report = pr.check_propagator(pr.Heun(), pr.ODE(f, batching="native"), U0, RISING, slices=2)
    assert report.evaluations == calls
    slices = 2 * 8 * 2  # slices, steps, evaluations
    other = 6 * (4 + 8 + 16 + 32 + 64 + 128)  # on a slice
    assert 7 * slices + 2 * 6 * (4 + 8) + 2 * (1 + 2 + 4) <= calls <= 9 * slices + 2 * 2 * other + 2 * 254


# --- misuse ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"fine": pr.EulerMaruyama()}, ValueError, "for an SDE"),
        ({"fine": swing}, TypeError, "pr.Propagator"),
        ({"problem": swing}, TypeError, "problem is a function"),
        ({"grid": 3}, TypeError, "grid is an int"),
        ({"u0": torch.tensor([1, 2])}, TypeError, "floating point"),
        ({"slices": 0}, ValueError, "slices=0"),
        ({"slices": 2.0}, TypeError, "slices=2.0"),
        ({"order": -1}, ValueError, "order=-1"),
        ({"order": True}, ValueError, "order=True"),
        ({"u0": torch.zeros(0, 3), "samples": True}, ValueError, "no samples"),
    ],
)
def test_misuse_raises(options: dict[str, Any], error: type[Exception], words: str) -> None:
    given: dict[str, Any] = {"fine": pr.RK4(), "problem": PROBLEM, "u0": U0, "grid": RISING, **options}
    with pytest.raises(error, match=words):
        pr.check_propagator(**given)


@pytest.mark.parametrize("nest", own.NESTS)
@pytest.mark.sweep(3)
def test_every_kind_of_state(nest: str) -> None:
    u0 = make_state(nest, torch.complex128, 1)
    problem = pr.ODE(own.single(own.TIME_DEPENDENT.rows))
    assert not wrong(pr.check_propagator(pr.RK4(), problem, u0, UNEVEN))
