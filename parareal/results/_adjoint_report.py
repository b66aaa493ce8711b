"""What the backward pass of a run has cost, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parareal.results._stats import Stats
from parareal.results._status import Status


@dataclass(eq=False)
class AdjointReport:
    """The last backward pass through a solution of ``solve(..., gradients="adjoint")``; ``None`` before the first.

    Attributes:
        stats: Its cost. A round is a call of the right-hand side, or of its transposed derivative, on all lanes that
            could advance together.
        iterations: Iterations of the adjoint recursion; 1 for a scan.
        status: How the recursion ended.
        way: ``"scan"``, with the derivative of each slice as a matrix, or ``"parareal"``, with the transposed coarse
            propagator.
        passes: Backward passes so far.
    """

    stats: Stats | None = None
    iterations: int | None = None
    status: Status | None = None
    way: Literal["scan", "parareal"] | None = None
    passes: int = 0

    def __repr__(self) -> str:
        if self.stats is None:
            return "AdjointReport(no backward pass yet)"
        return (
            f"AdjointReport({self.way}, iterations={self.iterations}, rounds={self.stats.rounds}, "
            f"evaluations={self.stats.evaluations})"
        )
