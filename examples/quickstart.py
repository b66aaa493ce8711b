"""Digits from a diffusion model, sampled in parallel in time, checked against the sequential sampler.

The network ships with the package. For one digit `plan` measures which window is quickest on this machine; what has
indeed taken less time than the sequential run, or that nothing has, stands in the first row. Then ten digits by DDIM
with N = 1024, 100 and 25 steps are drawn in this process step after step; in a window of slices that slides along, with
a coarse flow that costs no network calls (what `sample` does by default); and as Self-Refining Diffusion Samplers
(SRDS, arXiv 2412.08292) does it, about sqrt(N) slices and one coarse step in each, pipelined. A last run goes on until
every slice is final, after which only rounding is left.

Run it with `make demo` or `python examples/quickstart.py`. It prints a table, writes quickstart.png, and exits with 1
if the samples disagree.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

STEPS = (1024, 100, 25)
HERE, WIDTHS, BUDGET = 1024, (16, 50, 100, 200), 15.0  # steps, widths to try, seconds of planning
METHODS: dict[str, dict[str, Any]] = {"window": {}, "SRDS": {"coarse": "same", "schedule": pr.Wavefront()}}
RTOL = 1e-3
ROUNDING = 1e-4  # float32 batches of different sizes, a thousand steps one after another


class Row(NamedTuple):
    """One line of the table: the two runs and how far apart their samples are."""

    name: str
    serial: da.SampleResult
    parallel: da.SampleResult
    allowed: float

    @property
    def ratio(self) -> float:
        """How many times as fast as the sequential run it was."""
        return self.serial.solution.stats.wall_time / self.parallel.solution.stats.wall_time

    @property
    def relative(self) -> float:
        """The largest error of a sample, relative to its norm."""
        difference = (self.parallel.samples - self.serial.samples).flatten(1).norm(dim=1)
        return (difference / self.serial.samples.flatten(1).norm(dim=1)).max().item()

    @property
    def largest(self) -> float:
        """The largest difference of a pixel; pixels lie between -1 and 1."""
        return (self.parallel.samples - self.serial.samples).abs().max().item()

    def __str__(self) -> str:
        serial, parallel = self.serial.solution.stats, self.parallel.solution.stats
        return (
            f"{self.name:<16}{int(self.parallel.solution.iterations.max()):>10}"
            f"{serial.rounds:>9}{parallel.rounds:>10}{serial.evaluations:>9}{parallel.evaluations:>10}"
            f"{serial.wall_time:>9.3f}{parallel.wall_time:>10.3f}{self.ratio:>8.2f}"
            f"{self.largest:>12.1e}{self.relative:>12.1e}"
        )


HEADER = (
    f"{'':<16}{'':>10}{'rounds':>19}{'evaluations':>19}{'seconds':>19}{'ratio':>8}{'difference to serial':>24}\n"
    f"{'N':<16}{'iterations':>10}" + f"{'serial':>9}{'parallel':>10}" * 3 + f"{'':>8}{'pixel':>12}{'relative':>12}"
)


def first_to_win(rows: Iterable[Row]) -> Row | None:
    """The first row that took less time than the sequential run; later ones are not made."""
    return next((row for row in rows if row.ratio > 1.0), None)


def quickest_here(model: da.DiffusionModel, noise: Tensor, steps: int) -> Row | None:
    """What `plan` finds quickest on this machine, else the default: the median of three runs; ``None`` if none wins."""
    found = da.plan(model, noise, steps, widths=WIDTHS, rtol=RTOL, budget=BUDGET)

    def median(runs: list[da.SampleResult]) -> da.SampleResult:
        return sorted(runs, key=lambda run: run.solution.stats.wall_time)[len(runs) // 2]

    def row(settings: dict[str, Any]) -> Row:
        options: tuple[dict[str, Any], ...] = ({"parallel": False}, {"rtol": RTOL, **settings})
        runs = [[da.sample(model, noise, steps, **one) for one in options] for _ in range(3)]
        serial, parallel = (median(list(some)) for some in zip(*runs, strict=True))
        return Row(f"{steps} here", serial, parallel, allowed=RTOL)

    tried = [one.settings for one in found.candidates if one.finished]
    return first_to_win(row(settings) for settings in tried or [{}])


def edge_errors(model: da.DiffusionModel, noise: Tensor, steps: int, row: Row) -> np.ndarray:
    """Relative error at each slice edge after 1, 2, ... iterations, the mean over samples: ``(k, N)``."""
    reference = da.sample(model, noise, steps=steps, coarse="same", parallel=False).solution.us
    size = reference[1:].flatten(2).norm(dim=2)
    errors = []
    for k in range(1, int(row.parallel.solution.iterations.max()) + 1):
        us = da.sample(model, noise, steps=steps, coarse="same", stop=pr.Iterations(k)).solution.us
        errors.append(((us - reference)[1:].flatten(2).norm(dim=2) / size).mean(dim=1).numpy())
    return np.array(errors)


def draw(path: Path, rows: list[Row], errors: dict[int, np.ndarray]) -> None:
    """Samples of both runs one above the other, and the error per slice and iteration."""
    import matplotlib.pyplot as plt

    shape = {"width_ratios": [2.2, 1]}
    fig, axes = plt.subplots(len(rows), 2, figsize=(13, 3 * len(rows)), layout="constrained", gridspec_kw=shape)
    for (left, right), (steps, error), row in zip(axes, errors.items(), rows, strict=True):
        both = [
            np.hstack([np.pad(x[0], 1, constant_values=1.0) for x in out.samples.numpy()])
            for out in (row.serial, row.parallel)
        ]
        left.imshow(np.vstack(both), cmap="gray_r", vmin=-1, vmax=1)
        left.set_title(f"{steps} DDIM steps")
        left.set_xticks([])
        rounds = [f"{out.solution.stats.rounds} rounds" for out in (row.serial, row.parallel)]
        left.set_yticks([4.5, 14.5], [f"serial\n{rounds[0]}", f"parallel\n{rounds[1]}"])
        for k, values in enumerate(error, 1):
            right.semilogy(np.arange(1, len(values) + 1), np.maximum(values, 1e-8), marker=".", label=f"iteration {k}")
        right.axhline(RTOL, color="0.6", ls=":")
        right.set(xlabel="slice", ylabel="relative error", ylim=(5e-9, 3), title="SRDS: error at the slice edges")
        right.legend(fontsize=8, loc="upper left", ncols=2)
    fig.savefig(path, dpi=110)


def main() -> int:
    """Samples, compares, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10, help="how many digits (default: one of each)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("PARAREAL_OUT", "out")))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    labels = torch.arange(args.samples) % 10
    model = da.load_digits().with_conditioning(label=labels)
    noise = torch.randn(args.samples, 1, 8, 8, generator=torch.Generator().manual_seed(args.seed))
    da.sample(model, noise, steps=4)  # warm up, so that neither run pays for it

    print(f"1 digit, then {args.samples}, DDIM, rtol = {RTOL:g}, {torch.get_num_threads()} threads")
    print(HEADER)
    one = da.load_digits().with_conditioning(label=labels[:1])
    here = quickest_here(one, noise[:1], HERE)
    print(here or f"{HERE} here: nothing that was tried is quicker than the sequential run on this machine")
    rows: list[Row] = []
    for steps in STEPS:
        serial = da.sample(model, noise, steps=steps, parallel=False)
        for name, options in METHODS.items():
            parallel = da.sample(model, noise, steps=steps, rtol=RTOL, **options)
            rows.append(Row(f"{steps} {name}", serial, parallel, allowed=RTOL))
            print(rows[-1])
    exact = pr.Tolerance(rtol=0.0, atol=0.0)
    to_the_end = da.sample(model, noise, steps=STEPS[-1], coarse="same", stop=exact)
    rows.append(Row(f"{STEPS[-1]} to the end", rows[-1].serial, to_the_end, allowed=ROUNDING))
    print(rows[-1])

    pipelined = dict(zip(STEPS, rows[1::2], strict=False))
    errors = {steps: edge_errors(model, noise, steps, row) for steps, row in pipelined.items()}
    draw(args.out / "quickstart.png", list(pipelined.values()), errors)
    print(f"picture: {args.out / 'quickstart.png'}")
    bad = [row for row in [here, *rows] if row is not None and not row.relative <= row.allowed]
    for row in bad:
        print(f"N = {row.name}: relative error {row.relative:.1e}, allowed {row.allowed:.1e}", file=sys.stderr)
    print("the samples disagree" if bad else "the samples agree with the sequential sampler's")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
