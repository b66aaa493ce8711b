"""torchdiffeq's arguments, checked and in one form, whichever of its calls they came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.trees import State
from parareal._input_checks import check_state
from parareal.integrators import Integrator
from parareal.integrators._tolerances import checked_tolerance
from parareal.problem._lane_calls import Batching
from parareal.problem._ode import ODE
from parareal.stopping._tolerance import Tolerance


@dataclass(frozen=True, eq=False)
class Arguments:
    """The arguments of ``odeint``, checked.

    Attributes:
        func: The function that came.
        problem: It as a problem, called as torchdiffeq calls it.
        y0: The initial state; a tuple of several dtypes in the one that holds them all.
        t: The times, float64, with their graph if they require a gradient, on the host.
        times: The same without a graph.
        like: The times as they came.
        rtol: Relative tolerance of the method: a number, a tensor or a tuple of these.
        atol: Absolute tolerance, likewise.
        method: The name of a method of torchdiffeq, or an integrator.
        options: Its options; empty where none came.
    """

    func: Callable[[Tensor, Any], Any]
    problem: ODE
    y0: State
    t: Tensor
    times: Tensor
    like: Tensor
    rtol: Any
    atol: Any
    method: str | Integrator
    options: dict[str, Any]

    @property
    def timed(self) -> bool:
        """Whether gradients with respect to the times are wanted."""
        return self.t.requires_grad and torch.is_grad_enabled()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the state."""
        return trees.leaves(self.y0)[0].dtype

    def stop(self) -> Tolerance:
        """The stopping rule of the iteration: the tolerance, or a few units of rounding where that is more."""
        rounding = 16 * torch.finfo(self.dtype).eps
        return Tolerance(max(least(self.rtol), rounding), least(self.atol), norm="max")


def arguments(
    f: Any,
    y0: State,
    t: Any,
    *,
    func: Any = None,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: Any = None,
    options: Any = None,
    batching: Batching = "auto",
    name: str = "odeint",
) -> Arguments:
    """The arguments of a call of torchdiffeq, checked.

    Args:
        f: The right-hand side, if it came as the first argument.
        y0: The initial state.
        t: The times.
        func: The right-hand side, if it came under torchdiffeq's name.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        method: The name of a method, an integrator, or ``None`` for dopri5.
        options: Options of the method, or ``None``.
        batching: See `ODE`.
        name: The name of the call, for messages.

    Raises:
        TypeError, ValueError: An argument is wrong.
    """
    if (f is None) == (func is None):
        came = "neither f nor func" if f is None else "both f and func"
        raise TypeError(f"{name} got {came}; expected one of them: {name}(f, y0, t), or {name}(func=f, y0=y0, t=t)")
    f = func if f is None else f
    if t is None:
        raise TypeError(f"{name} got no t; expected a tensor of times: torch.tensor([0.0, 1.0])")
    check_state(y0, samples=False)
    y0 = in_one_dtype(y0)
    graph, times = as_times(t)
    if not isinstance(method, str | Integrator | None):
        raise TypeError(f"method is {described(method)}; expected the name of a method, or an integrator")
    if options is not None and not isinstance(options, dict):
        raise TypeError(f"options is {described(options)}; expected a dict")
    dtype = trees.leaves(y0)[0].dtype.to_real()
    return Arguments(
        func=f,
        problem=ODE(AsTorchDiffEq(f, dtype, y0) if callable(f) else f, batching),
        y0=y0,
        t=graph,
        times=times,
        like=t,
        rtol=checked_tolerance(rtol, "rtol", False),
        atol=checked_tolerance(atol, "atol", False),
        method="dopri5" if method is None else method,
        options=dict(options or {}),  # pyright: ignore[reportUnknownArgumentType]
    )


def least(tolerance: Any) -> float:
    """The least of a tolerance's numbers."""
    if isinstance(tolerance, tuple):
        return min(least(part) for part in tolerance)  # pyright: ignore[reportUnknownVariableType]
    return float(tolerance.min()) if isinstance(tolerance, Tensor) else float(tolerance)


def in_one_dtype(y0: State) -> State:
    """A tuple of several dtypes in the one that holds them all, as torchdiffeq, which makes one tensor of it."""
    dtypes = {leaf.dtype for leaf in trees.leaves(y0)}
    if not isinstance(y0, tuple) or len(dtypes) == 1:
        return y0
    wide = reduce(torch.promote_types, dtypes)
    return trees.map(lambda leaf: leaf.to(wide), y0)


def as_times(t: Any) -> tuple[Tensor, Tensor]:
    """``t`` in float64 on the host, with its graph and without."""
    if not isinstance(t, Tensor):
        raise TypeError(f"t is {described(t)}; expected a tensor of times: torch.tensor([0.0, 1.0])")
    if t.ndim != 1 or t.is_complex() or t.dtype == torch.bool:
        raise TypeError(f"t has shape {tuple(t.shape)} and dtype {t.dtype}; expected one dimension of real numbers")
    if len(t) < 1:
        raise ValueError("t holds no time; expected at least one, where to start")
    graph = t.to(device="cpu", dtype=torch.float64)
    times = graph.detach()
    steps = times.diff()
    wrong = (~(steps * torch.sign(times[-1] - times[0]) > 0)).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"t is not strictly monotone: t[{i}]={times[i].item()!r} is followed by {times[i + 1].item()!r}; expected "
            "finite times that only rise or only fall, none repeated"
        )
    if not bool(torch.isfinite(times).all()):
        raise ValueError(f"t holds {times[~torch.isfinite(times)][0].item()!r}; expected finite times")
    return graph, times


class AsTorchDiffEq:
    """``f`` called as torchdiffeq calls it: time in the state's real dtype; a list will do for a tuple."""

    def __init__(self, f: Callable[[Tensor, Any], Any], dtype: torch.dtype, y0: State) -> None:
        self._f, self._dtype, self._is_tuple = f, dtype, isinstance(y0, tuple)

    def __call__(self, t: Tensor, y: State) -> State:
        value = self._f(t.to(self._dtype), y)
        if not self._is_tuple or not isinstance(value, tuple | list):
            return value
        return (
            tuple(_widened(one, like) for one, like in zip(value, y, strict=False)) if len(value) == len(y) else value
        )  # pyright: ignore


def _widened(value: Any, like: Any) -> Any:
    """A slope in the dtype of its state where that holds it, as in torchdiffeq, which makes one tensor of a tuple."""
    if not isinstance(value, Tensor) or not isinstance(like, Tensor):
        return value
    return value.to(like.dtype) if torch.promote_types(value.dtype, like.dtype) == like.dtype else value
