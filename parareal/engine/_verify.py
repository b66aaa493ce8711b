"""Boundaries that a run has accepted are evaluated once more: what is returned is held to the fine propagator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.multistep_state import bare
from parareal._core.trees import State
from parareal.engine._lanes import Flight
from parareal.engine._rounds import play_round
from parareal.stopping._increments import Change
from parareal.stopping._rules import verified

if TYPE_CHECKING:
    from parareal.engine._engine import Engine


def evaluate(engine: Engine, system: int) -> tuple[float, float]:
    """Evaluates the boundaries of a system that were accepted, as many slices at a time as are worked on at a time.

    Returns:
        What their defects add up to at the end, and what that may be, both relative; `Engine.residuals` holds them.
    """
    it, kind = engine.iterates, engine.stop.norm
    begin = int(engine.proven[system] if engine.accepted[system] else engine.settled[system])
    sizes = np.full(it.slices, np.nan)
    for n in range(begin, it.slices, it.width):
        slices = np.arange(n, min(n + it.width, it.slices))
        edge = system * (it.slices + 1) + slices + 1
        held = bare(it.u.take(edge, it.held[system, slices + 1]))
        change = Change(held, held, bare(_solved(engine, system, slices)))
        defect, size = change.norm("defect", kind), change.norm("size", kind)
        sizes[slices] = size.cpu().numpy()
        # Nothing is missed of a state of zero that stays zero.
        engine.residuals[system, slices] = torch.where(defect == 0, 0.0, defect / size).cpu().numpy()
    engine.residuals[system, :begin] = 0.0
    error, allowed = verified(engine.judge, system, engine.residuals[system], sizes, begin)
    engine.errors[system] = error * sizes[-1]
    return error, allowed


def _solved(engine: Engine, system: int, slices: Ints) -> State:
    """What the fine propagator makes of the states that these slices begin with."""
    it, fine = engine.iterates, engine.fine
    flight = Flight(engine.problem, fine.integrator, fine.mesh, remembers=engine.remembers, places=it.count)
    u = it.u.take(system * (it.slices + 1) + slices, it.held[system, slices])
    flight.launch(system * it.slices + slices, slices, u, engine.rows_of(np.full(len(slices), system)))
    try:
        while play_round([flight], engine.executor, engine.counters):
            pass
    finally:
        flight.close()
    fine.evaluations += flight.evaluations
    arrived = flight.take_arrived()
    ids = np.concatenate([one for one, _ in arrived])
    value = trees.cat([state for _, state in arrived])
    return trees.lanes(value, torch.from_numpy(np.argsort(ids)).to(it.device))
