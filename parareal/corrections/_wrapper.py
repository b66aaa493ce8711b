"""Corrections built on others: what they share, and the simplest of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from parareal._core.checks import check_instance
from parareal._core.trees import State
from parareal.corrections._base import Coarse, Correction, Edge, Known
from parareal.grid._mesh import Where
from parareal.integrators import Integrator


@dataclass(frozen=True)
class Wrapper(Correction):
    """What corrections on top of another one share."""

    correction: Correction | Integrator

    def __post_init__(self) -> None:
        given: Any = self.correction
        given = Coarse(given) if isinstance(given, Integrator) else given
        check_instance(given, Correction, "correction", "pr.Identity() or pr.Coarse(pr.Euler())")
        object.__setattr__(self, "correction", given)

    def _check_unmixed(self) -> None:
        """Raises where the correction inside mixes iterates, which only the outermost one can."""
        if self.correction.mixing:  # pyright: ignore
            raise ValueError(
                f"{self.correction!r} came inside of {type(self).__name__}, where it would not mix; expected it "
                f"outermost: pr.Anderson(pr.{type(self).__name__}(...))"
            )

    @property
    def _base(self) -> Correction:
        return self.correction  # pyright: ignore[reportReturnType]

    @property
    def propagator(self) -> Integrator | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the correction inside."""
        return self._base.propagator

    @property
    def uses_input(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the correction inside."""
        return self._base.uses_input

    @property
    def lookback(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the correction inside."""
        return self._base.lookback

    @property
    def mixing(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the correction inside."""
        return self._base.mixing

    @property
    def carries(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the correction inside."""
        return self._base.carries

    def bind(self, problem: Any, u0: State, grid: Any, fine: Any) -> Correction:
        """Binds the correction inside."""
        return dataclasses.replace(self, correction=self._base.bind(problem, u0, grid, fine))

    def mismatch(self, at: Where) -> Tensor:
        """That of the correction inside."""
        return self._base.mismatch(at)

    def lift(self, u: State) -> State:
        """That of the correction inside."""
        return self._base.lift(u)

    def lifted(self, problem: Any) -> Any:
        """That of the correction inside."""
        return self._base.lifted(problem)

    def guess(self, at: Where, new: Known) -> State:
        """That of the correction inside."""
        return self._base.guess(at, new)

    def guess_run(self, at: Where, u: State, before: tuple[Edge, ...]) -> State:
        """That of the correction inside."""
        return self._base.guess_run(at, u, before)

    def mix(self, states: list[State], updates: list[State]) -> State:
        """That of the correction inside."""
        return self._base.mix(states, updates)
