"""Parts of adaptive methods: their checks, and numbers and states of lanes between host and device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Floats
from parareal._core.checks import described
from parareal._core.host import index_to, known, to_device
from parareal._core.names import METHOD_HINTS, one_of
from parareal._core.trees import State
from parareal.integrators._embedded import EMBEDDED


def check_numbers(method: Any) -> None:
    """Raises unless the name and the numbers of a method make sense."""
    one_of(method.tableau, EMBEDDED, "tableau", hints=METHOD_HINTS | {"rk4": "pr.RK4()", "euler": "pr.Euler()"})
    for key, least, none in (
        ("min_step", 0.0, False),
        ("max_step", 0.0, False),
        ("first_step", 0.0, True),
        ("safety", 0.0, False),
        ("ifactor", 1.0, False),
        ("dfactor", 0.0, False),
    ):
        value: Any = getattr(method, key)
        if none and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float | np.number | Tensor):
            raise TypeError(f"{key}={value!r} is {described(value)}; expected a number")
        value = float(value)
        if not value >= least or (key in ("first_step", "max_step", "safety", "dfactor") and value == 0):
            raise ValueError(f"{key}={value!r}; expected a number of at least {least:g}, and not zero for a step size")
        object.__setattr__(method, key, value)
    if method.min_step > method.max_step:
        raise ValueError(f"min_step={method.min_step} is above max_step={method.max_step}; expected at most that")


def why(t: float, finite: bool, stuck: bool, count: int) -> str:
    """What went wrong in a lane, and where."""
    if not finite:
        return f"the state is not finite at t={t!r}"
    if stuck:
        return (
            f"the step size underflowed at t={t!r}: no step there meets the tolerance. The solution may end there, or "
            "the right-hand side not be finite"
        )
    return f"max_num_steps was reached at t={t!r}, after {count} steps"


def to_lanes(numbers: Floats, like: Tensor) -> Tensor:
    """Numbers of the host beside a tensor."""
    tensor = torch.from_numpy(numbers)
    return tensor if like.device.type == "cpu" else to_device(tensor, like.device)


def moved(t: Tensor, to: Floats) -> Tensor:
    """Times ``to`` that depend on what ``t`` depends on."""
    host = torch.from_numpy(to)
    there = known(to_lanes(to, t), host)
    return there + (t - t.detach()) if t.requires_grad else there


def all_finite(u: State) -> Tensor:
    """Which lanes have only finite numbers, ``(L,)``."""
    finite = [torch.isfinite(leaf).reshape(leaf.shape[0], -1).all(1) for leaf in trees.leaves(u)]
    return finite[0] if len(finite) == 1 else torch.stack(finite).all(0)


def finite_lanes(u: State) -> Bools:
    """The same on the host."""
    return all_finite(u).cpu().numpy()


def chosen(mask: Bools, a: State, b: State) -> State:
    """``a`` on the lanes of the mask, ``b`` on the others."""
    if mask.all():
        return a
    if not mask.any():
        return b
    first = index_to(trees.leaves(a)[0].device, mask)

    def leaf(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(first.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return trees.map(leaf, a, b)
