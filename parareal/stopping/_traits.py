"""The traits of a stopping rule: one frozen record of what the engine must know beside its decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from parareal._core.checks import check_count, check_flag
from parareal._core.names import NORM_HINTS, one_of
from parareal._core.norms import NormName


@dataclass(frozen=True, kw_only=True)
class StoppingTraits:
    """The declarations of a stopping rule, the ``traits`` of a `StoppingRule`.

    Attributes:
        width: How many figures `StoppingRule.measure` returns.
        norm: The norm in which increments and residuals are reported.
        uses_growth: Whether `StoppingRule.measure` uses changes of fine solutions, ``change.norm("carried", ...)``.
            Earlier fine solutions are kept only then.

    Raises:
        TypeError: A trait has the wrong type.
        ValueError: ``width`` is below 0, or ``norm`` is unknown.

    Examples:
        >>> StoppingTraits(width=1).norm
        'rms'
    """

    width: int
    norm: NormName = "rms"
    uses_growth: bool = False

    def __post_init__(self) -> None:
        check_count(self.width, "width", 0)
        check_flag(self.uses_growth, "uses_growth")
        one_of(self.norm, get_args(NormName), "norm", hints=NORM_HINTS)


BY_ATTRIBUTE = ("width", "norm", "uses_growth")
"""The traits that a class may also declare as plain attributes."""
EXAMPLE = 'traits = pr.StoppingTraits(width=1, norm="rms")'
