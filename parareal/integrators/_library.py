"""What the wrappers of other libraries' solvers share: how one is loaded, what it is asked, and what is checked."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from numbers import Real
from typing import Any, Protocol

from torch import Tensor

from parareal import _tree
from parareal._tree import State
from parareal.integrators._base import Cost


class Solver(Protocol):
    """A wrapper, which solves lanes and counts calls."""

    def propagate(self, problem: Any, t0: Tensor, t1: Tensor, u: State, rows: State) -> tuple[State, Tensor]:
        """States at ``t1`` and how often each lane called the right-hand side, int64, shape ``(L,)``."""
        ...


@dataclass(frozen=True)
class Request:
    """The function that a wrapper asks for: equal for the same wrapper and the same problem, whose lanes then join.

    It gives the states and, beside them, the number of calls of each lane, from which it knows what it cost.
    """

    solver: Solver
    problem: Any

    def __call__(self, t0: Tensor, t1: Tensor, u: State, rows: State = None) -> tuple[State, Tensor]:
        """``(states at t1, calls)``, leaves ``(L, *state)`` and shape ``(L,)``."""
        return self.solver.propagate(self.problem, t0, t1, u, rows)

    def cost(self, value: tuple[State, Tensor], lanes: int) -> Cost:
        """All calls are evaluations; those of the lane with most of them follow one another."""
        calls: list[int] = value[1].tolist()
        return Cost(sum(calls), max(calls, default=0))


def load(library: str, install: str) -> Any:
    """The module ``library``; raises ImportError that says what to install where it is missing."""
    try:
        return import_module(library)
    except ImportError as error:
        raise ImportError(f"{library} could not be imported ({error}); install it: pip install '{install}'") from error


def check_name(value: Any, known: Collection[str], name: str, hint: str = "") -> None:
    """Raises unless ``value`` is one of the names ``known``."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is a {type(value).__name__}; expected one of {', '.join(map(repr, known))}")
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; expected one of {', '.join(map(repr, known))}{hint}")


def check_options(options: Any, known: Collection[str], of: str) -> None:
    """Raises unless ``options`` is a dict with keys among ``known``: a mistyped key would otherwise do nothing."""
    if not isinstance(options, dict):
        raise TypeError(f"options is a {type(options).__name__}; expected a dict")
    for key in options:  # pyright: ignore[reportUnknownVariableType]
        if key not in known:
            raise ValueError(f"option {key!r} is unknown to {of}; expected any of {', '.join(map(repr, known))}")


def check_tolerance(value: Any, name: str, least: float = 0.0) -> None:
    """Raises unless ``value`` is a finite number above 0 and of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; expected a float above 0")
    if not (math.isfinite(value) and float(value) > 0 and float(value) >= least):
        raise ValueError(f"{name}={value!r} is not a tolerance; expected a finite number {_above(least)}")


def _above(least: float) -> str:
    return f"of at least {least:.2g}" if least else "above 0"


def check_one_dtype(u0: State, who: str) -> None:
    """Raises unless all tensors of the state have one dtype: the other libraries join them into one vector."""
    dtypes = sorted({str(leaf.dtype) for leaf in _tree.leaves(u0)})
    if len(dtypes) > 1:
        raise TypeError(
            f"u0 holds tensors of {' and '.join(dtypes)}; {who} needs one dtype: convert them to the widest"
        )
