"""(b) The quality of samples after 0, 1, 2, ... refinement iterations, beside those of the sequential sampler.

The paper's claim is that one to three iterations are enough. Iteration 0 is the first coarse run.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from domains import drawn
from rounds import RTOL
from torch import Tensor

import parareal as pr
from paper import networks
from paper.networks import Network
from paper.report import Report, Table, small
from paper.runs import PIPELINED, VANILLA, apart, recorded
from parareal import theory

TOGETHER = 100
"""Samples that are solved in one run; none depends on which."""


def refined(
    network: Network, count: int, steps: int, numbers: Sequence[int], solver: str = "ddim", scale: float = 1.0
) -> tuple[list[Tensor], Tensor]:
    """Samples after each of these numbers of iterations, and the sequential run's."""
    kept: list[list[Tensor]] = [[] for _ in range(len(numbers) + 1)]
    for first in range(0, count, TOGETHER):
        seeds = range(first, min(count, first + TOGETHER))
        model, noise = network.given(seeds, scale), network.noise(seeds)
        run, serial, samples = recorded(model, noise, steps, max(numbers), solver)
        for part, k in zip(kept, numbers, strict=False):
            part.append(samples(run.iterates.after(k)[-1]))
        kept[-1].append(samples(serial.u))
    *refined, sequential = (torch.cat(parts) for parts in kept)
    return refined, sequential


@dataclass(frozen=True)
class Curve:
    """What is drawn of one setting: (rounds, distance) of SRDS, the default's, and the sequential run's distance."""

    refined: list[tuple[float, float]]
    default: tuple[float, float] | None
    serial: float


def refinements(
    report: Report,
    names: Sequence[str],
    count: int,
    steps: Sequence[int] = (25, 100),
    scales: Sequence[float] = (1.0,),
    most: int = 3,
    solver: str = "ddim",
    default: bool = True,
) -> None:
    """Experiment (b): after 0 to ``most`` iterations, after as many as there are slices, and in sequence.

    With ``default`` that as well, at the first scale of guidance: it is within its tolerance of the sequential run.
    """
    table = report.table(
        "b_refinements",
        f"Quality by the number of refinement iterations: {count} samples, {solver.upper()}",
        (
            *("network", "guidance", "N", "iterations", "rounds, vanilla", "pipelined"),
            *("distance to serial, median", "95%", "frechet", "accuracy", "p"),
        ),
        "Distance to serial: relative, in the root mean square. The last three columns are measures of the samples "
        "alone. The default is asked for 1e-3, and its rounds are means.",
    )
    found: dict[str, Curve] = {}
    for name in names:
        network = networks.load(name)
        for scale in scales:
            for n in steps:
                curve, samples = _setting(table, network, count, n, scale, most, solver, default and scale == scales[0])
                found[f"{name}, guidance {scale:g}, {n} steps"] = curve
                if name == names[0] and n == steps[-1] and scale == scales[0]:
                    show(report, network, samples, n)
    draw(report, found)


def _setting(
    table: Table,
    network: Network,
    count: int,
    steps: int,
    scale: float,
    most: int,
    solver: str,
    default: bool,
) -> tuple[Curve, dict[str, Tensor]]:
    """The rows of one network, guidance and number of steps."""
    slices = round(steps**0.5)
    numbers = sorted({*range(min(most, slices) + 1), slices})
    after, sequential = refined(network, count, steps, numbers, solver, scale)
    names = [f"all ({k})" if k == slices else str(k) for k in numbers]
    samples = dict(zip(names, after, strict=True))
    made: dict[str, tuple[Any, Any]] = {
        name: (_rounds(VANILLA, steps, slices, k), _rounds(PIPELINED, steps, slices, k))
        for name, k in zip(names, numbers, strict=True)
    }
    if default:
        samples["default"], rounds, _ = drawn(network, count, steps, solver, scale, rtol=RTOL)
        made["default"] = ("-", f"{statistics.mean(rounds):.1f}")
    samples["serial"], made["serial"] = sequential, (steps, steps)
    points: dict[str, tuple[float, float]] = {}
    labels = network.labels(range(count))
    for name, x in samples.items():
        measures = network.quality(x, labels)
        far = torch.quantile(apart(x, sequential), torch.tensor([0.5, 0.95])).tolist()
        table.add(
            *(network.name, f"{scale:g}", steps, name, *made[name], *(small(one) for one in far)),
            *(f"{measures[key]:.4g}" for key in ("frechet", "accuracy", "p")),
        )
        points[name] = float(made[name][1]), measures["frechet"]
    return Curve([points[name] for name in names], points.get("default"), points["serial"][1]), samples


def _rounds(order: pr.Schedule, steps: int, slices: int, k: int) -> int:
    """Of k iterations; the tests hold the engine's counts to these."""
    if k == 0:
        return slices
    each = [steps // slices + (i < steps % slices) for i in range(slices)]
    return theory.rounds(order, slices, each, k)


def show(report: Report, network: Network, samples: dict[str, Tensor], steps: int, count: int = 10) -> None:
    """The same samples after each number of iterations, one row a number."""
    pictures = [network.decode(x[:count]) for x in samples.values()]
    if pictures[0].ndim != 4:
        return
    import matplotlib.pyplot as plt

    rows = []
    for x in pictures:
        tiles = (x[:, :3] if x.shape[1] >= 3 else x[:, :1]).permute(0, 2, 3, 1).clamp(-1, 1)
        rows.append(torch.nn.functional.pad(tiles, (0, 0, 1, 1, 1, 1), value=-1.0).transpose(0, 1).flatten(1, 2))
    picture = ((torch.cat(rows) + 1) / 2).squeeze(-1).numpy()
    figure, ax = plt.subplots(figsize=(0.75 * count, 0.75 * len(samples) + 0.5), layout="constrained")
    ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    side = picture.shape[0] / len(samples)
    names = [f"serial, {steps} steps" if name == "serial" else name for name in samples]
    names = [name if name[0] in "ds" else f"iteration {name}" for name in names]
    ax.set_yticks([side * (i + 0.5) for i in range(len(samples))], names)
    ax.set_xticks([])
    report.picture("b_samples", figure)


def draw(report: Report, found: dict[str, Curve]) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for marker, (name, curve) in zip("os^Dv<>p*h" * 5, found.items(), strict=False):
        (line,) = ax.loglog(*zip(*curve.refined, strict=True), marker=marker, label=name)
        if curve.default:
            ax.loglog(*curve.default, marker="X", ms=9, color=line.get_color(), mec="black")
        ax.axhline(curve.serial, color=line.get_color(), ls=":", lw=0.8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="rounds, pipelined", ylabel="Fréchet distance")
    ax.legend(
        frameon=False,
        fontsize="x-small",
        title="crosses: the default; dotted: the sequential sampler",
        title_fontsize="x-small",
    )
    report.picture("b_quality", figure)
