"""The time of k iterations on P workers: the tasks are laid out in time, one event after another."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, TypeAlias

from parareal._core.checks import check_count
from parareal._core.names import one_of
from parareal.schedules._schedule import Barrier, Schedule, Wavefront

Placement: TypeAlias = Literal["any", "owner", "manager"]
Task: TypeAlias = tuple[int, int, int]
"""0 for a coarse or 1 for a fine solve, the iterate from which it starts, and the slice. Tasks run in this order:
coarse solves first, because others wait for them."""
Note: TypeAlias = Callable[[int, Task, float, float], None]
"""Receives each task: its pool, the task, and when it begins and ends."""


@dataclass(frozen=True)
class Solve:
    """One solve of one slice in a layout.

    Attributes:
        worker: The worker that makes it, from 0 on.
        fine: Whether it is a fine one.
        iterate: The iterate from which it starts.
        slice: Which slice.
        start: When it begins.
        end: When it ends.
    """

    worker: int
    fine: bool
    iterate: int
    slice: int
    start: float
    end: float


@dataclass(frozen=True)
class Layout:
    """The assignment of solves to workers and times, see `layout`.

    Attributes:
        solves: All of them, in the order in which they begin.
        slices: N.
        workers: Number of workers: P, or the number used if it is not limited.
    """

    solves: tuple[Solve, ...]
    slices: int
    workers: int

    @property
    def makespan(self) -> float:
        """When the last solve ends."""
        return max(solve.end for solve in self.solves)

    def __repr__(self) -> str:
        count = len(self.solves)
        return f"Layout(slices={self.slices}, workers={self.workers}, solves={count}, makespan={self.makespan:g})"


def makespan(
    schedule: Schedule,
    slices: int,
    iterations: int,
    *,
    fine: float | Sequence[float],
    coarse: float | Sequence[float],
    workers: int | None = None,
    placement: Placement = "any",
) -> float:
    """Time from the start to the end of k iterations on P workers.

    A task is one solve of one slice and keeps one worker busy. Fine solves start from iterates 0 ... k - 1, coarse
    ones from 0 ... k, slices known final take no part, there are no speculative solves, and messages cost nothing. A
    free worker takes, of the tasks that are ready and its own, a coarse one first, then one of the earliest iterate,
    then the leftmost. The engine behaves like this with as many workers as lanes, except that its propagators share the
    first evaluation.

    Args:
        schedule: `Barrier` or `Wavefront`.
        slices: N.
        iterations: k; above N as N.
        fine: Time of a fine solve, one number or N.
        coarse: Time of a coarse solve, one number or N; 0 for a correction that costs nothing.
        workers: P; ``None`` for as many as can be used.
        placement: Which worker makes which task. ``"any"``: every worker any task. ``"owner"``: each worker has a block
            of neighbouring slices, and makes both kinds for them. ``"manager"``: one worker makes all coarse solves
            only.

    Returns:
        The time, in the unit of ``fine`` and ``coarse``.

    Raises:
        TypeError: An argument has the wrong type, or the schedule is another one.
        ValueError: A number is out of range.

    Source:
        The placements are those of M. Minion, A hybrid parareal spectral deferred corrections method, Comm. App. Math.
        Comp. Sci. 5 (2010), and of E. Aubanel, Scheduling of tasks in the parareal algorithm, Parallel Computing 37
        (2011): the distributed and the manager-worker algorithm.

    Examples:
        >>> import parareal as pr
        >>> makespan(pr.Wavefront(), 16, 4, fine=16, coarse=1)
        76.0
        >>> makespan(pr.Wavefront(), 16, 4, fine=16, coarse=1, workers=8)
        136.0
        >>> makespan(pr.Wavefront(), 16, 4, fine=16, coarse=1, workers=16, placement="owner")
        84.0
    """
    return _lay_out(schedule, slices, iterations, fine, coarse, _pools(slices, workers, placement), None)


def layout(
    schedule: Schedule,
    slices: int,
    iterations: int,
    *,
    fine: float | Sequence[float],
    coarse: float | Sequence[float],
    workers: int | None = None,
    placement: Placement = "any",
) -> Layout:
    """Which worker makes which solve when; its end is the `makespan`. Arguments and errors are as there.

    `parareal.plot.timeline` draws it. Solves that take no time are left out.

    Examples:
        >>> import parareal as pr
        >>> found = layout(pr.Barrier(), 4, 1, fine=8, coarse=1, workers=2)
        >>> found.makespan == makespan(pr.Barrier(), 4, 1, fine=8, coarse=1, workers=2)
        True
        >>> [(one.slice, one.start, one.end) for one in found.solves if one.fine and one.worker == 0]
        [(0, 4.0, 12.0), (2, 12.0, 20.0)]
    """
    pools = _pools(slices, workers, placement)
    found: list[tuple[float, float, int, Task]] = []

    def note(pool: int, task: Task, start: float, end: float) -> None:
        if end > start:
            found.append((start, end, pool, task))

    _lay_out(schedule, slices, iterations, fine, coarse, pools, note)
    # In the order in which they begin, each goes to the first worker of its pool that is free.
    free: list[list[int]] = [[] for _ in pools.sizes]
    busy: list[list[tuple[float, int]]] = [[] for _ in pools.sizes]
    seen = [0 for _ in pools.sizes]
    solves: list[Solve] = []
    for start, end, pool, (kind, j, n) in sorted(found):
        while busy[pool] and busy[pool][0][0] <= start:
            heapq.heappush(free[pool], heapq.heappop(busy[pool])[1])
        if not free[pool]:
            heapq.heappush(free[pool], seen[pool])
            seen[pool] += 1
        worker = heapq.heappop(free[pool])
        heapq.heappush(busy[pool], (end, worker))
        solves.append(Solve(pool + worker, bool(kind), j, n, start, end))
    return Layout(tuple(solves), slices, workers or 1 + max((one.worker for one in solves), default=0))


def _pools(slices: int, workers: int | None, placement: Placement) -> _Pools:
    check_count(slices, "slices")
    if workers is not None:
        check_count(workers, "workers", 2 if placement == "manager" else 1)
    return _Pools(slices, workers, placement)


def _lay_out(
    schedule: Schedule, slices: int, iterations: int, fine: Any, coarse: Any, pools: _Pools, note: Note | None
) -> float:
    """When it ends; ``note`` receives every task."""
    check_count(iterations, "iterations")
    fines, coarses = times(fine, slices, "fine"), times(coarse, slices, "coarse")
    k = min(iterations, slices)
    if isinstance(schedule, Barrier):
        return _barrier(fines, coarses, k, pools, note)
    if isinstance(schedule, Wavefront):
        if schedule.ahead is not None and k > schedule.ahead + 1:
            raise ValueError(
                f"{k} iterations came with {schedule!r}, which holds lanes back; expected pr.Wavefront() without a "
                "bound, or at most ahead + 1 iterations"
            )
        return _wavefront(fines, coarses, k, pools, note)
    raise TypeError(f"schedule is {schedule!r}; expected pr.Barrier() or pr.Wavefront()")


def times(value: Any, slices: int, name: str) -> list[float]:
    """A time for each slice."""
    many: list[Any] = [value] * slices if not isinstance(value, Sequence) else [*value]  # pyright: ignore
    if len(many) != slices:
        raise ValueError(f"{name} holds {len(many)} times; expected {slices}, one for each slice, or one for all")
    for one in many:
        if not 0 <= one < math.inf:
            raise ValueError(f"{name}={value!r} is no time; expected numbers that are finite and not below 0")
    return many


class _Pools:
    """Which workers a task may go to: pools of workers that are alike."""

    def __init__(self, slices: int, workers: int | None, placement: Any) -> None:
        one_of(placement, ("any", "owner", "manager"), "placement")
        self.placement, self.slices = placement, slices
        self.owners = min(workers or slices, slices)
        most = math.inf if workers is None else workers
        self.sizes: list[float] = {"any": [most], "owner": [1.0] * self.owners, "manager": [1.0, most - 1]}[placement]

    def of(self, n: int, fine: int) -> int:
        if self.placement == "any":
            return 0
        return fine if self.placement == "manager" else n * self.owners // self.slices


def _barrier(fine: list[float], coarse: list[float], k: int, pools: _Pools, note: Note | None) -> float:
    def sweep(total: float, j: int) -> float:
        for n in range(j, len(coarse)):
            if note is not None:
                note(pools.of(n, 0), (0, j, n), total, total + coarse[n])
            total += coarse[n]
        return total

    total = sweep(0.0 * fine[0], 0)
    for j in range(k):
        ends: list[list[float]] = [[] for _ in pools.sizes]  # when the workers of each pool are free again
        for n in range(j, len(fine)):
            pool = pools.of(n, 1)
            start = heapq.heappop(ends[pool]) if len(ends[pool]) >= pools.sizes[pool] else 0
            heapq.heappush(ends[pool], start + fine[n])
            if note is not None:
                note(pool, (1, j, n), total + start, total + (start + fine[n]))  # as the next one's start
        total = sweep(total + max(end for pool in ends for end in pool), j + 1)
    return total


def _wavefront(fine: list[float], coarse: list[float], k: int, pools: _Pools, note: Note | None) -> float:
    slices, now = len(fine), 0.0 * fine[0]
    ready: list[list[Task]] = [[] for _ in pools.sizes]
    free = list(pools.sizes)
    under_way: list[tuple[float, int, Task]] = []
    order = count()
    # What iterate j at boundary n still waits for: one coarse solve; a fine one from a final state; or both, and the
    # coarse one of the iterate before.
    missing = [[1 if j in (0, n) else 3 for j in range(k + 1)] for n in range(slices + 1)]

    touched: set[int] = set()  # pools whose workers may have new tasks

    def enter(task: Task) -> None:
        pool = pools.of(task[2], task[0])
        heapq.heappush(ready[pool], task)
        touched.add(pool)

    def there(j: int, n: int) -> None:
        """Iterate j exists at boundary n."""
        if n < slices:
            enter((0, j, n))
            if j < k:
                enter((1, j, n))

    def less(j: int, n: int) -> None:
        if j <= min(k, n):
            missing[n][j] -= 1
            if missing[n][j] == 0:
                there(j, n)

    there(0, 0)
    while True:
        for pool in touched:
            while ready[pool] and free[pool]:
                task = heapq.heappop(ready[pool])
                free[pool] -= 1
                end = now + (fine if task[0] else coarse)[task[2]]
                heapq.heappush(under_way, (end, next(order), task))
                if note is not None:
                    note(pool, task, now, end)
        touched.clear()
        if not under_way:
            return now
        now, _, (is_fine, j, n) = heapq.heappop(under_way)
        pool = pools.of(n, is_fine)
        free[pool] += 1
        touched.add(pool)
        if not is_fine:
            less(j, n + 1)
        if n > j or is_fine:  # a final state takes the fine solve alone
            less(j + 1, n + 1)
