"""Runs that start from a neighbouring run, ``start=``: the same results in fewer rounds.

Four places where one run follows another that is nearly the same: a slider for guidance; a preview of 12 steps that
becomes the final picture of 50; frames whose noise moves by 5%; and a control problem that is solved until its answer
is found. Each is solved cold and warm, and both are held to the sequential run. Run it with
`python examples/warm_start.py`; it exits with 1 if a result is off.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

RTOL, STEPS, LABEL, SCALE = 1e-3, 50, 3, 7.5
Run = Callable[[pr.Solution | None], tuple[Tensor, pr.Solution]]
"""One run of a series, from an earlier one or cold: what is wanted of it, and the run itself."""


def guided(scale: float) -> da.DiffusionModel:
    """The packaged network, guided to one digit."""
    return da.guided(da.load_digits(), scale, {"label": torch.tensor([LABEL])}, {"label": torch.tensor([10])})


def normals(seed: int) -> Tensor:
    return torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def sampled(scale: float, noise: Tensor, steps: int = STEPS) -> tuple[Run, Tensor]:
    """A run of the sampler, and the sequential sampler's result."""
    model = guided(scale)

    def run(start: pr.Solution | None) -> tuple[Tensor, pr.Solution]:
        out = da.sample(model, noise, steps, rtol=RTOL, start=start)
        return out.samples, out.solution

    return run, da.sample(model, noise, steps, parallel=False).samples


def slider() -> list[tuple[Run, Tensor]]:
    """Guidance from 7 to 8."""
    return [sampled(scale, normals(0)) for scale in (7.0, 7.25, 7.5, 7.75, 8.0)]


def preview() -> list[tuple[Run, Tensor]]:
    """First 12 steps, then 50: a start on another grid is interpolated."""
    return [sampled(SCALE, normals(0), steps) for steps in (12, STEPS)]


def frames() -> list[tuple[Run, Tensor]]:
    """Noise that moves by 5% from frame to frame, at constant variance."""
    noise, found = normals(0), list[tuple[Run, Tensor]]()
    for frame in range(5):
        found.append(sampled(SCALE, noise))
        noise = (1 - 0.05**2) ** 0.5 * noise + 0.05 * normals(100 + frame)
    return found


def control(warm: bool) -> tuple[int, float, float]:
    """The force that takes a pendulum to an angle of 1, by the secant method: rounds, the force, the largest error."""
    grid, u0 = pr.TimeGrid.uniform(0.0, 6.0, slices=24, steps=8), torch.tensor([0.5, 0.0], dtype=torch.float64)
    stop, coarse = pr.Tolerance(rtol=1e-8, atol=1e-10), pr.Secant(pr.Identity(), memory=2)
    rounds, worst, last = 0, 0.0, None

    def missed(force: float) -> float:
        nonlocal rounds, worst, last

        def pendulum(t: Tensor, u: Tensor) -> Tensor:
            angle, speed = u.unbind(-1)
            return torch.stack([speed, force - torch.sin(angle) - 0.5 * speed], dim=-1)

        problem = pr.ODE(pendulum, batching="native")
        sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=coarse, stop=stop, start=last)
        serial = pr.serial(problem, u0, grid, fine=pr.RK4())
        worst = max(worst, float((sol.u - serial.u).norm() / serial.u.norm()))
        rounds, last = rounds + sol.stats.rounds, sol if warm else None
        return float(sol.u[0]) - 1.0

    before, force = 0.8, 0.82
    off = missed(before)
    for _ in range(6):
        now = missed(force)
        if abs(now) < 1e-6 or now == off:
            break
        before, force, off = force, force - now * (force - before) / (now - off), now
    return rounds, force, worst


def compared(name: str, runs: list[tuple[Run, Tensor]]) -> float:
    """Prints the rounds of a series, cold and each from the one before; returns the largest error."""
    cold, warm, worst, last = list[int](), list[int](), 0.0, None
    for run, reference in runs:
        plain = run(None)
        started = run(last)
        for samples, _ in (plain, started):
            worst = max(worst, ((samples - reference).norm() / reference.norm()).item())
        cold.append(plain[1].stats.rounds)
        warm.append(started[1].stats.rounds)
        last = started[1]
    saved = 1 - sum(warm[1:]) / sum(cold[1:])
    print(f"{name:<26}{' '.join(map(str, cold)):>18}{' '.join(map(str, warm)):>18}{saved:>8.0%}{worst:>10.1e}")
    return worst


def main() -> int:
    """Solves each series cold and warm, prints, compares."""
    torch.set_num_threads(1)
    print(f"rounds, run by run{'cold':>26}{'warm':>18}{'saved':>8}{'error':>10}")
    worst = max(
        compared("guidance 7, 7.25, ... 8", slider()),
        compared("12 steps, then 50", preview()),
        compared("noise that moves by 5%", frames()),
    )
    (cold, force, off), (warm, again, also) = control(warm=False), control(warm=True)
    print(f"{'control of a pendulum':<26}{cold:>18}{warm:>18}{1 - warm / cold:>8.0%}{max(off, also):>10.1e}")
    print(f"the force is {force:.6f}")
    agree = worst <= RTOL and max(off, also) < 1e-7 and abs(force - again) < 1e-6 and warm < cold
    if not agree:
        print("the results disagree", file=sys.stderr)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
