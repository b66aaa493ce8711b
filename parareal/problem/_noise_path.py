"""Noise is a path indexed by an interval of time: the same interval always has the same noise.

The *atoms* of a path are the intervals between neighbouring points. Their increments are independent, and each can be
computed without the others. A step over many atoms takes the sum of theirs, so that coarse and fine propagators see one
path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State

_BUDGET = 1 << 18
"""Most numbers, over all lanes and elements, drawn at once where a step has many atoms. A choice: it limits memory."""


class Parts(NamedTuple):
    """The atoms that L steps run over, at most J of them each.

    Attributes:
        atom: Numbers of the atoms, int64, ``(J, L)``.
        share: The part of each that lies in the step, 0 ... 1, float64, ``(J, L)``.
    """

    atom: Tensor
    share: Tensor


class NoisePath(ABC):
    """A path of Brownian motions over a row of points. Subclasses define the increments of atoms.

    Attributes:
        points: Ends of the atoms, float64, ``(n + 1,)``, strictly rising or strictly falling.

    Inside an atom the path runs straight from one end to the other: the points are its resolution.
    """

    points: Tensor

    @abstractmethod
    def keys(self, samples: int | None) -> Tensor:
        """The keys of the paths of samples, int64, ``(samples, 3)``; for ``None`` of one system, ``(1, 3)``."""

    @abstractmethod
    def draw(self, index: Tensor, like: State, keys: Tensor, area: bool) -> list[Tensor]:
        """The increments of atoms in units of `scale`, independent from atom to atom.

        Args:
            index: Numbers of the atoms, ``(J, L)``.
            like: A tree of leaves ``(L, *shape)``.
            keys: As `keys` gives them, a row for each lane, ``(L, 3)``.
            area: In place of increments, the integrals of the path without its straight part.

        Returns:
            For each leaf of ``like`` float64 ``(J, L, *shape)``.
        """

    @abstractmethod
    def scale(self, index: Tensor, area: bool) -> Tensor:
        """The unit of `draw` in each atom, float64, ``(J, L)``."""

    @abstractmethod
    def check(self, like: State) -> None:
        """Raises where the path has no noise for leaves ``(1, *shape)``."""

    def compared(self) -> dict[str, Any]:
        """What makes it this path, beside its keys: its points, and the fields of a dataclass, but not functions."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.init} if is_dataclass(self) else {}
        return {"points": self.points, **own}

    def increments(
        self,
        t0: Tensor,
        t1: Tensor,
        like: State,
        keys: Tensor | None = None,
        area: bool = False,
        most: int | None = None,
    ) -> Any:
        """The increments W(t1) - W(t0) of L steps.

        Args:
            t0: Where each step begins, float64, ``(L,)``.
            t1: Where it ends, ``(L,)``: not before ``t0`` in the direction of the path.
            like: A tree of leaves ``(L, *shape)``: one Brownian motion for each element. Only shapes, dtypes and the
                device matter; Brownian motions are real where it is complex.
            keys: The rows of `keys` that belong to the lanes, ``(L, 3)``; ``None`` takes that of the first sample.
            area: Whether the integrals of W(s) - W(t0) ds from ``t0`` to ``t1`` are returned as well, jointly exact.
            most: A number of atoms that no step exceeds. ``None`` counts them, which waits for the device.

        Returns:
            A tree of leaves ``(L, *shape)``; with ``area`` a pair of them. The increment of a step is the sum of
            those of its parts, up to rounding.

        Raises:
            ValueError: Without ``most``, a step leaves the path, or runs against its direction.
        """
        parts = self.parts(t0, t1, most)
        weights = weigh(parts.share, self.scale(parts.atom, False))
        if not area:
            return self.weighted(parts, weights, like, keys)
        return self._with_area(parts, weights, like, self._of_lanes(keys, parts))

    def most_atoms(self, t0: Tensor, t1: Tensor) -> int:
        """How many atoms the longest of some steps, ``(L,)``, runs over, known to the host.

        Raises:
            ValueError: A step leaves the path, or runs against its direction.
        """
        points, sign = self._host
        a, b = (sign * t.detach().cpu().numpy() for t in (t0, t1))
        if len(a) == 0:
            return 1
        if not (points[0] <= a.min() and b.max() <= points[-1] and (a <= b).all()):
            first, last = self.points[0].item(), self.points[-1].item()
            raise ValueError(
                f"steps from {t0.min().item():g} ... {t0.max().item():g} to {t1.min().item():g} ... "
                f"{t1.max().item():g} do not lie on the path, which runs from {first:g} to {last:g}; expected steps "
                "inside it and in its direction: make the path from the points of the grid, grid.points, or finer"
            )
        first, last = np.searchsorted(points, a, "right") - 1, np.searchsorted(points, b, "left")
        return max(1, int((last - first).max()))

    def at(self, name: str, device: torch.device) -> Tensor:
        """A tensor of this object on a device, copied once."""
        if (name, device) not in self._moved:
            with torch.inference_mode(False):  # the copy must be usable where gradients are taken, too
                self._moved[name, device] = getattr(self, name).to(device)
        return self._moved[name, device]

    @cached_property
    def _moved(self) -> dict[tuple[str, torch.device], Tensor]:
        return {}

    @cached_property
    def _host(self) -> tuple[np.ndarray[Any, np.dtype[np.float64]], float]:
        """The points with the sign that makes them rise, and that sign."""
        sign = 1.0 if self.points[-1] > self.points[0] else -1.0
        return sign * self.points.numpy(), sign

    def parts(self, t0: Tensor, t1: Tensor, most: int | None = None) -> Parts:
        """The atoms that steps run over; see `increments`."""
        if most is None:
            most = self.most_atoms(t0, t1)
        sign = self._host[1]
        points = self.at("points", t0.device) * sign
        a, b = t0 * sign, t1 * sign
        first = torch.searchsorted(points, a.contiguous(), right=True) - 1
        index = first.clamp(min=0) + torch.arange(most, device=t0.device).unsqueeze(1)
        exists = index < len(points) - 1
        index = index.clamp(max=len(points) - 2)
        left, right = points[index], points[index + 1]
        share = (torch.minimum(b, right) - torch.maximum(a, left)) / (right - left)
        return Parts(index, torch.where(exists, share.clamp(min=0.0), 0.0))

    def weighted(self, parts: Parts, weights: Tensor, like: State, keys: Tensor | None) -> State:
        """Weighted sums over atoms, with weights ``(J, L)``, as a tree like ``like``.

        Atoms are added one after the other, so that the result of a lane does not depend on the others.
        """
        total, keys = _zeros(like), self._of_lanes(keys, parts)
        for now in _chunks(len(weights), like):
            drawn = self.draw(parts.atom[now], like, keys, False)
            for weight, *leaves in zip(weights[now], *drawn, strict=True):
                total = [sums + trees.per_lane(weight, leaf) * leaf for sums, leaf in zip(total, leaves, strict=True)]
        return _as(like, total)

    def _of_lanes(self, keys: Tensor | None, parts: Parts) -> Tensor:
        keys = self.keys(None).to(parts.atom.device) if keys is None else keys
        return keys.expand(parts.atom.shape[1], 3)

    def _with_area(self, parts: Parts, weights: Tensor, like: State, keys: Tensor) -> tuple[State, State]:
        """Increments and areas: an atom adds its own area, plus its length times the increment before it."""
        index, share = parts
        points = self.at("points", share.device)
        lengths = share * (points[index + 1] - points[index])
        bent = weigh(share, self.scale(index, True))
        total, areas = _zeros(like), _zeros(like)
        for now in _chunks(len(weights), like):
            straight, rest = (self.draw(index[now], like, keys, area) for area in (False, True))
            rows = zip(weights[now], bent[now], lengths[now], strict=True)
            for a, (weight, bend, h) in enumerate(rows):
                for i, (line, bow) in enumerate(zip(straight, rest, strict=True)):
                    dw = trees.per_lane(weight, line[a]) * line[a]
                    own = trees.per_lane(bend, bow[a]) * bow[a] + trees.per_lane(h, dw) * (total[i] + 0.5 * dw)
                    total[i], areas[i] = total[i] + dw, areas[i] + own
        return _as(like, total), _as(like, areas)


def weigh(share: Tensor, unit: Tensor) -> Tensor:
    """``share * unit``, zero where the share is, also of infinite units."""
    return torch.where(share > 0, share * unit, 0.0)


def _chunks(atoms: int, like: State) -> Iterator[slice]:
    numbers = max(1, sum(leaf.numel() for leaf in trees.leaves(like)))
    size = max(1, _BUDGET // numbers)
    return (slice(i, i + size) for i in range(0, atoms, size))


def _zeros(like: State) -> list[Tensor]:
    return [torch.zeros(leaf.shape, dtype=torch.float64, device=leaf.device) for leaf in trees.leaves(like)]


def _as(like: State, sums: list[Tensor]) -> State:
    """Sums in the real dtypes of a tree."""
    pairs = zip(sums, trees.leaves(like), strict=True)
    return trees.rebuild([total.to(leaf.dtype.to_real()) for total, leaf in pairs], like)
