"""Readiness: which boundary may take its next state, and when.

Slice n carries the state at its left boundary n to its right boundary n + 1. A right boundary may move

- to its first guess once its left boundary has an iterate (and, with ``guess_waits``, the coarse value of it);
- to its final state once the fine lane from a final left boundary has arrived;
- to its next iterate, k + 1, once F_n(U_n^k) and, for a coarse propagator, G_n(U_n^{k+1}) have arrived. Where iterate
  k + 1 is relaxed, which means made without a correction, it does not wait for the coarse value.

It must not move before the lanes of the slice on its right have started from its current iterate, because they read
it. All of this is bookkeeping in numpy on a `RunState`; the states themselves are in ring buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from parareal._core.arrays import Bools, Ints, relaxing
from parareal.results._run_state import RunState


class Moves(NamedTuple):
    """Slices ``(M, N)`` whose right boundary can take a first guess, its final state, or its next iterate.

    ``relaxed`` are those that take their next iterate without a correction. ``waiting`` are those of the last three
    kinds that only wait for lanes to start from the iterate to be replaced.
    """

    guess: Bools
    final: Bools
    refined: Bools
    relaxed: Bools
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


@dataclass(frozen=True, eq=False)
class Layout:
    """The fixed data on which readiness depends.

    Attributes:
        systems: M.
        slices: N.
        device: Device of the states.
        width: Most slices computed at a time, from the frontier on.
        lookback: How many iterates before the old one the correction uses.
        free: Whether there is no coarse propagator to wait for.
        guess_waits: Whether first guesses wait for the coarse propagator.
        start: The first boundary of the block of this process.
        end: Its last boundary. Slices to the left of the block only make first guesses; after that the left boundary of
            the block takes its iterates from another process.
        relaxations: How many iterates without a correction precede each one that has it.
        nested: Whether the coarse sweep is solved in parallel, so that all slices move together.
        blind: How many of the first fine solutions show nothing; see `blind_moves`.
        in_step: Whether boundaries move one iteration at a time, as those of a block do.
        n: 0 ... N - 1.
        nothing: A mask of no slice, ``(M, N)``.
    """

    systems: int
    slices: int
    device: torch.device
    width: int
    lookback: int
    free: bool
    guess_waits: bool
    start: int
    end: int
    relaxations: int
    nested: bool
    blind: int
    in_step: bool
    n: Ints
    nothing: Bools

    @property
    def whole(self) -> bool:
        """Whether this process computes all slices."""
        return self.end - self.start == self.slices

    @cached_property
    def on_host(self) -> bool:
        """Whether the states lie where indices do, so that none has to be sent."""
        return self.device.type == "cpu"

    @property
    def at_once(self) -> bool:
        """Whether a boundary may move because another one has, without waiting for a coarse propagator."""
        return self.free or self.nested or self.relaxations > 0

    def reads(self, number: Ints) -> Bools:
        """Whether the coarse value of an iterate of this number is read: by a correction from it, or to it."""
        read = ~relaxing(number + 1, self.relaxations)
        return read if self.nested else read | ~relaxing(number, self.relaxations)

    @property
    def windowed(self) -> bool:
        """Whether fewer slices are computed at a time than there are."""
        return self.width < self.slices


class Readiness:
    """The iterates of M systems of N slices, and which boundaries may move.

    A place is a slice of a system: slice ``n`` of system ``m`` has the number ``m * N + n``, its left boundary
    ``m * (N + 1) + n``.

    Args:
        state: The run state, which is updated.
        layout: The fixed data.

    Attributes:
        live: Slices that are computed, ``(M, N)``: from the frontier on, of active systems.
        guessing: Whether some live slice has no iterate at its right boundary.
        open_to: Number of the last iterate that boundaries may take; ``None`` for no limit. With one, no final state
            overtakes an iterate or a first guess, however slow coarse lanes are.
    """

    def __init__(self, state: RunState, layout: Layout) -> None:
        self.state, self.layout = state, layout
        self.open_to: Ints | None = np.array([[0]]) if layout.in_step else None
        self.look()

    @property
    def bound(self) -> Bools:
        """Live slices whose left boundary must not move before lanes have started from it.

        A slice that has just entered a window is not among them: its first guess is made from the next state. It is
        once its coarse lane has started: that one makes the guess, and the fine lane solves from the same state.
        """
        if not self.layout.windowed:
            return self.live
        begun = self.state.current[:, 1:] >= 0
        return self.live & (begun if self.layout.free else begun | (self.state.lanes.coarse_started >= 0))

    @property
    def used(self) -> Ints:
        """The last iterate of each left boundary from which all lanes of the slice have started, ``(M, N)``."""
        lanes = self.state.lanes
        return lanes.fine_started if self.layout.free else np.minimum(lanes.fine_started, lanes.coarse_started)

    def look(self) -> None:
        """Updates which slices are live, after frontiers have moved or systems have ended."""
        layout, current, front = self.layout, self.state.current, self.state.frontier[:, None]
        live = self.state.active[:, None] & (layout.n >= front)
        if layout.windowed:
            live &= layout.n < front + layout.width
        if not layout.whole:
            guessing = current[:, layout.start : layout.start + 1] < 0
            live &= (layout.n < layout.end) & ((layout.n >= layout.start) | guessing)
        self.live = live
        self.guessing = some(live & (current[:, 1:] < 0))

    def moves(self, wait: bool) -> Moves:
        """Which boundaries can move.

        A boundary keeps its iterate until the lanes of the slice on its right have started from it; without ``wait`` a
        final state does not wait for them.
        """
        layout, lanes = self.layout, self.state.lanes
        left, right = self.state.current[:, :-1], self.state.current[:, 1:]
        new = left if layout.free else lanes.coarse_arrived
        guess = layout.nothing
        if self.guessing:
            guess = self.live & ((new if layout.guess_waits else left) >= 0) & (right < 0)
        # A fine lane that started from the iterate k of the left boundary makes k + 1 of the right one, which has k.
        solved = self.live & (lanes.fine_arrived >= right) & (right >= 0)
        final = self.live & (layout.n == self.state.frontier[:, None]) & (lanes.fine_arrived == left)
        # Boundary n + 1 is read by slice n + 1, whose lanes have not started from its current iterate yet.
        kept = layout.nothing.copy()
        kept[:, :-1] = (self.used[:, 1:] < right[:, :-1]) & self.bound[:, 1:]
        if self.open_to is not None:
            wait, in_step = True, right < self.open_to
            in_step[:, :-1] &= (right[:, 1:] >= 0) | ~self.live[:, 1:]  # a first guess is made from the first iterate
            final, solved = final & in_step & (right >= left), solved & in_step
        # The coarse value of the new left iterate has arrived: it is newer than the iterate to be replaced.
        refined, relaxed = solved & (new > right) & ~final, layout.nothing
        if layout.nested:  # once all slices to the right can move too
            ready = solved & (lanes.coarse_arrived >= right)
            whole = np.logical_and.accumulate((ready | ~self.live)[:, ::-1], axis=1)[:, ::-1]
            refined = ready & whole & (left > right) & ~final
        if layout.relaxations:
            free = relaxing(right + 1, layout.relaxations)
            refined, relaxed = refined & ~free, solved & (left > right) & ~final & free
        waiting = (final | refined | relaxed) & kept
        return Moves(guess, final & ~kept if wait else final, refined & ~kept, relaxed & ~kept, waiting)

    def runs_from(self, refined: Bools) -> Runs | None:
        """The longest rows through which a change can pass at once, from those of ``refined`` on."""
        right, lanes = self.state.current[:, 1:], self.state.lanes
        able = self.live & (lanes.fine_arrived >= right) & (right >= 0)
        if self.layout.nested:
            able &= lanes.coarse_arrived >= right
        able[:, :-1] &= (self.used[:, 1:] >= right[:, :-1]) | ~self.bound[:, 1:]
        refined = refined & able  # a frontier may have moved since they were found
        if not some(refined):
            return None
        # A row ends where the next slice has an iterate of another number, or starts a row of its own.
        linked = able.copy()
        linked[:, 0] = False
        linked[:, 1:] &= able[:, :-1] & (right[:, 1:] == right[:, :-1]) & ~refined[:, 1:]
        begin = np.maximum.accumulate(np.where(linked, -1, self.layout.n), axis=1)
        taken = able & np.take_along_axis(refined, begin, axis=1)
        system, n = taken.nonzero()
        first = (begin[taken] == n).nonzero()[0]
        return runs(system[first], n[first], np.diff(np.append(first, len(n))))

    def runs_to_guess(self, guess: Bools) -> Runs:
        """Rows of all live slices whose right boundaries have no iterate yet."""
        system, start = guess.nonzero()
        end = np.minimum(self.layout.end, self.state.frontier[system] + self.layout.width)
        return runs(system, start, end - start)

    def skip_unread(self) -> None:
        """Counts coarse lanes as arrived whose values nothing reads, before they start."""
        lanes, left = self.state.lanes, self.state.current[:, :-1]
        if self.layout.free or not self.layout.relaxations:
            return
        guessed = self.state.current[:, 1:] >= 0
        skipped = self.live & (left > lanes.coarse_started) & guessed & ~self.layout.reads(left)
        for numbers in (lanes.coarse_started, lanes.coarse_arrived, lanes.first_stage):
            numbers[skipped] = left[skipped]

    def note_started(self, mask: Bools, started: Ints) -> Ints:
        """Records in ``started`` that lanes of ``mask`` start; returns the iterates from which they do."""
        iterate, lanes = self.state.current[:, :-1][mask], self.state.lanes
        started[mask] = iterate
        if started is lanes.fine_started:
            first = iterate + self.layout.blind
            lanes.fine_first[mask] = np.where(lanes.fine_first[mask] < 0, first, lanes.fine_first[mask])
        return iterate

    def before(self, system: Ints, n: Ints, iterate: Ints) -> Ints:
        """The iterate before, whose fine solution makes a pair with that of ``iterate``; itself if there is none."""
        return np.minimum(np.maximum(iterate - 1, self.state.lanes.fine_first[system, n]), iterate)

    def note_arrived(self, tickets: Ints, arrived: Ints) -> tuple[Ints, Ints, Ints | None]:
        """Records in ``arrived`` that lanes have arrived, whose ticket is ``place + M * N * iterate``.

        Returns:
            Places, iterates, and the oldest iterates that their right boundaries have still to move from, if any.
        """
        iterate, ids = np.divmod(tickets, self.live.size)
        arrived.reshape(-1)[ids] = iterate
        if arrived is self.state.lanes.first_stage:
            return ids, iterate, None
        return ids, iterate, self.needed(ids, iterate)

    def needed(self, place: Ints, iterate: Ints) -> Ints:
        """The oldest iterate, up to ``iterate``, of the inputs of slices that is still needed.

        A right boundary without an iterate may take its first guess from the first lane that started.
        """
        right = self.state.current.reshape(-1)[place + place // self.layout.slices + 1]
        first = self.state.lanes.fine_first.reshape(-1)[place]
        oldest = np.maximum(np.minimum(right, iterate) - self.layout.lookback, 0)
        return np.where(right < 0, np.where(first < 0, iterate, np.minimum(first, iterate)), oldest)


def some(mask: Bools) -> bool:
    """``mask.any()`` for small masks, many times as fast: a search in memory in place of a reduction."""
    return b"\x01" in mask.tobytes()
