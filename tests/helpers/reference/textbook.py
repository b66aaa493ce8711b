"""Parareal as the textbook writes it, in a page of plain loops that share no code with the library.

Small and wasteful: nothing is shared or spared, and every iterate of every edge is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Rhs = Callable[[float, Array], Array]


def euler(f: Rhs, t: float, h: float, u: Array) -> Array:
    return u + h * f(t, u)


def midpoint(f: Rhs, t: float, h: float, u: Array) -> Array:
    return u + h * f(t + h / 2, u + h / 2 * f(t, u))


def heun(f: Rhs, t: float, h: float, u: Array) -> Array:
    k1 = f(t, u)
    return u + h / 2 * (k1 + f(t + h, u + h * k1))


def rk4(f: Rhs, t: float, h: float, u: Array) -> Array:
    k1 = f(t, u)
    k2 = f(t + h / 2, u + h / 2 * k1)
    k3 = f(t + h / 2, u + h / 2 * k2)
    k4 = f(t + h, u + h * k3)
    return u + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def parareal(
    fine: Callable[[Array], Array],
    coarse: Callable[[int, Array], Array] | None,
    u0: Array,
    slices: int,
    iterations: int,
) -> Array:
    """All iterates ``U[k, n]``, shape ``(iterations + 1, slices + 1, *state)``.

    Args:
        fine: Carries states ``(slices, *state)``, one at each left edge, over their slices, all at once.
        coarse: ``coarse(n, u)`` carries one state over slice n. Without it every edge starts as ``u0`` and nothing
            is corrected: Jacobi.
        u0: Initial state.
        slices: Number of slices, N.
        iterations: Number of iterations.
    """
    U = np.empty((iterations + 1, slices + 1, *np.shape(u0)), dtype=np.asarray(u0).dtype)
    U[:, 0] = u0
    for n in range(slices):
        U[0, n + 1] = u0 if coarse is None else coarse(n, U[0, n])
    for k in range(iterations):
        U[k + 1, 1:] = fine(U[k, :-1])
        if coarse is not None:
            for n in range(k + 1, slices):
                U[k + 1, n + 1] += coarse(n, U[k + 1, n]) - coarse(n, U[k, n])
    return U
