"""Takes a snapshot out of an engine, and puts one into a new engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.trees import State
from parareal.persistence._earlier_iterates import bring_back, remember
from parareal.results._run_identity import Identity, nameless
from parareal.results._snapshot import Standing
from parareal.results._status import Status
from parareal.stopping._rules import account

if TYPE_CHECKING:
    from parareal.engine._engine import Engine


_ENDED = (Status.CONVERGED, Status.VERIFIED, Status.UNCERTAIN, Status.FINAL, Status.NONFINITE, Status.UNSOLVED)


def capture(engine: Engine, u: State, increments: dict[int, Floats], identity: Identity) -> Standing:
    """Where an engine stands; ``u`` is what the edges hold.

    Edges take their iterates one after another. Where none is further on than the iteration under way, all go back to
    the last complete one, so that the run goes on just as it would have done: part of one iteration is done again.
    """
    it = engine.iterates
    ended = np.array([status in _ENDED for status in engine.status])
    back = (it.held >= 0).all(1) & (it.held.max(1) <= engine.iteration + 1) & ~ended & (not engine.slides)
    frontier, number = it.frontier.copy(), np.where(back, engine.iteration, it.held.max(1))
    u, own = _undone(engine, u, back, frontier) if back.any() else (u, False)
    slice_ = np.arange(it.slices)
    going = ~ended[:, None] & (slice_ >= frontier[:, None]) & (slice_ < frontier[:, None] + it.width)
    return Standing(
        u=u,
        own=own,
        reached=it.held >= 0,
        number=number,
        iteration=engine.iteration.copy(),
        frontier=frontier,
        proven=np.where(engine.accepted, engine.proven, frontier),
        errors=engine.errors.copy(),
        residuals=engine.residuals.copy(),
        statuses=tuple(status if status in _ENDED else None for status in engine.status),
        increments=increments,
        account={name: array.copy() for name, array in account(engine.judge).items()},
        rule=nameless(repr(engine.stop)),
        past=remember(it, nameless(repr(it.correction)), number, going) if it.whole else None,
        identity=identity,
    )


def _undone(engine: Engine, u: State, back: Bools, frontier: Ints) -> tuple[State, bool]:
    """States without the changes since the last complete iteration, and whether there were any; moves the frontiers."""
    it, own = engine.iterates, False
    for ids, old, final in it.changes.newest_first():
        system, n = np.divmod(ids, it.slices)
        chosen = back[system]
        if chosen.any():
            where, edges = (chosen.nonzero()[0], (ids + system + 1)[chosen])
            where, edges = torch.from_numpy(where).to(it.device), torch.from_numpy(edges).to(it.device)
            before = trees.finite_or(trees.lanes(old, where), trees.lanes(u, edges))
            u, own = trees.map(lambda leaf, new, edges=edges: leaf.index_copy(0, edges, new), u, before), True
            np.minimum.at(frontier, system[chosen & final], n[chosen & final])
    return u, own


_ACCEPTED = (Status.CONVERGED, Status.VERIFIED, Status.UNCERTAIN)


def restore(engine: Engine, at: Standing, most: int | None) -> None:
    """Puts a new engine where a run stood; slices that another rule has accepted are not taken for final."""
    it, same = engine.iterates, at.rule == nameless(repr(engine.stop))
    frontier = at.frontier if same else at.proven
    it.put_back(trees.map(lambda leaf: leaf.to(it.device), at.u), at.reached, at.number, frontier)
    if at.past is not None and at.past.correction == nameless(repr(it.correction)):
        bring_back(it, at.past, at.number)
    engine.iteration, engine.errors, engine.residuals = at.iteration.copy(), at.errors.copy(), at.residuals.copy()
    engine.proven, engine.accepted = at.proven.copy(), at.proven < frontier
    engine.settled = frontier.copy()
    engine.decided = frontier.copy() if engine.slides else at.number.copy()
    if same:
        for name, array in account(engine.judge).items():
            np.copyto(array, at.account.get(name, array))
    engine.most = engine.iteration + it.slices - frontier
    if most is not None:
        engine.most = np.minimum(engine.most, most)
    spent = engine.stop.spent(engine.iteration)
    for system, status in enumerate(at.statuses):
        if status in _ACCEPTED and not same:
            status = None
        if status is None and frontier[system] == it.slices:
            status = Status.CONVERGED if engine.accepted[system] else Status.FINAL
        if status is None and spent[system]:
            status = Status.ITERATIONS
        if status is None and engine.iteration[system] >= engine.most[system]:
            status = Status.MAX_ITERATIONS
        engine.status[system], engine.doubtful[system] = status, status is Status.UNCERTAIN
    engine.active = np.array([status is None for status in engine.status])
    it.go_on(engine.active)
