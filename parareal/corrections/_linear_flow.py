"""A correction F(new) - F(old) = factor (new - old), with a linear flow that is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.trees import State
from parareal.corrections._base import Sweep
from parareal.corrections._linear import LINEAR, Linear
from parareal.corrections._scan import Factors, Times, pays
from parareal.grid._mesh import Where

Factor = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True, eq=False)
class LinearFlow(Linear):
    """factor (new - old) with a known linear flow, which needs no evaluations.

    It is exact, so that one iteration is enough, where the fine propagator is affine with that factor. It converges
    quickly where the equation is nearly linear, such as u' = A u + small terms with the factor exp(A (t1 - t0)).

    Args:
        factor: The factor of a change from the start of a slice to its end: a function
            ``factor(t0, t1)`` of float64 times of shape ``(L,)``, or one value for all slices. The value may be a
            number or have shape ``(L,)`` for one number a slice, ``(L, *state)`` for one number an element, or
            ``(L, d, d)`` for a matrix where states are vectors of d elements. Leave out the L if it is not a function.
            Give a pytree of these for a pytree of tensors.

    Raises:
        TypeError: ``factor`` is none of these.
        ValueError: Its shape does not fit the state; before any work is done.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: -20 * u + torch.cos(t))
        >>> grid = pr.TimeGrid.uniform(0.0, 2.0, slices=10, steps=50)
        >>> decay = pr.LinearFlow(lambda t0, t1: torch.exp(-20 * (t1 - t0)))
        >>> sol = pr.solve(problem, torch.ones(1, dtype=torch.float64), grid, fine=pr.RK4(), coarse=decay)
        >>> sol.iterations, sol.stats.coarse_evaluations
        (2, 0)
    """

    factor: Factor | Tensor | complex

    def __post_init__(self) -> None:
        given: Any = self.factor
        known = isinstance(given, Number | Tensor | tuple | list | dict) and not isinstance(given, bool)
        if not (known or callable(given)):
            raise TypeError(f"factor is {described(given)}; expected a function factor(t0, t1), a tensor or a number")

    traits = replace(LINEAR, factored=True)

    def bind(self, problem: Any, u0: State, grid: Any, fine: Any) -> LinearFlow:
        """Checks the factor's shape."""
        edges = grid.edges.to(trees.leaves(u0)[0].device)
        self.apply(Times(edges[:1], edges[1:2]), trees.map(lambda leaf: leaf.unsqueeze(0), u0))
        return self

    def apply(self, at: Where, change: State) -> State:
        """The factor times the change."""
        return trees.map(_times, change, self._multipliers(at.t0, at.t1, change))

    def factors(self, at: Where, sweep: Sweep) -> Factors | None:
        """The factors of all slices; ``None`` where rows are so short or states so large that blocks do not pay."""
        (rows, length), leaves = at.shape, trees.leaves(sweep.moved)
        device, most = leaves[0].device, max(leaf[0].numel() for leaf in leaves)
        if not pays(rows, length, most, device, matrices=False):
            return None
        if not pays(
            rows, length, max([leaf.shape[1] for leaf in leaves if leaf.ndim == 2], default=0), device, matrices=True
        ):
            # Matrices of all slices would be too much to make: see whether there are any.
            one = self._multipliers(at.t0[:, 0], at.t1[:, 0], sweep.moved)
            if any(factor.ndim > leaf.ndim for factor, leaf in zip(trees.leaves(one), leaves, strict=True)):
                return None
        every = trees.join(sweep.defects)
        value = self._multipliers(at.t0.reshape(-1), at.t1.reshape(-1), every)

        def rowwise(change: Tensor, factor: Tensor) -> Tensor:
            return (factor.mT if factor.ndim > change.ndim else factor).unflatten(0, (rows, length))

        return Factors(trees.map(rowwise, every, value))

    def _multipliers(self, t0: Tensor, t1: Tensor, like: State) -> State:
        """What each leaf of ``like``, ``(L, *state)``, is multiplied with: a tensor with L lanes, or one number."""
        given: Any = self.factor
        factor, lanes = (given(t0, t1), True) if callable(given) else (given, False)
        if isinstance(factor, Number | Tensor):
            return trees.map(lambda leaf: _multiplier(factor, leaf, lanes), like)
        return trees.map(lambda leaf, one: _multiplier(one, leaf, lanes), like, factor)


def _multiplier(factor: Any, change: Tensor, lanes: bool) -> Tensor:
    """A number, one for each element, or a matrix, for changes of shape ``(L, *state)``; with its L lanes in front."""
    size, state = change.shape[0], tuple(change.shape[1:])
    if isinstance(factor, Number):  # at full precision: torch would make float32 of it
        factor = torch.as_tensor(factor, dtype=torch.complex128 if isinstance(factor, complex) else torch.float64)
    factor = torch.as_tensor(factor, device=change.device)
    if factor.is_complex() and not change.is_complex():
        raise TypeError(
            f"factor is {factor.dtype} for a state of {change.dtype}; expected a real one, or complex states"
        )
    factor = factor.to(change.dtype)
    if factor.ndim == 0:
        return factor.expand(size, *[1] * len(state))
    if not lanes:
        factor = factor.expand(size, *factor.shape)
    shape = tuple(factor.shape)
    if shape == (size, *state) or (len(state) == 1 and shape == (size, *state, *state)):
        return factor
    if shape == (size,):
        return factor.reshape(size, *[1] * len(state))
    lead = ("L",) if lanes else ()
    raise ValueError(
        f"factor has shape {shape[0 if lanes else 1 :]} on {size} slices and a state of shape {state}; expected "
        + " or ".join(
            str(lead + s).replace("'", "")
            for s in ((), state, *([(math.prod(state), math.prod(state))] if len(state) == 1 else []))
        )
    )


def _times(change: Tensor, factor: Tensor) -> Tensor:
    if factor.ndim == change.ndim:
        return change * factor
    return (factor @ change.unsqueeze(-1)).squeeze(-1)
