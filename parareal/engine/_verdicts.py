"""What follows from the figures of an iteration: the status of a system, and why a run cannot go on."""

from __future__ import annotations

import numpy as np

from parareal._core.arrays import Bools, Floats
from parareal.engine._lanes import ActiveLanes
from parareal.engine._parts import Parts
from parareal.results._run_state import RunState
from parareal.results._status import Status
from parareal.stopping._rules import Verdict


def relative_defects(values: Floats, final: Bools) -> Floats:
    """The relative defects of boundaries that have moved, from their figures; that of a final one is zero."""
    defect, size = values[:, -2], values[:, -1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(final | (defect == 0), 0.0, defect / size)


def status_of(
    state: RunState, decision: Verdict, i: int, system: int, frontier: int, finite: bool, fine: ActiveLanes
) -> Status | None:
    """The status with which a system ends, ``None`` if it goes on.

    Args:
        state: The run state.
        decision: What the stopping rule has decided.
        i: The place of the system in it.
        system: The system.
        frontier: How many of its slices are proven final.
        finite: Whether the state at its frontier is finite.
        fine: The fine lanes.
    """
    slices = state.residuals.shape[1]
    if not finite:
        return Status.UNSOLVED if fine.method.integrator.traits.implicit else Status.NONFINITE
    if frontier == slices and not state.accepted[system]:
        return Status.FINAL
    if frontier == slices or (decision.stop[i] and decision.converged[i]):
        doubtful = decision.sound is not None and not decision.sound[i]
        return Status.UNCERTAIN if doubtful else Status.CONVERGED
    if decision.stop[i]:
        return Status.ITERATIONS
    return Status.MAX_ITERATIONS if state.iteration[system] >= state.limit[system] else None


def why_stuck(parts: Parts, state: RunState, live: Bools, coarse: ActiveLanes | None) -> str:
    """Why no lane can start."""
    late = live & (state.lanes.coarse_arrived > state.lanes.first_stage)
    if parts.shares_first_stage and coarse is not None and late.any():
        return (
            f"{coarse.method.integrator!r} has shares_first_stage=True, but its step did not begin by asking for "
            "(problem.rhs, t0, u) with the very t0 and u that it was given; do that, or set it to False"
        )
    return f"{parts.schedule!r} let no lane start although some were ready"
