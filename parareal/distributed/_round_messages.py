"""Messages of one round between the processes of a run, and how they are completed if the run ends in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

_TAG = 2413  # tag of messages, so that they are not mixed up with those of other code

Sizes: TypeAlias = list[list[int]]
Begun: TypeAlias = Callable[..., Any]
"""Begins an operation of the group: `Link.begun`."""


class Mail:
    """The messages to and from each of the other processes.

    A pending receive cannot be cancelled: that would close the connection, and the group with it. So at the end of a
    run processes exchange what each has begun to send and to receive, and every one completes what the others still
    expect.

    Its methods take the function that begins an operation: a method of the link kept here would make a cycle of
    references.

    Args:
        group: The processes.
        size: How many there are.
    """

    def __init__(self, group: Any, size: int) -> None:
        self._group = group
        self._sent: Sizes = [[] for _ in range(size)]
        self._awaited: Sizes = [[] for _ in range(size)]
        self._works: list[tuple[Any, Tensor]] = []  # with the buffer, which must live as long

    def receive(self, raw: Tensor, source: int, begun: Begun) -> None:
        """Begins to receive bytes from a rank."""
        work = begun(dist.irecv, raw, group=self._group, group_src=source, tag=_TAG)
        self._awaited[source].append(len(raw))
        self._works.append((work, raw))

    def send(self, raw: Tensor, to: int, begun: Begun) -> None:
        """Begins to send bytes to a rank."""
        work = begun(dist.isend, raw, group=self._group, group_dst=to, tag=_TAG)
        self._sent[to].append(len(raw))
        self._works.append((work, raw))

    def end(self, wait: Callable[[Any], None]) -> None:
        """Waits until all messages are complete."""
        for work, _ in self._works:
            wait(work)
        self._works.clear()
        for sizes in (*self._sent, *self._awaited):
            sizes.clear()

    def release(self) -> None:
        """Lets go of the group."""
        del self._group

    @property
    def under_way(self) -> tuple[Sizes, Sizes]:
        """Sizes of pending messages to each rank, and from each rank, in order."""
        return self._sent, self._awaited

    def make_up(self, rank: int, everyone: Sequence[tuple[Sizes, Sizes]], begun: Begun) -> None:
        """Sends and receives what the others still expect, so that no message is left for a later run.

        Args:
            rank: This process.
            everyone: What is `under_way` on each.
            begun: Begins an operation.
        """
        for other, (sent, awaited) in enumerate(everyone):
            for size in awaited[rank][len(self._sent[other]) :]:
                self.send(torch.zeros(size, dtype=torch.uint8), other, begun)
            for size in sent[rank][len(self._awaited[other]) :]:
                self.receive(torch.empty(size, dtype=torch.uint8), other, begun)
