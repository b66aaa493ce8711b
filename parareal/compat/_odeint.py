"""The call of torchdiffeq, solved in parallel in time.

Times become slice boundaries, the name of a method becomes a fine propagator and a grid, and the states at the
boundaries become the result. The rest is `solve`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import check_count, check_instance, described
from parareal._core.trees import State
from parareal._input_checks import check_state
from parareal.compat._by_adjoint import fill, solve
from parareal.compat._dense_output import at_times, points_of
from parareal.compat._step_callbacks import call_for_steps, warn_of_callbacks
from parareal.corrections._base import Correction
from parareal.executors._base import Executor
from parareal.executors._local import Batched
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import RK4, ButcherTableau, Integrator, RungeKutta, TorchDiffEq
from parareal.problem._lane_calls import Batching
from parareal.problem._ode import ODE
from parareal.results._solution import Solution
from parareal.schedules._schedule import Schedule
from parareal.stopping._tolerance import Tolerance

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = {
    "euler": ButcherTableau(a=((),), b=(1.0,), order=1),
    "midpoint": ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), order=2),
    "heun2": ButcherTableau(a=((), (1.0,)), b=(0.5, 0.5), order=2),
    "heun3": ButcherTableau(a=((), (1 / 3,), (0.0, 2 / 3)), b=(0.25, 0.0, 0.75), order=3),
    "rk4": ButcherTableau(a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), b=(1 / 8, 3 / 8, 3 / 8, 1 / 8), order=4),
}
"""The fixed-step methods of torchdiffeq by name; its rk4 is the 3/8 rule."""

SLICES = 16
"""Slices for a few output times; the page "From torchdiffeq" has the cost of other numbers."""


def odeint(
    f: Callable[[Tensor, Any], Any] | None = None,
    y0: State = None,
    t: Tensor | None = None,
    *,
    func: Callable[[Tensor, Any], Any] | None = None,
    event_fn: Any = None,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | Integrator | None = None,
    options: dict[str, Any] | None = None,
    slices: int | None = None,
    coarse: Integrator | Correction | None = None,
    schedule: Schedule | None = None,
    executor: Executor | None = None,
    batching: Batching = "vmap",
    max_iterations: int | None = None,
    return_solution: bool = False,
) -> Any:
    """Solves dy/dt = f(t, y), y(t[0]) = y0, with the arguments and the result of ``torchdiffeq.odeint``.

    The result agrees with the sequential run of the same method over the same slices to about ``rtol |y| + atol``. Its
    gradients with respect to ``y0`` and to whatever ``f`` is made of are about an iteration behind. There is none with
    respect to ``t``.

    Args:
        f: ``f(t, y)`` with a scalar ``t``, of the real dtype of ``y0``, and one state. Fixed-step methods call its
            ``callback_step(t0, y0, dt)``, if it has one, for each step of the result once that is there; a warning
            names other callbacks of torchdiffeq, which are not called.
        y0: State at ``t[0]``: a tensor, or a tuple or other pytree of tensors. Tuples of several dtypes are solved in
            the one that holds them all.
        t: Times, strictly rising or strictly falling, any real dtype, shape ``(times,)``, at least two.
        func: torchdiffeq's name of ``f``; one of them is expected.
        event_fn: Not supported: anything but ``None`` is an error.
        rtol: Relative tolerance of adaptive methods, and of the iteration for all methods. The iteration stops at a few
            units of rounding where that is more.
        atol: Absolute tolerance of both.
        method: An adaptive method of torchdiffeq, ``"dopri5"`` (the default), ``"dopri8"``, ``"bosh3"``,
            ``"fehlberg2"`` or ``"adaptive_heun"``, which restarts in every slice; one of its fixed-step methods,
            ``"euler"``, ``"midpoint"``, ``"heun2"``, ``"heun3"`` or ``"rk4"`` (the 3/8 rule), which steps from each of
            ``t`` to the next unless ``options`` has a ``step_size``; or any `Integrator`.
        options: Those of torchdiffeq's method: for fixed steps ``step_size``, ``grid_constructor``, ``interp``.
        slices: Number of slices. Adaptive methods and integrators: at least that many, since every one of
            ``t`` is a slice boundary; 16 by default. Fixed steps: about the square root of the number of steps by
            default.
        coarse: As in `solve`; by default one step a slice of `RK4`, or of the fixed-step method itself.
        schedule: As in `solve`, with the same default: no more rounds are taken than by the sequential run over the
            same slices.
        executor: As in `solve`.
        batching: How ``f`` is called for many states at once; see `ODE`. ``"loop"`` for an ``f`` that
            does not work under ``torch.func.vmap``.
        max_iterations: As in `solve`.
        return_solution: Return ``(result, solution)``, with the `Solution` of the run.

    Returns:
        States at ``t``, leaves ``(times, *state)``, the first of them ``y0``.

    Raises:
        SolveError: The tolerance was not met within ``max_iterations``, or the sequential solution is not finite.
        TypeError, ValueError: An argument is wrong; nothing was computed.

    Source:
        R. T. Q. Chen, torchdiffeq, https://github.com/rtqichen/torchdiffeq, for the interface.

    Examples:
        >>> import torch, parareal as pr
        >>> t = torch.linspace(0.0, 2.0, 5, dtype=torch.float64)
        >>> y = pr.odeint(lambda t, y: -y, torch.ones(3, dtype=torch.float64), t)
        >>> y.shape, torch.allclose(y[-1], torch.exp(-t[-1]), rtol=1e-6)
        (torch.Size([5, 3]), True)
    """
    f = _right_hand_side(f, func, event_fn)
    if t is None:
        raise TypeError("odeint got no t; expected a tensor of times: torch.tensor([0.0, 1.0])")
    check_state(y0, samples=False)
    y0 = _in_one_dtype(y0)
    times = _as_times(t)
    dtype = trees.leaves(y0)[0].dtype
    problem = ODE(_AsTorchDiffEq(f, dtype.to_real(), y0) if callable(f) else f, batching)
    if slices is not None:
        check_count(slices, "slices")
    if not isinstance(return_solution, bool):
        raise TypeError(f"return_solution is {described(return_solution)}; expected True or False")
    plan = _plan(method, options, f, y0, times, rtol, atol, slices)
    warn_of_callbacks(f, method or "dopri5", plan.interp is not None)
    executor = Batched() if executor is None else executor
    check_instance(executor, Executor, "executor", "pr.Batched()")
    rounding = 16 * torch.finfo(dtype).eps
    solution = solve(
        problem,
        y0,
        plan.grid,
        fine=plan.fine,
        coarse=plan.coarse if coarse is None else coarse,
        schedule=schedule,
        executor=executor,
        stop=Tolerance(max(rtol, rounding), atol, norm="max"),
        max_iterations=max_iterations,
    )
    if plan.interp is None:
        index = torch.searchsorted(_rising(plan.grid.edges), _rising(times))
        result = trees.map(lambda leaf: leaf[index.to(leaf.device)], solution.us)
    else:
        states, rounds, evaluations = fill(problem, plan.fine, plan.grid, solution.us, executor)
        solution = _with(solution, rounds, evaluations)
        result = at_times(problem, plan.grid.points, states, times, plan.interp, executor)
        call_for_steps(f, plan.grid.points, states, t)
    return (result, solution) if return_solution else result


def _right_hand_side(f: Any, func: Any, event_fn: Any) -> Callable[[Tensor, Any], Any]:
    """The function that came under either name."""
    if event_fn is not None:
        raise ValueError(
            "event_fn came, and pr.odeint finds no events; expected None: call torchdiffeq.odeint_event, or solve to a "
            "fixed time and look for the event in the result"
        )
    if (f is None) == (func is None):
        came = "neither f nor func" if f is None else "both f and func"
        raise TypeError(f"odeint got {came}; expected one of them: odeint(f, y0, t), or odeint(func=f, y0=y0, t=t)")
    return func if f is None else f


def _in_one_dtype(y0: State) -> State:
    """A tuple of several dtypes in the one that holds them all, as torchdiffeq, which makes one tensor of it."""
    dtypes = {leaf.dtype for leaf in trees.leaves(y0)}
    if not isinstance(y0, tuple) or len(dtypes) == 1:
        return y0
    wide = reduce(torch.promote_types, dtypes)
    return trees.map(lambda leaf: leaf.to(wide), y0)


@dataclass(frozen=True)
class _Plan:
    """Resolves the name of a method; ``interp`` is the interpolation between fixed steps, ``None`` if there is none."""

    grid: TimeGrid
    fine: Integrator
    coarse: Integrator
    interp: str | None = None


def _plan(
    method: Any, options: Any, f: Any, y0: State, times: Tensor, rtol: float, atol: float, slices: int | None
) -> _Plan:
    Tolerance(rtol, atol)  # raises where they are none
    if isinstance(method, Integrator):
        if options is not None:
            raise ValueError(f"options came with method={method!r}; expected them in the integrator, not beside it")
        grid = TimeGrid.from_edges(_cut(times, slices or SLICES))
        return _Plan(grid, method, RK4())
    method = "dopri5" if method is None else method
    if not isinstance(method, str) or method not in (*ADAPTIVE, *FIXED):
        known = ", ".join(map(repr, (*ADAPTIVE, *FIXED)))
        raise ValueError(
            f"method={method!r} is unknown; expected one of {known}, or an integrator such as pr.SciPy('Radau') or "
            "pr.TorchDiffEq('implicit_adams', options={'step_size': 0.1})"
        )
    if method in ADAPTIVE:
        grid = TimeGrid.from_edges(_cut(times, slices or SLICES))
        chosen = TorchDiffEq(method, rtol, atol, options).options or {}
        if not {"step_t", "jump_t"} & chosen.keys():  # a last step that ends at the boundary needs no interpolation
            chosen = {**chosen, "step_t": grid.edges}
        return _Plan(grid, TorchDiffEq(method, rtol, atol, chosen), RK4())
    points, interp = points_of(method, {} if options is None else options, f, y0, times)
    tableau, steps = FIXED[method], len(points) - 1
    grid = TimeGrid.from_points(points, None if slices is None else min(slices, steps))
    return _Plan(grid, RungeKutta(tableau), RungeKutta(tableau), interp)


def _cut(times: Tensor, slices: int) -> Tensor:
    """Slice boundaries that contain ``times``, at least ``slices`` intervals: longer ones are cut into more."""
    lengths = times.diff().abs()
    parts = (slices * lengths / lengths.sum()).round().clamp(min=1).long()
    while int(parts.sum()) < slices:
        parts[(lengths / parts).argmax()] += 1
    pieces = [
        a + (b - a) * torch.arange(int(n), dtype=times.dtype) / n
        for a, b, n in zip(times[:-1], times[1:], parts, strict=True)
    ]
    return torch.unique_consecutive(torch.cat([*pieces, times[-1:]]))  # float64 may hold fewer times between two


def _rising(times: Tensor) -> Tensor:
    return times if times[-1] > times[0] else -times


def _as_times(t: Any) -> Tensor:
    """``t`` in float64 on the host."""
    if not isinstance(t, Tensor):
        raise TypeError(f"t is {described(t)}; expected a tensor of times: torch.tensor([0.0, 1.0])")
    if t.ndim != 1 or t.is_complex() or t.dtype == torch.bool:
        raise TypeError(f"t has shape {tuple(t.shape)} and dtype {t.dtype}; expected one dimension of real numbers")
    if len(t) < 2:
        raise ValueError(f"t holds {len(t)} time(s); expected at least 2, where to start and where to end")
    if t.requires_grad and torch.is_grad_enabled():
        raise ValueError("t requires a gradient, and there is none with respect to times; expected t.detach()")
    times = t.detach().to(device="cpu", dtype=torch.float64)
    steps = times.diff()
    wrong = (~(steps * torch.sign(times[-1] - times[0]) > 0)).nonzero()
    if len(wrong):
        i = int(wrong[0])
        raise ValueError(
            f"t is not strictly monotone: t[{i}]={times[i].item()!r} is followed by {times[i + 1].item()!r}; expected "
            "finite times that only rise or only fall, none repeated"
        )
    return times


def _with(solution: Solution, rounds: int, evaluations: int) -> Solution:
    """The solution, with the cost of the states between its boundaries added."""
    old = solution.stats
    fine, all_ = old.fine_evaluations + evaluations, old.evaluations + evaluations
    return replace(solution, stats=replace(old, rounds=old.rounds + rounds, evaluations=all_, fine_evaluations=fine))


class _AsTorchDiffEq:
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
