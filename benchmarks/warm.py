"""Rounds of `diffusion_adapters.sample` with ``start=``: from a run of other guidance, other noise or other steps.

The packaged digits with DDIM at guidance 7.5; seeds run one by one. Every error is relative to the sequential run's
samples, in the root mean square, and all are asked for 1e-3. Run it with `python benchmarks/warm.py`; `--seeds 2` is
quick.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

RTOL = 1e-3
SCALE = 7.5
TARGET = 0.22
"""What part of the rounds is to be saved in the first two rows of 25 and of 50 steps."""


def model(scale: float, seed: int) -> da.DiffusionModel:
    """The packaged network, guided to the digit ``seed % 10``."""
    label, none = {"label": torch.tensor([seed % 10])}, {"label": torch.tensor([10])}
    digits = da.load_digits()
    return digits.with_conditioning(**label) if scale == 1.0 else da.guided(digits, scale, label, none)


def normals(seed: int) -> Tensor:
    return torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def nearby(noise: Tensor, seed: int, part: float) -> Tensor:
    """Noise that is off by that part, of the same variance."""
    other = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1000 + seed))
    return (1 - part * part) ** 0.5 * noise + part * other


Earlier = Callable[[float, int, int], da.SampleResult]
"""The earlier run, of a guidance scale, a seed and a number of steps."""

KINDS: dict[str, Earlier] = {
    "guidance off by 7%": lambda scale, seed, steps: da.sample(model(scale / 1.07, seed), normals(seed), steps),
    "noise off by 5%": lambda scale, seed, steps: da.sample(
        model(scale, seed), nearby(normals(seed), seed, 0.05), steps
    ),
    "a preview of 12 steps": lambda scale, seed, steps: da.sample(model(scale, seed), normals(seed), 12),
    "the same run": lambda scale, seed, steps: da.sample(model(scale, seed), normals(seed), steps),
    "another label": lambda scale, seed, steps: da.sample(model(scale, seed + 1), normals(seed), steps),
}


def relative(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def row(name: str, earlier: Earlier, scale: float, steps: int, seeds: int) -> tuple[float, bool]:
    """Prints a row; returns the part of the rounds that is saved, and whether all are within the tolerance."""
    cold, warm, errors, estimates = [], [], [], []
    for seed in range(seeds):
        now, noise = model(scale, seed), normals(seed)
        serial = da.sample(now, noise, steps, parallel=False).samples
        first: pr.Solution = earlier(scale, seed, steps).solution
        cold.append(da.sample(now, noise, steps, rtol=RTOL).solution.stats.rounds)
        out = da.sample(now, noise, steps, rtol=RTOL, start=first)
        warm.append(out.solution.stats.rounds)
        errors.append(relative(out.samples, serial))
        estimates.append(out.solution.converged)
    saved = 1 - statistics.mean(warm) / statistics.mean(cold)
    within = all(error <= RTOL for error in errors) and all(estimates)
    print(
        f"{scale:5.1f} {steps:5d}  {name:22} {statistics.mean(cold):6.2f} {statistics.mean(warm):6.2f} {saved:6.0%}"
        f" {max(errors):10.1e} {'yes' if within else 'NO':>7}",
        flush=True,
    )
    return saved, within


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs="*", default=[25, 50, 100])
    parser.add_argument("--scales", type=float, nargs="*", default=[1.0, SCALE])
    args = parser.parse_args()
    print(f"digits, DDIM, {args.seeds} seeds, rtol = {RTOL:g}; rounds without and with start=\n")
    print(
        f"{'scale':>5} {'steps':>5}  {'earlier run':22} {'cold':>6} {'warm':>6} {'saved':>6} {'max error':>10} within"
    )
    missed = 0
    for scale in args.scales:
        for steps in args.steps:
            for i, (name, earlier) in enumerate(KINDS.items()):
                if scale == 1.0 and i == 0:
                    continue  # without guidance there is none to change
                saved, within = row(name, earlier, scale, steps, args.seeds)
                missed += not within or (scale == SCALE and steps <= 50 and i < 2 and saved < TARGET)
    print(f"\n{'targets reached' if not missed else f'{missed} rows miss their target'}")
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
