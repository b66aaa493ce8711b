"""Solvers that call the right-hand side themselves, one for each lane, run side by side so that their calls are one.

A method of ours asks for values by yielding. A solver of another library calls a function and waits. Each lane's solver
therefore has a thread of its own, of which one runs at a time: it runs up to its next call, and when all of them wait,
the right-hand side is evaluated once for all of them. Every lane takes its own steps, as if it were alone.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeAlias

import torch
from torch import Tensor

from parareal import _tree
from parareal._tree import State

Rhs: TypeAlias = Callable[[Tensor, State], State]
"""``f(t, u)`` of one lane: ``t`` of shape ``()``, float64, one state."""

Solve: TypeAlias = Callable[[Rhs, Tensor, Tensor, State], State | None]
"""``solve(f, t0, t1, u)``, the state at ``t1``, or ``None`` where the solver gave up."""


def solve_lanes(
    problem: Any, solve: Solve, t0: Tensor, t1: Tensor, u: State, rows: State, lockstep: bool = True
) -> tuple[State, Tensor]:
    """Each lane solved by its own run of ``solve``.

    Args:
        problem: The problem, of which ``rhs`` is called.
        solve: The solver, for one lane.
        t0: Where each lane starts, float64, shape ``(L,)``.
        t1: Where each lane ends.
        u: States, leaves ``(L, *state)``.
        rows: Per-sample data with the lane axis in front, or ``None``.
        lockstep: ``False`` solves one lane after another, for solvers of which only one may be under way.

    Returns:
        States at ``t1``, NaN where the solver gave up or the lane was not finite, and how often each lane called the
        right-hand side, int64, shape ``(L,)``.

    Raises:
        Exception: Whatever the right-hand side or the solver raised.
    """
    good = finite_lanes(u)
    lanes = [
        _Lane(
            problem, solve, t0[i], t1[i], _tree.one(u, i), None if rows is None else _tree.lanes(rows, slice(i, i + 1))
        )
        for i in range(t0.shape[0])
    ]
    running = [lane for lane, finite in zip(lanes, good.tolist(), strict=True) if finite]
    if lockstep and len(running) > 1:
        _in_lockstep(problem, running)
    else:
        for lane in running:
            lane.run_alone()
    ends = [_nan(lane.u) if lane.end is None else lane.end for lane in lanes]
    return _tree.stack(ends), torch.tensor([lane.calls for lane in lanes], device=t0.device)


def finite_lanes(u: State) -> Tensor:
    """Which lanes hold finite numbers alone, bool, shape ``(L,)``."""
    return torch.stack(
        [torch.isfinite(leaf).flatten(1).all(1) if leaf.ndim > 1 else torch.isfinite(leaf) for leaf in _tree.leaves(u)]
    ).all(0)


def _nan(u: State) -> State:
    return _tree.map(lambda leaf: torch.full_like(leaf, float("nan")), u)


class _Abandoned(BaseException):
    """Ends the thread of a lane whose run is over for another reason."""


class _Lane:
    """One lane, its solver, and what it waits for."""

    def __init__(self, problem: Any, solve: Solve, t0: Tensor, t1: Tensor, u: State, rows: State) -> None:
        self.problem, self.solve, self.t0, self.t1, self.u, self.rows = problem, solve, t0, t1, u, rows
        self.end: State | None = None
        self.calls = 0
        self.wants: tuple[Tensor, State] | None = None
        self._value: State = None
        self._error: BaseException | None = None
        self._abandoned = False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    # --- alone ----------------------------------------------------------------------------------------------------

    def run_alone(self) -> None:
        """The whole solve in the caller's own thread."""
        errors: list[BaseException] = []

        def f(t: Tensor, u: State) -> State:
            self.calls += 1
            try:
                rows = () if self.rows is None else (self.rows,)
                return _tree.one(self.problem.rhs(t.reshape(1), _tree.map(lambda x: x.unsqueeze(0), u), *rows), 0)
            except BaseException as error:
                errors.append(error)
                raise

        try:
            self.end = self.solve(f, self.t0, self.t1, self.u)
        finally:
            if errors:  # solvers may take an error of the right-hand side for one of their own
                raise errors[0]

    # --- in a thread ----------------------------------------------------------------------------------------------

    def advance(self, value: State) -> bool:
        """Goes on with the value that the lane waits for, up to its next call; returns whether there is one."""
        self._value, self.wants = value, None
        if self._thread is None:
            run = contextvars.copy_context().run
            self._thread = threading.Thread(target=run, args=(self._work, _thread_state(self.t0)), daemon=True)
            self._thread.start()
        else:
            self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error
        return self.wants is not None

    def abandon(self) -> None:
        """Ends the thread, wherever it is."""
        self._abandoned = True
        if self._thread is not None:
            self._go.release()
            self._thread.join()

    def _work(self, state: Callable[[ExitStack], None]) -> None:
        try:
            with ExitStack() as stack:
                state(stack)
                self.end = self.solve(self._ask, self.t0, self.t1, self.u)
        except _Abandoned:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.wants = None
            self._back.release()

    def _ask(self, t: Tensor, u: State) -> State:
        self.calls += 1
        self.wants = (t, u)
        self._back.release()
        self._go.acquire()
        if self._abandoned:
            raise _Abandoned
        return self._value


def _thread_state(like: Tensor) -> Callable[[ExitStack], None]:
    """What torch keeps for each thread, taken from this one, to be entered in another."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    stream = torch.cuda.current_stream(like.device) if like.is_cuda else None

    def enter(stack: ExitStack) -> None:
        stack.enter_context(torch.inference_mode() if inference else torch.set_grad_enabled(grad))
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))

    return enter


def _in_lockstep(problem: Any, lanes: list[_Lane]) -> None:
    try:
        waiting = [lane for lane in lanes if lane.advance(None)]
        while waiting:
            wants = [lane.wants for lane in waiting if lane.wants is not None]
            t, u = torch.stack([t for t, _ in wants]), _tree.stack([u for _, u in wants])
            rows = () if waiting[0].rows is None else (_tree.cat([lane.rows for lane in waiting]),)
            value = problem.rhs(t, u, *rows)
            waiting = [lane for i, lane in enumerate(waiting) if lane.advance(_tree.one(value, i))]
    finally:
        for lane in lanes:
            lane.abandon()
