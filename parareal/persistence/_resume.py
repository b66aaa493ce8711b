"""Captures a snapshot of an engine, and restores one into a new engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.host import beside, index_to
from parareal._core.multistep_state import Carried, without_history
from parareal._core.trees import State
from parareal.persistence import _earlier_iterates
from parareal.results._run_identity import Identity, exactly, raw
from parareal.results._snapshot import Snapshot
from parareal.results._solution import Solution
from parareal.results._status import Status
from parareal.stopping._rules import error_record

if TYPE_CHECKING:
    from parareal.engine._engine import Engine


_ENDED = (Status.CONVERGED, Status.VERIFIED, Status.UNCERTAIN, Status.FINAL, Status.NONFINITE, Status.UNSOLVED)
"""Statuses of systems that cannot be continued under the same rule."""


def capture(engine: Engine, u: State, increments: dict[int, Floats], identity: Identity) -> Snapshot:
    """A snapshot of an engine; ``u`` are the current states at the boundaries.

    Boundaries take their iterates one after another. If none is ahead of the current iteration, all go back
    to the last complete one, so that the run continues exactly as it would have: part of one iteration is repeated.
    """
    it, state, slices = engine.iterates, engine.state, engine.iterates.layout.slices
    ended = np.array([status in _ENDED for status in state.statuses])
    newest = state.current.max(1)
    # Moves that were not measured yet can be undone. Windows count iterations by the frontier.
    back = (state.current >= 0).all(1) & (newest <= state.iteration + 1) & ~ended & (not engine.parts.windowed)
    frontier, number = state.frontier.copy(), np.where(back, state.iteration, newest)
    u, own = _undone(engine, u, back, frontier) if back.any() else (u, False)
    n = np.arange(slices)
    going = ~ended[:, None] & (n >= frontier[:, None]) & (n < frontier[:, None] + it.layout.width)
    name = exactly(it.setup.correction)
    at = state.between_iterations(number, frontier)
    for system in (~ended).nonzero()[0].tolist():
        at.end(system, None)
    return Snapshot(
        u=u,
        own=own,
        state=at,
        increments=increments,
        record={name: array.copy() for name, array in error_record(engine.stopping).items()},
        rule=exactly(engine.parts.stop),
        earlier=_earlier_iterates.take_out(it, name, number, going) if it.layout.whole else None,
        identity=identity,
        pairs=_earlier_iterates.secant_pairs(it),
    )


def _undone(engine: Engine, u: State, back: Bools, frontier: Ints) -> tuple[State, bool]:
    """States without the moves since the last complete iteration, and whether there were any; moves the frontiers."""
    layout, own = engine.iterates.layout, False
    for ids, old, final in engine.iterates.changes.newest_first():
        system, n = np.divmod(ids, layout.slices)
        chosen = back[system]
        if chosen.any():
            where, rows = (chosen.nonzero()[0], (ids + system + 1)[chosen])
            where, rows = index_to(layout.device, where), index_to(layout.device, rows)
            # The place of a first iterate had nothing before: what is not finite keeps the newer state.
            before = trees.finite_or(trees.lanes(old, where), trees.lanes(u, rows))
            u, own = (
                trees.map(lambda leaf, new, rows=rows: leaf.index_copy(0, beside(rows, leaf), new), u, before),
                True,
            )
            np.minimum.at(frontier, system[chosen & final], n[chosen & final])
    return u, own


_ACCEPTED = (Status.CONVERGED, Status.VERIFIED, Status.UNCERTAIN)


def restore(engine: Engine, at: Snapshot, most: int | None) -> None:
    """Restores a snapshot into a new engine; slices that another rule has accepted do not count as final."""
    it, state, slices = engine.iterates, engine.state, engine.iterates.layout.slices
    same = at.rule == exactly(engine.parts.stop)
    packed = at.state.pack()
    if not same:
        packed["frontier"] = at.state.proven.copy()
    state.unpack(packed)
    # The limit counts on from the iterations made, but never beyond those that make all slices final.
    state.limit_to(most)
    spent = engine.parts.stop.spent(state.iteration)
    for system, status in enumerate(at.state.statuses):
        # Another rule may be stricter: slices that the earlier one has accepted are computed again.
        if status in _ACCEPTED and not same:
            status = None
        if status is None and state.frontier[system] == slices:
            status = Status.CONVERGED if state.accepted[system] else Status.FINAL
        if status is None and spent[system]:
            status = Status.ITERATIONS
        if status is None and state.iteration[system] >= state.limit[system]:
            status = Status.MAX_ITERATIONS
        state.end(system, status)
    if it.layout.windowed:  # first guesses of slices that enter a window are made later, from the states then
        beyond = np.arange(slices + 1) > state.frontier[:, None] + it.layout.width
        state.current[beyond & (state.active[:, None] | (not it.setup.dense))] = -1
    it.put_back(trees.map(lambda leaf: leaf.to(it.layout.device), at.u))
    if at.earlier is not None and at.earlier.correction == exactly(it.setup.correction):
        _earlier_iterates.put_back(it, at.earlier, packed["number"])
    if same:
        for name, array in error_record(engine.stopping).items():
            np.copyto(array, at.record.get(name, array))
    it.look()


def restore_ended(engine: Engine, solution: Solution) -> None:
    """After `restore`: systems with nothing left to do get all that the solution has of them.

    Its states may be ahead of its snapshot, which goes back to the last complete iteration for a run that goes on.
    They are moves that were not measured: another snapshot goes back to the same iteration.
    """
    at, it, state = solution.standing, engine.iterates, engine.state
    ended = ~engine.active
    if at is None or not ended.any():
        return
    if solution.residuals is not None:
        state.residuals[ended] = solution.residuals.reshape(state.residuals.shape).numpy()[ended]
    if not at.own:
        return
    slices, u = it.layout.slices, at.u
    us = trees.map(lambda leaf: leaf.transpose(0, 1).flatten(0, 1) if at.identity.samples else leaf, solution.us)
    plain = trees.map(lambda leaf, like: leaf.reshape(like.shape), us, without_history(u))
    ahead = np.zeros(state.current.size, dtype=bool)
    for now, then in zip(trees.leaves(plain), trees.leaves(without_history(u)), strict=True):
        ahead |= (raw(now) != raw(then)).reshape(len(ahead), -1).any(1).numpy()
    system, n = (ahead.reshape(state.current.shape)[:, 1:] & ended[:, None]).nonzero()
    if not len(n):
        return
    index = torch.from_numpy(system * (slices + 1) + n + 1).to(trees.leaves(u)[0].device)
    old, new = (trees.map(lambda leaf: leaf.to(it.layout.device), trees.lanes(part, index)) for part in (u, plain))
    if isinstance(old, Carried):  # the histories do not matter any more
        new = Carried(new, old.memory)
    iterate = state.current[system, n + 1] + 1
    it.note_change(system, n, iterate, new, new, iterate, old)
    it.write(system, n, iterate, new)
    it.look()
