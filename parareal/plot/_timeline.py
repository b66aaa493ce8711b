"""The schedule as a timeline: which lane or worker computes which slice, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from parareal._core.checks import described
from parareal.plot._axes import axes, whole_numbers
from parareal.plot._figures import check_sample, record_of
from parareal.results._solution import Solution
from parareal.theory import Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COARSE = "black"
WRITTEN = 160
"""Most bars of a layout with numbers of slices on them; more could not be read. A choice."""


class Bar(NamedTuple):
    """A lane or a solve: from ``start`` to ``end`` in a row, with the iterate it starts from and its slice."""

    row: float
    start: float
    end: float
    fine: bool
    iterate: int
    slice: int


def timeline(run: Solution | Layout, *, sample: int | None = None, ax: Axes | None = None) -> Axes:
    """Which slices are computed when: in a run, or in a layout on a number of workers.

    Args:
        run: A solution of ``solve(..., keep="all")``, or what `parareal.theory.layout` returns.
        sample: Which sample, of a run with ``samples=True``.
        ax: Where to draw; ``None`` for a new figure.

    Returns:
        The axes. Of a run: rounds across, slices upwards, and a bar for each lane over the rounds that it was in;
        slices below the dashed line are final or accepted. Of a layout: time across, workers upwards, and on the fine
        bars the numbers of their slices, as long as there is room. Fine bars have the colour of their iteration, coarse
        ones are black.

    Raises:
        TypeError: ``run`` is neither of the two, or ``sample`` no int.
        ValueError: The run has kept no iterates, or has samples of which none was chosen.
        ImportError: matplotlib is not installed.

    Examples:
        >>> import torch, parareal as pr
        >>> laid = pr.theory.layout(pr.Wavefront(), 8, 3, fine=8, coarse=1, workers=4)
        >>> pr.plot.timeline(laid).get_ylabel()
        'worker'
    """
    if isinstance(run, Layout):
        if sample is not None:
            check_sample(sample, None)
        bars = [Bar(s.worker, s.start, s.end, s.fine, s.iterate, s.slice) for s in run.solves]
        ax = axes(ax, 7.2, 1.2 + 0.25 * min(max(run.workers, 6), 24))
        _draw(ax, bars, 0.84, 0.84)
        if len(bars) <= WRITTEN:
            _write(ax, [bar for bar in bars if bar.fine])
        return _finish(ax, "time", "worker", run.workers, run.makespan)
    if not isinstance(run, Solution):
        raise TypeError(
            f"run is {described(run)}; expected a Solution of pr.solve(..., keep='all'), or a pr.theory.layout(...)"
        )
    lanes = record_of(run, "a timeline").lanes
    if lanes is None:
        raise ValueError("the file of this solution is from a version that did not keep its rounds; make the run again")
    rows, slices = lanes.numpy(), run.history[-1].slices if run.history else len(run.ts) - 1
    if rows.shape[1] == 6:
        if sample is None:
            raise ValueError(
                f"this run has {len(run.sample_status or ())} samples, each with a timeline of its own; expected "
                "sample=0 or another"
            )
        check_sample(sample, len(run.sample_status or ()))
        rows = rows[rows[:, 5] == sample]
    elif sample is not None:
        check_sample(sample, None)
    bars, height, low = _stacked(_lanes(rows))
    ax = axes(ax, 7.2, 1.2 + 0.14 * min(max(slices, 16), 40))
    _draw(ax, bars, height, low)
    _frontier(ax, run, sample)
    return _finish(ax, "round", "slice", slices, run.stats.rounds)


def _lanes(rows: Any) -> list[Bar]:
    """A bar for each lane and run of rounds that it was in without a break."""
    order = np.lexsort((rows[:, 0], rows[:, 4], rows[:, 3], rows[:, 2]))  # coarse and fine, iterate, slice, round
    bars: list[Bar] = []
    for start, end, fine, iterate, n in rows[order, :5].tolist():
        last = bars[-1] if bars else None
        if last is not None and (last.fine, last.iterate, last.slice, last.end) == (bool(fine), iterate, n, start):
            bars[-1] = last._replace(end=end)
        else:
            bars.append(Bar(n, start, end, bool(fine), iterate, n))
    return bars


def _stacked(bars: list[Bar]) -> tuple[list[Bar], float, float]:
    """Bars of a slice at the same time one above the other; how high fine and coarse ones may be.

    Coarse bars have a band of their own below the fine ones, a third as high, unless the two never meet.
    """
    if _levels(bars)[1] <= 1:
        return bars, 0.9, 0.9
    (fine, tall), (coarse, low) = (_levels([bar for bar in bars if bar.fine == kind]) for kind in (True, False))
    share = 0.9 / (tall + low / 3)
    placed = [bar._replace(row=bar.slice - 0.45 + share * (low / 3 + level + 0.5)) for bar, level in fine]
    placed += [bar._replace(row=bar.slice - 0.45 + share * (level + 0.5) / 3) for bar, level in coarse]
    return placed, share, share / 3


def _levels(bars: list[Bar]) -> tuple[list[tuple[Bar, int]], int]:
    """Each bar with the first level of its slice that is free when it begins, and how many levels there are."""
    ends: dict[int, list[float]] = {}
    placed: list[tuple[Bar, int]] = []
    for bar in sorted(bars, key=lambda bar: (bar.start, bar.iterate)):
        own = ends.setdefault(bar.slice, [])
        level = next((i for i, end in enumerate(own) if end <= bar.start), len(own))
        own[level : level + 1] = [bar.end]
        placed.append((bar, level))
    return placed, max((len(own) for own in ends.values()), default=0)


def _draw(ax: Axes, bars: list[Bar], height: float, coarse_height: float) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import BoundaryNorm, ListedColormap

    def boxes(chosen: list[Bar], high: float) -> list[list[tuple[float, float]]]:
        low = [(bar.start, bar.end, bar.row - high / 2, bar.row + high / 2) for bar in chosen]
        return [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, x1, y0, y1 in low]

    fine, coarse = [bar for bar in bars if bar.fine], [bar for bar in bars if not bar.fine]
    edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.4}
    if fine:
        last = max(bar.iterate for bar in fine) + 1
        shades = ListedColormap(colormaps["viridis"](np.linspace(0.25, 1.0, last)))
        norm = BoundaryNorm(np.arange(last + 1) + 0.5, last)
        made = PolyCollection(boxes(fine, height), cmap=shades, norm=norm, gid="fine", **edge)
        made.set_array([bar.iterate + 1 for bar in fine])
        ax.add_collection(made)
        side = ax.figure.colorbar(made, ax=ax, label="fine: iteration", pad=0.02)
        step = -(-last // 10)
        side.set_ticks(list(range(1, last + 1, step)))
        side.ax.minorticks_off()
    if coarse:
        made = PolyCollection(boxes(coarse, coarse_height), facecolor=COARSE, gid="coarse", linewidth=0.0)
        ax.add_collection(made)


def _write(ax: Axes, bars: list[Bar]) -> None:
    """The numbers of slices, dark on light bars and light on dark ones."""
    last = max((bar.iterate for bar in bars), default=0) + 1
    for bar in bars:
        dark = bar.iterate < last / 2
        ax.text(
            (bar.start + bar.end) / 2,
            bar.row,
            str(bar.slice),
            ha="center",
            va="center",
            fontsize="x-small",
            color="white" if dark else "black",
            clip_on=True,
        )


def _frontier(ax: Axes, run: Solution, sample: int | None) -> None:
    """How many slices are final or accepted, after each iteration."""
    front: list[Any] = [0, *(report.frontier for report in run.history)]
    y = [(one if sample is None or not i else one[sample]) - 0.5 for i, one in enumerate(front)]
    x = [0, *(report.rounds for report in run.history)]
    ax.step(x, y, where="post", color="0.35", lw=1.2, ls="--", label="frontier", gid="frontier")


def _finish(ax: Axes, across: str, upwards: str, rows: int, end: float) -> Axes:
    from matplotlib.patches import Patch

    marks: list[Any] = [*ax.lines]
    if any(part.get_gid() == "coarse" for part in ax.collections):
        marks.append(Patch(color=COARSE, label="coarse"))
    if marks:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        ax.legend(handles=marks, ncols=3, frameon=False, fontsize="small", **place)
    ax.set(xlabel=across, ylabel=upwards, xlim=(0, end), ylim=(-0.6, rows - 0.4))
    whole_numbers(ax.yaxis)
    return ax
