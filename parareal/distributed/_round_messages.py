"""Messages of one round between the processes of a run, and what is done about them where the run ends in its midst."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

_TAG = 2413  # of messages, so that they do not meet those of somebody else

Sizes: TypeAlias = list[list[int]]


class Mail:
    """What goes to and comes from each of the others.

    A message that is waited for cannot be called off: to stop waiting closes the connection, and the group with it. So
    where the run ends, processes say what each has begun to send and to receive, and every one makes up for what
    the others still expect of it.

    Args:
        group: The processes.
        size: How many there are.
    """

    def __init__(self, group: Any, size: int) -> None:
        self._group = group
        self._sent: Sizes = [[] for _ in range(size)]
        self._awaited: Sizes = [[] for _ in range(size)]
        self._works: list[tuple[Any, Tensor]] = []  # with what is being sent or filled, which must live as long

    def receive(self, raw: Tensor, source: int) -> None:
        """Begins to receive bytes from a rank."""
        work = dist.irecv(raw, group=self._group, group_src=source, tag=_TAG)
        self._awaited[source].append(len(raw))
        self._works.append((work, raw))

    def send(self, raw: Tensor, to: int) -> None:
        """Begins to send bytes to a rank."""
        work = dist.isend(raw, group=self._group, group_dst=to, tag=_TAG)
        self._sent[to].append(len(raw))
        self._works.append((work, raw))

    def end(self, wait: Callable[[Any], None]) -> None:
        """All of it has come and gone."""
        for work, _ in self._works:
            wait(work)
        self._works.clear()
        for sizes in (*self._sent, *self._awaited):
            sizes.clear()

    @property
    def under_way(self) -> tuple[Sizes, Sizes]:
        """Sizes of what is on its way to each rank, and of what is awaited from each, in order."""
        return self._sent, self._awaited

    def make_up(self, rank: int, everyone: Sequence[tuple[Sizes, Sizes]]) -> None:
        """Sends and receives what the others still expect, so that nothing is left on its way for a later run.

        Args:
            rank: This process.
            everyone: What is `under_way` on each.
        """
        for other, (sent, awaited) in enumerate(everyone):
            for size in awaited[rank][len(self._sent[other]) :]:
                self.send(torch.zeros(size, dtype=torch.uint8), other)
            for size in sent[rank][len(self._awaited[other]) :]:
                self.receive(torch.empty(size, dtype=torch.uint8), other)
