"""Errors of the runs of a study against iterations, with their bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parareal.plot._axes import DASHES, MARKERS, axes, legend, log_line, log_ticks, shade, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOUNDS = ("linear", "superlinear", "nonlinear", "generating")


def study(rows: Sequence[Mapping[str, Any]], *, bounds: bool | Sequence[str] = True, ax: Axes | None = None) -> Axes:
    """The largest error after each iteration of each run of a study, and bounds on it.

    Args:
        rows: A `parareal.Study`, or some of its rows.
        bounds: Whether bounds are drawn, or which: some of ``"linear"``, ``"superlinear"``, ``"nonlinear"`` and
            ``"generating"``.
        ax: Where to draw; ``None`` for a new figure.

    Returns:
        The axes: iterations across, errors up, which are cut off below rounding.

    Raises:
        ValueError: There are no rows, or no bound of that name.
        ImportError: matplotlib is not installed.

    Examples:
        >>> import torch, parareal as pr
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=4)
        >>> u0 = torch.ones(1, dtype=torch.float64)
        >>> table = pr.study(pr.ODE(lambda t, u: -u), u0, grid, fine=pr.RK4(), coarse=pr.ImplicitEuler())
        >>> pr.plot.study(table).get_ylabel()
        'largest error'
    """
    if not rows:
        raise ValueError("there are no rows to draw; expected those of pr.study(...)")
    wanted = [*BOUNDS] if bounds is True else [*(bounds or ())]
    unknown = [name for name in wanted if name not in BOUNDS]
    if unknown:
        raise ValueError(f"bound {unknown[0]!r} is unknown; expected some of {', '.join(map(repr, BOUNDS))}")
    runs: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault(row["run"], []).append(row)
    ax, drawn = axes(ax), list[float]()
    ax.set_yscale("log")
    for i, (name, run) in enumerate(runs.items()):
        before = "" if len(runs) == 1 else f"{name}: "
        k, error = (np.asarray([row[column] for row in run], dtype=np.float64) for column in ("iteration", "error"))
        color = shade(i, len(runs))
        log_line(
            ax,
            k,
            error,
            f"{before}measured",
            color=color,
            marker=MARKERS[i % len(MARKERS)],
            ms=5,
            lw=1.5,
        )
        drawn += [*error]
        floor = min((one for one in error if one > 0), default=1e-16)
        for j, label in enumerate(wanted):
            values = np.asarray([row[f"bound_{label}"] for row in run], dtype=np.float64)
            values = np.where(values < 0.1 * floor, np.nan, values)
            if np.isfinite(values).any():
                log_line(
                    ax,
                    k,
                    values,
                    before + label,
                    color=color,
                    ls=DASHES[j % len(DASHES)],
                    lw=1.0,
                )
                drawn += [*values[np.isfinite(values)]]
    ax.set(xlabel="iteration", ylabel="largest error")
    ax.grid(alpha=0.25)
    log_ticks(ax.yaxis, np.asarray(drawn))
    whole_numbers(ax.xaxis)
    legend(ax)
    return ax
