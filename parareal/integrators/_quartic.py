"""The interpolant of a step of an embedded method: a quartic through both ends, their slopes and the middle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Floats
from parareal._core.trees import State


@dataclass(frozen=True, eq=False)
class Quartic:
    """Quartics on R intervals.

    Attributes:
        left: Where each begins, float64, ``(R,)``.
        right: Where it ends.
        weights: Coefficients of 1, x, ..., x^4, where x goes from 0 to 1: five states, leaves ``(R, *state)``.
        end: The states at x = 1, leaves ``(R, *state)``.
    """

    left: Tensor
    right: Tensor
    weights: tuple[State, ...]
    end: State

    def __getitem__(self, index: Tensor) -> Quartic:
        weights = tuple(trees.lanes(weight, index) for weight in self.weights)
        return Quartic(self.left[index], self.right[index], weights, trees.lanes(self.end, index))

    def at(self, t: Tensor) -> State:
        """States at one time in each interval, ``(R,)``."""
        x = (t - self.left) / (self.right - self.left)

        def leaf(*c: Tensor) -> Tensor:
            y = trees.per_lane(x, c[0])
            return c[0] + y * (c[1] + y * (c[2] + y * (c[3] + y * c[4])))

        states = trees.map(leaf, *self.weights)
        if x.requires_grad:  # the exact end has no derivative with respect to the time
            return states
        ends = x == 1

        def exact(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(ends.reshape(-1, *[1] * (a.ndim - 1)), b, a)

        return trees.map(exact, states, self.end)


@dataclass(eq=False, slots=True)
class Tried:
    """A step that L lanes have tried.

    Attributes:
        t: Where it began, on the host, ``(L,)``.
        to: Where it ended.
        accepted: Which lanes have accepted it.
        left: As ``t``, a tensor.
        right: As ``to``.
        h: Its size, with its sign.
        u: States at its start, leaves ``(L, *state)``.
        new: States at its end.
        slopes: The slopes of all stages.
        middle: See `EmbeddedTableau`.
    """

    t: Floats
    to: Floats
    accepted: Bools
    left: Tensor
    right: Tensor
    h: Tensor
    u: State
    new: State
    slopes: list[State]
    middle: tuple[float, ...]

    def quartic(self, index: Tensor) -> Quartic:
        """The interpolants of these lanes."""
        h, u, new = self.h[index], trees.lanes(self.u, index), trees.lanes(self.new, index)
        slopes = [trees.lanes(slope, index) for slope in self.slopes]
        middle = trees.axpy(u, h, self.middle, slopes)

        def leaf(a: Tensor, b: Tensor, m: Tensor, f0: Tensor, f1: Tensor) -> tuple[Tensor, ...]:
            dt = trees.per_lane(h, a)
            return (
                a,
                dt * f0,
                dt * (f1 - 4 * f0) - 11 * a - 5 * b + 16 * m,
                dt * (5 * f0 - 3 * f1) + 18 * a + 14 * b - 32 * m,
                2 * dt * (f1 - f0) - 8 * (a + b) + 16 * m,
            )

        states = (u, new, middle, slopes[0], slopes[-1])
        each = [leaf(*parts) for parts in zip(*(trees.leaves(state) for state in states), strict=True)]
        weights = tuple(trees.rebuild([parts[i] for parts in each], u) for i in range(5))
        return Quartic(self.left[index], self.right[index], weights, new)
