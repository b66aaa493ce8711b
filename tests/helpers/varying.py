"""A method of which the engine knows nothing but that the number of its calls varies."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import strategies as own
from torch import Tensor

import parareal as pr


class Varying(pr.Integrator):
    """Euler with more calls than it needs, as many as `more` says of the states."""

    traits = pr.IntegratorTraits(order=1, evaluations=None)

    def more(self, u: Any) -> int:
        """How many calls more a step takes on the lanes of ``u``."""
        raise NotImplementedError

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Any) -> Generator[Any, Any, Any]:
        """One step."""
        slope = yield problem.rhs, t0, u
        for _ in range(self.more(u)):
            yield problem.rhs, t0, u
        return own.after(u, t1 - t0, slope)
