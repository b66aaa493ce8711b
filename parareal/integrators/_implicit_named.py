"""Implicit methods by name: a table and a docstring each. `ImplicitRungeKutta` describes what they share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from parareal._core.checks import check_count, described
from parareal.integrators._implicit import Implicit
from parareal.integrators._tableau import ButcherTableau


@dataclass(frozen=True)
class ImplicitEuler(Implicit):
    """Implicit Euler: order 1, L-stable.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        rtol: See `ImplicitRungeKutta`, also for cost, failures and gradients.
        max_newton: See there.
        krylov: See there.

    Examples:
        >>> import torch, parareal as pr
        >>> stiff = pr.ODE(lambda t, u: -1000.0 * (u - torch.cos(t)))
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=16)
        >>> u0 = torch.zeros(1, dtype=torch.float64)
        >>> pr.solve(stiff, u0, grid, fine=ImplicitEuler(), coarse=ImplicitEuler()).iterations
        2
    """

    steps: int | None = None

    @property
    def table(self) -> ButcherTableau:
        """One stage, at the right end."""
        return _EULER


@dataclass(frozen=True)
class ImplicitMidpoint(Implicit):
    """The implicit midpoint rule, Gauss-Legendre of one stage: order 2, A-stable, symplectic.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        rtol: See `ImplicitRungeKutta`, also for cost, failures and gradients.
        max_newton: See there.
        krylov: See there.
    """

    steps: int | None = None

    @property
    def table(self) -> ButcherTableau:
        """One stage, in the middle."""
        return _GAUSS[1]


@dataclass(frozen=True)
class Trapezoid(Implicit):
    """The implicit trapezoidal rule (Crank-Nicolson): order 2, A-stable, and not L-stable.

    Its first stage is explicit: one more evaluation a step, which the coarse and the fine propagator share.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        rtol: See `ImplicitRungeKutta`, also for cost, failures and gradients.
        max_newton: See there.
        krylov: See there.
    """

    steps: int | None = None

    @property
    def table(self) -> ButcherTableau:
        """Both ends."""
        return _TRAPEZOID


@dataclass(frozen=True)
class SDIRK2(Implicit):
    """Two implicit stages one after another, with one coefficient: order 2 and L-stable for gamma = 1 +- 1/sqrt(2).

    Args:
        gamma: The coefficient; ``None`` for 1 - 1/sqrt(2). For values other than those two the order is 1.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        rtol: See `ImplicitRungeKutta`, also for cost, failures and gradients.
        max_newton: See there.
        krylov: See there.

    Raises:
        TypeError: ``gamma`` is not a number.
        ValueError: ``gamma`` is zero or not finite.

    Source:
        R. Alexander, Diagonally Implicit Runge-Kutta Methods for Stiff O.D.E.'s, SIAM J. Numer. Anal. 14 (1977).
    """

    gamma: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        gamma: Any = 1 - math.sqrt(0.5) if self.gamma is None else self.gamma
        if isinstance(gamma, bool) or not isinstance(gamma, Real):
            raise TypeError(f"gamma={gamma!r} is {described(gamma)}; expected a float, or None")
        if not math.isfinite(gamma) or gamma == 0.0:
            raise ValueError(f"gamma={gamma!r} is no coefficient; expected a finite number that is not zero")
        object.__setattr__(self, "gamma", float(gamma))

    @property
    def table(self) -> ButcherTableau:
        """The tableau for ``gamma``."""
        gamma = self.gamma or 1.0
        order = 2 if abs(gamma * gamma - 2 * gamma + 0.5) <= 1e-12 else 1
        return ButcherTableau(a=((gamma, 0.0), (1 - gamma, gamma)), b=(1 - gamma, gamma), order=order)


@dataclass(frozen=True)
class RadauIIA(Implicit):
    """Radau IIA: order 2 s - 1 with s stages, L-stable, and the last stage is the result.

    Args:
        stages: 2 or 3; with 1 it would be `ImplicitEuler`.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        rtol: See `ImplicitRungeKutta`, also for cost, failures and gradients.
        max_newton: See there.
        krylov: See there.

    Raises:
        TypeError: ``stages`` is not an int.
        ValueError: ``stages`` is out of range.

    Source:
        E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (Springer, 1996), section IV.5.
    """

    stages: int = 2
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_stages(self.stages, _RADAU)

    @property
    def table(self) -> ButcherTableau:
        """The tableau with that many stages."""
        return _RADAU[self.stages]


@dataclass(frozen=True)
class LobattoIIIC(Implicit):
    """Lobatto IIIC: order 2 s - 2 with s stages, L-stable.

    Args:
        stages: 2 or 3.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        rtol: See `ImplicitRungeKutta`, also for cost, failures and gradients.
        max_newton: See there.
        krylov: See there.

    Raises:
        TypeError: ``stages`` is not an int.
        ValueError: ``stages`` is out of range.

    Source:
        E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (Springer, 1996), section IV.5.
    """

    stages: int = 2
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_stages(self.stages, _LOBATTO)

    @property
    def table(self) -> ButcherTableau:
        """The tableau with that many stages."""
        return _LOBATTO[self.stages]


@dataclass(frozen=True)
class GaussLegendre(Implicit):
    """Gauss-Legendre: order 2 s with s stages, A-stable, symplectic.

    Args:
        stages: 1, which is `ImplicitMidpoint`, to 3.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        rtol: See `ImplicitRungeKutta`, also for cost, failures and gradients.
        max_newton: See there.
        krylov: See there.

    Raises:
        TypeError: ``stages`` is not an int.
        ValueError: ``stages`` is out of range.

    Source:
        J. C. Butcher, Implicit Runge-Kutta Processes, Math. Comp. 18 (1964).
    """

    stages: int = 2
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_stages(self.stages, _GAUSS)

    @property
    def table(self) -> ButcherTableau:
        """The tableau with that many stages."""
        return _GAUSS[self.stages]


def _check_stages(stages: Any, known: dict[int, ButcherTableau]) -> None:
    check_count(stages, "stages")
    if stages not in known:
        raise ValueError(f"stages={stages} is out of range; expected {min(known)} ... {max(known)}")


_R3, _R6, _R15 = math.sqrt(3), math.sqrt(6), math.sqrt(15)

_EULER = ButcherTableau(a=((1.0,),), b=(1.0,), order=1)

_TRAPEZOID = ButcherTableau(a=((0.0, 0.0), (0.5, 0.5)), b=(0.5, 0.5), order=2)

_RADAU = {
    2: ButcherTableau(a=((5 / 12, -1 / 12), (3 / 4, 1 / 4)), b=(3 / 4, 1 / 4), c=(1 / 3, 1.0), order=3),
    3: ButcherTableau(
        a=(
            ((88 - 7 * _R6) / 360, (296 - 169 * _R6) / 1800, (-2 + 3 * _R6) / 225),
            ((296 + 169 * _R6) / 1800, (88 + 7 * _R6) / 360, (-2 - 3 * _R6) / 225),
            ((16 - _R6) / 36, (16 + _R6) / 36, 1 / 9),
        ),
        b=((16 - _R6) / 36, (16 + _R6) / 36, 1 / 9),
        c=((4 - _R6) / 10, (4 + _R6) / 10, 1.0),
        order=5,
    ),
}

_LOBATTO = {
    2: ButcherTableau(a=((1 / 2, -1 / 2), (1 / 2, 1 / 2)), b=(1 / 2, 1 / 2), c=(0.0, 1.0), order=2),
    3: ButcherTableau(
        a=((1 / 6, -1 / 3, 1 / 6), (1 / 6, 5 / 12, -1 / 12), (1 / 6, 2 / 3, 1 / 6)),
        b=(1 / 6, 2 / 3, 1 / 6),
        c=(0.0, 0.5, 1.0),
        order=4,
    ),
}

_GAUSS = {
    1: ButcherTableau(a=((1 / 2,),), b=(1.0,), order=2),
    2: ButcherTableau(
        a=((1 / 4, 1 / 4 - _R3 / 6), (1 / 4 + _R3 / 6, 1 / 4)),
        b=(1 / 2, 1 / 2),
        c=(1 / 2 - _R3 / 6, 1 / 2 + _R3 / 6),
        order=4,
    ),
    3: ButcherTableau(
        a=(
            (5 / 36, 2 / 9 - _R15 / 15, 5 / 36 - _R15 / 30),
            (5 / 36 + _R15 / 24, 2 / 9, 5 / 36 - _R15 / 24),
            (5 / 36 + _R15 / 30, 2 / 9 + _R15 / 15, 5 / 36),
        ),
        b=(5 / 18, 4 / 9, 5 / 18),
        c=(1 / 2 - _R15 / 10, 1 / 2, 1 / 2 + _R15 / 10),
        order=6,
    ),
}
