"""`plan` recommends what is quickest, or says that nothing is."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

import parareal as pr
from parareal.planning._cost_model import RoundTimes, time_rounds

pytestmark = pytest.mark.usefixtures("ticking")


def decay(t: Tensor, u: Tensor) -> Tensor:
    return -u


def wait(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def waiting(seconds_a_call: float = 0.0, seconds_a_lane: float = 0.0) -> pr.ODE:
    """A right-hand side that takes so long."""

    def f(t: Tensor, u: Tensor) -> Tensor:
        wait(seconds_a_call + len(t) * seconds_a_lane)
        return -u

    return pr.ODE(f, batching="native")


def test_rounds_that_cost_the_same_on_any_number_of_lanes_pay() -> None:
    problem, u0 = waiting(seconds_a_call=1e-3), torch.ones(4, dtype=torch.float64)
    found = pr.plan(problem, u0, (0.0, 1.0, 64), fine=pr.Euler())
    assert found.best is not None
    assert found.speedup > 2.0
    assert "times as fast" in found.reason
    assert found.round_times(64) < 3 * found.round_times(1)
    assert found.serial_rounds == 64
    begun = time.perf_counter()
    sol = pr.solve(problem, u0, fine=pr.Euler(), **found.settings)
    measured = time.perf_counter() - begun
    assert sol.converged
    assert sol.stats.rounds == found.best.rounds
    assert found.best.seconds == pytest.approx(measured, rel=0.1)
    assert measured < found.serial_seconds


def test_rounds_that_cost_as_many_times_as_there_are_lanes_do_not() -> None:
    found = pr.plan(waiting(seconds_a_lane=5e-4), torch.ones(4), (0.0, 1.0, 32), fine=pr.Euler())
    assert found.best is None
    assert found.speedup == 1.0
    assert "do not run side by side" in found.reason
    with pytest.raises(ValueError, match=r"nothing is recommended: Nothing beats the serial run"):
        _ = found.settings
    assert all(not one.finished or one.seconds >= 0.9 * found.serial_seconds for one in found.candidates)


def test_trials_that_cannot_win_are_ended() -> None:
    calls = 0

    def f(t: Tensor, u: Tensor) -> Tensor:
        nonlocal calls
        calls += len(t)
        wait(2e-4 * len(t))
        return torch.cos(40 * u)

    problem = pr.ODE(f, batching="native")
    coarse = [pr.Identity(), pr.Euler()]
    found = pr.plan(problem, torch.ones(2), (0.0, 30.0, 200), fine=pr.Euler(), coarse=coarse, slices=[10, 20])
    ended = [one for one in found.candidates if "slower" in one.note]
    assert ended
    assert all(one.seconds >= found.serial_seconds for one in ended)
    assert str(found).count("> ") == len(ended)


def test_the_report_is_a_table_of_all_candidates() -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=8)
    found = pr.plan(pr.ODE(decay), torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler(), slices=[2, 4, 8])
    text = str(found)
    assert {one.settings["grid"].num_slices for one in found.candidates} == {2, 4, 8}
    for one in found.candidates:
        assert one.name in text
        assert torch.equal(one.settings["grid"].points, grid.points)
        assert one.memory > 0
        assert f"{one.memory} B" in text
    assert found.reason in text
    assert "speed-up" in text
    assert found.cost > 0


def test_a_fine_propagator_with_steps_of_its_own_keeps_its_slices() -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=6)
    found = pr.plan(pr.ODE(decay), torch.ones(3), grid, fine=pr.RK4(steps=5), slices=[2, 3])
    assert {one.settings["grid"].num_slices for one in found.candidates} == {6}


class Full(torch.OutOfMemoryError):
    """Said by a device."""


@pytest.mark.parametrize("kind", [Full, MemoryError, ValueError])
def test_numbers_of_lanes_that_fail_are_reported_and_left_out(kind: type[Exception]) -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        if len(t) > 8:
            raise kind("no room for so many")
        return -u

    problem = pr.ODE(f, batching="native")
    schedules = [pr.Wavefront(), pr.Windowed(8)]
    found = pr.plan(
        problem,
        torch.ones(3),
        (0.0, 1.0, 32),
        fine=pr.Euler(),
        coarse=pr.Identity(),
        slices=[8, 32],
        schedules=schedules,
    )
    assert found.round_times.lanes == (1, 2, 4, 8)
    assert list(found.round_times.failed) == [16]
    left_out = [one for one in found.candidates if one.note == "rounds of 32 lanes fail"]
    assert len(left_out) == 1
    assert not left_out[0].finished
    assert "A round of 16 lanes fails" in str(found)
    assert "no room for so many" in str(found)


@pytest.mark.parametrize("kind", [Full, MemoryError, ValueError])
def test_what_fails_only_in_a_trial_is_reported(kind: type[Exception]) -> None:
    """Under `Wavefront` coarse lanes come on top of as many fine ones as were timed."""

    def f(t: Tensor, u: Tensor) -> Tensor:
        wait(1e-3)
        if len(t) > 8:
            raise kind("no room")
        return -u

    schedules = [pr.Wavefront()]
    found = pr.plan(
        pr.ODE(f, batching="native"),
        torch.ones(3),
        (0.0, 1.0, 64),
        fine=pr.RK4(),
        coarse=pr.RK4(),
        slices=[8, 4],
        schedules=schedules,
    )
    assert not found.round_times.failed
    notes = {one.settings["grid"].num_slices: one.note for one in found.candidates}
    assert notes == {8: f"{kind.__name__}: no room", 4: ""}
    with pytest.raises(ValueError, match="is for a Semilinear"):  # an argument that does not fit is no such thing
        pr.plan(pr.ODE(f, batching="native"), torch.ones(3), (0.0, 1.0, 8), fine=pr.RK4(), coarse=pr.ETDRK2())


def test_where_every_width_fails_that_is_the_reason() -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        if len(t) > 1:
            raise Full("no room")
        return -u

    problem = pr.ODE(f, batching="native")
    found = pr.plan(problem, torch.ones(3), (0.0, 1.0, 16), fine=pr.Euler(), coarse=pr.Identity(), slices=[4])
    assert found.best is None
    assert found.reason == "Nothing is recommended, since no candidate was tried to its end: rounds of 4 lanes fail."
    assert found.serial_rounds == 16
    in_chunks = pr.plan(
        problem,
        torch.ones(3),
        (0.0, 1.0, 16),
        fine=pr.Euler(),
        coarse=pr.Identity(),
        slices=[4],
        executor=pr.Batched(max_lanes=1),
    )
    assert in_chunks.round_times.lanes == (1, 2, 4)
    assert in_chunks.candidates[0].max_lanes == 4


def test_rounds_are_timed_as_the_executor_makes_them() -> None:
    problem = waiting(seconds_a_call=1e-3)
    for executor, calls in ((pr.Serial(), 16), (pr.Batched(max_lanes=4), 4), (pr.Batched(devices=["cpu", "cpu"]), 0)):
        found = pr.plan(
            problem,
            torch.ones(3),
            (0.0, 1.0, 16),
            fine=pr.Euler(),
            coarse=pr.Identity(),
            slices=[16],
            executor=executor,
            budget=0.0,
        )
        assert found.round_times(16) >= 1e-3 * calls


@pytest.mark.parametrize(
    ("f", "fine", "sentence"),
    [
        (lambda t, u: u * float("nan"), pr.RK4(), pr.Status.NONFINITE),
        (lambda t, u: u**3 * 1e4, pr.ImplicitEuler(), pr.Status.UNSOLVED),
    ],
)
def test_a_serial_run_that_fails_is_said_to(f: Any, fine: Any, sentence: pr.Status) -> None:
    u0 = torch.ones(3, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=1, steps=16)
    assert pr.serial(pr.ODE(f), u0, grid, fine=fine).status.failed
    found = pr.plan(pr.ODE(f), u0, grid, fine=fine, coarse=pr.Identity(), slices=[4])
    assert found.best is None
    assert found.reason == f"Nothing is recommended: {sentence.value}"


def test_a_second_lane_that_costs_something_once_is_no_reason() -> None:
    """As with vmap, which a single lane goes without."""

    def f(t: Tensor, u: Tensor) -> Tensor:
        wait(1e-4 if len(t) == 1 else 6e-4)
        return -u

    found = pr.plan(pr.ODE(f, batching="native"), torch.ones(2), (0.0, 1.0, 32), fine=pr.Euler(), slices=[8])
    assert found.best is None
    assert "side by side" not in found.reason


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_grids_of_few_steps(steps: int) -> None:
    found = pr.plan(pr.ODE(decay), torch.ones(2), (1.0, 0.0, steps), fine=pr.Euler())
    assert found.serial_rounds == steps
    assert all(one.settings["grid"].num_slices <= steps for one in found.candidates)


@pytest.mark.parametrize(
    ("coarse", "schedule"), [(pr.Secant(pr.Jacobian()), pr.Wavefront()), (pr.Identity(), pr.Windowed(2))]
)
def test_what_cannot_be_laid_out_is_not_predicted(coarse: pr.Correction, schedule: pr.Schedule) -> None:
    found = pr.plan(
        pr.ODE(decay),
        torch.ones(2),
        (0.0, 1.0, 16),
        fine=pr.RK4(),
        coarse=coarse,
        slices=[4],
        schedules=[schedule],
        workers=4,
    )
    assert [one.on_workers for one in found.candidates] == [None]
    assert found.best is None
    assert "on 4 devices cannot be predicted" in found.reason


def test_what_fails_on_a_single_lane_is_the_callers() -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        raise RuntimeError("no such luck")

    with pytest.raises(RuntimeError, match="no such luck"):
        pr.plan(pr.ODE(f), torch.ones(3), (0.0, 1.0, 8), fine=pr.Euler())


def test_samples_and_their_data() -> None:
    rates = torch.tensor([0.5, 1.0, 2.0])
    problem = pr.ODE(lambda t, u, rows: -rows[:, None] * u, batching="fold", per_sample=rates)
    found = pr.plan(problem, torch.ones(3, 2), (0.0, 1.0, 16), fine=pr.Heun(), samples=True, slices=[4])
    assert found.round_times.lanes[-1] == 12
    assert max(one.max_lanes for one in found.candidates) <= 24


@pytest.mark.parametrize(
    "fine",
    [pr.DEIS(3), pr.ImplicitEuler(), pr.EulerMaruyama(), pr.Propagator(lambda t0, t1, u: u * torch.exp(t0 - t1))],
)
def test_methods_of_every_kind(fine: Any) -> None:
    if isinstance(fine, pr.DEIS):
        problem: pr.Problem = pr.SemilinearODE(torch.tensor(-1.0), lambda t, u: torch.sin(u))
    elif isinstance(fine, pr.EulerMaruyama):
        problem = pr.SDE(decay, lambda t, u: 0.1 * torch.ones_like(u), noise="additive")
    else:
        problem = pr.ODE(decay)
    found = pr.plan(problem, torch.ones(2), (0.0, 1.0, 12), fine=fine, coarse=pr.Identity(), slices=[3])
    assert found.candidates
    assert found.serial_seconds > 0


def test_on_many_devices_what_does_not_pay_here_may() -> None:
    """Lanes that cost as much each as a single one: nothing to be had on one device, and much on 16."""
    problem, u0 = waiting(seconds_a_lane=3e-4), torch.ones(4, dtype=torch.float64)
    given: dict[str, Any] = {"fine": pr.Euler(), "coarse": [pr.Euler()], "slices": [16], "schedules": [pr.Wavefront()]}
    here, there = (pr.plan(problem, u0, (0.0, 1.0, 160), **given, workers=p) for p in (None, 16))
    assert here.best is None
    assert there.best is not None
    assert there.workers == 16
    assert "on 16 devices" in str(there)
    k = there.best.iterations
    evaluation = there.serial_seconds / there.serial_rounds
    alone = pr.theory.makespan(pr.Wavefront(), 16, k, fine=10 * evaluation, coarse=evaluation, workers=16)
    assert there.best.on_workers == pytest.approx(alone)
    assert there.speedup == pytest.approx(pr.theory.speedup(pr.Wavefront(), 16, k, 0.1, workers=16))
    assert there.best.on_workers is not None
    assert there.speedup == there.serial_seconds / there.best.on_workers > 1.5
    one = pr.plan(problem, u0, (0.0, 1.0, 160), **given, workers=1)
    assert one.best is None  # a single one gains nothing


def test_thousands_of_devices_are_laid_out_in_seconds() -> None:
    begun = time.process_time()
    found = pr.plan(
        pr.ODE(decay),
        torch.ones(2),
        (0.0, 1.0, 4096),
        fine=pr.Euler(),
        coarse=[pr.Identity()],
        slices=[2048],
        schedules=[pr.Barrier()],
        workers=4096,
    )
    assert found.candidates[0].on_workers is not None
    assert time.process_time() - begun < 20.0


def test_the_budget_ends_the_search() -> None:
    found = pr.plan(waiting(1e-3), torch.ones(2), (0.0, 1.0, 32), fine=pr.Euler(), budget=0.0)
    assert all("budget" in one.note for one in found.candidates)
    assert found.best is None


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"grid": 3}, TypeError, "grid is 3"),
        ({"grid": (0.0, 1.0, 0)}, ValueError, "steps of the span=0"),
        ({"coarse": 3}, TypeError, "coarse is an int"),
        ({"workers": 0}, ValueError, "workers=0"),
        ({"coarse": [3]}, TypeError, "coarse is an int"),
        ({"slices": [40]}, ValueError, "no candidate"),
        ({"coarse": []}, ValueError, "no candidate"),
        ({"slices": [0]}, ValueError, "slices=0"),
        ({"slices": []}, ValueError, r"no candidate: .* slices=\[\]"),
        ({"schedules": []}, ValueError, r"no candidate: .* schedules=\[\]"),
        ({"slices": [4], "schedules": [pr.Windowed(8)]}, ValueError, "no candidate"),
        ({"slices": 4}, TypeError, "slices is an int; expected a list"),
        ({"schedules": pr.Wavefront()}, TypeError, "schedules is a Wavefront; expected a list"),
        ({"schedules": [pr.RankPipeline()]}, ValueError, "one process plans"),
        ({"executor": pr.Distributed()}, ValueError, "one process plans"),
        ({"executor": "batched"}, TypeError, "executor is a str"),
        ({"budget": "long"}, TypeError, "budget is a str"),
        ({"budget": float("nan")}, ValueError, "budget=nan"),
        ({"grid": ("now", 1.0, 8)}, TypeError, "t0 is 'now'"),
        ({"schedules": ["barrier"]}, TypeError, "schedules is a str"),
        ({"fine": "rk4"}, TypeError, "fine is a str"),
        ({"problem": decay}, TypeError, "problem is a function"),
    ],
)
def test_bad_input(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"problem": pr.ODE(decay), "grid": (0.0, 1.0, 8), "fine": pr.Euler(), **arguments}
    with pytest.raises(kind, match=message):
        pr.plan(given.pop("problem"), torch.ones(2), given.pop("grid"), **given)


def test_round_times_lie_on_lines() -> None:
    times = RoundTimes((1, 2, 4), (1.0, 1.0, 3.0))
    assert [times(n) for n in (1, 2, 3, 4, 6)] == [1.0, 1.0, 2.0, 3.0, 5.0]
    assert RoundTimes((1,), (2.0,))(3) == 6.0
    assert RoundTimes((1, 2), (3.0, 2.0))(8) == 2.0  # not below what was measured


def test_time_rounds_measures_the_call() -> None:
    def call(lanes: int) -> Any:
        return lambda: wait(1e-3 * lanes)

    times = time_rounds(call, 5, torch.device("cpu"))
    assert times.lanes == (1, 2, 4, 5)
    assert all(1e-3 * n <= s for n, s in zip(times.lanes, times.seconds, strict=True))
    assert times.most is None
