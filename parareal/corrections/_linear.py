"""Corrections F(new) - F(old) = J (new - old) with a known linear map J, which cost no evaluation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.corrections._base import Correction, Edge, Known, Sweep
from parareal.corrections._scan import composed, walked
from parareal.corrections._traits import CorrectionTraits
from parareal.grid._mesh import Where

LINEAR = CorrectionTraits(uses_input=True, stacked=True, linear=True)
_WHITENED = replace(LINEAR, whitened=True)


def _one(z: Any, rest: Any) -> Any:
    return np.ones_like(z)


def _zero(z: Any, rest: Any) -> Any:
    return np.zeros_like(z)


class Linear(Correction):
    """J (new - old) with a J that is known for every slice beforehand. Subclasses give `apply`, and may give `compose`.

    A sweep is then one `apply` for each slice, or with `compose` a few for the square root of their number.
    """

    traits = LINEAR

    @abstractmethod
    def apply(self, at: Where, change: State) -> State:
        """J ``change`` on L slices, leaves ``(L, *state)``."""

    def compose(self, at: Where, change: State) -> State:
        """J of L neighbouring slices one after another, from the left, on R changes at once.

        Optional. It is called for some tens of slices at a time, and must cost less than `apply` for each of them: for
        a flow it is the flow from ``at.t0[:, 0]`` to ``at.t1[:, -1]``.

        Args:
            at: The slices; times have shape ``(R, L)``.
            change: Changes at the left boundaries of the first slices, leaves ``(R, *state)``.

        Returns:
            Those at the right boundaries of the last ones.
        """
        raise NotImplementedError

    def guess(self, at: Where, new: Known) -> State:
        """J u: the flow of the linear part."""
        return self.apply(at, new.u)

    def difference(self, at: Where, new: Known, old: Known) -> State:
        """J (new - old)."""
        return self.apply(at, trees.sub(new.u, old.u))

    def guess_run(self, at: Where, u: State, before: tuple[Edge, ...]) -> State:
        """`guess` through all slices: a sweep without defects, where a subclass does not guess otherwise."""
        if getattr(self.guess, "__func__", None) is Linear.guess:
            nothing = trees.map(lambda leaf: leaf.new_zeros(leaf.shape[0], at.shape[1], *leaf.shape[1:]), u)
            return self._swept(at, Sweep(u, nothing, None))
        out: list[State] = []
        for i in range(at.shape[1]):
            u = self.guess(at.column(i), Known(u, None))
            out.append(u)
        return trees.stack(out, 1)

    def difference_run(self, at: Where, sweep: Sweep) -> State | None:
        """A sweep in blocks of slices with `compose`, else `apply` slice after slice."""
        return self._swept(at, sweep)

    def _swept(self, at: Where, sweep: Sweep) -> State:
        return sweep_through(self, at, sweep)


def sweep_through(linear: Any, at: Where, sweep: Sweep) -> State:
    """J D of rows of slices, with what a linear correction has to offer: `factors`, `compose`, or `apply` alone."""
    factors = linear.factors(at, sweep) if linear.traits.factored else None
    if factors is not None:
        return factors.sweep(sweep.moved, sweep.defects)
    compose = composer(linear)
    if compose is not None:
        return composed(linear.apply, compose, at, sweep.moved, sweep.defects)
    return walked(linear.apply, at, sweep.moved, sweep.defects)


def composer(linear: Any) -> Callable[[Where, State], State] | None:
    """Its `Linear.compose`, if it has one of its own."""
    compose = getattr(linear, "compose", None)
    return None if getattr(compose, "__func__", None) is Linear.compose else compose


class Whitened(Linear):
    """A J that is the identity in whitened coordinates W(t) u: J = W(t1)^-1 W(t0) with an invertible linear W(t).

    In these coordinates the flow does not change a state, so a sweep is one cumulative sum. For a flow of Gaussian
    data they are states divided by their standard deviation at time t, which is where the name comes from. Subclasses
    give `whiten`, `unwhiten` and `dual`. Times have the shape of the leading axes of the states: ``(..., )`` for
    states ``(..., *state)``. `unwhiten` was called ``colour`` before; both names work, in subclasses and in calls.
    """

    traits = _WHITENED

    def __init_subclass__(cls, **options: Any) -> None:
        if "colour" in vars(cls) and "unwhiten" not in vars(cls):
            cls.unwhiten = vars(cls)["colour"]
        super().__init_subclass__(**options)

    @abstractmethod
    def whiten(self, t: Tensor, u: State) -> State:
        """W(t) u."""

    @abstractmethod
    def unwhiten(self, t: Tensor, w: State) -> State:
        """W(t)^-1 w."""

    def colour(self, t: Tensor, w: State) -> State:
        """The former name of `unwhiten`."""
        return self.unwhiten(t, w)

    @abstractmethod
    def dual(self, t: Tensor, b: State) -> State:
        """The transposed W(t)^-T b, with which <dual(t, b), W(t) u> = <b, u>."""

    def divisor(self, t: Tensor) -> Tensor | None:
        """Where W(t) divides by a number, that number at times ``(K,)``; ``None`` where it does more, the default.

        `Secant` then sweeps with one product of matrices.
        """
        return None

    def clock(self, t: Tensor) -> Tensor:
        """A time scale on which the error of the flow changes at a rate of about one; the problem's time by default.

        `Secant` uses it to weigh how similar neighbouring slices are.
        """
        return t

    def weight(self, at: Where) -> Tensor:
        """How much a slice contributes to the error of the flow; its length by default."""
        return (at.t1 - at.t0).abs()

    def apply(self, at: Where, change: State) -> State:
        """W(t1)^-1 W(t0) ``change``."""
        return self.unwhiten(at.t1, self.whiten(at.t0, change))

    def compose(self, at: Where, change: State) -> State:
        """The same from the first boundary to the last."""
        return self.unwhiten(at.t1[:, -1], self.whiten(at.t0[:, 0], change))

    def difference_run(self, at: Where, sweep: Sweep) -> State:
        """The changes at the left boundaries, summed in whitened coordinates."""
        t0, t1 = at.t0, at.t1
        return self.unwhiten(t1, _left(self.whiten(t0[:, 0], sweep.moved), self.whiten(t1, sweep.defects)))


def _left(moved: State, defects: State) -> State:
    """Changes at the left boundaries where J is the identity: a cumulative sum, leaves ``(R, L, *state)``."""

    def leaf(first: Tensor, defect: Tensor) -> Tensor:
        return torch.cat([first.unsqueeze(1), defect[:, :-1]], dim=1).cumsum(dim=1)

    return trees.map(leaf, moved, defects)


def held(at: Where, u: State) -> State:
    """The same state at every slice boundary."""
    length = at.shape[1]
    return trees.map(lambda leaf: leaf.unsqueeze(1).expand(leaf.shape[0], length, *leaf.shape[1:]), u)


@dataclass(frozen=True)
class Identity(Whitened):
    """new - old: Picard iteration, which needs no evaluations.

    With slices of one step it is the iteration of Parallel Sampling of Diffusion Models (ParaDiGMS, arXiv 2305.16317).
    """

    traits = replace(_WHITENED, stability=_one)

    def divisor(self, t: Tensor) -> Tensor:
        """One."""
        return torch.ones_like(t)

    def whiten(self, t: Tensor, u: State) -> State:
        """The current state, unchanged."""
        return u

    def unwhiten(self, t: Tensor, w: State) -> State:
        """The current state, unchanged."""
        return w

    def dual(self, t: Tensor, b: State) -> State:
        """The current state, unchanged."""
        return b

    def apply(self, at: Where, change: State) -> State:
        """The change."""
        return change

    def guess_run(self, at: Where, u: State, before: tuple[Edge, ...]) -> State:
        """The same state at every slice boundary."""
        return held(at, u)

    def difference_run(self, at: Where, sweep: Sweep) -> State:
        """The change at each left boundary: ``moved`` and all defects before it."""
        return _left(sweep.moved, sweep.defects)


@dataclass(frozen=True)
class Zero(Linear):
    """No correction: Jacobi iteration, in which information moves by one slice an iteration."""

    traits = replace(LINEAR, stability=_zero)

    def apply(self, at: Where, change: State) -> State:
        """Zero, since J is zero."""
        return trees.map(torch.zeros_like, change)

    def compose(self, at: Where, change: State) -> State:
        """Zero."""
        return trees.map(torch.zeros_like, change)

    def guess(self, at: Where, new: Known) -> State:
        """The state at the left end of the slice."""
        return new.u

    def difference(self, at: Where, new: Known, old: Known) -> None:  # pyright: ignore
        """``None``, which stands for zero."""
        return None

    def guess_run(self, at: Where, u: State, before: tuple[Edge, ...]) -> State:
        """The same state at every slice boundary."""
        return held(at, u)

    def difference_run(self, at: Where, sweep: Sweep) -> None:
        """``None``, which stands for zero on all slices."""
        return None
