"""Methods for stochastic differential equations: of drift, diffusion and the increments of the path over a step.

The increments are looked up in the problem's path, which costs nothing and is the same for every method. Orders are
strong ones: of the root mean square error along one path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import Stages
from parareal.problem._sde import SDE

_TRAITS = IntegratorTraits(evaluations=None, shares_first_stage=True, solves=(SDE,))
"""The traits that the methods share."""


@dataclass(frozen=True)
class _Stochastic(Integrator):
    """The base of the methods below."""

    steps: int | None = None

    traits = _TRAITS

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def first_function(self, problem: Any) -> Any:
        """The function that returns drift and diffusion."""
        return problem.terms


@dataclass(frozen=True)
class EulerMaruyama(_Stochastic):
    """Euler's method for an Ito SDE: strong order 1/2, and 1 for additive noise; one evaluation a step.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Raises:
        TypeError: ``steps`` is not an int.
        ValueError: ``steps`` is below 1; from `solve`, that the SDE is a Stratonovich one.

    Source:
        G. Maruyama, Continuous Markov processes and stochastic equations, Rend. Circ. Mat. Palermo 4 (1955).

    Examples:
        >>> EulerMaruyama().order
        0.5
    """

    traits = replace(_TRAITS, order=0.5, evaluations=1)
    """Drift and diffusion together, once."""

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """Returns itself; an SDE in the sense of Stratonovich is refused."""
        if problem.calculus == "stratonovich" and problem.noise != "additive":
            raise ValueError(
                f"{self!r} came with an SDE in the sense of Stratonovich, and would solve another equation; expected "
                'pr.Heun() or pr.Milstein(), or the Ito drift, drift + (1/2) g dg/du, with calculus="ito"'
            )
        return self

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """The step u + h f + g dW; see `Integrator.step`."""
        dw = yield problem.increments(self.steps), t0, t1, u
        f, g = yield problem.terms, t0, u
        return trees.add(trees.axpy(u, t1 - t0, (1.0,), [f]), problem.product(g, dw))


@dataclass(frozen=True)
class Milstein(_Stochastic):
    """Milstein's method without derivatives: strong order 1; one evaluation a step, and one more of the diffusion.

    For Ito a step is u + h f + g dW + (g' - g) (dW^2 - h) / (2 sqrt(h)) with g' = g(t, u + h f + sqrt(h) g). For
    Stratonovich it is u + h f + (g + g') dW / 2 with g' = g(t, u + g dW): with dW^2 in place of dW^2 - h, which has no
    mean, the Ito form would lose half an order where g is curved. For additive noise both are `EulerMaruyama`, which
    it then becomes. For scalar and for diagonal noise alone: others need the iterated integrals of different Brownian
    motions.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Raises:
        TypeError: ``steps`` is not an int.
        ValueError: ``steps`` is below 1; from `solve`, that the noise is general.

    Source:
        P. E. Kloeden, E. Platen, Numerical Solution of Stochastic Differential Equations (Springer, 1992), (11.1.3).

    Examples:
        >>> Milstein().order
        1.0
    """

    traits = replace(_TRAITS, order=1.0, evaluations=2)
    """Drift and diffusion together, and the diffusion once more."""

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """Returns itself, or `EulerMaruyama` for additive noise; general noise is refused."""
        if problem.noise == "general":
            raise ValueError(
                f"{self!r} came with general noise, for which order 1 takes the iterated integrals of different "
                "Brownian motions, which have no simple law; expected pr.EulerMaruyama(), of order 1/2, or with "
                'calculus="stratonovich" pr.Heun(), or, where each element has a Brownian motion of its own, '
                'noise="diagonal"'
            )
        return EulerMaruyama(self.steps) if problem.noise == "additive" else self

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        h, length = t1 - t0, (t1 - t0).abs()
        dw = yield problem.increments(self.steps), t0, t1, u
        f, g = yield problem.terms, t0, u
        drifted, kick = trees.axpy(u, h, (1.0,), [f]), problem.product(g, dw)
        if problem.calculus == "stratonovich":
            moved = yield problem.amplitudes, t0, trees.add(u, kick)
            half = trees.map(lambda w: 0.5 * w, dw)
            return trees.add(trees.add(drifted, kick), problem.product(trees.sub(moved, g), half))
        root = length.sqrt()
        moved = yield problem.amplitudes, t0, trees.axpy(drifted, root, (1.0,), [g])
        iterated = trees.map(
            lambda w: (w * w - trees.per_lane(length, w)) / trees.per_lane(2.0 * root, w), dw
        )  # the integral of W dW, divided by sqrt(h)
        return trees.add(trees.add(drifted, kick), problem.product(trees.sub(moved, g), iterated))


@dataclass(frozen=True)
class SRA1(_Stochastic):
    """Roessler's method for additive noise: strong order 3/2; three evaluations a step, one of the diffusion alone.

    It takes the integral of the path over each step, which the path has jointly with the increment.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Raises:
        TypeError: ``steps`` is not an int.
        ValueError: ``steps`` is below 1; from `solve`, that the noise is not additive, or the path has no areas.

    Source:
        A. Roessler, Runge-Kutta methods for the strong approximation of solutions of stochastic differential
        equations, SIAM J. Numer. Anal. 48 (2010), table 6.2.

    Examples:
        >>> SRA1().order
        1.5
    """

    traits = replace(_TRAITS, order=1.5, evaluations=3)
    """Drift and diffusion together, and each once more."""

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """Returns itself; noise that is not additive is refused."""
        if problem.noise != "additive":
            raise ValueError(
                f"{self!r} is for additive noise and came with noise={problem.noise!r}; expected pr.Milstein(), or "
                'noise="additive" where the diffusion does not depend on u'
            )
        problem.path.scale(torch.zeros(1, 1, dtype=torch.int64), area=True)
        return self

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        h = t1 - t0
        dw, dz = yield problem.increments(self.steps, area=True), t0, t1, u
        mean = trees.map(lambda z: z / trees.per_lane(h, z), dz)  # of the path over the step
        f, left = yield problem.terms, t0, u
        right = yield problem.amplitudes, t1, u  # the state does not matter: the noise is additive
        stage = trees.axpy(u, h, (0.75,), [f])
        stage = trees.add(stage, problem.product(right, trees.map(lambda m: 1.5 * m, mean)))
        late = yield problem.rhs, t0 + 0.75 * h, stage
        drifted = trees.axpy(u, h, (1 / 3, 2 / 3), [f, late])
        tilted = problem.product(trees.sub(left, right), mean)
        return trees.add(trees.add(drifted, problem.product(right, dw)), tilted)


@dataclass(frozen=True)
class StratonovichHeun(_Stochastic):
    """`Heun` for an SDE in the sense of Stratonovich; see there."""

    traits = replace(_TRAITS, order=1.0, evaluations=2)
    """Drift and diffusion together, twice. The order holds where Brownian motions do not interact."""

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """Returns itself; an Ito SDE is refused."""
        if problem.calculus == "ito" and problem.noise != "additive":
            raise ValueError(
                f"Heun(steps={self.steps}) came with an Ito SDE, and would solve another equation; expected "
                "pr.EulerMaruyama() or pr.Milstein(), or the Stratonovich drift, drift - (1/2) g dg/du, with "
                'calculus="stratonovich"'
            )
        return self

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """The trapezoidal rule for both integrals, its right end from an Euler step; see `Integrator.step`."""
        h = t1 - t0
        dw = yield problem.increments(self.steps), t0, t1, u
        f, g = yield problem.terms, t0, u
        euler = trees.add(trees.axpy(u, h, (1.0,), [f]), problem.product(g, dw))
        f1, g1 = yield problem.terms, t1, euler
        mean = trees.map(lambda a, b: 0.5 * (a + b), g, g1)
        return trees.add(trees.axpy(u, h, (0.5, 0.5), [f, f1]), problem.product(mean, dw))
