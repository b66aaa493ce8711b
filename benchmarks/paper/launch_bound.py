"""The gain where a call of the network takes a fixed time, whatever its lanes: what an accelerator with room offers.

Two such networks: the packaged digits as they are, whose call on many lanes costs little more than one; and the same
network that in addition waits for a fixed time in each call, which a batch does not lengthen. The second stands for a
network that is bound by launches, or by a server's answer; it is not a figure of a GPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import diffusion_adapters as da
from paper import networks
from paper.clock import CLOCK
from paper.report import Report, small
from paper.runs import PIPELINED, SRDS, Kept, Methods, timed

TARGETS = {"default": 5.0, "SRDS, pipelined": 3.0}
"""How many times as fast as the sequential run at 961 steps and more."""
METHODS: Methods = {"default": {}, "SRDS, pipelined": {**SRDS, "schedule": PIPELINED}}


def waiting(model: da.DiffusionModel, seconds: float) -> da.DiffusionModel:
    """The model, with so much more time in each call."""

    def network(x: Tensor, t: Tensor, **conditioning: Any) -> Tensor:
        CLOCK.wait(seconds)
        return model.network(x, t, **conditioning)

    return replace(model, network=network)


def cost(model: da.DiffusionModel, noise: Tensor, lanes: int, times: int = 15) -> float:
    """Milliseconds of a call, the median."""
    x = noise.expand(lanes, *noise.shape[1:]).contiguous()
    t = torch.linspace(1.0, 0.01, lanes)
    taken: list[float] = []
    with torch.no_grad():
        for _ in range(times):
            begun = CLOCK.now()
            model.predict(x, t)
            taken.append(CLOCK.now() - begun)
    return statistics.median(taken) * 1e3


def launch_bound(report: Report, seeds: int, steps: Sequence[int] = (25, 100, 961, 1024), wait: float = 5e-3) -> bool:
    """Prints the table, and returns whether the targets are met."""
    table = report.table(
        "launch_bound",
        f"Launch-bound networks: one sample of digits, DDIM, seeds: {seeds}, rtol 1e-3",
        (
            "network",
            "N",
            "call on 1 lane, ms",
            "on 32",
            "on 100",
            "method",
            "rounds",
            "time ratio",
            "target",
            "largest error",
        ),
        f"As it is: the packaged network. Waiting: the same, and {wait * 1e3:g} ms more in each call, whatever its "
        "lanes. Time ratio is serial / parallel, median [least .. most].",
    )
    network = networks.load("digits")
    reached = True
    for name, seconds in (("as it is", 0.0), ("waiting", wait)):
        for n in steps:
            kept = {method: Kept() for method in METHODS}
            costs = ["-"] * 3
            for seed in range(seeds):
                noise = network.noise([seed])
                model = waiting(network.given([seed]), seconds) if seconds else network.given([seed])
                if seed == 0:
                    costs = [f"{cost(model, noise, lanes):.2f}" for lanes in (1, 32, 100)]
                serial = timed(model, noise, n, parallel=False)
                for method, options in METHODS.items():
                    kept[method].add(timed(model, noise, n, **options), serial)
            for method, one in kept.items():
                target = TARGETS[method] if n >= 961 else None
                met = target is None or statistics.median(one.ratios) >= target
                reached = reached and met
                said = "-" if target is None else f"{target:g}: {'met' if met else 'MISSED'}"
                table.add(
                    *(name, n, *costs, method, f"{statistics.mean(one.rounds):.1f}"),
                    *(one.ratio, said, small(max(one.errors))),
                )
    return reached
