"""A request of the engine, answered in one turn of the pipeline's loop or in several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion_adapters.diffusers._network_proxy import Lanes
from diffusion_adapters.diffusers._problem import Request


def unpadded(lanes: int) -> int:
    """How many lanes are added to some where the network takes any number: none."""
    return 0


@dataclass(eq=False)
class Round:
    """A request of the engine. Each group of steps with lanes in it is answered in a turn of the loop of its own.

    Attributes:
        request: The request.
        waiting: Groups that have no answer yet: the number of the group, and of the lanes in it (``None`` for all).
        padding: How many lanes are added to some of the request, so that the network gets a batch that it knows.
        answers: The lanes of the others, and their values.
    """

    request: Request
    waiting: list[tuple[int, Tensor | None]]
    padding: Callable[[int], int] = unpadded
    answers: list[tuple[Tensor | None, Tensor]] = field(default_factory=list[tuple["Tensor | None", Tensor]])

    @property
    def group(self) -> int:
        """The group of this turn."""
        return self.waiting[0][0]

    @property
    def lanes(self) -> Lanes:
        """The lanes of this turn, the last of them repeated where the network's batch is fixed."""
        rows = self.waiting[0][1]
        if rows is not None and self.added:
            rows = torch.cat([rows, rows[-1:].expand(self.added)])
        return self.request.lanes.some(rows)

    @property
    def added(self) -> int:
        """How many lanes of this turn are repetitions. Those of a whole request are the executor's."""
        rows = self.waiting[0][1]
        return 0 if rows is None else self.padding(len(rows))

    def prefer(self, group: int) -> bool:
        """Moves the lanes of a group to the front; returns whether there are any."""
        mine = [part for part in self.waiting if part[0] == group]
        self.waiting = [*mine, *(part for part in self.waiting if part[0] != group)]
        return bool(mine)

    def answer(self, value: Tensor) -> None:
        """Keeps the values of this turn's lanes."""
        rows = self.waiting.pop(0)[1]
        self.answers.append((rows, value if rows is None else value[: len(rows)]))
