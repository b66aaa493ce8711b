"""A stopping rule at work in one run: what it has seen, and what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from parareal.stopping._error_estimate import Errors, Floats, Seen, Start
from parareal.schedules._schedule import Bools, Ints

if TYPE_CHECKING:
    from parareal.stopping._tolerance import StoppingRule, Tolerance


class Verdict(NamedTuple):
    """What a rule says of D systems.

    Attributes:
        stop: Whether to stop, ``(D,)``.
        converged: Whether a tolerance was met, ``(D,)``.
        accepted: How many slices it accepts, ``(D,)``.
        error: Estimated distance of the final state from the sequential one, in the norm of the rule, ``(D,)``; NaN
            where there is no estimate.
        sound: Whether that estimate keeps within the tolerance, ``(D,)``; ``None`` for rules that do not say.
    """

    stop: Bools
    converged: Bools
    accepted: Ints
    error: Floats | None = None
    sound: Bools | None = None


class Judge:
    """A rule at work in one run. This one decides on each iteration for itself; others remember.

    Args:
        rule: The rule.
    """

    def __init__(self, rule: StoppingRule) -> None:
        self.rule = rule

    def decide(self, seen: Seen) -> Verdict:
        """The verdict after an iteration."""
        return self.rule.decide(seen.figures, seen.iteration)

    def account(self) -> dict[str, np.ndarray[Any, Any]]:
        """What it remembers, by name: the very arrays, so that another run's can be copied into them."""
        return {}

    def reopen(self, systems: Bools, times: int) -> None:
        """Slices of these systems that were accepted are open again, for the ``times``-th time."""

    def verified(self, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
        """The error that defects add up to at the end, relative, and what it may be.

        Args:
            system: The system.
            residuals: Relative defects of all boundaries, ``(N,)``.
            size: The norm of the states there, ``(N,)``.
            begin: Slices that are final.
        """
        return float(residuals[begin:].sum()), 0.0


def account(judge: Any) -> dict[str, np.ndarray[Any, Any]]:
    """What a judge remembers; nothing where it has no such method, as one's own may not."""
    return judge.account() if hasattr(judge, "account") else {}


def reopen(judge: Any, systems: Bools, times: int) -> None:
    """Tells a judge that slices are open again; one's own may have nothing to do about it."""
    if hasattr(judge, "reopen"):
        judge.reopen(systems, times)


def verified(judge: Any, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
    """What defects add up to and may add up to; nothing, where a judge does not say."""
    method = getattr(judge, "verified", None)
    error, allowed = (residuals[begin:].sum(), 0.0) if method is None else method(system, residuals, size, begin)
    return float(error), float(allowed)


class ErrorJudge(Judge):
    """A tolerance at work: it keeps account of errors, and with ``rule="error"`` decides by them."""

    def __init__(self, rule: Tolerance, start: Start) -> None:
        super().__init__(rule)
        self._tolerance, self._errors = rule, Errors(start, rule.rtol, rule.atol)

    def decide(self, seen: Seen) -> Verdict:
        """By the errors, or by the rule's own figures."""
        size, errors = seen.figures[..., 1], self._errors
        errors.update(seen)
        if self._tolerance.rule == "error":
            accepted = errors.passed(seen, size)
            stop = accepted == size.shape[1]
            verdict = Verdict(stop, stop, accepted if self._tolerance.freeze else np.zeros_like(accepted))
        else:
            verdict = self._tolerance.decide(seen.figures, seen.iteration)
        error, sound = errors.at_end(seen, size[:, -1], self._tolerance.rule == "error"), None
        if self._tolerance.rule == "error":
            tolerance = self._tolerance.atol + self._tolerance.rtol * size[:, -1]
            sound = ~(error > tolerance * (1 + 1e-12))
        errors.accept(seen, verdict.accepted)
        return verdict._replace(error=error, sound=sound)

    def account(self) -> dict[str, np.ndarray[Any, Any]]:
        """The record of errors."""
        return self._errors.arrays()

    def reopen(self, systems: Bools, times: int) -> None:
        """With stricter acceptance each time."""
        self._errors.reopen(systems, times)

    def verified(self, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
        """Defects carried to the end as errors are."""
        rule = self._tolerance
        allowed = rule.rtol + rule.atol / max(float(size[-1]), np.finfo(np.float64).tiny)
        return self._errors.carried(system, residuals, begin), allowed
