"""`Tolerance`: stops when slice boundaries have settled, or when the estimated error is small enough."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, get_args

import numpy as np
from torch import Tensor

from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.checks import kind_of
from parareal._core.names import NORM_HINTS, one_of
from parareal._core.norms import NormName
from parareal.stopping._error_estimate import ErrorEstimate
from parareal.stopping._increments import Change
from parareal.stopping._observations import Seen, Start
from parareal.stopping._rules import RuleName, StoppingRule, StoppingState, Verdict
from parareal.stopping._traits import StoppingTraits


@dataclass(frozen=True)
class Tolerance(StoppingRule):
    """Stops when every slice's right boundary U has settled: ``|change| <= atol + rtol |U|`` in the chosen norm.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance, in the state's units.
        norm: ``"rms"``, over all elements of the state, or ``"max"``.
        rule: What must be small: ``"increment"``, the change of U in this iteration; ``"defect"``, the distance
            of the last iterate from what the fine propagator made of it (the iterate that is returned is one better);
            or ``"error"``, the estimated distance of the final state from the sequential one, which `Windowed` always
            uses. ``rtol`` and ``atol`` then bound that distance: see `Solution.error_estimate`.
        freeze: ``False``: all slices must pass in the same iteration, the textbook rule. ``True``: slices that pass in
            a row from the frontier on are accepted and no longer computed. This is cheaper and weaker: accepted errors
            propagate.

    Raises:
        TypeError: A tolerance is not a number.
        ValueError: A tolerance is negative or NaN; ``norm`` or ``rule`` is unknown.

    Examples:
        >>> import parareal as pr
        >>> rule = pr.Tolerance(rtol=1e-6, norm="max") | pr.Iterations(20)
    """

    rtol: float = 1e-4
    atol: float = 1e-6
    norm: NormName = "rms"
    rule: RuleName = "increment"
    freeze: bool = False

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name}={value!r} is {kind_of(value)}; expected a float of at least 0")
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name}={value!r} is not a tolerance; expected a finite number of at least 0")
        if not isinstance(self.freeze, bool):
            raise TypeError(f"freeze={self.freeze!r} is {kind_of(self.freeze)}; expected True or False")
        for name, known in (("norm", get_args(NormName)), ("rule", get_args(RuleName))):
            one_of(getattr(self, name), known, name, hints=NORM_HINTS)

    def accepting(self) -> Tolerance:
        """This rule with ``freeze`` and ``rule="error"``: accepted errors propagate and are recorded."""
        return replace(self, freeze=True, rule="error")

    def begin(self, start: Start) -> StoppingState:
        """A stopping state with an error record."""
        return ErrorStopping(self, start)

    @property
    def traits(self) -> StoppingTraits:
        """Five figures; changes of fine solutions are used where errors decide."""
        return StoppingTraits(width=5, norm=self.norm, uses_growth=self.rule == "error")

    def measure(self, change: Change) -> list[Tensor]:
        """Norms: of what must be small, the iterate, the increment, the defect, and the change of the fine solution."""
        rule = "defect" if self.rule == "defect" else "increment"
        return [change.norm(what, self.norm) for what in (rule, "size", "increment", "defect", "carried")]

    def decide(self, figures: Floats, iteration: Ints) -> Verdict:
        """Stops when every boundary passes; with ``freeze`` accepts those that pass in a row."""
        size = figures[..., 1]
        finite = np.isfinite(size)  # an infinite iterate has not settled, although Inf <= rtol * Inf
        # Boundaries that did not change have figures of zero and pass. One that has just become final is checked like
        # any other: what lies to its right was computed from its former state.
        passed = finite & (figures[..., 0] <= self.atol + self.rtol * np.where(finite, size, 0.0))
        run = np.cumprod(passed, axis=1).sum(axis=1)
        stop = run == passed.shape[1]
        return Verdict(stop, stop, run if self.freeze else np.zeros_like(run))


class ErrorStopping(StoppingState):
    """The state of a `Tolerance` in one run: it keeps an error record, and decides by it if ``rule="error"``."""

    def __init__(self, rule: Tolerance, start: Start) -> None:
        super().__init__(rule)
        self._tolerance, self._estimate = rule, ErrorEstimate(start, rule.rtol, rule.atol)

    def decide(self, seen: Seen) -> Verdict:
        """Decides by the error estimate, or by the figures of the rule."""
        size, estimate = seen.figures[..., 1], self._estimate
        estimate.update(seen)
        if self._tolerance.rule == "error":
            accepted = estimate.passed(seen, size)
            stop = accepted == size.shape[1]
            decision = Verdict(stop, stop, accepted if self._tolerance.freeze else np.zeros_like(accepted))
        else:
            decision = self._tolerance.decide(seen.figures, seen.iteration)
        error, sound = estimate.at_end(seen, size[:, -1], self._tolerance.rule == "error"), None
        if self._tolerance.rule == "error":
            tolerance = self._tolerance.atol + self._tolerance.rtol * size[:, -1]
            sound = ~(error > tolerance * (1 + 1e-12))
        estimate.accept(seen, decision.accepted)
        return decision._replace(error=error, sound=sound)

    def account(self) -> dict[str, np.ndarray[Any, Any]]:
        """The error record."""
        return self._estimate.arrays()

    def reopen(self, systems: Bools, times: int) -> None:
        """Reopens the error record; acceptance is stricter each time."""
        self._estimate.reopen(systems, times)

    def verified(self, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
        """The error at the end that defects propagate to, and the tolerance, both relative."""
        return self._estimate.carried(system, residuals, begin), self._allowed(size)

    def cleared(self, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
        """The same, with the caution with which accepted errors are carried."""
        return self._estimate.carried_with_caution(system, residuals, begin), self._allowed(size)

    def _allowed(self, size: Floats) -> float:
        rule = self._tolerance
        return rule.rtol + rule.atol / max(float(size[-1]), np.finfo(np.float64).tiny)
