"""The flow of Gaussian data in the coordinates of one problem and for states of one shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.equations._coordinates import Coordinates
from diffusion_adapters.sampling._gaussian_bases import Basis, Elements
from parareal.extend import Ints, Slices, Table, to_device


@dataclass(frozen=True, eq=False)
class BoundGaussian(pr.Whitened):
    """The flow for one problem and shape: whitened, a state is one of unit variance in the eigenvectors of C.

    Samplers that add noise contract more: with the noise of DDPM a difference in u/a changes as the variance does, not
    as the standard deviation; with a part eta of it, as the power (1 + eta^2)/2 of the variance.
    """

    coordinates: Coordinates
    basis: Basis
    variances: Tensor
    mean: Tensor
    edges: Tensor | None
    level: float
    eta: float = 0.0
    _longest: list[int] = field(default_factory=lambda: [0], init=False, repr=False)
    _tables: list[Table] = field(default_factory=list[Table], init=False, repr=False)

    def divisor(self, t: Tensor) -> Tensor | None:
        """The standard deviation, where it is one for all elements."""
        if not isinstance(self.basis, Elements) or self.variances.numel() > 1:
            return None
        return self._deviation(t, t, self.variances.to(t.device).reshape(()))

    def whiten(self, t: Tensor, u: Tensor) -> Tensor:
        """The state in units of its standard deviations at ``t``."""
        w = self.basis.to(u)
        return w / self._deviation(t, w)

    def unwhiten(self, t: Tensor, w: Tensor) -> Tensor:
        """The inverse of `whiten`."""
        return self.basis.back(w * self._deviation(t, w))

    def dual(self, t: Tensor, b: Tensor) -> Tensor:
        """The state times the standard deviations."""
        w = self.basis.to(b)
        return w * self._deviation(t, w)

    def guess(self, at: Any, new: pr.Known) -> Tensor:
        """The whole flow, about the mean."""
        a0, a1 = (_like(self.coordinates.shares(t)[0], new.u) for t in (at.t0, at.t1))
        mean = self.mean.to(new.u.dtype)
        return a1 * mean + self.apply(at, new.u - a0 * mean)

    def guess_run(self, at: Any, u: Tensor, before: tuple[pr.Edge, ...]) -> Tensor:
        """All boundaries at once: the whole flow about the mean, or an extrapolation of the x0 of earlier boundaries.

        Along the flow of a Gaussian of any mean, x0 is linear in p = a/(a^2 v + b^2)^(1/2). So a line through the x0 of
        the last two slices gives those of the slices to come.
        """
        if before and self.eta == 0.0:  # with noise put back, differences of states say little of x0
            if self.edges is not None and getattr(at, "n", None) is not None and len(before) == 2:
                return self._combined(self.edges, at.n, u, before)
            return self._continued(at, u, before)
        self._expect(at.shape[1])
        start, ends = at.t0[:, 0], at.t1
        a0, a1 = self.coordinates.shares(start)[0], self.coordinates.shares(ends)[0]
        mean = self.basis.to(self.mean.to(u.dtype).expand(u.shape))
        w = (self.basis.to(u) - _like(a0, u) * mean) / self._deviation(start, u)
        return self.basis.back(w.unsqueeze(1) * self._deviation(ends, u.unsqueeze(1)) + _outer(a1, mean))

    def _combined(self, edges: Tensor, n: Ints, u: Tensor, before: tuple[pr.Edge, ...]) -> Tensor:
        """`_continued` in one product: it is linear in three states, with factors that depend on the grid alone."""
        rows, length = n.shape
        states = torch.stack([u, *(edge.u for edge in before)], 1)
        table = self._table_for(edges, length)
        if table is None:
            factors = to_device(self._factors(edges, n), u.device, u.dtype)
        else:
            factors = table.rows(n[:, 0], u.device, u.dtype)[:, :length]
        return (factors @ states.flatten(2)).reshape(rows, length, *u.shape[1:])

    def _factors(self, edges: Tensor, n: Ints) -> Tensor:
        """What `_continued` makes of unit states on rows of slices n, ``(R, L)``, on the host: ``(R, L, 3)``."""
        units = torch.eye(3, dtype=torch.float64).unsqueeze(1).expand(3, len(n), 3)
        nearest = (np.maximum(n[:, 0] - back, 0) for back in (1, 2))
        there = (pr.Edge(edges[torch.from_numpy(at)], unit) for at, unit in zip(nearest, units[1:], strict=True))
        return self._continued(Slices(edges, n), units[0], tuple(there))

    def _expect(self, length: int) -> None:
        """Notes how long rows may be: first guesses for a whole window come first."""
        if self._longest[0] < length:
            self._longest[:] = [length]
            self._tables.clear()

    def _table_for(self, edges: Tensor, length: int) -> Table | None:
        """The factors of rows from every slice on, as long as any row so far; ``None`` where they would be too many."""
        self._expect(length)
        starts, columns = np.arange(len(edges) - 1), np.arange(self._longest[0])
        if len(starts) * len(columns) > _MOST:
            return None
        if not self._tables:
            n = np.minimum(starts[:, None] + columns, len(starts) - 1)
            self._tables.append(Table(self._factors(edges, n)))
        return self._tables[0]

    def _continued(self, at: Any, u: Tensor, before: tuple[pr.Edge, ...]) -> Tensor:
        start = at.t0[:, 0]
        edges = [pr.Edge(start, u), *before]
        x0: list[Tensor] = []
        for right, left in pairwise(edges):
            step = _like(right.t - left.t, u)
            slope = torch.where(step != 0, (right.u - left.u) / torch.where(step != 0, step, 1.0), 0.0)
            x0.append(self.coordinates.split(right.t, right.u, slope)[0])
        p = [self._rise(edge.t) for edge in edges]
        gap = _like(p[1] - p[2], u)
        rise = torch.where(gap != 0, (x0[0] - x0[1]) / torch.where(gap != 0, gap, 1.0), 0.0)
        # In y = u/b a slice adds x0 (a'/b' - a/b), so that all of them are two cumulative sums.
        (a0, b0), (a1, b1) = self.coordinates.shares(at.t0), self.coordinates.shares(at.t1)
        b0, b1 = b0.clamp_min(_LEAST), b1.clamp_min(_LEAST)
        weight = a1 / b1 - a0 / b0
        level, tilt = weight.cumsum(1), (weight * (self._rise(at.t0) - p[1][:, None])).cumsum(1)
        y = _like(1 / b0[:, 0], u) * u
        grown = y.unsqueeze(1) + _outer(level, x0[0]) + _outer(tilt, rise)
        return _like(b1, grown) * grown

    def _rise(self, t: Tensor) -> Tensor:
        a, b = self.coordinates.shares(t)
        return a / (a * a * self.level + b * b).clamp_min(_LEAST).sqrt()

    def clock(self, t: Tensor) -> Tensor:
        """The logarithm of the ratio of noise to signal."""
        a, b = self.coordinates.shares(t)
        return (b.clamp_min(_LEAST) / a.clamp_min(_LEAST)).log()

    def weight(self, at: Any) -> Tensor:
        """The part of x0 that enters in a slice."""
        (a0, b0), (a1, b1) = self.coordinates.shares(at.t0), self.coordinates.shares(at.t1)
        return a1 - a0 * b1 / b0

    def mismatch(self, at: Any) -> Tensor:
        """The part of x0 that enters in a slice, or leaves it where noise rises, times the part that may be missed.

        The more noise there is, the smaller the latter.
        """
        a, b = self.coordinates.shares(at.t0)
        return self.weight(at).abs() * _DOUBT * a * a / (_DOUBT * a * a + b * b)

    def _deviation(self, t: Tensor, like: Tensor, variances: Tensor | None = None) -> Tensor:
        """Standard deviations of u at ``t``, of shape ``(*t, *rest)`` or what broadcasts to it."""
        a, b = (share.reshape(*t.shape, *[1] * (like.ndim - t.ndim)) for share in self.coordinates.shares(t))
        deviation = (a * a * (self.variances if variances is None else variances) + b * b).clamp_min(_LEAST).sqrt()
        if self.eta > 0.0:
            deviation = deviation * (deviation / a.clamp_min(_LEAST)) ** (self.eta * self.eta)
        return deviation.to(like.dtype)


_LEAST = 1e-12
"""Lower limit of a variance of u, where neither noise nor data is left. A choice."""


_MOST = 16384
"""Most slices of all rows of which factors are kept. A choice: they take half a megabyte."""


_DOUBT = 30.0
"""The ratio of noise to signal, in variance, at which half of a change may be missed. It is larger than for most data,
since guided models react more strongly: see ``benchmarks/constants.py``."""


def _outer(weights: Tensor, leaf: Tensor) -> Tensor:
    """Numbers ``(R, L)`` times states ``(R, *rest)``: ``(R, L, *rest)``."""
    return _like(weights, leaf.unsqueeze(1)) * leaf.unsqueeze(1)


def _like(scalars: Tensor, leaf: Tensor) -> Tensor:
    """Numbers for the leading axes of ``leaf``, in its dtype."""
    return scalars.to(leaf.dtype).reshape(*scalars.shape, *[1] * (leaf.ndim - scalars.ndim))
