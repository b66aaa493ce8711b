"""Who stands where: which iterate every edge holds, what has set out and arrived, and which edges can move.

All of it is bookkeeping in numpy; the states themselves lie in rings beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.trees import State


class Moves(NamedTuple):
    """Slices ``(M, N)`` whose right edge can take a first guess, its final state, or its next iterate.

    The last mask holds those of the latter two that wait only for lanes to set out from the iterate that they replace.
    """

    guess: Bools
    final: Bools
    refined: Bools
    waiting: Bools


class Runs(NamedTuple):
    """Rows of neighbouring slices through which a change can pass at once.

    Attributes:
        system: The system of each row, ``(R,)``.
        n: The slices of each row, ``(R, L)``; rows that are shorter than the longest repeat their last slice.
        valid: Where ``n`` is not such a repetition, ``(R, L)``.
    """

    system: Ints
    n: Ints
    valid: Bools

    @property
    def ragged(self) -> bool:
        """Whether rows differ in length."""
        return not self.valid.all()

    def flat(self) -> tuple[Ints, Ints]:
        """Systems and slices, repetitions included, ``(R * L,)``."""
        return np.repeat(self.system, self.n.shape[1]), self.n.reshape(-1)


def runs(system: Ints, start: Ints, length: Ints) -> Runs:
    """Rows that begin at slices ``start`` and have ``length`` slices."""
    columns = np.arange(length.max())
    return Runs(system, start[:, None] + np.minimum(columns, length[:, None] - 1), columns < length[:, None])


class Edges:
    """The iterates of M systems of N slices, and which of them are final.

    A place is a slice of a system: slice ``n`` of system ``m`` has the number ``m * N + n``, its left edge
    ``m * (N + 1) + n``.

    Args:
        u0: Initial states, leaves ``(M, *state)``.
        slices: N.
        width: Most slices that are worked on at a time, from the frontier on.
        memory: How many iterates before the old one the correction looks back to.
        coarse: Whether a coarse propagator is evaluated at every input.
        guess_waits: Whether first guesses wait for it.
        block: The slices that are worked on, from the first to before the last; ``None`` for all. Others make them
            too: those on the left are there for the first guess alone, after which the left edge of the block takes
            its iterates from outside.

    Attributes:
        held: Number of the iterate that each edge holds, -1 for none, ``(M, N + 1)``.
        fine_from: Number of the iterate from which the last fine lane of each place set out, ``(M, N)``.
        fine_done: The same of the last fine lane that has arrived; ``coarse_from`` and ``coarse_done`` likewise.
        since: Number of the iterate from which the first fine lane of each place set out, ``(M, N)``.
        first_of: Number of the iterate at which the right-hand side is known on the left edge, ``(M, N)``.
        frontier: Edges ``0 ... frontier`` are final, ``(M,)``.
        live: Places that are worked on, ``(M, N)``: from the frontier on, of systems that are going on.
        start, end: The block's first and last edge.
        open_to: Number of the last iterate that edges may take; ``None`` where they go as they can. In step, nothing
            overtakes an iterate or a first guess, however slow coarse lanes are.
    """

    def __init__(
        self,
        u0: State,
        slices: int,
        width: int,
        memory: int,
        coarse: bool,
        guess_waits: bool,
        block: tuple[int, int] | None = None,
    ) -> None:
        leaf = trees.leaves(u0)[0]
        self.systems, self.slices, self.width, self.device = leaf.shape[0], slices, width, leaf.device
        self.count, shape = self.systems * slices, (self.systems, slices)
        self.memory, self.free, self.guess_waits = memory, not coarse, guess_waits and coarse
        self.n = np.arange(slices)
        (self.start, self.end), self.open_to = block or (0, slices), None if block is None else np.array([[0]])
        self.held = np.full((self.systems, slices + 1), -1)
        self.held[:, 0] = 0
        self.fine_from, self.fine_done, self.since = (np.full(shape, -1) for _ in range(3))
        none = np.broadcast_to(np.array(-1), shape)  # read-only, and of the size of one number
        self.coarse_from, self.coarse_done, self.first_of = (np.full(shape, -1) if coarse else none for _ in range(3))
        self.frontier = np.zeros(self.systems, dtype=np.int64)
        self.active = np.ones(self.systems, dtype=bool)
        self.none = np.zeros(shape, dtype=bool)
        self.look()

    @property
    def whole(self) -> bool:
        """Whether all slices are worked on here."""
        return self.end - self.start == self.slices

    @property
    def bound(self) -> Bools:
        """Live slices whose left edge must not move before lanes have set out from it.

        A slice that has just come into a window is not among them: its first guess is made from what comes next.
        """
        return self.live & (self.held[:, 1:] >= 0) if self.width < self.slices else self.live

    def go_on(self, active: Bools) -> None:
        """Only systems marked in ``active`` go on, each from its frontier."""
        self.active = active
        self.look()

    def look(self) -> None:
        """Looks again who is live, after frontiers have moved."""
        front = self.frontier[:, None]
        self.live = self.active[:, None] & (self.n >= front)
        if self.width < self.slices:
            self.live &= self.n < front + self.width
        if not self.whole:
            guessing = self.held[:, self.start : self.start + 1] < 0
            self.live &= (self.n < self.end) & ((self.n >= self.start) | guessing)
        self.guessing = some(self.live & (self.held[:, 1:] < 0))

    def moves(self, wait: bool) -> Moves:
        """Which edges can move.

        An edge keeps its iterate until the lanes of the slice on its right have set out from it; without ``wait`` a
        final state does not wait for them.
        """
        left, right = self.held[:, :-1], self.held[:, 1:]
        new = left if self.free else self.coarse_done
        guess = self.none
        if self.guessing:
            guess = self.live & ((new if self.guess_waits else left) >= 0) & (right < 0)
        solved = self.live & (self.fine_done >= right) & (right >= 0)
        final = self.live & (self.n == self.frontier[:, None]) & (self.fine_done == left)
        used = self.fine_from if self.free else np.minimum(self.fine_from, self.coarse_from)
        kept = self.none.copy()
        kept[:, :-1] = (used[:, 1:] < right[:, :-1]) & self.bound[:, 1:]
        if self.open_to is not None:
            wait, in_step = True, right < self.open_to
            in_step[:, :-1] &= (right[:, 1:] >= 0) | ~self.live[:, 1:]  # a first guess is made from the first iterate
            final, solved = final & in_step & (right >= left), solved & in_step
        refined = solved & (new > right) & ~final
        return Moves(guess, final & ~kept if wait else final, refined & ~kept, (final | refined) & kept)

    def runs_from(self, refined: Bools) -> Runs | None:
        """The longest rows through which a change can pass at once, from those of ``refined`` on."""
        right = self.held[:, 1:]
        able = self.live & (self.fine_done >= right) & (right >= 0)
        able[:, :-1] &= (self.fine_from[:, 1:] >= right[:, :-1]) | ~self.bound[:, 1:]
        refined = refined & able  # a frontier may have moved since they were found
        if not some(refined):
            return None
        linked = able.copy()
        linked[:, 0] = False
        linked[:, 1:] &= able[:, :-1] & (right[:, 1:] == right[:, :-1]) & ~refined[:, 1:]
        begin = np.maximum.accumulate(np.where(linked, -1, self.n), axis=1)
        taken = able & np.take_along_axis(refined, begin, axis=1)
        system, n = taken.nonzero()
        first = (begin[taken] == n).nonzero()[0]
        return runs(system[first], n[first], np.diff(np.append(first, len(n))))

    def runs_to_guess(self, guess: Bools) -> Runs:
        """Rows of all live slices whose right edges hold nothing yet."""
        system, start = guess.nonzero()
        return runs(system, start, np.minimum(self.end, self.frontier[system] + self.width) - start)

    def arrived(self, tickets: Ints, done: Ints) -> tuple[Ints, Ints, Ints | None]:
        """Notes in ``done`` that lanes have arrived, whose ticket is ``place + count * iterate``.

        Returns:
            Places, iterates, and the oldest iterates that their right edges have still to be moved from, if any.
        """
        iterate, ids = np.divmod(tickets, self.count)
        done.reshape(-1)[ids] = iterate
        if done is self.first_of:
            return ids, iterate, None
        return ids, iterate, self.back(ids, iterate)

    def back(self, place: Ints, iterate: Ints) -> Ints:
        """The oldest iterate of the inputs of slices that is still needed, of those up to ``iterate``.

        A right edge that holds nothing yet may take its first guess from the first lane that set out.
        """
        waiting, first = self.held.reshape(-1)[place + place // self.slices + 1], self.since.reshape(-1)[place]
        oldest = np.maximum(np.minimum(waiting, iterate) - self.memory, 0)
        return np.where(waiting < 0, np.where(first < 0, iterate, np.minimum(first, iterate)), oldest)

    def set_out(self, mask: Bools, from_: Ints) -> Ints:
        """Notes in ``from_`` that lanes of ``mask`` set out; returns the iterates from which they do."""
        iterate = self.held[:, :-1][mask]
        from_[mask] = iterate
        if from_ is self.fine_from:
            self.since[mask] = np.where(self.since[mask] < 0, iterate, self.since[mask])
        return iterate


def some(mask: Bools) -> bool:
    """``mask.any()`` for small masks, several times as fast."""
    return bool(np.count_nonzero(mask))
