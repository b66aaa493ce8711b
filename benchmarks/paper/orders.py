"""(a) Iterations, rounds of both orders, evaluations and wall time, by the number of steps and the solver.
(e) The same on long trajectories, beside the default: does the gain grow, or level off?
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from paper import networks
from paper.report import Report, small
from paper.runs import PIPELINED, SRDS, VANILLA, Kept, Methods, side_by_side

STEPS = (25, 100, 196, 500, 961, 1024)
SOLVERS = {"DDIM": "ddim", "DDPM": "ddpm", "DPM-Solver-2": "dpm2"}
ORDERS: Methods = {"vanilla": {**SRDS, "schedule": VANILLA}, "pipelined": {**SRDS, "schedule": PIPELINED}}


def check_laws(found: dict[str, Kept]) -> None:
    """What must hold of SRDS whatever the network: iterations end with the slices, and pipelining never takes longer.

    Raises:
        AssertionError: It does not.
    """
    vanilla, pipelined = found["vanilla"], found["pipelined"]
    for one in (vanilla, pipelined):
        assert max(one.iterations) <= one.slices, f"{one.iterations} iterations of {one.slices} slices"
    for a, b in zip(vanilla.rounds, pipelined.rounds, strict=True):
        assert b < a, f"{b} rounds pipelined, {a} in the vanilla order"


def orders(
    report: Report,
    names: Sequence[str],
    seeds: int,
    steps: Sequence[int] = STEPS,
    solvers: Sequence[str] = tuple(SOLVERS),
) -> None:
    """Experiment (a)."""
    table = report.table(
        "a_orders",
        f"SRDS by steps and solver: one sample, seeds: {seeds}, rtol 1e-3",
        (
            *("network", "solver", "N", "slices", "iterations", "rounds, vanilla", "pipelined"),
            *(
                "N / rounds, vanilla",
                "pipelined",
                "evaluations / N",
                "time ratio, vanilla",
                "pipelined",
                "largest error",
            ),
        ),
        "Means of all seeds; time ratio is serial / parallel, median [least .. most].",
    )
    for name in names:
        network = networks.load(name)
        for solver in solvers:
            for count in steps:
                found = side_by_side(network, ORDERS, range(seeds), count, SOLVERS[solver])
                check_laws(found)
                a, b = found["vanilla"], found["pipelined"]
                made = [statistics.mean(one.rounds) for one in (a, b)]
                table.add(
                    *(name, solver, count, a.slices, f"{statistics.mean(a.iterations):.1f}"),
                    *(f"{one:.1f}" for one in made),
                    *(f"{count / one:.1f}" for one in made),
                    f"{statistics.mean(b.evaluations) / count:.1f}",
                    *(a.ratio, b.ratio, small(max(a.errors + b.errors))),
                )


LONG = (1000, 2000, 5000, 10000)
METHODS: Methods = {
    "SRDS, pipelined": {**SRDS, "schedule": PIPELINED},
    "default, width 100": {},
    "default, width 400": {"width": 400},
    "Picard, width 100": {"coarse": "none", "width": 100},
}


def long(report: Report, names: Sequence[str], seeds: int, steps: Sequence[int] = LONG) -> None:
    """Experiment (e)."""
    table = report.table(
        "e_long",
        f"Long trajectories: one sample, DDIM, seeds: {seeds}, rtol 1e-3",
        ("network", "method", "N", "rounds", "N / rounds", "evaluations / N", "time ratio", "largest error"),
        "Means of all seeds; time ratio is serial / parallel, median [least .. most].",
    )
    curves: dict[str, list[tuple[int, float, float]]] = {name: [] for name in METHODS}
    for name in names:
        network = networks.load(name)
        for count in steps:
            methods = {
                key: {**one, **({"width": count} if one.get("width", 0) > count else {})}
                for key, one in METHODS.items()
            }
            for method, kept in side_by_side(network, methods, range(seeds), count).items():
                made = statistics.mean(kept.rounds)
                work = statistics.mean(kept.evaluations) / count
                table.add(
                    *(name, method, count, f"{made:.1f}", f"{count / made:.1f}", f"{work:.1f}"),
                    *(kept.ratio, small(max(kept.errors))),
                )
                if name == names[0]:
                    curves[method].append((count, count / made, statistics.median(kept.ratios)))
    draw(report, curves)


def draw(report: Report, curves: dict[str, list[tuple[int, float, float]]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharex=True)
    for marker, (method, points) in zip("os^D", curves.items(), strict=False):
        for ax, place in zip(axes, (1, 2), strict=True):
            ax.loglog([p[0] for p in points], [p[place] for p in points], marker=marker, label=method)
    axes[0].set(xlabel="steps", ylabel="steps / rounds")
    axes[1].set(xlabel="steps", ylabel="time of the serial run / of this one")
    axes[1].axhline(1.0, color="0.6", ls=":")
    axes[0].legend(frameon=False, fontsize="small")
    report.picture("e_long", figure)
