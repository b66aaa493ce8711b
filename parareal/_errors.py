"""How far the iterates are from the sequential solution: estimated from what they show of themselves.

The error e of an edge obeys, with D what the left edge of a slice has just moved by,

    e_{n+1} = F(U_n) - F(U*_n) - [ F(U_n) - F(U_n - D) - J D ],

the error of its left edge carried on, less what the correction's J D misses of the change. Of that, the defect of an
edge shows what was missed of the move before: its norm over the norm of that move is the slice's mismatch. So the error
added by a slice is about its mismatch times what its left edge has moved by. Errors are taken relative to the size of
the state, and it is assumed that the fine propagator carries relative errors on as they are.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from parareal._schedule import Bools, Ints

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


class Start(NamedTuple):
    """A run that begins: M systems of N slices.

    Attributes:
        systems: M.
        width: Slices that are worked on at a time.
        mismatch: What a correction may miss of a move, as a part of it, before any was seen; ``(N,)``.
        least: The least that it is taken to miss: much where iterates are mixed, whose defects show something else.
        carried: Whether states carry the memory of a multistep method, whose errors come on top.
    """

    systems: int
    width: int
    mismatch: Floats
    least: float = 0.0
    carried: bool = False


class Seen(NamedTuple):
    """An iteration of D systems.

    Attributes:
        systems: Their numbers, ``(D,)``.
        figures: ``(D, N, C)``: zero at edges that were final before, NaN at those that nothing was computed for yet.
        system: Of P edges that have moved, in the order in which they did, the system, 0 ... D - 1; ``(P,)``.
        n: The slices whose right edges they are, ``(P,)``.
        number: The numbers of the iterates that they took, ``(P,)``.
        exact: Whether they took their final state, from an input that is final, ``(P,)``.
        values: Their figures, ``(P, C)``.
        frontier: Slices final or accepted before it, ``(D,)``.
        final: The same after it, ``(D,)``.
        iteration: Iterations made, ``(D,)``.
    """

    systems: Ints
    figures: Floats
    system: Ints
    n: Ints
    number: Ints
    exact: Bools
    values: Floats
    frontier: Ints
    final: Ints
    iteration: Ints


_WEIGHT = 0.7
"""Of the mismatch: errors add up to less than the sum of their sizes."""
_WEIGHT_CARRIED = 1.0
"""The same where a memory is carried: what it is off enters the slices to come once more. It does so the more often,
the more windows there are to a run: this is multiplied by one more than the binary logarithm of their number."""
_MEMORY = 0.7
"""A mismatch seen before counts for this much in the next iteration, in case that now a move was easy by chance."""
_PREFIX, _TAIL, _END = 0.1, 0.03, 0.6
"""Parts of the tolerance that may be spent: on edges accepted early, on those that a window has reached the end with,
where accepting saves no rounds, and on the last edge."""
_CAUTION = 3.0
"""By which the estimate that is reported exceeds what is reckoned with, so that it is seldom too small."""
_KEPT = 8
"""Iterates of which moves and errors are remembered, for slices that are not in step."""
_ROUNDING = 1e-16
"""No mismatch is below this, so that only edges that stand still have no error."""


class Errors:
    """The account of one run.

    Args:
        start: The run.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
    """

    def __init__(self, start: Start, rtol: float, atol: float) -> None:
        slices = len(start.mismatch)
        self._rtol, self._atol = rtol, atol
        self._least = max(_ROUNDING, start.least)
        windows = slices / max(1, min(start.width, slices))
        self._weight = _WEIGHT_CARRIED * (1 + np.log2(windows)) if start.carried else _WEIGHT
        self._mismatch = np.tile(start.mismatch, (start.systems, 1))
        self._moved_by = np.zeros((start.systems, slices))  # what the left edge moved by when the right one last did
        self._spent = np.zeros(start.systems)
        self._share = np.arange(slices + 1) / slices
        part = np.where(np.arange(1, slices + 1) > slices - start.width, _TAIL, _PREFIX)
        part[-1] = _END
        self._part = part
        # Of every edge: numbers of its last iterates, what it moved by, and its error.
        shape = (start.systems, slices + 1, _KEPT)
        self._number = np.full(shape, -1)
        self._move, self._error_of = np.zeros(shape), np.zeros(shape)
        self._error = np.zeros((start.systems, slices))

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """All that changes, by name."""
        return {
            "mismatch": self._mismatch,
            "moved_by": self._moved_by,
            "spent": self._spent,
            "number": self._number,
            "move": self._move,
            "error_of": self._error_of,
            "error": self._error,
        }

    def update(self, seen: Seen) -> None:
        """Takes in what has moved."""
        system, n, k = seen.system, seen.n, seen.number
        self._error[seen.systems] = np.where(np.arange(self._error.shape[1]) < seen.final[:, None], 0.0, np.nan)
        # Nearly always edges have moved once, one after another from one that has become final, to iterates of one
        # number: errors are running sums.
        edges = system * self._error.shape[1] + n
        order = np.argsort(edges, kind="stable")
        ahead, behind = order[1:], order[:-1]
        in_step = seen.exact.copy()
        in_step[ahead] |= (edges[ahead] == edges[behind] + 1) & (k[ahead] == k[behind])
        once = (np.diff(edges[order]) > 0).all()
        if once and in_step.all():
            added = self._added(seen, np.arange(len(n)))
            with np.errstate(over="ignore", invalid="ignore"):
                gain = np.zeros_like(self._error[seen.systems])
                gain[system, n] = added
                error = np.cumsum(gain, axis=1)[system, n]
            self._note(seen, np.arange(len(n)), error)
        else:
            for i in range(len(n)):
                self._one(seen, np.array([i]))

    def _one(self, seen: Seen, at: Ints) -> None:
        """The same for one edge: the error of the left edge at the same iterate, and what the slice has added."""
        system, n, k = int(seen.system[at[0]]), int(seen.n[at[0]]), int(seen.number[at[0]])
        row, added = seen.systems[system], self._added(seen, at)
        before = self._error_of[row, n, k % _KEPT] if self._number[row, n, k % _KEPT] == k else np.nan
        self._note(seen, at, added if seen.exact[at[0]] else before + added)

    def _added(self, seen: Seen, at: Ints) -> Floats:
        """What slices add to errors of right edges, in the changes ``at``; notes what these show of mismatches."""
        system, n, k = seen.system[at], seen.n[at], seen.number[at]
        size, increment, defect = (seen.values[at, i] for i in (1, 2, 3))
        row = seen.systems[system]
        self._number[row, n + 1, k % _KEPT] = k
        self._move[row, n + 1, k % _KEPT] = increment
        # What the left edge moved by to its iterate of the same number, also where it has become final since.
        exact, known = seen.exact[at], self._number[row, n, k % _KEPT] == k
        moved_by = np.where(exact, 0.0, np.where(known, self._move[row, n, k % _KEPT], np.nan))
        before, mismatch = self._moved_by[row, n], self._mismatch[row, n]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shown = np.where(before > 0, defect / before, 0.0)
            shown = np.where(np.isfinite(shown), shown, np.inf)
            mismatch = np.where(shown > 0, np.maximum(shown, _MEMORY * mismatch), mismatch)
            added = np.maximum(mismatch, self._least) * moved_by / np.maximum(size, np.finfo(np.float64).tiny)
        self._mismatch[row, n] = mismatch
        self._moved_by[row, n] = np.where(np.isfinite(moved_by), moved_by, 0.0)
        # Also where the mismatch is infinite a slice adds nothing whose left edge stands still.
        return np.where(moved_by == 0, 0.0, self._weight * added)

    def _note(self, seen: Seen, at: Ints, error: Floats) -> None:
        system, n = seen.system[at], seen.n[at]
        row = seen.systems[system]
        self._error_of[row, n + 1, seen.number[at] % _KEPT] = error
        self._error[row, n] = error

    def passed(self, seen: Seen, size: Floats) -> Ints:
        """How many slices may be accepted, ``(D,)``: up to the last edge whose error keeps within what is left.

        ``size`` is that of the states at right edges, ``(D, N)``.
        """
        error, spent = self._error[seen.systems], self._spent[seen.systems, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            tolerance = self._rtol + self._atol / np.maximum(size, np.finfo(np.float64).tiny)
            share, begun = self._share[1:], self._share[seen.frontier][:, None]
            # Where more was spent than planned, the slices to come have still their own share.
            left = np.maximum(tolerance * share - spent, tolerance * (share - begun))
            good = np.isfinite(size) & (error <= self._part * left)
        edges = np.arange(1, size.shape[1] + 1)
        return np.where(good, edges, 0).max(axis=1)

    def accept(self, seen: Seen, accepted: Ints) -> None:
        """Keeps account of the errors of slices that are no longer computed."""
        further = accepted > seen.frontier + 1
        last = np.maximum(accepted - 1, 0)
        error = self._error[seen.systems, last]
        self._spent[seen.systems] += np.where(further, np.nan_to_num(error, nan=np.inf), 0.0)

    def at_end(self, seen: Seen, size: Floats) -> Floats:
        """The estimate at the last edge, in the norm's own units, ``(D,)``; NaN where it is not reached."""
        with np.errstate(invalid="ignore", over="ignore"):
            return _CAUTION * (self._spent[seen.systems] + self._error[seen.systems, -1]) * size
