"""Work-precision diagrams: the error at the end against the cost of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.norms import NormName
from parareal._core.trees import State
from parareal.plot._axes import MARKERS, axes, legend, log_line, log_ticks, named, shade
from parareal.plot._figures import check_norm, check_run, distances
from parareal.results._solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS = {"rounds": "rounds", "evaluations": "evaluations", "seconds": "wall time in seconds"}


def work_precision(
    runs: Mapping[str, Sequence[Solution]],
    reference: Solution | State,
    *,
    against: Literal["rounds", "evaluations", "seconds"] = "rounds",
    norm: NormName = "max",
    ax: Axes | None = None,
) -> Axes:
    """The error of the final state against the cost of the run, a line for each method.

    Args:
        runs: By name, solutions of one problem, such as those of several tolerances or numbers of steps. Their grids
            may differ, as long as they end at the same time.
        reference: A solution of the same problem, or its final state ``u``.
        against: ``"rounds"``, the unit of latency, ``"evaluations"``, the unit of work, or ``"seconds"``.
        norm: ``"max"``, the largest modulus, or ``"rms"``; of a batch over all samples together.
        ax: Where to draw; ``None`` for a new figure.

    Returns:
        The axes, both logarithmic. Each line goes through its runs in the order of their cost. Zeros are open marks on
        the axis.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: There is nothing to draw, the reference has other shapes, or ``against`` is unknown.
        ImportError: matplotlib is not installed.

    Examples:
        >>> import torch, parareal as pr
        >>> problem, u0 = pr.ODE(lambda t, u: -u), torch.ones(3, dtype=torch.float64)
        >>> grids = [pr.TimeGrid.uniform(0.0, 2.0, slices=8, steps=n) for n in (1, 2, 4)]
        >>> runs = {"RK4": [pr.serial(problem, u0, grid, fine=pr.RK4()) for grid in grids]}
        >>> pr.plot.work_precision(runs, u0 * torch.tensor(-2.0, dtype=torch.float64).exp()).get_xlabel()
        'rounds'
    """
    if against not in COSTS:
        raise ValueError(f"against={against!r} is unknown; expected one of {', '.join(map(repr, COSTS))}")
    check_norm(norm)
    lines = {name: _line(many, reference, against, norm, name) for name, many in named(runs, "runs", _EXAMPLE).items()}
    ax = axes(ax)
    ax.set_xscale("log")
    ax.set_yscale("log")
    for i, (name, (cost, error)) in enumerate(lines.items()):
        log_line(ax, cost, error, name, color=shade(i, len(lines)), marker=MARKERS[i % len(MARKERS)], ms=5, lw=1.5)
    ax.set(xlabel=COSTS[against], ylabel="error at the end")
    for side, values in zip((ax.xaxis, ax.yaxis), zip(*lines.values(), strict=True), strict=True):
        log_ticks(side, np.concatenate(values))
    ax.grid(alpha=0.25)
    legend(ax)
    return ax


_EXAMPLE = '{"Parareal": [sol]}'


def _line(many: Any, reference: Any, against: str, norm: NormName, name: str) -> tuple[Any, Any]:
    """Costs and errors, from the cheapest run on."""
    if isinstance(many, Solution) or not isinstance(many, Sequence):
        raise TypeError(f"runs[{name!r}] is {described(many)}; expected a list of solutions, for example {_EXAMPLE}")
    if not many:
        raise ValueError(f"runs[{name!r}] is empty; expected a list of solutions, for example {_EXAMPLE}")
    wanted = reference.u if isinstance(reference, Solution) else reference
    points: list[tuple[float, float]] = []
    for run in many:
        end = trees.map(lambda x: x.unsqueeze(0), check_run(run, f"an entry of runs[{name!r}]").u)
        cost = run.stats.wall_time if against == "seconds" else getattr(run.stats, against)
        points.append((cost, float(distances(end, _alone(wanted), norm, samples=False)[0])))
    cost, error = np.array(sorted(points)).T
    return cost, error


def _alone(state: State) -> State:
    """With an axis of 1 in front, where it is a state."""
    return trees.map(lambda x: x.unsqueeze(0) if hasattr(x, "unsqueeze") else x, state)
