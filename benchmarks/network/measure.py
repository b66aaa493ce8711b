"""What runs on a few ranks of this machine take: overhead and bytes of a round, single exchanges, runs that sleep."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

import parareal as pr
from parareal.distributed import _mailbox, _process_group
from parareal.distributed._mailbox import Kind, Mailbox


def on_ranks(size: int, fn: Callable[..., Any], *args: Any, patience: float = 150.0) -> list[Any]:
    """What ``fn(*args)`` returns on each of so many ranks, which are processes started for it."""
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(size)]
        processes = [
            context.Process(target=_serve, args=(rank, size, f"{folder}/store", pipe[1], fn, args), daemon=True)
            for rank, pipe in enumerate(pipes)
        ]
        for process in processes:
            process.start()
        answers: list[tuple[bool, Any]] = []
        try:
            for pipe, _ in pipes:
                answers.append(pipe.recv() if pipe.poll(patience) else (False, f"no answer for {patience:g} s"))
                if not answers[-1][0]:
                    raise RuntimeError(answers[-1][1])
        finally:
            for process in processes:
                process.join(10 if len(answers) == size else 0)
                process.kill()
    return [value for _, value in answers]


def _serve(rank: int, size: int, store: str, pipe: Any, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
        with torch.no_grad():
            value = fn(*args)
        pipe.send((True, value))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        pipe.send((False, f"rank {rank}: {traceback.format_exc()}"))


class Timed:
    """A right-hand side for lanes with a stopwatch."""

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._f = f
        self.seconds, self.calls = 0.0, 0
        self.begun = self._ended = 0.0
        self.gaps: list[float] = []  # between one call and the next

    def __call__(self, t: Tensor, u: Tensor) -> Tensor:
        begun = time.perf_counter()
        if self.calls:
            self.gaps.append(begun - self._ended)
        else:
            self.begun = begun
        value = self._f(t, u)
        self._ended = time.perf_counter()
        self.seconds += self._ended - begun
        self.calls += 1
        return value


# --- overhead and bytes -----------------------------------------------------------------------------------------------

STEPS, ITERATIONS = 48, 3
WAYS = ("Distributed", "RankPipeline")


def way_of(name: str) -> dict[str, Any]:
    """Beside ``name``, the same run in one process."""
    return {
        "Distributed": {"executor": pr.Distributed()},
        "RankPipeline": {"schedule": pr.RankPipeline()},
        "Distributed alone": {"executor": pr.Batched()},
        "RankPipeline alone": {"schedule": pr.Wavefront()},
    }[name]


def run(f: Callable[..., Tensor], elements: int, way: str, slices: int, steps: int = STEPS) -> pr.Solution:
    return pr.solve(
        pr.ODE(f, batching="native"),
        torch.linspace(0.1, 1.0, elements),
        pr.TimeGrid.uniform(0.0, 1.0, slices=slices, steps=steps),
        fine=pr.Euler(),
        coarse=pr.Euler(),
        stop=pr.Iterations(ITERATIONS),
        **way_of(way),
    )


@dataclass
class Over:
    """Seconds of a round beyond the right-hand side, run by run.

    Attributes:
        gaps: The median over rounds of what lies between one call and the next.
        means: Wall time of the whole run by rounds, less the time of a call.
    """

    gaps: list[float]
    means: list[float]


@dataclass
class Row:
    """Of one rank: overhead, and what was sent.

    Attributes:
        ranks: With all ranks.
        alone: The same run in one process, on the first rank only.
        rounds: Of a run.
        sent: Bytes of the rounds' states, or of messages by kind.
        seen: Bytes that went through the functions of torch.distributed in a run.
        together: Bytes with which the edges come together at the end.
    """

    ranks: Over
    alone: Over
    rounds: int
    sent: dict[str, int]
    seen: int
    together: int


def rows(cases: list[tuple[str, int, int]], repeats: int) -> list[Row]:
    """One for each way, number of elements and number of slices."""
    return [_row(*case, repeats) for case in cases]


def _row(way: str, elements: int, slices: int, repeats: int) -> Row:
    first, rounds = dist.get_rank() == 0, 0
    found = {way: Over([], []), f"{way} alone": Over([], [])}
    for i in range(repeats + 1):  # in turn, so that what else the machine does meets both; the first time warms up
        for name, over in found.items():
            dist.barrier()
            if not first and name != way:
                continue
            timed = Timed(lambda t, u: -u)
            stats = run(timed, elements, name, slices).stats
            if i and timed.calls > 1:
                over.gaps.append(statistics.median(timed.gaps))
                over.means.append(stats.wall_time / stats.rounds - timed.seconds / timed.calls)
            rounds = stats.rounds if name == way else rounds
    return Row(found[way], found[f"{way} alone"], rounds, *_bytes(way, elements, slices))


def _bytes(way: str, elements: int, slices: int) -> tuple[dict[str, int], int, int]:
    """What this rank counts as sent, and what torch's functions are given to send."""
    size, rank = dist.get_world_size(), dist.get_rank()
    links: list[Any] = []
    boxes: list[dict[Kind, int]] = []
    seen = {"messages": 0, "states": 0}
    send, broadcast, gather, close, settle = (
        dist.isend,
        dist.broadcast,
        _process_group._all_gather,
        Mailbox.close,
        _process_group.Link.gather,
    )

    def isend(tensor: Tensor, *args: Any, **more: Any) -> Any:
        kind = "messages" if more.get("tag") == _mailbox._TAG else "states"
        seen[kind] += tensor.numel() * tensor.element_size()
        return send(tensor, *args, **more)

    def all_gather(whole: Tensor, own: Tensor, **more: Any) -> Any:
        seen["states"] += own.numel() * own.element_size() * (size - 1)
        return gather(whole, own, **more)

    def broadcast_(tensor: Tensor, *args: Any, **more: Any) -> Any:
        if more.get("group_src") == rank and tensor.dtype == torch.uint8:
            seen["states"] += tensor.numel() * (size - 1)
        return broadcast(tensor, *args, **more)

    def gathered(link: Any, *args: Any, **more: Any) -> Any:
        links.append(link)
        return settle(link, *args, **more)

    def closed(box: Mailbox, *args: Any, **more: Any) -> None:
        boxes.append(dict(box.sent))
        close(box, *args, **more)

    with ExitStack() as stack:
        for thing, name, new in (
            (dist, "isend", isend),
            (dist, "broadcast", broadcast_),
            (_process_group, "_all_gather", all_gather),
            (_process_group.Link, "gather", gathered),
            (_mailbox.Mailbox, "close", closed),
        ):
            stack.enter_context(mock.patch.object(thing, name, new))
        run(lambda t, u: -u, elements, way, slices)
    states = links[-1].sent
    if way == "Distributed":
        return {"states": states}, seen["states"], 0
    return {kind.name.lower(): boxes[0][kind] for kind in list(Kind)[:3]}, seen["messages"], seen["states"]


# --- single exchanges -------------------------------------------------------------------------------------------------


@dataclass
class Exchanges:
    """Between two ranks of this machine.

    Attributes:
        word: Seconds of one step of a collective exchange: half of a settled word.
        letter: Seconds from the sender's call until a small message is in the receiver's hands.
        handle: Seconds that a process is busy with a message, where many come.
        bandwidth: Bytes a second, of messages of 1 MB.
    """

    word: float
    letter: float
    handle: float
    bandwidth: float


def exchanges() -> Exchanges:
    link = _process_group.Link(None, 60.0, "a benchmark")
    other, rank = 1 - link.rank, link.rank
    box = Mailbox(link, [other], [other])

    def ping(size: int, many: int = 1) -> Callable[[], None]:
        content = torch.zeros(size, dtype=torch.uint8)

        def there_and_back() -> None:
            for turn in (0, 1):
                for _ in range(many):
                    if rank == turn:
                        box.send(other, Kind.BOUNDARY, content=content)
                    elif box.take(10.0) is None:
                        raise RuntimeError("no message has come")

        return there_and_back

    word, small = _least(link.settle, 40, after=2e-3) / 2, _least(ping(1000), 60) / 2
    large, many = _least(ping(1_000_000), 30) / 2, _least(ping(300, 100), 5) / 2
    box.close()
    link.settle()
    return Exchanges(word, small, many / 100, 1_000_000 / large)


def _least(fn: Callable[[], Any], times: int, blocks: int = 5, after: float = 0.0) -> float:
    """Of several medians, the one in which other processes of the machine had least part.

    ``after`` seconds of sleep each, as in a run, where threads have to be woken.
    """
    return min(_median(fn, times, after) for _ in range(blocks))


def _median(fn: Callable[[], Any], times: int, after: float) -> float:
    taken: list[float] = []
    for _ in range(times):
        if after:
            time.sleep(after)
        begun = time.perf_counter()
        fn()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


# --- runs that sleep --------------------------------------------------------------------------------------------------

NAP = 4e-3


def naps(way: str, slices: int, steps: int, by_lane: bool) -> tuple[float, float]:
    """A run whose right-hand side sleeps, for each call or for each lane.

    Returns:
        Seconds from the first call to the end of the run; and of a call, or of a lane.
    """
    lanes = 0

    def sleep(t: Tensor, u: Tensor) -> Tensor:
        nonlocal lanes
        count = len(u) if by_lane else 1
        lanes += count
        time.sleep(NAP * count)
        return -u

    timed = Timed(sleep)
    dist.barrier()
    run(timed, 250, way, slices, steps)
    return time.perf_counter() - timed.begun, timed.seconds / max(lanes, 1)
