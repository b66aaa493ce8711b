"""The FitzHugh-Nagumo neuron, checked against scipy; what the table tells is which coarse solver is worth its rounds.

Spikes are fast and the rest is slow: a coarse solver that misses a spike costs iterations. Run it with
`python examples/fitzhugh_nagumo.py`; it exits with 1 if the results disagree.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from scipy.integrate import solve_ivp

import parareal as pr

SPAN, SLICES, STEPS = (0.0, 40.0), 40, 40
COARSE: dict[str, pr.Integrator | pr.Correction] = {
    "Euler": pr.Euler(),
    "Heun": pr.Heun(),
    "RK4": pr.RK4(),
    "RK4, 4 steps a slice": pr.RK4(steps=4),
    "Picard with a secant, free": pr.Secant(pr.Identity()),
}


def neuron(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """u = (v, w), one state."""
    v, w = u
    return torch.stack([v - v**3 / 3 - w + 0.5, 0.08 * (v + 0.7 - 0.8 * w)])


def main() -> int:
    """Solves, compares, prints."""
    problem, u0 = pr.ODE(neuron), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    grid = pr.TimeGrid.uniform(*SPAN, slices=SLICES, steps=STEPS)
    serial = pr.serial(problem, u0, grid, fine=pr.RK4())
    stop = pr.Tolerance(rtol=1e-8, atol=1e-10)
    print(
        f"FitzHugh-Nagumo, t in {SPAN}, {SLICES} slices of {STEPS} RK4 steps; in sequence {serial.stats.rounds} rounds"
    )
    print(f"{'coarse':<28}{'iterations':>11}{'rounds':>8}{'evaluations':>13}{'error':>10}")
    worst = 0.0
    for name, one in COARSE.items():
        sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=one, stop=stop, schedule=pr.Wavefront())
        error = (sol.us - serial.us).abs().max().item()
        worst = max(worst, error)
        print(f"{name:<28}{sol.iterations:>11}{sol.stats.rounds:>8}{sol.stats.evaluations:>13}{error:>10.1e}")
    reference = solve_ivp(
        lambda t, u: neuron(torch.tensor(t), torch.from_numpy(u)).numpy(), SPAN, u0.numpy(), rtol=1e-11, atol=1e-11
    )
    to_scipy = np.abs(serial.u.numpy() - reference.y[:, -1]).max()
    print(f"difference to scipy's solve_ivp at the end: {to_scipy:.1e}")
    agree = worst < 1e-6 and to_scipy < 1e-5
    if not agree:
        print("the results disagree", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
