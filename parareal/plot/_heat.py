"""Heat maps over slices and iterations: increments, and errors against a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from parareal._core.arrays import Floats
from parareal._core.norms import NormName
from parareal._core.trees import State
from parareal.plot._axes import axes, whole_numbers
from parareal.plot._figures import check_sample, errors_of, increments_of, iterated, of_sample
from parareal.results._solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEPTH = 1e-16
"""Colours reach down to this part of the largest value; smaller ones have the last colour. A choice."""


def increments(run: Solution, *, sample: int | None = None, ax: Axes | None = None) -> Axes:
    """How far each slice's right boundary moved in each iteration.

    Args:
        run: A solution of `solve`.
        sample: Which sample, of a run with ``samples=True``; ``None`` for the largest increment of all.
        ax: Where to draw; ``None`` for a new figure.

    Returns:
        The axes: slices across, counted from 0, iterations downwards. Colours are logarithmic, in the units of the
        stopping rule's norm. White with dots is an increment of exactly 0; hatched are slices that were final or
        accepted before the iteration; grey is what was not computed, or not finite.

    Raises:
        TypeError: ``run`` is no solution, or an argument of another type.
        ValueError: There were no iterations, or there is no such sample.
        ImportError: matplotlib is not installed.

    Examples:
        >>> import torch, parareal as pr
        >>> problem, grid = pr.ODE(lambda t, u: -u * u), pr.TimeGrid.uniform(0.0, 2.0, slices=8, steps=8)
        >>> sol = pr.solve(problem, torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler())
        >>> pr.plot.increments(sol).get_xlabel()
        'slice'
    """
    table, settled = increments_of(iterated(run))
    if table.ndim == 3:
        table, settled = of_sample(table.swapaxes(1, 2), sample), _settled(settled.swapaxes(1, 2), sample)
    elif sample is not None:
        check_sample(sample, None)
    first = run.history[0].iteration
    return _heat(axes(ax, 6.8, 3.6), table, settled & (table == 0), first, "increment", "iteration")


def errors(
    run: Solution,
    reference: Solution | State,
    *,
    norm: NormName = "max",
    sample: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How far each slice's right boundary is from a reference, iterate by iterate.

    Args:
        run: A solution of ``solve(..., keep="all")``.
        reference: A solution at the same slice boundaries, of `serial` most of the time, or its ``us``.
        norm: ``"max"``, the largest modulus, or ``"rms"``.
        sample: Which sample, of a run with ``samples=True``; ``None`` for the largest error of all.
        ax: Where to draw; ``None`` for a new figure.

    Returns:
        The axes: slices across, counted from 0, iterates downwards from the first guess, 0. Colours are logarithmic.
        White, with dots, is an error of exactly 0; hatched are boundaries that took no such iterate and hold the one
        before, since they are final or accepted; grey is what was not computed, or not finite.

    Raises:
        TypeError: ``run`` is no solution, ``reference`` no state, or an argument of another type.
        ValueError: The run has kept no iterates, the reference has other shapes, or there is no such sample.
        ImportError: matplotlib is not installed.

    Examples:
        >>> import torch, parareal as pr
        >>> problem, grid = pr.ODE(lambda t, u: -u * u), pr.TimeGrid.uniform(0.0, 2.0, slices=8, steps=8)
        >>> sol = pr.solve(problem, torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler(), keep="all")
        >>> ax = pr.plot.errors(sol, pr.serial(problem, torch.ones(3), grid, fine=pr.RK4()))
        >>> ax.get_ylabel()
        'iterate'
    """
    table, held = errors_of(run, reference, norm, "a picture of errors")
    if table.ndim == 3:
        table, held = of_sample(table, sample), _settled(held, sample)
    elif sample is not None:
        check_sample(sample, None)
    return _heat(axes(ax, 6.8, 3.6), table, held, 0, "error", "iterate")


def _settled(mask: Any, sample: int | None) -> Any:
    return mask.all(-1) if sample is None else mask[..., sample]


def _heat(ax: Axes, values: Floats, held: Any, first: int, label: str, rows: str) -> Axes:
    """Colours for what is above 0, marks for the rest; ``values`` and ``held`` are ``(K, N)``."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Patch

    positive = np.isfinite(values) & (values > 0)
    count, slices = values.shape
    x, y = np.arange(slices + 1) - 0.5, np.arange(count + 1) + first - 0.5
    if positive.any():
        most, least = values[positive].max(), values[positive].min()
        floor = max(least, DEPTH * most)
        scale = LogNorm(floor, most) if floor < most else LogNorm(most / 10, most)
        mesh = ax.pcolormesh(x, y, np.ma.array(values, mask=~positive), cmap="viridis", norm=scale, gid="values")
        ax.figure.colorbar(mesh, ax=ax, label=label, pad=0.02, extend="min" if least < floor else "neither")
    marks: list[Patch] = []
    _cells(ax, (values == 0) & held, first, "held 0", {"facecolor": "white", "edgecolor": "none"})
    kinds: list[tuple[str, Any, dict[str, Any]]] = [
        (f"{label} 0", (values == 0) & ~held, {"facecolor": "white", "edgecolor": "0.45", "hatch": ".."}),
        ("not computed", ~np.isfinite(values), {"facecolor": "0.8", "edgecolor": "0.45"}),
        ("final or accepted", held, {"facecolor": "none", "edgecolor": "0.45", "hatch": "////"}),
    ]
    for name, mask, style in kinds:
        _cells(ax, mask, first, name, style)
        if mask.any():
            marks.append(Patch(label=name, linewidth=0.6, **style))
    ax.set(xlabel="slice", ylabel=rows, xlim=(x[0], x[-1]), ylim=(y[-1], y[0]))
    whole_numbers(ax.xaxis, ax.yaxis)
    if marks:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        ax.legend(handles=marks, ncols=3, frameon=False, fontsize="small", **place)
    return ax


def _cells(ax: Axes, mask: Any, first: int, gid: str, style: dict[str, Any]) -> None:
    """Marked cells, if any; those that are neighbours in a row as one rectangle."""
    from matplotlib.collections import PolyCollection

    boxes: list[list[tuple[float, float]]] = []
    for row, marked in enumerate(mask):
        change = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(np.int8), [0]])))
        for begin, end in change.reshape(-1, 2):
            x0, x1, y0, y1 = begin - 0.5, end - 0.5, row + first - 0.5, row + first + 0.5
            boxes.append([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    if boxes:
        ax.add_collection(PolyCollection(boxes, linewidth=0.0, gid=gid, **style))
