"""Events: where a function of time and state changes its sign, found step by step, or window by window in parallel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.trees import State
from parareal.compat._arguments import Arguments, least
from parareal.compat._methods import FIXED, Plan, adaptive_of
from parareal.compat._one_lane import OneLane, one_lane
from parareal.compat._step_callbacks import Callbacks
from parareal.engine._dense import adaptive_pieces, hermite, lines
from parareal.engine._fill import fill
from parareal.executors._base import Executor
from parareal.integrators import Adaptive
from parareal.integrators._paced import SIZE, Pace
from parareal.integrators._quartic import Quartic
from parareal.results._history import History
from parareal.results._solution import Solution, SolveError, Stats
from parareal.results._status import Status

STEPS = 5_000
"""Most steps on the way to an event, unless ``max_num_steps`` allows others."""

WINDOW = 64
"""Steps of an adaptive method that a window is long: four in each of 16 slices."""

FIXED_WINDOW = 256
"""Steps of a fixed-step method in a window."""

Found = tuple[Tensor, State, Solution]
"""The time of an event, the state there, and the run."""


@dataclass(frozen=True, eq=False)
class Event:
    """An event function, positive before the event.

    Attributes:
        fn: What came.
        signs: Its signs at the start.
        tolerance: How exactly the time of the event is wanted.
    """

    fn: Callable[[Tensor, Any], Tensor]
    signs: Tensor
    tolerance: float

    @classmethod
    def of(cls, fn: Any, args: Arguments) -> Event:
        """An event function at the start of a call; raises TypeError, ValueError."""
        if not callable(fn):
            raise TypeError(f"event_fn is {described(fn)}; expected a function event_fn(t, y)")
        call: Any = fn
        with torch.no_grad():
            device = trees.leaves(args.y0)[0].device
            value: Any = call(args.like[0].detach().to(device), args.y0)
        if not isinstance(value, Tensor):
            raise TypeError(f"event_fn returned {described(value)}; expected a tensor of real numbers")
        if value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"event_fn returned {value.dtype}; expected real numbers, whose sign changes at the event")
        if value.numel() == 0:
            raise ValueError(f"event_fn returned an empty tensor of shape {tuple(value.shape)}; expected numbers")
        return cls(call, torch.sign(value.detach()), least(args.atol))

    def value(self, t: Tensor, y: State) -> Tensor:
        """The smallest of its numbers, each with the sign that makes it positive at the start."""
        value = self.fn(t, y)
        if value.shape != self.signs.shape:
            raise ValueError(
                f"event_fn returned shape {tuple(value.shape)} after {tuple(self.signs.shape)} at the start; expected "
                "one shape"
            )
        return (value * self.signs).min()

    def happened(self, t: Tensor, y: State) -> bool:
        """Whether the event lies at or before a time."""
        with torch.no_grad():
            return not bool(self.value(t, y) > 0)

    def within(self, piece: Quartic, until: Tensor) -> tuple[Tensor, State]:
        """The time of the event in the one interval of a piece, up to ``until``, and the state there."""
        with torch.no_grad():
            a, b = piece.left[0].detach(), until.detach()
            halvings = math.ceil(math.log2(max(float((b - a).abs()) / max(self.tolerance, 1e-300), 1.0)))
            for _ in range(min(halvings, 200)):
                middle = (a + b) / 2
                if self.happened(middle, trees.one(piece.at(middle.reshape(1)), 0)):
                    b = middle
                else:
                    a = middle
            t = (a + b) / 2
        return t, trees.one(piece.at(t.reshape(1)), 0)


def find(
    event: Event, args: Arguments, method: Adaptive, executor: Executor, callbacks: Callbacks, pilot: bool
) -> Found | OneLane:
    """The event on the way of one lane, or the lane where it is better looked for in parallel.

    Raises:
        SolveError: The lane could not go on, or has made its most steps.
    """
    if bool((event.signs == 0).any()):
        return args.times[0], args.y0, _solution(args, args.times[0], args.y0, None)
    found: list[tuple[Tensor, State]] = []
    seen: list[tuple[Tensor, State]] = [(args.times[0], args.y0)]

    def watch(pace: Pace) -> bool:
        tried = pace.tried
        t, y = tried.right[0], trees.one(tried.new, 0)
        seen[0] = (t.detach().cpu(), y)
        if not event.happened(t.detach(), y):
            return False
        piece = tried.quartic(torch.zeros(1, dtype=torch.int64, device=tried.right.device))
        found.append(event.within(piece, tried.right[0]))
        return True

    method = replace(method, max_num_steps=_most(method))
    try:
        lane = one_lane(args, method, executor, callbacks, pilot, False, watch)
    except SolveError as error:
        raise SolveError(_none(args, *seen[0], error.solution.stats, error.solution.failure)) from None
    if not found:
        return lane
    t, y = found[0]
    return t, y, _solution(args, t, y, lane.stats())


def find_in_parallel(
    event: Event,
    args: Arguments,
    executor: Executor,
    advance: Callable[[Arguments], tuple[Plan, Solution]],
    lane: OneLane | None,
) -> Found:
    """The event in the first window that has one: each is solved in parallel from where the last one ended.

    Raises:
        SolveError: No window can be solved further, or the most steps have been made.
    """
    if bool((event.signs == 0).any()):
        return args.times[0], args.y0, _solution(args, args.times[0], args.y0, None)
    sign = 1.0 if args.times[1] > args.times[0] else -1.0
    t, u = (args.t[:1], args.y0) if lane is None else (lane.t, lane.u)
    length = float((args.times[1] - args.times[0]).abs())
    if lane is not None:
        length = WINDOW * float(lane.march.number[0, SIZE])
    if isinstance(args.method, str) and args.method in FIXED:
        step = args.options.get("step_size")
        if step is None:
            raise ValueError(f"event_fn came with {args.method!r}, which needs options={{'step_size': ...}} for it")
        length = FIXED_WINDOW * float(step)
    stats, made = None if lane is None else lane.stats(), 0
    adaptive = adaptive_of(args)
    most = STEPS if adaptive is None else _most(adaptive)
    while made < most:
        ends = torch.cat([t, t.detach() + sign * length])
        rest = replace(args, y0=u, t=ends, times=ends.detach())
        plan, solution = advance(rest)
        stats = solution.stats.after(stats)
        if solution.status.failed:
            return _alone(event, args, rest, solution, stats, executor)
        pieces, took = _pieces(rest, plan, solution, executor)
        stats = took.after(stats)
        for i in range(len(pieces.right)):
            if event.happened(pieces.right[i].detach(), trees.one(pieces.end, i)):
                one = pieces[torch.tensor([i], device=pieces.left.device)]
                at, y = event.within(one, one.right[0])
                return at, y, _solution(args, at, y, stats)
        made += len(pieces.right)
        t, u = ends[1:], solution.u
        if plan.adaptive is not None:
            length = WINDOW * float((pieces.right[-1] - pieces.left[-1]).detach().abs())
        elif plan.interp is None:
            length = 2 * length
    raise SolveError(_none(args, t.detach()[0], u, stats, f"{made} steps were made"))


def _most(method: Adaptive) -> int:
    """The most steps on the way to an event."""
    return STEPS if method.max_num_steps == 2**31 - 1 else method.max_num_steps


def _alone(event: Event, args: Arguments, rest: Arguments, failed: Solution, stats: Stats, executor: Executor) -> Found:
    """The event in a window that could not be solved to its end: step by step up to where it fails."""
    if isinstance(args.method, Adaptive | str) and not (isinstance(args.method, str) and args.method in FIXED):
        method = adaptive_of(rest)
        if method is not None:
            found = find(event, rest, method, executor, Callbacks(None), False)
            assert isinstance(found, tuple)
            return found[0], found[1], _solution(args, found[0], found[1], found[2].stats.after(stats))
    raise SolveError(_none(args, failed.ts[0], rest.y0, stats, failed.failure or failed.status.value))


def _pieces(args: Arguments, plan: Plan, solution: Solution, executor: Executor) -> tuple[Quartic, Stats]:
    """The steps of a window, with their interpolants, and what they cost."""
    device = trees.leaves(solution.us)[0].device
    points = plan.points.to(device)
    states, rounds, evaluations = solution.us, 0, 0
    if plan.adaptive is not None:
        u = trees.map(lambda leaf: leaf[:-1], states)
        t0, t1 = plan.points[:-1], plan.points[1:]
        pieces, _, rounds, evaluations = adaptive_pieces(plan.adaptive, args.problem, t0, t1, u, executor)
        return pieces, Stats(rounds, evaluations, evaluations, 0, rounds, 0, 0.0)
    if plan.interp is not None:
        fine = plan.fine.bind(args.problem, args.y0, plan.grid)
        states, rounds, evaluations = fill(args.problem, fine, plan.grid, states, executor)
    left, right = (trees.map(lambda leaf, part=part: leaf[part], states) for part in (slice(-1), slice(1, None)))
    if plan.interp == "linear":
        pieces = lines(points[:-1], points[1:], left, right)
    else:
        slopes = executor.evaluate(args.problem.rhs, (points, states), len(points))
        rounds, evaluations = rounds + 1, evaluations + len(points)
        f0, f1 = (trees.map(lambda leaf, part=part: leaf[part], slopes) for part in (slice(-1), slice(1, None)))
        pieces = hermite(points[:-1], points[1:], left, right, f0, f1)
    return pieces, Stats(rounds, evaluations, evaluations, 0, rounds, 0, 0.0)


def _solution(args: Arguments, t: Tensor, y: State, stats: Stats | None) -> Solution:
    """The run up to an event."""
    us: Any = trees.map(lambda a, b: torch.stack([a, b]), args.y0, y)
    ts = torch.stack([args.times[0], t.detach().cpu().to(torch.float64)])
    return Solution(us, ts, Status.FINAL, 0, History(), stats or Stats(0, 0, 0, 0, 0, 0, 0.0), error_estimate=0.0)


def _none(args: Arguments, t: Tensor, y: State, stats: Stats | None, why: str | None) -> Solution:
    """The run up to where the search for an event ended."""
    return replace(
        _solution(args, t, y, stats), status=Status.NO_EVENT, failure=f"no event up to t={float(t)!r}: {why}"
    )
