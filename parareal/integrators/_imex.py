"""Implicit-explicit Runge-Kutta methods: two tables, one for the stiff part of an equation and one for the rest."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import check_count, with_article
from parareal._core.trees import State
from parareal.integrators._amplification import Complex
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._implicit import check_newton
from parareal.integrators._newton import MOST_DENSE, Options, solve_stages
from parareal.integrators._stage_systems import to_state, to_vector
from parareal.integrators._tableau import ButcherTableau
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import ODE, Stages
from parareal.problem._semilinear import SemilinearODE


@dataclass(frozen=True)
class Others:
    """The sum of all parts but one, as a function on lanes; equal for the same problem, so that stage groups join.

    Attributes:
        problem: The problem.
        stiff: Which part is left out.
    """

    problem: ODE
    stiff: int

    def __call__(self, t: Tensor, u: State, rows: State = None) -> State:
        """The value on L lanes."""
        total: State = None
        for i, part in enumerate(self.problem.parts):
            if i != self.stiff:
                value = part.rhs(t, u, rows)
                total = value if total is None else trees.add(total, value)
        return total


@dataclass(frozen=True)
class IMEX(Integrator):
    """The base of the methods below: two tables with the same nodes, and the options of Newton's method."""

    implicit_part: int = field(default=0, kw_only=True)
    rtol: float | None = field(default=None, kw_only=True)
    max_newton: int = field(default=20, kw_only=True)
    krylov: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_count(self.implicit_part, "implicit_part", 0)
        check_newton(self.rtol, self.max_newton, self.krylov)

    @property
    @abstractmethod
    def tables(self) -> tuple[ButcherTableau, ButcherTableau]:
        """The explicit tableau and the implicit one."""

    @property
    def traits(self) -> IntegratorTraits:
        """Newton's method varies its evaluations; the explicit part is asked for first where stage 0 is explicit."""
        explicit, implicit = self.tables
        return IntegratorTraits(
            order=explicit.order,
            evaluations=None,
            shares_first_stage=not _row(implicit, 0)[0] and _wanted(explicit, 0),
            implicit=True,
            splits=True,
            stability=_Stability(explicit, implicit),
        )

    def first_function(self, problem: Any) -> Any:
        """The explicit part."""
        if isinstance(problem, SemilinearODE):
            return problem.nonlinear
        return (
            problem.parts[1 - self.implicit_part].rhs
            if len(problem.parts) == 2
            else Others(problem, self.implicit_part)
        )

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """Returns itself, or for a linear part that is diagonal a method that needs no Newton's method."""
        name = type(self).__name__
        if isinstance(problem, SemilinearODE):
            if self.implicit_part:
                raise ValueError(
                    f"implicit_part={self.implicit_part} came with a SemilinearODE, whose linear part is the implicit "
                    "one; expected 0"
                )
            return Diagonal(self)
        if not problem.parts:
            raise ValueError(
                f"pr.{name} came with {with_article(type(problem).__name__)} that is not split into parts; expected "
                "pr.ODE(split=(stiff, rest)), functions whose sum is the right-hand side, or "
                "pr.SemilinearODE(linear, f)"
            )
        if self.implicit_part >= len(problem.parts):
            raise ValueError(
                f"implicit_part={self.implicit_part} is no part of a problem of {len(problem.parts)}; expected 0 ... "
                f"{len(problem.parts) - 1}"
            )
        if problem.batching == "loop":
            raise ValueError(
                f'pr.{name} came with a problem with batching="loop", of which torch.func takes no derivatives; '
                'expected torch code with batching "vmap", "native" or "fold", or an explicit method'
            )
        return self

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        (explicit, implicit), part, rest = self.tables, problem.parts[self.implicit_part], self.first_function(problem)
        h, alive, vector = t1 - t0, torch.ones(len(t0), dtype=torch.bool), to_vector(u, 1)
        step, options = h.to(vector.dtype)[:, None], self._options(u)
        fast, slow = list[Tensor | None](), list[Tensor | None]()
        for i, c in enumerate(explicit.nodes):
            t, row, stiff = _time(t0, t1, c), _row(explicit, i), _row(implicit, i)
            change = step * _sum([(row, fast), (stiff, slow)], vector)
            base = u if i == 0 else to_state(vector + change, u, 1)
            point, slope, diagonal = base, None, stiff[i]
            if diagonal:
                guess = -change / (diagonal * step)  # where the stage is u; see `ImplicitRungeKutta`
                k, alive = yield from solve_stages(
                    part, ((diagonal,),), t[:, None], h, base, guess[:, None], alive, options
                )
                slope = k[:, 0]
                point = to_state(to_vector(base, 1) + step * diagonal * slope, u, 1)
            fast.append(to_vector((yield rest, t, point), 1) if _wanted(explicit, i) else None)
            if not diagonal and _wanted(implicit, i):
                slope = to_vector((yield part.rhs, t, point), 1)
            slow.append(slope)
        new = vector + step * _sum([(explicit.b, fast), (implicit.b, slow)], vector)
        if not alive.all():
            new = torch.where(alive.to(new.device)[:, None], new, torch.nan)
        return to_state(new, u, 1)

    def _options(self, u: State) -> Options:
        elements = sum(leaf[0].numel() * (2 if leaf.is_complex() else 1) for leaf in trees.leaves(u))
        krylov = elements > MOST_DENSE if self.krylov is None else self.krylov
        return Options(self.rtol, self.max_newton, krylov)


@dataclass(frozen=True)
class Diagonal(Integrator):
    """An IMEX method on a `SemilinearODE`: stages divide by 1 - h a c, and no equations are solved.

    Attributes:
        method: The method.
    """

    method: IMEX
    steps: int | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", self.method.steps)

    @property
    def traits(self) -> IntegratorTraits:
        """One evaluation for each explicit stage."""
        explicit, _ = self.method.tables
        count = sum(_wanted(explicit, i) for i in range(len(explicit.b)))
        return replace(self.method.traits, evaluations=count, implicit=False, solves=(SemilinearODE,))

    def first_function(self, problem: Any) -> Any:
        """The nonlinear part."""
        return problem.nonlinear

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        (explicit, implicit), h = self.method.tables, t1 - t0
        fast, slow = list[State](), list[State]()
        for i, c in enumerate(explicit.nodes):
            t, row, stiff = _time(t0, t1, c), _row(explicit, i), _row(implicit, i)
            point = u if i == 0 else _added(u, h, row[:i], fast, stiff[:i], slow)
            if stiff[i]:
                point = problem.linear_solve(h * stiff[i], point)
            fast.append((yield problem.nonlinear, t, point) if _wanted(explicit, i) else None)
            slow.append(problem.linear_rhs(t, point) if _wanted(implicit, i) else None)
        return _added(u, h, explicit.b, fast, implicit.b, slow)


def _time(t0: Tensor, t1: Tensor, c: float) -> Tensor:
    return t0 if c == 0.0 else t1 if c == 1.0 else t0 + c * (t1 - t0)


def _row(table: ButcherTableau, i: int) -> tuple[float, ...]:
    row = table.a[i]
    return (*row, *[0.0] * (len(table.b) - len(row)))


def _wanted(table: ButcherTableau, i: int) -> bool:
    """Whether the slope of a stage is used by a later one, or by the step."""
    return bool(table.b[i]) or any(_row(table, j)[i] for j in range(i + 1, len(table.b)))


def _sum(terms: list[tuple[tuple[float, ...], list[Tensor | None]]], like: Tensor) -> Tensor:
    """The sum of weights times slopes, in an order that does not depend on the number of lanes."""
    total: Tensor | None = None
    for weights, slopes in terms:
        for weight, slope in zip(weights, slopes, strict=False):
            if weight and slope is not None:
                total = slope * weight if total is None else total + slope * weight
    return torch.zeros_like(like) if total is None else total


def _added(
    u: State, h: Tensor, a: tuple[float, ...], fast: list[State], b: tuple[float, ...], slow: list[State]
) -> State:
    """U + h times the sum of weights times slopes."""
    pairs = [(w, k) for w, k in zip((*a, *b), (*fast, *slow), strict=True) if w]
    return trees.axpy(u, h, [w for w, _ in pairs], [k for _, k in pairs]) if pairs else u


@dataclass(frozen=True)
class _Stability:
    """R(z, w) of one step for u' = (c + d) u, c the implicit part and d the explicit one; z = c h, w = d h."""

    explicit: ButcherTableau
    implicit: ButcherTableau

    def __call__(self, z: Complex, w: Complex) -> Complex:
        """The factor."""
        stages: list[Complex] = []
        for i in range(len(self.explicit.b)):
            rows = zip(stages, _row(self.explicit, i), _row(self.implicit, i), strict=False)
            base = 1.0 + sum((w * a + z * b) * stage for stage, a, b in rows)
            stages.append(np.asarray(base / (1.0 - z * _row(self.implicit, i)[i])))
        rows = zip(stages, self.explicit.b, self.implicit.b, strict=True)
        return np.asarray(1.0 + sum((w * a + z * b) * stage for stage, a, b in rows))
