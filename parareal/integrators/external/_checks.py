"""Shared parts of the wrappers of other libraries' solvers: imports and checks."""

from __future__ import annotations

import math
from collections.abc import Collection
from importlib import import_module
from numbers import Real
from typing import Any

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.names import check_keys
from parareal._core.trees import State


def load(library: str, install: str) -> Any:
    """The module ``library``; raises ImportError that says what to install where it is missing."""
    try:
        return import_module(library)
    except ImportError as error:
        raise ImportError(f"{library} could not be imported ({error}); install it: pip install '{install}'") from error


def check_options(options: Any, known: Collection[str], of: str) -> None:
    """Raises unless ``options`` is a dict with keys among ``known``: otherwise a mistyped key would be ignored."""
    if not isinstance(options, dict):
        raise TypeError(f"options is {described(options)}; expected a dict")
    check_keys(options, known, of)  # pyright: ignore[reportUnknownArgumentType]


def check_tolerance(value: Any, name: str, least: float = 0.0) -> None:
    """Raises unless ``value`` is a finite number above 0 and of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} is {described(value)}; expected a float above 0")
    if not (math.isfinite(value) and float(value) > 0 and float(value) >= least):
        raise ValueError(f"{name}={value!r} is not a tolerance; expected a finite number {_above(least)}")


def _above(least: float) -> str:
    return f"of at least {least:.2g}" if least else "above 0"


def check_one_dtype(u0: State, who: str) -> None:
    """Raises unless all tensors of the state have one dtype: the other libraries join them into one vector."""
    dtypes = sorted({str(leaf.dtype) for leaf in trees.leaves(u0)})
    if len(dtypes) > 1:
        raise TypeError(
            f"u0 holds tensors of {' and '.join(dtypes)}; {who} needs one dtype: convert them to the widest"
        )
