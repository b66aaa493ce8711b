"""Where a run stands between two iterations: all that it takes to go on with it.

That is the states at the edges, which of them are final, and how many iterations were made. Whatever else a run holds
is computed from these: coarse values and first stages anew, at the price of one coarse step a slice. What corrections
look back to (`Secant`, `Anderson`, and all with a multistep method) is kept beside it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal.stopping._error_estimate import Floats
from parareal.stopping._rules import account
from parareal.results._snapshot import Past, bring_back, remember
from parareal.schedules._schedule import Bools, Ints
from parareal.results._solution import Status
from parareal._core.trees import State

if TYPE_CHECKING:
    from parareal.engine._engine import Engine


@dataclass(frozen=True, eq=False)
class Standing:
    """Where M systems of N slices stand.

    Attributes:
        u: What the edges hold, system by system, leaves ``(M * (N + 1), *state)``; `parareal.Carried` where states
            carry the memory of a multistep method.
        own: Whether these differ from the states of the solution beside it, which may be further on at some edges.
        reached: Which edges hold a state, ``(M, N + 1)``.
        number: What the next iterates are counted from, ``(M,)``.
        iteration: Iterations made, ``(M,)``.
        frontier: Slices final or accepted, ``(M,)``.
        proven: Slices final without any accepted, ``(M,)``.
        errors: Estimated errors, ``(M,)``.
        residuals: Relative defects as last seen, ``(M, N)``.
        statuses: How systems ended; ``None`` for those that did not.
        increments: Those of iterations that are not in the history yet, ``(M, N)`` each.
        account: What the stopping rule remembers.
        rule: The stopping rule.
        past: What the correction looks back to, if it does.
        identity: What it was a run of.
    """

    u: State
    own: bool
    reached: Bools
    number: Ints
    iteration: Ints
    frontier: Ints
    proven: Ints
    errors: Floats
    residuals: Floats
    statuses: tuple[Status | None, ...]
    increments: dict[int, Floats]
    account: dict[str, Any]
    rule: str
    past: Past | None
    identity: Identity


@dataclass(frozen=True, eq=False)
class Identity:
    """What a run is a run of, as far as that can be compared.

    Attributes:
        problem: Kind of the problem: its function cannot be compared.
        fine: The fine propagator.
        state: Structure, shapes and dtypes of the initial state.
        samples: Whether it was a batch of samples.
        points: The grid's points, float64.
        bounds: Which of them are edges.
        data: Per-sample data and noise, as systems, or their digest.
    """

    problem: str
    fine: str
    state: str
    samples: bool
    points: Tensor
    bounds: tuple[int, ...]
    data: State = field(repr=False)

    @property
    def digest(self) -> str:
        """A digest of per-sample data and noise."""
        return self.data if isinstance(self.data, str) else digest(trees.leaves(self.data))

    def check(self, other: Identity) -> None:
        """Raises unless a run of ``other`` can go on from where this one stands."""
        for name, what, fix in _COMPARED:
            then, now = getattr(self, name), getattr(other, name)
            if then != now:
                raise ValueError(f"resume is a solution with {what} {then}, and this call has {now}; expected {fix}")
        same = self.bounds == other.bounds and torch.equal(self.points, other.points)
        if not same:
            raise ValueError(
                f"resume is a solution on {_grid(self)}, and this call has {_grid(other)}; expected the very same "
                "points and edges: resume on the grid of that run, or begin a new one without resume"
            )
        if self.digest != other.digest:
            raise ValueError(
                "resume is a solution with other per-sample data or other noise; expected those of that run: for an "
                "SDE the same path=, or generator=torch.Generator().manual_seed(...) with the same seed"
            )


_COMPARED = (
    ("state", "a state of", "an initial state of the same structure, shapes and dtypes"),
    ("samples", "samples =", "the same samples= as in that run"),
    ("problem", "a problem of the kind", "the same problem"),
    ("fine", "the fine propagator", "the same one, whose solution is wanted"),
)


def _grid(identity: Identity) -> str:
    points, slices = identity.points, len(identity.bounds) - 1
    return f"{slices} slices of {len(points) - 1} steps from {points[0].item():g} to {points[-1].item():g}"


def nameless(text: str) -> str:
    """A repr without the addresses of functions, which are others in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def describe(state: State) -> str:
    """Structure, shapes and dtypes, in words."""
    if isinstance(state, Tensor):
        return f"{str(state.dtype).removeprefix('torch.')}{list(state.shape)}"
    if isinstance(state, dict):
        return "{" + ", ".join(f"{key!r}: {describe(part)}" for key, part in state.items()) + "}"  # pyright: ignore
    if isinstance(state, tuple | list):
        parts = ", ".join(describe(part) for part in state)  # pyright: ignore
        return f"({parts})" if isinstance(state, tuple) else f"[{parts}]"
    return str(trees.structure(state))


def digest(leaves: list[Tensor]) -> str:
    """SHA-256 of dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for leaf in leaves:
        total.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
        total.update(raw(leaf).numpy().data)
    return total.hexdigest()


def raw(leaf: Tensor) -> Tensor:
    """The bytes of a tensor, uint8, in one dimension."""
    return leaf.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


# --- out of an engine, and into one ----------------------------------------------------------------------------------

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
