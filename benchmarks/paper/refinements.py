"""(b) The quality of samples after 0, 1, 2, ... refinement iterations, beside those of the sequential sampler.

The paper's claim is that one to three iterations are enough. Iteration 0 is the first coarse run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import parareal as pr
from paper import networks
from paper.networks import Network
from paper.report import Report, small
from paper.runs import PIPELINED, VANILLA, apart, recorded
from parareal import theory

TOGETHER = 100
"""Samples that are solved in one run; none depends on which."""


def refined(
    network: Network, count: int, steps: int, most: int, solver: str = "ddim", scale: float = 1.0
) -> tuple[list[Tensor], Tensor]:
    """Samples after each number of iterations from 0 to ``most``, and the sequential run's."""
    kept: list[list[Tensor]] = [[] for _ in range(most + 2)]
    for first in range(0, count, TOGETHER):
        seeds = range(first, min(count, first + TOGETHER))
        model, noise = network.given(seeds, scale), network.noise(seeds)
        run, serial, samples = recorded(model, noise, steps, most, solver)
        for k in range(most + 1):
            kept[k].append(samples(run.iterates.after(k)[-1]))
        kept[-1].append(samples(serial.u))
    *refined, sequential = (torch.cat(parts) for parts in kept)
    return refined, sequential


def refinements(
    report: Report,
    names: Sequence[str],
    count: int,
    steps: Sequence[int] = (25, 100),
    strong: bool = False,
    most: int = 4,
    solver: str = "ddim",
) -> None:
    """Experiment (b); with ``strong`` also at strong guidance, on the first network."""
    found: dict[str, list[tuple[float, float]]] = {}
    table = None
    for name in names:
        network = networks.load(name)
        for scale in (1.0, network.strong) if strong and name == names[0] else (1.0,):
            for n in steps:
                slices = round(n**0.5)
                after, sequential = refined(network, count, n, most, solver, scale)
                labels = network.labels(range(count))
                rows = [(str(k), x) for k, x in enumerate(after)] + [("serial", sequential)]
                curve: list[tuple[float, float]] = []
                for label, x in rows:
                    measures = network.quality(x, labels)
                    if table is None:
                        table = report.table(
                            "b_refinements",
                            f"Quality by the number of refinement iterations: {count} samples, {solver.upper()}",
                            (
                                *("network", "guidance", "N", "iterations", "rounds, vanilla", "pipelined"),
                                *("distance to serial, median", "95%", *measures),
                            ),
                            "Distance to serial: relative, in the root mean square. The other columns are measures of "
                            "the samples alone.",
                        )
                    k = most + 1 if label == "serial" else int(label)
                    rounds = (
                        (n, n)
                        if label == "serial"
                        else tuple(_rounds(order, n, slices, k) for order in (VANILLA, PIPELINED))
                    )
                    far = torch.quantile(apart(x, sequential), torch.tensor([0.5, 0.95])).tolist()
                    table.add(
                        *(name, f"{scale:g}", n, label, *rounds, *(small(one) for one in far)),
                        *(f"{value:.4g}" for value in measures.values()),
                    )
                    curve.append((rounds[1], next(iter(measures.values()))))
                found[f"{name}, guidance {scale:g}, {n} steps"] = curve
                if name == names[0] and n == steps[-1] and scale == 1.0:
                    show(report, network, [*after, sequential], n)
    draw(report, found)


def _rounds(order: pr.Schedule, steps: int, slices: int, k: int) -> int:
    """Of k iterations; the tests hold the engine's counts to these."""
    if k == 0:
        return slices
    each = [steps // slices + (i < steps % slices) for i in range(slices)]
    return theory.rounds(order, slices, each, k)


def show(report: Report, network: Network, samples: list[Tensor], steps: int, count: int = 10) -> None:
    """The same samples after each number of iterations, one row a number."""
    samples = [network.decode(x[:count]) for x in samples]
    if samples[0].ndim != 4:
        return
    import matplotlib.pyplot as plt

    rows = []
    for x in samples:
        tiles = (x[:, :3] if x.shape[1] >= 3 else x[:, :1]).permute(0, 2, 3, 1).clamp(-1, 1)
        rows.append(torch.nn.functional.pad(tiles, (0, 0, 1, 1, 1, 1), value=-1.0).transpose(0, 1).flatten(1, 2))
    picture = ((torch.cat(rows) + 1) / 2).squeeze(-1).numpy()
    figure, ax = plt.subplots(figsize=(0.75 * count, 0.75 * len(samples) + 0.5), layout="constrained")
    ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    side = picture.shape[0] / len(samples)
    ax.set_yticks(
        [side * (i + 0.5) for i in range(len(samples))],
        [*(f"iteration {k}" for k in range(len(samples) - 1)), f"serial, {steps} steps"],
    )
    ax.set_xticks([])
    report.picture("b_samples", figure)


def draw(report: Report, found: dict[str, list[tuple[float, float]]]) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    for marker, (name, curve) in zip("os^Dv<>p*h" * 5, found.items(), strict=False):
        (line,) = ax.loglog(*zip(*curve[:-1], strict=True), marker=marker, label=name)
        ax.axhline(curve[-1][1], color=line.get_color(), ls=":", lw=0.8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="rounds, pipelined", ylabel="Fréchet distance")
    ax.legend(frameon=False, fontsize="x-small", title="dotted: the sequential sampler", title_fontsize="x-small")
    report.picture("b_quality", figure)
