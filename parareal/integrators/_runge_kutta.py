"""Explicit Runge-Kutta methods are tables of numbers; one function steps them all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._stochastic import StratonovichHeun
from parareal.integrators._tableau import ButcherTableau, as_tableau
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import ODE, Stages
from parareal.problem._sde import SDE


def explicit_step(table: ButcherTableau, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
    """One step of any explicit tableau; the first request is the right-hand side at ``(t0, u)``."""
    h = t1 - t0
    # A tensor is by far the most common state, and the length of a step has its shape once for all stages.
    length, axpy = (trees.per_lane(h, u), trees.shifted) if isinstance(u, Tensor) else (h, trees.axpy)
    slopes: list[State] = []
    times = {0.0: t0, 1.0: t1}
    for c, row in zip(table.nodes, table.a, strict=True):
        if c not in times:
            times[c] = t0 + c * h
        stage = axpy(u, length, row, slopes) if slopes else u
        slopes.append((yield problem.rhs, times[c], stage))
    return axpy(u, length, table.b, slopes)


@cache
def traits_of(tableau: ButcherTableau) -> IntegratorTraits:
    """The traits of the explicit method of a tableau, with one evaluation for each stage."""
    return IntegratorTraits(order=tableau.order, evaluations=len(tableau.b), shares_first_stage=True, tableau=tableau)


@dataclass(frozen=True)
class Named(Integrator):
    """An explicit method whose tableau has a name; the final classes are a tableau and a docstring each."""

    steps: int | None = None
    tableau: ClassVar[ButcherTableau]

    def __post_init__(self) -> None:
        check_steps(self.steps)

    @property
    def traits(self) -> IntegratorTraits:
        """One evaluation for each stage."""
        return traits_of(self.tableau)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        return explicit_step(self.tableau, problem, t0, t1, u)


@dataclass(frozen=True)
class Euler(Named):
    """Explicit Euler: order 1, one evaluation a step.

    In the coordinates of `diffusion_adapters.probability_flow` it is DDIM (Denoising Diffusion Implicit Models,
    arXiv 2010.02502).

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
    """

    tableau = ButcherTableau(a=((),), b=(1.0,), order=1)


@dataclass(frozen=True)
class Midpoint(Named):
    """The explicit midpoint rule: order 2, two evaluations a step.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
    """

    tableau = ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), order=2)


@dataclass(frozen=True)
class Heun(Named):
    """Heun's method, the explicit trapezoidal rule: order 2, two evaluations a step.

    It is the sampler of Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364) without
    its Euler step at the end.

    For an `SDE` in the sense of Stratonovich it treats both integrals alike, and has strong order 1 for diagonal,
    scalar and additive noise, 1/2 for general noise (W. Rümelin, Numerical treatment of stochastic differential
    equations, SIAM J. Numer. Anal. 19, 1982). An Ito SDE is refused.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
    """

    tableau = ButcherTableau(a=((), (1.0,)), b=(0.5, 0.5), order=2)

    @property
    def traits(self) -> IntegratorTraits:
        """Those of a Runge-Kutta method; `Heun` also solves SDEs."""
        return replace(traits_of(self.tableau), solves=(ODE, SDE))

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """Returns itself for an ODE, and the stochastic method for an SDE."""
        return StratonovichHeun(self.steps).bind(problem, u0, grid) if isinstance(problem, SDE) else self


@dataclass(frozen=True)
class RK4(Named):
    """The classical Runge-Kutta method (not the 3/8 rule): order 4, four evaluations a step.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
    """

    tableau = ButcherTableau(a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), order=4)


@dataclass(frozen=True)
class RungeKutta(Integrator):
    """The explicit Runge-Kutta method of a tableau.

    Args:
        tableau: A `ButcherTableau`, or its ``(a, b)`` or ``(a, b, c)`` as nested sequences.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Raises:
        TypeError: ``tableau`` is neither.
        ValueError: The tableau is not that of a consistent explicit method; for others see `ImplicitRungeKutta`.

    Examples:
        >>> RungeKutta(ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), order=2)).evaluations
        2
    """

    tableau: ButcherTableau
    steps: int | None = None

    def __post_init__(self) -> None:
        table = as_tableau(self.tableau)
        if not table.explicit:
            raise ValueError(
                "tableau is implicit: its a is not strictly lower triangular; expected an explicit one, or take "
                "pr.ImplicitRungeKutta(tableau)"
            )
        check_steps(self.steps)
        object.__setattr__(self, "tableau", table)

    @property
    def traits(self) -> IntegratorTraits:
        """One evaluation for each stage."""
        return traits_of(self.tableau)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        return explicit_step(self.tableau, problem, t0, t1, u)
