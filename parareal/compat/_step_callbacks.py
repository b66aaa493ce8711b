"""torchdiffeq's callbacks: functions of a step that are attributes of the right-hand side."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State

STEP = "callback_step"
NAMES = (STEP, "callback_accept_step", "callback_reject_step")
ADJOINT = tuple(f"{name}_adjoint" for name in NAMES)


def warn_of_callbacks(f: Any, method: Any, fixed: bool) -> None:
    """Says which callbacks will not be called: with ``fixed`` steps, of a method of that name, `STEP` will."""
    found = [name for name in (*NAMES, *ADJOINT) if getattr(f, name, None) is not None]
    if fixed and STEP in found:
        found.remove(STEP)
    if not found:
        return
    listed = ", ".join(found)
    if fixed:
        why = f"{method!r} neither rejects steps nor goes backwards, so that {STEP} alone is called"
    else:
        why = (
            f"the steps of {method!r} are taken several times over, in all slices at once. For {STEP} take a "
            "fixed-step method, such as method='rk4'; for what a run does, return_solution=True; for all of them, "
            "torchdiffeq.odeint itself"
        )
    warnings.warn(f"f has {listed}, which pr.odeint does not call: {why}", UserWarning, stacklevel=3)


def call_for_steps(f: Any, points: Tensor, states: State, like: Tensor) -> None:
    """Calls ``f.callback_step(t0, y0, dt)`` for each step, in order; ``dt`` is positive, as in torchdiffeq.

    Args:
        f: The right-hand side.
        points: Where steps begin and end, float64, ``(S + 1,)``.
        states: The states there, leaves ``(S + 1, *state)``.
        like: A tensor whose dtype the times get, on the device of the states.
    """
    callback = getattr(f, STEP, None)
    if callback is None:
        return
    times = points.to(dtype=like.dtype if like.is_floating_point() else points.dtype)
    times = times.to(trees.leaves(states)[0].device)
    for i, dt in enumerate(times.diff().abs()):
        callback(times[i], trees.one(states, i), dt)
