"""The simulation of many ranks in `benchmarks/distributed.py`: held to theory and to the definition."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parareal import theory

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from network import model
from network.model import Network, Rounds, Slices

FREE = Network()
counts = st.integers(1, 6)
seconds = st.floats(1e-3, 1.0)


def _by_definition(blocks: list[int], iterations: int, cost: Slices, message: float) -> float:
    """When the last edge holds the last iterate, from the recurrence, edge by edge; decisions take no time."""
    owner = [rank for rank, size in enumerate(blocks) for _ in range(size)]
    first = {rank: owner.index(rank) for rank in range(len(blocks))}
    slices = len(owner)
    used = [first[rank] * cost.guess + (n - first[rank]) * cost.coarse for n, rank in enumerate(owner)]
    guessed = [start + cost.coarse for start in used]
    heard = 0.0
    for j in range(1, iterations + 1):
        made, now = {}, list(used)
        for n in range(j - 1, slices):
            made[n] = max(used[n] + cost.fine, heard)
            if j == 1 and n + 1 < slices and owner[n + 1] == owner[n]:
                made[n] = max(made[n], guessed[n + 1])
            if n >= j:
                made[n] = max(made[n], now[n] + cost.coarse)
            if n + 1 < slices:
                crosses = owner[n + 1] != owner[n]
                now[n + 1] = max(made[n] + message * crosses, heard)
        used, heard = now, max(made.values())
    return heard


@given(st.lists(counts, min_size=1, max_size=5), st.integers(1, 6), seconds, seconds, seconds, st.floats(0.0, 0.5))
@settings(max_examples=200)
def test_it_is_the_recurrence(
    blocks: list[int], iterations: int, fine: float, coarse: float, guess: float, message: float
) -> None:
    cost, most = Slices(fine, min(coarse, fine), min(guess, fine)), min(iterations, sum(blocks))

    class Sure(Network):  # whose decisions are known as they fall
        def message(self, size: float) -> float:
            return message if size else 0.0

    found = model.pipeline(blocks, most, cost, Sure())
    assert found.solved == pytest.approx(_by_definition(blocks, most, cost, message), rel=1e-12)


@given(st.integers(1, 200), st.integers(1, 8), st.floats(0.001, 1.0), st.floats(0.0, 1e-3))
def test_no_pipeline_is_quicker_than_the_limit(slices: int, k: int, ratio: float, latency: float) -> None:
    k = min(k, slices)
    cost = Slices(1.0 + ratio, ratio, ratio)  # one after the other, no stage is shared
    times = model.pipeline([1] * slices, k, cost, Network(latency))
    limit = theory.speedup_limit(slices, k, ratio, workers=slices)
    assert slices / times.total <= limit * (1 + 1e-9)
    slower = model.pipeline([1] * slices, k, cost, Network(2 * latency + 1e-4, letter=1e-4))
    assert slower.total >= times.total


@given(st.lists(st.integers(1, 500), min_size=1, max_size=30), st.integers(1, 300), seconds, seconds)
def test_lanes_dealt_out(lanes: list[int], ranks: int, per_call: float, per_lane: float) -> None:
    found = model.dealt_out(np.array(lanes), ranks, Rounds((per_call, per_lane), (0.0, 0.0), 1.0), FREE)
    assert found == pytest.approx(sum(per_call + per_lane * -(-n // ranks) for n in lanes))
    slow = Network(latency=1e-3, bandwidth=1e3)
    assert model.dealt_out(np.array(lanes), ranks, Rounds((per_call, per_lane), (0.0, 0.0), 1.0), slow) >= found


@pytest.mark.parametrize(("speedups", "place"), [([1.0, 2.0, 2.1], 1), ([1.0, 0.5], 0), ([1.0, 4.0, 3.9, 6.0], 3)])
def test_where_more_ranks_stop_paying(speedups: list[float], place: int) -> None:
    assert model.stops_paying(speedups) == place


def test_the_network_is_what_is_stated() -> None:
    net: Any = Network(latency=1.0, bandwidth=10.0, letter=0.5, word=0.25)
    assert net.message(20) == 1.0 + 0.5 + 2.0
    assert net.settle(8) == 2 * 3 * 1.25
    assert net.gather(3, 1, 100.0) == 0.0
    assert net.gather(4, 4, 10.0) == pytest.approx(1.0 + 3 * 0.25 + 3.0)  # each sends its state to three others
    assert net.gather(64, 64, 10.0) == pytest.approx(6 * 1.25 + 63.0)  # a tree, and all that comes in


def test_thousands_of_ranks_take_seconds_at_most() -> None:
    cost = Slices(1.0, 1e-3, 1e-3, 1e6)
    times = model.pipeline([1] * 4096, 8, cost, Network(1e-5, 1e10, 1e-4, 1e-4, 1e-4))
    assert times.total > times.solved > 0
    assert len(times.iterations) == 8
    assert list(times.iterations) == sorted(times.iterations)
