"""Checks of numbers that users pass: each failure says what came, what was expected and the fix."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

from torch import Tensor


def finite(value: Any, name: str) -> float:
    """``value`` as a float.

    Raises:
        TypeError: It is not a real number.
        ValueError: It is NaN or infinite.
    """
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; expected a real number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}={number} is not finite; expected a finite number")
    return number


def set_finite(schedule: Any, *names: str) -> None:
    """Replaces the named fields of a frozen dataclass by floats, checked by `finite`."""
    for name in names:
        object.__setattr__(schedule, name, finite(getattr(schedule, name), name))


def require(ok: bool, message: str) -> None:
    """Raises a `ValueError` unless ``ok``."""
    if not ok:
        raise ValueError(message)


def count(value: Any, name: str) -> int:
    """``value`` as an int of at least 1.

    Raises:
        TypeError: It is not an int.
        ValueError: It is below 1.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # NumPy's ints too, and no tensor of a fraction
    except TypeError:
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; expected an int of at least 1") from None
    require(number >= 1, f"{name}={number} is too small; expected at least 1")
    return number


def check_floating(value: Any, name: str) -> None:
    """Raises unless ``value`` is a tensor of real floating-point numbers: others would round without a word.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        came = str(value.dtype) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise TypeError(f"{name} is {came}; expected a real floating-point tensor, such as torch.float32")


def one_of(value: Any, known: Iterable[str], name: str, other: str = "") -> str:
    """``value``, one of the ``known`` names.

    Raises:
        ValueError: It is another; the message lists the known ones, and ``other`` things that would do.
    """
    known = list(known)
    if not isinstance(value, str) or value not in known:
        names = ", ".join(map(repr, known))
        raise ValueError(f"{name}={value!r} is unknown; expected one of {names}{', or ' + other if other else ''}")
    return value
