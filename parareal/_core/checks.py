"""Checks of arguments that several parts share."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_count(value: Any, name: str, least: int = 1) -> None:
    """Raises unless ``value`` is an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(
            f"{name}={value!r} is {with_article(type(value).__name__)}; expected an int of at least {least}"
        )
    if value < least:
        raise ValueError(f"{name}={value} is too small; expected at least {least}")


def check_instance(value: Any, kind: type, name: str, example: str) -> None:
    """Raises unless ``value`` is an instance of ``kind``; often a class came in place of an object."""
    if isinstance(value, kind):
        return
    raise TypeError(f"{name} is {described(value)}; expected {kind.__name__}, for example {example}")


def check_flag(value: Any, name: str) -> None:
    """Raises unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is {with_article(type(value).__name__)}; expected True or False")


def with_article(name: str) -> str:
    """The name with "a" or "an": an ODE, a SemilinearODE."""
    return f"{'an' if name[0] in 'AEIOaeio' or name == 'SDE' else 'a'} {name}"


def described(value: Any) -> str:
    """What came, for an error: "the class Euler", "None" or "a Tensor"."""
    if value is None:
        return "None"
    return f"the class {value.__name__}" if isinstance(value, type) else with_article(type(value).__name__)
