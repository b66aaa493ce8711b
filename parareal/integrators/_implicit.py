"""Implicit Runge-Kutta methods are tables, too; their stages are found by Newton's method.

What they share is told in `ImplicitRungeKutta`; each of the others is a table and a docstring.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from parareal import _tree
from parareal._grid import check_count
from parareal._problem import Stages
from parareal._tree import State
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._newton import MOST_DENSE, Options, solve_stages, to_state, to_vector, weighted
from parareal.integrators._tableau import ButcherTableau, as_tableau


@dataclass(frozen=True)
class Implicit(Integrator):
    """What implicit methods share: the options of Newton's method, and the step."""

    rtol: float | None = field(default=None, kw_only=True)
    max_newton: int = field(default=20, kw_only=True)
    krylov: bool | None = field(default=None, kw_only=True)

    implicit = True

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_count(self.max_newton, "max_newton")
        if self.krylov is not None and not isinstance(self.krylov, bool):  # pyright: ignore
            raise TypeError(f"krylov={self.krylov!r} is a {type(self.krylov).__name__}; expected True, False or None")
        if self.rtol is None:
            return
        if isinstance(self.rtol, bool) or not isinstance(self.rtol, Real):  # pyright: ignore
            raise TypeError(f"rtol={self.rtol!r} is a {type(self.rtol).__name__}; expected a float, or None")
        if not 0.0 < self.rtol < 1.0:
            raise ValueError(
                f"rtol={self.rtol!r} is out of range; expected a number between 0 and 1, or None for the rounding unit"
            )

    @property
    @abstractmethod
    def table(self) -> ButcherTableau:
        """The method's tableau."""

    @property
    def order(self) -> int | None:
        """Order of accuracy."""
        return self.table.order

    @property
    def evaluations(self) -> None:
        """It varies: as many as Newton's method takes."""
        return None

    @property
    def shares_first_stage(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the first stage is explicit, so that it is the right-hand side at the left end."""
        return self.table.diagonal and not any(self.table.a[0])

    def bind(self, problem: Any, u0: State, grid: Any) -> Implicit:
        """Itself; raises where torch.func has nothing to differentiate."""
        if problem.batching == "loop":
            raise ValueError(
                f'{type(self).__name__} came with a problem with batching="loop", of which torch.func takes no '
                'derivatives; expected torch code with batching "vmap", "native" or "fold". For numpy code take an '
                "explicit method, or pr.SciPy('Radau')"
            )
        return self

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        table, h = self.table, t1 - t0
        times = [t0 if c == 0.0 else t1 if c == 1.0 else t0 + c * h for c in table.nodes]
        alive = torch.ones(len(t0), dtype=torch.bool)
        if table.diagonal:
            k, alive = yield from self._one_by_one(problem, times, h, u, alive)
        else:
            options = self._options(len(table.b), u)
            k, alive = yield from solve_stages(problem, table.a, torch.stack(times, 1), h, u, alive, options)
        vector = to_vector(u, 1)
        new = vector + h.to(vector.dtype)[:, None] * weighted(table.b, k)
        if not alive.all():
            new = torch.where(alive.to(new.device)[:, None], new, torch.nan)
        return to_state(new, u, 1)

    def _one_by_one(
        self, problem: Any, times: list[Tensor], h: Tensor, u: State, alive: Tensor
    ) -> Generator[tuple[Any, ...], State, tuple[Tensor, Tensor]]:
        """Stages of a lower triangular tableau; returns slopes ``(L, s, D)`` and the lanes that were solved."""
        table, options, slopes, vector = self.table, self._options(1, u), list[Tensor](), to_vector(u, 1)
        step = h.to(vector.dtype)[:, None]
        for i, t in enumerate(times):
            row, base = table.a[i], u
            if any(row[:i]):
                base = to_state(vector + step * weighted(row[:i], torch.stack(slopes, 1)), u, 1)
            if row[i] == 0.0:
                slopes.append(to_vector((yield problem.rhs, t, base), 1))
            else:
                k, alive = yield from solve_stages(problem, ((row[i],),), t[:, None], h, base, alive, options)
                slopes.append(k[:, 0])
        return torch.stack(slopes, 1), alive

    def _options(self, stages: int, u: State) -> Options:
        elements = sum(leaf[0].numel() * (2 if leaf.is_complex() else 1) for leaf in _tree.leaves(u))
        krylov = stages * elements > MOST_DENSE if self.krylov is None else self.krylov
        return Options(self.rtol, self.max_newton, krylov)


@dataclass(frozen=True)
class ImplicitRungeKutta(Implicit):
    """The implicit Runge-Kutta method of a tableau, solved by Newton's method with exact derivatives.

    Stages are solved together, or one after another where the tableau is lower triangular, which costs less; one with
    a row of zeros is explicit. Newton's method begins with the state held and goes on until the estimated error is
    below ``rtol``. Convergence is quadratic, so that the default, rounding, costs no more than one iteration beyond
    what any tolerance would take. A linear problem takes two, the second of which confirms the first.

    For a state of d real numbers (a complex element is two) and a system of s stages, one iteration takes s (1 + d)
    evaluations in one round: a directional derivative counts as one, and all are taken side by side. Systems of more
    than 512 unknowns are solved by GMRES without a matrix. An iteration with m products then takes s (1 + m)
    evaluations in 1 + m rounds. Whether lanes go on is asked of the device once an iteration, and by GMRES once for
    each product.

    Where Newton's method fails the state becomes NaN. In a coarse propagator this slows convergence; in the fine one,
    from a final state, the run ends with `Status.UNSOLVED`. Gradients flow through the step. They are right to what
    the last but one iteration left, which is rounding or close to it; by GMRES, to sqrt(rtol), and first ones alone.

    Args:
        tableau: A `ButcherTableau`, or its ``(a, b)`` or ``(a, b, c)`` as nested sequences.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        rtol: Error of the solution of the stages relative to the largest element of the state; ``None`` for the
            rounding unit of its dtype.
        max_newton: Most iterations for one system.
        krylov: Whether linear systems are solved by GMRES; ``None`` decides by their size.

    Raises:
        TypeError: An argument is not of its type.
        ValueError: The tableau is not consistent, or an option is out of range. From `solve`: the problem has
            ``batching="loop"``, or an operation that torch.func cannot differentiate.

    Source:
        E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (Springer, 1996), section IV.8.

    Examples:
        >>> import torch, parareal as pr
        >>> gauss = ButcherTableau(a=((0.5,),), b=(1.0,), order=2)
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4)
        >>> ref = pr.serial(pr.ODE(lambda t, u: -u), torch.ones(1), grid, fine=ImplicitRungeKutta(gauss))
        >>> ref.stats.rounds, ref.stats.evaluations
        (8, 16)
    """

    tableau: ButcherTableau
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        table = as_tableau(self.tableau)
        if table.explicit:
            raise ValueError("tableau is explicit, with nothing to solve; expected an implicit one, or pr.RungeKutta")
        object.__setattr__(self, "tableau", table)

    @property
    def table(self) -> ButcherTableau:
        """The tableau."""
        return self.tableau


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
            raise TypeError(f"gamma={gamma!r} is a {type(gamma).__name__}; expected a float, or None")
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
        """The tableau of so many stages."""
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
        """The tableau of so many stages."""
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
        """The tableau of so many stages."""
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
