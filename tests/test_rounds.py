"""No run takes more rounds than the sequential one, also where the number of calls of a step is not known beforehand.

Then lanes from bad iterates may take long, or for ever: the lane from a final state must not wait for them.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import parareal as pr
from tests import strategies as own

CROUZEIX = pr.ButcherTableau(a=((0.5, 0.0), (0.0, 0.5)), b=(0.5, 0.5), order=1)


@dataclass(frozen=True)
class Uneven(pr.Integrator):
    """Euler with as many calls more as the state is large: the engine knows nothing of it but that it varies."""

    steps: int | None = None

    @property
    def order(self) -> int:
        return 1

    @property
    def evaluations(self) -> None:
        return None

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Any) -> Generator[Any, Any, Any]:
        slope = yield problem.rhs, t0, u
        for _ in range(int(own.size(u).__round__()) % 7 if torch.isfinite(torch.tensor(own.size(u))) else 9):
            slope = yield problem.rhs, t0, u
        h = t1 - t0
        return own.on_leaves(lambda x: x, _added(u, h, slope))


def _added(u: Any, h: Tensor, slope: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda x, k: x + own.expand(h, x) * k, u, slope)


@dataclass(frozen=True)
class Slow:
    """A function that takes as many rounds as the state is large."""

    problem: Any

    def __call__(self, t: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.nan_to_num(u.detach().abs().amax(1), nan=9.0, posinf=9.0).clamp(max=9.0)
        return self.problem.rhs(t, u), 1 + size.long()

    def cost(self, value: tuple[Tensor, Tensor], lanes: int) -> pr.Cost:
        return pr.Cost(int(value[1].sum()), int(value[1].max()))


@dataclass(frozen=True)
class InOne(Uneven):
    """The same, its calls in one request."""

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Any) -> Generator[Any, Any, Any]:
        slope, _ = yield Slow(problem), t0, u
        return _added(u, t1 - t0, slope)


IMPLICIT = (
    lambda steps: pr.ImplicitEuler(steps),
    lambda steps: pr.ImplicitEuler(steps, krylov=True),
    lambda steps: pr.ImplicitEuler(steps, max_newton=3),
    lambda steps: pr.ImplicitMidpoint(steps),
    lambda steps: pr.Trapezoid(steps),
    lambda steps: pr.SDIRK2(steps=steps),
    lambda steps: pr.SDIRK2(steps=steps, krylov=True),
    lambda steps: pr.RadauIIA(2, steps),
    lambda steps: pr.RadauIIA(3, steps, rtol=1e-6),
    lambda steps: pr.LobattoIIIC(2, steps),
    lambda steps: pr.GaussLegendre(2, steps),
    lambda steps: pr.GaussLegendre(2, steps, krylov=True),
    lambda steps: pr.ImplicitRungeKutta(CROUZEIX, steps),
)
OTHERS = (
    lambda steps: Uneven(steps),
    lambda steps: InOne(steps),
    lambda steps: pr.AdamsBashforth(2, steps=steps),
    lambda steps: pr.AdamsBashforth(3, steps=steps, restart=True),
    lambda steps: pr.RK4(steps),
)
LIBRARIES = [
    lambda steps: pr.SciPy("RK45", rtol=1e-4, atol=1e-6),
    lambda steps: pr.SciPy("LSODA", rtol=1e-4, atol=1e-6),
    lambda steps: pr.SciPy("Radau", rtol=1e-4, atol=1e-6),
    lambda steps: pr.TorchDiffEq("dopri5", rtol=1e-4, atol=1e-6, options={"max_num_steps": 50}),
    lambda steps: pr.TorchDiffEq("bosh3", rtol=1e-4, atol=1e-6, options={"max_num_steps": 50}, together=True),
    lambda steps: pr.TorchDiffEq("implicit_adams", options={"step_size": 0.1}),
]
if find_spec("torchode") is not None:
    LIBRARIES.append(lambda steps: pr.TorchODE("tsit5", rtol=1e-4, atol=1e-6, max_steps=50))


@st.composite
def problems(draw: st.DrawFn) -> tuple[pr.ODE, Tensor]:
    """Stiff and not, of which bad iterates are far from anything that Newton's method can begin with."""
    rate, size = draw(st.sampled_from((200.0, 20.0, 1.0))), draw(st.sampled_from((3.0, 1.0, 0.2)))
    cubic = draw(st.booleans())

    def f(t: Tensor, u: Tensor) -> Tensor:
        inner = -rate * u**3 if cubic else -rate * (u - torch.sin(u.flip(-1)) / (1 + u * u))
        return inner + rate * torch.cos(3 * t)

    return pr.ODE(f), size * torch.tensor([1.0, -0.5], dtype=torch.float64)


@st.composite
def runs(draw: st.DrawFn, methods: Any) -> dict[str, Any]:
    slices, steps = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    problem, u0 = draw(problems())
    length = draw(st.sampled_from((6.0, 1.0, 0.1)))
    fine = draw(st.sampled_from(methods))(draw(st.sampled_from((None, 1, 2))))
    implicit_coarse = st.sampled_from(IMPLICIT).map(lambda make: pr.Coarse(make(1)))
    return {
        "problem": problem,
        "u0": u0,
        "grid": pr.TimeGrid.uniform(0.0, length, slices=slices, steps=steps),
        "fine": fine,
        "coarse": draw(own.corrections() | implicit_coarse | st.just(pr.Identity())),
        "schedule": draw(st.just(pr.Wavefront()) | st.builds(pr.Windowed, st.integers(1, slices))),
        "stop": draw(st.sampled_from((pr.Iterations(1), pr.Iterations(slices), pr.Tolerance(0.0, 1e-300)))),
        "executor": draw(st.sampled_from((pr.Serial(), pr.Batched()))),
    }


def check(run: dict[str, Any], samples: bool = False) -> None:
    named = {key: run[key] for key in ("problem", "u0", "grid", "fine", "executor")}
    ref = pr.serial(**named, samples=samples)
    sol = pr.solve(**run, throw=False, samples=samples)
    assert sol.stats.rounds <= ref.stats.rounds
    if sol.status in (pr.Status.FINAL, pr.Status.UNSOLVED, pr.Status.NONFINITE) and run["executor"] == pr.Serial():
        assert torch.equal(sol.us.nan_to_num(nan=7.0), ref.us.nan_to_num(nan=7.0))


@given(runs(IMPLICIT))
def test_implicit_methods(run: dict[str, Any]) -> None:
    check(run)


@given(runs(OTHERS))
def test_other_methods(run: dict[str, Any]) -> None:
    check(run)


@settings(max_examples=10)
@given(runs(LIBRARIES))
def test_methods_of_other_libraries(run: dict[str, Any]) -> None:
    check(run)


@given(runs((*IMPLICIT, *OTHERS[:2])))
def test_samples_wait_for_each_other_no_longer_than_in_the_sequential_run(run: dict[str, Any]) -> None:
    check({**run, "u0": torch.stack([run["u0"], 0.3 * run["u0"].flip(0), 2 * run["u0"]])}, samples=True)
