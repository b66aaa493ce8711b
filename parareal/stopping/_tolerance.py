"""Stopping rules: what is measured at each edge, and what follows from the figures.

A rule measures on the device and decides on the host, so that one iteration costs one synchronisation however rules
are combined.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from torch import Tensor

from parareal.stopping._increments import Change
from parareal.stopping._error_estimate import Seen, Start
from parareal.grid._time_grid import check_count
from parareal.stopping._rules import ErrorJudge, Judge, Verdict, account, reopen, verified
from parareal._core.norms import NormName
from parareal.schedules._schedule import Bools, Ints

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
RuleName: TypeAlias = Literal["increment", "defect", "error"]


class StoppingRule(ABC):
    """When to stop. Rules combine: ``a | b`` stops when either does, ``a & b`` when both do."""

    @property
    @abstractmethod
    def norm(self) -> NormName:
        """The norm in which increments are reported."""

    @property
    @abstractmethod
    def uses_defect(self) -> bool:
        """Whether `measure` asks for the defect; fine solutions are kept for it only then."""

    @property
    def uses_growth(self) -> bool:
        """Whether `measure` asks for what moves are carried to; earlier fine solutions are kept for it only then."""
        return False

    @property
    @abstractmethod
    def width(self) -> int:
        """How many figures `measure` gives."""

    @abstractmethod
    def measure(self, change: Change) -> list[Tensor]:
        """Figures of each lane that the decision needs: ``width`` float64 tensors of shape ``(L,)``."""

    @abstractmethod
    def decide(self, figures: Floats, iteration: Ints) -> Verdict:
        """The verdict after an iteration.

        Args:
            figures: ``(D, N, C)``, the C figures of each slice's right edge, for D systems; zero where it did not move.
            iteration: ``(D,)``: iterations completed.
        """

    def spent(self, iteration: Ints) -> Bools:
        """Whether it stops after so many iterations whatever the figures; ``(D,)``, as ``iteration``."""
        return np.zeros(iteration.shape, dtype=bool)

    def accepting(self) -> StoppingRule:
        """This rule, accepting slices as they pass, as a sliding window needs it."""
        return self

    def begin(self, start: Start) -> Judge:
        """The rule at work in a new run."""
        return Judge(self)

    def __or__(self, other: StoppingRule) -> StoppingRule:
        return _Combined(self, other, "|") if isinstance(other, StoppingRule) else NotImplemented  # pyright: ignore

    def __and__(self, other: StoppingRule) -> StoppingRule:
        return _Combined(self, other, "&") if isinstance(other, StoppingRule) else NotImplemented  # pyright: ignore


@dataclass(frozen=True)
class Tolerance(StoppingRule):
    """Stops when every slice's right edge U has settled: ``|change| <= atol + rtol |U|`` in the chosen norm.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance, in the state's units.
        norm: ``"rms"``, over all elements of the state, or ``"max"``.
        rule: What must be small: ``"increment"``, the change of U in this iteration; ``"defect"``, the distance
            of the last iterate from what the fine propagator made of it (the iterate that is returned is one better);
            or ``"error"``, the estimated distance of the final state from the sequential one, which `Windowed` always
            takes. ``rtol`` and ``atol`` are then a promise about that distance: see `Solution.error_estimate`.
        freeze: ``False``: all slices must pass in the same iteration, the textbook rule. ``True``: slices that pass in
            a row from the frontier on are accepted and no longer computed, which is cheaper and weaker: errors that
            were accepted travel on.

    Raises:
        TypeError: A tolerance is not a number.
        ValueError: A tolerance is negative or NaN; ``norm`` or ``rule`` is unknown.

    Examples:
        >>> rule = Tolerance(rtol=1e-6, norm="max") | Iterations(20)
    """

    rtol: float = 1e-4
    atol: float = 1e-6
    norm: NormName = "rms"  # pyright: ignore[reportIncompatibleMethodOverride]
    rule: RuleName = "increment"
    freeze: bool = False

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name}={value!r} is a {type(value).__name__}; expected a float of at least 0")
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name}={value!r} is not a tolerance; expected a finite number of at least 0")
        if not isinstance(self.freeze, bool):
            raise TypeError(f"freeze={self.freeze!r} is a {type(self.freeze).__name__}; expected True or False")
        for name, known in (("norm", get_args(NormName)), ("rule", get_args(RuleName))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown; expected one of {', '.join(map(repr, known))}"
                )

    def accepting(self) -> Tolerance:
        """With ``freeze`` and ``rule="error"``: what is accepted travels on, and has to be kept account of."""
        return replace(self, freeze=True, rule="error")

    def begin(self, start: Start) -> Judge:
        """A judge that keeps account of errors."""
        return ErrorJudge(self, start)

    @property
    def uses_defect(self) -> bool:
        """Yes: errors are estimated from defects."""
        return True

    @property
    def uses_growth(self) -> bool:
        """Where errors decide."""
        return self.rule == "error"

    @property
    def width(self) -> int:
        """Five figures."""
        return 5

    def measure(self, change: Change) -> list[Tensor]:
        """The norm of what must be small, of the iterate, the increment, the defect, and what a move was carried to."""
        rule = "defect" if self.rule == "defect" else "increment"
        return [change.norm(what, self.norm) for what in (rule, "size", "increment", "defect", "carried")]

    def decide(self, figures: Floats, iteration: Ints) -> Verdict:
        """Stops where every edge passes; with ``freeze`` accepts those that pass in a row."""
        size = figures[..., 1]
        finite = np.isfinite(size)  # an infinite iterate has not settled, although Inf <= rtol * Inf
        # Edges that did not change have figures of zero and pass. One that has just become final counts like any
        # other: what lies to its right was made from its former state.
        passed = finite & (figures[..., 0] <= self.atol + self.rtol * np.where(finite, size, 0.0))
        run = np.cumprod(passed, axis=1).sum(axis=1)
        stop = run == passed.shape[1]
        return Verdict(stop, stop, run if self.freeze else np.zeros_like(run))


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

    def __post_init__(self) -> None:
        check_count(self.count, "Iterations(count)")

    @property
    def norm(self) -> NormName:
        """Increments are reported in the rms norm."""
        return "rms"

    @property
    def uses_defect(self) -> bool:
        """No."""
        return False

    @property
    def width(self) -> int:
        """No figures."""
        return 0

    def measure(self, change: Change) -> list[Tensor]:
        """Nothing."""
        return []

    def spent(self, iteration: Ints) -> Bools:
        """Once the count is reached."""
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
    def norm(self) -> NormName:
        """That of the first tolerance among the two."""
        return self.second.norm if isinstance(self.first, Iterations) else self.first.norm

    def spent(self, iteration: Ints) -> Bools:
        """Either or both."""
        first, second = self.first.spent(iteration), self.second.spent(iteration)
        return first | second if self.how == "|" else first & second

    def accepting(self) -> StoppingRule:
        """Both."""
        return replace(self, first=self.first.accepting(), second=self.second.accepting())

    def begin(self, start: Start) -> Judge:
        """Both at work."""
        return _Both(self, self.first.begin(start), self.second.begin(start))

    @property
    def uses_defect(self) -> bool:
        """Where either does."""
        return self.first.uses_defect or self.second.uses_defect

    @property
    def uses_growth(self) -> bool:
        """Where either does."""
        return self.first.uses_growth or self.second.uses_growth

    @property
    def width(self) -> int:
        """The figures of both."""
        return self.first.width + self.second.width

    def measure(self, change: Change) -> list[Tensor]:
        """The figures of the first rule, then those of the second."""
        return self.first.measure(change) + self.second.measure(change)

    def decide(self, figures: Floats, iteration: Ints) -> Verdict:
        """Either or both."""
        cut = self.first.width
        first, second = figures[..., :cut], figures[..., cut:]
        return self.join(self.first.decide(first, iteration), self.second.decide(second, iteration))

    def join(self, a: Verdict, b: Verdict) -> Verdict:
        """One verdict of two."""
        error = b.error if a.error is None else a.error
        converged = (a.stop & a.converged) | (b.stop & b.converged)
        sound = b.sound if a.sound is None else a.sound if b.sound is None else a.sound & b.sound
        if self.how == "|":
            return Verdict(a.stop | b.stop, converged, np.maximum(a.accepted, b.accepted), error, sound)
        return Verdict(a.stop & b.stop, converged, np.minimum(a.accepted, b.accepted), error, sound)


class _Both(Judge):
    """Two judges joined."""

    def __init__(self, rule: _Combined, first: Judge, second: Judge) -> None:
        super().__init__(rule)
        self._join, self._first, self._second = rule.join, first, second

    def decide(self, seen: Seen) -> Verdict:
        """Each on its own figures."""
        cut = self._first.rule.width
        parts = (
            seen._replace(figures=seen.figures[..., part], values=seen.values[:, part])
            for part in (slice(cut), slice(cut, None))
        )
        return self._join(*(judge.decide(part) for judge, part in zip((self._first, self._second), parts, strict=True)))

    def reopen(self, systems: Bools, times: int) -> None:
        """Both."""
        reopen(self._first, systems, times)
        reopen(self._second, systems, times)

    def verified(self, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
        """By the stricter of those that have a tolerance."""
        parts = [verified(judge, system, residuals, size, begin) for judge in (self._first, self._second)]
        parts = [part for part in parts if part[1] > 0] or parts
        return min(parts, key=lambda part: part[1] - part[0])

    def account(self) -> dict[str, np.ndarray[Any, Any]]:
        """Of both."""
        both = {"first": account(self._first), "second": account(self._second)}
        return {f"{which}.{name}": array for which, own in both.items() for name, array in own.items()}
