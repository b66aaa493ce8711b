"""Makes a solution from an engine, at any point of its run; also the empty one of a batch without samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Floats
from parareal._core.multistep_state import without_history
from parareal._inputs import Inputs
from parareal.engine._engine import Engine
from parareal.engine._rounds import Counters
from parareal.persistence._resume import capture
from parareal.results._history import History, IterationReport
from parareal.results._record import Recorder
from parareal.results._solution import Solution, Stats
from parareal.results._status import Status


def solution_of(
    engine: Engine,
    inputs: Inputs,
    dense: bool,
    history: Sequence[IterationReport],
    stats: Stats,
    recorder: Recorder | None,
    increments: dict[int, Floats],
    passed: tuple[int, Floats] | None = None,
) -> Solution:
    """The solution of an engine as of now.

    Args:
        engine: The engine, between two calls or after an exception.
        inputs: Its checked input.
        dense: Whether the states at all boundaries are kept.
        history: Reports of iterations.
        stats: The cost of the run.
        recorder: Holds all iterates, if the run keeps them.
        increments: Increments of iterations that are not in the history yet, ``(M, N)`` each.
        passed: Where the engine sees a section of the grid, the number of its first slice, and the relative defects of
            all slices, ``(N,)``.
    """
    state = engine.state
    statuses = tuple(status or Status.INTERRUPTED for status in state.statuses)
    slices, samples = inputs.grid.num_slices, inputs.samples
    states, ts, reached = engine.iterates.states, inputs.times(dense), engine.iterates.reached
    us = inputs.unstacked(without_history(states), dense)
    # Boundaries may have become final since an iteration was last measured.
    slices = engine.iterates.layout.slices
    residuals = np.where(np.arange(slices) < state.final()[:, None], 0.0, state.residuals)
    begin, residuals = (0, residuals) if passed is None else (passed[0], passed[1][None])
    if not dense and not samples:
        ts = inputs.grid.points[[0, inputs.grid.bounds[begin + int(reached[0])]]]  # without the edges in between
    elif not dense:  # all samples end at one time: those that have not reached it have no state there
        there = torch.from_numpy(reached == slices)
        us = trees.map(lambda leaf: _blank(leaf, there.to(leaf.device)), us)
    return Solution(
        us=us,
        ts=ts,
        status=Status.worst(statuses),
        iterations=torch.from_numpy(state.iteration.copy()) if samples else int(state.iteration[0]),
        history=History(history),
        stats=stats,
        sample_status=statuses if samples else None,
        error_estimate=torch.from_numpy(state.errors.copy()) if samples else float(state.errors[0]),
        residuals=torch.from_numpy(residuals if samples else residuals[0]),
        iterates=recorder.record() if recorder else None,
        standing=capture(engine, states, increments, inputs.identity) if dense else None,
        serial_rounds=inputs.serial_rounds,
        serial_time=_serial_time(engine, inputs),
        failure=_failure(engine, statuses),
    )


def _serial_time(engine: Engine, inputs: Inputs) -> float | None:
    """No less than the seconds of the serial run, as far as the rounds of this run say."""
    leaf = trees.leaves(inputs.systems)[0]
    seconds = engine.counters.timing.round_of(len(leaf))
    if seconds is None or inputs.serial_rounds is None or leaf.device.type != "cpu":
        return None
    # For its bookkeeping, a slice of the serial run gets the time of one more round, which is more than it takes.
    return (inputs.serial_rounds + inputs.grid.num_slices) * seconds


def _failure(engine: Engine, statuses: Sequence[Status]) -> str | None:
    """What the fine propagator says of the first system that it could not carry on from a final state."""
    slices = engine.iterates.layout.slices
    for system, status in enumerate(statuses):
        if status is Status.NONFINITE:
            reached = min(int(engine.state.frontier[system]) + 1, slices)
            for n in range(reached):
                if (why := engine.fine.failures.get(system * slices + n)) is not None:
                    return why
    return None


def no_solution(inputs: Inputs, dense: bool, stats: Stats) -> Solution:
    """The solution of a batch without samples."""
    ts, none = inputs.times(dense), torch.zeros(0, dtype=torch.int64)
    us = trees.map(lambda leaf: leaf.new_empty((len(ts), *leaf.shape)), inputs.u0)
    return Solution(us, ts, Status.FINAL, none, History(), stats, (), torch.zeros(0, dtype=torch.float64))


def cost(counters: Counters, fine: int, coarse: int, started: float, before: Stats | None = None) -> Stats:
    """The cost of a run, with the cost of the runs that it resumes."""
    stats = Stats(
        rounds=counters.rounds,
        evaluations=fine + coarse,
        fine_evaluations=fine,
        coarse_evaluations=coarse,
        calls=counters.calls,
        max_lanes=counters.max_lanes,
        padded_lanes=counters.padded_lanes,
        wall_time=time.perf_counter() - started,
    )
    return stats.after(before)


def attach(error: BaseException, solution: Solution | None) -> None:
    """Attaches the partial solution, if any, to an error."""
    if solution is None:
        return
    with suppress(AttributeError, TypeError):  # some exceptions take no attributes
        error.solution = solution  # pyright: ignore[reportAttributeAccessIssue]
        error.add_note("What was computed before this is kept: see the attribute 'solution' of this exception.")


def _blank(leaf: Tensor, there: Tensor) -> Tensor:
    """States ``(2, B, *state)``, the last of them NaN where a sample is not marked in ``there``."""
    last = torch.where(there.reshape(-1, *[1] * (leaf.ndim - 2)), leaf[1], float("nan"))
    return torch.stack([leaf[0], last])
