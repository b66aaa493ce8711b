"""Speed-up: the serial run's time over that of k iterations. Divided by the number of workers it is the efficiency."""

from __future__ import annotations

import math

from parareal._core.checks import check_count
from parareal.schedules._schedule import Schedule
from parareal.theory._makespan import Placement, makespan


def speedup(
    schedule: Schedule,
    slices: int,
    iterations: int,
    ratio: float,
    *,
    workers: int | None = None,
    placement: Placement = "any",
) -> float:
    """Speed-up of k iterations on P workers, by `makespan`, whose assumptions it shares.

    Args:
        schedule: `Barrier` or `Wavefront`.
        slices: N.
        iterations: k.
        ratio: Time of a coarse solve of a slice over that of a fine one.
        workers: P; ``None`` for as many as can be used.
        placement: See `makespan`.

    Raises:
        TypeError: An argument has the wrong type, or the schedule is another one.
        ValueError: A number is out of range.

    Examples:
        >>> import parareal as pr
        >>> round(speedup(pr.Barrier(), 16, 3, 1 / 32), 2), round(speedup(pr.Wavefront(), 16, 3, 1 / 32), 2)
        (3.32, 4.7)
    """
    return slices / makespan(schedule, slices, iterations, fine=1.0, coarse=ratio, workers=workers, placement=placement)


def classical_speedup(slices: int, iterations: int, ratio: float) -> float:
    """The classical estimate: N / (N r + k (1 + N r)), with a worker for each slice.

    Each iteration is a fine solve on all slices and a coarse sweep over all of them. `Barrier` is quicker, since final
    slices take no part: this is a lower bound on its speed-up, and close where k is far below N. It is never above
    N / k, nor above 1 / (r (k + 1)).

    Args:
        slices: N.
        iterations: k.
        ratio: r, time of a coarse solve of a slice over that of a fine one.

    Raises:
        TypeError: A count is not an int.
        ValueError: A number is out of range.

    Source:
        M. Minion, A hybrid parareal spectral deferred corrections method, Comm. App. Math. Comp. Sci. 5 (2010), on the
        usual order of the tasks.

    Examples:
        >>> round(classical_speedup(16, 3, 1 / 32), 2)
        3.2
    """
    _check(slices, iterations, ratio)
    return slices / (slices * ratio + iterations * (1 + slices * ratio))


def pipelined_speedup(slices: int, iterations: int, ratio: float) -> float:
    """The pipelined estimate: N / (N r + k (1 + r)), with a worker for each slice.

    After the first sweep each worker makes a fine and a coarse solve in an iteration, one coarse solve after its
    neighbour. `makespan` with ``placement="owner"`` and a worker for each slice takes exactly that time for k below N.
    Never above 1 / r nor N / k.

    Args:
        slices: N.
        iterations: k.
        ratio: r, time of a coarse solve of a slice over that of a fine one.

    Raises:
        TypeError: A count is not an int.
        ValueError: A number is out of range.

    Source:
        M. Minion, A hybrid parareal spectral deferred corrections method, Comm. App. Math. Comp. Sci. 5 (2010);
        D. Ruprecht, Shared Memory Pipelined Parareal (arXiv 1509.06935).

    Examples:
        >>> round(pipelined_speedup(16, 3, 1 / 32), 2)
        4.45
    """
    _check(slices, iterations, ratio)
    return slices / (slices * ratio + iterations * (1 + ratio))


def speedup_limit(slices: int, iterations: int, ratio: float, *, workers: int | None = None) -> float:
    """No order of the tasks is quicker than this, on P workers that can each do any of them.

    The time is at least that of the longest chain of tasks, max(k + (N - k) r, N r), and at least all work divided by
    P: k N - k (k - 1) / 2 fine and N + k N - k (k + 1) / 2 coarse solves. `Wavefront` reaches the first with as many
    workers as it can use. By Graham's theorem a list schedule takes no longer than work / P + (1 - 1 / P) times the
    longest chain, so that `makespan` with ``placement="any"`` is within a factor of 2 - 1 / P of the best.

    Args:
        slices: N.
        iterations: k; above N as N.
        ratio: r, time of a coarse solve of a slice over that of a fine one.
        workers: P; ``None`` for as many as can be used.

    Raises:
        TypeError: A count is not an int.
        ValueError: A number is out of range.

    Source:
        R. L. Graham, Bounds on Multiprocessing Timing Anomalies, SIAM J. Appl. Math. 17 (1969), on the tasks of E.
        Aubanel, Scheduling of tasks in the parareal algorithm, Parallel Computing 37 (2011).

    Examples:
        >>> round(speedup_limit(16, 3, 1 / 32), 2), round(speedup_limit(16, 3, 1 / 32, workers=4), 2)
        (4.7, 1.37)
    """
    _check(slices, iterations, ratio)
    k = min(iterations, slices)
    chain = max(k + (slices - k) * ratio, slices * ratio)
    work = k * slices - k * (k - 1) / 2 + ratio * (slices + k * slices - k * (k + 1) / 2)
    if workers is not None:
        check_count(workers, "workers")
    return slices / max(chain, 0.0 if workers is None else work / workers)


def _check(slices: int, iterations: int, ratio: float) -> None:
    check_count(slices, "slices")
    check_count(iterations, "iterations")
    if not 0 <= ratio < math.inf:
        raise ValueError(f"ratio={ratio!r} is out of range; expected a number that is finite and not below 0")
