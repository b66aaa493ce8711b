"""`plan`: the fastest way to solve on this device, measured by trials that end as soon as they cannot win."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from parareal._core import trees
from parareal._core.checks import check_count, check_instance
from parareal._core.keywords import explain_keywords
from parareal._core.trees import State
from parareal._input_checks import as_lanes, check_state
from parareal._inputs import Inputs
from parareal._solve import serial, solve
from parareal._start import StartGuess, first_iterates
from parareal.corrections._base import Correction
from parareal.corrections._traits import CorrectionTraits
from parareal.distributed._lane_parallel import Distributed
from parareal.distributed._rank_pipeline import RankPipeline
from parareal.executors._base import Executor
from parareal.executors._local import Batched
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import Integrator
from parareal.planning._candidates import check_budget, lanes_of, name_of, points_of, ways_to_solve
from parareal.planning._cost_model import RoundTimes, first_call, state_bytes, table, time_rounds
from parareal.planning._lyapunov import Lyapunov, of_run
from parareal.planning._trials import SLOW, Candidate, Trial, serial_time, shown, shown_bytes, time_of, try_out
from parareal.problem._ode import Problem
from parareal.results._solution import Solution
from parareal.results._status import Status
from parareal.schedules._schedule import Barrier, Schedule, Wavefront
from parareal.stopping._rules import StoppingRule
from parareal.stopping._tolerance import Tolerance
from parareal.theory._makespan import makespan

WORTH = 0.95
"""Part of the serial time: a slower candidate is not recommended, since measurements are no more certain. A choice."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The result of `plan`. It prints as a table.

    Attributes:
        candidates: All candidates tried, the quickest first.
        serial_seconds: Predicted wall time of `serial`.
        serial_rounds: Its rounds.
        round_times: Seconds of a round against its lanes.
        best: The quickest candidate, where it beats the serial run; else ``None``.
        reason: The recommendation in a sentence, with the reason.
        cost: Seconds that planning took.
        workers: The number of devices to predict for, if given.
        lyapunov: How fast neighbouring solutions part, measured beside; ``None`` where it was not.
    """

    candidates: tuple[Candidate, ...]
    serial_seconds: float
    serial_rounds: int
    round_times: RoundTimes
    best: Candidate | None
    reason: str
    cost: float
    workers: int | None = None
    lyapunov: Lyapunov | None = None

    @property
    def speedup(self) -> float:
        """Serial time over the time of the recommended candidate; 1 if none is recommended."""
        return 1.0 if self.best is None else self.serial_seconds / time_of(self.best, self.workers)

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
            f"{lanes}: {shown(seconds)}"
            for lanes, seconds in zip(self.round_times.lanes, self.round_times.seconds, strict=True)
        )
        failed = "".join(f"\nA round of {lanes} lanes fails: {said}" for lanes, said in self.round_times.failed.items())
        serial_row = ["serial", shown(self.serial_seconds), "1.00", str(self.serial_rounds), str(self.serial_rounds)]
        rows = [[*serial_row, "", "1", "", ""]]
        for one in self.candidates:
            sign = "" if one.finished or one.seconds == float("inf") else "> "
            rows.append(
                [
                    one.name,
                    sign + shown(one.seconds),
                    f"{self.serial_seconds / one.seconds:.2f}" if one.finished else "",
                    str(one.rounds),
                    str(one.evaluations),
                    str(one.iterations),
                    str(one.max_lanes),
                    shown_bytes(one.memory),
                    one.note,
                    *([] if self.workers is None else ["" if one.on_workers is None else shown(one.on_workers)]),
                ]
            )
        header = ["candidate", "time", "speed-up", "rounds", "evaluations", "iterations", "lanes", "memory", ""]
        if self.workers is not None:
            rows[0].append("")
            header.append(f"on {self.workers} devices")
        apart = "" if self.lyapunov is None else f"\n\n{self.lyapunov}"
        return f"A round takes, by lanes: {times}{failed}\n\n{table(header, rows)}\n\n{self.reason}{apart}"


@explain_keywords
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
    workers: int | None = None,
    budget: float = 60.0,
    start: StartGuess | None = None,
) -> Plan:
    """Measures what solves a problem fastest on this device, or that nothing beats the serial run.

    The time of a round is measured against its lanes; then candidates are tried, and a trial is ended as soon as it has
    taken longer than the serial run or the best candidate. So planning takes a few times as long as the solution it
    finds, and pays off if many similar problems are to be solved, which take about as many iterations.

    Args:
        problem: The equation.
        u0: State at the start.
        grid: A grid, whose fine points are kept and cut into slices in different ways; or ``(t0, t1, steps)``.
        fine: The propagator whose solution is wanted.
        coarse: Coarse propagators or corrections to try; ``None`` for Euler with a step a slice and for a
            secant on Picard iteration.
        slices: Numbers of slices to try; ``None`` for a few powers of two about the square root of the steps, and for
            corrections without a propagator one slice a step.
        schedules: ``None`` for `Wavefront`, and for many slices `Windowed` in some widths.
        stop: The stopping rule, as in `solve`.
        executor: As in `solve`, but of one process.
        samples: As in `solve`.
        workers: Predict for that many devices like this one, by laying out the solves in time
            (`parareal.theory.makespan`). Each takes one lane at a time, as fast as the serial run, and messages cost
            nothing. Trials then run to their end, since what is slow on one device may be fast on many. Neither
            `Windowed` nor methods whose evaluations vary are predicted.
        budget: Seconds after which no further candidate is tried.
        start: As in `solve`, where calls will have one: all trials start from it. States at the slice boundaries fit
            one number of slices; a `Solution` or a function fits all.

    Returns:
        A `Plan`.

    Raises:
        TypeError, ValueError: An argument is wrong, or leaves no candidate.
        Exception: What the right-hand side raises on a single lane, or in the serial run. What it raises on more
            lanes, such as out of memory, is reported, and such numbers of lanes are left out.

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
    if workers is not None:
        check_count(workers, "workers")
    check_budget(budget)
    executor = _of_one_process(executor)
    stop = Tolerance() if stop is None else stop
    systems = as_lanes(u0, count if samples else None)
    device = trees.leaves(u0)[0].device
    ways = ways_to_solve(points, own, fine, coarse, slices, schedules)
    if any(isinstance(schedule, RankPipeline) for _, _, schedule in ways):
        raise ValueError(
            "schedules has RankPipeline, and one process plans; expected pr.Wavefront(), and workers=P for P"
        )
    if start is not None:
        for cut in {cut.num_slices: cut for cut, _, _ in ways}.values():
            first_iterates(start, Inputs.checked(problem, u0, cut, fine, executor, samples))  # for its checks
    data = problem.rows(count if samples else None, device)
    rows = None if data is None else as_lanes(data, count if samples else None)
    most = max(lanes_of(cut, schedule) for cut, _, schedule in ways) * (count if samples else 1)
    with executor.joined() as joined:
        times = time_rounds(first_call(problem, fine, own, systems, rows, joined), most, device, joined)

    def run_serial(part: TimeGrid) -> Solution:
        return serial(problem, u0, part, fine=fine, samples=samples, executor=executor)

    seconds, rounds = serial_time(run_serial, own, device)

    def trial_of(cut: TimeGrid, correction: Correction, schedule: Schedule) -> Trial:
        settings: dict[str, Any] = {"grid": cut, "coarse": correction, "schedule": schedule}

        def run(recording: Executor) -> Solution:
            given: dict[str, Any] = {"stop": stop, "samples": samples, "start": start, **settings}
            return solve(problem, u0, fine=fine, throw=False, executor=recording, **given)

        name = f"{name_of(correction)}, {cut.num_slices} slices, {name_of(schedule)}"
        lanes = lanes_of(cut, schedule)
        memory = (cut.num_slices + 1 + 8 * lanes) * state_bytes(u0)
        return Trial(name, settings, run, lanes * (count if samples else 1), memory)

    trials = [trial_of(*way) for way in ways]
    tried = try_out(trials, seconds, times, device, begun + budget, executor, None if workers is None else budget)
    if workers is not None:
        each = seconds / rounds
        tried = [
            replace(one, on_workers=_on_workers(one, fine, each, workers)) if one.finished else one for one in tried
        ]
    parted = None
    with suppress(Exception):  # where several lanes fail, `time_rounds` has reported it
        inputs = Inputs.checked(problem, u0, own, fine, executor, samples)
        parted = of_run(inputs, executor, time.perf_counter() + seconds)
    found = conclude(tried, seconds, rounds, times, time.perf_counter() - begun, workers)
    return replace(found, lyapunov=parted)


def _of_one_process(executor: Executor | None) -> Executor:
    """The executor of the trials, `Batched` by default; others would end trials at times of their own."""
    executor = Batched() if executor is None else executor
    check_instance(executor, Executor, "executor", "pr.Batched()")
    if isinstance(executor, Distributed):
        raise ValueError("executor is a Distributed, and one process plans; expected pr.Batched(), and workers=P for P")
    return executor


def _on_workers(one: Candidate, fine: Integrator, evaluation: float, workers: int) -> float | None:
    """Seconds on that many devices, from the time of an evaluation in the serial run; ``None`` where solves vary."""
    grid: TimeGrid = one.settings["grid"]
    correction: CorrectionTraits = one.settings["coarse"].traits
    if correction.carries:  # a lane then does more work than in the serial run
        return None
    if correction.relaxations or correction.nested is not None:  # no count is known
        return None
    schedule, propagator, traits = one.settings["schedule"], correction.propagator, fine.traits
    coarse = 0 if propagator is None else propagator.traits.evaluations
    if not isinstance(schedule, Barrier | Wavefront) or traits.evaluations is None or coarse is None or traits.implicit:
        return None
    if isinstance(schedule, Wavefront) and schedule.ahead is not None and one.iterations > schedule.ahead + 1:
        return None
    each = [evaluation * traits.evaluations * (fine.steps or steps) for steps in grid.steps_per_slice]
    sweep = evaluation * coarse * ((propagator.steps or 1) if propagator is not None else 0)
    return makespan(schedule, grid.num_slices, one.iterations, fine=each, coarse=sweep, workers=workers)


def conclude(
    tried: list[Candidate], seconds: float, rounds: int, times: RoundTimes, cost: float, workers: int | None = None
) -> Plan:
    """The plan that follows from some trials.

    Args:
        tried: The candidates, as `try_out` returns them.
        seconds: Seconds of the serial run.
        rounds: Its rounds.
        times: Seconds of a call against its lanes.
        cost: Seconds that planning took.
        workers: The number of devices to predict for, if given.
    """
    tried = sorted(tried, key=lambda one: (not one.finished, time_of(one, workers), one.seconds))
    first = tried[0] if tried and tried[0].finished else None
    best = first if first is not None and time_of(first, workers) < WORTH * seconds else None
    if best is not None:
        taken = time_of(best, workers)
        where = "" if workers is None else f" on {workers} devices"
        reason = (
            f"Recommended{where}: {best.name}: {shown(taken)} in place of {shown(seconds)}, "
            f"{seconds / taken:.2f} times as fast."
        )
    else:
        reason = _failure(tried) or (
            f"Nothing beats the serial run here ({shown(seconds)}): {_why(tried, times, rounds, workers)}"
        )
    return Plan(tuple(tried), seconds, rounds, times, best, reason, cost, workers)


def _failure(tried: list[Candidate]) -> str:
    """Why there is nothing to compare, if so."""
    notes = [one.note for one in tried]
    for status in (Status.NONFINITE, Status.UNSOLVED):
        if status.name.lower() in notes and not any(one.finished for one in tried):
            return f"Nothing is recommended: {status.value}"
    if not any(one.finished or one.note == SLOW for one in tried):
        return f"Nothing is recommended, since no candidate was tried to its end: {notes[0]}."
    return ""


def _why(tried: list[Candidate], times: RoundTimes, rounds: int, workers: int | None) -> str:
    finished = [one for one in tried if one.finished]
    if workers is not None and finished:
        if finished[0].on_workers is None:
            return (
                f"what the candidates take on {workers} devices cannot be predicted; expected Barrier or Wavefront, "
                "and methods of a fixed number of evaluations."
            )
        return f"on {workers} devices {finished[0].name} takes {shown(finished[0].on_workers)}."
    wide = min(times.lanes[-1], 8)
    factor = times(wide) / times(1)
    # vmap adds a cost from the second lane on
    if wide >= 4 and factor > wide / 2 and times(wide) / times(2) > wide / 4:
        return (
            f"a round of {wide} lanes takes {factor:.1f} times as long as one of a single lane, so that lanes do not "
            "run side by side on this device."
        )
    if finished and finished[0].rounds >= rounds / 2:
        return (
            f"the best candidate takes {finished[0].rounds} rounds and the serial run {rounds}: the correction does "
            "not converge quickly enough."
        )
    if times(1) < 1e-3:
        return (
            f"an evaluation takes {shown(times(1))}, less than what the engine itself needs in a round; larger systems "
            "or costlier right-hand sides gain more."
        )
    return "no candidate needs so few rounds that it makes up for their lanes."
