"""Verification: evaluates accepted boundaries once more, to measure the defects of the states that are returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.host import index_to
from parareal._core.multistep_state import without_history
from parareal._core.trees import State
from parareal.engine._lanes import ActiveLanes
from parareal.engine._rounds import play_round
from parareal.stopping._increments import Change

if TYPE_CHECKING:
    from parareal.engine._engine import Engine


def evaluate(engine: Engine, system: int, rule: Callable[..., tuple[float, float]]) -> tuple[float, float]:
    """Evaluates the accepted boundaries of a system, ``width`` slices at a time; sets `RunState.residuals`.

    Args:
        engine: The run.
        system: The system.
        rule: What the stopping state makes of its defects: `verified` or `cleared`.

    Returns:
        The error at the end that their defects add up to, and the largest one allowed, both relative.
    """
    it, state, kind = engine.iterates, engine.state, engine.parts.stop.traits.norm
    begin = int(state.proven[system] if state.accepted[system] else state.settled[system])
    count, width = it.layout.slices, it.layout.width
    sizes = np.full(count, np.nan)
    for n in range(begin, count, width):
        slices = np.arange(n, min(n + width, count))
        boundary = system * (count + 1) + slices + 1
        current = without_history(it.rings.u.take(boundary, state.current[system, slices + 1]))
        change = Change(current, current, without_history(_solved(engine, system, slices)))
        defect, size = change.norm("defect", kind), change.norm("size", kind)
        sizes[slices] = size.cpu().numpy()
        # A state of zero that stays zero has no defect.
        state.residuals[system, slices] = torch.where(defect == 0, 0.0, defect / size).cpu().numpy()
    state.residuals[system, :begin] = 0.0
    error, allowed = rule(engine.stopping, system, state.residuals[system], sizes, begin)
    state.errors[system] = error * sizes[-1]
    return error, allowed


def _solved(engine: Engine, system: int, slices: Ints) -> State:
    """Fine solutions from the left boundaries of these slices."""
    it, fine, parts, count = engine.iterates, engine.fine, engine.parts, engine.iterates.layout.slices
    mesh, history = fine.method.mesh, parts.carries_history
    lanes = ActiveLanes(parts.problem, parts.fine, mesh, carries_history=history, places=it.live.size)
    u = it.rings.u.take(system * (count + 1) + slices, engine.state.current[system, slices])
    rows = parts.rows_of(np.full(len(slices), system), it.layout.device)
    lanes.launch(system * count + slices, slices, u, rows, samples=np.full(len(slices), system))
    try:
        while play_round([lanes], parts.executor, engine.counters):
            pass
    finally:
        lanes.close()
    fine.evaluations += lanes.evaluations
    arrived = lanes.take_arrived()
    ids = np.concatenate([one for one, _ in arrived])
    value = trees.cat([state for _, state in arrived])
    return trees.lanes(value, index_to(it.layout.device, np.argsort(ids)))
