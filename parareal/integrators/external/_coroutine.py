"""Turns solvers that call the right-hand side into steps that request its values.

A step of this library requests a value by yielding; a solver of another library calls a function and waits. So it runs
in a thread of its own, but never at the same time as another: it runs up to its next call, which becomes a request of
the step like any other. The engine stacks, counts and answers these requests like all others.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.integrators._base import Cost
from parareal.problem._ode import Stages

Rhs: TypeAlias = Callable[[Tensor, State], State]
"""``f(t, u)``, of one lane (``t`` of shape ``()``) or of all (shape ``(L,)``)."""

Solve: TypeAlias = Callable[[Rhs, Tensor, Tensor, State], State | None]
"""``solve(f, t0, t1, u)``, the state of one lane at ``t1``, or ``None`` if the solver failed."""


def as_stages(problem: Any, solve: Callable[[Rhs], Any], like: State, active: Tensor | None = None) -> Stages:
    """``solve(f)``, which calls ``f`` on many lanes at once, as a step that requests these values; returns its result.

    Args:
        problem: The problem, whose ``rhs`` is requested.
        solve: Called once, with ``f(t, u)``.
        like: States of all lanes of the step, leaves ``(L, *state)``.
        active: Which of them ``solve`` uses, bool, shape ``(L,)``; ``None`` for all.
    """
    first = trees.leaves(like)[0]
    index = None if active is None or bool(active.all()) else active.nonzero()[:, 0]
    solver = Coroutine(solve, first)
    try:
        value = None
        while solver.advance(value):
            t, u = solver.asks
            if index is None:
                value = yield problem.rhs, t, u
            else:
                t = t.new_zeros(first.shape[0]).index_copy(0, index, t)
                u = scattered(trees.map(torch.zeros_like, like), index, u)
                value, _ = yield Some(problem), active, t, u
                value = trees.lanes(value, index)
        return solver.result
    finally:
        solver.abandon()


def lane_by_lane(problem: Any, solve: Solve, t0: Tensor, t1: Tensor, u: State) -> Stages:
    """Each lane solved by its own run of ``solve``, as a step that requests all their values together.

    Args:
        problem: The problem, whose ``rhs`` is requested.
        solve: The solver, for one lane.
        t0: Where each lane starts, float64, shape ``(L,)``.
        t1: Where each lane ends.
        u: States, leaves ``(L, *state)``.

    Returns:
        States at ``t1``, NaN where the solver failed or the lane was not finite to begin with.
    """

    def run(i: int) -> Callable[..., Any]:
        return lambda ask: solve(lambda t, u: ask(problem.rhs, t, u), t0[i], t1[i], trees.one(u, i))

    lanes = [Coroutine(run(i), t0) if good else None for i, good in enumerate(finite_lanes(u).tolist())]
    idle = [(t0[i], trees.one(u, i)) for i in range(len(lanes))]
    ends = yield from side_by_side(problem, lanes, idle)
    return trees.stack([nan_like(trees.one(u, i)) if end is None else end for i, end in enumerate(ends)])


def side_by_side(problem: Any, lanes: Sequence[Coroutine | None], idle: Sequence[tuple[Any, ...]]) -> Stages:
    """Coroutines, one for each lane, as a step; those that wait must request the same function.

    Args:
        problem: The problem.
        lanes: The coroutines, ``None`` for a lane without one.
        idle: Arguments in place of those of a lane that has finished.

    Returns:
        Their results, a list.
    """
    try:
        waiting = [i for i, lane in enumerate(lanes) if lane is not None and lane.advance(None)]
        while waiting:
            asks = {i: lane.asks for i in waiting if (lane := lanes[i]) is not None}
            fn = asks[waiting[0]][0]
            given = [asks[i][1:] if i in asks else idle[i] for i in range(len(lanes))]
            args = [trees.stack(parts) for parts in zip(*given, strict=True)]
            if len(waiting) == len(lanes) or fn != problem.rhs:
                value = yield fn, *args
            else:
                active = torch.tensor([i in asks for i in range(len(lanes))], device=args[0].device)
                value, _ = yield Some(problem), active, *args
            waiting = [i for i in waiting if (lane := lanes[i]) is not None and lane.advance(trees.one(value, i))]
        return [None if lane is None else lane.result for lane in lanes]
    finally:
        for lane in lanes:
            if lane is not None:
                lane.abandon()


def finite_lanes(u: State) -> Tensor:
    """Which lanes have only finite numbers, bool, shape ``(L,)``."""
    finite = [torch.isfinite(leaf).reshape(leaf.shape[0], -1).all(1) for leaf in trees.leaves(u)]
    return torch.stack(finite).all(0)


def nan_like(u: State) -> State:
    """A state of NaN."""
    return trees.map(lambda leaf: torch.full_like(leaf, float("nan")), u)


@dataclass(frozen=True)
class Some:
    """The right-hand side of some lanes among those of a step: the others have finished and cost nothing."""

    problem: Any
    varies = False

    def __call__(self, active: Tensor, t: Tensor, u: State, rows: State = None) -> tuple[State, Tensor]:
        """Values where ``active``, bool, shape ``(L,)``, and zeros elsewhere; ``active`` once more."""
        index = active.nonzero()[:, 0]
        nothing = trees.map(torch.zeros_like, u)
        if not len(index):
            return nothing, active
        args = (t, u) if rows is None else (t, u, rows)
        value = self.problem.rhs(*(trees.lanes(arg, index) for arg in args))
        return scattered(nothing, index, value), active

    def cost(self, value: tuple[State, Tensor], lanes: int) -> Cost:
        """One evaluation for each lane that is active."""
        return Cost(int(value[1].sum()))


def scattered(base: State, index: Tensor, lanes: State) -> State:
    """``base`` with the lanes at ``index`` replaced."""
    return trees.map(lambda leaf, values: leaf.index_copy(0, index, values), base, lanes)


class _Abandoned(BaseException):
    """Ends the thread of a solver that is not needed any more."""


class Coroutine:
    """A function that runs up to its next call of the function it is given.

    Attributes:
        asks: Arguments of the call in which it waits.
        result: Its result, once it has returned.
    """

    def __init__(self, run: Callable[[Callable[..., Any]], Any], like: Tensor) -> None:
        self.asks: tuple[Any, ...] = ()
        self.result: Any = None
        self._run, self._like = run, like
        self._value: Any = None
        self._error: BaseException | None = None
        self._abandoned = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    def advance(self, value: Any) -> bool:
        """Continues with the value of the call, up to the next one; returns whether there is one, raises its errors."""
        self._value, self.asks = value, ()
        if self._thread is None:
            context, enter = contextvars.copy_context(), _torch_state(self._like)
            self._thread = threading.Thread(target=context.run, args=(self._work, enter), daemon=True)
            self._thread.start()
        else:
            self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error
        return bool(self.asks)

    def abandon(self) -> None:
        """Ends the thread, at any point."""
        self._abandoned = True
        if self._thread is not None:
            self._go.release()
            self._thread.join()

    def _work(self, enter: Callable[[ExitStack], None]) -> None:
        try:
            with ExitStack() as stack:
                enter(stack)
                self.result = self._run(self._ask)
        except _Abandoned:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.asks = ()
            self._back.release()

    def _ask(self, *args: Any) -> Any:
        self.asks = args
        self._back.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned
        return self._value


def _torch_state(like: Tensor) -> Callable[[ExitStack], None]:
    """The thread-local settings of torch in this thread, to be entered in another."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    stream = torch.cuda.current_stream(like.device) if like.is_cuda else None

    def enter(stack: ExitStack) -> None:
        stack.enter_context(torch.inference_mode() if inference else torch.set_grad_enabled(grad))
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))

    return enter
