"""Rows of states in one buffer, read and written by lane number and iterate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parareal import _tree
from parareal._schedule import Ints
from parareal._tree import State


class Ring:
    """For each of ``lanes`` numbered places the states of its last ``depth`` iterates, NaN where there is none.

    Args:
        like: A tree with a lane axis, leaves ``(L, *state)``, whose shapes, dtypes and device the states take.
        lanes: Number of places.
        depth: Iterates kept of each; `put` makes it larger when it must.
    """

    def __init__(self, like: State, lanes: int, depth: int = 1) -> None:
        self.lanes, self.depth = lanes, depth
        self.tree = _tree.map(lambda leaf: leaf.new_full((depth * lanes, *leaf.shape[1:]), float("nan")), like)
        self._iterate = np.full(depth * lanes, -1)
        self._device = _tree.leaves(like)[0].device

    def take(self, ids: Ints, iterate: Ints) -> State:
        """A copy: later writes do not reach it."""
        index = self._index(self._rows(ids, iterate))
        part = _tree.lanes(self.tree, index)
        return _tree.clone(part) if isinstance(index, slice) else part

    def peek(self, ids: Ints, iterate: Ints) -> State:
        """States to be read at once; a view where they are neighbours."""
        return _tree.lanes(self.tree, self._index(self._rows(ids, iterate)))

    def put(self, ids: Ints, iterate: Ints, value: State, oldest: Ints | None = None) -> None:
        """Stores states; with ``oldest``, the iterates from that one on are kept."""
        if oldest is not None and (span := int((iterate - oldest).max()) + 1) > self.depth:
            self._grow(span)
        rows = self._rows(ids, iterate)
        index = self._index(rows)
        self._iterate[rows] = iterate

        for leaf, new in zip(_tree.leaves(self.tree), _tree.leaves(value), strict=True):
            if isinstance(index, slice):
                leaf[index] = new
            else:
                leaf.index_copy_(0, index, new)

    def _rows(self, ids: Ints, iterate: Ints) -> Ints:
        return ids if self.depth == 1 else ids + (iterate % self.depth) * self.lanes

    def _index(self, rows: Ints) -> slice | Tensor:
        """Neighbouring rows are a slice, which costs neither an index tensor nor its way to the device."""
        first, count = int(rows[0]), len(rows)
        if count == 1 or (int(rows[-1]) - first + 1 == count and bool((np.diff(rows) == 1).all())):
            return slice(first, first + count)
        return torch.from_numpy(rows).to(self._device)

    def _grow(self, depth: int) -> None:
        held = (self._iterate >= 0).nonzero()[0]
        iterate, old = self._iterate[held], self.tree
        self.depth = max(depth, 2 * self.depth)
        self._iterate = np.full(self.depth * self.lanes, -1)
        self.tree = _tree.map(
            lambda leaf: leaf.new_full((self.depth * self.lanes, *leaf.shape[1:]), float("nan")), self.tree
        )
        if len(held):
            self.put(held % self.lanes, iterate, _tree.lanes(old, torch.from_numpy(held).to(self._device)))
