"""A time grid is a row of strictly monotone points, some of which are slice boundaries.

Slices run in parallel; the points inside a slice are the fine steps. Time may fall as well as rise: every step length
has a sign.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core.checks import check_count, described, kind_of


@dataclass(frozen=True, eq=False)
class TimeGrid:
    """Fine time points and which of them are slice boundaries. Build one with `uniform`, `from_points` or `from_edges`.

    Attributes:
        points: All time points, float64, shape ``(num_steps + 1,)``, strictly rising or strictly falling.
        bounds: Indices into ``points`` of the slice boundaries, rising from 0 to ``num_steps``.
        given: The points with their graph, if they came with one; ``points`` has none. Only
            ``solve(..., gradients="adjoint")`` gives gradients with respect to times.

    Raises:
        TypeError: ``points`` is not a one-dimensional tensor or numpy array of real numbers.
        ValueError: Points repeat, change direction, or are not finite; bounds do not rise from 0 to the last point.

    Examples:
        >>> import torch
        >>> grid = TimeGrid.from_points(torch.linspace(1.0, 0.0, 11), slices=3)
        >>> grid.num_slices, grid.num_steps, grid.steps_per_slice
        (3, 10, (4, 3, 3))
    """

    points: Tensor
    bounds: tuple[int, ...]
    given: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        given, points = self.points, _as_points(self.points, "points")
        if isinstance(given, Tensor) and given.requires_grad and torch.is_grad_enabled():  # pyright: ignore
            object.__setattr__(self, "given", given.to(device="cpu", dtype=torch.float64))
        bounds = tuple(int(b) for b in self.bounds)
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != len(points) - 1 or any(np.diff(bounds) < 1):
            raise ValueError(
                f"bounds={bounds} do not rise from 0 to {len(points) - 1}, the index of the last point; "
                "use TimeGrid.from_points(points, slices=...) to have them chosen"
            )
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "bounds", bounds)

    @classmethod
    def uniform(cls, t0: float, t1: float, slices: int, steps: int = 1) -> TimeGrid:
        """``slices`` equal slices of ``steps`` equal fine steps each, from ``t0`` to ``t1``.

        Raises:
            TypeError: ``slices`` or ``steps`` is not an int.
            ValueError: Either is below 1, or ``t0`` and ``t1`` are equal or not finite.
        """
        check_count(slices, "slices")
        check_count(steps, "steps")
        ends = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (t0, t1))
        given, (t0, t1) = (t0, t1), (_as_number(t0, "t0"), _as_number(t1, "t1"))
        if not (np.isfinite(t0) and np.isfinite(t1)) or t0 == t1:
            raise ValueError(f"t0={t0} and t1={t1} span no interval; expected two different finite numbers")
        points = torch.from_numpy(np.linspace(t0, t1, slices * steps + 1))
        grid = cls(points, tuple(range(0, slices * steps + 1, steps)))
        if ends:
            first, last = (torch.as_tensor(t).to(device="cpu", dtype=torch.float64) for t in given)
            share = torch.linspace(0.0, 1.0, len(points), dtype=torch.float64)
            object.__setattr__(grid, "given", first * (1 - share) + last * share)
        return grid

    @classmethod
    def from_points(cls, points: Tensor, slices: int | None = None) -> TimeGrid:
        """Any strictly monotone points, cut into ``slices`` slices that differ by at most one step.

        Args:
            points: Shape ``(num_steps + 1,)``; converted to float64.
            slices: How many; the first ones are a step longer where it does not divide. ``None`` takes about
                sqrt(num_steps), where one coarse step a slice and the fine steps inside one balance.

        Raises:
            TypeError: ``points`` is a list or of another type that is not a tensor or numpy array.
            ValueError: Points repeat, change direction or are not finite, or there are more slices than steps.
        """
        steps = len(_as_points(points, "points")) - 1
        if slices is None:
            slices = max(1, round(steps**0.5))
        check_count(slices, "slices")
        if slices > steps:
            raise ValueError(
                f"slices={slices} is more than the {steps} steps between the {steps + 1} points; "
                f"pass slices={steps} or fewer, or more points"
            )
        short, longer = divmod(steps, slices)
        sizes = [short + 1] * longer + [short] * (slices - longer)
        return cls(points, (0, *(int(b) for b in np.cumsum(sizes))))

    @classmethod
    def from_edges(cls, edges: Tensor) -> TimeGrid:
        """Slice boundaries alone, shape ``(num_slices + 1,)``: one fine step a slice unless the integrator has more."""
        _as_points(edges, "edges")
        return cls(edges, tuple(range(len(edges))))

    @property
    def edges(self) -> Tensor:
        """Times at the slice boundaries, float64, shape ``(num_slices + 1,)``."""
        return self.points[torch.from_numpy(np.fromiter(self.bounds, np.int64, len(self.bounds)))]

    @property
    def num_slices(self) -> int:
        """Number of slices, N."""
        return len(self.bounds) - 1

    @property
    def num_steps(self) -> int:
        """Number of fine steps over all slices."""
        return len(self.points) - 1

    @property
    def steps_per_slice(self) -> tuple[int, ...]:
        """Number of fine steps in each slice."""
        return tuple(int(n) for n in np.diff(self.bounds))

    def __repr__(self) -> str:
        first, last = self.points[0].item(), self.points[-1].item()
        return f"TimeGrid({first:g} -> {last:g}, slices={self.num_slices}, steps={self.num_steps})"


def _as_number(value: Any, name: str) -> float:
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is {value!r}, {kind_of(value)}; expected one real number") from None


def _as_points(points: Any, name: str) -> Tensor:
    if isinstance(points, np.ndarray) and points.dtype.kind in "fiu":
        points = torch.from_numpy(np.array(points, dtype=np.float64))  # a copy, of any strides and width
    if not isinstance(points, Tensor):
        kind = f" of {points.dtype}" if isinstance(points, np.ndarray) else ""
        raise TypeError(
            f"{name} is {described(points)}{kind}; expected a one-dimensional tensor of real numbers: "
            f"torch.tensor({name}, dtype=torch.float64)"
        )
    if points.ndim != 1 or points.is_complex() or points.dtype == torch.bool:
        raise TypeError(
            f"{name} has shape {tuple(points.shape)} and dtype {points.dtype}; expected one dimension of real numbers"
        )
    points = points.detach().to(device="cpu", dtype=torch.float64, copy=True)
    if len(points) < 2:
        raise ValueError(f"{name} holds {len(points)} point(s); expected at least 2")
    if not bool(torch.isfinite(points).all()):
        where = int((~torch.isfinite(points)).nonzero()[0])
        raise ValueError(f"{name}[{where}] is {points[where].item()}; expected finite times")
    steps = points.diff()
    wrong = (steps * torch.sign(points[-1] - points[0]) <= 0).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"{name} are not strictly monotone: {name}[{i}]={points[i].item()!r} is followed by "
            f"{points[i + 1].item()!r}; expected times that only rise or only fall, none repeated"
        )
    return points
