"""Explicit Runge-Kutta methods of orders 2 to 5: a table and a docstring each."""

from __future__ import annotations

from dataclasses import dataclass

from parareal.integrators._runge_kutta import Named
from parareal.integrators._tableau import ButcherTableau


@dataclass(frozen=True)
class Ralston(Named):
    """Ralston's method: order 2, two evaluations a step, with the smallest bound of the local error among those.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        A. Ralston, Runge-Kutta Methods with Minimum Error Bounds, Math. Comp. 16 (1962).
    """

    tableau = ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), order=2)


@dataclass(frozen=True)
class Heun3(Named):
    """Heun's method of order 3, three evaluations a step; ``heun3`` of torchdiffeq.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        K. Heun, Neue Methoden zur approximativen Integration der Differentialgleichungen einer unabhängigen
        Veränderlichen, Z. Math. Phys. 45 (1900).
    """

    tableau = ButcherTableau(a=((), (1 / 3,), (0.0, 2 / 3)), b=(1 / 4, 0.0, 3 / 4), order=3)


@dataclass(frozen=True)
class Kutta3(Named):
    """Kutta's method of order 3, three evaluations a step: on an integral it is Simpson's rule.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        W. Kutta, Beitrag zur näherungsweisen Integration totaler Differentialgleichungen, Z. Math. Phys. 46 (1901).
    """

    tableau = ButcherTableau(a=((), (1 / 2,), (-1.0, 2.0)), b=(1 / 6, 2 / 3, 1 / 6), order=3)


@dataclass(frozen=True)
class SSPRK33(Named):
    """The strong-stability-preserving method of Shu and Osher: order 3, three evaluations a step.

    A convex combination of Euler steps: what they never enlarge, such as a total variation, neither does it, for steps
    as long as those that Euler may take.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        C.-W. Shu, S. Osher, Efficient Implementation of Essentially Non-oscillatory Shock-Capturing Schemes,
        J. Comput. Phys. 77 (1988).
    """

    tableau = ButcherTableau(a=((), (1.0,), (1 / 4, 1 / 4)), b=(1 / 6, 1 / 6, 2 / 3), order=3)


@dataclass(frozen=True)
class BogackiShampine(Named):
    """The method of order 3 of Bogacki and Shampine's pair 3(2), with fixed steps: three evaluations a step.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        P. Bogacki, L. F. Shampine, A 3(2) pair of Runge-Kutta formulas, Appl. Math. Lett. 2 (1989).
    """

    tableau = ButcherTableau(a=((), (1 / 2,), (0.0, 3 / 4)), b=(2 / 9, 1 / 3, 4 / 9), order=3)


@dataclass(frozen=True)
class ThreeEighths(Named):
    """Kutta's 3/8 rule: order 4, four evaluations a step; ``rk4`` of torchdiffeq is this one, not `RK4`.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        W. Kutta, Beitrag zur näherungsweisen Integration totaler Differentialgleichungen, Z. Math. Phys. 46 (1901).
    """

    tableau = ButcherTableau(a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), b=(1 / 8, 3 / 8, 3 / 8, 1 / 8), order=4)


@dataclass(frozen=True)
class DormandPrince(Named):
    """The method of order 5 of Dormand and Prince's pair 5(4), with fixed steps: six evaluations a step.

    The seventh stage of the pair serves its error estimate alone.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        J. R. Dormand, P. J. Prince, A family of embedded Runge-Kutta formulae, J. Comput. Appl. Math. 6 (1980).
    """

    tableau = ButcherTableau(
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
        order=5,
    )


@dataclass(frozen=True)
class CashKarp(Named):
    """The method of order 5 of Cash and Karp, with fixed steps: six evaluations a step.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        J. R. Cash, A. H. Karp, A variable order Runge-Kutta method for initial value problems with rapidly varying
        right-hand sides, ACM Trans. Math. Softw. 16 (1990).
    """

    tableau = ButcherTableau(
        a=(
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (3 / 10, -9 / 10, 6 / 5),
            (-11 / 54, 5 / 2, -70 / 27, 35 / 27),
            (1631 / 55296, 175 / 512, 575 / 13824, 44275 / 110592, 253 / 4096),
        ),
        b=(37 / 378, 0.0, 250 / 621, 125 / 594, 0.0, 512 / 1771),
        order=5,
    )
