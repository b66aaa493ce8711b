"""Rows of states in one buffer, read and written by place and iterate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.host import beside, index_to
from parareal._core.trees import State


class Ring:
    """Holds the states of the last ``depth`` iterates of each numbered place, NaN where there is none.

    Place ``n`` of system ``m`` has the number ``m * per + n``. If only ``keep`` places of a system are held, places
    whose numbers differ by a multiple of ``keep`` share a row; the last one written is there.

    Args:
        like: A tree with a lane axis, leaves ``(L, *state)``, whose shapes, dtypes and device the states take. If
            the first states stored have others, as values of another function may, those count.
        systems: Number of systems.
        per: Places of each.
        keep: How many of them are held at a time; ``None`` for all.
        depth: Iterates kept of each; `put` makes it larger when it must.
    """

    def __init__(self, like: State, systems: int, per: int, keep: int | None = None, depth: int = 1) -> None:
        self._per, self._keep = per, per if keep is None else min(keep, per)
        self._lanes, self.depth, self._places = systems * self._keep, depth, systems * per
        self.tree = self._empty(like)
        self._held = np.full(depth * self._lanes, -1)  # a place plus the number of places times the iterate
        self._device, self._vacant = trees.leaves(like)[0].device, True
        self._read: dict[bytes, State] = {}  # what has been read since the last write: the same rows come again

    def take(self, ids: Ints, iterate: Ints) -> State:
        """Copies of states: later writes do not change them."""
        index = self._index(self._rows(ids, iterate))
        part = trees.lanes(self.tree, index)
        return trees.clone(part) if isinstance(index, slice) else part

    def peek(self, ids: Ints, iterate: Ints) -> State:
        """States for immediate use, which nobody writes to; a view where they are neighbours."""
        rows = self._rows(ids, iterate)
        index = self._index(rows)
        if isinstance(index, slice):
            return trees.lanes(self.tree, index)
        key = rows.tobytes()
        if key not in self._read:
            self._read[key] = trees.lanes(self.tree, index)
        return self._read[key]

    def peek_or_nan(self, ids: Ints, iterate: Ints, part: Callable[[State], State]) -> State:
        """A part of the same, NaN where these iterates of these places are not held, or are negative."""
        rows = self._rows_or_nan(ids, iterate)
        found = self._read.get(rows.tobytes())
        return trees.lanes(part(self.tree), self._index(rows)) if found is None else part(found)

    def put(self, ids: Ints, iterate: Ints, value: State, oldest: Ints | None = None) -> None:
        """Stores states, the last of those that share a row; with ``oldest``, keeps the iterates from that one on."""
        self._read = {}
        if oldest is not None and (span := int((iterate - oldest).max()) + 1) > self.depth:
            self._grow(span)
        if self._vacant:
            self._vacant = False
            if [x.shape[1:] for x in trees.leaves(value)] != [x.shape[1:] for x in trees.leaves(self.tree)]:
                self.tree = self._empty(value)
        rows, held = self._rows(ids, iterate), ids + self._places * iterate
        index = self._index(rows)
        self._held[rows] = held
        if not isinstance(index, slice) and not (stays := self._held[rows] == held).all():
            # Which of two would stay is up to the device, and the gradient of what stays would go to both.
            value = trees.lanes(value, index_to(self._device, stays.nonzero()[0]))
            index = self._index(rows[stays])

        for leaf, new in zip(trees.leaves(self.tree), trees.leaves(value), strict=True):
            if isinstance(index, slice):
                leaf[index] = new
            else:
                leaf.index_copy_(0, beside(index, leaf), new.to(leaf.device))

    def wanted(self, ids: Ints, iterate: Ints) -> list[Ints]:
        """The index that these states are read or written with, if it takes one; see `host.Upload`."""
        return self._index_of(self._rows(ids, iterate))

    def wanted_or_nan(self, ids: Ints, iterate: Ints) -> list[Ints]:
        """The same of `peek_or_nan`."""
        return self._index_of(self._rows_or_nan(ids, iterate))

    def has(self, ids: Ints, iterate: Ints) -> Bools:
        """Whether these iterates of these places are held."""
        return self._held[self._rows(ids, iterate)] == ids + self._places * iterate

    def reserve(self, depth: int) -> None:
        """Makes room for ``depth`` iterates of each place."""
        if depth > self.depth:
            self._read = {}
            self._grow(depth)

    def _empty(self, like: State, depth: int | None = None) -> State:
        """A buffer without states, and one row more, which stays NaN."""
        size = (self.depth if depth is None else depth) * self._lanes + 1
        return trees.map(lambda leaf: leaf.new_full((size, *leaf.shape[1:]), float("nan")), like)

    def _rows(self, ids: Ints, iterate: Ints) -> Ints:
        if self._keep < self._per:
            system, n = np.divmod(ids, self._per)
            ids = system * self._keep + n % self._keep
        return ids if self.depth == 1 else ids + (iterate % self.depth) * self._lanes

    def _rows_or_nan(self, ids: Ints, iterate: Ints) -> Ints:
        there = (iterate >= 0) & self.has(ids, np.maximum(iterate, 0))
        return np.where(there, self._rows(ids, iterate), self.depth * self._lanes)  # that row is never written to

    @staticmethod
    def _index_of(rows: Ints) -> list[Ints]:
        return [] if len(rows) < 2 or bool((np.diff(rows) == 1).all()) else [rows]

    def _index(self, rows: Ints) -> slice | Tensor:
        """Neighbouring rows as a slice, which needs no index tensor and no transfer to the device."""
        first, count = int(rows[0]), len(rows)
        if count == 1 or (int(rows[-1]) - first + 1 == count and bool((np.diff(rows) == 1).all())):
            return slice(first, first + count)
        return index_to(self._device, rows)

    def _grow(self, depth: int) -> None:
        full, depth = (self._held >= 0).nonzero()[0], max(depth, 2 * self.depth)
        iterate = self._held[full] // self._places
        newest = np.argsort(-iterate, kind="stable")  # where rows are shared, these stay
        full, iterate = full[newest], iterate[newest]
        rows, first = np.unique(full % self._lanes + (iterate % depth) * self._lanes, return_index=True)
        full, held = full[first], np.full(depth * self._lanes, -1)
        held[rows] = self._held[full]
        tree = self._empty(self.tree, depth)
        if len(full):
            here, there = (index_to(self._device, index) for index in (full, rows))
            for leaf, former in zip(trees.leaves(tree), trees.leaves(self.tree), strict=True):
                leaf.index_copy_(0, beside(there, leaf), former.index_select(0, beside(here, leaf)))
        self.tree, self._held, self.depth = tree, held, depth  # all at once: Ctrl-C may come at any time
