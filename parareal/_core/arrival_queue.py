"""Lanes that arrive in another order than they started in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.trees import State

Final: TypeAlias = Callable[[Ints], Bools]
"""Which lanes, by their ids, started from final states."""


class Queue:
    """Lanes of methods whose steps take longer on some than on others, held back until those before them are in.

    A place's next iterate may start while the last is under way. Were it to arrive first, what it brought would be
    overwritten by what is older.

    Args:
        places: Number of places: a lane's number is its place plus a multiple of it.

    Attributes:
        kept: What is held back.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._under_way: dict[int, deque[int]] = {}
        self.kept: dict[int, State] = {}

    def started(self, ids: Ints) -> None:
        """Lanes start."""
        for number in ids.tolist():
            self._under_way.setdefault(number % self._places, deque()).append(number)

    def in_order(self, arrived: list[tuple[Ints, State]], final: Final | None) -> list[tuple[Ints, State]]:
        """Those lanes of ``arrived``, and of those held back, that have none of their place before them.

        One from a final state takes the place of all that started before it.
        """
        for ids, u in arrived:
            for i, number in enumerate(ids.tolist()):
                if number in self._under_way[number % self._places]:
                    self.kept[number] = trees.lanes(u, slice(i, i + 1))
        if final is not None and self.kept:
            numbers = np.array(list(self.kept))
            for number in numbers[final(numbers)].tolist():
                queue = self._under_way[number % self._places]
                while queue[0] != number:
                    self.kept.pop(queue.popleft(), None)
        waves: list[tuple[Ints, State]] = []
        while True:  # a place once in each, so that what is older is stored before what is newer
            ready = [queue[0] for queue in self._under_way.values() if queue and queue[0] in self.kept]
            if not ready:
                return waves
            for number in ready:
                self._under_way[number % self._places].popleft()
            waves.append((np.array(ready), trees.cat([self.kept.pop(number) for number in ready])))
