"""A Kepler orbit of eccentricity 0.6, checked against its exact solution and its energy.

The error of an orbit grows along it, since a wrong energy means a wrong period. The grid is uneven: its points are
uniform in the eccentric anomaly, so that there are many of them where the planet is fast. Run it with
`python examples/kepler.py`; it exits with 1 if the results disagree.
"""

from __future__ import annotations

import math
import sys

import torch

import parareal as pr

ECCENTRICITY, TURNS, SLICES, STEPS = 0.6, 2, 32, 12


def gravity(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """u = (x, y, vx, vy), one state."""
    position, velocity = u[:2], u[2:]
    return torch.cat([velocity, -position / position.norm() ** 3])


def energy(u: torch.Tensor) -> torch.Tensor:
    """Of each of some states, (n, 4)."""
    return 0.5 * (u[:, 2:] ** 2).sum(1) - 1 / u[:, :2].norm(dim=1)


def setup() -> tuple[pr.ODE, torch.Tensor, pr.TimeGrid, torch.Tensor]:
    """The problem, its initial state, the grid, and the exact positions at the slice edges."""
    anomaly = torch.linspace(0.0, 2 * math.pi * TURNS, SLICES * STEPS + 1, dtype=torch.float64)
    times = anomaly - ECCENTRICITY * anomaly.sin()  # Kepler's equation
    grid = pr.TimeGrid.from_points(times, slices=SLICES)
    start = math.sqrt((1 + ECCENTRICITY) / (1 - ECCENTRICITY))
    u0 = torch.tensor([1 - ECCENTRICITY, 0.0, 0.0, start], dtype=torch.float64)
    at = anomaly[list(grid.bounds)]
    exact = torch.stack([at.cos() - ECCENTRICITY, math.sqrt(1 - ECCENTRICITY**2) * at.sin()], 1)
    return pr.ODE(gravity), u0, grid, exact


def main() -> int:
    """Solves, compares, prints."""
    problem, u0, grid, exact = setup()
    fine = pr.DormandPrince()
    serial = pr.serial(problem, u0, grid, fine=fine)
    stop = pr.Tolerance(rtol=1e-8, atol=1e-10)
    sol = pr.solve(problem, u0, grid, fine=fine, coarse=pr.RK4(steps=2), stop=stop, schedule=pr.Wavefront())

    to_serial = (sol.us - serial.us).abs().max().item()
    to_exact = (sol.us[:, :2] - exact).abs().max().item()
    drift = (energy(sol.us) - energy(u0[None])).abs().max().item()
    print(f"Kepler orbit, eccentricity {ECCENTRICITY}, {TURNS} turns, {SLICES} slices of {STEPS} steps")
    print(f"steps from {grid.points.diff().min().item():.3f} to {grid.points.diff().max().item():.3f}")
    print(f"iterations: {sol.iterations}; rounds: {serial.stats.rounds} in sequence, {sol.stats.rounds} in parallel")
    print(f"largest difference to the sequential run {to_serial:.1e}, to the exact orbit {to_exact:.1e}")
    print(f"largest change of the energy {drift:.1e}")
    agree = to_serial < 1e-6 and to_exact < 1e-4 and drift < 1e-5
    if not agree:
        print("the results disagree", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
