"""Adams-Bashforth methods: earlier values of the right-hand side are extrapolated over the step."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core.arrays import Ints
from parareal._core.checks import check_count
from parareal._core.multistep_state import Carried, Memory
from parareal._core.trees import State
from parareal.integrators._base import Multistep, check_steps
from parareal.integrators._exponential import etdrk4_step
from parareal.integrators._history import no_history, placed, remember
from parareal.integrators._interpolation import Moments, exact, node_weights
from parareal.integrators._runge_kutta import RK4, Heun, explicit_step
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import Stages
from parareal.problem._semilinear import Factors, Semilinear, Split, Weights, lincomb, plain_split, together


def check_order(order: Any, most: int) -> None:
    """Raises unless ``order`` is one of 1 ... ``most``."""
    check_count(order, "order")
    if order > most:
        raise ValueError(f"order={order} is out of range; expected 1 ... {most}")


def extrapolate(
    split: Split, t0: Tensor, t1: Tensor, state: Carried, order: int, moments: Moments = exact
) -> Generator[tuple[Any, ...], State, Carried]:
    """One step with a polynomial through N at ``t0`` and at up to ``order - 1`` earlier steps."""
    u, (history, (begin, end)) = state.u, placed(split, state.memory, t0, t1)
    value = yield split.function, t0, u
    rest = split.rest(t0, u, value)
    weights = split.weights(begin, end, order)
    nodes, usable = history.nodes(split, weights, begin)
    nodes = nodes[: order - 1]
    each: list[Factors] = node_weights(weights, nodes, usable.clamp(max=order - 1), moments)
    terms = [(weights.keep, u), (each[0], rest)]
    terms += [(history.factor(each[j + 1], j), history.values[j]) for j in range(len(nodes))]
    unit = weights.unit
    if all(len(factors) == 1 for factors, _ in terms):
        unit, *there = together([unit, *(factors[0] for factors, _ in terms)], rest)
        terms = [((factor,), state) for factor, (_, state) in zip(there, terms, strict=True)]
    return Carried(lincomb(terms), remember(history, begin, rest, weights.unit, unit))


def first_order(split: Split, t0: Tensor, t1: Tensor, order: int) -> tuple[Tensor, Tensor] | None:
    """The weights of `Multistep.first_order`, of a method that extrapolates N as `extrapolate` does.

    Args:
        split: The split.
        t0: Where steps that follow one another begin, float64, ``(L,)``.
        t1: Where they end.
        order: The order of the method.
    """
    if order < 2:
        return None
    weights = split.weights(t0, t1, 1)
    keep, phi = weights.keep, weights.phi[0]
    if not (len(keep) == len(phi) == 1 and keep[0].ndim == phi[0].ndim == 1):
        return None
    far = torch.zeros(len(weights.h) + order - 2, dtype=torch.bool, device=weights.h.device)
    longer = ~((weights.h[1:] / weights.h[:-1]).abs() < _LONGER)
    for later in range(order - 1):
        far[1 + later : len(weights.h) + later] |= longer
    return torch.where(far[: len(weights.h)], torch.nan, keep[0]), phi[0] / weights.unit


_LONGER = 1.25
"""In steps after one that is shorter by this factor earlier values are extrapolated far, and weigh more than new."""


@dataclass(frozen=True)
class AdamsBashforth(Multistep):
    """The explicit Adams method: one evaluation a step, whatever the order; any steps, even or not.

    The first ``order - 1`` steps are Runge-Kutta steps of that order or more, of 2 evaluations for order 2 and 4 above.
    Its history, the right-hand side at the steps before, is carried over slice boundaries. Until its first fine
    solution a slice has no history and begins with lower orders.

    Args:
        order: 1 ... 4.
        restart: Restart in every slice, with Runge-Kutta steps, without history.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Raises:
        TypeError: ``order`` or ``steps`` is not an int.
        ValueError: ``order`` is out of range, or ``steps`` is below 1.

    Source:
        E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I (Springer, 1993), section III.5
        for uneven steps.

    Examples:
        >>> import torch, parareal as pr
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=8)
        >>> pr.serial(pr.ODE(lambda t, u: -u), torch.ones(3), grid, fine=AdamsBashforth(2)).stats.rounds
        33
    """

    order: int = 2
    restart: bool = False
    steps: int | None = None

    def __post_init__(self) -> None:
        check_order(self.order, 4)
        check_steps(self.steps)

    @property
    def traits(self) -> IntegratorTraits:
        """One evaluation a step, after the first few."""
        return IntegratorTraits(order=self.order, evaluations=1, shares_first_stage=True, multistep=True)

    def begin(self, u: State) -> Memory:
        """The empty history."""
        return no_history(u, self.order - 1)

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """0 for the first ``order - 1`` steps, 1 for all others."""
        return (step >= self.order - 1).astype(np.int64)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Carried, variant: int = 1) -> Stages:
        """One step on L lanes; see `Multistep.step`."""
        split = plain_split(problem)
        if variant == 1:
            return (yield from extrapolate(split, t0, t1, u, self.order))
        slope = yield problem.rhs, t0, u.u
        table = Heun.tableau if self.order == 2 else RK4.tableau
        new = yield from given_first(explicit_step(table, problem, t0, t1, u.u), slope)
        history, (begin, end) = placed(split, u.memory, t0, t1)
        return Carried(new, remember(history, begin, slope, end - begin))

    def first_order(self, problem: Any, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor] | None:
        """Euler's method."""
        return first_order(plain_split(problem), t0, t1, self.order)


def given_first(stages: Stages, first: State) -> Stages:
    """A step whose first request is answered."""
    next(stages)
    try:
        request = stages.send(first)
        while True:
            request = stages.send((yield request))
    except StopIteration as end:
        return end.value


@dataclass(frozen=True)
class DEIS(Multistep):
    """The exponential Adams-Bashforth method: the linear part exactly, the rest extrapolated; one evaluation a step.

    On a diffusion ODE it is DEIS with polynomials in log(sigma/alpha) of the noise that the model predicts.

    Args:
        order: 1 ... 4; 1 is `ExponentialEuler`, and DDIM.
        lower_order_start: Begin with steps of lower orders, from 1 on, as DEIS is published: the first of them leaves
            an error of order 2. Else the first ``order - 1`` steps are those of `ETDRK4`, of 4 evaluations, and a
            smooth solution has the full order.
        lower_order_final: Lower the order in the last steps, down to 1 in the last one.
        restart: Restart in every slice, without history.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Raises:
        TypeError: ``order`` or ``steps`` is not an int.
        ValueError: ``order`` is out of range, or ``steps`` is below 1; from `solve`, that the problem has no split.

    Source:
        Fast Sampling of Diffusion Models with Exponential Integrator (arXiv 2204.13902), the tAB method; in general
        M. Hochbruck, A. Ostermann, Exponential multistep methods of Adams-type, BIT 51 (2011).

    Examples:
        >>> DEIS(3).evaluations
        1
    """

    order: int = 3
    lower_order_start: bool = True
    lower_order_final: bool = False
    restart: bool = False
    steps: int | None = None

    def __post_init__(self) -> None:
        check_order(self.order, 4)
        check_steps(self.steps)

    @property
    def traits(self) -> IntegratorTraits:
        """One evaluation a step, after the first few."""
        return IntegratorTraits(
            order=self.order, evaluations=1, shares_first_stage=True, solves=(Semilinear,), multistep=True
        )

    def first_function(self, problem: Any) -> Any:
        """The function of the split of the problem."""
        return problem.split("noise").function

    def begin(self, u: State) -> Memory:
        """The empty history."""
        return no_history(u, self.order - 1)

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """The order of a step by its place in the grid; 0 for a step of `ETDRK4`."""
        orders = np.minimum(self.order, steps - step) if self.lower_order_final else np.full(len(step), self.order)
        start = (step < self.order - 1) & (orders == self.order)
        return orders if self.lower_order_start else np.where(start, 0, orders)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Carried, variant: int = 4) -> Stages:
        """One step on L lanes; see `Multistep.step`."""
        split = problem.split("noise")
        if variant > 0:
            return (yield from extrapolate(split, t0, t1, u, min(variant, self.order)))
        value = yield split.function, t0, u.u
        new = yield from given_first(etdrk4_step(split, t0, t1, u.u), value)
        history, (begin, end) = placed(split, u.memory, t0, t1)
        unit = split.weights(begin, end, 1).unit
        return Carried(new, remember(history, begin, split.rest(t0, u.u, value), unit))

    def first_order(self, problem: Any, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor] | None:
        """The exponential Euler method."""
        return first_order(problem.split("noise"), t0, t1, self.order)


def midpoint(weights: Weights, m: int) -> list[Factors]:
    """Derivatives are weighted as if N were evaluated in the middle of the step, which is correct to order 2."""
    return [tuple(part / 2 for part in weights.phi[0])] if m == 1 else exact(weights, m)
