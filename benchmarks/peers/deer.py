"""DEER in plain torch: Newton's method over all steps at once, each iteration solved by an associative scan.

Parallelizing non-linear sequential models over the sequence length, arXiv 2309.12252. For u_{n+1} = F_n(u_n), one
iteration solves u_{n+1} = J_n u_n + (F_n - J_n u_n at the old iterate) for all n. A step of implicit Euler is given by
u_{n+1} - u_n - h f(t_{n+1}, u_{n+1}) = 0, of which an iteration solves the linearisation for all n.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Slope = Callable[[Tensor, Tensor], Tensor]
"""The right-hand side f(t, u) of one state, ``(D,)``."""


def explicit_euler(f: Slope, u0: Tensor, points: Tensor, rtol: float) -> tuple[Tensor, int]:
    """States at the points, ``(N + 1, D)``, and iterations."""

    def linear(us: Tensor) -> tuple[Tensor, Tensor]:
        slope, jacobian = with_jacobian(f)(points[:-1], us[:-1])
        value = us[:-1] + h * slope
        factor = torch.eye(len(u0), dtype=u0.dtype) + h[..., None] * jacobian
        return factor, value - (factor @ us[:-1, :, None])[..., 0]

    h = points.diff()[:, None]
    return _newton(linear, u0, len(points), rtol)


def implicit_euler(f: Slope, u0: Tensor, points: Tensor, rtol: float) -> tuple[Tensor, int]:
    """States at the points, ``(N + 1, D)``, and iterations."""

    def linear(us: Tensor) -> tuple[Tensor, Tensor]:
        slope, jacobian = with_jacobian(f)(points[1:], us[1:])
        eye = torch.eye(len(u0), dtype=u0.dtype)
        rest = h * slope - (h[..., None] * jacobian @ us[1:, :, None])[..., 0]
        factors, pivots = torch.linalg.lu_factor(eye - h[..., None] * jacobian)
        inverse = torch.linalg.lu_solve(factors, pivots, eye.expand_as(factors))
        return inverse, (inverse @ rest[..., None])[..., 0]

    h = points.diff()[:, None]
    return _newton(linear, u0, len(points), rtol)


def with_jacobian(f: Slope) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The right-hand side and its derivative on many states."""

    def twice(t: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        value = f(t, u)
        return value, value

    both = torch.func.vmap(torch.func.jacfwd(twice, argnums=1, has_aux=True))

    def call(t: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        jacobian, value = both(t, u)
        return value, jacobian

    return call


def _newton(
    linear: Callable[[Tensor], tuple[Tensor, Tensor]], u0: Tensor, count: int, rtol: float
) -> tuple[Tensor, int]:
    """Iterates of u_{n+1} = A_n u_n + b_n until every state moves by less than ``rtol``, from a constant."""
    us = u0.expand(count, -1).clone()
    for iteration in range(1, count):
        factor, rest = linear(us)
        rest[0] += factor[0] @ u0
        new = torch.cat([u0[None], associative(factor, rest)])
        moved = (new - us).square().mean(1).sqrt()
        us = new
        if bool((moved <= rtol * us.square().mean(1).sqrt()).all()):
            return us, iteration
    return us, count - 1


def associative(a: Tensor, b: Tensor) -> Tensor:
    """All x_{n+1} = A_n x_n + b_n from x_0 = 0: pairs are composed, then pairs of pairs, in log2(N) steps."""
    size, apart = len(a), 1
    while apart < size:
        later, earlier = slice(apart, None), slice(None, -apart)
        b = torch.cat([b[:apart], b[later] + (a[later] @ b[earlier, :, None])[..., 0]])
        a = torch.cat([a[:apart], a[later] @ a[earlier]])
        apart *= 2
    return b
