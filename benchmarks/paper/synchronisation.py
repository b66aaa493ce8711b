"""(d) What it costs that lanes wait for each other: in rounds, in the time between two calls, and among processes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from network import measure
from network.measure import on_ranks

import diffusion_adapters as da
import parareal as pr
from paper import networks
from paper.clock import CLOCK
from paper.report import Report
from paper.runs import PIPELINED, SRDS, VANILLA, Methods
from parareal import theory


class Watched(pr.Executor):
    """All lanes in one call; keeps the seconds of each call, and those between one and the next."""

    def __init__(self) -> None:
        self.calls_took: list[float] = []
        self.between: list[float] = []
        self._ended = 0.0

    def evaluate(self, fn: Callable[..., Any], args: tuple[Any, ...], lanes: int) -> Any:
        begun = CLOCK.now()
        if self._ended:
            self.between.append(begun - self._ended)
        value = fn(*args)
        self._ended = CLOCK.now()
        self.calls_took.append(self._ended - begun)
        return value

    def calls(self, lanes: int) -> int:
        return 1


METHODS: Methods = {
    "serial": {"parallel": False},
    "SRDS, vanilla": {**SRDS, "schedule": VANILLA},
    "SRDS, pipelined": {**SRDS, "schedule": PIPELINED},
    "default": {},
}
CALLS = (1, 10, 50)
"""Milliseconds of a call of other networks."""


def in_one_process(report: Report, name: str, repeats: int, steps: Sequence[int] = (100, 1024)) -> None:
    """Rounds, the time of a round in which the network does nothing, and what that leaves of the gain."""
    table = report.table(
        "d_rounds",
        f"The cost of waiting, in one process: {name}, one sample, DDIM",
        (
            *("N", "method", "rounds", "call, ms", "between two calls, ms", "rounds that hold coarse lanes only"),
            *(f"gain at calls of {c} ms" for c in CALLS),
        ),
        f"Medians over the rounds, of each the least of {repeats} runs, which other programs disturb least. The gain "
        "is that of calls which take this time however many lanes they have: serial over parallel, with the time "
        "between two calls as measured for each.",
    )
    network = networks.load(name)
    model, noise = network.given([0]), network.noise([0])
    for n in steps:
        alone = 0.0
        for method, options in METHODS.items():
            watched = [Watched() for _ in range(repeats)]
            for one in watched:
                out = da.sample(model, noise, n, executor=one, **options)
            call, gap = (
                statistics.median(min(same) for same in zip(*parts, strict=True)) * 1e3
                for parts in ([one.calls_took for one in watched], [one.between for one in watched])
            )
            rounds = out.solution.stats.rounds
            alone = gap if method == "serial" else alone
            gains = [n * (c + alone) / (rounds * (c + gap)) for c in CALLS]
            only = round(n**0.5) + _sweeps(n, int(out.solution.iterations.max())) if "vanilla" in method else "-"
            table.add(n, method, rounds, f"{call:.2f}", f"{gap:.2f}", only, *(f"{gain:.1f}" for gain in gains))


def _sweeps(steps: int, iterations: int) -> int:
    """Rounds of the sweeps after the first, in which the fine lanes wait."""
    slices = round(steps**0.5)
    longest = -(-steps // slices)
    return theory.rounds(VANILLA, slices, [longest] * slices, iterations) - slices - iterations * longest


def on_workers(report: Report, iterations: int = 3, steps: Sequence[int] = (100, 1024)) -> None:
    """The gain on fewer devices than there are slices, by theory: a worker has one solve at a time."""
    table = report.table(
        "d_workers",
        f"SRDS after {iterations} iterations on several devices, each with one lane at a time; messages cost nothing",
        ("N", "devices", "gain, vanilla", "pipelined", "pipelined, own slices"),
        "By `pr.theory.makespan`: steps of the sequential run over steps on the busiest path. Own slices: each device "
        "keeps a block of neighbouring slices.",
    )
    for n in steps:
        slices = round(n**0.5)
        for workers in (1, 2, 4, 8, 16, 32):
            if workers > slices:
                continue
            each = [n // slices + (i < n % slices) for i in range(slices)]
            gains = [
                n / theory.makespan(order, slices, iterations, fine=each, coarse=1, workers=workers, placement=place)
                for order, place in ((VANILLA, "any"), (PIPELINED, "any"), (PIPELINED, "owner"))
            ]
            table.add(n, workers, *(f"{gain:.2f}" for gain in gains))


def on_processes(report: Report) -> None:
    """What a round takes in addition where two processes share the lanes, for states of 1 kB and 1 MB."""
    table = report.table(
        "d_processes",
        "What two processes of this machine add to a round, ms (gloo; the right-hand side is -u)",
        ("way", "state", "alone", "two processes", "added", "a call of which this is a tenth, ms"),
        "Medians over the rounds, of the slower process.",
    )
    cases = [(way, size // 4, 4) for way in measure.WAYS for size in (1000, 10**6)]
    every = on_ranks(2, measure.rows, cases, 2)
    for i, (way, elements, _) in enumerate(cases):
        rows = [rows[i] for rows in every]
        both = max(statistics.median(row.ranks.gaps) for row in rows if row.ranks.gaps) * 1e3
        alone = statistics.median(rows[0].alone.gaps) * 1e3
        added = max(0.0, both - alone)
        size = "1 kB" if elements < 1000 else "1 MB"
        table.add(way, size, f"{alone:.2f}", f"{both:.2f}", f"{added:.2f}", f"{10 * added:.1f}")
