"""Multigrid reduction in time as the paper writes it, in plain loops that share no code with the library.

The full approximation scheme on any number of levels, with F- and C-relaxation. Nothing in it is a parallel iteration:
it knows time points, of which some are C-points, residuals, and corrections of C-points from the next level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Step = Callable[[float, float, Array], Array]


class Level:
    """A grid of one level: its times, the step between neighbouring ones, and which are C-points.

    Args:
        times: All points of the level.
        step: ``step(t0, t1, u)`` carries a state from one point to the next.
        coarse: Numbers of the C-points, the first and the last point among them; empty on the last level.
        relaxations: Sweeps of C- and F-relaxation after the first F-relaxation.
        cycles: How often the next level is solved for, one after another.
    """

    def __init__(
        self, times: Array, step: Step, coarse: Sequence[int] = (), relaxations: int = 0, cycles: int = 1
    ) -> None:
        self.times, self._step, self.coarse = times, step, list(coarse)
        self.relaxations, self.cycles = relaxations, cycles

    def step(self, n: int, u: Array) -> Array:
        """From point n to point n + 1."""
        return self._step(self.times[n], self.times[n + 1], u)

    def relax_f(self, u: Array, g: Array) -> None:
        """All F-points, from the C-points on their left."""
        for n in range(len(self.times) - 1):
            if n + 1 not in self.coarse:
                u[n + 1] = g[n + 1] + self.step(n, u[n])

    def relax_c(self, u: Array, g: Array) -> None:
        """All C-points, each from the F-point on its left."""
        new = {n: g[n] + self.step(n - 1, u[n - 1]) for n in self.coarse if n}
        for n, value in new.items():
            u[n] = value


def cycle(levels: Sequence[Level], u: Array, g: Array, exact: int = 0) -> int:
    """One V-cycle for u_{n+1} = g_{n+1} + step(u_n) on the first of these levels; changes ``u``.

    The paper starts the next level from all C-points as they are. One of them is known better: the first to the right
    of those that are exact, of which the residual gives the exact value. The next level starts from that one.

    Args:
        levels: From this one to the coarsest.
        u: States at the points of this level.
        g: What is added after each step.
        exact: The last point up to which states are exact.

    Returns:
        The last point up to which they are now.
    """
    level = levels[0]
    if len(levels) == 1:
        for n in range(len(level.times) - 1):
            u[n + 1] = g[n + 1] + level.step(n, u[n])
        return len(level.times) - 1
    level.relax_f(u, g)
    for _ in range(level.relaxations):
        level.relax_c(u, g)
        level.relax_f(u, g)
    below, points = levels[1], level.coarse
    old = np.stack([u[n] for n in points])
    forcing = np.zeros_like(old)
    for j, n in enumerate(points[1:], 1):
        residual = g[n] + level.step(n - 1, u[n - 1]) - u[n]
        forcing[j] = residual + old[j] - below.step(j - 1, old[j - 1])
    new, end = old.copy(), len(points) - 1
    known = min(end, max(j for j, n in enumerate(points) if n <= exact) + level.relaxations + 1)
    n = points[known]
    new[known] = g[n] + level.step(n - 1, u[n - 1])
    reached = known
    for _ in range(below.cycles):
        reached = cycle(levels[1:], new, forcing, reached)
    for j, n in enumerate(points):
        u[n] = u[n] + (new[j] - old[j])
    level.relax_f(u, g)
    return points[known]


def mgrit(levels: Sequence[Level], start: Array, iterations: int) -> list[Array]:
    """States at the C-points of the first level after 0, 1, ... iterations.

    Args:
        levels: From the finest to the coarsest.
        start: First states at these C-points, ``(C, *state)``.
        iterations: Number of V-cycles.
    """
    fine = levels[0]
    u = np.zeros((len(fine.times), *start.shape[1:]), dtype=start.dtype)
    u[fine.coarse] = start
    g = np.zeros_like(u)
    found, exact = [u[fine.coarse].copy()], 0
    for _ in range(iterations):
        exact = cycle(levels, u, g, exact)
        found.append(u[fine.coarse].copy())
    return found


def nested(levels: Sequence[Level], u0: Array) -> Array:
    """First states at the points of the first of these levels: those of the coarsest, carried up level by level.

    On each level but the coarsest the states of the level below are its C-points, and the next are made by its cycles.
    """
    level = levels[0]
    u = np.zeros((len(level.times), *np.shape(u0)), dtype=u0.dtype)
    u[0] = u0
    g = np.zeros_like(u)
    if len(levels) > 1:
        u[level.coarse] = nested(levels[1:], u0)
    exact = 0
    for _ in range(level.cycles if len(levels) > 1 else 1):
        exact = cycle(levels, u, g, exact)
    return u
