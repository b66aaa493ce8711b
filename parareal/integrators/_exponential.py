"""Exponential Runge-Kutta methods: the linear part of an equation is solved exactly, whatever the step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.integrators._amplification import etdrk2, etdrk4, exponential_euler
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import Stages
from parareal.problem._semilinear import Factors, Semilinear, Split, chosen, lincomb

_TRAITS = IntegratorTraits(evaluations=None, shares_first_stage=True, solves=(Semilinear,))
"""The traits that the methods share."""


@dataclass(frozen=True)
class _Exponential(Integrator):
    """The base of the methods below."""

    steps: int | None = None

    traits = _TRAITS

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def first_function(self, problem: Any) -> Any:
        """The function of the split of the problem."""
        return problem.split("data").function


@dataclass(frozen=True)
class ExponentialEuler(_Exponential):
    """The exponential Euler method: order 1, one evaluation a step. On a diffusion ODE it is DDIM.

    u1 = e^{ch} u + h phi_1(ch) N(t0, u).

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        M. Hochbruck, A. Ostermann, Exponential integrators, Acta Numerica 19 (2010), section 2; Denoising Diffusion
        Implicit Models (arXiv 2010.02502).

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.SemilinearODE(-1.0, lambda t, u: torch.zeros_like(u))
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=1)
        >>> pr.serial(problem, torch.ones((), dtype=torch.float64), grid, fine=ExponentialEuler()).u.log().item()
        -1.0
    """

    traits = replace(_TRAITS, order=1, evaluations=1, stability=exponential_euler)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        split = problem.split("data")
        rest = split.rest(t0, u, (yield split.function, t0, u))
        weights = split.weights(t0, t1, 1)
        return lincomb([(weights.keep, u), (weights.phi[0], rest)])


@dataclass(frozen=True)
class ETDRK2(_Exponential):
    """Exponential time differencing with two stages: order 2, two evaluations a step.

    A step from or into a noise level without end, as into clean data, is one of `ExponentialEuler`.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        S. M. Cox, P. C. Matthews, Exponential time differencing for stiff systems, J. Comput. Phys. 176 (2002).

    Examples:
        >>> ETDRK2().order, ETDRK2().evaluations
        (2, 2)
    """

    traits = replace(_TRAITS, order=2, evaluations=2, stability=etdrk2)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        split = problem.split("data")
        n0 = split.rest(t0, u, (yield split.function, t0, u))
        weights = split.weights(t0, t1, 2)
        a = lincomb([(weights.keep, u), (weights.phi[0], n0)])
        bounded = torch.isfinite(weights.h) if split.endless else None
        end = t1 if bounded is None else torch.where(bounded, t1, t0)  # as in `etdrk4_step`
        na = split.rest(end, a, (yield split.function, end, a))
        new = trees.add(a, lincomb([(weights.phi[1], trees.sub(na, n0))]))
        return new if bounded is None else chosen(bounded, new, a)


@dataclass(frozen=True)
class ETDRK4(_Exponential):
    """Exponential time differencing with four stages: order 4, four evaluations a step; stiff equations may show less.

    A step from or into a noise level without end, as into clean data, is one of `ExponentialEuler`.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Source:
        S. M. Cox, P. C. Matthews, Exponential time differencing for stiff systems, J. Comput. Phys. 176 (2002), with
        weights evaluated so that no digits are lost: A.-K. Kassam, L. N. Trefethen, SIAM J. Sci. Comput. 26 (2005).

    Examples:
        >>> ETDRK4().order, ETDRK4().evaluations
        (4, 4)
    """

    traits = replace(_TRAITS, order=4, evaluations=4, stability=etdrk4)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        return etdrk4_step(problem.split("data"), t0, t1, u)


def etdrk4_step(split: Split, t0: Tensor, t1: Tensor, u: State) -> Stages:
    """One step of ETDRK4 on L lanes; where it is infinitely long, one of `ExponentialEuler`."""
    n0 = split.rest(t0, u, (yield split.function, t0, u))
    level0, level1 = split.level(t0), split.level(t1)
    # Halfway in the variable in which the linear part is constant.
    middle, end, bounded = split.time((level0 + level1) / 2), t1, None
    if split.endless:  # there is no halfway: every stage is the first, whose weights add up to that of one stage
        bounded = torch.isfinite(level1 - level0)
        middle, end = torch.where(bounded, middle, t0), torch.where(bounded, t1, t0)

    def stage(terms: list[tuple[Factors, State]]) -> State:
        return lincomb(terms) if bounded is None else chosen(bounded, lincomb(terms), u)

    half, second = split.weights(t0, middle, 1), split.weights(middle, t1, 1)
    a = stage([(half.keep, u), (half.phi[0], n0)])
    na = split.rest(middle, a, (yield split.function, middle, a))
    b = stage([(half.keep, u), (half.phi[0], na)])
    nb = split.rest(middle, b, (yield split.function, middle, b))
    c = stage([(second.keep, a), (second.phi[0], trees.map(lambda x, y: 2 * x - y, nb, n0))])
    nc = split.rest(end, c, (yield split.function, end, c))
    weights = split.weights(t0, t1, 3)
    one, two, three = weights.phi
    w0 = _combine([1, -3, 4], one, two, three)
    wab = _combine([2, -4], two, three)
    wc = _combine([-1, 4], two, three)
    return lincomb([(weights.keep, u), (w0, n0), (wab, trees.add(na, nb)), (wc, nc)])


def _combine(numbers: list[int], *factors: Factors) -> Factors:
    """Sums of factors times numbers, added one by one: the rounding of `sum` may depend on the other lanes."""
    sums: list[Tensor] = []
    for first, *others in zip(*factors, strict=True):
        total = numbers[0] * first
        for number, factor in zip(numbers[1:], others, strict=True):
            total = total + number * factor
        sums.append(total)
    return tuple(sums)
