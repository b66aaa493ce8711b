"""No run takes more rounds than the sequential one, also where the number of calls of a step is not known beforehand.

Then lanes from bad iterates may take long, or for ever: the lane from a final state must not wait for them.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from varying import Varying

import parareal as pr
from parareal.engine._lanes import ActiveLanes
from parareal.engine._rounds import Counters, play_round
from parareal.grid._mesh import Mesh

CROUZEIX = pr.ButcherTableau(a=((0.5, 0.0), (0.0, 0.5)), b=(0.5, 0.5), order=1)


@dataclass(frozen=True)
class Uneven(Varying):
    """Euler with as many calls more as the state is large."""

    steps: int | None = None

    def more(self, u: Any) -> int:
        return calls(u) - 1


def calls(u: Any) -> int:
    """What a step takes on lanes that share it: as long as the slowest."""
    size = own.size(u)
    return 1 + (round(size) % 7 if size < 100 else 9)


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
        return own.after(u, t1 - t0, slope)


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
    lambda steps: pr.TorchDiffEq("dopri5", rtol=1e-4, atol=1e-6, options={"max_num_steps": 20}),
    lambda steps: pr.TorchDiffEq("bosh3", rtol=1e-4, atol=1e-6, options={"max_num_steps": 20}, together=True),
    lambda steps: pr.TorchDiffEq("explicit_adams", options={"step_size": 0.25}),
]
if find_spec("torchode") is not None:
    LIBRARIES.append(lambda steps: pr.TorchODE("tsit5", rtol=1e-4, atol=1e-6, max_steps=20))


@st.composite
def problems(draw: st.DrawFn, stiff: bool) -> tuple[pr.ODE, Tensor]:
    """Stiff and not, of which bad iterates are far from anything that Newton's method can begin with."""
    rate, size = (
        draw(st.sampled_from((200.0, 20.0, 1.0) if stiff else (2.0, 0.5))),
        draw(st.sampled_from((3.0, 1.0, 0.2) if stiff else (1.0, 0.2))),
    )
    cubic = draw(st.booleans())

    def f(t: Tensor, u: Tensor) -> Tensor:
        inner = -rate * u**3 if cubic else -rate * (u - torch.sin(u.flip(-1)) / (1 + u * u))
        return inner + rate * torch.cos(3 * t)

    return pr.ODE(f), size * torch.tensor([1.0, -0.5], dtype=torch.float64)


@st.composite
def runs(draw: st.DrawFn, methods: Any, stiff: bool = True) -> dict[str, Any]:
    slices, steps = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    problem, u0 = draw(problems(stiff))
    length = draw(st.sampled_from((6.0, 1.0, 0.1))) if stiff else 1.0
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
    if sol.status is pr.Status.FINAL and run["executor"] == pr.Serial():
        assert torch.equal(sol.us, ref.us)


def share(part: int) -> settings:
    """So many times fewer examples than the profile has: these runs are long."""
    return settings(max_examples=max(1, settings().max_examples // part))


@share(3)
@given(runs(IMPLICIT))
def test_implicit_methods(run: dict[str, Any]) -> None:
    check(run)


@share(2)
@given(runs(OTHERS))
def test_other_methods(run: dict[str, Any]) -> None:
    check(run)


@share(3)
@given(runs(LIBRARIES, stiff=False))
def test_methods_of_other_libraries(run: dict[str, Any]) -> None:
    check(run)


@share(5)
@given(runs((*IMPLICIT, *OTHERS[:2])))
def test_samples_wait_for_each_other_no_longer_than_in_the_sequential_run(run: dict[str, Any]) -> None:
    check({**run, "u0": torch.stack([run["u0"], 0.3 * run["u0"].flip(0), 2 * run["u0"]])}, samples=True)


@pytest.mark.parametrize("krylov", [False, True])
def test_lanes_that_diverge_hold_up_none_that_is_final(krylov: bool) -> None:
    """From a first guess of 3 Newton's method takes its 20 iterations on most slices, and fails."""
    problem = pr.ODE(lambda t, u: -200 * u**3 + 200 * torch.cos(3 * t))
    u0, grid = torch.tensor([3.0], dtype=torch.float64), pr.TimeGrid.uniform(0.0, 6.0, slices=6, steps=2)
    fine = pr.ImplicitEuler(krylov=krylov)
    ref = pr.serial(problem, u0, grid, fine=fine)
    sol = pr.solve(problem, u0, grid, fine=fine, coarse=pr.Identity(), schedule=pr.Wavefront(), stop=pr.Iterations(6))
    assert sol.stats.rounds == ref.stats.rounds
    assert sol.stats.evaluations > 2 * ref.stats.evaluations  # the others did go astray
    assert torch.equal(sol.us, ref.us)


def test_a_call_that_takes_several_rounds_is_waited_for_by_its_own_lanes() -> None:
    """Slices start at 4, 3, 2 and 1 from the first guess on: whatever comes of 4 takes longest."""
    problem = pr.ODE(lambda t, u: -u)
    u0, grid = torch.tensor([4.0], dtype=torch.float64), pr.TimeGrid.uniform(0.0, 4.0, slices=4)
    options: dict[str, Any] = {"fine": InOne(), "coarse": pr.Identity(), "stop": pr.Iterations(4)}
    sol = pr.solve(problem, u0, grid, schedule=pr.Barrier(), keep="all", **options)
    ref = pr.serial(problem, u0, grid, fine=InOne())
    assert ref.stats.rounds == 5 + 1 + 1 + 1  # Euler with steps of 1: zero after the first
    final = pr.solve(problem, u0, grid, schedule=pr.Wavefront(), **options)
    assert final.stats.rounds == ref.stats.rounds < sol.stats.rounds
    assert sol.iterates is not None
    spans = sol.iterates.lanes[:, 1] - sol.iterates.lanes[:, 0]
    assert spans.tolist()[:4] == [5, 5, 5, 5]


def active_lanes(u: Tensor) -> tuple[ActiveLanes, Counters]:
    grid = pr.TimeGrid.uniform(0.0, 2.0, slices=2, steps=2)
    fine = Uneven()
    lanes = ActiveLanes(pr.ODE(lambda t, u: 0 * u), fine, Mesh.build(grid, None, u.device), places=2)
    lanes.launch(np.array([0, 1]), np.array([0, 1]), u, None)
    return lanes, Counters()


def test_a_lane_that_turns_out_to_be_final_begins_its_step_anew() -> None:
    """Beside one of 7 calls a step, one of 3 that turns out to be final after 2 rounds goes on by itself."""
    lanes, counters = active_lanes(torch.tensor([[2.0], [6.0]], dtype=torch.float64))
    arrived: dict[int, int] = {}
    lanes.final = lambda ids: np.zeros(len(ids), dtype=bool)
    while len(arrived) < 2:
        if counters.rounds == 2:
            lanes.final = lambda ids: ids == 0
            lanes.hasten()
            lanes.hasten()  # once is enough
        assert play_round([lanes], pr.Batched(), counters)
        for ids, u in lanes.take_arrived(lanes.final):
            arrived |= dict.fromkeys(ids.tolist(), counters.rounds)
            assert u[:, 0].tolist() == [2.0 + 4 * i for i in ids.tolist()]
    assert arrived == {0: 2 + 3 + 3, 1: 7 + 7}
    assert not play_round([lanes], pr.Batched(), counters)


def test_of_two_groups_the_first_one_through_counts() -> None:
    """Where the others are nearly done, there is nothing to be gained by leaving them."""
    lanes, counters = active_lanes(torch.tensor([[2.0], [3.0]], dtype=torch.float64))
    lanes.final = lambda ids: np.zeros(len(ids), dtype=bool)
    arrived: dict[int, int] = {}
    while len(arrived) < 2:
        if counters.rounds == 3:
            lanes.final = lambda ids: ids == 0
            lanes.hasten()
        assert play_round([lanes], pr.Batched(), counters)
        arrived |= {int(i): counters.rounds for ids, _ in lanes.take_arrived(lanes.final) for i in ids}
    assert arrived == {0: 4 + 3, 1: 4 + 4}
    assert not play_round([lanes], pr.Batched(), counters)
