"""A correction multiplied by a factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.trees import State
from parareal.corrections._base import Known, Sweep
from parareal.corrections._linear import sweep_through
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
        """The traits of the inner correction; stacked only if that is linear."""
        inner = self._base.traits
        stability = None if inner.stability is None else partial(_scaled, self.theta, inner.stability)
        return replace(super().traits, stacked=inner.linear and inner.propagator is None, stability=stability)

    def difference(self, at: Where, new: Known, old: Known) -> State | None:
        """Theta times the difference of the inner correction."""
        return self._damped(self._base.difference(at, new, old))

    def difference_run(self, at: Where, sweep: Sweep) -> State | None:
        """One slice after another, since each damped change is the input of the next slice."""
        inner: Any = self.correction
        return sweep_through(lambda here, change: self._damped(inner.apply(here, change)), at, sweep)

    def _damped(self, change: State | None) -> State | None:
        return None if change is None else trees.map(lambda leaf: leaf * self.theta, change)


def _scaled(theta: float, stability: Callable[[Any, Any], Any], z: Any, rest: Any) -> Any:
    return theta * stability(z, rest)
