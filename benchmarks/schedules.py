"""Rounds and evaluations of the schedules: what a bound on speculative work costs, and what it saves.

Every run asks for the same tolerance and has the same slices; what differs is which lanes may start when. `Barrier` can
take more rounds than the serial run, `Wavefront` cannot, and its ``ahead`` bounds by how many iterations slices may be
ahead of the end of the grid. All counts are those of the engine, and do not depend on the machine but for rounding. Run
it with `python benchmarks/schedules.py`; the default of `pr.solve` rests on its last table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

BOUNDS = (0, 2, 4, 6, 8)
GRIDS = ((16, 16), (32, 8), (64, 5), (128, 5))
IMPLICIT = ((16, 2),)
SCHEDULES: dict[str, pr.Schedule] = {
    "Barrier": pr.Barrier(),
    **{f"ahead={a}": pr.Wavefront(ahead=a) for a in BOUNDS},
    "Wavefront": pr.Wavefront(),
}


@dataclass(frozen=True)
class Case:
    """One problem with one way to solve it."""

    name: str
    grid: tuple[int, int]
    solve: Callable[[pr.Schedule], pr.Solution]
    serial: int


# --- problems --------------------------------------------------------------------------------------------------------


def lotka_volterra(t: Tensor, u: Tensor) -> Tensor:
    x, y = u.unbind(-1)
    return torch.stack([1.5 * x - x * y, x * y - 3.0 * y], -1)


def lorenz(t: Tensor, u: Tensor) -> Tensor:
    x, y, z = u.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


def kepler(t: Tensor, u: Tensor) -> Tensor:
    q, v = u[..., :2], u[..., 2:]
    return torch.cat([v, -q / q.square().sum(-1, keepdim=True) ** 1.5], -1)


def heat(t: Tensor, u: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(u, (1, 1))
    return 36 * (padded[..., 2:] - 2 * u + padded[..., :-2])


def dissipative(t: Tensor, u: Tensor) -> Tensor:
    return -u + torch.sin(5 * t)[:, None]


Problem = tuple[Callable[..., Tensor], list[float], float, pr.Integrator, pr.Integrator]
PROBLEMS: dict[str, Problem] = {
    "Lotka-Volterra": (lotka_volterra, [10.0, 5.0], 10.0, pr.RK4(), pr.RK4()),
    "Lorenz": (lorenz, [5.0, -5.0, 20.0], 2.0, pr.RK4(), pr.RK4()),
    "Kepler": (kepler, [0.5, 0.0, 0.0, math.sqrt(3.0)], 6.0, pr.RK4(), pr.RK4()),
    "heat": (heat, [math.sin(math.pi * (i + 1) / 6) for i in range(5)], 0.5, pr.ImplicitEuler(), pr.ImplicitEuler()),
    "dissipative": (dissipative, [1.0, -1.0], 8.0, pr.RK4(), pr.Euler()),
}


def equations() -> Iterator[Case]:
    for name, (f, start, end, fine, coarse) in PROBLEMS.items():
        for slices, steps in IMPLICIT if fine.implicit else GRIDS:
            problem, u0 = pr.ODE(f, "native"), torch.tensor(start, dtype=torch.float64)
            grid = pr.TimeGrid.uniform(0.0, end, slices, steps)
            serial = pr.serial(problem, u0, grid, fine=fine)

            def run(
                schedule: pr.Schedule,
                problem: pr.ODE = problem,
                u0: Tensor = u0,
                grid: pr.TimeGrid = grid,
                fine: pr.Integrator = fine,
                coarse: pr.Integrator = coarse,
            ) -> pr.Solution:
                stop = pr.Tolerance(1e-6, 1e-9)
                return pr.solve(problem, u0, grid, fine=fine, coarse=coarse, schedule=schedule, stop=stop)

            yield Case(name, (slices, steps), run, serial.stats.rounds)


def diffusion() -> Iterator[Case]:
    """One image of the packaged network, with the solver's own step as coarse propagator."""
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = da.load_digits().with_conditioning(label=torch.tensor([3]))
    for steps, slices in ((64, 8), (100, 10), (100, 25), (100, 50)):

        def run(schedule: pr.Schedule, steps: int = steps, slices: int = slices) -> pr.Solution:
            return da.sample(model, noise, steps, coarse="same", slices=slices, schedule=schedule).solution

        yield Case("digits", (slices, steps // slices), run, steps)


# --- tables ----------------------------------------------------------------------------------------------------------


def rows(cases: Iterator[Case], schedules: dict[str, pr.Schedule]) -> Iterator[tuple[Case, Any, dict[str, pr.Stats]]]:
    for case in cases:
        found = {name: case.solve(schedule) for name, schedule in schedules.items()}
        made: Any = found["Wavefront"].iterations
        yield case, int(made if isinstance(made, int) else made.max()), {k: s.stats for k, s in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="problems whose name contains this")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    every: list[tuple[Case, dict[str, pr.Stats]]] = []
    shown = ("Barrier", "ahead=2", "ahead=4", "ahead=6", "Wavefront")
    print(f"{'':19} {'N':>4} {'S':>3} {'k':>3} {'serial':>7}" + "".join(f"{name:>16}" for name in shown))
    for case, made, stats in rows(
        (c for part in (equations(), diffusion()) for c in part if only in c.name), SCHEDULES
    ):
        cells = "".join(f"{stats[name].rounds:>7}{stats[name].evaluations:>9}" for name in shown)
        print(f"{case.name:19} {case.grid[0]:4} {case.grid[1]:3} {made:3} {case.serial:7}{cells}", flush=True)
        every.append((case, stats))
    print()
    print("over all of them: rounds against those of Wavefront, evaluations against those of Barrier, and how often")
    print("more rounds were taken than by the serial run")
    print(f"{'':10} {'rounds: mean':>13} {'worst':>6} {'evaluations: mean':>18} {'worst':>6} {'lost':>9}")
    for name in SCHEDULES:
        more = [s[name].rounds / s["Wavefront"].rounds for _, s in every]
        work = [s[name].evaluations / s["Barrier"].evaluations for _, s in every]
        lost = sum(s[name].rounds > case.serial for case, s in every)
        print(
            f"{name:10} {mean(more):13.2f} {max(more):6.2f} {mean(work):18.2f} {max(work):6.2f}"
            f" {lost:4} of {len(every)}"
        )


def mean(values: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


if __name__ == "__main__":
    main()
