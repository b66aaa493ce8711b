"""Slices and their points as the engine asks for them: many at once, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from parareal.grid._time_grid import TimeGrid


@dataclass(frozen=True, eq=False)
class Mesh:
    """The time points that one propagator visits: ``points[start[n]] ... points[start[n] + count[n]]`` in slice n.

    ``points`` lies on the device of the state; ``start`` and ``count`` are numpy, for the engine's bookkeeping.
    """

    points: Tensor
    start: np.ndarray[Any, np.dtype[np.int64]]
    count: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def build(cls, grid: TimeGrid, steps: int | None, device: torch.device) -> Mesh:
        """The grid's own points for ``steps=None``, else ``steps`` uniform steps in each slice, exact at boundaries."""
        bounds = np.asarray(grid.bounds, dtype=np.int64)
        if steps is None:
            return cls(grid.points.to(device), bounds[:-1], np.diff(bounds))
        edges = grid.edges.numpy()
        left, right = edges[:-1, None], edges[1:, None]
        points = left + (right - left) * (np.arange(steps + 1) / steps)
        points[:, -1] = edges[1:]
        start = np.arange(grid.num_slices, dtype=np.int64) * (steps + 1)
        return cls(torch.from_numpy(points.reshape(-1)).to(device), start, np.full(grid.num_slices, steps))


class Where(Protocol):
    """The slices of L lanes: ``t0`` and ``t1``, float64, shape ``(L,)``, or ``(R, L)`` for rows of them."""

    @property
    def t0(self) -> Tensor: ...

    @property
    def t1(self) -> Tensor: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

    def column(self, i: int) -> Where:
        """Slice ``i`` of each row."""
        ...


class Span:
    """The slices of L lanes, or of R rows of L: where each starts and ends, looked up only when asked for."""

    def __init__(self, edges: Tensor, n: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        self._edges, self._n = edges, n

    def column(self, i: int) -> Span:
        """Slice ``i`` of each row."""
        return Span(self._edges, self._n[:, i])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `t0` and `t1`: ``(L,)`` or ``(R, L)``."""
        return self._n.shape

    @property
    def t0(self) -> Tensor:
        """Times at the left boundaries, float64, shape ``(L,)``."""
        return self._edges[torch.from_numpy(self._n).to(self._edges.device)]

    @property
    def t1(self) -> Tensor:
        """Times at the right boundaries, float64, shape ``(L,)``."""
        return self._edges[torch.from_numpy(self._n + 1).to(self._edges.device)]
