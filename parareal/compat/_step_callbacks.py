"""torchdiffeq's callbacks: functions of a step that are attributes of the right-hand side."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import level_outside
from parareal._core.trees import State
from parareal.integrators._march import March
from parareal.integrators._paced import SIZE
from parareal.integrators._quartic import Tried

STEP, ACCEPT, REJECT = "callback_step", "callback_accept_step", "callback_reject_step"
NAMES = (STEP, ACCEPT, REJECT)
ADJOINT = tuple(f"{name}_adjoint" for name in NAMES)


class Callbacks:
    """The callbacks of a function, called for each step of one lane.

    Args:
        f: The right-hand side.
    """

    def __init__(self, f: Any) -> None:
        self._found = {name: fn for name in NAMES if (fn := getattr(f, name, None)) is not None}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._found)

    def step(self, march: March) -> None:
        """Before a step."""
        if STEP in self._found:
            dt = torch.tensor(march.number[0, SIZE], dtype=torch.float64, device=march.t.device)
            self._found[STEP](march.t[0], trees.one(march.state.u, 0), dt)

    def tried(self, tried: Tried, accepted: bool) -> None:
        """After a step, with its size."""
        name = ACCEPT if accepted else REJECT
        if name in self._found:
            self._found[name](tried.left[0], trees.one(tried.u, 0), tried.h[0].abs())


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
            "fixed-step method, such as method='rk4'; leave out slices and the like, for the steps of an adaptive "
            "method in one slice; for what a run does, return_solution=True"
        )
    warnings.warn(f"f has {listed}, which pr.odeint does not call: {why}", UserWarning, stacklevel=level_outside())


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
