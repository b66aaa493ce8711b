"""A black box that propagates one state over one slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from parareal._core import autocast, trees
from parareal._core.checks import check_flag, described
from parareal._core.names import BATCHING_HINTS, one_of
from parareal._core.trees import State
from parareal.integrators._base import Integrator
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._lane_calls import Fresh, check_like, check_untouched, noting_vmap, versions
from parareal.problem._ode import Problem, Stages


@dataclass(frozen=True, eq=False)
class Propagator(Integrator):
    """A function that propagates one state over one slice: ``fn(t0, t1, u) -> u`` at ``t1``.

    Args:
        fn: Called once per slice with scalar float64 times and one state; it returns a state of the same structure,
            shapes and dtypes.
        batching: ``"loop"`` calls it lane by lane; ``"vmap"`` batches it with `torch.func.vmap`; ``"native"``
            says that it takes times of shape ``(L,)`` and leaves ``(L, *state)`` itself.
        differentiable: Whether `torch.func.jvp` can differentiate it, so that `Jacobian` may correct with its
            derivative: torch operations throughout.

    One call on one lane counts as one evaluation, and one round is one call on all lanes, whatever happens inside.

    Raises:
        TypeError: ``fn`` is not callable, or ``differentiable`` is not a bool.
        ValueError: ``batching`` is unknown.

    Examples:
        >>> import torch
        >>> exact = Propagator(lambda t0, t1, u: u * torch.exp(t0 - t1))
    """

    fn: Callable[[Tensor, Tensor, State], State]
    batching: str = "loop"
    differentiable: bool = False
    traits = IntegratorTraits(order=None, evaluations=1, solves=(Problem,))  # one call a slice
    steps: int | None = field(default=1, init=False)
    _vmapped: Callable[..., Any] = field(init=False, repr=False)
    _fresh: Fresh = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"fn is {described(self.fn)}; expected a callable fn(t0, t1, u) -> u")
        one_of(self.batching, ("loop", "vmap", "native"), "batching", hints=BATCHING_HINTS)
        check_flag(self.differentiable, "differentiable")
        object.__setattr__(self, "_vmapped", torch.func.vmap(self._checked))
        object.__setattr__(self, "_fresh", Fresh("fn"))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.fn, self.batching, self.differentiable)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """The whole slice in one request."""
        return (yield self.propagate, t0, t1, u)

    def propagate(self, t0: Tensor, t1: Tensor, u: State, rows: State = None) -> State:
        """States at ``t1``, shape ``(L,)``, from states at ``t0``; ``rows`` is not used: close over what you need."""
        with autocast.restored():
            return self._propagate(t0, t1, u)

    def _propagate(self, t0: Tensor, t1: Tensor, u: State) -> State:
        if self.batching == "native":
            return self._fresh.check(self._checked(t0, t1, u))
        if self.batching == "vmap":
            with noting_vmap("fn"):
                return self._vmapped(t0, t1, u)
        lanes = [(t0[i], t1[i], trees.clone(trees.one(u, i))) for i in range(t0.shape[0])]
        return trees.stack([trees.clone(self._checked(*lane)) for lane in lanes])

    def along(self, t0: Tensor, t1: Tensor, u: State) -> State:
        """`propagate` under a transform of torch.func."""
        if self.batching == "native":
            return self._checked(t0, t1, u)
        if self.batching == "vmap":
            return self._vmapped(t0, t1, u)
        return trees.stack([self._checked(t0[i], t1[i], trees.one(u, i)) for i in range(t0.shape[0])])

    def _checked(self, t0: Tensor, t1: Tensor, u: State) -> State:
        before = versions(u)
        value = check_like(self.fn(t0, t1, u), u, "fn(t0, t1, u)")
        check_untouched(u, before, "fn")
        return value
