"""Numbers at the points of a grid, looked up by their times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal.extend import Table, values_of


class PointTable:
    """Functions of the time alone at all points of a grid, computed once, and sent once to each device.

    Args:
        points: The points, float64, monotone, ``(P,)``.
        fn: Gives the numbers at some times: tensors of the shape of the times, or floats.
    """

    def __init__(self, points: Tensor, fn: Callable[[Tensor], Sequence[Tensor | float]]) -> None:
        points = points.detach().cpu()
        rising = len(points) < 2 or bool(points[-1] > points[0])
        self._sign = 1.0 if rising else -1.0
        self._keys = points.numpy() * self._sign
        self._columns, self._table = list(fn(points)), None
        tensors = [column for column in self._columns if isinstance(column, Tensor)]
        # What is learned has a graph, and what a schedule gives in another dtype keeps it: those are not looked up.
        if all(column.dtype == torch.float64 and not column.requires_grad for column in tensors):
            self._table = Table(torch.stack([column.expand(len(points)) for column in tensors], 1))

    def at(self, t: Tensor) -> list[Any] | None:
        """The numbers at times ``t``, ``(L,)``; ``None`` where one is not a point, or the host does not know them."""
        values = values_of(t)
        if self._table is None or values.device.type != "cpu" or values.requires_grad or values.ndim != 1:
            return None
        try:
            asked = values.numpy() * self._sign
        except RuntimeError:  # under a transform of torch.func
            return None
        found = np.searchsorted(self._keys, asked)
        if not (self._keys[np.minimum(found, len(self._keys) - 1)] == asked).all():
            return None
        parts = iter(self._table.rows(found, t.device).unbind(1))
        return [next(parts) if isinstance(column, Tensor) else column for column in self._columns]
