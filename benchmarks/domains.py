"""The default of `diffusion_adapters.sample` on every trained network, and its constants beside other values.

Rounds, error, quality and wall time at 25, 50, 100 and 1,000 steps, guidance 1 and strong, without and with noise in
every step. Samples are solved together and stop one by one, so that the rounds of each are those it would take alone:
a round is an iteration. Run it with `python benchmarks/domains.py`; `--seeds 4` is quick.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from paper import networks
from paper.clock import CLOCK
from paper.networks import Network
from paper.report import Report, small
from paper.runs import apart, generator, side_by_side
from rounds import RTOL
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

STEPS = (25, 50, 100, 1000)
SOLVERS = {"DDIM": "ddim", "DDPM": "ddpm"}
FEW = 64
"""Most samples of 1,000 steps and more."""
TOGETHER = 16
"""Samples in one run: a window of 100 on each."""


def drawn(
    network: Network, seeds: int, steps: int, solver: str, scale: float, **options: Any
) -> tuple[Tensor, list[int], float]:
    """Samples, rounds of each, and evaluations a sample."""
    samples, rounds, evaluations = [], [], 0
    for first in range(0, seeds, TOGETHER):
        these = range(first, min(seeds, first + TOGETHER))
        out = da.sample(
            *(network.given(these, scale), network.noise(these), steps),
            solver=solver,
            generator=generators(these, solver),
            throw=False,
            executor=pr.Batched(max_lanes=512),
            **options,
        )
        samples.append(out.samples)
        rounds += torch.as_tensor(out.solution.iterations).tolist()
        evaluations += out.solution.stats.evaluations
    return torch.cat(samples), rounds, evaluations / seeds


def generators(seeds: Sequence[int], solver: str) -> list[torch.Generator] | None:
    """One a sample, so that its noise is its own whatever stands beside it."""
    if generator(solver) is None:
        return None
    return [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]


def everywhere(
    report: Report,
    names: Sequence[str],
    seeds: int,
    steps: Sequence[int] = STEPS,
    long: Sequence[str] | None = None,
) -> None:
    """Rounds, error, quality and time of the default.

    Runs of 1,000 steps and more have at most `FEW` seeds, and no quality; only the networks in ``long`` have such runs
    where that is given.
    """
    table = report.table(
        "domains",
        f"The default on every network: seeds: {seeds}, rtol 1e-3",
        (
            *("network", "solver", "guidance", "N", "rounds, mean", "most", "evaluations / N", "within 1e-3"),
            *("median error", "largest", "time ratio of one sample", "Fréchet, ours / serial", "accuracy", "p"),
        ),
        f"Of 1,000 steps and more at most {FEW} seeds. Time ratio: serial / parallel, one sample of seed 0, once.",
    )
    for name in names:
        network = networks.load(name)
        for solver, key in SOLVERS.items():
            for scale in (1.0, network.strong):
                for n in steps if long is None or name in long else [n for n in steps if n < 1000]:
                    count = min(seeds, FEW) if n >= 1000 else seeds
                    serial, _, _ = drawn(network, count, n, key, scale, parallel=False)
                    ours, rounds, work = drawn(network, count, n, key, scale, rtol=RTOL)
                    errors = apart(ours, serial)
                    one = side_by_side(network, {"default": {}}, [0], n, key, scale)["default"]
                    table.add(
                        *(name, solver, f"{scale:g}", n, f"{statistics.mean(rounds):.1f}", max(rounds)),
                        *(f"{work / n:.1f}", f"{int((errors <= RTOL).sum())}/{count}"),
                        *(small(float(errors.median())), small(float(errors.max())), one.ratio),
                        *_measured(network, ours, serial),
                    )


def _measured(network: Network, ours: Tensor, serial: Tensor) -> list[str]:
    """Three measures of quality, of both."""
    if len(ours) < 100:
        return ["-"] * 3
    labels = network.labels(range(len(ours)))
    pairs = zip(network.quality(ours, labels).values(), network.quality(serial, labels).values(), strict=True)
    return [f"{a:.3g} / {b:.3g}" for a, b in pairs]


def _secant(variance: float = 0.1, memory: int = 1, neighbours: tuple[int, ...] = (1, 2, 4)) -> dict[str, Any]:
    """The default with other constants; a correction that is given has no window unless one is given as well."""
    return {"coarse": pr.Secant(da.GaussianFlow(variance=variance), memory, neighbours), "width": 100}


CONSTANTS: dict[str, dict[str, dict[str, Any]]] = {
    "variance": {f"{value:g}": _secant(variance=value) for value in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)},
    "pairs of memory": {str(value): _secant(memory=value) for value in (1, 2, 3)},
    "neighbours": {str(value): _secant(neighbours=value) for value in ((), (1,), (1, 2, 4), (1, 2, 4, 8))},
    "width": {str(value): {"width": value} for value in (10, 25, 50, 100)},
    "rtol": {f"{value:g}": {"rtol": value} for value in (1e-2, 1e-3, 1e-4)},
}
DEFAULTS = {"variance": "0.1", "neighbours": "(1, 2, 4)", "width": "100", "rtol": "0.001"}


def constants(report: Report, names: Sequence[str], seeds: int, steps: int = 100) -> None:
    """Rounds at other values of each constant, network by network."""
    loaded = {name: networks.load(name) for name in names}
    columns = [(name, scale) for name in names for scale in (1.0, loaded[name].strong)]
    table = report.table(
        "constants",
        f"Constants of the default: mean rounds, and samples within the tolerance, of {seeds}; DDIM, {steps} steps",
        (
            "constant",
            "value",
            *(f"{name}, guidance {scale:g}" for name, scale in columns),
            "rounds / those of the default",
        ),
        "The last column is the geometric mean over the networks. The default keeps two pairs of memory "
        "from a guidance of 2 on, one below.",
    )
    serial = {
        column: drawn(loaded[column[0]], seeds, steps, "ddim", column[1], parallel=False)[0] for column in columns
    }
    usual = {
        column: statistics.mean(drawn(loaded[column[0]], seeds, steps, "ddim", column[1])[1]) for column in columns
    }
    for constant, values in CONSTANTS.items():
        for value, options in values.items():
            cells, ratios = [], []
            for column in columns:
                samples, rounds, _ = drawn(
                    loaded[column[0]], seeds, steps, "ddim", column[1], **_with_memory(constant, options, column[1])
                )
                within = int((apart(samples, serial[column]) <= options.get("rtol", RTOL)).sum())
                cells.append(f"{statistics.mean(rounds):.1f}, {within}/{seeds}")
                ratios.append(math.log(statistics.mean(rounds) / usual[column]))
            mark = " (default)" if DEFAULTS.get(constant) == value else ""
            table.add(constant, value + mark, *cells, f"{math.exp(statistics.mean(ratios)):.2f}")


def _with_memory(constant: str, options: dict[str, Any], scale: float) -> dict[str, Any]:
    """The same for two pairs where the default has two."""
    coarse = options.get("coarse")
    if not isinstance(coarse, pr.Secant) or scale < 2.0 or constant == "pairs of memory":
        return options
    return {**options, "coarse": pr.Secant(coarse.correction, 2, coarse.neighbours)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="from 100 on the quality is measured as well")
    parser.add_argument("--networks", nargs="*", default=networks.names(), choices=networks.names())
    parser.add_argument("--steps", type=int, nargs="*", default=list(STEPS))
    parser.add_argument("--long", nargs="*", choices=networks.names(), help="networks with 1,000 steps (default all)")
    parser.add_argument("--constant-steps", type=int, default=100, help="steps of the runs with other constants")
    parser.add_argument("--only", choices=("everywhere", "constants"), help="one of the two tables")
    parser.add_argument("--clock", choices=("wall", "process"), default="wall", help="process: on a machine in use")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("PARAREAL_OUT", "out")) / "srds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    CLOCK.wall = given.clock == "wall"
    report = Report(given.out, quick=given.seeds < 16)
    if given.only != "constants":
        everywhere(report, given.networks, given.seeds, given.steps, given.long)
    if given.only != "everywhere":
        constants(report, given.networks, min(given.seeds, 16), given.constant_steps)


if __name__ == "__main__":
    main()
