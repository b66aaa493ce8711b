"""How long a run on many ranks takes, from what a round and a message cost.

Every time is that of an event: an edge holds an iterate, a rank has heard a decision. In a pipeline an edge's time is
the latest of those that it waits for, and the chain along an iteration is a running maximum, so that thousands of ranks
take milliseconds. Where lanes are dealt out all ranks go in step, and times of rounds are added up.

What the model leaves out: ranks that are not equally fast, and noise; links that several messages share, and a network
whose ranks are not all equally near; that a message is heard of at the end of the call that is under way; the handshake
before a run and objects exchanged at its end; memory, of which every rank needs two states for each edge of the grid;
the bookkeeping of thousands of slices, which each round goes through; that fine lanes of several slices on one rank
slow each other down where a call's cost grows with its lanes (a pipeline is simulated with a slice for each rank, or
with calls that cost the same whatever their lanes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from parareal.distributed._exchange import _FEW

ENGINE = 6e-5  # seconds of a round in one process, states of no size; as measured


@dataclass(frozen=True)
class Network:
    """What carries messages.

    Attributes:
        latency: Seconds that the first byte of a message takes.
        bandwidth: Bytes a second, into and out of each rank at a time.
        letter: Seconds that a letter of a pipeline takes in software, from rank to rank.
        handle: Seconds that one process is busy with each letter it sends or gets.
        word: Seconds that one step of a collective exchange takes in software.
    """

    latency: float = 0.0
    bandwidth: float = math.inf
    letter: float = 0.0
    handle: float = 0.0
    word: float = 0.0

    def message(self, size: float) -> float:
        """Seconds from rank to rank for a letter of so many bytes."""
        return self.latency + self.letter + size / self.bandwidth

    def settle(self, ranks: int) -> float:
        """A few bytes reduced over all ranks: there and back along a tree."""
        return 2 * depth(ranks) * (self.latency + self.word)

    def gather(self, lanes: np.ndarray | int, ranks: int, size: float) -> np.ndarray:
        """Lanes of all ranks to all ranks: messages between few; one all-gather, or where uneven a broadcast each."""
        lanes = np.asarray(lanes, dtype=float)
        if ranks == 1:
            return np.zeros_like(lanes)
        hops, most = depth(ranks), np.ceil(lanes / ranks)
        if ranks <= _FEW:
            others = np.minimum(lanes, ranks - 1)
            return self.latency + others * self.word + np.maximum(lanes - most, most * others) * size / self.bandwidth
        even = hops * (self.latency + self.word) + (lanes - most) * size / self.bandwidth
        bytes_in = np.maximum(lanes, hops * most) * size
        uneven = hops * self.latency + np.minimum(lanes, ranks) * self.word + bytes_in / self.bandwidth
        return np.where(lanes % ranks == 0, even, uneven)


def depth(ranks: int) -> int:
    """Steps of a tree over all ranks."""
    return math.ceil(math.log2(ranks))


# --- blocks of slices -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slices:
    """What the solves of a pipeline take, in seconds, and the state's size in bytes.

    Attributes:
        fine: A fine solve of one slice, from when its left edge is there.
        coarse: A coarse solve beside it.
        guess: A coarse solve with nothing beside it.
        size: Bytes of one state.
    """

    fine: float
    coarse: float
    guess: float
    size: float = 0.0


@dataclass(frozen=True)
class Times:
    """When things happen, in seconds.

    Attributes:
        total: The run is over, and every rank has all edges.
        solved: The last iteration is complete and decided about.
        iterations: When each is decided about.
    """

    total: float
    solved: float
    iterations: tuple[float, ...]


def pipeline(blocks: list[int], iterations: int, cost: Slices, net: Network) -> Times:
    """``RankPipeline``: k iterations of ranks that have so many slices each, at least one.

    With U[n] and E[n] the times at which edge n holds the iterate on the rank that uses it and on the one that makes
    it, of iterate j

        E[n + 1] = max(U'[n] + fine, U[n] + coarse, heard),     U[n] = max(E[n] + message, heard)

    where U' is that of iterate j - 1, messages go between blocks alone, and ``heard`` is when the rank knows that the
    run goes on after iteration j - 1. After j iterations edge j is final and takes part no more.
    """
    size, ranks = sum(blocks), len(blocks)
    owner = np.repeat(np.arange(ranks), blocks)  # of each slice
    ends = np.cumsum(blocks)
    message = np.zeros(size + 1)
    message[ends[:-1]] = net.message(cost.size + 1)
    inside = np.arange(size) - (ends - blocks)[owner]  # of its block, each slice
    # First guesses are made by every rank for itself, from the start of the grid.
    used = np.append((np.arange(size) - inside) * cost.guess + inside * cost.coarse, 0.0)
    guessed = used[:-1] + cost.coarse  # right edges, on the rank of the slice
    heard, decided = np.zeros(ranks), []
    for j in range(1, min(iterations, size) + 1):
        part = slice(j - 1, size)  # slices whose right edge takes iterate j
        gate = heard[owner]
        ready = np.maximum(used[part] + cost.fine, gate[part])
        if j == 1:  # not before the next edge, if it is on the same rank, has its guess
            ready[:-1] = np.maximum(ready[:-1], np.where(inside[1:] > 0, guessed[1:], 0.0))
        arrive = ready + message[j:]
        arrive[:-1] = np.maximum(arrive[:-1], gate[j:])
        steps = np.cumsum(cost.coarse + message[j:]) - (cost.coarse + message[j])
        now = np.maximum.accumulate(arrive - steps) + steps
        before = now[:-1]
        made = ready.copy()
        made[1:] = np.maximum(ready[1:], before + cost.coarse)
        used = np.concatenate([used[:j], now])
        at_work = np.flatnonzero(ends >= j)
        reported = made[ends[at_work] - j]
        heard = _decide(at_work, reported, np.array(blocks), net)
        decided.append(float(heard[0]))
    end = float(heard.max()) + 2 * net.settle(ranks) + float(_together(size, ranks, cost.size, net))
    return Times(end, decided[-1], tuple(decided))


def _decide(at_work: np.ndarray, reported: np.ndarray, blocks: np.ndarray, net: Network) -> np.ndarray:
    """When each rank hears of a decision: the first one reads the others' figures one by one, and writes to them so."""
    ranks = len(blocks)
    figures = 8.0 * (24 + 8 * blocks[at_work])
    sent = np.where(at_work == 0, 0.0, net.message(0) + figures / net.bandwidth)
    arrived = np.sort(reported + sent)
    known = float((arrived + net.handle * np.arange(len(arrived), 0, -1)).max()) if ranks > 1 else float(arrived[-1])
    decision = 8.0 * (24 + blocks.sum())
    order = np.arange(ranks)
    heard = known + order * (net.handle + decision / net.bandwidth) + net.latency + net.letter
    heard[0] = known + (ranks - 1) * net.handle
    return heard


def _together(slices: int, ranks: int, size: float, net: Network) -> np.ndarray:
    return net.gather(slices, ranks, size)


# --- lanes of every round ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rounds:
    """What a round takes, in seconds, as a function of its lanes, and the state's size in bytes.

    Attributes:
        call: The right-hand side: of a call, and of each lane in it.
        engine: What every rank computes from the values of all lanes: in each round, and for each lane.
        size: Bytes of one state.
    """

    call: tuple[float, float]
    engine: tuple[float, float]
    size: float = 0.0


def dealt_out(lanes: np.ndarray, ranks: int, cost: Rounds, net: Network, iterations: int = 0) -> float:
    """``Distributed``: rounds of so many lanes, split over ranks that go in step."""
    counts, times = np.unique(np.asarray(lanes), return_counts=True)
    own = np.ceil(counts / ranks)
    each = cost.call[0] + cost.call[1] * own + cost.engine[0] + cost.engine[1] * counts
    each = each + net.settle(ranks) + net.gather(counts, ranks, cost.size)
    return float((each * times).sum()) + 2 * iterations * net.settle(ranks)


def stops_paying(speedups: list[float], gain: float = 1.1) -> int:
    """Where more ranks stop paying: the first place after which nothing is quicker by a tenth."""
    most = max(speedups)
    return next(i for i, one in enumerate(speedups) if one * gain >= most)
