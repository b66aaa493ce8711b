"""The traits of a method: one frozen record of what the library must know beside its step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from parareal._core.checks import check_count, check_flag, kind_of
from parareal.integrators._tableau import ButcherTableau
from parareal.problem._ode import ODE


@dataclass(frozen=True, kw_only=True)
class IntegratorTraits:
    """The declarations of an integrator: the ``traits`` of an `Integrator`.

    Attributes:
        evaluations: Evaluations of the right-hand side (or calls of a black box) in one step; ``None`` where that
            varies.
        order: Order of accuracy, the strong one for SDEs, or ``None`` where it is not known.
        shares_first_stage: Whether a step begins by requesting `Integrator.first_function` at its left end. The engine
            then makes that evaluation once for the coarse and the fine propagator.
        implicit: Whether a step solves equations. If that fails, the state it returns is NaN.
        apart: Whether lanes request different numbers of values, so that they must not wait for one another.
        solves: The kinds of problems that the method is for, a tuple of classes.
        splits: Whether a step requests parts of the right-hand side. `Jacobian` cannot carry tangents through it then.
        multistep: Whether states carry a history. `Multistep` classes set it themselves.
        tableau: The Butcher tableau of a Runge-Kutta method, for its stability function in `parareal.theory`.
        stability: Otherwise the stability function R of a one-step method, with ``R(z, rest)`` the factor of one step
            of length h for u' = (c + d) u, on complex numpy arrays z = c h and rest = d h, where an exponential method
            takes c for its linear part. Other methods see only the sum ``z + rest``.

    Raises:
        TypeError: A trait has the wrong type.
        ValueError: ``evaluations`` is below 0.

    Examples:
        >>> IntegratorTraits(order=2, evaluations=2, shares_first_stage=True).implicit
        False
    """

    evaluations: int | None
    order: int | float | None = None
    shares_first_stage: bool = False
    implicit: bool = False
    apart: bool = False
    solves: tuple[type, ...] = (ODE,)
    splits: bool = False
    multistep: bool = False
    tableau: ButcherTableau | None = field(default=None, repr=False)
    stability: Callable[[Any, Any], Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        given: Any = self.order
        if given is not None and (isinstance(given, bool) or not isinstance(given, Real)):
            raise TypeError(f"order={given!r} is {kind_of(given)}; expected a number, or None")
        if self.evaluations is not None:
            check_count(self.evaluations, "evaluations", 0)
        for name in ("shares_first_stage", "implicit", "apart", "splits", "multistep"):
            check_flag(getattr(self, name), name)
        given = self.solves
        if isinstance(given, type):  # a single kind
            object.__setattr__(self, "solves", (given,))
        elif not isinstance(given, tuple) or not all(isinstance(kind, type) for kind in given):
            raise TypeError(f"solves={given!r}; expected a tuple of kinds of problems, such as (pr.ODE,)")
        given = self.tableau
        if given is not None and not isinstance(given, ButcherTableau):
            raise TypeError(f"tableau is {kind_of(given)}; expected a pr.ButcherTableau, or None")
        given = self.stability
        if given is not None and not callable(given):
            raise TypeError(f"stability is {kind_of(given)}; expected a function R(z, rest) of arrays, or None")


BY_ATTRIBUTE = ("evaluations", "order", "shares_first_stage", "implicit", "apart", "solves")
"""The traits that a class may also declare as plain attributes."""
EXAMPLE = "traits = pr.IntegratorTraits(order=1, evaluations=1)"
