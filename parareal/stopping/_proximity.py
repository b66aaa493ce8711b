"""`Proximity`: a stopping rule for chaotic problems, in which no solution is accurate to the end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from parareal._core.arrays import Floats, Ints
from parareal._core.checks import kind_of
from parareal._core.names import NORM_HINTS, one_of
from parareal._core.norms import NormName
from parareal.stopping._increments import Change
from parareal.stopping._observations import Start
from parareal.stopping._rules import StoppingRule, StoppingState, Verdict


@dataclass(frozen=True, eq=False)
class Proximity(StoppingRule):
    """Stops when the jump at each slice boundary is no larger than what an early error has grown to by then.

    With the largest Lyapunov exponent lambda the jump at t_n, the distance between the end of slice n and the beginning
    of the next, may be ``(atol + rtol |U|) exp(lambda (t_n - t_0))``, and ``most |U|`` at most. Where lambda is not
    positive this is ``Tolerance(rtol, atol, rule="defect")``.

    What it promises: the path solves the equation within each slice, its jumps are that small, and its beginning agrees
    with the sequential solution about to the tolerance. What it does not promise: that states at late times are close
    to those of the sequential run. An error of the size of the tolerance at the start grows to as much, so a run that
    asks for more there asks for what the problem does not determine. Use it for averages over long times, which do
    not depend on the path; check them against another run. The error estimate of the solution is NaN.

    Args:
        exponent: Largest Lyapunov exponent, per unit of time: of `lyapunov_exponent`, or known.
        times: The slice boundaries, ``grid.edges``.
        rtol: Relative tolerance at the start.
        atol: Absolute tolerance at the start.
        most: Largest jump relative to the state, at any time.
        norm: ``"rms"`` or ``"max"``.

    Raises:
        TypeError: ``exponent``, ``times`` or a tolerance has the wrong type.
        ValueError: A number is out of range. From `solve`: it came with `Windowed`, or with another number of slices.

    Source:
        The idea of weighing jumps by the Lyapunov exponent: Finite-Time Convergence Guarantees for Time-Parallel
        Methods (arXiv 2604.00855). The rule here is a simple one of that kind.

    Examples:
        >>> import parareal as pr
        >>> grid = pr.TimeGrid.uniform(0.0, 20.0, slices=40, steps=50)
        >>> rule = pr.Proximity(0.906, grid.edges, rtol=1e-6)
    """

    exponent: float
    times: Tensor = field(repr=False)
    rtol: float = 1e-4
    atol: float = 1e-6
    most: float = 1e-2
    norm: NormName = "rms"  # pyright: ignore[reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        for name, least in (("exponent", -math.inf), ("rtol", 0.0), ("atol", 0.0), ("most", 0.0)):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise TypeError(f"{name}={value!r} is {kind_of(value)}; expected a float")
            if not math.isfinite(float(value)) or float(value) < least:
                wanted = "a finite number" if least == -math.inf else "a finite number of at least 0"
                raise ValueError(f"{name}={value!r} is out of range; expected {wanted}")
        one_of(self.norm, get_args(NormName), "norm", hints=NORM_HINTS)
        times: Any = self.times
        if not isinstance(times, Tensor) or times.ndim != 1 or len(times) < 2 or not times.is_floating_point():
            came = tuple(times.shape) if isinstance(times, Tensor) else type(times).__name__
            raise TypeError(f"times is {came}; expected the slice boundaries, a tensor of floats: grid.edges")

    @property
    def uses_defect(self) -> bool:
        """True: jumps are defects."""
        return True

    @property
    def width(self) -> int:
        """Two figures."""
        return 2

    @property
    def factors(self) -> Floats:
        """How much a jump at each right boundary may exceed the tolerance, ``(N,)``."""
        past = (self.times[1:] - self.times[0]).abs().to(torch.float64).cpu().numpy()
        return np.exp(np.minimum(max(float(self.exponent), 0.0) * past, 700.0))

    def measure(self, change: Change) -> list[Tensor]:
        """Norms of the jump and of the iterate."""
        return [change.norm("defect", self.norm), change.norm("size", self.norm)]

    def decide(self, figures: Floats, iteration: Ints) -> Verdict:
        """Stops when every jump is small enough."""
        jump, size = figures[..., 0], figures[..., 1]
        finite = np.isfinite(size)
        size = np.where(finite, size, 0.0)
        tolerance = self.atol + self.rtol * size
        allowed = np.maximum(tolerance, np.minimum(tolerance * self.factors, self.most * size))
        passed = finite & (jump <= allowed)
        stop = passed.sum(axis=1) == passed.shape[1]
        return Verdict(stop, stop, np.zeros(len(stop), dtype=np.int64))

    def accepting(self) -> StoppingRule:
        """Refused: windows accept what must not be wrong, and here late states may be."""
        raise ValueError(
            "Proximity came with Windowed, which accepts slices by their error; expected pr.Barrier() or "
            "pr.Wavefront(), or pr.Tolerance"
        )

    def begin(self, start: Start) -> StoppingState:
        """A stopping state that knows how to verify jumps."""
        slices = len(start.mismatch)
        if slices != len(self.times) - 1:
            raise ValueError(
                f"times holds {len(self.times)} slice boundaries and the grid has {slices + 1}; expected grid.edges"
            )
        return _Jumps(self)


class _Jumps(StoppingState):
    """The state of a `Proximity`: none but the rule itself."""

    def verified(self, system: int, residuals: Floats, size: Floats, begin: int) -> tuple[float, float]:
        """The largest relative jump, in units of what is allowed at the start."""
        rule: Any = self.rule
        tolerance = rule.rtol + rule.atol / np.maximum(size, np.finfo(np.float64).tiny)
        allowed = np.maximum(tolerance, np.minimum(tolerance * rule.factors, rule.most))
        with np.errstate(divide="ignore", invalid="ignore"):
            over = np.where(residuals > 0, residuals / allowed, 0.0)
        return float(over[begin:].max(initial=0.0)), 1.0
