"""Checks of arguments: each error says what came, what was expected and the fix."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from parareal.extend import described as kind_of
from parareal.extend import one_of as one_of


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
        raise TypeError(f"{name}={value!r} is {kind_of(value)}; expected a real number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}={number} is not finite; expected a finite number")
    return number


_P = ParamSpec("_P")
_R = TypeVar("_R")


def explain_keywords(hints: Mapping[str, str]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """A decorator: an unknown keyword is answered with what to write in its place.

    Args:
        hints: Replacements for names that people may try.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        names = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            for name in kwargs:
                if name not in names:
                    close = difflib.get_close_matches(name, names, n=1)
                    hint = hints.get(name) or (f"{close[0]}=..." if close else f"one of {', '.join(names)}")
                    raise TypeError(f"{function.__name__} has no argument {name}; expected {hint}")
            return function(*args, **kwargs)

        return call

    return decorate


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
        number = operator.index(value)  # ints of NumPy too, but no tensor of a fraction
    except TypeError:
        raise TypeError(f"{name}={value!r} is {kind_of(value)}; expected an int of at least 1") from None
    require(number >= 1, f"{name}={number} is too small; expected at least 1")
    return number


def check_floating(value: Any, name: str) -> None:
    """Raises unless ``value`` is a tensor of real floating-point numbers: others would round without a warning.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        came = str(value.dtype) if isinstance(value, Tensor) else kind_of(value)
        raise TypeError(f"{name} is {came}; expected a real floating-point tensor, such as torch.float32")
