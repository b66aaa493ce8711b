"""Speed-up against workers: by `parareal.theory`, its limit, and the predictions of plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from parareal import theory
from parareal._core.checks import check_count, described, kind_of
from parareal.planning._plan import Plan
from parareal.plot._axes import MARKERS, axes, legend, shade
from parareal.plot._figures import iterated
from parareal.results._solution import Solution
from parareal.schedules._schedule import Barrier, Schedule, Wavefront
from parareal.theory._makespan import Placement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES: dict[str, tuple[Schedule, Placement]] = {
    "Barrier": (Barrier(), "any"),
    "Wavefront, manager": (Wavefront(), "manager"),
    "Wavefront, own slices": (Wavefront(), "owner"),
    "Wavefront, any worker": (Wavefront(), "any"),
}


def speedup(
    run: Solution | Plan | Sequence[Plan],
    ratio: float | None = None,
    *,
    workers: Sequence[int] | None = None,
    plans: Sequence[Plan] = (),
    ax: Axes | None = None,
) -> Axes:
    """Speed-up over the serial run against the number of workers.

    Args:
        run: A solution, whose slices and iterations are laid out on more and more workers by `parareal.theory.speedup`;
            or plans of ``pr.plan(..., workers=P)``, of which only their predictions are drawn.
        ratio: With a solution: time of a coarse solve of a slice over that of a fine one.
        workers: Numbers of workers; ``None`` for powers of two up to twice the slices.
        plans: Plans that are drawn beside theory.
        ax: Where to draw; ``None`` for a new figure.

    Returns:
        The axes, both logarithmic to the base 2. The dotted line is a speed-up as large as the number of workers. With
        a solution: curves of `Barrier`, and of `Wavefront` with each placement of `parareal.theory.makespan` (Aubanel);
        dashed the limit of all orders of the tasks (Graham); and at as many workers as slices the classical and the
        pipelined estimate (Minion).

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The run made no iterations, the ratio is missing, or a plan has no ``workers``.
        ImportError: matplotlib is not installed.

    Examples:
        >>> import torch, parareal as pr
        >>> problem, grid = pr.ODE(lambda t, u: -u), pr.TimeGrid.uniform(0.0, 2.0, slices=16, steps=32)
        >>> sol = pr.solve(problem, torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler())
        >>> pr.plot.speedup(sol, ratio=1 / 128).get_xlabel()
        'workers'
    """
    if isinstance(run, Solution):
        slices, iterations = _size(run, ratio)
        counts = _counts(workers, slices)
    elif workers is not None or ratio is not None or plans:
        raise ValueError("ratio, workers and plans= are for a solution; with plans alone leave them out")
    else:
        plans = [run] if isinstance(run, Plan) else run
        slices = iterations = 0
        counts = []
    points = _planned(plans, needed=not isinstance(run, Solution))
    ax = axes(ax)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    for side in (ax.xaxis, ax.yaxis):
        side.set_major_formatter("{x:g}")
    heights = [1.0, *(value for _, value in points)]
    if counts and ratio is not None:
        heights += _theory(ax, slices, iterations, ratio, counts)
    if points:
        ax.plot(
            *zip(*points, strict=True), color="black", marker="*", ms=9, lw=1, ls="-.", label="planned", gid="planned"
        )
    reach = sorted({*counts, *(count for count, _ in points)})
    ax.plot(reach, reach, color="0.5", ls=":", lw=1.2, label="ideal", gid="ideal")
    ax.set(xlabel="workers", ylabel="speed-up", ylim=(min(0.9 * min(heights), 1.0), 1.5 * max(heights)))
    ax.grid(alpha=0.25)
    legend(ax)
    return ax


def _theory(ax: Axes, slices: int, iterations: int, ratio: float, counts: list[int]) -> list[float]:
    """Draws the speed-up by theory; returns all values."""
    heights: list[float] = []
    for i, (name, (schedule, placement)) in enumerate(CURVES.items()):
        x = [count for count in counts if placement != "manager" or count > 1]
        y = [theory.speedup(schedule, slices, iterations, ratio, workers=p, placement=placement) for p in x]
        ax.plot(x, y, color=shade(i, len(CURVES)), marker=MARKERS[i], ms=4, lw=1.5, label=name, gid=name)
        heights += y
    limit = [theory.speedup_limit(slices, iterations, ratio, workers=p) for p in counts]
    ax.plot(counts, limit, color="0.2", ls="--", lw=1.2, label="limit of all orders", gid="limit")
    estimates = {"classical": theory.classical_speedup, "pipelined": theory.pipelined_speedup}
    for (name, estimate), marker in zip(estimates.items(), ("x", "+"), strict=True):
        value = estimate(slices, iterations, ratio)
        ax.plot(
            [slices],
            [value],
            color="black",
            ls="none",
            marker=marker,
            ms=10,
            mew=1.8,
            label=f"{name} estimate",
            gid=name,
        )
        heights.append(value)
    return [*heights, *limit]


def _size(run: Solution, ratio: Any) -> tuple[int, int]:
    """Slices and iterations of a run."""
    if ratio is None:
        raise ValueError(
            "ratio is missing, the time of a coarse solve of a slice over that of a fine one; of two methods that cost "
            "as much a step it is the coarse steps in a slice over the fine ones, for example ratio=1 / 64"
        )
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise TypeError(f"ratio={ratio!r} is {kind_of(ratio)}; expected a number, for example ratio=1 / 64")
    slices = iterated(run).history[-1].slices
    return slices, int(torch.as_tensor(run.iterations).max())


def _counts(workers: Any, slices: int) -> list[int]:
    if workers is None:
        return sorted({slices, *(2**i for i in range((2 * slices).bit_length()))})
    if not isinstance(workers, Sequence) or isinstance(workers, str):
        raise TypeError(f"workers is {described(workers)}; expected numbers, for example workers=[1, 2, 4, 8]")
    if not workers:
        raise ValueError("workers is empty; expected numbers, for example workers=[1, 2, 4, 8]")
    for count in workers:
        check_count(count, "workers")
    return sorted({int(count) for count in workers})


def _planned(plans: Any, needed: bool) -> list[tuple[int, float]]:
    """Workers and speed-up of each plan, the fewest workers first."""
    if not isinstance(plans, Sequence) or not all(isinstance(plan, Plan) for plan in plans):
        raise TypeError(
            f"expected a Solution with ratio=..., or plans of pr.plan(..., workers=P); got {described(plans)} "
            "that is none of them"
        )
    if needed and not plans:
        raise ValueError("there are no plans to draw; expected those of pr.plan(..., workers=P)")
    points: list[tuple[int, float]] = []
    for plan in plans:
        if plan.workers is None:
            raise ValueError("a plan has no workers; expected those of pr.plan(..., workers=P)")
        points.append((plan.workers, plan.speedup))
    return sorted(points)
