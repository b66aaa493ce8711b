"""The heat equation with an implicit coarse solver, checked against the exact solution of the semidiscrete equation.

A stiff problem: explicit steps of the coarse solver's length would blow up. With an L-stable coarse method, one step a
slice, Parareal contracts the error in every iteration. Run it with `python examples/heat.py`; it exits with 1 if the
results disagree.
"""

from __future__ import annotations

import math
import sys

import torch

import parareal as pr

POINTS, SLICES, STEPS, END = 63, 32, 16, 0.4


def setup() -> tuple[pr.ODE, torch.Tensor, pr.TimeGrid, torch.Tensor]:
    """The problem, its initial state, the grid, and the matrix of second differences."""
    x = torch.linspace(0.0, 1.0, POINTS + 2, dtype=torch.float64)[1:-1]
    width = 1.0 / (POINTS + 1)
    off = torch.ones(POINTS - 1, dtype=torch.float64)
    laplacian = (torch.diag(off, 1) + torch.diag(off, -1) - 2 * torch.eye(POINTS, dtype=torch.float64)) / width**2
    problem = pr.ODE(lambda t, u: u @ laplacian, batching="native")
    u0 = torch.sin(math.pi * x) + 0.5 * torch.sin(3 * math.pi * x)
    return problem, u0, pr.TimeGrid.uniform(0.0, END, slices=SLICES, steps=STEPS), laplacian


def main() -> int:
    """Solves, compares, prints."""
    problem, u0, grid, laplacian = setup()
    fine, stop = pr.SDIRK2(), pr.Tolerance(rtol=0.0, atol=1e-6)
    serial = pr.serial(problem, u0, grid, fine=fine)
    sol = pr.solve(problem, u0, grid, fine=fine, coarse=pr.ImplicitEuler(), stop=stop, schedule=pr.Wavefront())

    values, vectors = torch.linalg.eigh(laplacian)
    exact = vectors @ ((values * END).exp() * (vectors.T @ u0))
    print(f"heat equation, {POINTS} points, {SLICES} slices of {STEPS} steps of SDIRK2, coarse: implicit Euler")
    print(f"{'iteration':>9}{'largest increment':>20}{'slices final':>14}")
    for report in sol.history:
        print(f"{report.iteration:>9}{report.increments.max().item():>20.2e}{report.frontier:>14}")
    to_serial = ((sol.u - serial.u).norm() / serial.u.norm()).item()
    to_exact = ((sol.u - exact).norm() / exact.norm()).item()
    print(f"rounds: {serial.stats.rounds} in sequence, {sol.stats.rounds} in parallel, of implicit steps each")
    print(f"relative difference to the sequential run {to_serial:.1e}, to the exact solution {to_exact:.1e}")
    try:
        pr.solve(problem, u0, grid, fine=fine, coarse=pr.Euler(), stop=stop, max_iterations=5)
        print("with explicit Euler as coarse solver: converged, which was not expected")
        explicit_fails = False
    except pr.SolveError as error:
        grown = error.solution.history[-1].increments.max().item()
        print(f"with explicit Euler as coarse solver the increment is {grown:.1e} after 5 iterations")
        explicit_fails = True
    agree = to_serial < 1e-4 and to_exact < 1e-3 and explicit_fails
    if not agree:
        print("the results disagree", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
