"""Values that take the place of others that are not finite, and what this means for gradients."""

from __future__ import annotations

import cmath
from typing import Any

import torch
from torch import Tensor

from parareal._core.forward_mode import transformed

_MESSAGE = (
    "a gradient goes through a coarse solution of this run that was not finite, in whose place the state before was "
    "taken, and 0 times infinity is not a number; expected gradients='adjoint' in solve, whose gradient does not go "
    "through coarse solutions, or a coarse propagator that stays finite: more steps, or another method"
)


def known(x: Tensor) -> bool:
    """Whether all numbers are finite, where asking is cheap: on the host, without a graph, a sum tells in one pass.

    A sum that overflows says no as well.
    """
    return x.device.type == "cpu" and not x.requires_grad and cmath.isfinite(x.sum().item())


def finite_or(x: Tensor, y: Tensor) -> Tensor:
    """``x`` where it is finite, else ``y``, element by element."""
    if x.requires_grad and not (transformed(x) or transformed(y)):
        return _FiniteOr.apply(x, y)  # pyright: ignore[reportReturnType]
    return torch.where(x - x == 0, x, y)  # Inf - Inf is NaN: half the kernels of torch.isfinite


def watched(x: Tensor) -> Tensor:
    """The same numbers, of a computation that is not gone back through where nothing depends on it."""
    if x.requires_grad and not transformed(x):
        return _FiniteOr.apply(x, None)  # pyright: ignore[reportReturnType]
    return x


class _FiniteOr(torch.autograd.Function):
    """`torch.where`, which sends nothing back to values that nothing depends on.

    Zeros would become NaN on their way back through a computation that has overflowed, or through the solution of a
    singular system.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None) -> Tensor:
        finite = x - x == 0
        ctx.save_for_backward(finite)
        ctx.set_materialize_grads(False)
        ctx.replaced = y is not None
        return x.view_as(x) if y is None else torch.where(finite, x, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        (finite,) = ctx.saved_tensors
        if gradient is None:
            return None, None
        kept = torch.where(finite, gradient, 0.0)
        if not bool((kept != 0).any()):
            return None, gradient if ctx.replaced else None
        if bool(finite.all()):
            return gradient, None
        raise RuntimeError(_MESSAGE)
