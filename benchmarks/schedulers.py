"""Configurations of diffusers' schedulers drawn at random: how many come out as the pipeline's own run has them.

Each is a scheduler with random settings, in a pipeline of a made-up network, run with the default settings of
`parallelize` in float64. What is off there and right in a run of as many iterations as there are steps is the error
account's; what is off in both was read wrongly from the scheduler. Run it with `python benchmarks/schedulers.py`;
`--cases 60` is quick.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import torch

import parareal as pr

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

import diffusers
from diffusion.configurations import compare, draw

RTOL = 2e-5
"""The default of `parallelize`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity(50)
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    off: Counter[str] = Counter()
    runs = below = 0
    begun = time.perf_counter()
    for number in range(given.cases):
        case = draw(random.Random(f"{given.seed}-{number}"))
        out = compare(case, exact=1e-6)
        counts[out.verdict] += 1
        if out.verdict not in ("equal", "wrong"):
            continue
        runs += 1
        estimate = float(out.solution.error_estimate.max())
        # Schedulers hold sigmas in float32, so a millionth is the rounding of any such run.
        below += estimate + 3 * out.rounding + 1e-6 < out.error
        if out.error > 2 * RTOL + 3 * out.rounding:
            serial = compare(case, tolerance=2 * RTOL, stop=pr.Iterations(1000), width=1)
            cause = "translation" if serial.verdict == "wrong" else "convergence"
            off[cause] += 1
            print(f"{cause}: {out.solution.status.name}, {out.error:.0e} off, estimate {estimate:.0e}: {case}")
    print(f"\n{given.cases} cases in {time.perf_counter() - begun:.0f} s")
    print(f"{'equal to 1e-4':46}{counts['equal']:6}")
    print(f"{'off by more than 1e-4':46}{counts['wrong']:6}")
    print(f"{'refused by name':46}{counts['refused']:6}")
    print(f"{'not finite, alike':46}{counts['nan']:6}")
    print(f"{'not run by the pipeline itself':46}{counts['broken']:6}")
    print(f"{'ended, off by more than 2 rtol: translation':46}{off['translation']:6}")
    print(f"{'ended, off by more than 2 rtol: convergence':46}{off['convergence']:6}")
    print(f"{'share of runs with an estimate below the error':46}{below / max(1, runs):6.3f}")


if __name__ == "__main__":
    main()
