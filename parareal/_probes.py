"""Lanes beside the first ones of a window, which show whether a free correction's prior can be trusted here.

In the first iteration nothing is known of what the correction misses but its own prior (`Correction.mismatch`), which
is a model of the problem. So that the slices at the start of a narrow window need not be solved a second time to find
out, a few of its lanes solve slices from states that are a little off: F(u + d) - F(u) - J d is what is missed of d.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parareal import _tree
from parareal._correction import Known
from parareal._flight import Flight
from parareal._grid import Span
from parareal._iterates import Iterates
from parareal._norm import NormName, norm
from parareal._schedule import Floats, Ints

COUNT = 3
"""Probes of each system, and so slices that the first window is narrower by."""
_SIZE = 1e-2
"""Of the change that is tried, as a part of the state: about that of first moves in benchmarks/rounds.py."""


class Probes:
    """Probes of M systems.

    Args:
        flight: What solves them, used for nothing else.
        iterates: The run's, with first guesses in place.
        rows: Per-sample data as systems, or ``None``.
        times: The slice boundaries.
    """

    def __init__(self, flight: Flight, iterates: Iterates, rows: Any, times: torch.Tensor) -> None:
        self.flight, self._it, self._times = flight, iterates, times
        last = iterates.width - iterates.spared - 1
        at = np.unique(np.linspace(last / COUNT, last, COUNT).round().astype(np.int64).clip(1))
        self.system, self.n = (each.reshape(-1) for each in np.meshgrid(np.arange(iterates.systems), at, indexing="ij"))
        number = iterates.held[self.system, self.n]
        self._u = iterates.u.take(self.system * (iterates.slices + 1) + self.n, number)
        self._off = _tree.map(_off, self._u)
        data = None
        if rows is not None:
            data = _tree.lanes(rows, torch.from_numpy(self.system).to(iterates.device))
        flight.launch(self.system * iterates.slices + self.n, self.n, self._off, data)

    def shown(self, kind: NormName) -> tuple[Ints, Ints, Floats] | None:
        """Systems, slices and mismatches, once all lanes have arrived."""
        it, arrived = self._it, self.flight.arrived
        place = self.system * it.slices + self.n
        solved = it.fine_done[self.system, self.n] >= 0
        if sum(len(ids) for ids, _ in arrived) < len(place) or not solved.all():
            return None
        ids = np.concatenate([one for one, _ in arrived])
        order = np.argsort(ids)[np.argsort(np.argsort(place))]
        value = _tree.lanes(_tree.cat([state for _, state in arrived]), torch.from_numpy(order).to(it.device))
        f = it.f.peek(place, it.fine_done[self.system, self.n])
        change = it.correction.difference(Span(self._times, self.n), Known(self._off, None), Known(self._u, None))
        missed = _tree.sub(value, f)
        missed = missed if change is None else _tree.sub(missed, change)
        ratio = norm(missed, kind) / norm(_tree.sub(self._off, self._u), kind)
        return self.system, self.n, ratio.cpu().numpy()


def _off(leaf: torch.Tensor) -> torch.Tensor:
    """A state that is a little off in a direction drawn at random, always the same."""
    generator = torch.Generator().manual_seed(0)
    kick = torch.randn(leaf.shape[1:], generator=generator, dtype=torch.float64).to(leaf)
    size = torch.linalg.vector_norm(leaf.reshape(len(leaf), -1), dim=1) / max(1, leaf[0].numel()) ** 0.5
    return leaf + _SIZE * size.reshape(-1, *[1] * (leaf.ndim - 1)) * kick
