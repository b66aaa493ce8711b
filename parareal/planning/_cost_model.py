"""The time of a round on this device as a function of its lanes, and the time of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from parareal._core import trees
from parareal._core.multistep_state import Carried
from parareal._core.scopes import scope
from parareal._core.trees import State
from parareal.executors._base import Executor
from parareal.executors._local import Batched
from parareal.integrators._base import Integrator, Multistep, bound_integrator, check_request, started
from parareal.problem._ode import bound_problem


@dataclass(frozen=True)
class RoundTimes:
    """Seconds of a round against its number of lanes, measured.

    Attributes:
        lanes: Numbers of lanes, rising: from 1, or from the smallest that a call may have.
        seconds: Seconds of a call on that many lanes, the least of a few calls.
        failed: Numbers of lanes at which the call failed, with the message: out of memory, for instance.
    """

    lanes: tuple[int, ...]
    seconds: tuple[float, ...]
    failed: dict[int, str] = field(default_factory=dict)

    def __call__(self, lanes: int) -> float:
        """Seconds of a round of ``lanes``, on a straight line between neighbours and beyond the last two."""
        if len(self.lanes) == 1:
            return self.seconds[0] * max(1.0, lanes / self.lanes[0])
        if lanes <= self.lanes[-1]:
            return float(np.interp(lanes, self.lanes, self.seconds))
        (a, b), (x, y) = self.lanes[-2:], self.seconds[-2:]
        return max(y, y + (lanes - b) * (y - x) / (b - a))

    @property
    def most(self) -> int | None:
        """The most lanes that are known to work, where some failed."""
        return self.lanes[-1] if self.failed else None


def time_rounds(
    call: Callable[[int], Callable[[], Any]], most: int, device: torch.device, executor: Executor | None = None
) -> RoundTimes:
    """Times a call on 1, 2, 4, ... lanes, up to ``most``.

    Args:
        call: Makes, for a number of lanes, the call to time.
        most: Most lanes.
        device: The device to synchronise with.
        executor: If it pads its calls, each of these numbers is replaced by that with the padding.

    Raises:
        Exception: What the call raises on the fewest lanes; on more it is recorded, and ends the series.
    """
    sizes = sorted({with_padding(executor, lanes) for lanes in (*(2**k for k in range(most.bit_length())), most)})
    lanes: list[int] = []
    seconds: list[float] = []
    failed: dict[int, str] = {}
    for size in sizes:
        try:
            taken = _least(call(size), device)
        except (RuntimeError, MemoryError, ValueError) as error:  # torch's out-of-memory errors are RuntimeErrors
            if not lanes:
                raise
            failed[size] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if device.type == "cuda":
                torch.cuda.empty_cache()
            break
        lanes.append(size)
        seconds.append(taken)
    return RoundTimes(tuple(lanes), tuple(seconds), failed)


def with_padding(executor: Executor | None, lanes: int) -> int:
    """Lanes that an executor computes for that many, padding included."""
    return lanes if executor is None else lanes + executor.padded(lanes)


def _least(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the quickest of some calls: more of them, the shorter they are."""
    taken: list[float] = []
    call()
    while len(taken) < 3 or (sum(taken) < 0.02 and len(taken) < 20):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def first_call(
    problem: Any, fine: Integrator, grid: Any, systems: State, rows: State, executor: Executor
) -> Callable[[int], Callable[[], Any]]:
    """The first evaluation of a fine step, on any number of lanes that all start from the initial state."""
    problem = bound_problem(problem, trees.one(systems, 0), grid, fine)
    fine = bound_integrator(fine, problem, trees.one(systems, 0), grid)
    points = grid.points

    def call(lanes: int) -> Callable[[], Any]:
        index = torch.arange(lanes) % trees.leaves(systems)[0].shape[0]
        device = trees.leaves(systems)[0].device
        u = trees.lanes(systems, index.to(device))
        given = None if rows is None else trees.lanes(rows, index.to(device))
        # Lanes are at different times, as in a run.
        at = (torch.arange(lanes) * max(1, (len(points) - 1) // lanes)) % (len(points) - 1)
        t0, t1 = points[at].to(device), points[at + 1].to(device)
        more: tuple[Any, ...] = ()
        if isinstance(fine, Multistep):
            u = Carried(u, fine.begin(u))
            steps = np.full(lanes, len(points) - 1)
            more = (int(fine.variants(np.zeros(lanes, dtype=np.int64), steps)[0]),)
        stages = started(fine, problem, t0, t1, u, *more)
        extra = () if given is None else (given,)
        value: State = None
        while True:
            try:
                request = stages.send(value)
            except StopIteration:  # the step requests nothing that counts
                return lambda: None
            check_request(fine, request)
            if not getattr(request[0], "free", False):
                break
            value = request[0](*request[1:], *extra)
        function, arguments = request[0], (*request[1:], *extra)
        return lambda: executor.evaluate(function, arguments, lanes)

    return call


class Hopeless(BaseException):
    """Ends a trial that takes longer than the best so far."""


@dataclass(eq=False)
class Recording(Executor):
    """An executor that records the lanes and the seconds of each call.

    Args:
        device: The device to synchronise with, so that times are those of the calls.
        limit: Seconds after which a trial is ended by raising `Hopeless`.
        inner: The executor that evaluates the lanes.
    """

    device: torch.device
    limit: float = float("inf")
    inner: Executor = field(default_factory=Batched)
    lanes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @scope
    def joined(self) -> Generator[Executor]:
        """This executor, with ``inner`` prepared for the run."""
        alone = self.inner
        with alone.joined() as self.inner:
            try:
                yield self
            finally:
                self.inner = alone

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        """Passes the call to ``inner``."""
        if time.perf_counter() - self.started > self.limit:
            raise Hopeless
        synchronize(self.device)
        start = time.perf_counter()
        value = self.inner.evaluate(fn, args, lanes)
        synchronize(self.device)
        self.lanes.append(lanes)
        self.seconds.append(time.perf_counter() - start)
        return value

    def calls(self, lanes: int) -> int:
        """Passes the call to ``inner``."""
        return self.inner.calls(lanes)

    def padded(self, lanes: int) -> int:
        """Passes the call to ``inner``."""
        return self.inner.padded(lanes)


def state_bytes(u: State) -> int:
    """Bytes of a state."""
    return sum(leaf.numel() * leaf.element_size() for leaf in trees.leaves(u))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines: list[str] = []
    for row in (header, *rows):
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(f"{cell:>{w}}" if i else f"{cell:<{w}}" for i, (cell, w) in enumerate(cells)))
    return "\n".join(line.rstrip() for line in lines)
