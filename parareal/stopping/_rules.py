"""Stopping rules: what is measured at each slice boundary, and what is decided from these figures.

A rule measures on the device and decides on the host. So one iteration costs one synchronisation, however many rules
are combined.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.checks import check_count
from parareal._core.declared import Collected, Declared
from parareal._core.norms import NormName
from parareal.stopping._increments import Change
from parareal.stopping._observations import Seen, Start
from parareal.stopping._traits import BY_ATTRIBUTE, EXAMPLE, StoppingTraits


class Verdict(NamedTuple):
    """The decision of a rule about the Q systems that have completed an iteration.

    Attributes:
        stop: Whether to stop, ``(Q,)``.
        converged: Whether a tolerance was met, ``(Q,)``.
        accepted: How many slices are accepted, ``(Q,)``.
        error: Estimated distance of the final state from the sequential one, in the norm of the rule, ``(Q,)``; NaN
            where there is no estimate.
        sound: Whether that estimate is within the tolerance, ``(Q,)``; ``None`` for rules without an estimate.
    """

    stop: Bools
    converged: Bools
    accepted: Ints
    error: Floats | None = None
    sound: Bools | None = None


class StoppingState:
    """The state of a rule in one run. This one has none; those of other rules keep an error record.

    Args:
        rule: The rule.
    """

    def __init__(self, rule: StoppingRule) -> None:
        self.rule = rule

    def decide(self, seen: Seen) -> Verdict:
        """The decision after an iteration."""
        return self.rule.decide(seen.figures, seen.iteration)

    def account(self) -> dict[str, np.ndarray[Any, Any]]:
        """The error record, by name: the arrays themselves, so that those of another run can be copied into them."""
        return {}

    def reopen(self, systems: Bools, times: int) -> None:
        """Accepted slices of these systems are computed again, for the ``times``-th time."""

    def verified(self, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
        """The relative error at the end that defects add up to, and the largest one allowed.

        Args:
            system: The system.
            residuals: Relative defects of all boundaries, ``(N,)``.
            size: Norms of the states there, ``(N,)``.
            begin: How many slices are final.
        """
        return float(residuals[begin:].sum()), 0.0

    def cleared(self, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
        """The same where accepted errors are estimated to exceed the tolerance; see `verified` for the arguments.

        Where the error is not within the largest one allowed, the run is reopened.
        """
        return math.inf, 0.0


def error_record(state: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The error record of a stopping state; empty for one without that method, as a user's may be."""
    return state.account() if hasattr(state, "account") else {}


def reopen(state: Any, systems: Bools, times: int) -> None:
    """Calls `StoppingState.reopen`, which a user's stopping state may lack."""
    if hasattr(state, "reopen"):
        state.reopen(systems, times)


def verified(state: Any, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
    """Calls `StoppingState.verified`; without that method defects are added up, and no error is allowed."""
    method = getattr(state, "verified", None)
    error, allowed = (residuals[begin:].sum(), 0.0) if method is None else method(system, residuals, size, begin)
    return float(error), float(allowed)


def cleared(state: Any, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
    """Calls `StoppingState.cleared`, which a user's stopping state may lack."""
    method = getattr(state, "cleared", None)
    error, allowed = (math.inf, 0.0) if method is None else method(system, residuals, size, begin)
    return float(error), float(allowed)


RuleName: TypeAlias = Literal["increment", "defect", "error"]


class StoppingRule(ABC):
    """When to stop. Rules combine: ``a | b`` stops when either does, ``a & b`` when both do.

    Declare the traits as ``traits = pr.StoppingTraits(width=1)`` in the class body, as a property ``traits`` where they
    depend on the fields, or one by one as class attributes. A rule that wraps another returns its traits.

    Attributes:
        traits: The declarations of the rule, a `StoppingTraits`.
        width: How many figures `measure` returns; see `StoppingTraits`, also for the next.
        norm: The norm in which increments and residuals are reported.
        uses_growth: Whether `measure` uses changes of fine solutions.
    """

    traits_defaults: ClassVar[dict[str, Any]] = {}
    traits = Collected[StoppingTraits](StoppingTraits, BY_ATTRIBUTE, ("width",), EXAMPLE)
    width = Declared[int]()
    norm = Declared[NormName]()
    uses_growth = Declared[bool]()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        vars(StoppingRule)["traits"].settle(cls)

    @abstractmethod
    def measure(self, change: Change) -> list[Tensor]:
        """The figures of each lane for the decision: ``width`` float64 tensors of shape ``(L,)``."""

    @abstractmethod
    def decide(self, figures: Floats, iteration: Ints) -> Verdict:
        """The decision after an iteration.

        Args:
            figures: C figures of each right boundary, ``(Q, N, C)``; zero where it did not move.
            iteration: Iterations completed, ``(Q,)``.
        """

    def spent(self, iteration: Ints) -> Bools:
        """Whether the rule stops after that many iterations whatever the figures; ``(Q,)``, as ``iteration``."""
        return np.zeros(iteration.shape, dtype=bool)

    def accepting(self) -> StoppingRule:
        """This rule with early acceptance of slices, which a sliding window needs."""
        return self

    def begin(self, start: Start) -> StoppingState:
        """The state of this rule in a new run."""
        return StoppingState(self)

    def __or__(self, other: StoppingRule) -> StoppingRule:
        return _Combined(self, other, "|") if isinstance(other, StoppingRule) else NotImplemented  # pyright: ignore

    def __and__(self, other: StoppingRule) -> StoppingRule:
        return _Combined(self, other, "&") if isinstance(other, StoppingRule) else NotImplemented  # pyright: ignore


@dataclass(frozen=True)
class Iterations(StoppingRule):
    """Stops after ``count`` iterations.

    Args:
        count: At least 1.

    Raises:
        TypeError: ``count`` is not an int.
        ValueError: ``count`` is below 1.
    """

    count: int

    traits = StoppingTraits(width=0)

    def __post_init__(self) -> None:
        check_count(self.count, "Iterations(count)")

    def measure(self, change: Change) -> list[Tensor]:
        """No figures."""
        return []

    def spent(self, iteration: Ints) -> Bools:
        """Whether the count is reached."""
        return iteration >= self.count

    def decide(self, figures: Floats, iteration: Ints) -> Verdict:
        """Stops at the count; no tolerance is checked."""
        stop = iteration >= self.count
        return Verdict(stop, np.zeros_like(stop), np.zeros_like(iteration))


@dataclass(frozen=True)
class _Combined(StoppingRule):
    """Two rules, joined by ``|`` or ``&``."""

    first: StoppingRule
    second: StoppingRule
    how: Literal["|", "&"]

    @property
    def traits(self) -> StoppingTraits:
        """Those of both; the norm of the first of them that measures."""
        first, second = self.first.traits, self.second.traits
        norm = first.norm if first.width else second.norm
        return StoppingTraits(
            width=first.width + second.width, norm=norm, uses_growth=first.uses_growth or second.uses_growth
        )

    def spent(self, iteration: Ints) -> Bools:
        """Whether either is spent, or both are."""
        first, second = self.first.spent(iteration), self.second.spent(iteration)
        return first | second if self.how == "|" else first & second

    def accepting(self) -> StoppingRule:
        """Both rules with early acceptance."""
        return replace(self, first=self.first.accepting(), second=self.second.accepting())

    def begin(self, start: Start) -> StoppingState:
        """The states of both rules."""
        return _Both(self, self.first.begin(start), self.second.begin(start))

    def measure(self, change: Change) -> list[Tensor]:
        """The figures of the first rule, then those of the second."""
        return self.first.measure(change) + self.second.measure(change)

    def decide(self, figures: Floats, iteration: Ints) -> Verdict:
        """Decides by either rule, or by both."""
        cut = self.first.traits.width
        first, second = figures[..., :cut], figures[..., cut:]
        return self.join(self.first.decide(first, iteration), self.second.decide(second, iteration))

    def join(self, a: Verdict, b: Verdict) -> Verdict:
        """Joins two decisions into one."""
        error = b.error if a.error is None else a.error
        converged = (a.stop & a.converged) | (b.stop & b.converged)
        sound = b.sound if a.sound is None else a.sound if b.sound is None else a.sound & b.sound
        if self.how == "|":
            return Verdict(a.stop | b.stop, converged, np.maximum(a.accepted, b.accepted), error, sound)
        return Verdict(a.stop & b.stop, converged, np.minimum(a.accepted, b.accepted), error, sound)


class _Both(StoppingState):
    """Two stopping states joined."""

    def __init__(self, rule: _Combined, first: StoppingState, second: StoppingState) -> None:
        super().__init__(rule)
        self._join, self._first, self._second = rule.join, first, second

    def decide(self, seen: Seen) -> Verdict:
        """Lets each decide on its own figures, and joins the decisions."""
        cut = self._first.rule.traits.width
        parts = (
            seen._replace(figures=seen.figures[..., part], values=seen.values[:, part])
            for part in (slice(cut), slice(cut, None))
        )
        return self._join(*(state.decide(part) for state, part in zip((self._first, self._second), parts, strict=True)))

    def reopen(self, systems: Bools, times: int) -> None:
        """Reopens both."""
        reopen(self._first, systems, times)
        reopen(self._second, systems, times)

    def verified(self, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
        """The figures of the stricter one of those with a tolerance."""
        parts = [verified(state, system, residuals, size, begin) for state in (self._first, self._second)]
        parts = [part for part in parts if part[1] > 0] or parts
        return min(parts, key=lambda part: part[1] - part[0])

    def cleared(self, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
        """The figures of the stricter one of those with a tolerance."""
        parts = [cleared(state, system, residuals, size, begin) for state in (self._first, self._second)]
        parts = [part for part in parts if part[1] > 0] or parts
        return min(parts, key=lambda part: part[1] - part[0])

    def account(self) -> dict[str, np.ndarray[Any, Any]]:
        """The error records of both."""
        both = {"first": error_record(self._first), "second": error_record(self._second)}
        return {f"{which}.{name}": array for which, own in both.items() for name, array in own.items()}
