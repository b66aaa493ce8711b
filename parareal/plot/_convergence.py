"""Error or increment against iterations, beside the bounds on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parareal._core.arrays import Floats
from parareal._core.checks import described
from parareal._core.norms import NormName
from parareal._core.trees import State
from parareal.plot._axes import DASHES, MARKERS, axes, legend, log_line, log_ticks, named, shade, whole_numbers
from parareal.plot._figures import check_norm, errors_of, increments_of, iterated, of_sample
from parareal.results._solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def convergence(
    runs: Solution | Mapping[str, Solution],
    reference: Solution | State | None = None,
    *,
    bounds: Mapping[str, Callable[[int], float] | Sequence[float]] | None = None,
    norm: NormName = "max",
    ax: Axes | None = None,
) -> Axes:
    """The largest error, or the largest increment, after each iteration.

    Args:
        runs: A solution, or some by name.
        reference: The solution at the same slice boundaries against which errors are taken, most of the time of
            `serial`, or its ``us``; runs are then those of ``solve(..., keep="all")``. ``None`` for increments.
        bounds: By name, a function of the iteration k, such as
            ``lambda k: pr.theory.linear_bound(alpha, beta, k)``, or its values at k = 0, 1, 2, ...
        norm: Of errors: ``"max"``, the largest modulus, or ``"rms"``.
        ax: Where to draw; ``None`` for a new figure.

    Returns:
        The axes: iterations across, errors from the first guess, 0, on; increments from the first iteration on. The
        largest is taken over all boundaries with a state, and over samples. Zeros are open marks on the axis.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A run has no iterations, or none kept where errors are wanted; shapes differ; or there is nothing
            to draw.
        ImportError: matplotlib is not installed.

    Examples:
        >>> import torch, parareal as pr
        >>> problem, grid = pr.ODE(lambda t, u: -u), pr.TimeGrid.uniform(0.0, 2.0, slices=8, steps=8)
        >>> sol = pr.solve(problem, torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler())
        >>> ax = pr.plot.convergence(sol, bounds={"linear": lambda k: pr.theory.linear_bound(0.03, 0.75, k)})
        >>> ax.get_yscale(), ax.get_ylabel()
        ('log', 'largest increment')
    """
    many = {"run": runs} if isinstance(runs, Solution) else named(runs, "runs", '{"Euler": sol}')
    curves = {name: _curve(run, reference, norm) for name, run in many.items()}
    last = max(k[-1] for k, _ in curves.values())
    lines = {} if bounds is None else named(bounds, "bounds", '{"linear": lambda k: 0.5**k}')
    limits = {name: _bound(one, last, name) for name, one in lines.items()}
    ax = axes(ax)
    ax.set_yscale("log")
    for i, (name, (k, values)) in enumerate(curves.items()):
        label = name if len(curves) > 1 or not isinstance(runs, Solution) else "measured"
        log_line(ax, k, values, label, color=shade(i, len(curves)), marker=MARKERS[i % len(MARKERS)], ms=5, lw=1.5)
    for i, (name, values) in enumerate(limits.items()):
        log_line(ax, np.arange(len(values)), values, name, color="0.35", ls=DASHES[i % len(DASHES)], lw=1.2)
    ax.set(xlabel="iteration", ylabel="largest increment" if reference is None else "largest error")
    ax.grid(alpha=0.25)
    log_ticks(ax.yaxis, np.concatenate([*(values for _, values in curves.values()), *limits.values()]))
    whole_numbers(ax.xaxis)
    legend(ax)
    return ax


def _curve(run: Any, reference: Any, norm: NormName) -> tuple[Any, Floats]:
    """Iterations and what is drawn at them."""
    check_norm(norm)
    iterated(run)
    if reference is None:
        table, _ = increments_of(run)
    else:
        table, _ = errors_of(run, reference, norm, "a curve of errors")
    first = 0 if reference is not None else run.history[0].iteration
    return np.arange(len(table)) + first, of_sample(table.reshape(len(table), -1), None)


def _bound(bound: Any, last: int, name: str) -> Floats:
    values: Any = [bound(k) for k in range(last + 1)] if callable(bound) else bound
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"bounds[{name!r}] is {described(bound)}; expected a function of the iteration, or its values"
        ) from None
    if found.ndim != 1 or not len(found):
        raise ValueError(
            f"bounds[{name!r}] has the shape {found.shape}; expected one number for each of the iterations 0, 1, 2, ..."
        )
    if not (found >= 0).all():
        raise ValueError(f"bounds[{name!r}] holds numbers that are negative or NaN; expected bounds on a norm")
    return found
