"""`plan`: what will pay off here, found out by trials that end as soon as they cannot win."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from parareal import _tree
from parareal._check import as_lanes, check_instance, check_state
from parareal._correction import Correction
from parareal._costs import Hopeless, Recording, RoundTimes, first_call, state_bytes, table, time_rounds
from parareal._executor import Batched, Executor
from parareal._grid import TimeGrid
from parareal._problem import Problem
from parareal._schedule import Schedule
from parareal._solution import Solution
from parareal._solve import serial, solve
from parareal._stop import StoppingRule, Tolerance
from parareal._tree import State
from parareal._ways import lanes_of, name_of, points_of, ways_to_solve
from parareal.integrators import Integrator

WORTH = 0.95
"""Of the serial time: what takes longer than that is not recommended, since no measurement is more certain."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A way to solve, and what a trial says of it.

    Attributes:
        name: How the table calls it.
        settings: Arguments of `solve`: ``grid``, ``coarse``, ``schedule``.
        seconds: Predicted wall time, or where the trial was ended, what it had taken by then at least.
        rounds: Rounds, as far as the trial went.
        evaluations: Evaluations, likewise.
        iterations: Iterations, likewise; of samples the most.
        max_lanes: Lanes of the widest round.
        memory: Bytes of the states that the engine holds at a time; what the right-hand side needs comes on top.
        finished: Whether the trial went to its end.
        note: Why it did not, if it did not.
    """

    name: str
    settings: dict[str, Any]
    seconds: float
    rounds: int
    evaluations: int
    iterations: int
    max_lanes: int
    memory: int
    finished: bool
    note: str = ""


@dataclass(frozen=True, eq=False)
class Plan:
    """What `plan` found out. It prints as a table.

    Attributes:
        candidates: All that was tried, the quickest first.
        serial_seconds: Predicted wall time of `serial`.
        serial_rounds: Its rounds.
        round_times: Seconds of a round against its lanes.
        best: The quickest candidate, where it beats the serial run; else ``None``.
        reason: The recommendation in a sentence, with why.
        cost: Seconds that planning took.
    """

    candidates: tuple[Candidate, ...]
    serial_seconds: float
    serial_rounds: int
    round_times: RoundTimes
    best: Candidate | None
    reason: str
    cost: float

    @property
    def speedup(self) -> float:
        """Serial time over the recommended candidate's, and 1 where none is recommended."""
        return 1.0 if self.best is None else self.serial_seconds / self.best.seconds

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of `solve` that are recommended.

        Raises:
            ValueError: Nothing beats the serial run.
        """
        if self.best is None:
            raise ValueError(f"nothing is recommended: {self.reason}")
        return dict(self.best.settings)

    def __str__(self) -> str:
        times = ", ".join(
            f"{lanes}: {_time(seconds)}"
            for lanes, seconds in zip(self.round_times.lanes, self.round_times.seconds, strict=True)
        )
        failed = "".join(f"\nA round of {lanes} lanes fails: {said}" for lanes, said in self.round_times.failed.items())
        serial_row = ["serial", _time(self.serial_seconds), "1.00", str(self.serial_rounds), str(self.serial_rounds)]
        rows = [[*serial_row, "", "1", ""]]
        for one in self.candidates:
            sign = "" if one.finished else "> "
            rows.append(
                [
                    one.name,
                    sign + _time(one.seconds),
                    f"{self.serial_seconds / one.seconds:.2f}" if one.finished else "",
                    str(one.rounds),
                    str(one.evaluations),
                    str(one.iterations),
                    str(one.max_lanes),
                    one.note,
                ]
            )
        header = ["candidate", "time", "speed-up", "rounds", "evaluations", "iterations", "lanes", ""]
        return f"A round takes, by lanes: {times}{failed}\n\n{table(header, rows)}\n\n{self.reason}"


def plan(
    problem: Problem,
    u0: State,
    grid: TimeGrid | tuple[float, float, int],
    *,
    fine: Integrator,
    coarse: Integrator | Correction | Sequence[Integrator | Correction] | None = None,
    slices: Sequence[int] | None = None,
    schedules: Sequence[Schedule] | None = None,
    stop: StoppingRule | None = None,
    executor: Executor | None = None,
    samples: bool = False,
    budget: float = 60.0,
) -> Plan:
    """Finds out what solves a problem soonest on this device, or that nothing beats the serial run.

    The time of a round is measured against its lanes; then candidates are tried, and a trial is ended as soon as it has
    taken longer than the serial run or the best candidate. So planning costs a few times what it finds, and pays where
    many problems of a kind are to be solved. Problems of a kind take about as many iterations.

    Args:
        problem: The equation.
        u0: State at the start.
        grid: A grid, whose fine points are kept and cut into slices in different ways; or ``(t0, t1, steps)``.
        fine: The propagator whose solution is wanted.
        coarse: What to try as coarse propagator or `Correction`; ``None`` for Euler with a step a slice and for a
            secant on Picard iteration.
        slices: Numbers of slices to try; ``None`` for a few powers of two about the square root of the steps, and for
            corrections without a propagator one slice a step.
        schedules: ``None`` for `Wavefront`, and for many slices `Windowed` in some widths.
        stop: The rule that solutions are held to; as in `solve`.
        executor: As in `solve`.
        samples: As in `solve`.
        budget: Seconds after which no further candidate is tried.

    Returns:
        A `Plan`.

    Raises:
        TypeError, ValueError: An argument is not what it should be, or leaves no candidate.
        Exception: Whatever the right-hand side raises on a single lane. What it raises on more of them, out of memory
            for instance, is reported, and such numbers of lanes are left out.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: -u)
        >>> found = pr.plan(problem, torch.ones(4), (0.0, 1.0, 32), fine=pr.RK4(), slices=[4], budget=5.0)
        >>> found.serial_rounds
        128
    """
    begun = time.perf_counter()
    check_instance(problem, Problem, "problem", "pr.ODE(lambda t, u: -u)")
    check_instance(fine, Integrator, "fine", "pr.RK4()")
    count = check_state(u0, samples)
    points = points_of(grid)
    own = points if isinstance(grid, tuple) else grid
    stop = Tolerance() if stop is None else stop
    systems = as_lanes(u0, count if samples else None)
    device = _tree.leaves(u0)[0].device
    ways = ways_to_solve(points, own, fine, coarse, slices, schedules)
    data = problem.rows(count if samples else None, device)
    rows = None if data is None else as_lanes(data, count if samples else None)
    most = max(lanes_of(cut, schedule) for cut, _, schedule in ways) * (count if samples else 1)
    times = time_rounds(first_call(problem, fine, own, systems, rows), most, device)

    def run_serial(recording: Executor, part: TimeGrid) -> Solution:
        return serial(problem, u0, part, fine=fine, samples=samples, executor=recording)

    seconds, rounds = _serial(run_serial, own, device, executor)
    tried: list[Candidate] = []
    for cut, correction, schedule in ways:
        name = f"{name_of(correction)}, {cut.num_slices} slices, {name_of(schedule)}"
        settings = {"grid": cut, "coarse": correction, "schedule": schedule}
        lanes = lanes_of(cut, schedule) * (count if samples else 1)
        memory = (cut.num_slices + 1 + 8 * lanes_of(cut, schedule)) * state_bytes(u0)
        if times.most is not None and lanes > times.most:
            tried.append(_untried(name, settings, memory, lanes, f"rounds of {lanes} lanes fail"))
            continue
        if time.perf_counter() - begun > budget:
            tried.append(_untried(name, settings, memory, lanes, "not tried: the budget is spent"))
            continue

        def run(recording: Executor, given: dict[str, Any] = settings) -> Solution:
            return solve(problem, u0, fine=fine, stop=stop, samples=samples, throw=False, executor=recording, **given)

        limit = min([seconds, *(one.seconds for one in tried if one.finished)])
        candidate = trial(run, name, settings, memory, limit, times, device, executor)
        if candidate.finished and candidate.seconds < 1.2 * limit:  # what may win is looked at twice
            second = trial(run, name, settings, memory, limit, times, device, executor)
            candidate = second if second.finished and second.seconds < candidate.seconds else candidate
        tried.append(candidate)
    return conclude(tried, seconds, rounds, times, time.perf_counter() - begun)


def trial(
    run: Callable[[Executor], Solution],
    name: str,
    settings: dict[str, Any],
    memory: int,
    limit: float,
    times: RoundTimes,
    device: torch.device,
    inner: Executor | None = None,
) -> Candidate:
    """Runs a candidate up to a time at which it cannot win any more.

    Args:
        run: Solves with the executor that it is given.
        name: How to call it.
        settings: What is recommended if it wins.
        memory: Bytes of its states.
        limit: Seconds.
        times: What rounds take.
        device: What is waited for.
        inner: The executor behind the one that notes.
    """
    recording = Recording(device, 1.5 * limit + 0.02, inner or Batched())
    recording.started = time.perf_counter()
    note, finished, iterations = "", True, 0
    try:
        solution = run(recording)
        own = max(0.0, solution.stats.wall_time - sum(recording.seconds))
        iterations = int(torch.as_tensor(solution.iterations).max())
        if solution.status.failed:
            note, finished = solution.status.name.lower(), False
    except Hopeless:
        own = max(0.0, time.perf_counter() - recording.started - sum(recording.seconds))
        note, finished = "ended: slower than what is known", False
    except (RuntimeError, MemoryError) as error:
        own = 0.0
        note, finished = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:60], False
    # What calls took is taken from this run where it is less than what was measured on single calls, and the other way
    # round: both can only be too long.
    calls = sum(min(taken, times(lanes)) for taken, lanes in zip(recording.seconds, recording.lanes, strict=True))
    return Candidate(
        name,
        settings,
        max(calls + own, 1e-9),
        len(recording.lanes),
        sum(recording.lanes),
        iterations,
        max(recording.lanes, default=0),
        memory,
        finished,
        note,
    )


def conclude(tried: list[Candidate], seconds: float, rounds: int, times: RoundTimes, cost: float) -> Plan:
    """The plan that follows from some trials."""
    tried = sorted(tried, key=lambda one: (not one.finished, one.seconds))
    best = tried[0] if tried and tried[0].finished and tried[0].seconds < WORTH * seconds else None
    if best is not None:
        reason = (
            f"Recommended: {best.name}: {_time(best.seconds)} in place of {_time(seconds)}, "
            f"{seconds / best.seconds:.2f} times as fast."
        )
    else:
        reason = f"Nothing beats the serial run here ({_time(seconds)}): {_why(tried, times, rounds)}"
    return Plan(tuple(tried), seconds, rounds, times, best, reason, cost)


def _why(tried: list[Candidate], times: RoundTimes, rounds: int) -> str:
    wide = min(times.lanes[-1], 8)
    factor = times(wide) / times(1)
    if factor > wide / 2:
        return (
            f"a round of {wide} lanes takes {factor:.1f} times as long as one of a single lane, so that lanes do not "
            "run side by side on this device."
        )
    finished = [one for one in tried if one.finished]
    if finished and finished[0].rounds >= rounds / 2:
        return (
            f"the best candidate takes {finished[0].rounds} rounds and the serial run {rounds}: the correction does "
            "not converge quickly enough."
        )
    if times(1) < 1e-3:
        return (
            f"an evaluation takes {_time(times(1))}, less than what the engine itself needs in a round; larger systems "
            "or costlier right-hand sides gain more."
        )
    return "no candidate needs so few rounds that it makes up for their lanes."


def _serial(
    run: Callable[[Executor, TimeGrid], Solution], grid: TimeGrid, device: torch.device, inner: Executor | None
) -> tuple[float, int]:
    """Seconds and rounds of the serial run, from a first part of it that takes about a tenth of a second."""
    one = TimeGrid.from_edges(grid.points) if grid.num_slices == 1 else grid
    part, best = 1, (float("inf"), 0)
    while True:
        part = min(part, one.num_slices)
        cut = TimeGrid(one.points[: one.bounds[part] + 1], one.bounds[: part + 1])
        recording = Recording(device, float("inf"), inner or Batched())
        begun = time.perf_counter()
        solution = run(recording, cut)
        taken = time.perf_counter() - begun
        share = one.num_steps / cut.num_steps
        best = (taken * share, round(solution.stats.rounds * share))
        if part == one.num_slices or taken > 0.1:
            return best
        part *= 2


def _untried(name: str, settings: dict[str, Any], memory: int, lanes: int, note: str) -> Candidate:
    return Candidate(name, settings, float("inf"), 0, 0, 0, lanes, memory, False, note)


def _time(seconds: float) -> str:
    if seconds == float("inf"):
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
