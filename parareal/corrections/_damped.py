"""A correction multiplied by a factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any, cast

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.trees import State
from parareal.corrections._base import Known, Sweep
from parareal.corrections._linear import Linear, composer, sweep_through
from parareal.corrections._scan import Factors
from parareal.corrections._traits import CorrectionTraits
from parareal.corrections._wrapper import Wrapper
from parareal.grid._mesh import Where


@dataclass(frozen=True)
class Damped(Wrapper):
    """Theta times another correction: Jacobi iteration for theta = 0, the correction itself for theta = 1.

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
            raise TypeError(f"theta={self.theta!r} is {described(self.theta)}; expected a number such as 0.5")
        if not math.isfinite(self.theta):
            raise ValueError(f"theta={self.theta!r}; expected a finite number such as 0.5")

    @property
    def traits(self) -> CorrectionTraits:
        """Those of the correction inside, and stacked where its sweep is linear."""
        inner = self._base.traits
        linear, factored = inner.linear and inner.propagator is None, inner.factored
        stability = None if inner.stability is None else partial(_scaled, self.theta, inner.stability)
        return replace(
            super().traits, stacked=linear or factored, linear=linear, factored=factored, stability=stability
        )

    def difference(self, at: Where, new: Known, old: Known) -> State | None:
        """Theta times the difference of the inner correction."""
        return self._damped(self._base.difference(at, new, old))

    def difference_run(self, at: Where, sweep: Sweep) -> State | None:
        """A sweep with theta times the maps of the correction inside, since each damped change is the next's input."""
        return sweep_through(self, at, sweep)

    def apply(self, at: Where, change: State) -> State | None:
        """For linear corrections: theta times that of the correction inside."""
        return self._damped(cast(Linear, self._base).apply(at, change))

    @property
    def compose(self) -> Callable[[Where, State], State] | None:
        """For linear corrections: that of the correction inside times theta for each slice, if there is one."""
        inner = composer(self._base)
        if inner is None:
            return None
        return lambda at, change: trees.map(lambda leaf: leaf * self._theta(at), inner(at, change))

    def factors(self, at: Where, sweep: Sweep) -> Factors | None:
        """Theta times those of the correction inside."""
        inner = self._base.factors(at, sweep)
        return None if inner is None else inner.scaled(self.theta)

    def _theta(self, at: Where) -> float:
        try:
            return self.theta ** at.shape[1]
        except OverflowError:
            return math.inf

    def _damped(self, change: State | None) -> State | None:
        return None if change is None else trees.map(lambda leaf: leaf * self.theta, change)


def _scaled(theta: float, stability: Callable[[Any, Any], Any], z: Any, rest: Any) -> Any:
    return theta * stability(z, rest)
