"""Checks of arguments that several parts share."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np


def check_count(value: Any, name: str, least: int = 1) -> None:
    """Raises unless ``value`` is an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}={value!r} is {kind_of(value)}; expected an int of at least {least}")
    if value < least:
        raise ValueError(f"{name}={value} is too small; expected at least {least}")


def check_instance(value: Any, kind: type, name: str, example: str) -> None:
    """Raises unless ``value`` is an instance of ``kind``; often a class came in place of an object."""
    if isinstance(value, kind):
        return
    raise TypeError(f"{name} is {described(value)}; expected {kind.__name__}, for example {example}")


def check_flag(value: Any, name: str) -> None:
    """Raises unless ``value`` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}={value!r} is {kind_of(value)}; expected True or False")


def with_article(name: str) -> str:
    """The name with "a" or "an", as it is spoken: an ODE, an SDE, a SemilinearODE."""
    if _ABBREVIATION.match(name):
        vowel = name[0] in _SPOKEN_WITH_VOWEL
    else:
        vowel = (name[:1].lower() in "aeiou" and not _SPOKEN_WITH_CONSONANT.match(name)) or name == "ndarray"
    return f"{'an' if vowel else 'a'} {name}"


_ABBREVIATION = re.compile(r"[A-Z]([A-Z0-9]|$)")
_SPOKEN_WITH_VOWEL = "AEFHILMNORSX"
"""Capitals whose own names begin with a vowel: em, ess, ar."""
_SPOKEN_WITH_CONSONANT = re.compile("one|u(ni|se|int|func|net|tf|rl)", re.IGNORECASE)


def kind_of(value: Any) -> str:
    """The class of a value, for an error that shows the value itself: "an int", "a NoneType"."""
    return with_article(type(value).__name__)


def described(value: Any) -> str:
    """What came, for an error: "the class Euler", "None" or "a Tensor"."""
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else kind_of(value)


def level_outside() -> int:
    """The ``stacklevel`` of a warning that shall name the first line outside these packages, from where it is made."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PACKAGES:
        level, frame = level + 1, frame.f_back
    return level


_PACKAGES = ("parareal", "diffusion_adapters", "torch")  # torch decorates some functions of these
