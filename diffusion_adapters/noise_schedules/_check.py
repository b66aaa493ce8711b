"""Checks of a noise schedule of a user: its attributes, its curves and its inverse."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from diffusion_adapters._validate import kind_of

_CLOSE = 1e-3
"""Largest relative error of an inverse, which may come from a table. A choice."""


class Curves(Protocol):
    """A `NoiseSchedule`, as far as it is checked here."""

    def alpha(self, t: Tensor) -> Tensor: ...

    def sigma(self, t: Tensor) -> Tensor: ...

    def s(self, t: Tensor) -> Tensor: ...

    def time(self, s: Tensor) -> Tensor: ...


def check_schedule(schedule: Curves, everywhere: bool = True) -> None:
    """Raises unless alpha, sigma and ``time`` fit together at five times of the range.

    Args:
        schedule: The schedule.
        everywhere: Whether sigma/alpha must rise from each of these times to the next, and not only from the first to
            the last: a grid on a part where it rises needs no more.

    Raises:
        TypeError: ``t_min`` or ``t_max`` is missing or not a number, or a curve returns no tensor.
        ValueError: The range is empty, a curve is negative, not finite or of another shape, sigma/alpha does not rise,
            or ``time`` is not its inverse.
    """
    name = type(schedule).__name__
    t_min, t_max = (_end(schedule, end) for end in ("t_min", "t_max"))
    if not t_min < t_max:
        raise ValueError(f"t_min={t_min} and t_max={t_max} of {name} are no range of times; expected t_min < t_max")
    t = torch.linspace(t_min, t_max, 5, dtype=torch.float64)
    alpha, sigma = (_curve(schedule, curve, t) for curve in ("alpha", "sigma"))
    s = sigma.double() / alpha.double()
    pairs = [(i, i + 1) for i in range(len(t) - 1)] if everywhere else [(0, len(t) - 1)]
    falling = [(i, j) for i, j in pairs if not s[j] > s[i]]
    if falling:
        i, j = falling[0]
        raise ValueError(
            f"sigma/alpha of {name} does not rise: it is {s[i].item():.6g} at t={t[i].item():.6g} and "
            f"{s[j].item():.6g} at t={t[j].item():.6g}; expected the data at t_min and the most noise at "
            "t_max: reverse its time"
        )
    inner = s.isfinite() & (s > 0)
    t, s = t[inner], s[inner]
    back: Any = schedule.time(s)
    if not isinstance(back, Tensor) or back.shape != s.shape:
        raise TypeError(f"time of {name} returned {_described(back)}; expected a tensor of shape {tuple(s.shape)}")
    again = schedule.s(back.to(torch.float64)).double()
    close = ((back - t).abs() <= _CLOSE * (t_max - t_min)) | ((again - s).abs() <= _CLOSE * s)
    if not bool(close.all()):
        i = int((~close).nonzero()[0])
        raise ValueError(
            f"time of {name} is not the inverse of sigma/alpha: at t={t[i].item():.6g} sigma/alpha is "
            f"{s[i].item():.6g}, but time({s[i].item():.6g}) is {back[i].item():.6g}; expected time(s) to return the t "
            "with sigma(t)/alpha(t) = s"
        )


def _end(schedule: Curves, end: str) -> float:
    name = type(schedule).__name__
    value: Any = getattr(schedule, end, None)
    expected = f"expected a number, as in class {name}(da.NoiseSchedule): t_min, t_max = 1e-3, 1.0"
    if value is None:
        raise TypeError(f"{name} has no {end}; {expected}")
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{end} of {name} is {kind_of(value)}; {expected}") from None
    if not math.isfinite(number):
        raise ValueError(f"{end}={number} of {name} is not finite; {expected}")
    return number


def _curve(schedule: Curves, curve: str, t: Tensor) -> Tensor:
    name = type(schedule).__name__
    value: Any = getattr(schedule, curve)(t)
    expected = "expected a tensor of the shape of t: for a constant write torch.full_like(t, 0.5)"
    if not isinstance(value, Tensor):
        raise TypeError(f"{curve} of {name} returned {_described(value)}; {expected}")
    if value.shape != t.shape:
        raise ValueError(f"{curve} of {name} returned {_described(value)} for t of shape {tuple(t.shape)}; {expected}")
    sound = value.isfinite() & (value >= 0)
    if not bool(sound.all()):
        i = int((~sound).nonzero()[0])
        raise ValueError(
            f"{curve} of {name} is {value[i].item()} at t={t[i].item():.6g}; expected finite numbers of at least 0"
        )
    return value


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else kind_of(value)
