"""Geometric Brownian motion: many paths at once, in parallel in time, each on its own noise.

The noise is a function of a seed, so that coarse and fine solver, and the sequential run, all see the same path. Each
path is a sample of a batch and stops on its own. The result is compared with the sequential run and with the exact
solution on the same noise. Run it with `python examples/geometric_brownian_motion.py`; it exits with 1 if the results
disagree.
"""

from __future__ import annotations

import sys

import torch

import parareal as pr

DRIFT, VOLATILITY, PATHS, SLICES, STEPS = 0.3, 0.5, 256, 16, 16


def setup() -> tuple[pr.SDE, torch.Tensor, pr.TimeGrid]:
    """The problem, whose noise follows from a seed, the initial states and the grid."""
    problem = pr.SDE(
        lambda t, u: DRIFT * u,
        lambda t, u: VOLATILITY * u,
        noise="diagonal",
        generator=torch.Generator().manual_seed(0),
    )
    u0 = torch.ones(PATHS, 1, dtype=torch.float64)
    return problem, u0, pr.TimeGrid.uniform(0.0, 1.0, slices=SLICES, steps=STEPS)


def main() -> int:
    """Solves, compares, prints."""
    problem, u0, grid = setup()
    stop = pr.Tolerance(rtol=1e-6, atol=0.0)
    print(f"{PATHS} paths, {SLICES} slices of {STEPS} steps")
    print(f"{'method':<16}{'iterations':>12}{'rounds':>8}{'in sequence':>13}{'to serial':>11}{'to exact':>10}")
    agree = True
    for fine, allowed in ((pr.EulerMaruyama(), 0.05), (pr.Milstein(), 0.01)):
        serial = pr.serial(problem, u0, grid, fine=fine, samples=True)
        sol = pr.solve(problem, u0, grid, fine=fine, coarse=fine, stop=stop, samples=True, schedule=pr.Wavefront())
        path = pr.BrownianPath(grid.points, problem.seed)
        ends = grid.points[[0]], grid.points[[-1]]
        w = torch.stack([path.increments(*ends, u0[:1], keys=key[None])[0] for key in path.keys(PATHS)])
        exact = torch.exp((DRIFT - VOLATILITY**2 / 2) + VOLATILITY * w)
        to_serial = ((sol.u - serial.u).abs() / serial.u.abs()).max().item()
        to_exact = (sol.u - exact).abs().mean().item()
        made = torch.as_tensor(sol.iterations)
        shown = f"{int(made.min())} ... {int(made.max())}"
        print(
            f"{type(fine).__name__:<16}{shown:>12}{sol.stats.rounds:>8}{serial.stats.rounds:>13}"
            f"{to_serial:>11.1e}{to_exact:>10.1e}"
        )
        agree = agree and to_serial < 1e-5 and to_exact < allowed
    if not agree:
        print("the results disagree", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
