"""How long k iterations take on so many workers: the tasks are laid out in time, one event after another."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import count
from typing import Any, Literal, TypeAlias

from parareal._grid import check_count
from parareal._schedule import Barrier, Schedule, Wavefront

Placement: TypeAlias = Literal["any", "owner", "manager"]
Task: TypeAlias = tuple[int, int, int]
"""0 for a coarse or 1 for a fine solve, the iterate from which it sets out, and the slice. What is first in this order
goes first: others wait for coarse solves."""


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

    A task is one solve of one slice and keeps one worker busy. Fine solves set out from iterates 0 ... k - 1, coarse
    ones from 0 ... k, slices known final take no part, nothing is speculative, and messages cost nothing. A worker that
    is free takes, of the tasks that are ready and its own, a coarse one first, then one of the earliest iterate, then
    the leftmost. The engine itself is one with as many workers as lanes, but for the first evaluation, which its
    propagators share.

    Args:
        schedule: `Barrier` or `Wavefront`.
        slices: N.
        iterations: k; above N as N.
        fine: Time of a fine solve, one number or N.
        coarse: Time of a coarse solve, one number or N; 0 for a correction that costs nothing.
        workers: P; ``None`` for as many as can be used.
        placement: Who does what. ``"any"``: every worker any task. ``"owner"``: a worker has slices of its own,
            neighbours, and does both kinds for them. ``"manager"``: one worker does all coarse solves and nothing else.

    Returns:
        The time, in the unit of ``fine`` and ``coarse``.

    Raises:
        TypeError: An argument is not of its type, or the schedule is another.
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
    check_count(slices, "slices")
    check_count(iterations, "iterations")
    if workers is not None:
        check_count(workers, "workers", 2 if placement == "manager" else 1)
    fines, coarses = times(fine, slices, "fine"), times(coarse, slices, "coarse")
    k, pools = min(iterations, slices), _Pools(slices, workers, placement)
    if isinstance(schedule, Barrier):
        return _barrier(fines, coarses, k, pools)
    if isinstance(schedule, Wavefront):
        return _wavefront(fines, coarses, k, pools)
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
        if placement not in ("any", "owner", "manager"):
            raise ValueError(f"placement={placement!r} is unknown; expected 'any', 'owner' or 'manager'")
        self.placement, self.slices = placement, slices
        self.owners = min(workers or slices, slices)
        most = math.inf if workers is None else workers
        self.sizes: list[float] = {"any": [most], "owner": [1.0] * self.owners, "manager": [1.0, most - 1]}[placement]

    def of(self, n: int, fine: int) -> int:
        if self.placement == "any":
            return 0
        return fine if self.placement == "manager" else n * self.owners // self.slices


def _barrier(fine: list[float], coarse: list[float], k: int, pools: _Pools) -> float:
    total = sum(coarse)
    for j in range(k):
        ends: list[list[float]] = [[] for _ in pools.sizes]  # of each pool, when its workers are free again
        for n in range(j, len(fine)):
            pool = pools.of(n, 1)
            start = heapq.heappop(ends[pool]) if len(ends[pool]) >= pools.sizes[pool] else 0
            heapq.heappush(ends[pool], start + fine[n])
        total += max(end for pool in ends for end in pool) + sum(coarse[j + 1 :])
    return total


def _wavefront(fine: list[float], coarse: list[float], k: int, pools: _Pools) -> float:
    slices, now = len(fine), 0.0 * fine[0]
    ready: list[list[Task]] = [[] for _ in pools.sizes]
    free = list(pools.sizes)
    under_way: list[tuple[float, int, Task]] = []
    order = count()
    # What iterate j of edge n still waits for: one coarse solve; a fine one from a final state; or both, and the coarse
    # one of the iterate before.
    missing = [[1 if j in (0, n) else 3 for j in range(k + 1)] for n in range(slices + 1)]

    touched: set[int] = set()  # pools whose workers may have something new to do

    def enter(task: Task) -> None:
        pool = pools.of(task[2], task[0])
        heapq.heappush(ready[pool], task)
        touched.add(pool)

    def there(j: int, n: int) -> None:
        """Edge n has its iterate j."""
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
                heapq.heappush(under_way, (now + (fine if task[0] else coarse)[task[2]], next(order), task))
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
