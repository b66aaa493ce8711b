"""Step sizes of embedded methods, on the host, all lanes at once: those of torchdiffeq.

Source:
    E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I (Springer, 1993), section II.4, for
    the first step; R. T. Q. Chen, torchdiffeq, for the limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from parareal._core.arrays import Bools, Floats


@dataclass(frozen=True, eq=False)
class Control:
    """The step size control of an embedded method.

    Attributes:
        order: See `EmbeddedTableau`.
        safety: By how much the next step falls short of what the error allows.
        ifactor: Most that a step grows by.
        dfactor: Most that it shrinks to, after a rejected step.
        min_step: Least size of a step. A step of that size is always accepted.
        max_step: Largest size.
        step_t: Times at which a step ends, rising.
        jump_t: Times at which the right-hand side jumps, rising.
    """

    order: int
    safety: float
    ifactor: float
    dfactor: float
    min_step: float
    max_step: float
    step_t: Floats
    jump_t: Floats

    def start(self, d0: Floats, d1: Floats) -> Floats:
        """The size of a trial step, from the norms of state and slope in units of the tolerance."""
        with np.errstate(all="ignore"):
            return np.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, np.abs(0.01 * d0 / d1))

    def first(self, h0: Floats, d1: Floats, d2: Floats) -> Floats:
        """The size of the first step; ``d2`` is the norm of the change of the slope over ``h0``, divided by it."""
        with np.errstate(all="ignore"):
            tiny = (d1 <= 1e-15) & (d2 <= 1e-15)
            steep = np.where(d2 > d1, d2, d1)
            h1 = np.where(tiny, np.maximum(1e-6, h0 * 1e-3), (0.01 / steep) ** (1.0 / self.order))
            return np.minimum(100 * h0, np.abs(h1))

    def limited(self, h: Floats) -> Floats:
        """Sizes within the limits; the least one where a size is not finite."""
        return np.clip(np.where(np.isfinite(h), h, self.min_step), self.min_step, self.max_step)

    def stretch(self, t: Floats, h: Floats, sign: float, end: Floats | None) -> tuple[Floats, Floats, Bools]:
        """The step to make from ``t``: its end, its size, and whether it ends at a jump.

        Args:
            t: Times, ``(L,)``.
            h: Sizes.
            sign: 1 in rising time, -1 in falling time.
            end: Where no step shall go beyond, or ``None``.
        """
        to, jumps = t + sign * h, np.zeros(len(t), dtype=bool)
        for points, jump in ((self.step_t, False), (self.jump_t, True)):
            if len(points):
                cut, on = _next(points, t, to, sign)
                to, h, jumps = np.where(on, cut, to), np.where(on, np.abs(cut - t), h), np.where(on, jump, jumps)
        if end is not None:
            over = sign * end < sign * to
            to, h, jumps = np.where(over, end, to), np.where(over, np.abs(end - t), h), jumps & ~over
        return to, h, jumps

    def accepts(self, ratio: Floats, h: Floats) -> Bools:
        """Whether steps of these sizes are accepted; ``ratio`` is the error in units of the tolerance."""
        return ((ratio <= 1) & ~(h > self.max_step)) | (h <= self.min_step)

    def next(self, h: Floats, ratio: Floats) -> Floats:
        """Sizes of the next steps, not yet limited."""
        with np.errstate(all="ignore"):
            least = np.where(ratio < 1, 1.0, self.dfactor)
            factor = np.minimum(self.ifactor, np.maximum(self.safety / ratio ** (1.0 / self.order), least))
            return h * np.where(ratio == 0, self.ifactor, factor)


def _next(points: Floats, t: Floats, to: Floats, sign: float) -> tuple[Floats, Bools]:
    """The first of the points strictly between ``t`` and ``to``, and whether there is one."""
    ahead = points if sign > 0 else -points[::-1]
    at = np.searchsorted(ahead, sign * t, side="right")
    found = ahead[np.minimum(at, len(ahead) - 1)]
    return sign * found, (at < len(ahead)) & (found < sign * to)


def as_times(value: Any) -> Floats:
    """Times as rising float64 on the host; raises TypeError, ValueError."""
    if value is None:
        return np.zeros(0)
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.sort(np.asarray(value, dtype=np.float64).reshape(-1))
