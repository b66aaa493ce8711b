"""Simulated runs on up to thousands of ranks: tables and a picture of how far two workloads scale."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import parareal as pr
from network import model, workloads
from network.model import ENGINE, Network, Rounds, Slices
from network.text import say
from parareal import theory

RANKS = workloads.powers(4096)
CALL, LATENT, GPU = 50e-3, 65_536.0, 2e12
SEEDS = 2


@dataclass
class Curve:
    """Speed-ups of one way to do a workload, by number of ranks."""

    name: str
    ranks: list[int]
    speedups: list[float]
    kind: str = "simulated"


def slice_costs(rounds: int, sweep: int, one: float, two: float, size: float) -> Slices:
    """Of a slice that takes so many rounds beside a coarse one that takes ``sweep``; the first serves both."""
    coarse = one + (sweep - 1) * two
    return Slices(coarse + (rounds - sweep) * one, coarse, sweep * one, size)


def neurons(net: Network, cost: Rounds) -> list[Curve]:
    known = {n: workloads.neuron_iterations(n) for n in workloads.powers(512)}
    more = {n: workloads.neuron_iterations(n, 8192) for n in (64, 512)}
    one, two = (cost.call[0] + cost.engine[0] + lanes * (cost.call[1] + cost.engine[1]) for lanes in (1, 2))
    calls = (cost.call[0] + lanes * cost.call[1] for lanes in (1, 2))
    serial = 4 * workloads.FINE * one
    say(f"""
        A ring of {workloads.NEURONS:,} FitzHugh-Nagumo neurons, state of 1 MB, RK4, {workloads.FINE:,} fine steps, as
        many slices as ranks; coarse RK4, a step a slice and {workloads.COARSE} steps in all at least (a coarse step
        takes {workloads.step_ratio():.2f} of the time of a fine one). Measured here: a round on 1 lane
        {one * 1e3:.2f} ms, on 2 {two * 1e3:.2f} ms, of which the right-hand side
        {" and ".join(f"{1e3 * call:.2f}" for call in calls)}. Sequential run: {serial:,.0f} s.
    """)
    say(f"""
        Iterations, to 1e-8, on 64 neurons with 2,048 fine steps: {", ".join(f"{n}: {k}" for n, k in known.items())};
        with 8,192 fine steps: {", ".join(f"{n}: {k}" for n, k in more.items())}: they do not hang on the fine grid.
        Above 512 slices: as with 512.
    """)
    table: list[list[float]] = []
    for ranks in RANKS:
        k, steps, sweep = known.get(ranks, known[512]), workloads.FINE // ranks, workloads.coarse_steps(ranks)
        ratio = sweep / steps
        piped = model.pipeline([1] * ranks, k, slice_costs(4 * steps, 4 * sweep, one, two, cost.size), net)
        lanes = theory.counts(pr.Wavefront(), ranks, steps, k, fine=pr.RK4(), coarse=pr.RK4(steps=sweep)).lanes
        dealt = model.dealt_out(lanes, ranks, cost, net, k)
        manager = (
            theory.speedup(pr.Wavefront(), ranks, k, ratio, workers=ranks, placement="manager") if ranks > 1 else 1.0
        )
        table.append(
            [
                k,
                ratio,
                serial / piped.total,
                serial / dealt,
                theory.pipelined_speedup(ranks, k, ratio),
                manager,
                theory.speedup_limit(ranks, k, ratio, workers=ranks),
            ]
        )
    names = ["k", "r", "RankPipeline", "Distributed", "Minion", "Aubanel", "limit"]
    return _printed(names, RANKS, table)


def diffusion(steps: int, net: Network, passes: float) -> list[Curve]:
    serial = steps * CALL
    say(f"""
        A sample of {steps:,} network calls of {CALL * 1e3:.0f} ms, of several lanes as many times that (a GPU that one
        sample fills); a state of {LATENT / 1000:.0f} kB, on which the engine makes {passes:.0f} copies a lane and
        round as here, at {GPU / 1e12:.0f} TB/s. Distributed: diffusion_adapters.sample as it is (Gaussian flow and
        secant), in a window as wide as ranks. RankPipeline: SRDS, as many slices as ranks and calls. Rounds, lanes,
        iterations: of the packaged network, mean of {SEEDS} seeds; so is the time of the engine in each round, which
        is Python on one core of this machine. `calls alone`: nothing else costs.
    """)
    table: list[list[float]] = []
    ranks = [p for p in RANKS if p < 2 * steps]
    for p in ranks:
        n = min(p, steps)
        longest, ratio = -(-steps // n), n / steps
        seeds: list[list[float]] = []
        for seed in range(SEEDS):
            run = workloads.sampled(steps, seed, width=n)
            cost = Rounds((0.0, CALL), (run.engine, 2 * passes * LATENT / GPU), LATENT)
            wall = model.dealt_out(run.lanes, p, cost, net, run.iterations)
            calls = float(np.ceil(run.lanes / p).sum())
            k = workloads.sampled(steps, seed, coarse="same", slices=n, schedule=pr.Wavefront()).iterations
            one = CALL + ENGINE
            piped = model.pipeline([1] * n, k, slice_costs(longest, 1, one, one, LATENT), net).total
            bounds = theory.pipelined_speedup(n, k, ratio), theory.speedup_limit(n, k, ratio, workers=n)
            seeds.append([calls, k, serial / wall, serial / piped, steps / calls, *bounds])
        table.append([statistics.mean(column) for column in zip(*seeds, strict=True)])
    names = ["calls", "SRDS k", "Distributed", "RankPipeline", "calls alone", "Minion", "limit"]
    return _printed(names, ranks, table)


def _printed(names: list[str], ranks: list[int], table: list[list[float]]) -> list[Curve]:
    """Prints a table of two figures, two simulated speed-ups with their efficiencies, and bounds; returns curves."""
    a, b = names[2:4]
    print(f"\n{'ranks':>6}{names[0]:>8}{names[1]:>9}{a:>14}{'eff.':>7}{b:>14}{'eff.':>7}", end="")
    print("".join(f"{name:>13}" for name in names[4:]))
    curves = [
        Curve(name, ranks, [row[2 + i] for row in table], "simulated" if i < 2 else "bound")
        for i, name in enumerate(names[2:])
    ]
    for p, row in zip(ranks, table, strict=True):
        print(f"{p:>6}{row[0]:>8.4g}{row[1]:>9.3g}", end="")
        for value in row[2:4]:
            print(f"{value:>14.2f}{value / p:>7.1%}", end="")
        print("".join(f"{value:>13.2f}" for value in row[4:]))
    for curve in curves[:2]:
        i = model.stops_paying(curve.speedups)
        best = max(range(len(ranks)), key=curve.speedups.__getitem__)
        say(
            f"{curve.name} stops paying at {ranks[i]:,} ranks: {curve.speedups[i]:.1f} times as fast as the sequential "
            f"run (most: {curve.speedups[best]:.1f} at {ranks[best]:,})."
        )
    return curves


def draw(panels: dict[str, list[Curve]], path: Path) -> None:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: pip install 'torch-parareal[plot]'")
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4.6), layout="constrained")
    colors = {"RankPipeline": "C0", "Distributed": "C1", "Minion": "C2", "Aubanel": "C4", "limit": "0.35"}
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        axis.loglog(curves[0].ranks, curves[0].ranks, color="0.85", label="as many times as ranks")
        for curve in curves:
            bound = curve.kind == "bound"
            style: dict[str, Any] = {"ls": "--", "lw": 1} if bound else {"marker": "o", "ms": 3}
            axis.loglog(curve.ranks, curve.speedups, color=colors.get(curve.name, "C3"), label=curve.name, **style)
            if not bound:
                i = model.stops_paying(curve.speedups)
                axis.plot(curve.ranks[i], curve.speedups[i], "o", ms=11, mfc="none", color=colors[curve.name])
        top = max(max(curve.speedups) for curve in curves)
        axis.set(title=title, xlabel="ranks", ylim=(0.05 if "ring" in title else 0.5, 3 * top))
        axis.grid(alpha=0.2)
        axis.legend(fontsize=7)
    axes[0].set_ylabel("speed-up (circles: where more ranks stop paying)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"\npicture: {path}")
