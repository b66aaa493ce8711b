"""Rows of states in one buffer, read and written by number."""

from __future__ import annotations

import torch
from torch import Tensor

from parareal import _tree
from parareal._schedule import Ints
from parareal._tree import State


class Rows:
    """A buffer of ``count`` states, leaves ``(count, *state)``, filled with NaN.

    Args:
        like: A tree with a lane axis, leaves ``(L, *state)``, whose shapes, dtypes and device the rows take.
        count: Number of rows.
    """

    def __init__(self, like: State, count: int) -> None:
        self.tree = _tree.map(lambda leaf: leaf.new_full((count, *leaf.shape[1:]), float("nan")), like)
        self._device = _tree.leaves(like)[0].device

    def take(self, rows: Ints) -> State:
        """A copy of some rows: later writes do not reach it."""
        index = self._index(rows)
        if isinstance(index, slice):
            return _tree.map(lambda leaf: leaf[index].clone(), self.tree)
        return _tree.lanes(self.tree, index)

    def peek(self, rows: Ints) -> State:
        """Some rows to be read at once; a view where they are neighbours."""
        return _tree.lanes(self.tree, self._index(rows))

    def put(self, rows: Ints, value: State) -> None:
        """Overwrites some rows."""
        index = self._index(rows)

        def write(leaf: Tensor, new: Tensor) -> Tensor:
            if isinstance(index, slice):
                leaf[index] = new
            else:
                leaf.index_copy_(0, index, new)
            return leaf

        _tree.map(write, self.tree, value)

    def _index(self, rows: Ints) -> slice | Tensor:
        """Neighbouring rows are a slice, which costs neither an index tensor nor its way to the device."""
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 == len(rows):
            return slice(first, last + 1)
        return torch.from_numpy(rows).to(self._device)
