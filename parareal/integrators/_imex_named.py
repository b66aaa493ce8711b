"""Implicit-explicit Runge-Kutta methods by name, and from two tables of the user's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from parareal.integrators._imex import IMEX
from parareal.integrators._tableau import ButcherTableau, as_tableau


@dataclass(frozen=True)
class IMEXRungeKutta(IMEX):
    """An implicit-explicit Runge-Kutta method: a stiff part of the right-hand side is implicit, the rest explicit.

    For an `ODE` with ``split=(stiff, rest)`` the stages of the stiff part are found by Newton's method, as
    `ImplicitRungeKutta` describes, which also says what that costs and what becomes of failures. The linear part of a
    `SemilinearODE` is diagonal: its stages are divisions, and a step costs one evaluation of ``f`` for each explicit
    stage. An evaluation of a part counts as one.

    Args:
        explicit_tableau: A `ButcherTableau` for the rest, or its ``(a, b)`` or ``(a, b, c)``. The order is stated here.
        implicit_tableau: One for the stiff part, lower triangular, with the same nodes.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        implicit_part: Which part is implicit, by its place in ``split``; all others are explicit.
        rtol: See `ImplicitRungeKutta`.
        max_newton: See there.
        krylov: See there.

    Raises:
        TypeError: A tableau is none, or an option has the wrong type.
        ValueError: The tableaus do not fit together, or an option is out of range. From `solve`: the problem is not
            split, or has ``batching="loop"``.

    Source:
        U. M. Ascher, S. J. Ruuth, R. J. Spiteri, Implicit-explicit Runge-Kutta methods for time-dependent partial
        differential equations, Appl. Numer. Math. 25 (1997).

    Examples:
        >>> explicit = ButcherTableau(a=((), (1.0,)), b=(1.0, 0.0), order=1)
        >>> IMEXRungeKutta(explicit, ButcherTableau(a=((0.0, 0.0), (0.0, 1.0)), b=(0.0, 1.0))).order
        1
    """

    explicit_tableau: Any
    implicit_tableau: Any
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        explicit, implicit = (as_tableau(given) for given in (self.explicit_tableau, self.implicit_tableau))
        if not explicit.explicit:
            raise ValueError(
                "explicit_tableau is implicit: its a is not strictly lower triangular; expected the explicit one first"
            )
        if not implicit.diagonal:
            raise ValueError(
                "implicit_tableau couples its stages: its a is not lower triangular; expected a diagonally implicit one"
            )
        if len(explicit.b) != len(implicit.b):
            raise ValueError(
                f"explicit_tableau has {len(explicit.b)} stages and implicit_tableau {len(implicit.b)}; expected the "
                "same: begin the shorter one with a stage of zeros"
            )
        for i, (c, d) in enumerate(zip(explicit.nodes, implicit.nodes, strict=True)):
            if abs(c - d) > 1e-12 * max(1.0, abs(c)):
                raise ValueError(
                    f"stage {i} is at c={c!r} in explicit_tableau and at c={d!r} in implicit_tableau; expected the "
                    "same nodes: an implicit method of s stages begins with a stage of zeros"
                )
        object.__setattr__(self, "explicit_tableau", explicit)
        object.__setattr__(self, "implicit_tableau", implicit)

    @property
    def tables(self) -> tuple[ButcherTableau, ButcherTableau]:
        """As given."""
        return self.explicit_tableau, self.implicit_tableau


_GAMMA = 1 - math.sqrt(0.5)
_DELTA = 1 - 1 / (2 * _GAMMA)


@dataclass(frozen=True)
class IMEXEuler(IMEX):
    """Implicit Euler for the stiff part and explicit Euler for the rest, ARS(1, 1, 1): order 1.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        implicit_part: See `IMEXRungeKutta`, also for what is stiff, for cost and failures.
        rtol: See there.
        max_newton: See there.
        krylov: See there.

    Source:
        U. M. Ascher, S. J. Ruuth, R. J. Spiteri, Appl. Numer. Math. 25 (1997), section 2.1.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(split=(lambda t, u: -1000.0 * (u - torch.cos(t)), lambda t, u: torch.sin(u)))
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=16)
        >>> u0 = torch.zeros(1, dtype=torch.float64)
        >>> pr.solve(problem, u0, grid, fine=IMEXEuler(), coarse=IMEXEuler()).iterations
        2
    """

    steps: int | None = None

    @property
    def tables(self) -> tuple[ButcherTableau, ButcherTableau]:
        """One implicit stage, at the right end."""
        return _ARS111


@dataclass(frozen=True)
class ARS222(IMEX):
    """ARS(2, 2, 2): order 2, two implicit stages, L-stable in the stiff part.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        implicit_part: See `IMEXRungeKutta`, also for what is stiff, for cost and failures.
        rtol: See there.
        max_newton: See there.
        krylov: See there.

    Source:
        U. M. Ascher, S. J. Ruuth, R. J. Spiteri, Appl. Numer. Math. 25 (1997), section 2.6.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.SemilinearODE(-5.0, lambda t, u: torch.cos(u))
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=20)
        >>> u0 = torch.ones(1, dtype=torch.float64)
        >>> pr.solve(problem, u0, grid, fine=ARS222(), coarse=ARS222()).iterations
        2
    """

    steps: int | None = None

    @property
    def tables(self) -> tuple[ButcherTableau, ButcherTableau]:
        """With gamma = 1 - 1/sqrt(2)."""
        return _ARS222


@dataclass(frozen=True)
class ARS443(IMEX):
    """ARS(4, 4, 3): order 3, four implicit stages, L-stable in the stiff part.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        implicit_part: See `IMEXRungeKutta`, also for what is stiff, for cost and failures.
        rtol: See there.
        max_newton: See there.
        krylov: See there.

    Source:
        U. M. Ascher, S. J. Ruuth, R. J. Spiteri, Appl. Numer. Math. 25 (1997), section 2.8.
    """

    steps: int | None = None

    @property
    def tables(self) -> tuple[ButcherTableau, ButcherTableau]:
        """All numbers are rational."""
        return _ARS443


_ARS111 = (
    ButcherTableau(a=((), (1.0,)), b=(1.0, 0.0), order=1),
    ButcherTableau(a=((0.0, 0.0), (0.0, 1.0)), b=(0.0, 1.0), order=1),
)
_ARS222 = (
    ButcherTableau(a=((), (_GAMMA,), (_DELTA, 1 - _DELTA)), b=(_DELTA, 1 - _DELTA, 0.0), order=2),
    ButcherTableau(a=((0.0,), (0.0, _GAMMA), (0.0, 1 - _GAMMA, _GAMMA)), b=(0.0, 1 - _GAMMA, _GAMMA), order=2),
)
_ARS443 = (
    ButcherTableau(
        a=((), (1 / 2,), (11 / 18, 1 / 18), (5 / 6, -5 / 6, 1 / 2), (1 / 4, 7 / 4, 3 / 4, -7 / 4)),
        b=(1 / 4, 7 / 4, 3 / 4, -7 / 4, 0.0),
        order=3,
    ),
    ButcherTableau(
        a=(
            (0.0,),
            (0.0, 1 / 2),
            (0.0, 1 / 6, 1 / 2),
            (0.0, -1 / 2, 1 / 2, 1 / 2),
            (0.0, 3 / 2, -3 / 2, 1 / 2, 1 / 2),
        ),
        b=(0.0, 3 / 2, -3 / 2, 1 / 2, 1 / 2),
        order=3,
    ),
)
