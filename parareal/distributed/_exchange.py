"""Exchange of the lanes of a round by messages, which arrive while a process evaluates its own lanes.

A collective exchange of Gloo starts only when all processes have called it. With few processes, messages take two
thirds of its time, with uneven lanes as well; with many, on several machines, a ring sends less between machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.distributed._process_group import Like, Link, RankError, as_bytes

_FEW = 8
"""Most processes that exchange lanes by messages; found with benchmarks/network/measure.py."""


def suits(link: Link, device: torch.device) -> bool:
    """Whether lanes are exchanged by messages."""
    return device.type == "cpu" and 1 < link.size <= _FEW and "gloo" in dist.get_backend_config(link.group)


class Swap:
    """The exchange of one round: made before this process evaluates its lanes, and ended by `give` in any case.

    Args:
        link: The processes.
        like: Shapes and dtypes of the values, a tree of `Like`.
        sizes: How many lanes each process has.
    """

    def __init__(self, link: Link, like: State, sizes: Sequence[int]) -> None:
        self._link, self._like = link, like
        self._ends = list(accumulate(sizes, initial=0))
        likes: list[Like] = [like] if isinstance(like, Like) else trees.leaves(like)  # pyright: ignore[reportAssignmentType]
        self._wholes = [torch.empty((self._ends[-1], *each.shape), dtype=each.dtype) for each in likes]
        for whole in self._wholes:
            for away in range(1, link.size):
                source = (link.rank - away) % link.size
                part = self._part(whole, source)
                if part.numel():
                    link.mail.receive(as_bytes(part), source, link.begun)

    def _part(self, whole: Tensor, rank: int) -> Tensor:
        return whole[self._ends[rank] : self._ends[rank + 1]]

    def give(self, value: State | None, error: BaseException | None) -> State:
        """Sends the lanes of this process, and waits for those of the others.

        Args:
            value: Leaves ``(sizes[rank], *state)``; ``None`` without lanes, or with an ``error``.
            error: The exception raised instead. The others receive as many bytes, and then learn of it.

        Returns:
            Leaves ``(sum(sizes), *state)``.

        Raises:
            RankError: Another process has raised, or is gone.
            BaseException: ``error``, or the exception of a signal.
        """
        link = self._link
        parts = [self._part(whole, link.rank) for whole in self._wholes]
        try:
            for part, own in zip(parts, [] if value is None else trees.leaves(value), strict=value is not None):
                part.copy_(own)
                link.sent += part.numel() * part.element_size() * (link.size - 1)
        except BaseException as raised:
            error = error or raised
        asked, lost = link.ask(error), None
        try:
            for part in parts:
                if part.numel() == 0:
                    continue
                for away in range(1, link.size):  # in turn, so that not all write to the same process first
                    to = (link.rank + away) % link.size
                    link.mail.send(as_bytes(part), to, link.begun)
        except RankError as raised:
            lost = raised  # an error that is known matters more
        link.heard(*asked, error)
        if lost is not None:
            raise lost
        link.mail.end(link.wait)
        return self._wholes[0] if isinstance(self._like, Like) else trees.rebuild(self._wholes, self._like)
