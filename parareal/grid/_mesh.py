"""Slices and their points as the engine asks for them: many at once, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from parareal._core.host import entries, known
from parareal.grid._time_grid import TimeGrid


@dataclass(frozen=True, eq=False)
class Mesh:
    """The time points that one propagator visits: ``points[start[n]] ... points[start[n] + count[n]]`` in slice n.

    ``points`` lies on the device of the state, and ``on_host`` has the same on the host. ``start`` and ``count`` are
    numpy, for the engine's bookkeeping.
    """

    points: Tensor
    on_host: Tensor
    start: np.ndarray[Any, np.dtype[np.int64]]
    count: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def build(cls, grid: TimeGrid, steps: int | None, device: torch.device) -> Mesh:
        """The grid's own points for ``steps=None``, else ``steps`` uniform steps in each slice, exact at boundaries."""
        bounds = np.asarray(grid.bounds, dtype=np.int64)
        if steps is None:
            return cls(grid.points.to(device), grid.points, bounds[:-1], np.diff(bounds))
        edges = grid.edges.numpy()
        left, right = edges[:-1, None], edges[1:, None]
        points = left + (right - left) * (np.arange(steps + 1) / steps)
        points[:, -1] = edges[1:]
        start = np.arange(grid.num_slices, dtype=np.int64) * (steps + 1)
        flat = torch.from_numpy(points.reshape(-1))
        return cls(flat.to(device), flat, start, np.full(grid.num_slices, steps))

    def times(self, at: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """The points of these numbers, ``(L,)``, known on the host as well."""
        found = entries(self.points, at)
        return found if found.device.type == "cpu" else known(found, entries(self.on_host, at))


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
    """The slices of L lanes, or of R rows of L: where each starts and ends, looked up only when asked for.

    Attributes:
        n: Numbers of the slices, ``(L,)`` or ``(R, L)``, on the host: what depends on the grid alone can be looked up
            there, without an operation on the device.
    """

    def __init__(self, edges: Tensor, n: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        self._edges, self.n = edges, n
        self._looked_up: list[Tensor | None] = [None, None]

    def column(self, i: int) -> Span:
        """Of rows, slice ``i`` of each."""
        return Span(self._edges, self.n[:, i])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `t0` and `t1`: ``(L,)`` or ``(R, L)``."""
        return self.n.shape

    @property
    def t0(self) -> Tensor:
        """Times at the left boundaries, float64, of this shape."""
        return self._at(0)

    @property
    def t1(self) -> Tensor:
        """Times at the right boundaries, float64, of this shape."""
        return self._at(1)

    def _at(self, side: int) -> Tensor:
        found = self._looked_up[side]
        if found is None:
            found = self._looked_up[side] = entries(self._edges, self.n + side)
        return found
