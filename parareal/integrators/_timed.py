"""Integrators whose times have a graph, or lie beside the points of the grid, as torchdiffeq evaluates them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Floats, Ints
from parareal._core.host import values_of
from parareal._core.multistep_state import Carried, Memory, Moving
from parareal._core.trees import State
from parareal.integrators._adaptive import START, Adaptive
from parareal.integrators._base import Integrator, Multistep
from parareal.integrators._paced import PHASE, Paced
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import Stages


@dataclass(frozen=True, eq=False)
class Points:
    """Time points with a graph.

    Attributes:
        points: Float64, on the host, as strictly monotone as the grid's.
    """

    points: Tensor

    def attach(self, t: Tensor) -> Tensor:
        """Times ``t`` with the graph of these; one between two points moves with both, as those of a mesh do."""
        host, points = values_of(t).detach().cpu(), self.points.detach()
        sign = 1.0 if points[-1] > points[0] else -1.0
        right = torch.searchsorted(sign * points, sign * host).clamp(min=1, max=len(points) - 1)
        share = (host - points[right - 1]) / (points[right] - points[right - 1])
        left, right = self.points[right - 1], self.points[right]
        found = (1 - share) * left + share * right
        return (host + (found - found.detach())).to(t.device)  # to the bit


@dataclass(frozen=True, eq=False)
class Timed(Integrator):
    """A fixed-step method whose steps depend on the time points, with derivatives.

    Args:
        inner: The method.
        points: The points, or ``None`` for times without a graph.
        perturb: Whether the right-hand side is evaluated right behind the start of a step and right before its end.
    """

    inner: Integrator
    points: Points | None = None
    perturb: bool = False
    steps: int | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", self.inner.steps)

    @property
    def traits(self) -> IntegratorTraits:
        """Those of the method; the first stage has times of its own."""
        return replace(self.inner.traits, shares_first_stage=False)

    def __repr__(self) -> str:
        return repr(self.inner)

    def bind(self, problem: Any, u0: State, grid: Any) -> Timed:
        """With the method bound."""
        return replace(self, inner=self.inner.bind(problem, u0, grid))

    def begin_slice(self, problem: Any, u: State) -> Any:
        """As the method."""
        return self.inner.begin_slice(problem, u)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """A step between the points themselves."""
        if self.points is not None:
            t0, t1 = self.points.attach(t0), self.points.attach(t1)
        stages = self.inner.step(problem, t0, t1, u)
        if not self.perturb:
            return (yield from stages)
        sign = torch.sign(t1 - t0)
        try:
            request = next(stages)
            while True:
                fn, t, *args = request
                if t is t0:
                    t = _beside(t, u, sign)
                elif t is t1:
                    t = _beside(t, u, -sign)
                request = stages.send((yield fn, t, *args))
        except StopIteration as end:
            return end.value


@dataclass(frozen=True, eq=False)
class TimedMultistep(Multistep):
    """A method with a history whose steps, and the times of which it keeps, have a graph.

    Args:
        inner: The method.
        points: The points.
    """

    inner: Multistep
    points: Points
    steps: int | None = field(default=None, init=False, repr=False)
    restart: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", self.inner.steps)
        object.__setattr__(self, "restart", self.inner.restart)

    @property
    def traits(self) -> IntegratorTraits:
        """Those of the method; the first stage has times of its own."""
        return replace(self.inner.traits, shares_first_stage=False)

    @property
    def group(self) -> int:
        """As the method."""
        return self.inner.group

    def __repr__(self) -> str:
        return repr(self.inner)

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """With the method bound."""
        bound = self.inner.bind(problem, u0, grid)
        return replace(self, inner=bound) if isinstance(bound, Multistep) else Timed(bound, self.points)

    def begin(self, u: State) -> Memory:
        """As the method."""
        return self.inner.begin(u)

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """As the method."""
        return self.inner.variants(step, steps)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Carried, variant: int = 0) -> Stages:
        """A step between the points themselves."""
        return self.inner.step(problem, self.points.attach(t0), self.points.attach(t1), u, variant)

    def first_order(self, problem: Any, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor] | None:
        """As the method."""
        return self.inner.first_order(problem, t0, t1)


@dataclass(frozen=True, eq=False)
class TimedAdaptive(Paced):
    """An adaptive method whose slices begin and end at time points with a graph.

    Args:
        inner: The method.
        points: The points.
    """

    inner: Adaptive
    points: Points
    steps: int | None = 1
    traits = IntegratorTraits(evaluations=None)

    def __repr__(self) -> str:
        return repr(self.inner)

    def bind(self, problem: Any, u0: State, grid: Any) -> TimedAdaptive:
        """Itself, checked."""
        self.inner.bind(problem, u0, grid)
        return self

    def enter(self, u: State, t: Floats, samples: Ints) -> tuple[Moving, Floats]:
        """As the method."""
        return self.inner.enter(u, t, samples)

    def leave(self, u: State, number: Floats) -> State:
        """As the method."""
        return self.inner.leave(u, number)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Moving, number: Floats | None = None) -> Stages:
        """As the method, between the points themselves."""
        assert number is not None
        if number[0, PHASE] == START:
            t0 = self.points.attach(t0)
        return self.inner.step(problem, t0, _like(self.points.attach(t1), t1), u, number)


def timed(method: Integrator, points: Tensor, perturb: bool = False) -> Integrator:
    """A method between points that have a graph, or with perturbed times; itself where there is neither."""
    graph = Points(points) if points.requires_grad and torch.is_grad_enabled() else None
    if isinstance(method, Adaptive):
        return method if graph is None else TimedAdaptive(method, graph)
    if isinstance(method, Multistep) and graph is not None:
        return TimedMultistep(method, graph)
    return method if graph is None and not perturb else Timed(method, graph, perturb)


def untimed(method: Integrator) -> tuple[Integrator, Points | None]:
    """A method without the graph of its times, and the points that have it."""
    if isinstance(method, Timed | TimedMultistep | TimedAdaptive) and method.points is not None:
        return method.inner, method.points
    return method, None


def _like(t: Tensor, host: Tensor) -> Tensor:
    if t.device.type != "cpu":
        t._parareal_values = values_of(host)  # pyright: ignore[reportAttributeAccessIssue]
    return t


def _beside(t: Tensor, u: State, sign: Tensor) -> Tensor:
    """The next time, or the one before, in the precision of the state."""
    leaf = trees.leaves(u)[0]
    dtype = torch.float64 if leaf.real.dtype == torch.float64 else torch.float32
    with torch.no_grad():
        here = t.detach().to(dtype)
        moved = torch.nextafter(here, (sign * math.inf).to(dtype)).to(torch.float64)
    return moved + (t - t.detach())
