"""Stopping rules: what is measured at each edge, and what follows from the figures.

A rule measures on the device and decides on the host, so that one iteration costs one synchronisation however rules
are combined.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from torch import Tensor

from parareal._changes import Change
from parareal._grid import check_count
from parareal._norm import NormName
from parareal._schedule import Bools, Ints

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
RuleName: TypeAlias = Literal["increment", "defect"]


class Verdict(NamedTuple):
    """What a rule says of D systems: to stop, whether a tolerance was met, and how many slices it accepts."""

    stop: Bools
    converged: Bools
    accepted: Ints


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

    def accepting(self) -> StoppingRule:
        """This rule, accepting slices as they pass, as a sliding window needs it."""
        return self

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
        rule: What must be small: ``"increment"``, the change of U in this iteration, or ``"defect"``, the distance
            of the last iterate from what the fine propagator made of it (the iterate that is returned is one better).
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
        """With ``freeze``."""
        return replace(self, freeze=True)

    @property
    def uses_defect(self) -> bool:
        """With ``rule="defect"``."""
        return self.rule == "defect"

    @property
    def width(self) -> int:
        """Two figures."""
        return 2

    def measure(self, change: Change) -> list[Tensor]:
        """The norm of what must be small, and of the iterate."""
        return [change.norm(self.rule, self.norm), change.norm("size", self.norm)]

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

    def accepting(self) -> StoppingRule:
        """Both."""
        return replace(self, first=self.first.accepting(), second=self.second.accepting())

    @property
    def uses_defect(self) -> bool:
        """Where either does."""
        return self.first.uses_defect or self.second.uses_defect

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
        a = self.first.decide(figures[..., :cut], iteration)
        b = self.second.decide(figures[..., cut:], iteration)
        converged = (a.stop & a.converged) | (b.stop & b.converged)
        if self.how == "|":
            return Verdict(a.stop | b.stop, converged, np.maximum(a.accepted, b.accepted))
        return Verdict(a.stop & b.stop, converged, np.minimum(a.accepted, b.accepted))
