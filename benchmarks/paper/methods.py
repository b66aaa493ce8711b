"""(g) SRDS beside Picard, the default, Newton, warm starts and the other samplers of the comparison."""

from __future__ import annotations

from collections.abc import Sequence

import samplers

from paper.report import Report, small


def methods(
    report: Report, names: Sequence[str], seeds: int, steps: Sequence[int] = (25, 50, 100), strong: bool = True
) -> None:
    """The rows of `benchmarks/samplers.py`, network by network."""
    table = report.table(
        "g_methods",
        f"All samplers that are parallel in time: one sample, seeds: {seeds}, rtol 1e-3",
        (
            "network",
            "solver",
            "guidance",
            "N",
            "method",
            "promise",
            "rounds",
            "evaluations",
            "largest error",
            "within 1e-3",
        ),
        "Means of all seeds; the sequential run takes N of both.",
    )
    for name in names:
        cells: dict[tuple[str, str], dict[tuple[float, int], samplers.Row]] = {}
        for solver, ways in (("ddim", samplers.ODE), ("ddpm", samplers.SDE)):
            for scale in (1.0, 7.5) if strong else (1.0,):
                for n in steps:
                    for method, row in samplers.compare(ways, solver, scale, n, seeds, name).items():
                        cells.setdefault((solver.upper(), method), {})[scale, n] = row
                        within = f"{row.within}/{len(row.errors)}" if row.errors else "-"
                        table.add(
                            *(name, solver.upper(), f"{scale:g}", n, method, row.promise),
                            *(f"{row.mean_rounds:.1f}", f"{row.mean_evaluations:.0f}"),
                            *(small(max(row.errors)) if row.errors else "another sample", within),
                        )
        summary(report, name, seeds, cells)


def summary(
    report: Report, name: str, seeds: int, cells: dict[tuple[str, str], dict[tuple[float, int], samplers.Row]]
) -> None:
    """One row a method."""
    settings = list(next(iter(cells.values())))
    table = report.table(
        f"g_summary_{name}",
        f"Rounds (evaluations) of each method: {name}, one sample, seeds: {seeds}, rtol 1e-3",
        ("solver", "method", *(f"{n} steps, guidance {scale:g}" for scale, n in settings), "promise"),
    )
    for (solver, method), rows in cells.items():
        made = (f"{rows[key].mean_rounds:.1f} ({rows[key].mean_evaluations:.0f})" for key in settings)
        table.add(solver, method, *made, rows[settings[0]].promise)
