"""The call of torchdiffeq, solved in parallel in time.

Times become slice boundaries, the name of a method becomes a fine propagator and a grid, and the states at the
boundaries become the result. The rest is `solve`. A call of few steps is one lane, as it is in torchdiffeq.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.autocast import without_autocast
from parareal._core.checks import check_count, check_flag, check_instance, described
from parareal._core.keywords import explain_keywords
from parareal._core.trees import State
from parareal._input_checks import device_kind
from parareal.compat._arguments import Arguments, arguments, least
from parareal.compat._by_adjoint import fill, solve, times_of
from parareal.compat._dense_output import at_times
from parareal.compat._events import Event, find, find_in_parallel
from parareal.compat._methods import FOREIGN, Plan, adaptive_of, check_method, plan_of
from parareal.compat._one_lane import OneLane, goes_on_in_parallel, one_lane, single_time
from parareal.compat._step_callbacks import Callbacks, call_for_steps, warn_of_callbacks
from parareal.corrections._base import Correction
from parareal.engine._dense import Dense, adaptive_pieces, hermite, joined
from parareal.executors._base import Executor
from parareal.executors._local import Batched
from parareal.integrators import Adaptive, Integrator
from parareal.integrators.external._checks import load
from parareal.problem._lane_calls import Batching
from parareal.results._history import History
from parareal.results._solution import Solution, Stats
from parareal.results._status import Status
from parareal.schedules._schedule import Schedule


@dataclass(frozen=True, eq=False)
class Parallel:
    """What a call says of the run in parallel; ``None`` where it says nothing."""

    slices: int | None
    coarse: Integrator | Correction | None
    schedule: Schedule | None
    max_iterations: int | None

    @property
    def asked(self) -> bool:
        """Whether it asks for one."""
        given = (self.slices, self.coarse, self.schedule, self.max_iterations)
        return self.slices != 1 and any(value is not None for value in given)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a call has found: states at its times, or a solution at all times, and its run."""

    result: Any
    solution: Solution


@explain_keywords
def odeint(
    f: Callable[[Tensor, Any], Any] | None = None,
    y0: State = None,
    t: Tensor | None = None,
    *,
    func: Callable[[Tensor, Any], Any] | None = None,
    event_fn: Callable[[Tensor, Any], Tensor] | None = None,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | Integrator | None = None,
    options: dict[str, Any] | None = None,
    slices: int | None = None,
    coarse: Integrator | Correction | None = None,
    schedule: Schedule | None = None,
    executor: Executor | None = None,
    batching: Batching = "auto",
    max_iterations: int | None = None,
    dense: bool = False,
    return_solution: bool = False,
) -> Any:
    """Solves dy/dt = f(t, y), y(t[0]) = y0, with the arguments and the result of ``torchdiffeq.odeint``.

    An adaptive method begins as one lane, which takes the steps of torchdiffeq. On a CPU it ends as such. On an
    accelerator the rest is solved in parallel in time where many steps are left after the first 16; the result then
    agrees with the sequential run of the same method over the same slices to about ``rtol |y| + atol``. ``slices``, or
    any other of the arguments of `solve`, asks for slices from the start on every device, and ``slices=1`` for one
    lane. Fixed-step methods are always solved in parallel.

    Gradients flow with respect to ``y0``, ``t`` and whatever ``f`` is made of; those through slices are about an
    iteration behind the states.

    Args:
        f: ``f(t, y)`` with a scalar ``t``, of the real dtype of ``y0``, and one state. Its callbacks,
            ``callback_step(t0, y0, dt)`` and so on, are called for the steps of one lane, and ``callback_step`` for
            those of fixed-step methods, once the result is there; a function with callbacks is solved as one lane
            unless slices are asked for, and then a warning names those that are not called.
        y0: State at ``t[0]``: a tensor, or a tuple or other pytree of tensors. Tuples of several dtypes are solved in
            the one that holds them all.
        t: Times, strictly rising or strictly falling, any real dtype, shape ``(times,)``.
        func: torchdiffeq's name of ``f``; one of them is expected.
        event_fn: ``event_fn(t, y)``, whose sign changes at the event; of several numbers, the first to change counts.
            ``t`` then has two times, where the solution starts and on which side the event lies.
        rtol: Relative tolerance of adaptive methods, and of the iteration for all methods: a number, or a tensor or
            tuple as in torchdiffeq. The iteration stops at a few units of rounding where that is more.
        atol: Absolute tolerance of both.
        method: Any method of torchdiffeq by name, ``"dopri5"`` by default, or any `Integrator`. Methods with a history
            (``"explicit_adams"``, ``"implicit_adams"``) and ``"scipy_solver"`` are torchdiffeq's own, and restart in
            each slice where slices are asked for.
        options: Those of torchdiffeq's method.
        slices: Number of slices. Every one of ``t`` is a slice boundary where there are no more times than that; 16 by
            default. Fixed steps: about the square root of the number of steps by default.
        coarse: As in `solve`; by default one step a slice of `RK4`, or of the fixed-step method itself.
        schedule: As in `solve`, with the same default: no more rounds are taken than by the sequential run over the
            same slices.
        executor: As in `solve`.
        batching: How ``f`` is called for many states at once; see `ODE`.
        max_iterations: As in `solve`.
        dense: Return a function of time, the solution on all of the interval, in place of states at ``t``.
        return_solution: Return ``(result, solution)``, with the `Solution` of the run. Where that has begun as one
            lane, it starts where the run in parallel does.

    Returns:
        States at ``t``, leaves ``(times, *state)``, the first of them ``y0``. With ``event_fn`` the time of the event
        and the states at ``t[0]`` and there. With ``dense`` a function of times.

    Raises:
        SolveError: The tolerance was not met within ``max_iterations``, the solution does not reach the end, or no
            event came within ``max_num_steps``; what was computed is its ``solution``.
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
    check_flag(return_solution, "return_solution")
    check_flag(dense, "dense")
    args = arguments(
        f, y0, t, func=func, rtol=rtol, atol=atol, method=method, options=options, batching=batching, name="odeint"
    )
    check_method(args.method)
    if slices is not None:
        check_count(slices, "slices")
    executor = Batched() if executor is None else executor
    check_instance(executor, Executor, "executor", "pr.Batched()")
    parallel = Parallel(slices, coarse, schedule, max_iterations)
    with without_autocast(device_kind(args.y0)):
        if event_fn is not None:
            found = _event(args, event_fn, executor, parallel, dense)
        elif len(args.times) > 1:
            found = _outcome(args, executor, parallel, dense)
        elif dense:
            raise ValueError("dense=True came with a single time; expected where the solution starts and where it ends")
        else:
            found = Outcome(*single_time(args))
    return (found.result, found.solution) if return_solution else found.result


def _outcome(args: Arguments, executor: Executor, parallel: Parallel, dense: bool) -> Outcome:
    """States at the times of a call, or a solution at all times."""
    adaptive = adaptive_of(args)
    if isinstance(args.method, str) and args.method in FOREIGN and not parallel.asked and not dense:
        return _as_torchdiffeq(args)
    if adaptive is None or parallel.asked:
        warn_of_callbacks(args.func, args.method, adaptive is None and isinstance(args.method, str))
        if args.method == "scipy_solver" and torch.is_grad_enabled():  # no gradient flows through it, here as there
            with torch.no_grad():
                return _in_parallel(args, executor, parallel, dense)
        return _in_parallel(args, executor, parallel, dense)
    callbacks = Callbacks(args.func)
    pilot = not callbacks and parallel.slices is None and goes_on_in_parallel(args)
    lane = one_lane(args, adaptive, executor, callbacks, pilot, dense)
    if lane.passed == len(args.times):
        solution = lane.solution(args)
        if dense:
            return Outcome(Dense(joined(lane.pieces), float(args.times[-1])), solution)
        return Outcome(trees.cat(lane.outputs), solution)
    rest = _in_parallel(_rest(args, lane), executor, parallel, dense)
    solution = replace(rest.solution, stats=rest.solution.stats.after(lane.stats()))
    if dense:
        return Outcome(rest.result.after(lane.pieces), solution)
    behind = trees.map(lambda leaf: leaf[1:], rest.result)
    return Outcome(trees.cat([*lane.outputs, behind]), solution)


def _rest(args: Arguments, lane: OneLane) -> Arguments:
    """The call from where a lane is."""
    t = torch.cat([lane.t, args.t[lane.passed :]])
    return replace(args, y0=lane.u, t=t, times=t.detach())


def _solved(args: Arguments, executor: Executor, parallel: Parallel, throw: bool = True) -> tuple[Plan, Solution]:
    """How a call is cut into slices, and its run."""
    plan = plan_of(args, parallel.slices)
    coarse = plan.coarse if parallel.coarse is None else parallel.coarse
    solution = solve(
        args.problem,
        args.y0,
        plan.grid,
        fine=plan.fine,
        coarse=coarse,
        schedule=parallel.schedule,
        executor=executor,
        stop=args.stop(),
        max_iterations=parallel.max_iterations,
        throw=throw,
    )
    return plan, solution


def _in_parallel(args: Arguments, executor: Executor, parallel: Parallel, dense: bool) -> Outcome:
    """A call in slices."""
    plan, solution = _solved(args, executor, parallel)
    if plan.adaptive is not None and (dense or len(args.times) > len(plan.grid.edges)):
        return _between(args, plan, plan.adaptive, solution, executor, dense)
    if plan.interp is None:
        index = torch.searchsorted(_rising(plan.grid.edges), _rising(args.times))
        result = trees.map(lambda leaf: leaf[index.to(leaf.device)], solution.us)
        return Outcome(solution.dense() if dense else result, solution)
    fine = plan.fine.bind(args.problem, args.y0, plan.grid)
    states, rounds, evaluations = fill(args.problem, fine, plan.grid, solution.us, executor)
    solution = _with(solution, rounds, evaluations)
    if dense:
        return Outcome(_cubics(args, plan, states, executor), solution)
    result = at_times(args.problem, plan.points, states, args.t, plan.interp, executor)
    call_for_steps(args.func, plan.grid.points, states, args.like)
    return Outcome(result, solution)


def _between(
    args: Arguments, plan: Plan, method: Adaptive, solution: Solution, executor: Executor, dense: bool
) -> Outcome:
    """States at times inside of slices, whose steps are made once more, in all slices at once."""
    u = trees.map(lambda leaf: leaf[:-1], solution.us)
    t0, t1 = plan.points[:-1], plan.points[1:]
    pieces, _, rounds, evaluations = adaptive_pieces(method, args.problem, t0, t1, u, executor)
    found = Dense(pieces, float(args.times[-1]), rounds, evaluations)
    solution = _with(solution, rounds, evaluations)
    if dense:
        return Outcome(found, solution)
    inside, last = found(args.t[1:-1]), trees.map(lambda leaf: leaf[-1:], solution.us)
    first = trees.map(lambda leaf: leaf[:1], solution.us)
    return Outcome(trees.cat([first, inside, last]), solution)


def _cubics(args: Arguments, plan: Plan, states: State, executor: Executor) -> Dense:
    """Cubics between all fixed steps."""
    points = times_of(plan.points).to(trees.leaves(states)[0].device)
    slopes = executor.evaluate(args.problem.rhs, (points, states), len(points))
    left, right = (trees.map(lambda leaf, part=part: leaf[part], states) for part in (slice(-1), slice(1, None)))
    f0, f1 = (trees.map(lambda leaf, part=part: leaf[part], slopes) for part in (slice(-1), slice(1, None)))
    pieces = hermite(points[:-1], points[1:], left, right, f0, f1)
    return Dense(pieces, float(args.times[-1]), 1, len(points))


def _as_torchdiffeq(args: Arguments) -> Outcome:
    """A method of torchdiffeq that has a history, in one slice: torchdiffeq's own."""
    if not isinstance(args.y0, Tensor | tuple):
        raise TypeError(
            f"y0 is {described(args.y0)}; {args.method!r} is torchdiffeq's own, which takes a tensor or a tuple"
        )
    begun, calls = time.perf_counter(), [0]

    class Counted:
        def __init__(self, f: Any) -> None:
            self.f = f

        def __call__(self, t: Tensor, y: Any) -> Any:
            calls[0] += 1
            return self.f(t, y)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.f, name)

    device = trees.leaves(args.y0)[0].device
    t = args.like if args.like.is_floating_point() else args.t
    solver: Any = load("torchdiffeq", "torchdiffeq>=0.2.4").odeint
    result = solver(
        Counted(args.func),
        args.y0,
        t.to(device),
        rtol=least(args.rtol),
        atol=least(args.atol),
        method=args.method,
        options=args.options or None,
    )
    stats = Stats(calls[0], calls[0], calls[0], 0, calls[0], 1, time.perf_counter() - begun)
    us = trees.map(lambda leaf: leaf[[0, -1]], result)
    return Outcome(result, Solution(us, args.times[[0, -1]], Status.FINAL, 0, History(), stats, error_estimate=0.0))


def _event(args: Arguments, event_fn: Any, executor: Executor, parallel: Parallel, dense: bool) -> Outcome:
    """The time of an event, and the states at the start and there."""
    if dense:
        raise ValueError(
            "dense=True came with event_fn; expected one of them: solve once more to the time of the event"
        )
    if len(args.times) != 2:
        raise ValueError(
            f"t holds {len(args.times)} times with event_fn; expected two: where the solution starts, and any time on "
            "the side where the event lies"
        )
    event = Event.of(event_fn, args)
    adaptive = adaptive_of(args)
    found = None
    if adaptive is not None and not parallel.asked:
        callbacks = Callbacks(args.func)
        pilot = not callbacks and parallel.slices is None and goes_on_in_parallel(args)
        found = find(event, args, adaptive, executor, callbacks, pilot)
    if not isinstance(found, tuple):

        def advance(rest: Arguments) -> tuple[Plan, Solution]:
            return _solved(rest, executor, parallel, throw=False)

        found = find_in_parallel(event, args, executor, advance, found)
    t, y, solution = found
    states = trees.map(lambda a, b: torch.stack([a, b]), args.y0, y)
    like = args.like if args.like.is_floating_point() else args.t
    return Outcome((t.to(like), states), solution)


def _rising(times: Tensor) -> Tensor:
    return times if times[-1] > times[0] else -times


def _with(solution: Solution, rounds: int, evaluations: int) -> Solution:
    """The solution, with the cost of the states between its boundaries added."""
    old = solution.stats
    fine, all_ = old.fine_evaluations + evaluations, old.evaluations + evaluations
    return replace(solution, stats=replace(old, rounds=old.rounds + rounds, evaluations=all_, fine_evaluations=fine))
