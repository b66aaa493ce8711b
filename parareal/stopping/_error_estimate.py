"""The error estimate: how far the iterates are from the sequential solution, from what the run itself has shown.

The error e of a boundary obeys, with D the last move of the left boundary of a slice,

    e_{n+1} = F(U_n) - F(U*_n) - [ F(U_n) - F(U_n - D) - J D ].

The first difference is the error of the left boundary, propagated through the slice. The bracket is what the
correction's J D misses of the change. Both are measured (see `parareal.stopping._slice_record`): the first grows by the
slice's *growth*; the second is about the slice's *mismatch* times the norm of D.

An error is never taken to shrink as moves do: it may point elsewhere. Relative to the state, what has grown while the
state became small shrinks again as the state grows, but never below what it was when its boundary was accepted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from parareal._core.arrays import Bools, Floats, Ints, relaxing
from parareal.stopping._observations import Seen, Start
from parareal.stopping._slice_record import Settings, SliceRecord

# The constants were found with benchmarks/rounds.py and constants.py, and checked with benchmarks/trust.py on other
# configurations.
_PREFIX, _TAIL, _END = 0.1, 0.03, 0.7
"""Parts of the tolerance that may be spent: on boundaries accepted early; on those of a window that has reached the
end, where accepting saves no rounds; and on the last boundary."""
_CAUTION, _CAUTION_ELSE = 2.5, 4.0
"""Factors by which the reported estimate exceeds the one that decides, so that it is seldom too small. The second is
for rules that decide by something else and measure no growth."""
_BELIEVED = 2.0
"""A correction may make of a move this many times what fine solutions make of one: the rest is an error."""
_KEPT = 8
"""Iterates of which moves and errors are kept, for slices that are not in step. A choice: more cost memory only."""
_STEEPER = 1.5
"""Moves are seen for a while and in few directions, but accepted errors turn into the directions that grow. Their
growth is taken to be this power of the growth of moves."""
_SEEN = 0.5
"""Part of the tolerance that defects, carried to the end, may take in a run whose estimate exceeds it."""
_ROUNDED = 4.0
"""Defects of up to this many rounding units are what a right-hand side of many operations rounds."""
_AGAIN = 3
"""A run that has accepted too much is reopened this many times before it accepts nothing but its end."""


class BoundaryRecord:
    """The last `_KEPT` iterates of each boundary, ``(M, N + 1, _KEPT)``, and the size of its state, ``(M, N + 1)``.

    Attributes:
        number: Numbers of the iterates, -1 where there is none.
        move: What the boundary moved by to take each of them.
        error: The estimated relative error of each of them.
        size: The norm of the newest state; NaN before the first move.
    """

    def __init__(self, systems: int, slices: int) -> None:
        shape = (systems, slices + 1, _KEPT)
        self.number = np.full(shape, -1)
        self.move, self.error = np.zeros(shape), np.zeros(shape)
        self.size = np.full((systems, slices + 1), np.nan)

    def has(self, row: Ints, boundary: Ints, k: Ints) -> Bools:
        """Whether iterates ``k`` are kept."""
        return self.number[row, boundary, k % _KEPT] == k


class ErrorEstimate:
    """The error estimate of one run, with the record that it is made from.

    Args:
        start: The run.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
    """

    def __init__(self, start: Start, rtol: float, atol: float) -> None:
        systems, slices = start.systems, len(start.mismatch)
        self._settings = Settings.of(start, rtol, atol)
        self._slices = SliceRecord(self._settings, systems)
        self._boundaries = BoundaryRecord(systems, slices)
        right = slices + start.outside[1] - np.arange(1, slices + 1)  # slices on the right of each boundary
        part = np.where(right == 0, _END, np.where(right < start.width, _TAIL, _PREFIX))
        self._part = np.tile(part, (systems, 1))  # of the tolerance, which each boundary may spend
        self._error = np.zeros((systems, slices))  # of the right boundaries that have moved last
        self._spent = np.zeros(systems)  # on boundaries that were accepted: the sum of their errors at that time
        self._grown = np.zeros(systems)  # the same errors at the frontier, as they have grown since

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The error record, by name: the arrays themselves, so that those of another run can be copied into them."""
        return {
            "part": self._part,
            "mismatch": self._slices.mismatch,
            "first": self._slices.first,
            "gentle": self._slices.gentle,
            "shown_by": self._slices.shown_by,
            "growth": self._slices.growth,
            "most": self._slices.most,
            "calm": self._slices.calm,
            "grew": self._slices.grew,
            "moved_by": self._slices.moved_by,
            "low": self._slices.low,
            "high": self._slices.high,
            "size": self._boundaries.size,
            "spent": self._spent,
            "grown": self._grown,
            "number": self._boundaries.number,
            "move": self._boundaries.move,
            "error_of": self._boundaries.error,
            "error": self._error,
        }

    def update(self, seen: Seen) -> None:
        """Updates the errors of all boundaries that have moved in an iteration."""
        system, n, k, settings = seen.system, seen.n, seen.number, self._settings
        slices = self._error.shape[1]
        self._error[seen.systems] = np.where(np.arange(slices) < seen.final[:, None], 0.0, np.nan)
        # The usual case: each boundary has moved once, in a row that begins at a final one, to iterates of one number.
        # The errors are then running sums along the row.
        boundary = system * slices + n
        order = np.argsort(boundary, kind="stable")
        right, left = order[1:], order[:-1]
        in_step = seen.exact.copy()
        in_step[right] |= (boundary[right] == boundary[left] + 1) & (k[right] == k[left])
        once = (np.diff(boundary[order]) > 0).all()
        if once and in_step.all():
            every = np.arange(len(n))
            gain, log = np.zeros((len(seen.systems), slices)), np.zeros((len(seen.systems), slices))
            gain[system, n] = self._added(seen, every)
            log[system, n] = np.log(self._carrying(seen.systems[system], n))
            # In a sum many contributions cancel in part, but a single one counts in full. Where iterates are mixed, a
            # boundary may stand still because what its left neighbours have moved by has not arrived yet.
            error = np.maximum.accumulate(gain, 1) if settings.mixed else _summed(settings.weight * gain, log)
            error = np.maximum(error, gain)
            self._note(seen, every, error[system, n])
        else:
            for i in range(len(n)):
                self._update_one(seen, np.array([i]))

    def _update_one(self, seen: Seen, at: Ints) -> None:
        """The same for one boundary: the error of its left neighbour at the same iterate, plus what the slice adds."""
        system, n, k = int(seen.system[at[0]]), int(seen.n[at[0]]), int(seen.number[at[0]])
        row, added, known = np.array([seen.systems[system]]), self._added(seen, at), self._boundaries
        before = np.where(known.has(row, np.array([n]), np.array([k])), known.error[row, n, k % _KEPT], np.nan)
        if self._settings.mixed:
            error = np.fmax(before, added)
        else:
            error = np.maximum(before * self._carrying(row, np.array([n])) + self._settings.weight * added, added)
        self._note(seen, at, added if seen.exact[at[0]] else error)

    def _added(self, seen: Seen, at: Ints) -> Floats:
        """What slices add to the errors of their right boundaries in the moves ``at``; records what these show."""
        system, n, k = seen.system[at], seen.n[at], seen.number[at]
        size, increment, defect, carried = (seen.values[at, i] for i in (1, 2, 3, 4))
        growing = (carried, *(() if seen.first_order is None else seen.first_order[at].T))
        row, exact, kept = seen.systems[system], seen.exact[at], self._boundaries
        last = np.where(kept.has(row, n + 1, k - 1), kept.move[row, n + 1, (k - 1) % _KEPT], 0.0)
        shows = np.ones(len(n), dtype=bool)
        if blind := min(self._settings.blind, _KEPT - 2):
            shows = kept.has(row, n, k - blind)
            last = np.where(kept.has(row, n + 1, k - 1 - blind), last, 0.0)
        kept.number[row, n + 1, k % _KEPT] = k
        kept.move[row, n + 1, k % _KEPT] = increment
        # What the left boundary moved by to its iterate of the same number, even if it has become final since.
        moved_by = np.where(exact, 0.0, np.where(kept.has(row, n, k), kept.move[row, n, k % _KEPT], np.nan))
        left, free = kept.size[row, n], self._settings.relaxations
        self._slices.learn(row, n, left, size, defect, growing, corrected=~relaxing(k - 1, free))
        kept.size[row, n + 1] = size
        self._slices.moved_by[row, n] = np.where(np.isfinite(moved_by) & shows, moved_by, 0.0)
        tiny = np.finfo(np.float64).tiny
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self._settings.mixed:
                rate = np.clip(np.where(last > 0, increment / last, 0.75), 0.0, 0.95)
                return np.where(exact, 0.0, np.maximum(1.0, rate / (1 - rate)) * increment / np.maximum(size, tiny))
            missed = self._slices.missed(row, n, moved_by)
            # The correction has made increment - defect of the move at least: more than F makes of one is wrong.
            whole = self._slices.whole(row, n, left, size)
            missed = np.fmax(missed, (increment - defect) / moved_by - _BELIEVED * whole)
            missed = np.where(relaxing(k, free), whole, missed)
            added = missed * moved_by / np.maximum(size, tiny)
        # A slice whose left boundary does not move adds nothing, even if its mismatch is infinite.
        return np.where(moved_by == 0, 0.0, added)

    def _carrying(self, row: Ints, n: Ints) -> Floats:
        """By how much slices multiply the error of their left boundary. Relative errors are never taken to shrink."""
        return np.ones(len(n)) if self._settings.mixed else np.maximum(self._slices.growth[row, n], 1.0)

    def _note(self, seen: Seen, at: Ints, error: Floats) -> None:
        system, n = seen.system[at], seen.n[at]
        row = seen.systems[system]
        self._boundaries.error[row, n + 1, seen.number[at] % _KEPT] = error
        self._error[row, n] = error

    def passed(self, seen: Seen, size: Floats) -> Ints:
        """How many slices may be accepted, ``(Q,)``: up to the last boundary whose error is within what is left.

        ``size`` is the norm of the states at right boundaries, ``(Q, N)``.
        """
        error, ahead = self._error[seen.systems], self._slices.ahead(seen.systems)
        rows = np.arange(len(seen.systems))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            spent = self._behind(seen.systems, ahead[rows, seen.frontier])[:, None]
            tolerance = self._settings.rtol + self._settings.atol / np.maximum(size, np.finfo(np.float64).tiny)
            share, begun = self._settings.share[1:], self._settings.share[seen.frontier][:, None]
            # If more was spent than planned, the next slices still have their own share. So the run reaches its end,
            # where the growth of all slices is known; if the error is too large then, the run is reopened.
            left = np.maximum(tolerance * share - spent, tolerance * (share - begun))
            good = np.isfinite(size) & (error * ahead[:, 1:] <= self._part[seen.systems] * left)
        if self._settings.leaps:
            good[:, -1] &= ~np.isnan(self._slices.mismatch[seen.systems, -1]) | (error[:, -1] == 0)
        return np.where(good, np.arange(1, size.shape[1] + 1), 0).max(axis=1)

    def accept(self, seen: Seen, accepted: Ints) -> None:
        """Records the errors of slices that are no longer computed."""
        for i, row in enumerate(seen.systems):
            begun, end = seen.frontier[i], max(seen.final[i], accepted[i])
            if end > begun:
                self._carry(row, self._slices.most[row, begun:end])
        further = accepted > seen.frontier + 1
        last = np.maximum(accepted - 1, 0)
        error = self._error[seen.systems, last]
        added = np.where(further, np.nan_to_num(error, nan=np.inf), 0.0)
        self._spent[seen.systems] += added
        self._grown[seen.systems] += added

    def _carry(self, row: int, growth: Floats) -> None:
        """Carries the accepted errors of a system over slices, never below what they were when they were accepted."""
        least, error = float(self._spent[row]), float(self._grown[row])
        for by in growth.tolist():
            error = max(least, error * by**_STEEPER)  # infinite, where it is
        self._grown[row] = error

    def _behind(self, systems: Ints, ahead: Floats) -> Floats:
        """The accepted errors where those at the frontier have grown by the factor ``ahead``."""
        return np.maximum(self._grown[systems], self._spent[systems]) * ahead**_STEEPER

    def at_end(self, seen: Seen, size: Floats, decides: bool = True) -> Floats:
        """The estimate at the last boundary, in the units of the norm, ``(Q,)``; NaN where it has not been reached.

        If it ``decides``, the factor of caution never lifts an estimate within the tolerance above it.
        """
        ahead = self._slices.ahead(seen.systems)[np.arange(len(seen.systems)), seen.frontier]
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            error = self._behind(seen.systems, ahead) + self._error[seen.systems, -1]
            if not decides:
                return _CAUTION_ELSE * error * size
            # A correction may still move the end by its error, so the size of the solution may be that much smaller.
            rtol = self._settings.rtol / (1.0 + self._settings.rtol)
            allowed = rtol + self._settings.atol / np.maximum(size, np.finfo(np.float64).tiny)
            return np.where(error <= allowed, np.minimum(_CAUTION * error, allowed), _CAUTION * error) * size

    def reopen(self, systems: Bools, times: int) -> None:
        """Accepted slices are computed again, and less is accepted from now on. Mismatch and growth stay known."""
        self._spent[systems] = self._grown[systems] = 0.0
        self._boundaries.number[systems] = -1
        self._slices.moved_by[systems] = 0.0
        self._error[systems] = np.nan
        self._part[systems, :-1] *= 0.2 if times < _AGAIN else 0.0

    def carried(self, system: int, residuals: Floats, begin: int, power: float = 1.0) -> float:
        """The error at the end from relative defects after the first ``begin`` slices, each times its growth."""
        ahead = self._slices.ahead(np.array([system]))[0, 1:]
        with np.errstate(over="ignore", invalid="ignore"):
            return float((residuals * np.minimum(ahead**power, 1e100))[begin:].sum())

    def carried_with_caution(self, system: int, residuals: Floats, begin: int) -> float:
        """The same with the growth of accepted errors, over the part of the tolerance that they may take.

        Defects of the size of rounding are as large in any run that rounds otherwise than the sequential one, and count
        as they are.
        """
        rounding = residuals <= _ROUNDED * self._settings.rounding
        shown = self.carried(system, np.where(rounding, 0.0, residuals), begin, _STEEPER)
        return self.carried(system, np.where(rounding, residuals, 0.0), begin) + shown / _SEEN


def _summed(added: Floats, log: Floats) -> Floats:
    """Running sums e_{n} = exp(log_n) e_{n-1} + added_n over the last axis."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        total = np.cumsum(log, axis=1)
        return np.exp(np.minimum(total, 600.0)) * np.cumsum(added * np.exp(-total), axis=1)
