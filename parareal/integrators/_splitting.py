"""Splitting methods: the parts of a right-hand side are solved one after another, each by a method of its own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor

from parareal._core.checks import described, with_article
from parareal._core.trees import State
from parareal.integrators._base import Integrator, Multistep, check_stepped, check_steps, started
from parareal.integrators._propagator import Propagator
from parareal.integrators._runge_kutta import Euler, Midpoint
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import ODE, Stages
from parareal.problem._semilinear import SemilinearODE

Substeps: TypeAlias = list[tuple[int, float, float]]
"""Which part is solved, and from where to where in the step, as fractions."""


@dataclass(frozen=True)
class ExactLinear(Integrator):
    """The flow of the linear part of a `SemilinearODE`: exact, and no evaluation."""

    traits = IntegratorTraits(evaluations=0)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """The whole of it, from the problem."""
        yield from ()
        return problem.linear_flow(t0, t1, u)


@dataclass(frozen=True)
class Splitting(Integrator):
    """The base of the methods below."""

    methods: Any = None
    steps: int | None = None

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.methods is None:
            return
        several = isinstance(self.methods, tuple | list)
        given: list[Any] = [*self.methods] if several else [self.methods]
        for method in given:
            if not isinstance(method, Integrator):
                raise TypeError(
                    f"methods holds {described(method)}; expected an integrator, or a tuple of them, one for each part "
                    f"of the problem, as in pr.{type(self).__name__}((pr.RK4(), pr.ImplicitMidpoint()))"
                )
            if isinstance(method, Multistep | Splitting):
                why = "has a history" if isinstance(method, Multistep) else "splits, too"
                raise ValueError(
                    f"methods holds {method!r}, which {why}; expected one-step methods, such as pr.RK4() or "
                    "pr.ImplicitMidpoint()"
                )
        if several:
            object.__setattr__(self, "methods", tuple(given))

    @property
    @abstractmethod
    def default(self) -> Integrator:
        """The method for parts of which nothing else is known."""

    @property
    @abstractmethod
    def most(self) -> int:
        """The order where all parts are solved exactly."""

    @abstractmethod
    def substeps(self, parts: int) -> Substeps:
        """How a step goes through the parts."""

    @property
    def traits(self) -> IntegratorTraits:
        """Those of the methods of all parts together; with a tuple of methods they are known beforehand."""
        given = self.methods
        methods: tuple[Integrator, ...] = given if isinstance(given, tuple) else (given or self.default,)
        each = [method.traits for method in methods]
        orders = [one.order for method, one in zip(methods, each, strict=True) if not isinstance(method, ExactLinear)]
        order = None if None in orders else min([self.most, *(order for order in orders if order is not None)])
        evaluations, shared = None, False
        if isinstance(given, tuple):
            order_of_parts = [i for i, _, _ in self.substeps(len(methods))]
            calls = [each[i].evaluations for i in order_of_parts]
            if None not in calls:
                many = zip(calls, order_of_parts, strict=True)
                evaluations = sum((count or 0) * (methods[i].steps or 1) for count, i in many)
            shared = each[order_of_parts[0]].shares_first_stage
        return IntegratorTraits(
            order=order,
            evaluations=evaluations,
            shares_first_stage=shared,
            implicit=any(one.implicit for one in each),
            apart=any(one.apart for one in each),
            splits=True,
        )

    def first_function(self, problem: Any) -> Any:
        """What the method of the first part asks for."""
        part = problem.parts[0] if problem.parts else problem
        return self.methods[0].first_function(part)

    def bind(self, problem: Any, u0: State, grid: Any) -> Splitting:
        """Returns this method with one method for each part, bound to it."""
        methods = self._for(problem)
        bound: list[Integrator] = []
        for i, (method, part) in enumerate(zip(methods, self._parts(problem, methods), strict=True)):
            if isinstance(method, ExactLinear):
                bound.append(method)
                continue
            if not isinstance(part, method.solves):
                kinds = " or ".join(with_article(kind.__name__) for kind in method.solves)
                raise ValueError(
                    f"methods[{i}] is {method!r}, which is for {kinds}; expected a method for an ODE, such as pr.RK4()"
                )
            bound.append(method.bind(part, u0, grid))
        return replace(self, methods=tuple(bound))

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        methods = self._for(problem)
        parts = self._parts(problem, methods)
        h, times = t1 - t0, {0.0: t0, 1.0: t1}
        for i, a, b in self.substeps(len(methods)):
            method, many = methods[i], methods[i].steps or 1
            for k in range(many):
                x, y = a + (b - a) * k / many, a + (b - a) * (k + 1) / many
                start, end = (times[z] if z in times else times.setdefault(z, t0 + z * h) for z in (x, y))
                new = yield from started(method, parts[i], start, end, u)
                check_stepped(method, new, u)
                u = new
        return u

    def _for(self, problem: Any) -> tuple[Integrator, ...]:
        """One method for each part."""
        given, name = self.methods, type(self).__name__
        if isinstance(given, tuple):
            flows = all(isinstance(method, Propagator) for method in given)  # pyright: ignore
            if not problem.parts and flows:
                return given  # pyright: ignore
            _check_split(problem, f"pr.{name}")
            if len(given) != len(problem.parts):  # pyright: ignore
                raise ValueError(
                    f"methods holds {len(given)} methods for a problem of {len(problem.parts)} parts; expected one for "  # pyright: ignore
                    "each, or a single one for all"
                )
            return given  # pyright: ignore
        _check_split(problem, f"pr.{name}")
        method = given or self.default
        if isinstance(problem, SemilinearODE):
            return ExactLinear(), method
        return (method,) * len(problem.parts)

    @staticmethod
    def _parts(problem: Any, methods: tuple[Integrator, ...]) -> list[Any]:
        """The problems that the methods solve; the whole one where they are flows that need none, or know it."""
        if not problem.parts:
            return [problem] * len(methods)
        return [
            problem if isinstance(method, ExactLinear) else part
            for method, part in zip(methods, problem.parts, strict=True)
        ]


def _check_split(problem: ODE, who: str) -> None:
    """Raises unless the problem is split into parts."""
    if problem.parts:
        return
    raise ValueError(
        f"{who} came with {with_article(type(problem).__name__)} that is not split into parts; expected "
        "pr.ODE(split=(f1, f2)), functions whose sum is the right-hand side, pr.SemilinearODE(linear, f), or "
        f"{who} with a pr.Propagator for each part"
    )


@dataclass(frozen=True)
class Lie(Splitting):
    """Lie splitting, one part after another: order 1.

    For u' = f1(u) + f2(u) a step solves u' = f1(u) over h, and from there u' = f2(u) over h.

    Args:
        methods: An integrator for each part, in the order of ``split``, or one for all; ``None`` for `Euler`. The
            linear part of a `SemilinearODE` is solved exactly where it is not given a method of its own. A method with
            ``steps=m`` makes m steps in each substep. Where each part has a `Propagator`, an exact flow for instance,
            the problem need not be split.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    An evaluation of a part counts as one.

    Raises:
        TypeError: ``methods`` holds something that is no integrator.
        ValueError: It holds a method with a history, or another splitting method. From `solve`: the problem is not
            split, or into another number of parts.

    Source:
        R. I. McLachlan, G. R. W. Quispel, Splitting methods, Acta Numerica 11 (2002).

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(split=(lambda t, u: -u, lambda t, u: torch.sin(u)))
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=10)
        >>> pr.serial(problem, torch.ones(1), grid, fine=Lie()).stats.rounds
        80
    """

    @property
    def default(self) -> Integrator:
        """Of the same order."""
        return Euler()

    @property
    def most(self) -> int:
        """One."""
        return 1

    def substeps(self, parts: int) -> Substeps:
        """Each part over the whole step."""
        return [(i, 0.0, 1.0) for i in range(parts)]


@dataclass(frozen=True)
class Strang(Splitting):
    """Strang splitting, half steps of all parts but the last around one of that: order 2, symmetric.

    For u' = f1(u) + f2(u) a step solves u' = f1(u) over h/2, from there u' = f2(u) over h, and u' = f1(u) over h/2
    again. Each part is solved in its own share of the step's time.

    Args:
        methods: An integrator for each part, in the order of ``split``, or one for all; ``None`` for `Midpoint`. See
            `Lie`.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    An evaluation of a part counts as one. Put the part that is dearest last.

    Raises:
        TypeError: ``methods`` holds something that is no integrator.
        ValueError: See `Lie`.

    Source:
        G. Strang, On the construction and comparison of difference schemes, SIAM J. Numer. Anal. 5 (1968).

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.SemilinearODE(-50.0, lambda t, u: torch.cos(u))
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=20)
        >>> u0 = torch.ones(1, dtype=torch.float64)
        >>> pr.solve(problem, u0, grid, fine=Strang(pr.Midpoint()), coarse=Strang(pr.Midpoint())).iterations
        2
    """

    @property
    def default(self) -> Integrator:
        """Of the same order."""
        return Midpoint()

    @property
    def most(self) -> int:
        """Two."""
        return 2

    def substeps(self, parts: int) -> Substeps:
        """Up to the last part by half steps, and back."""
        last = parts - 1
        forth = [(i, 0.0, 0.5) for i in range(last)]
        back = [(i, 0.5, 1.0) for i in reversed(range(last))]
        return [*forth, (last, 0.0, 1.0), *back]
