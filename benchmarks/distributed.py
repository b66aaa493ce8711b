"""Runs over ranks: what they cost on this machine, and by simulation how far they scale on others.

Measures overhead and bytes of a round at 1, 2 and 4 ranks, with gloo on this machine, in processes of its own; holds
the simulation against runs whose right-hand side sleeps; then simulates 1 to 4,096 ranks for an equation with a large
state and for samples of a diffusion model, with the costs measured here and a stated network, beside what theory
allows. Draws it to out/distributed.png (with matplotlib). Takes about two minutes: run it with
`python benchmarks/distributed.py` while nothing else runs, or one half of it with `--only measured|simulated`.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from network import measure, model, workloads
from network.measure import Exchanges, Row, on_ranks
from network.model import ENGINE, Network, Rounds, Slices
from network.scaling import CALL, diffusion, draw, neurons
from network.text import say

import parareal as pr
from parareal import theory
from parareal.executors._base import blocks

HERE = (1, 2, 4)
LATENCY, BANDWIDTH = 10e-6, 12.5e9


# --- measured ---------------------------------------------------------------------------------------------------------


def gaps(rows: list[Row], way: str = "ranks") -> float:
    """Seconds of a round, median over rounds and runs, of the slowest rank."""
    overs = [getattr(row, way) for row in rows]
    return max(statistics.median(over.gaps) for over in overs if over.gaps)


def means(rows: list[Row], way: str = "ranks") -> float:
    """Seconds of a round, mean of the quickest run, on the first rank."""
    return min(getattr(rows[0], way).means)


def measured() -> None:
    cases = [(way, size // 4, slices) for way in measure.WAYS for size, slices in ((1000, 4), (10**6, 4), (10**6, 2))]
    say(f"""
        Overhead of a round beyond the right-hand side (-u, float32), {os.cpu_count()} cores, gloo, one thread a rank;
        Euler, {measure.STEPS} steps a slice, {measure.ITERATIONS} iterations; milliseconds. Median: over rounds,
        between one call and the next, of the slowest rank. Mean: wall time of the whole run / rounds - time of a call,
        the quickest run's, with handshake and end. Alone: the same run in one process without ranks. Added: what the
        ranks add to that.{" 4 ranks share the cores." if (os.cpu_count() or 1) < 4 else ""}
    """)
    print()
    print(f"{'':39}{'median of rounds':^24}   {'mean of a run':^24}")
    print(f"{'':13}{'state':>6}{'slices':>7}{'ranks':>6}{'':7}", end="")
    print("   ".join(f"{'ranks':>8}{'alone':>8}{'added':>8}" for _ in range(2)))
    found: dict[tuple[int, int], list[Row]] = {}
    for ranks in HERE:
        every = on_ranks(ranks, measure.rows, cases, 5 if ranks < 4 else 3)
        for i in range(len(cases)):
            found[ranks, i] = [rows[i] for rows in every]
    for i, (way, elements, slices) in enumerate(cases):
        for ranks in HERE:
            rows = found[ranks, i]
            print(f"{way:13}{label(elements):>6}{slices:>7}{ranks:>6}{'':7}", end="")
            pairs = [(of(rows), of(rows[:1], "alone")) for of in (gaps, means)]
            print("   ".join(f"{a * 1e3:8.3f}{b * 1e3:8.3f}{(a - b) * 1e3:8.3f}" for a, b in pairs))
    _verdicts(cases, found)
    _bytes(cases, found)


def label(elements: int) -> str:
    return "1 kB" if elements < 1000 else "1 MB"


def _verdicts(cases: list[tuple[str, int, int]], found: dict[tuple[int, int], list[Row]]) -> None:
    print("\nTarget: at 2 ranks, with a state of 1 MB, below 2 ms a round added by the ranks")
    for i, (way, elements, slices) in enumerate(cases):
        if elements > 1000:
            added = [of(found[2, i]) - of(found[2, i][:1], "alone") for of in (gaps, means)]
            words = [f"{one * 1e3:.2f} ms, {'met' if one < 2e-3 else 'missed'}" for one in added]
            print(f"  {way}, {slices} slices, {slices // 2} a rank: median {words[0]}; mean {words[1]}")


def _bytes(cases: list[tuple[str, int, int]], found: dict[tuple[int, int], list[Row]]) -> None:
    print("\nBytes sent by all ranks together, counted by the package and at torch.distributed's own functions")
    print("Distributed: values of lanes to other ranks")
    print(f"{'state':>7}{'slices':>7}{'ranks':>6}{'rounds':>8}{'bytes':>15}{'seen':>15}{'a round':>11}")
    pipes: list[str] = []
    for i, (way, elements, slices) in enumerate(cases):
        for ranks in HERE:
            rows, size = found[ranks, i], 4 * elements
            state, rounds = label(elements), rows[0].rounds
            kinds = {kind: sum(row.sent[kind] for row in rows) for kind in rows[0].sent}
            seen, together = sum(row.seen for row in rows), sum(row.together for row in rows)
            head = f"{state:>7}{slices:>7}{ranks:>6}"
            if way == "Distributed":
                print(f"{head}{rounds:>8}{kinds['states']:>15,}{seen:>15,}{kinds['states'] / rounds:>11,.0f}")
                continue
            most = measure.ITERATIONS * (min(ranks, slices) - 1) * size
            shares = f"{kinds['edge'] / most:>8.3f}{seen / most:>8.3f}" if most else f"{'-':>8}{'-':>8}"
            parts = f"{kinds['edge']:>12,}{kinds['figures']:>9,}{kinds['decision']:>10,}"
            pipes.append(f"{head}{parts}{seen:>12,}{seen / rounds:>10,.0f}{shares}{together:>12,}")
    say("""
        RankPipeline: letters with edge states, figures and decisions; `seen` has their headings as well. The ratios
        are edge states, and all that is seen, over iterations x block edges x state; the target is 1.1. At the end
        all edges come together on every rank, once.
    """)
    print(f"{'state':>7}{'slices':>7}{'ranks':>6}{'edges':>12}{'figures':>9}{'decisions':>10}{'seen':>12}", end="")
    print(f"{'a round':>10}{'edges':>8}{'all':>8}{'at the end':>12}")
    print("\n".join(pipes))


# --- the simulation beside reality ------------------------------------------------------------------------------------


def held_against_reality(found: Exchanges) -> None:
    net = Network(0.0, found.bandwidth, found.letter, found.handle, found.word)
    steps, k = 16, measure.ITERATIONS
    say("""
        Simulated against measured: a right-hand side that sleeps 4 ms, state of 1 kB, Euler, 16 steps; least of 4 runs
    """)
    print(f"{'':13}{'sleeps for each':<17}{'slices':>6}{'ranks':>6}{'measured s':>12}{'simulated s':>12}{'ratio':>8}")
    for ranks in HERE:
        cases = [("Distributed", 8, False), ("Distributed", 8, True), ("RankPipeline", 8, False)]
        cases += [("RankPipeline", ranks, True)] * (ranks > 1)
        every = on_ranks(ranks, _naps, cases, steps)
        for i, (way, slices, by_lane) in enumerate(cases):
            runs = min((max(rank[i][j][0] for rank in every), every[0][i][j][1]) for j in range(4))
            wall, nap = runs
            if way == "Distributed":
                lanes = theory.counts(pr.Barrier(), slices, steps, k).lanes
                call = (0.0, nap) if by_lane else (nap, 0.0)
                expected = model.dealt_out(lanes, ranks, Rounds(call, (ENGINE, 0.0), 1000.0), net, k)
            else:
                one = nap + ENGINE
                cost = Slices(steps * one, one, one, 1000.0)
                expected = model.pipeline(blocks(slices, ranks), k, cost, net).total
            each = "lane" if by_lane else "call"
            print(f"{way:13}{each:<17}{slices:>6}{ranks:>6}{wall:>12.3f}{expected:>12.3f}{expected / wall:>8.2f}")


def _naps(cases: list[tuple[str, int, bool]], steps: int) -> list[list[tuple[float, float]]]:
    return [[measure.naps(way, slices, steps, by_lane) for _ in range(4)] for way, slices, by_lane in cases]


# --- simulated --------------------------------------------------------------------------------------------------------


def simulated() -> None:
    found = on_ranks(2, measure.exchanges)[0]
    say(f"""
        Exchanges between 2 ranks here: a step of a word {found.word * 1e6:.0f} us, a letter of 1 kB
        {found.letter * 1e6:.0f} us, each of many letters {found.handle * 1e6:.0f} us, letters of 1 MB
        {found.bandwidth / 1e9:.2f} GB/s
    """)
    held_against_reality(found)
    net = Network(LATENCY, BANDWIDTH, found.letter, found.handle, found.word)
    say(f"""
        Simulated ranks: latency {LATENCY * 1e6:.0f} us, bandwidth {BANDWIDTH / 1e9:g} GB/s (100 Gb/s) for each,
        software as measured here; `stops paying` is where no number of ranks is quicker by a tenth. Minion:
        N / (N r + k (1 + r)); Aubanel: a manager for all coarse solves; limit: no order of the tasks is quicker. The
        model leaves out: {(model.__doc__ or "").split("leaves out: ")[1]}
    """)
    cost = workloads.neuron_rounds()
    panels, passes = {"a ring of neurons, 1 MB": neurons(net, cost)}, workloads.passes(cost)
    for steps in (1000, 100):
        panels[f"a sample of {steps:,} calls of {CALL * 1e3:.0f} ms"] = diffusion(steps, net, passes)
    draw(panels, Path(os.environ.get("PARAREAL_OUT", "out")) / "distributed.png")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("measured", "simulated"))
    only = parser.parse_args(arguments).only
    torch.set_num_threads(1)
    with torch.no_grad():
        if only != "simulated":
            measured()
        if only != "measured":
            simulated()


if __name__ == "__main__":
    main()
