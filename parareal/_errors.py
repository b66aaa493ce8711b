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
    """

    systems: int
    width: int
    mismatch: Floats


class Seen(NamedTuple):
    """An iteration of D systems.

    Attributes:
        systems: Their numbers, ``(D,)``.
        figures: ``(D, N, C)``: zero at edges that were final before, NaN at those that nothing was computed for yet.
        moved: Right edges that took a new iterate, ``(D, N)``.
        frontier: Slices final before it, ``(D,)``.
        iteration: Iterations made, ``(D,)``.
    """

    systems: Ints
    figures: Floats
    moved: Bools
    frontier: Ints
    iteration: Ints


_WEIGHT = 0.7
"""Of the mismatch: errors add up to less than the sum of their sizes."""
_MEMORY = 0.7
"""A mismatch seen before counts for this much in the next iteration, in case that now a move was easy by chance."""
_PREFIX, _TAIL, _END = 0.1, 0.03, 0.6
"""Parts of the tolerance that may be spent: on edges accepted early, on those that a window has reached the end with,
where accepting saves no rounds, and on the last edge."""
_CAUTION = 3.0
"""By which the estimate that is reported exceeds what is reckoned with, so that it is seldom too small."""
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
        self._mismatch = np.tile(start.mismatch, (start.systems, 1))
        self._moved_by = np.zeros((start.systems, slices))
        self._spent = np.zeros(start.systems)
        self._share = np.arange(slices + 1) / slices
        part = np.where(np.arange(1, slices + 1) > slices - start.width, _TAIL, _PREFIX)
        part[-1] = _END
        self._part = part
        self._error = np.zeros((start.systems, slices))

    def update(self, seen: Seen, increment: Floats, defect: Floats, size: Floats) -> None:
        """Takes in an iteration: norms ``(D, N)`` at the right edges."""
        rows, before = seen.systems, self._moved_by[seen.systems]
        mismatch = self._mismatch[rows]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shown = np.where(seen.moved & (before > 0), defect / before, 0.0)
            shown = np.where(np.isfinite(shown), shown, np.inf)
            mismatch = np.where(shown > 0, np.maximum(shown, _MEMORY * mismatch), mismatch)
            moved_by = np.zeros_like(increment)  # of left edges
            moved_by[:, 1:] = increment[:, :-1]
            added = _WEIGHT * np.maximum(mismatch, _ROUNDING) * moved_by / np.maximum(size, np.finfo(np.float64).tiny)
            added = np.where(moved_by == 0, 0.0, added)  # also where the mismatch is infinite
            added[~seen.moved & (np.arange(size.shape[1]) >= seen.frontier[:, None])] = np.nan
            self._error[rows] = np.cumsum(added, axis=1)
        self._mismatch[rows] = mismatch
        self._moved_by[rows] = np.where(seen.moved & np.isfinite(moved_by), moved_by, 0.0)
        self._size = size

    def passed(self, seen: Seen) -> Ints:
        """How many slices may be accepted, ``(D,)``: up to the last edge whose error keeps within what is left."""
        error, size, spent = self._error[seen.systems], self._size, self._spent[seen.systems, None]
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
