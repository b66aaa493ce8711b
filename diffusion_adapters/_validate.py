"""Checks of arguments: each error says what came, what was expected and the fix."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from parareal.extend import described as kind_of


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


def one_of(value: Any, known: Iterable[str], name: str, other: str = "", hints: Mapping[str, str] | None = None) -> str:
    """``value``, one of the ``known`` names.

    Args:
        value: The value.
        known: The names.
        name: The name of the argument.
        other: Other values that are possible in place of a name.
        hints: Replacements for names of other libraries, spelled as `plain_name` spells them.

    Raises:
        TypeError: It is no string.
        ValueError: It is another string; the message lists the known names, and the one that was probably meant.
    """
    known = list(known)
    names = ", ".join(map(repr, known))
    expected = f"expected one of {names}{', or ' + other if other else ''}"
    if not isinstance(value, str):
        raise TypeError(f"{name} is {kind_of(value)}; {expected}{_instead(value, name)}")
    if value not in known:
        meant = _meant(value, known, name, hints or {})
        raise ValueError(f"{name}={value!r} is unknown; {expected}{meant and f'. Did you mean {meant}?'}")
    return value


def plain_name(name: str) -> str:
    """A name in lower case without separators, and with "++" for "pp": "DPM-Solver++ (2M)" becomes "dpm++2m"."""
    short = re.sub(r"[^a-z0-9+]", "", name.lower())
    for ending in ("scheduler", "sampler", "discrete"):
        short = short.removesuffix(ending)
    return short.replace("dpmsolver", "dpm").replace("dpmpp", "dpm++")


def _meant(value: str, known: list[str], name: str, hints: Mapping[str, str]) -> str:
    short = plain_name(value)
    spelled = {plain_name(one): one for one in known}
    if short in hints:
        return hints[short]
    if short in spelled:
        return f'{name}="{spelled[short]}"'
    close = difflib.get_close_matches(short, [*spelled, *hints], n=1, cutoff=0.8)
    if not close:
        return ""
    return hints.get(close[0]) or f'{name}="{spelled[close[0]]}"'


def _instead(value: Any, name: str) -> str:
    """What to write in place of a class, for messages."""
    if isinstance(value, type):
        return f". Call the class to make one: {name}={value.__name__}(...)"
    return ""
