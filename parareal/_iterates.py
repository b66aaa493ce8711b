"""The recursion and the frontier: what every edge holds, and how it takes its next iterate.

With U_n^k the state at edge n after k iterations,

    U_{n+1}^{k+1} = F_n(U_n^k) + [ G_n(U_n^{k+1}) - G_n(U_n^k) ],

or F_n(U_n^k) alone where U_n^k was already final: then the right edge is final too, and the frontier moves. That is
why the first k edges are the sequential solution after k iterations whatever G does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from parareal import _tree
from parareal._changes import Changes
from parareal._correction import Correction, Known
from parareal._grid import Span, TimeGrid
from parareal._problem import check_like
from parareal._schedule import Bools, Ints
from parareal._store import Ring
from parareal._tree import State


class Iterates:
    """The iterates of M systems of N slices, and which of them are final.

    A place is a slice of a system: slice ``n`` of system ``m`` has the number ``m * N + n``.

    Args:
        u0: Initial states, leaves ``(M, *state)``.
        grid: The time grid.
        correction: What stands in the brackets of the recursion.
        keep_fine: Whether fine solutions are kept for the defects of a stopping rule.

    Attributes:
        held: Number of the iterate that each edge holds, -1 for none, ``(M, N + 1)``.
        fine_from: Number of the iterate from which the last fine lane of each place set out, ``(M, N)``.
        fine_done: The same of the last fine lane that has arrived; ``coarse_from`` and ``coarse_done`` likewise.
        first_of: Number of the iterate at which the right-hand side is known on the left edge, ``(M, N)``.
        frontier: Edges ``0 ... frontier`` are final, ``(M,)``.
        live: Places from the frontier on, of systems that are going on, ``(M, N)``.
    """

    def __init__(self, u0: State, grid: TimeGrid, correction: Correction, keep_fine: bool) -> None:
        leaf = _tree.leaves(u0)[0]
        self.systems, self.slices, self.device = leaf.shape[0], grid.num_slices, leaf.device
        self.count, shape = self.systems * self.slices, (self.systems, self.slices)
        self.correction, self._keep_fine = correction, keep_fine
        self.free = correction.propagator is None
        self.n = np.arange(self.slices)
        self._edges = grid.edges.to(self.device)
        start = np.arange(self.systems) * (self.slices + 1)
        self.u = Ring(u0, self.systems * (self.slices + 1), 2 if correction.uses_input else 1)
        self.u.put(start, np.zeros_like(start), u0)
        self.f = Ring(u0, self.count)
        if not self.free:
            self.g = Ring(u0, self.count, 2)
            self.first = Ring(u0, self.count)
        self.held = np.full((self.systems, self.slices + 1), -1)
        self.held[:, 0] = 0
        self.fine_from, self.fine_done, self.coarse_from, self.coarse_done, self.first_of = (
            np.full(shape, -1) for _ in range(5)
        )
        self.frontier = np.zeros(self.systems, dtype=np.int64)
        self.live = np.ones(shape, dtype=bool)
        self.changes = Changes(self.slices)
        self._active = np.ones(self.systems, dtype=bool)
        self._none = np.zeros(shape, dtype=bool)
        self._guessing = True  # some edge has no iterate yet

    def go_on(self, active: Bools) -> None:
        """Only systems marked in ``active`` go on, each from its frontier."""
        self._active = active
        self._look()

    def _look(self) -> None:
        self.live = self._active[:, None] & (self.n >= self.frontier[:, None])

    @property
    def states(self) -> State:
        """What the edges hold, system by system, leaves ``(M * (N + 1), *state)``; NaN where they hold nothing yet."""
        return self.u.peek(np.arange(self.held.size), np.maximum(self.held.reshape(-1), 0))

    def at_frontier(self, systems: Ints) -> State:
        """The last states known final, of some systems, leaves ``(D, *state)``."""
        edge = systems * (self.slices + 1) + self.frontier[systems]
        return self.u.peek(edge, self.held.reshape(-1)[edge])

    def store(self, tickets: Ints, value: State, ring: Ring, done: Ints) -> None:
        """Keeps what a lane brought, whose ticket is ``place + count * iterate``, and notes in ``done`` that it has."""
        iterate, ids = np.divmod(tickets, self.count)
        done.reshape(-1)[ids] = iterate
        oldest = None
        if done is not self.first_of:  # the right edge has still to take its next iterate from the one that it holds
            oldest = np.maximum(self.held.reshape(-1)[ids + ids // self.slices + 1], 0)
        ring.put(ids, iterate, value, oldest)

    def update(self, wait: bool = True) -> bool:
        """Moves on every edge that can; returns whether one waits for lanes to set out from it first."""
        while True:
            guess, final, refined, waiting = self._ready(wait)
            for mask, recursion in ((guess, self._guess), (final, self._finish), (refined, self._refine)):
                if some(mask) and not (mask is refined and self.correction.stacked):
                    recursion(*mask.nonzero())
            if self.correction.stacked:
                for systems, start, end in self._runs(refined):
                    self._refine_run(systems, start, end)
            # Without a coarse propagator to wait for, and after a guess, an edge may move on at once.
            if not (some(guess) or (self.free and some(final | refined))):
                return some(waiting)

    def _ready(self, wait: bool) -> tuple[Bools, Bools, Bools, Bools]:
        """Slices ``(M, N)`` whose right edge can take a first guess, its final state, or its next iterate.

        An edge keeps its iterate until the lanes of the slice on its right have set out from it; without ``wait`` a
        final state does not wait for them. The last mask holds the edges that only this keeps back.
        """
        left, right = self.held[:, :-1], self.held[:, 1:]
        new = left if self.free else self.coarse_done
        guess = self._none
        if self._guessing:
            guess = self.live & (new >= 0) & (right < 0)
            if self.correction.stacked:
                guess[:, 1:] = False  # its first guess is for all edges at once
            self._guessing = bool((right < 0).any())
        solved = self.live & (self.fine_done >= right) & (right >= 0)
        final = self.live & (self.n == self.frontier[:, None]) & (self.fine_done == left)
        used = self.fine_from if self.free else np.minimum(self.fine_from, self.coarse_from)
        kept = self._none.copy()
        kept[:, :-1] = used[:, 1:] < right[:, :-1]
        refined = solved & (new > right) & ~final
        return guess, final & ~kept if wait else final, refined & ~kept, (final | refined) & kept

    def _runs(self, refined: Bools) -> Iterator[tuple[Ints, int, int]]:
        """Systems and bounds of rows of slices through which a change can pass at once, from one of ``refined`` on."""
        if not some(refined):
            return
        right = self.held[:, 1:]
        able = self.live & (self.fine_done >= right) & (right >= 0)
        able[:, :-1] &= self.fine_from[:, 1:] >= right[:, :-1]
        linked = able.copy()
        linked[:, 0] = False
        linked[:, 1:] &= able[:, :-1] & (right[:, 1:] == right[:, :-1]) & ~refined[:, 1:]
        begin = np.maximum.accumulate(np.where(linked, -1, self.n), axis=1)
        taken = able & np.take_along_axis(refined, begin, axis=1)
        rows, which = np.unique(np.where(taken, begin, -1), axis=0, return_inverse=True)
        for i, row in enumerate(rows):
            for start in np.unique(row[row >= 0]):
                yield (which.reshape(-1) == i).nonzero()[0], int(start), int(start + (row == start).sum())

    def _guess(self, system: Ints, n: Ints) -> None:
        """U_{n+1}^0 from U_n^0; where the correction can, for all n at once."""
        edge = system * (self.slices + 1) + n
        iterate = np.zeros_like(n) if self.free else self.coarse_done[system, n]
        u = self.u.peek(edge, iterate)
        if self.correction.stacked:
            value = _tree.join(self.correction.guess_run(Span(self._edges, self.n), u))
            system, n = np.repeat(system, self.slices), np.tile(self.n, len(system))
            u = _tree.lanes(u, torch.from_numpy(system).to(self.device))
        else:
            g = None if self.free else self.g.peek(system * self.slices + n, iterate)
            value = check_like(self.correction.guess(Span(self._edges, n), Known(u, g)), u, "the correction's guess")
        self._write(system, n, np.zeros_like(n), _tree.finite_or(value, u))

    def _finish(self, system: Ints, n: Ints) -> None:
        """U_{n+1} = F_n(U_n) where U_n is final: then so is U_{n+1}."""
        f = self.f.take(system * self.slices + n, self.held[system, n])
        # Where coarse lanes are as slow as fine ones this overtakes an iterate, or even the first guess.
        k = np.maximum(self.held[system, n + 1], 0)
        self._change(system, n, k + 1, f, f)
        self._write(system, n, k + 1, f)
        self.frontier[system] = n + 1
        self._look()

    def _refine(self, system: Ints, n: Ints) -> None:
        """U_{n+1}^{k+1} = F_n(U_n^k) + [G_n(U_n^{k+1}) - G_n(U_n^k)], or another correction in the brackets."""
        k = self.held[system, n + 1]
        f = (self.f.take if self._keep_fine else self.f.peek)(system * self.slices + n, k)
        new, old = self._known(system, n, k + 1), self._known(system, n, k)._replace(f=f)
        change = self.correction.difference(Span(self._edges, n), new, old)
        if change is not None:
            change = check_like(change, f, "the correction's difference")
        self._correct(system, n, _tree.clone(f) if change is None else f, change)

    def _refine_run(self, systems: Ints, start: int, end: int) -> None:
        """`_refine` on the neighbouring slices ``start ... end - 1``, for a correction linear in what edges move by."""
        length = end - start
        system, n = np.repeat(systems, length), np.tile(np.arange(start, end), len(systems))
        k, first = self.held[system, n + 1], systems * (self.slices + 1) + start
        f, held = self.f.take(system * self.slices + n, k), self.u.take(system * (self.slices + 1) + n + 1, k)
        defects = _tree.fold(_tree.finite_or(_tree.sub(f, held), _tree.map(torch.zeros_like, f)), length)
        k = self.held[systems, start + 1]
        moved = _tree.sub(self.u.peek(first, k + 1), self.u.peek(first, k))
        change = self.correction.difference_run(Span(self._edges, np.arange(start, end)), moved, defects)
        self._correct(system, n, f, None if change is None else _tree.join(change))

    def _correct(self, system: Ints, n: Ints, f: State, change: State | None) -> None:
        value = f if change is None else _tree.add(f, change)
        k = self.held[system, n + 1]
        held = self._change(system, n, k + 1, value, f if self._keep_fine else value)
        self._write(system, n, k + 1, _tree.finite_or(value, held))

    def _known(self, system: Ints, n: Ints, iterate: Ints) -> Known:
        u = self.u.peek(system * (self.slices + 1) + n, iterate) if self.correction.uses_input else None
        return Known(u, None if self.free else self.g.peek(system * self.slices + n, iterate))

    def _change(self, system: Ints, n: Ints, iterate: Ints, value: State, fine: State) -> State:
        """Notes what the right edges held and what they are to hold; returns the former."""
        held = self.u.take(system * (self.slices + 1) + n + 1, np.maximum(self.held[system, n + 1], 0))
        self.changes.add(system * self.slices + n, iterate, value, held, fine)
        return held

    def _write(self, system: Ints, n: Ints, iterate: Ints, value: State) -> None:
        oldest = None
        if self.correction.uses_input:  # the slice on the right looks back to what its right edge came from
            oldest = np.maximum(self.held[system, np.minimum(n + 2, self.slices)], 0)
            oldest = np.where(n + 1 == self.slices, iterate, np.minimum(oldest, iterate))
        self.u.put(system * (self.slices + 1) + n + 1, iterate, value, oldest)
        self.held[system, n + 1] = iterate


def some(mask: Bools) -> bool:
    """``mask.any()`` for small masks, several times as fast."""
    return bool(np.count_nonzero(mask))
