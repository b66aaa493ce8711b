"""Less, or more, of another correction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from parareal._core import trees
from parareal._core.trees import State
from parareal.corrections._base import Known, Sweep
from parareal.corrections._linear import Linear, sweep_through
from parareal.corrections._wrapper import Wrapper
from parareal.grid._mesh import Where


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
