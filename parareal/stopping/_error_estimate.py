"""How far the iterates are from the sequential solution: estimated from what they show of themselves.

The error e of a boundary obeys, with D what the left boundary of a slice has just moved by,

    e_{n+1} = F(U_n) - F(U*_n) - [ F(U_n) - F(U_n - D) - J D ],

the error of its left boundary carried on, less what the correction's J D misses of the change. Both parts are measured:

- the defect of a boundary shows what was missed of the move before; its norm over that of the move is the slice's
  *mismatch*, so that a slice adds about its mismatch times what its left boundary has moved by;
- F(U_n) less the solution before it, over what U_n moved by, is the slice's *growth*: errors that pass through a slice
  are taken to grow as moves do, and relative to the size of the state never to shrink.

A correction also says beforehand what it may miss (`Correction.mismatch`). That is a model of the problem and may be
false, so it vouches for nothing: a slice on which no mismatch was seen is given that of a few slices seen in this run,
scaled by the ratio of what was expected of the two, and counts as unknown before there are any.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from parareal._core.arrays import Bools, Floats, Ints
from parareal.stopping._observations import Seen, Start

# The constants were found with benchmarks/rounds.py, and tried on what they were not made for with benchmarks/trust.py.
_WEIGHT = 0.8
"""Of what slices add: many of them add up to less than the sum of their sizes. The largest counts in full."""
_NARROW = 0.25
"""What is accepted in a narrow window was seen once or twice, and all that follows is made from it: the weight grows by
this part of itself with every doubling of the number of windows."""
_WEIGHT_CARRIED = 1.0
"""The same where a multistep history is carried: an accepted error enters the slices to come once more, the more often
the more windows there are to a run: this is multiplied by one more than the binary logarithm of their number."""
_MEMORY = 0.7
"""A mismatch seen before counts for this much in the next iteration, in case that now a move was easy by chance."""
_PREFIX, _TAIL, _END = 0.15, 0.03, 0.6
"""Parts of the tolerance that may be spent: on boundaries accepted early, on those that a window has reached the end
with, where accepting saves no rounds, and on the last one."""
_CAUTION, _CAUTION_ELSE = 1.6, 4.0
"""By which the estimate that is reported exceeds what is reckoned with, so that it is seldom too small. The second is
for rules that decide by something else, which measure no growth."""
_KEPT = 8
"""Iterates of which moves and errors are remembered, for slices that are not in step."""
_ROUNDING = 1e-16
"""No mismatch is below this, so that only boundaries that stand still have no error."""
_UNKNOWN = 1e3
"""Of a mismatch, where none was seen on this slice nor on others of this run: only moves of the size of rounding
pass."""
_TRUST, _WITNESSES = 1.3, 3
"""A mismatch that was not seen is taken for this many times what the nearest slices that have shown theirs suggest, of
which there must be so many."""
_REACH, _DOUBT = 8.0, 2.0
"""Witnesses speak for slices up to so many windows away; from window to window they are doubted by this factor."""
_FLOOR = 0.5
"""No slice is taken to be this much better than its prior says because others were."""
_SMALL, _FAR = 0.1, 30.0
"""Moves up to this part of the state, on either side of the slice, are small and show what small moves do. A mismatch
that only larger moves have shown is not trusted for moves that are smaller by this factor: where F is flat far away, it
shows too little."""
_FLAT = 2.0
"""The mismatch of such a slice is taken to be at least this: F is steep somewhere if it is flat far away."""
_CLEAR = 30.0
"""Moves are to be so many times as large as rounding, for a growth to be read off them."""
_FADING = 0.2
"""Of a growth seen before, in the sums of one iteration."""
_STEEPER = 1.5
"""Moves are seen for a while and in few directions; errors that were accepted find those that grow: theirs is taken to
be this power of the growth of moves."""
_AGAIN = 3
"""A run that has accepted too much is opened this many times before it accepts nothing any more but at its end."""
_MOST = 1e3
"""Of a growth in one slice."""


class Errors:
    """The record of one run.

    Args:
        start: The run.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
    """

    def __init__(self, start: Start, rtol: float, atol: float) -> None:
        slices = len(start.mismatch)
        self._rtol, self._atol, self._mixed = rtol, atol, start.mixed
        self._noise = _CLEAR * start.rounding
        windows = np.log2(slices / max(1, min(start.width, slices)))
        carried, narrow = _WEIGHT_CARRIED * (1 + windows), _WEIGHT * (1 + _NARROW * windows)
        self._weight = carried if start.carried else narrow
        self._prior = np.maximum(np.nan_to_num(start.mismatch, nan=1.0, posinf=1e300), _ROUNDING)
        self._mismatch = np.full((start.systems, slices), np.nan)  # as seen; NaN where it was not
        self._first = np.full((start.systems, slices), np.nan)  # the first that was seen, over what was expected
        self._gentle = np.zeros((start.systems, slices), dtype=bool)  # whether a move that was not large showed it
        self._shown_by = np.zeros((start.systems, slices))  # the move that showed it last
        self._near = max(_WITNESSES, start.width)
        self._growth = np.ones((start.systems, slices))  # of the last move
        self._most = np.ones((start.systems, slices))  # of several moves, small ones where there are any
        self._calm = np.zeros((start.systems, slices), dtype=bool)  # whether there are
        self._moved_by = np.zeros((start.systems, slices))  # what the left edge moved by when the right one last did
        self._size = np.full((start.systems, slices + 1), np.nan)
        self._spent = np.zeros(start.systems)
        self._share = np.arange(slices + 1) / slices
        part = np.where(np.arange(1, slices + 1) > slices - start.width, _TAIL, _PREFIX)
        part[-1] = _END
        self._part = np.tile(part, (start.systems, 1))
        # Of every edge: numbers of its last iterates, what it moved by, and its error.
        shape = (start.systems, slices + 1, _KEPT)
        self._number = np.full(shape, -1)
        self._move, self._error_of = np.zeros(shape), np.zeros(shape)
        self._error = np.zeros((start.systems, slices))

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """All that changes, by name."""
        return {
            "part": self._part,
            "mismatch": self._mismatch,
            "first": self._first,
            "gentle": self._gentle,
            "shown_by": self._shown_by,
            "growth": self._growth,
            "most": self._most,
            "calm": self._calm,
            "moved_by": self._moved_by,
            "size": self._size,
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
            shape = self._error[seen.systems].shape
            gain, log = np.zeros(shape), np.zeros(shape)
            gain[system, n] = added
            log[system, n] = np.log(self._carrying(seen.systems[system], n))
            # Sums of many are taken to cancel in part, but a single one counts in full.
            error = gain if self._mixed else np.maximum(_summed(self._weight * gain, log), gain)
            self._note(seen, np.arange(len(n)), error[system, n])
        else:
            for i in range(len(n)):
                self._one(seen, np.array([i]))

    def _one(self, seen: Seen, at: Ints) -> None:
        """The same for one edge: the error of the left edge at the same iterate, and what the slice has added."""
        system, n, k = int(seen.system[at[0]]), int(seen.n[at[0]]), int(seen.number[at[0]])
        row, added = seen.systems[system], self._added(seen, at)
        before = self._error_of[row, n, k % _KEPT] if self._number[row, n, k % _KEPT] == k else np.nan
        carried = before * self._carrying(np.array([row]), np.array([n])) + self._weight * added
        self._note(seen, at, added if seen.exact[at[0]] or self._mixed else np.maximum(carried, added))

    def _added(self, seen: Seen, at: Ints) -> Floats:
        """What slices add to errors of right edges, in the changes ``at``; notes what these show."""
        system, n, k = seen.system[at], seen.n[at], seen.number[at]
        size, increment, defect, carried = (seen.values[at, i] for i in (1, 2, 3, 4))
        row, exact = seen.systems[system], seen.exact[at]
        last = self._move[row, n + 1, (k - 1) % _KEPT] * (self._number[row, n + 1, (k - 1) % _KEPT] == k - 1)
        self._number[row, n + 1, k % _KEPT] = k
        self._move[row, n + 1, k % _KEPT] = increment
        # What the left edge moved by to its iterate of the same number, also where it has become final since.
        known = self._number[row, n, k % _KEPT] == k
        moved_by = np.where(exact, 0.0, np.where(known, self._move[row, n, k % _KEPT], np.nan))
        self._learn(row, n, size, defect, carried)
        self._size[row, n + 1] = size
        self._moved_by[row, n] = np.where(np.isfinite(moved_by), moved_by, 0.0)
        tiny = np.finfo(np.float64).tiny
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self._mixed:
                rate = np.clip(np.where(last > 0, increment / last, 0.75), 0.0, 0.95)
                return np.where(exact, 0.0, np.maximum(1.0, rate / (1 - rate)) * increment / np.maximum(size, tiny))
            added = np.maximum(self._missed(row, n, moved_by), _ROUNDING) * moved_by / np.maximum(size, tiny)
        # Also where the mismatch is infinite a slice adds nothing whose left edge stands still.
        return np.where(moved_by == 0, 0.0, added)

    def _learn(self, row: Ints, n: Ints, size: Floats, defect: Floats, carried: Floats) -> None:
        """Notes what the last move of left edges shows of slices: what was missed of it, and what it was carried to."""
        before, left = self._moved_by[row, n], self._size[row, n]
        left = np.where(left > 0, left, size)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shown = np.where(before > 0, defect / before, 0.0)
            shown = np.where(np.isfinite(shown), shown, np.inf)
            known = self._mismatch[row, n]
            ratio = np.fmax(self._first[row, n], shown / self._prior[n])
            grown = carried / before * left / np.maximum(size, np.finfo(np.float64).tiny)
        new, gentle = shown > 0, (before > 0) & (before <= _SMALL * np.minimum(left, size))
        self._mismatch[row, n] = np.where(new, np.fmax(shown, _MEMORY * known), known)
        self._first[row, n] = np.where(np.isnan(known) & new, ratio, self._first[row, n])
        self._gentle[row, n] |= gentle & new
        self._shown_by[row, n] = np.where(new, before, self._shown_by[row, n])
        clear = (before > self._noise * left) & np.isfinite(grown)
        grown = np.where(clear, np.clip(grown, 1 / _MOST, _MOST), 1.0)
        growth, most = self._growth[row, n], self._most[row, n]
        self._growth[row, n] = np.where(clear, np.maximum(grown, _faded(growth, _FADING)), growth)
        # Large moves are heard only where there were no others.
        calm = self._calm[row, n]
        self._most[row, n] = np.where(clear & (gentle | ~calm), np.maximum(grown, _faded(most, _MEMORY)), most)
        self._most[row, n] = np.where(clear & gentle & ~calm, grown, self._most[row, n])
        self._calm[row, n] |= clear & gentle

    def _missed(self, row: Ints, n: Ints, moved_by: Floats) -> Floats:
        """The mismatch of slices for such moves, as seen on themselves or on others."""
        missed = self._mismatch[row, n]
        unseen = np.isnan(missed)
        # What a large move has shown need not hold for small ones: where F is flat far away, it shows too little.
        far = self._shown_by[row, n] > _FAR * moved_by
        doubtful = ~unseen & ~self._gentle[row, n] & far
        missed = np.where(doubtful, np.maximum(missed, _FLAT), missed)
        for system in np.unique(row[unseen]):
            here = unseen & (row == system)
            shown = (~np.isnan(self._first[system])).nonzero()[0]
            missed[here] = _UNKNOWN
            if len(shown) >= _WITNESSES:
                ratio = self._first[system, shown[-_WITNESSES:]].max()
                away = np.maximum(n - shown[-1], 0) / self._near
                close = here & (away <= _REACH)
                missed[close] = self._prior[n[close]] * np.maximum(_FLOOR, ratio * _TRUST * _DOUBT ** away[close])
        return missed

    def _carrying(self, row: Ints, n: Ints) -> Floats:
        """By how much an error grows that passes through slices: relative errors are not taken to shrink."""
        return np.ones(len(n)) if self._mixed else np.maximum(self._growth[row, n], 1.0)

    def _note(self, seen: Seen, at: Ints, error: Floats) -> None:
        system, n = seen.system[at], seen.n[at]
        row = seen.systems[system]
        self._error_of[row, n + 1, seen.number[at] % _KEPT] = error
        self._error[row, n] = error

    def _ahead(self, systems: Ints) -> Floats:
        """By how much errors at all boundaries may grow on the way through slices seen, ``(D, N + 1)``."""
        log = np.cumsum(np.pad(np.log(self._most[systems]), ((0, 0), (1, 0))), axis=1)
        most = np.maximum.accumulate(log[:, ::-1], axis=1)[:, ::-1]
        return np.exp(np.minimum(most - log, 600.0))

    def passed(self, seen: Seen, size: Floats) -> Ints:
        """How many slices may be accepted, ``(D,)``: up to the last edge whose error keeps within what is left.

        ``size`` is that of the states at right edges, ``(D, N)``.
        """
        error, ahead = self._error[seen.systems], self._ahead(seen.systems)
        rows = np.arange(len(seen.systems))
        spent = (self._spent[seen.systems] * ahead[rows, seen.frontier] ** _STEEPER)[:, None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            tolerance = self._rtol + self._atol / np.maximum(size, np.finfo(np.float64).tiny)
            share, begun = self._share[1:], self._share[seen.frontier][:, None]
            # Where more was spent than planned, the slices to come have still their own share: the run gets to its end,
            # where it is known by how much errors grow, and is opened again if that is too much.
            left = np.maximum(tolerance * share - spent, tolerance * (share - begun))
            good = np.isfinite(size) & (error * ahead[:, 1:] <= self._part[seen.systems] * left)
        edges = np.arange(1, size.shape[1] + 1)
        return np.where(good, edges, 0).max(axis=1)

    def accept(self, seen: Seen, accepted: Ints) -> None:
        """Keeps record of the errors of slices that are no longer computed."""
        for i, row in enumerate(seen.systems):
            begun, end = seen.frontier[i], max(seen.final[i], accepted[i])
            if end > begun:
                growth = np.exp(min(600.0, _STEEPER * np.log(self._most[row, begun:end]).sum()))
                self._spent[row] *= max(1.0, growth)
        further = accepted > seen.frontier + 1
        last = np.maximum(accepted - 1, 0)
        error = self._error[seen.systems, last]
        self._spent[seen.systems] += np.where(further, np.nan_to_num(error, nan=np.inf), 0.0)

    def at_end(self, seen: Seen, size: Floats, decides: bool = True) -> Floats:
        """The estimate at the last edge, in the norm's own units, ``(D,)``; NaN where it is not reached.

        Where it ``decides``, what is within the tolerance is not said to be beyond it by caution.
        """
        ahead = self._ahead(seen.systems)[np.arange(len(seen.systems)), seen.frontier]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            error = self._spent[seen.systems] * ahead**_STEEPER + self._error[seen.systems, -1]
            allowed = self._rtol + self._atol / np.maximum(size, np.finfo(np.float64).tiny)
            if not decides:
                return _CAUTION_ELSE * error * size
            return np.where(error <= allowed, np.minimum(_CAUTION * error, allowed), _CAUTION * error) * size

    def reopen(self, systems: Bools, times: int) -> None:
        """What was accepted is open again, and less is accepted from now on; what slices have shown stays known."""
        self._spent[systems] = 0.0
        self._number[systems] = -1
        self._moved_by[systems] = 0.0
        self._error[systems] = np.nan
        self._part[systems, :-1] *= 0.2 if times < _AGAIN else 0.0

    def carried(self, system: int, residuals: Floats, begin: int) -> float:
        """What relative defects of the boundaries after ``begin`` slices add up to at the end, as errors that grow."""
        ahead = self._ahead(np.array([system]))[0, 1:]
        with np.errstate(over="ignore", invalid="ignore"):
            return float((residuals * np.minimum(ahead, 1e100))[begin:].sum())


def _faded(growth: Floats, part: float) -> Floats:
    """What a growth seen before still counts for."""
    return 1 + part * np.maximum(growth - 1, 0.0)


def _summed(added: Floats, log: Floats) -> Floats:
    """Running sums e_{n} = exp(log_n) e_{n-1} + added_n over the last axis."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        total = np.cumsum(log, axis=1)
        return np.exp(np.minimum(total, 600.0)) * np.cumsum(added * np.exp(-total), axis=1)
