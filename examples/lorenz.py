"""The Lorenz equations in parallel in time, checked against scipy's solve_ivp.

A chaotic system is a hard case: a small error at one edge grows along the rest of the interval. Parareal needs more
iterations than on a dissipative problem, and the table shows what each of them brought. Run it with
`python examples/lorenz.py`; it writes lorenz.png and exits with 1 if the results disagree.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.integrate import solve_ivp

import parareal as pr

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
SPAN, START = (0.0, 5.0), (5.0, -5.0, 20.0)


def lorenz(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """u = (x, y, z), one state; vmap makes it many."""
    x, y, z = u
    return torch.stack([SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z])


def draw(path: Path, iterates: list[torch.Tensor], serial: pr.Solution, sol: pr.Solution) -> None:
    """Iterates of x(t) against the sequential solution, and the increments slice by slice."""
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for k, us in enumerate(iterates, 1):
        left.semilogy(serial.ts, (us - serial.us).abs().amax(1), marker=".", ms=4, lw=1, label=f"iteration {k}")
    left.set(xlabel="t", ylabel="largest error", title="Error against the sequential run, at the slice edges")
    left.legend()
    table = np.array([report.increments.numpy() for report in sol.history])
    shown = right.pcolormesh(
        np.arange(1, sol.ts.numel()),
        np.arange(1, len(table) + 1),
        np.log10(np.maximum(table, 1e-16)),
        cmap="viridis",
        vmin=-12,
        vmax=2,
    )
    right.set(xlabel="slice", ylabel="iteration", title="log10 of the increment")
    right.invert_yaxis()
    fig.colorbar(shown, ax=right)
    fig.savefig(path, dpi=120)


def main() -> int:
    """Solves, compares, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("PARAREAL_OUT", "out")))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    problem = pr.ODE(lorenz)
    u0 = torch.tensor(START, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(*SPAN, slices=40, steps=100)
    serial = pr.serial(problem, u0, grid, fine=pr.RK4())

    iterates: list[torch.Tensor] = []
    sol = pr.solve(
        problem,
        u0,
        grid,
        fine=pr.RK4(),
        coarse=pr.RK4(steps=4),
        stop=pr.Tolerance(rtol=0.0, atol=1e-8, norm="max"),
    )
    for k in range(1, sol.iterations + 1):  # a run for the picture: the iterates themselves, one after another
        stop = pr.Iterations(k)
        iterates.append(pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=pr.RK4(steps=4), stop=stop).us)

    print(f"Lorenz, t in {SPAN}, {grid.num_slices} slices of {grid.steps_per_slice[0]} RK4 steps, coarse: 4 steps")
    print(f"{'iteration':>9}{'increment':>12}{'error':>12}{'final slices':>14}{'rounds':>8}{'evaluations':>13}")
    for report, us in zip(sol.history, iterates, strict=True):
        error = (us - serial.us).abs().max().item()
        increment = report.increments.max().item()
        print(
            f"{report.iteration:>9}{increment:>12.2e}{error:>12.2e}{report.frontier:>14}"
            f"{report.rounds:>8}{report.evaluations:>13}"
        )
    print(f"sequential run: {serial.stats.rounds} rounds; in parallel: {sol.stats.rounds}. {sol.status.value}")

    reference = solve_ivp(
        lambda t, u: lorenz(torch.tensor(t), torch.from_numpy(u)).numpy(),
        SPAN,
        np.array(START),
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
    )
    against_serial = (sol.us - serial.us).abs().max().item()
    against_scipy = np.abs(sol.u.numpy() - reference.y[:, -1]).max()
    print(f"largest difference to the sequential run: {against_serial:.1e}")
    print(f"difference to scipy's DOP853 at the end: {against_scipy:.1e}")
    draw(out / "lorenz.png", iterates, serial, sol)
    print(f"picture: {out / 'lorenz.png'}")
    agree = against_serial < 1e-7 and against_scipy < 1e-4
    if not agree:
        print("the results disagree", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
