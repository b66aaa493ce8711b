"""Lanes of a round in messages from process to process, which are waited for while own lanes are evaluated.

Gloo's collective exchanges set out only when all have come to them. Where processes are few, messages take two thirds
of the time, uneven lanes included; where they are many, on several machines, a ring sends less from machine to machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from parareal import _tree
from parareal._link import Like, Link, as_bytes
from parareal._tree import State

_TAG = 2413  # of messages, so that they do not meet those of somebody else
_FEW = 8  # processes
_AFTER = timedelta(seconds=5)  # for what is on its way when some process has raised


def suits(link: Link, device: torch.device) -> bool:
    """Whether lanes go in messages."""
    return device.type == "cpu" and 1 < link.size <= _FEW and "gloo" in dist.get_backend_config(link.group)


class Swap:
    """One round: made before the own lanes are evaluated, and ended by `give` whatever became of them.

    Args:
        link: The processes.
        like: What the values look like, a tree of `Like`.
        sizes: How many lanes each process has.
    """

    def __init__(self, link: Link, like: State, sizes: Sequence[int]) -> None:
        self._link, self._like = link, like
        self._ends = list(accumulate(sizes, initial=0))
        likes: list[Like] = [like] if isinstance(like, Like) else _tree.leaves(like)  # pyright: ignore[reportAssignmentType]
        self._wholes = [torch.empty((self._ends[-1], *each.shape), dtype=each.dtype) for each in likes]
        self._works: list[Any] = []
        for whole in self._wholes:
            for away in range(1, link.size):
                source = (link.rank - away) % link.size
                part = self._part(whole, source)
                if part.numel():
                    self._works.append(dist.irecv(as_bytes(part), group=link.group, group_src=source, tag=_TAG))

    def _part(self, whole: Tensor, rank: int) -> Tensor:
        return whole[self._ends[rank] : self._ends[rank + 1]]

    def give(self, value: State | None, error: BaseException | None) -> State:
        """Sends the own lanes, and waits for the others.

        Args:
            value: Leaves ``(sizes[rank], *state)``; ``None`` without lanes, or with an ``error``.
            error: What was raised instead. The others get as many bytes, and hear of it.

        Returns:
            Leaves ``(sum(sizes), *state)``.

        Raises:
            RankError: Another process has raised, or is gone.
            BaseException: ``error``, or what stands for a signal.
        """
        link = self._link
        asked = link.ask(error)
        values = _tree.leaves(value) if value is not None else [None] * len(self._wholes)
        for whole, own in zip(self._wholes, values, strict=True):
            part = self._part(whole, link.rank)
            if part.numel() == 0:
                continue
            if own is not None:
                part.copy_(own)
                link.sent += part.numel() * part.element_size() * (link.size - 1)
            for away in range(1, link.size):  # in turn, so that not all write to the same process first
                to = (link.rank + away) % link.size
                self._works.append(dist.isend(as_bytes(part), group=link.group, group_dst=to, tag=_TAG))
        link.heard(*asked, error, self._leave)
        for work in self._works:
            link.wait(work)
        return self._wholes[0] if isinstance(self._like, Like) else _tree.rebuild(self._wholes, self._like)

    def _leave(self) -> None:
        """Nothing is left on its way: a later run would take it for its own."""
        with suppress(RuntimeError):
            for work in self._works:
                work.wait(_AFTER)
