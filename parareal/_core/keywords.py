"""Unknown keywords of a function, and what was probably meant by them."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PROBLEM, _GRID, _FINE = "problem=pr.ODE(f)", "grid=pr.TimeGrid.uniform(t0, t1, slices, steps)", "fine=..."
_STOP, _COUNT = "stop=pr.Tolerance(rtol, atol)", "stop=pr.Iterations(count), or max_iterations=..."
_ELSEWHERE = {
    **dict.fromkeys(("f", "fun", "func", "rhs", "ode"), _PROBLEM),
    **dict.fromkeys(("y0", "x0", "initial", "initial_state"), "u0=..."),
    **dict.fromkeys(("t", "ts", "times", "t_span", "tspan", "t_eval", "dt", "steps", "slices"), _GRID),
    **dict.fromkeys(("method", "solver", "integrator", "propagator"), _FINE),
    **dict.fromkeys(("rtol", "atol", "tol", "tolerance"), _STOP),
    **dict.fromkeys(("iterations", "num_iterations", "max_iter", "maxiter", "n_iter"), _COUNT),
    **dict.fromkeys(("correction", "guess_solver"), "coarse=..."),
    **dict.fromkeys(("workers", "devices", "device", "parallel"), "executor=pr.Batched(devices=...)"),
    **dict.fromkeys(("guess", "initial_guess", "warm_start"), "start=..."),
    **dict.fromkeys(("width", "window"), "schedule=pr.Windowed(width)"),
    **dict.fromkeys(("step_size", "max_num_steps", "first_step"), "options={...}"),
    "batched": "samples=True",
    "adjoint": "gradients='adjoint'",
    "verbose": "progress=True",
}
"""What to write in place of names of other libraries; those whose first argument the function has not are left out."""


def explain_keywords(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A decorator: an unknown keyword is answered with what to write in its place."""
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in kwargs:
            if name not in names:
                raise TypeError(f"{function.__name__} has no argument {name}; expected {_meant(name, names)}")
        return function(*args, **kwargs)

    return call


def _meant(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    spelled = [name, *difflib.get_close_matches(name, _ELSEWHERE, n=1)]
    elsewhere = next((_ELSEWHERE[one] for one in spelled if one in _ELSEWHERE), "")
    if elsewhere.partition("=")[0] in names and not (close and close[0][0] == name[0]):
        return elsewhere
    return f"{close[0]}=..." if close else f"one of {', '.join(names)}"
