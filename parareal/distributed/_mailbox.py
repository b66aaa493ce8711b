"""Messages between the processes of a run: they arrive in the background, and no process with work waits."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.trees import State
from parareal.distributed._process_group import Link, RankError, as_bytes

_TAG = 2412  # tag of messages, so that they are not mixed up with those of other code
_PATIENCE = timedelta(days=30)  # a message may take as long as the work before it; the receiver has a limit of its own


_UNREAD = 8
"""Most pending sends to one process, a choice: four messages, more than one iteration has."""


class Kind(IntEnum):
    """The kind of a message."""

    BOUNDARY = 0  # the next iterate at the receiver's left boundary
    FIGURES = 1  # the moves of the boundaries of a block
    DECISION = 2  # which systems continue
    FAILED = 3  # a process has raised, or received a signal: all exchange the reason
    BYE = 4  # the last message
    LOST = 5  # a process is lost, as its reader has noticed


class Message(NamedTuple):
    """A message that has arrived.

    Attributes:
        kind: Its kind.
        source: The rank of the sender.
        number: The iteration that it belongs to.
        clock: Rounds of the sender so far.
        content: Bytes, uint8.
    """

    kind: Kind
    source: int
    number: int
    clock: int
    content: Tensor


class Mailbox:
    """Sends messages, and receives them in threads, which only wait.

    A collective call would make every process wait for the slowest; a message waits in the mailbox until it is needed.

    Args:
        link: The processes.
        sources: Ranks that send to this one.
        readers: Ranks that this one sends to.

    Attributes:
        sent: Bytes of contents sent so far, by kind.
    """

    def __init__(self, link: Link, sources: Iterable[int], readers: Iterable[int]) -> None:
        self._link, self._readers = link, sorted(set(readers))
        self._arrived: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._under_way: dict[int, deque[tuple[Any, Tensor]]] = {rank: deque() for rank in self._readers}
        self.sent = dict.fromkeys(Kind, 0)
        self._threads = [
            threading.Thread(target=self._listen, args=(source,), daemon=True) for source in sorted(set(sources))
        ]
        for thread in self._threads:
            thread.start()

    def send(self, to: int, kind: Kind, number: int = 0, clock: int = 0, content: Tensor | None = None) -> None:
        """Sends a message without waiting for its arrival."""
        size = 0 if content is None else len(content)
        self.sent[kind] += size
        for part in (torch.tensor([kind, number, clock, size]), content):
            if part is not None and len(part):
                work = self._link.begun(dist.isend, part, group=self._link.control, group_dst=to, tag=_TAG)
                self._under_way[to].append((work, part))  # kept until it has arrived
        while len(self._under_way[to]) > _UNREAD:
            self._link.wait(self._under_way[to].popleft()[0])

    def tell_all(
        self, kind: Kind, number: int = 0, clock: int = 0, content: Tensor | None = None, quietly: bool = False
    ) -> None:
        """Sends a message to all readers; ``quietly`` if some may be lost."""
        for rank in self._readers:
            try:
                self.send(rank, kind, number, clock, content)
            except RankError:
                if not quietly:
                    raise

    def take(self, seconds: float = 0.0) -> Message | None:
        """The next message, after waiting at most ``timeout``; ``None`` if there is none."""
        try:
            return self._arrived.get(timeout=seconds) if seconds else self._arrived.get_nowait()
        except queue.Empty:
            return None

    def close(self, quietly: bool = False) -> None:
        """Sends the last message, and waits for those of the others; ``quietly`` if they may be lost."""
        try:
            if not self._link.gone:
                self._part()
        except RankError:
            if not quietly:
                raise

    def _part(self) -> None:
        link = self._link
        self.tell_all(Kind.BYE)
        for works in self._under_way.values():
            while works:
                link.wait(works.popleft()[0])
        until = time.monotonic() + link.timeout.total_seconds()
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                raise link.lost("the last message has not come")

    def _listen(self, source: int) -> None:
        def receive(into: Tensor) -> Tensor:
            work = dist.irecv(into, group=self._link.control, group_src=source, tag=_TAG)
            assert work is not None
            work.wait(_PATIENCE)
            return into

        try:
            while True:
                kind, number, clock, size = receive(torch.empty(4, dtype=torch.int64)).tolist()
                content = torch.empty(size, dtype=torch.uint8)
                if size:
                    receive(content)
                if kind == Kind.BYE:
                    return
                self._arrived.put(Message(Kind(kind), source, number, clock, content))
        except Exception as error:
            with suppress(Exception):  # the interpreter may be shutting down
                self._arrived.put(Message(Kind.LOST, source, 0, 0, as_text(error)))


def as_text(error: BaseException) -> Tensor:
    """The text of an error as the content of a message."""
    return torch.from_numpy(
        np.frombuffer(str(error).encode("utf-8", "backslashreplace") or b" ", dtype=np.uint8).copy()
    )


def pack(*arrays: np.ndarray[Any, Any]) -> Tensor:
    """Numbers as bytes: each array with its length before it, all as float64."""
    flat = [np.asarray(array, dtype=np.float64).reshape(-1) for array in arrays]
    parts = [part for array in flat for part in (np.array([len(array)], dtype=np.float64), array)]
    return torch.from_numpy(np.concatenate(parts)).view(torch.uint8)


def unpack(content: Tensor) -> list[np.ndarray[Any, Any]]:
    """The inverse of `pack`: arrays of float64 in one dimension."""
    numbers, arrays, at = content.view(torch.float64).numpy(), [], 0
    while at < len(numbers):
        size = int(numbers[at])
        arrays.append(numbers[at + 1 : at + 1 + size])
        at += 1 + size
    return arrays


class BlockFigures(NamedTuple):
    """The moves of the boundaries of a block in an iteration.

    Attributes:
        grid: Figures of each slice's right boundary, ``(M, end - start, 1 + C)``.
        moved: Systems, slices, iterates, whether final, ``(V,)`` each, and their figures, ``(V, C)``.
        finite: Whether the states at the frontiers are, ``(M,)``.
        frontier: ``(M,)``.
    """

    grid: Floats
    moved: tuple[Ints, Ints, Ints, Bools, Floats]
    finite: Bools
    frontier: Ints


def boundary_content(value: State, final: Bools) -> torch.Tensor:
    """States of all systems and what is final, as bytes on the host."""
    parts = [as_bytes(leaf.detach().contiguous()).cpu() for leaf in trees.leaves(value)]
    return torch.cat([*parts, torch.from_numpy(final).to(torch.uint8)])


def boundary_states(content: torch.Tensor, like: State, systems: int) -> tuple[State, Bools]:
    """The inverse of `boundary_content`, for states that look like ``like``."""
    parts: list[torch.Tensor] = []
    at = 0
    for leaf in trees.leaves(like):
        size = leaf.numel() * leaf.element_size()
        raw, at = content[at : at + size].clone(), at + size
        real = raw.view(leaf.real.dtype if leaf.is_complex() else leaf.dtype)
        whole = torch.view_as_complex(real.reshape(*leaf.shape, 2)) if leaf.is_complex() else real.reshape(leaf.shape)
        parts.append(whole.to(leaf.device))
    return trees.rebuild(parts, like), content[-systems:].numpy() > 0
