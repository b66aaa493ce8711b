"""Checks of arguments that several parts share."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_count(value: Any, name: str, least: int = 1) -> None:
    """Raises unless ``value`` is an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; expected an int of at least {least}")
    if value < least:
        raise ValueError(f"{name}={value} is too small; expected at least {least}")


def check_instance(value: Any, kind: type, name: str, example: str) -> None:
    """Raises unless ``value`` is an instance of ``kind``; a class where an object is due is the usual slip."""
    if isinstance(value, kind):
        return
    got = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    raise TypeError(f"{name} is {got}; expected {kind.__name__}, for example {example}")


def with_article(name: str) -> str:
    """An ODE, but a SemilinearODE."""
    return f"{'an' if name[0] in 'AEIO' or name == 'SDE' else 'a'} {name}"
