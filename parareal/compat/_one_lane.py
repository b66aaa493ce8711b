"""An adaptive call as torchdiffeq makes it: one lane from the first time to the last, outputs interpolated on its way.

Slices pay where a call of the right-hand side on many states takes about as long as on one. On a CPU that is rare, and
the work of several iterations is lost; on an accelerator it is the rule, but a call of few steps gains nothing there
either. So every call begins as one lane, and goes on in parallel on an accelerator where many steps are left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.compat._arguments import Arguments
from parareal.compat._step_callbacks import Callbacks
from parareal.executors._base import Executor
from parareal.integrators import Adaptive
from parareal.integrators._adaptive import STEP
from parareal.integrators._march import March
from parareal.integrators._paced import COUNT, PHASE, SIZE, Pace
from parareal.integrators._quartic import Quartic
from parareal.results._history import History
from parareal.results._solution import Solution, SolveError, Stats
from parareal.results._status import Status

PILOT = 16
"""Steps, accepted or not, after which a call may go on in parallel: by then they are as long as the solution allows."""

MANY = 64
"""Steps of the present size that must be left for that: four in each of 16 slices."""


@dataclass(eq=False)
class OneLane:
    """A lane and the outputs it has passed.

    Attributes:
        march: The lane.
        outputs: States at the times passed so far, parts of leaves ``(m, *state)``.
        passed: Their number.
        pieces: The interpolants of its accepted steps, where they are kept.
        failure: Why it could not go on.
        begun: When it started, as `time.perf_counter` has it.
    """

    march: March
    outputs: list[State]
    passed: int
    pieces: list[Quartic]
    failure: str | None
    begun: float

    @property
    def u(self) -> State:
        """The state where it is."""
        return trees.one(self.march.state.u, 0)

    @property
    def t(self) -> Tensor:
        """The time where it is, float64, ``(1,)``, on the host."""
        return self.march.t.cpu()

    def stats(self) -> Stats:
        """Its cost."""
        rounds = self.march.rounds
        spent = time.perf_counter() - self.begun
        return Stats(rounds, rounds, rounds, 0, rounds, 1, spent)

    def solution(self, args: Arguments) -> Solution:
        """Its solution: one slice, or what there is of the outputs if it failed."""
        us, ts = trees.cat(self.outputs), args.times[: self.passed]
        if self.failure is None:
            us, ts = trees.map(lambda leaf: leaf[[0, -1]], us), args.times[[0, -1]]
        status = Status.FINAL if self.failure is None else Status.NONFINITE
        error = 0.0 if self.failure is None else float("nan")
        return Solution(us, ts, status, 0, History(), self.stats(), error_estimate=error, failure=self.failure)


def one_lane(
    args: Arguments,
    method: Adaptive,
    executor: Executor,
    callbacks: Callbacks,
    pilot: bool,
    keep: bool,
    watch: Callable[[Pace], bool] | None = None,
) -> OneLane:
    """The lane of a call, to its last time, or to where it is better solved in parallel.

    Args:
        args: The call.
        method: Its method.
        executor: How calls are made.
        callbacks: What is called for each step.
        pilot: Whether it ends where many steps are left.
        keep: Whether the interpolants are kept.
        watch: Called after each accepted step; ends the lane by returning True.

    Raises:
        SolveError: The lane could not go on; the outputs that it has passed are its solution.
    """
    begun = time.perf_counter()
    method.bind(args.problem, args.y0, None)
    y0 = trees.map(lambda leaf: leaf.unsqueeze(0), args.y0)
    sign = 1.0 if args.times[-1] > args.times[0] else -1.0
    end = torch.full((1,), sign * float("inf"), dtype=torch.float64)
    lane = OneLane(March(method, args.problem, args.t[:1], end, y0, executor), [y0], 1, [], None, begun)
    march, first, ahead, steps = lane.march, torch.zeros(1, dtype=torch.int64), sign * args.times, 0
    first = first.to(march.t.device)
    while lane.passed < len(args.times) or watch is not None:
        stepping = march.number[0, PHASE] == STEP
        if stepping:
            callbacks.step(march)
        ((_, pace),) = march.advance()
        if pace.failures:
            lane.failure = pace.failures[0]
            raise SolveError(lane.solution(args))
        if pace.tried is None:
            continue
        steps += 1
        accepted = bool(pace.tried.accepted[0])
        callbacks.tried(pace.tried, accepted)
        if accepted:
            passed = int(torch.searchsorted(ahead, sign * float(pace.tried.to[0]), right=True))
            if keep or passed > lane.passed:
                quartic = pace.tried.quartic(first)
                if keep:
                    lane.pieces.append(quartic)
            if passed > lane.passed and watch is None:
                times = args.t[lane.passed : passed]
                lane.outputs.append(quartic[first.expand(len(times))].at(times.to(march.t.device)))  # pyright: ignore
                lane.passed, march.number[:, COUNT] = passed, 0  # torchdiffeq counts steps from output to output
            if watch is not None and watch(pace):
                return lane
        if pilot and steps >= PILOT and _many_left(march, float(args.times[-1]), watch is not None):
            return lane
    return lane


def goes_on_in_parallel(args: Arguments) -> bool:
    """Whether a call that asks for nothing may do so."""
    return trees.leaves(args.y0)[0].device.type != "cpu"


def _many_left(march: March, end: float, open_end: bool) -> bool:
    """Whether many steps are left, and the next begins where the lane is."""
    if march.number[0, PHASE] != STEP:
        return False
    return open_end or abs(end - march.time) > MANY * float(march.number[0, SIZE])


def single_time(args: Arguments) -> tuple[State, Solution]:
    """The result of a single time point: the state that came."""
    us: Any = trees.map(lambda leaf: leaf.unsqueeze(0), args.y0)
    return us, Solution(us, args.times, Status.FINAL, 0, History(), Stats(0, 0, 0, 0, 0, 0, 0.0), error_estimate=0.0)
