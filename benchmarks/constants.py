"""Constants that were found by experiment, each beside other values of it.

Rounds of the packaged digits network (DDIM, one sample at a time) for the variance, the neighbours and the doubt of the
Gaussian flow and for the width of the window; rounds and errors with each rule of acceptance weakened, and with other
parts of the tolerance for the last boundary; and for configurations of diffusers' schedulers drawn at random how far
the scheduler's own steps come from the run, in units of what the check allows. Run it with `python
benchmarks/constants.py`; `--seeds 1 --cases 20` is quick, and `--only acceptance` prints one part.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import warnings
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import torch

import diffusion_adapters as da
import parareal as pr
from diffusion_adapters.sampling import _bound_gaussian
from parareal.stopping import _error_estimate, _slice_record

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))


def rounds(model: da.DiffusionModel, seeds: int, steps: int, **settings: Any) -> tuple[float, float]:
    """Mean rounds and median seconds."""
    made, taken = [], []
    for seed in range(seeds):
        noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
        stats = da.sample(model, noise, steps, **settings).solution.stats
        made.append(stats.rounds)
        taken.append(stats.wall_time)
    return statistics.mean(made), statistics.median(taken)


def table(name: str, values: Iterable[Any], rows: Iterable[tuple[float, float]]) -> None:
    print(f"{name:24}{'rounds':>8}{'seconds':>9}")
    for value, (made, taken) in zip(values, rows, strict=True):
        print(f"{value!s:24}{made:8.1f}{taken:9.3f}")
    print()


def sampling(seeds: int) -> None:
    model = da.load_digits().with_conditioning(label=torch.tensor([3]))

    def of(variance: float, neighbours: tuple[int, ...] = (1, 2, 4)) -> tuple[float, float]:
        coarse = pr.Secant(da.GaussianFlow(variance=variance), neighbours=neighbours)
        return rounds(model, seeds, 100, coarse=coarse, width=100)

    variances = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 1.0)
    table("variance", variances, [of(value) for value in variances])
    sets: tuple[tuple[int, ...], ...] = ((), (1,), (1, 2), (1, 2, 4), (1, 2, 4, 8))
    table("neighbours", sets, [of(0.1, value) for value in sets])
    widths = (4, 8, 16, 25, 50)
    found = [rounds(model, seeds, 50, width=value, rtol=2e-5) for value in widths]  # the tolerance of `parallelize`
    table("width, 50 steps, 2e-5", widths, found)
    widths = (25, 50, 100, 200, 400)
    table("width, 1000 steps", widths, [rounds(model, seeds, 1000, width=value) for value in widths])
    kept, doubts = _bound_gaussian._DOUBT, (3.0, 10.0, 30.0, 100.0, 300.0)  # pyright: ignore[reportPrivateUsage]
    found = []
    guided = da.guided(da.load_digits(), 5.0, cond={"label": torch.tensor([3])}, uncond={"label": torch.tensor([10])})
    for doubt in doubts:
        _bound_gaussian._DOUBT = doubt  # pyright: ignore[reportPrivateUsage]
        found.append(rounds(guided, seeds, 100))
    _bound_gaussian._DOUBT = kept  # pyright: ignore[reportPrivateUsage]
    table("doubt, guidance 5", doubts, found)


INFINITE = float("inf")
WEAKER: dict[str, dict[str, float]] = {
    "as it is": {},
    "large moves vouch for small": {"_FAR": INFINITE, "_FINER": INFINITE},
    "growth not made steeper": {"_STEEPER": 1.0},
    "unseen slices by the prior": {"_UNKNOWN": 0.5, "_WITNESSES": 1},
    "all of the tolerance": {"_PREFIX": 0.3, "_TAIL": 0.1, "_END": 1.0},
    "all four": {},
}
"""The rules of acceptance that cost rounds, each weakened: names of constants and their values."""
for _values in [*WEAKER.values()]:
    WEAKER["all four"] |= _values


class Guided:
    """Digits of all classes, one from each seed, beside the sequential sampler."""

    def __init__(self, seeds: int, scale: float, steps: Iterable[int]) -> None:
        none, net = {"label": torch.tensor([10])}, da.load_digits()
        labels = [{"label": torch.tensor([seed % 10])} for seed in range(seeds)]
        self.models = [
            da.guided(net, scale, label, none) if scale != 1 else net.with_conditioning(**label) for label in labels
        ]
        self.noises = [torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(seeds)]
        self.serial = {
            count: [
                da.sample(*pair, count, parallel=False).samples for pair in zip(self.models, self.noises, strict=True)
            ]
            for count in steps
        }

    def made(self, steps: int, width: int, rtol: float) -> list[tuple[int, float, float]]:
        """Of each sample: rounds, the error, and what the run estimates that it is."""
        found = []
        for model, noise, reference in zip(self.models, self.noises, self.serial[steps], strict=True):
            out = da.sample(model, noise, steps, width=width, rtol=rtol)
            error = float((out.samples - reference).norm() / reference.norm())
            found.append((out.solution.stats.rounds, error, float(torch.as_tensor(out.solution.error_estimate).max())))
        return found


@contextlib.contextmanager
def changed(values: dict[str, float]) -> Generator[None]:
    """Other values of constants of the stopping rule."""
    holders = [(module, key) for module in (_error_estimate, _slice_record) for key in values if key in vars(module)]
    kept = [(module, key, vars(module)[key]) for module, key in holders]
    for module, key in holders:
        setattr(module, key, values[key])
    try:
        yield
    finally:
        for module, key, value in kept:
            setattr(module, key, value)


def acceptance(seeds: int, scale: float = 7.5, rtol: float = 1e-3) -> None:
    """Mean rounds, and in brackets the runs that say converged and are off by more than the tolerance."""
    print(f"acceptance, guidance {scale:g}, {seeds} seeds: mean rounds (runs off by more than {rtol:g}; largest error)")
    rows = ((25, 25), (50, 50), (100, 100), (100, 10), (25, 5))
    print(f"{'':28}" + "".join(f"{f'{steps} steps, width {width}':>22}" for steps, width in rows))
    guided = Guided(seeds, scale, {steps for steps, _ in rows})
    for name, values in WEAKER.items():
        cells = []
        with changed(values):
            for steps, width in rows:
                made, errors, _ = zip(*guided.made(steps, width, rtol), strict=True)
                off = sum(error > rtol for error in errors)
                cells.append(f"{statistics.mean(made):.1f} ({off}; {max(errors):.1e})")
        print(f"{name:28}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    print()


def last(seeds: int, rtol: float = 1e-3) -> None:
    """Parts of the tolerance that the last boundary may spend."""
    print(
        f"the last boundary's part of the tolerance, {seeds} seeds, all slices at once: mean rounds (runs off by more"
    )
    print(f"than {rtol:g}; estimates below the error)")
    rows = [(scale, steps) for scale in (1.0, 7.5) for steps in (25, 50, 100)]
    print(f"{'guidance, steps':16}" + "".join(f"{f'{scale:g}, {steps}':>16}" for scale, steps in rows))
    of = {scale: Guided(seeds, scale, (25, 50, 100)) for scale in (1.0, 7.5)}
    for part in (0.5, 0.6, 0.7, 0.8, 0.9):
        cells = []
        with changed({"_END": part}):
            for scale, steps in rows:
                found = of[scale].made(steps, steps, rtol)
                off, below = sum(error > rtol for _, error, _ in found), sum(error > told for _, error, told in found)
                cells.append(f"{statistics.mean(made for made, *_ in found):.2f} ({off}; {below})")
        print(f"{part:<16}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
    print()


def checking(cases: int) -> None:
    """Differences of runs that are right, in units of their tolerance."""
    import diffusers
    from diffusion.configurations import compare, draw

    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity(50)
    shares: dict[str, list[float]] = {}
    for number in range(cases):
        case = draw(random.Random(f"constants-{number}"))
        out = compare(case, check=True)
        if out.verdict == "equal" and out.check is not None and out.check.passed is not None:
            name = type(case.pipeline().scheduler).__name__
            shares.setdefault(name, []).append(out.check.largest / out.check.tolerance)
    print(f"{'check':34}{'runs':>6}{'median':>9}{'largest':>9}   of the tolerance")
    for name, values in sorted(shares.items()):
        print(f"{name:34}{len(values):6}{statistics.median(values):9.4f}{max(values):9.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--only", choices=("sampling", "acceptance", "last", "checking"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts = {"sampling": given.seeds, "acceptance": given.seeds, "last": given.seeds, "checking": given.cases}
    for name, count in parts.items():
        if given.only in (None, name):
            globals()[name](count)


if __name__ == "__main__":
    main()
