"""Trials of candidates: their cost, or that they cannot win."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from parareal.executors._base import Executor
from parareal.executors._local import Batched
from parareal.grid._time_grid import TimeGrid
from parareal.planning._cost_model import Hopeless, Recording, RoundTimes, synchronize, with_padding
from parareal.results._solution import Solution

SLOW = "ended: slower than what is known"


@dataclass(frozen=True, eq=False)
class Candidate:
    """A candidate and the result of its trial.

    Attributes:
        name: Its name in the table.
        settings: Arguments of `solve`: ``grid``, ``coarse``, ``schedule``.
        seconds: Predicted wall time; if the trial was ended early, a lower bound.
        rounds: Rounds, as far as the trial went.
        evaluations: Evaluations, likewise.
        iterations: Iterations, likewise; of samples the most.
        max_lanes: Lanes of the widest round.
        memory: Bytes of the states that the engine holds at a time; the right-hand side needs more.
        finished: Whether the trial ran to its end.
        note: Why not, if it did not.
        on_workers: Predicted seconds on the ``workers`` of `plan`; ``None`` without them, or where nothing is
            predicted.
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
    on_workers: float | None = None


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
        run: Solves with a given executor.
        name: Its name.
        settings: The recommendation if it wins.
        memory: Bytes of its states.
        limit: Seconds.
        times: Seconds of rounds.
        device: The device to synchronise with.
        inner: The executor behind the one that records.
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
        note, finished = SLOW, False
    except (RuntimeError, MemoryError, ValueError) as error:  # as in `time_rounds`; before any round it is the caller's
        if isinstance(error, ValueError) and not recording.lanes:
            raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
        own = 0.0
        note, finished = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:60], False
    # The shorter time counts, of this run or of single calls: both can only be too long.
    widths = [with_padding(inner, lanes) for lanes in recording.lanes]
    calls = sum(min(taken, times(lanes)) for taken, lanes in zip(recording.seconds, widths, strict=True))
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


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate to be tried.

    Attributes:
        name: Its name in the table.
        settings: The recommendation if it wins.
        run: Solves with a given executor, which records times, and may end the run by an exception.
        lanes: The lanes of its widest call.
        memory: Bytes of the states that the engine holds at a time.
        too_wide: The note if calls on that many lanes fail.
    """

    name: str
    settings: dict[str, Any]
    run: Callable[[Executor], Solution]
    lanes: int
    memory: int
    too_wide: str = ""


def try_out(
    trials: Sequence[Trial],
    serial_seconds: float,
    times: RoundTimes,
    device: torch.device,
    until: float,
    executor: Executor | None = None,
    limit: float | None = None,
) -> list[Candidate]:
    """Tries candidates, one after another, each for as long as it can still win.

    Args:
        trials: The candidates, likely winners first: a good one early ends the others soon.
        serial_seconds: The time to beat.
        times: Seconds of a call against its lanes, see `time_rounds`.
        device: The device to synchronise with.
        until: When ``time.perf_counter()`` is past this, no further one is tried.
        executor: Evaluates the lanes; ``None`` for `parareal.Batched`.
        limit: Seconds after which a trial is ended, in place of those of the best so far.

    Returns:
        A candidate for each of them, in their order.
    """
    tried: list[Candidate] = []
    for one in trials:
        if times.most is not None and one.lanes > times.most:
            note = one.too_wide or f"rounds of {one.lanes} lanes fail"
            tried.append(untried(one.name, one.settings, one.memory, one.lanes, note))
            continue
        if time.perf_counter() > until:
            note = "not tried: the budget is spent"
            tried.append(untried(one.name, one.settings, one.memory, one.lanes, note))
            continue
        best = min([serial_seconds, *(other.seconds for other in tried if other.finished)]) if limit is None else limit
        candidate = trial(one.run, one.name, one.settings, one.memory, best, times, device, executor)
        if candidate.finished and candidate.seconds < 1.2 * best:  # possible winners are tried twice
            second = trial(one.run, one.name, one.settings, one.memory, best, times, device, executor)
            candidate = second if second.finished and second.seconds < candidate.seconds else candidate
        tried.append(candidate)
    return tried


def serial_seconds(
    run: Callable[[Executor], Any], rounds: int, device: torch.device, executor: Executor | None = None
) -> float:
    """Seconds of a serial run, from its progress in a fifth of a second, or from all of it.

    Args:
        run: Solves in sequence with a given executor.
        rounds: Rounds of the whole run.
        device: The device to synchronise with.
        executor: Evaluates the lanes; ``None`` for `parareal.Batched`.
    """
    best = float("inf")
    for _ in range(2):  # the first calls of anything are slow
        recording = Recording(device, 0.2, executor or Batched())
        recording.started = begun = time.perf_counter()
        with suppress(Hopeless):
            run(recording)
        taken = time.perf_counter() - begun
        best = min(best, taken * rounds / max(1, len(recording.lanes)))
    return best


def time_of(one: Candidate, workers: int | None) -> float:
    """The time by which candidates are compared: on this device, or on ``workers`` of them."""
    if workers is None:
        return one.seconds
    return float("inf") if one.on_workers is None else one.on_workers


def serial_time(run: Callable[[TimeGrid], Solution], grid: TimeGrid, device: torch.device) -> tuple[float, int]:
    """Seconds and rounds of the serial run, from a first part of it that takes about a tenth of a second."""
    # Parts are whole slices; of a single one, some of its steps.
    pieces = grid.num_steps if grid.num_slices == 1 else grid.num_slices
    part = 1
    while True:
        part = min(part, pieces)
        ends = (0, part) if grid.num_slices == 1 else grid.bounds[: part + 1]
        cut = TimeGrid(grid.points[: ends[-1] + 1], ends)
        taken: list[float] = []
        rounds = 0
        while len(taken) < 3:  # the first calls of anything are slow
            synchronize(device)
            begun = time.perf_counter()
            rounds = run(cut).stats.rounds
            synchronize(device)
            taken.append(time.perf_counter() - begun)
            if taken[0] < 0.05 and part < pieces:
                break  # longer parts are to come
        if taken[0] > 0.05 or part == pieces:
            share = grid.num_steps / cut.num_steps
            return min(taken) * share, round(rounds * share)
        part *= 2


def untried(name: str, settings: dict[str, Any], memory: int, lanes: int, note: str) -> Candidate:
    """A candidate without a trial."""
    return Candidate(name, settings, float("inf"), 0, 0, 0, lanes, memory, False, note)


def shown_bytes(count: int) -> str:
    """A size with its unit."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def shown(seconds: float) -> str:
    """A time with its unit."""
    if seconds == float("inf"):
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
