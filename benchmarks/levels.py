"""Rounds of two levels and of three, for 1,000 to 10,000 slices: where the coarse sweep is what takes the time.

Two levels sweep from slice to slice. Under `Barrier` every iteration waits for a sweep over all slices; `Wavefront`
lets iterations follow one another, and so waits for one sweep in all (its rounds are computed from the iterations,
with `theory.rounds`). Three levels are `pr.Multilevel`: blocks of about sqrt(N / 2) slices, and a coarser propagator
from block to block. `Relaxed` is FCF-relaxation. Run it with `python benchmarks/levels.py`; `--slices 1000` is quick.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

import parareal as pr

F64 = {"dtype": torch.float64}
STEPS = 8


def pendulum(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """A damped pendulum that is driven."""
    return torch.stack([u[:, 1], -torch.sin(u[:, 0]) - 0.2 * u[:, 1] + torch.cos(t)], 1)


def fitzhugh_nagumo(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """A neuron that fires."""
    v, w = u.unbind(1)
    return torch.stack([v - v * v * v / 3 - w + 0.5, 0.08 * (v + 0.7 - 0.8 * w)], 1)


WAVES = torch.arange(1, 33, **F64)


def diffusion() -> pr.SemilinearODE:
    """Heat in a rod with a source that depends on it, in 32 sine waves whose rates go up to 20."""
    return pr.SemilinearODE(
        -0.02 * WAVES**2, lambda t, u: torch.sin(3 * t[:, None] + u.flip(1)) / WAVES, batching="native"
    )


PROBLEMS: dict[str, dict[str, Any]] = {
    "pendulum": {
        "problem": pr.ODE(pendulum, batching="native"),
        "u0": torch.tensor([1.0, 0.0], **F64),
        "span": 20.0,
        "fine": pr.RK4(),
        "coarse": pr.Heun(),
    },
    "FitzHugh-Nagumo": {
        "problem": pr.ODE(fitzhugh_nagumo, batching="native"),
        "u0": torch.tensor([-1.0, 1.0], **F64),
        "span": 40.0,
        "fine": pr.RK4(),
        "coarse": pr.Heun(),
    },
    "diffusion": {
        "problem": diffusion(),
        "u0": 1 / WAVES,
        "span": 10.0,
        "fine": pr.ETDRK4(),
        "coarse": pr.ETDRK2(),
    },
}


def ways(coarse: pr.Integrator) -> dict[str, pr.Correction]:
    """Two levels, with a sweep from slice to slice, and three."""
    return {
        "two levels": pr.Coarse(coarse),
        "two levels, FCF": pr.Relaxed(coarse),
        "three levels": pr.Multilevel(coarse, coarse),
        "three, two inner iterations": pr.Multilevel(coarse, coarse, iterations=2),
        "three, inner FCF": pr.Multilevel(coarse, pr.Relaxed(coarse)),
        "three levels, FCF": pr.Relaxed(pr.Multilevel(coarse, coarse)),
    }


def main() -> int:
    """Runs all, prints the table."""
    parser = argparse.ArgumentParser(description="Rounds of two and of three levels.")
    parser.add_argument("--slices", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'problem':<17}{'slices':>7}  {'':<28}{'iterations':>10}{'rounds':>8}{'of serial':>10}{'evaluations':>12}")
    for name in chosen.problems:
        case = PROBLEMS[name]
        for slices in chosen.slices:
            grid = pr.TimeGrid.uniform(0.0, case["span"], slices=slices, steps=STEPS)
            found: torch.Tensor | None = None
            for way, coarse in ways(case["coarse"]).items():
                begun = time.perf_counter()
                options = {"fine": case["fine"], "coarse": coarse, "schedule": pr.Barrier(), "max_iterations": 30}
                with torch.no_grad():
                    sol = pr.solve(case["problem"], case["u0"], grid, throw=False, **options)
                serial = sol.serial_rounds
                assert serial is not None
                apart = 0.0 if found is None else float((sol.us - found).abs().max() / found.abs().max())
                found = sol.us if found is None else found
                note = "" if sol.converged and apart < 1e-2 else f"  {sol.status.name}, apart {apart:.0e}"
                rows = [(way, sol.stats.rounds)]
                if isinstance(coarse, pr.Coarse):
                    pipelined = pr.theory.rounds(
                        pr.Wavefront(), slices, STEPS, int(sol.iterations), fine=case["fine"], coarse=case["coarse"]
                    )
                    rows.append(("two levels, Wavefront", int(pipelined)))
                for what, rounds in rows:
                    print(
                        f"{name:<17}{slices:>7}  {what:<28}{int(sol.iterations):>10}{rounds:>8}{rounds / serial:>10.3f}"
                        f"{sol.stats.evaluations:>12}{note}",
                        flush=True,
                    )
                print(f"  {time.perf_counter() - begun:.1f} s", file=sys.stderr, flush=True)
    print(f"{STEPS} fine steps a slice; rounds 'of serial': over those of the serial run; default tolerance")
    return 0


if __name__ == "__main__":
    sys.exit(main())
