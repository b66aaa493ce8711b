"""What the moves of a run have shown about each slice: how much the correction misses, and how errors grow.

A boundary *moves* when it takes its next iterate. Two ratios follow from moves:

- the *mismatch* of a slice, |defect of its right boundary| / |move before of its left boundary|: the part of a move
  that the correction missed;
- the *growth* of a slice, |change of its fine solution| / |move of its left boundary|, relative to the sizes of the
  states on both sides.

A correction also says beforehand what it may miss (`Correction.mismatch`). That prior is a model of the problem and may
be false, so it is never trusted alone. A slice without a mismatch of its own gets one from the last few slices that
have one, scaled by the ratio of the priors. Before there are any, its mismatch counts as unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parareal._core.arrays import Bools, Floats, Ints
from parareal.stopping._observations import Start

# The constants were found with benchmarks/rounds.py, and checked with benchmarks/trust.py on other configurations.
_MEMORY = 0.7
"""Weight of an earlier mismatch, or growth, in the next iteration: the last move may have been easy by chance."""
_WEIGHT, _NARROW = 0.8, 0.25
"""Weight of what slices add to the error: many contributions cancel in part. In a narrow window boundaries are accepted
after one or two iterations, so the weight grows by this part of itself with each doubling of the number of windows."""
_WEIGHT_CARRIED = 1.0
"""With a carried multistep history an accepted error enters the next windows once more, so the weight is this times
1 + log2(number of windows)."""
_ROUNDING = 1e-16
"""Lower limit of a mismatch, so that only boundaries that do not move have no error."""
_UNKNOWN = 1e3
"""The mismatch of a slice about which nothing is known: only moves of the size of rounding pass."""
_TRUST, _WITNESSES = 1.3, 3
"""An unseen mismatch is taken for this many times what the nearest slices with a mismatch suggest. There must be at
least the second number of these slices."""
_REACH, _DOUBT = 8.0, 2.0
"""These slices count up to 8 windows away. Each window of distance multiplies the mismatch by the second factor."""
_LEAP = 2.0
"""Where the prior of the last slice is this many times those of the slices before, they say too little about it."""
_FLOOR = 0.5
"""Lower limit of the factor by which other slices may lower the prior of a slice."""
_SMALL, _FAR = 0.1, 30.0
"""Moves up to this part of the state, on both sides of the slice, are small. Where only large moves have shown a
mismatch, it is not trusted for moves that are smaller by the second factor: if F is flat far away, it is too small."""
_FLAT = 2.0
"""Lower limit of the mismatch of such a slice: if F is flat far away, it is steep somewhere else."""
_FINER, _STEEP = 100.0, 0.3
"""The same for a mismatch that small moves have shown, for moves that are smaller by the first factor: between states
that F treats alike there may be a narrow region where it changes, as between the components of a mixture."""
_BENT = 10.0
"""Where growths of two moves of a slice differ by more than this factor, F is far from linear there, and what moves
that are larger by the factor ``_FINER`` have shown says nothing of smaller ones."""
_CLEAR = 30.0
"""A growth is measured only from moves that exceed rounding by this factor."""
_LONG = 0.5
"""A step of order 1 that leaves no more than this part of a move is long for a multistep method."""
_FADING = 0.2
"""Weight of an earlier growth in the sums of one iteration."""
_MOST = 1e3
"""Upper limit of the growth in one slice."""


@dataclass(frozen=True, eq=False)
class Settings:
    """What an error estimate depends on and never changes.

    Attributes:
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        mixed: Whether iterates are mixed, so that defects do not show what was missed of the move before.
        weight: Weight of what slices add to the error.
        rounding: Relative rounding unit of the states.
        clear: Least relative size of a move from which a growth is measured.
        near: Slices from which a mismatch is taken over without doubt.
        prior: What the correction may miss, by its own account, ``(N,)``.
        share: The part of the grid up to each boundary, ``(N + 1,)``.
        relaxations: How many iterates without a correction precede each one that has it.
        blind: How many of the first moves of a boundary show nothing.
        scale: That of the step of order 1 in a multistep method, ``(N,)``; ``None`` where that is unknown.
    """

    rtol: float
    atol: float
    mixed: bool
    weight: float
    rounding: float
    clear: float
    near: int
    prior: Floats
    share: Floats
    relaxations: int = 0
    blind: int = 0
    scale: Floats | None = None

    @cached_property
    def leaps(self) -> bool:
        """Whether the slice at the end must have shown itself what the correction misses: nothing comes after it."""
        before = self.prior[-1 - _WITNESSES : -1]
        return len(before) > 0 and bool(self.prior[-1] > _LEAP * before.max())

    @classmethod
    def of(cls, start: Start, rtol: float, atol: float) -> Settings:
        """Those of a run."""
        slices = len(start.mismatch) + sum(start.outside)
        windows = np.log2(slices / max(1, min(start.width, slices)))
        carried, narrow = _WEIGHT_CARRIED * (1 + windows), _WEIGHT * (1 + _NARROW * windows)
        return cls(
            rtol=rtol,
            atol=atol,
            mixed=start.mixed,
            weight=carried if start.carried else narrow,
            rounding=start.rounding,
            clear=_CLEAR * start.rounding,
            near=max(_WITNESSES, start.width),
            prior=np.maximum(np.nan_to_num(start.mismatch, nan=1.0, posinf=1e300), _ROUNDING),
            share=np.arange(start.outside[0], slices - start.outside[1] + 1) / slices,
            relaxations=start.relaxations,
            blind=start.blind,
            scale=start.scale,
        )

    def gain(self, n: Ints, before: Floats, left: Floats, growing: Sequence[Floats]) -> Floats:
        """What many steps like those of slices ``n`` multiply an error by, in each of them.

        A step of a multistep method makes more of a move whose history does not go with its state, but not again and
        again: in the long run errors are multiplied as by its step of order 1. Where that takes away most of a move,
        the step is so long that the method itself may be unstable, and what it makes of moves counts.

        Args:
            n: The slices.
            before: Moves of left boundaries, with their history.
            left: Sizes of the states there.
            growing: Changes of fine solutions, those of the step of order 1, and moves of left boundaries alone.
        """
        gain = growing[0] / before
        if self.scale is None or len(growing) < 3:
            return gain
        _, first, moved = growing
        lasting = first * self.scale[n] / moved
        known = (moved > self.clear * left) & np.isfinite(lasting)
        return np.where(known & (lasting > _LONG), lasting, gain)


class SliceRecord:
    """Mismatch and growth of each slice, as moves have shown them; all arrays are ``(M, N)``.

    Args:
        settings: What never changes.
        systems: M.

    Attributes:
        mismatch: The mismatch, NaN where no move has shown it.
        first: The first mismatch seen, over the prior.
        gentle: Whether a small move has shown it.
        shown_by: The move that has shown it last.
        growth: The growth of the last move.
        most: The largest of several moves, of small ones where there are any; less than 1 only by what the state grows.
        calm: Whether there are small ones.
        grew: Whether any move has shown a growth.
        moved_by: What the left boundary moved by when the right one moved last.
        low, high: The least and the largest growth that a move has shown.
    """

    def __init__(self, settings: Settings, systems: int) -> None:
        shape = (systems, len(settings.prior))
        self._settings = settings
        self.mismatch = np.full(shape, np.nan)
        self.first = np.full(shape, np.nan)
        self.gentle = np.zeros(shape, dtype=bool)
        self.shown_by = np.zeros(shape)
        self.growth = np.ones(shape)
        self.most = np.ones(shape)
        self.calm = np.zeros(shape, dtype=bool)
        self.grew = np.zeros(shape, dtype=bool)
        self.moved_by = np.zeros(shape)
        self.low = np.full(shape, np.inf)
        self.high = np.zeros(shape)

    def learn(
        self,
        row: Ints,
        n: Ints,
        left: Floats,
        size: Floats,
        defect: Floats,
        growing: Sequence[Floats],
        corrected: Bools,
    ) -> None:
        """Notes what the last moves of left boundaries have shown.

        Args:
            row: The systems.
            n: The slices.
            left: Sizes of the states at left boundaries, NaN where unknown.
            size: Sizes of the states at right boundaries.
            defect: Defects of right boundaries.
            growing: What they show of growth; see `Settings.gain`.
            corrected: Where the correction was applied to these moves. Where it was not, a defect is the whole change.
        """
        before = self.moved_by[row, n]
        left = np.where(left > 0, left, size)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shown = np.where((before > 0) & corrected, defect / before, 0.0)
            shown = np.where(np.isfinite(shown), shown, np.inf)
            known = self.mismatch[row, n]
            ratio = np.fmax(self.first[row, n], shown / self._settings.prior[n])
            grown = self._settings.gain(n, before, left, growing) * left / np.maximum(size, np.finfo(np.float64).tiny)
        new, gentle = shown > 0, (before > 0) & (before <= _SMALL * np.minimum(left, size))
        self.mismatch[row, n] = np.where(new, np.fmax(shown, _MEMORY * known), known)
        self.first[row, n] = np.where(np.isnan(known) & new, ratio, self.first[row, n])
        self.gentle[row, n] |= gentle & new
        self.shown_by[row, n] = np.where(new, before, self.shown_by[row, n])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            shrinks = np.clip(np.nan_to_num(left / size, nan=1.0), 1 / _MOST, _MOST)
        clear = (before > self._settings.clear * left) & np.isfinite(grown)
        self._learn_growth(row, n, grown, np.minimum(shrinks, 1.0), clear, gentle)
        # Where no move has shown what becomes of errors, they are taken to stay as they are, beside a smaller state.
        self.most[row, n] = np.where(self.grew[row, n], self.most[row, n], np.maximum(shrinks, 1.0))

    def _learn_growth(self, row: Ints, n: Ints, grown: Floats, least: Floats, clear: Bools, gentle: Bools) -> None:
        """Notes the growth of moves that are ``clear`` of rounding.

        For errors far behind it counts as ``least`` at least: they do not shrink, but the state grows beside them.
        """
        self.low[row, n] = np.where(clear, np.minimum(self.low[row, n], grown), self.low[row, n])
        self.high[row, n] = np.where(clear, np.maximum(self.high[row, n], grown), self.high[row, n])
        grown = np.where(clear, np.clip(grown, 1 / _MOST, _MOST), 1.0)
        growth, most = self.growth[row, n], np.where(self.grew[row, n], self.most[row, n], 1.0)
        self.growth[row, n] = np.where(clear, np.maximum(grown, _faded(growth, _FADING)), growth)
        grown = np.maximum(grown, least)
        # Large moves count only where there were no small ones.
        calm = self.calm[row, n]
        self.most[row, n] = np.where(clear & (gentle | ~calm), np.maximum(grown, _faded(most, _MEMORY, least)), most)
        self.most[row, n] = np.where(clear & gentle & ~calm, grown, self.most[row, n])
        self.calm[row, n] |= clear & gentle
        self.grew[row, n] |= clear

    def missed(self, row: Ints, n: Ints, moved_by: Floats) -> Floats:
        """The mismatch of slices ``n`` for moves of size ``moved_by``, seen on themselves or on other slices."""
        missed = self.mismatch[row, n]
        unseen = np.isnan(missed)
        # What a large move has shown may be false for small ones: if F is flat far away, it is too small.
        gentle, shown_by = self.gentle[row, n], self.shown_by[row, n]
        doubtful = ~unseen & (shown_by > np.where(gentle, _FINER, _FAR) * moved_by)
        missed = np.where(doubtful, np.maximum(missed, np.where(gentle, _STEEP, _FLAT)), missed)
        bent = self.high[row, n] > _BENT * self.low[row, n]
        missed = np.where(~unseen & bent & (shown_by > _FINER * moved_by), np.maximum(missed, _UNKNOWN), missed)
        prior = self._settings.prior
        for system in np.unique(row[unseen]):
            here = unseen & (row == system)
            shown = (~np.isnan(self.first[system])).nonzero()[0]
            missed[here] = _UNKNOWN
            if len(shown) >= _WITNESSES:
                ratio = self.first[system, shown[-_WITNESSES:]].max()
                away = np.maximum(n - shown[-1], 0) / self._settings.near
                close = here & (away <= _REACH)
                missed[close] = prior[n[close]] * np.maximum(_FLOOR, ratio * _TRUST * _DOUBT ** away[close])
        return np.maximum(missed, _ROUNDING)

    def whole(self, row: Ints, n: Ints, left: Floats, size: Floats) -> Floats:
        """The part of a move that no correction at all misses: all that the slice makes of it."""
        growth = np.maximum(np.maximum(self.growth[row, n], self.most[row, n]), 1.0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(self.grew[row, n], growth * np.where(left > 0, size / left, 1.0), _UNKNOWN)

    def ahead(self, systems: Ints) -> Floats:
        """By how much errors at all boundaries may grow up to any boundary on their right, ``(Q, N + 1)``."""
        log = np.zeros((len(systems), self.most.shape[1] + 1))
        np.cumsum(np.log(self.most[systems]), axis=1, out=log[:, 1:])
        most = np.maximum.accumulate(log[:, ::-1], axis=1)[:, ::-1] - log
        # What shrinks first is not taken to have shrunk in what grows later.
        most = np.maximum.accumulate(most[:, ::-1], axis=1)[:, ::-1]
        return np.exp(np.minimum(most, 400.0))


def _faded(growth: Floats, part: float, least: Floats | float = 1.0) -> Floats:
    """The weight that an earlier growth still has."""
    return least + part * np.maximum(growth - least, 0.0)
