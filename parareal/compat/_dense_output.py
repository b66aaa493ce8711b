"""Dense output of fixed-step methods: states at all fine points, and interpolated in between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described, kind_of
from parareal._core.names import check_keys, one_of
from parareal._core.trees import State
from parareal.executors._base import Executor
from parareal.problem._ode import Problem

_OPTIONS = ("step_size", "grid_constructor", "interp", "perturb", "norm", "dtype")
_INTERP = ("linear", "cubic")


def points_of(method: str, options: Any, f: Any, y0: State, times: Tensor) -> tuple[Tensor, str]:
    """The points that a fixed-step method of torchdiffeq visits, and how it interpolates.

    The points are float64 on the host, with the graph of the times.

    Args:
        method: Its name, for messages.
        options: The options given to `parareal.odeint`.
        f: The right-hand side, an argument of ``grid_constructor``.
        y0: State at ``times[0]``.
        times: Output times, float64, shape ``(times,)``, maybe with a graph.

    Raises:
        TypeError: An option is of the wrong type.
        ValueError: An option is unknown, two exclude each other, or points do not reach from end to end.
    """
    if not isinstance(options, dict):
        raise TypeError(f"options is {described(options)}; expected a dict")
    check_keys(options, _OPTIONS, repr(method))  # pyright: ignore[reportUnknownArgumentType]
    interp: Any = options.get("interp", "linear")
    one_of(interp, _INTERP, "interp")
    step, constructor = options.get("step_size"), options.get("grid_constructor")
    if step is not None and constructor is not None:
        raise ValueError("step_size and grid_constructor both set the points; expected one of them")
    if constructor is not None:
        points = torch.as_tensor(constructor(f, y0, times)).to(device="cpu", dtype=torch.float64)
        if points.ndim != 1 or len(points) < 2 or points[0] != times[0] or points[-1] != times[-1]:
            raise ValueError(
                f"grid_constructor returned points of shape {tuple(points.shape)}; expected times from "
                f"t[0]={times[0].item()!r} to t[-1]={times[-1].item()!r}, both included"
            )
        return points, interp
    return (times if step is None else _uniform(times, step)), interp


def _uniform(times: Tensor, step: Any) -> Tensor:
    if isinstance(step, bool) or not isinstance(step, int | float | Tensor):
        raise TypeError(f"step_size={step!r} is {kind_of(step)}; expected a float above 0")
    step = float(step)
    if not 0 < step < float("inf"):
        raise ValueError(f"step_size={step!r} is not a step; expected a finite number above 0")
    start, end = times.detach()[0], times.detach()[-1]
    count = int(torch.ceil((end - start).abs() / step)) + 1
    points = times[0] + torch.sign(end - start) * step * torch.arange(count, dtype=times.dtype)
    inside = (points.detach() - start).abs() < (end - start).abs()
    points = torch.cat([points[inside], times[-1:]])
    new = torch.ones(len(points), dtype=torch.bool)
    new[1:] = points.detach().diff() != 0  # steps below rounding are skipped
    return points[new]


def at_times(problem: Problem, points: Tensor, states: State, times: Tensor, interp: str, executor: Executor) -> State:
    """States at ``times``, leaves ``(times, *state)``, from those at ``points``: exact there, interpolated between."""
    known, wanted = points.detach(), times.detach()
    sign = torch.sign(known[-1] - known[0])
    right = torch.searchsorted(known * sign, wanted * sign)
    if bool((known[right] == wanted).all()):
        return trees.map(lambda leaf: leaf[right.to(leaf.device)], states)
    right = right.clamp(min=1)
    device = trees.leaves(states)[0].device
    t0, t1 = points[right - 1].to(device), points[right].to(device)
    a, b = (trees.lanes(states, index.to(device)) for index in (right - 1, right))
    h, x = t1 - t0, (times.to(device) - t0) / (t1 - t0)
    if interp == "linear":
        return trees.map(lambda u, v: u + trees.per_lane(x, u) * (v - u), a, b)
    f0, f1 = (executor.evaluate(problem.rhs, args, len(times)) for args in ((t0, a), (t1, b)))
    weights = ((1 + 2 * x) * (1 - x) ** 2, x**2 * (3 - 2 * x), h * x * (1 - x) ** 2, h * x**2 * (x - 1))

    def hermite(*parts: Tensor) -> Tensor:
        terms = [trees.per_lane(weight, part) * part for weight, part in zip(weights, parts, strict=True)]
        return terms[0] + terms[1] + terms[2] + terms[3]

    return trees.map(hermite, a, b, f0, f1)
