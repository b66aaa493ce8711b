"""Corrections built on others: what they share, and the simplest of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from parareal._core import trees
from parareal._input_checks import check_instance
from parareal.corrections._base import Coarse, Correction, Edge, Known, Sweep
from parareal.grid._time_grid import Where
from parareal.corrections._linear import Linear, sweep_through
from parareal._core.trees import State
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


@dataclass(frozen=True)
class Damped(Wrapper):
    """Theta times another correction: between Jacobi (theta = 0) and the correction itself (theta = 1).

    A theta below 1 can help where the correction overshoots, as coarse propagators do on oscillations. First guesses
    are not damped.

    Args:
        correction: A correction, or an integrator, which stands for `Coarse`.
        theta: The factor.

    Raises:
        TypeError: ``correction`` is neither, or ``theta`` is not a number.
        ValueError: ``theta`` is not finite.

    Source:
        G. Ariel, H. Nguyen, R. Tsai, theta-parareal schemes (arXiv 1704.06882).

    Examples:
        >>> import parareal as pr
        >>> pr.Damped(pr.Euler(), theta=0.9).correction
        Coarse(propagator=Euler(steps=None))
    """

    theta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_unmixed()
        if isinstance(self.theta, bool) or not isinstance(self.theta, Real):
            raise TypeError(f"theta={self.theta!r} is a {type(self.theta).__name__}; expected a number such as 0.5")
        if not math.isfinite(self.theta):
            raise ValueError(f"theta={self.theta!r}; expected a finite number such as 0.5")

    @property
    def stacked(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where the correction inside is linear."""
        return isinstance(self._base, Linear)

    def difference(self, at: Where, new: Known, old: Known) -> State | None:
        """Theta times that of the correction inside."""
        return self._damped(self._base.difference(at, new, old))

    def difference_run(self, at: Where, sweep: Sweep) -> State | None:
        """Slice after slice."""
        inner: Any = self.correction
        return sweep_through(lambda here, change: self._damped(inner.apply(here, change)), at, sweep)

    def _damped(self, change: State | None) -> State | None:
        return None if change is None else trees.map(lambda leaf: leaf * self.theta, change)
