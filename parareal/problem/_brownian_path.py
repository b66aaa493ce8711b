"""Brownian paths that are a function of a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.philox import WORD, normals
from parareal._core.trees import State
from parareal.grid._time_grid import TimeGrid
from parareal.problem._noise_path import NoisePath, weigh


@dataclass(frozen=True, eq=False)
class BrownianPath(NoisePath):
    """Brownian motions that are a function of a seed: nothing is stored, any increment can be computed at any time.

    Over atom i, in the direction of the points, W grows by sqrt(|clock(points[i+1]) - clock(points[i])|) N_i. The
    normals N_i come from the counter-based generator Philox4x32-10 with the seed as key, and sample, atom and element
    as counter. They are the same on any number of lanes, in any order, and on any device up to rounding.

    Args:
        points: Ends of the atoms, float64, ``(n + 1,)``, strictly rising or strictly falling.
        seed: An int, 0 ... 2^64 - 1: sample i of a batch then has a path of its own, decided by the seed and i. Or one
            for each sample, whose path is then that of a single system with its seed.
        clock: Variance as a function of time, monotone: float64 times ``(n + 1,)`` to as many values, which may be
            infinite at either end. ``None`` stands for time itself.

    Raises:
        TypeError: ``points`` is not a tensor of real numbers, or ``seed`` not an int.
        ValueError: ``points`` are not strictly monotone, ``clock`` is not monotone, or ``seed`` is out of range.

    Source:
        Parallel random numbers: as easy as 1, 2, 3 (SC 2011), for Philox. The area has the joint law of E. Platen,
        P. Kloeden, Numerical Solution of Stochastic Differential Equations (Springer, 1992), section 10.4.

    Examples:
        >>> import torch
        >>> path = BrownianPath(torch.linspace(0.0, 1.0, 9), seed=7)
        >>> t0, t1 = torch.tensor([[0.0, 0.0, 0.5], [1.0, 0.5, 1.0]], dtype=torch.float64)
        >>> whole, left, right = path.increments(t0, t1, torch.zeros(3, 2))
        >>> torch.allclose(whole, left + right)
        True
    """

    points: Tensor
    seed: int | Sequence[int] = 0
    clock: Callable[[Tensor], Tensor] | None = None
    lengths: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", TimeGrid.from_points(self.points, 1).points)
        for seed in self._seeds:
            if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
                raise TypeError(f"seed={self.seed!r} holds {described(seed)}; expected an int, or some of them")
            if not 0 <= seed < 1 << 64:
                raise ValueError(f"seed={seed} is out of range; expected 0 ... 2**64 - 1")
        object.__setattr__(self, "lengths", _lengths(self.points, self.clock))

    @property
    def _seeds(self) -> tuple[int, ...]:
        return tuple(self.seed) if isinstance(self.seed, Sequence) else (self.seed,)

    def keys(self, samples: int | None) -> Tensor:
        """See `NoisePath.keys`."""
        return brownian_keys(self.seed, samples)

    def compared(self) -> dict[str, Any]:
        """See `NoisePath.compared`: the variances stand for the clock, and keys for the seed."""
        own = {name: part for name, part in super().compared().items() if name not in ("seed", "clock")}
        return {**own, "lengths": self.lengths}

    def check(self, like: State) -> None:
        """Any noise will do."""

    def draw(self, index: Tensor, like: State, keys: Tensor, area: bool) -> list[Tensor]:
        """Standard normals; those of areas are a stream of their own."""
        leaves = trees.leaves(like)
        sizes = [leaf[:1].numel() if len(leaf) else 0 for leaf in leaves]
        drawn = normals(keys, index, sum(sizes), stream=int(area)).split(sizes, -1)
        return [part.reshape(len(index), *leaf.shape) for part, leaf in zip(drawn, leaves, strict=True)]

    def scale(self, index: Tensor, area: bool) -> Tensor:
        """Standard deviations: sqrt(|h|), and of the area beside h dW / 2, h sqrt(|h| / 12)."""
        lengths = self.at("lengths", index.device)[index]
        if not area:
            return lengths.sqrt()
        if self.clock is not None:
            raise ValueError(
                "the areas of a path with a clock were asked for; expected time itself as its clock, clock=None, for "
                "methods that integrate the path over time, such as pr.SRA1()"
            )
        points = self.at("points", index.device)
        return (points[index + 1] - points[index]) * (lengths / 12).sqrt()

    def normals(
        self, t0: Tensor, t1: Tensor, like: State, keys: Tensor | None = None, most: int | None = None
    ) -> State:
        """The increments of L steps, each divided by its standard deviation: standard normals.

        Over a single atom that is its N_i. Over several it is the sum of sqrt(l_i / l) N_i, with l_i their lengths in
        the clock and l those of all, also where one is infinite and takes all the weight. See `increments`.
        """
        index, share = parts = self.parts(t0, t1, most)
        variance = weigh(share, self.at("lengths", share.device)[index])
        variance = torch.where((variance == 0).all(0), share, variance)  # the clock stands still
        endless = torch.isinf(variance)
        variance = torch.where(endless.any(0), endless.to(torch.float64), variance)
        total = variance[0]
        for row in variance[1:]:  # one after the other: the sum of a lane does not depend on the others
            total = total + row
        weights = torch.where(variance > 0, (variance / total).sqrt(), 0.0)
        return self.weighted(parts, weights, like, keys)


def brownian_keys(seed: int | Sequence[int], samples: int | None) -> Tensor:
    """Rows that decide paths, int64, ``(samples, 3)``, or ``(1, 3)`` for ``None``: two words of a seed and a sample.

    A sample with a seed of its own has number 0, as a single system has.

    Raises:
        ValueError: There are several seeds, and another number of samples.
    """
    if isinstance(seed, Sequence):
        if len(seed) != (1 if samples is None else samples):
            many = "one system; say samples=True where there are more" if samples is None else f"{samples} samples"
            raise ValueError(f"there are {len(seed)} seeds or generators for {many}; expected one for each, or one int")
        rows = [(s, 0) for s in seed]
    else:
        rows = [(seed, i) for i in range(1 if samples is None else samples)]
    return torch.tensor([(s & WORD, s >> 32, i) for s, i in rows], dtype=torch.int64).reshape(-1, 3)


def _lengths(points: Tensor, clock: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Variances of the atoms, float64, ``(n,)``."""
    if clock is None:
        return points.diff().abs()
    values = clock(points.clone())
    if not isinstance(values, Tensor) or values.shape != points.shape or values.dtype != torch.float64:
        came = f"{tuple(values.shape)} of {values.dtype}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"clock returned {came} for {len(points)} times; expected float64, ({len(points)},)")
    steps = values.detach().to("cpu").diff()
    if not (bool((steps >= 0).all()) or bool((steps <= 0).all())):
        raise ValueError(
            f"clock runs from {values[0].item():g} to {values[-1].item():g}, but not monotonely or with NaN; expected "
            "a variance that only grows, or only falls, over the points"
        )
    return steps.abs()
