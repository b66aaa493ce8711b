"""Lanes that arrive in another order than they set out in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.trees import State

Final: TypeAlias = Callable[[Ints], Bools]
"""Which lanes, by their ids, set out from final states."""


class Queue:
    """Lanes of methods whose steps take longer on some than on others, held back until those before them are in.

    A place's next iterate may set out while the last is under way. Were it to arrive first, what it brought would be
    overwritten by what is older.

    Args:
        places: Number of places: a lane's number is its place plus a multiple of it.

    Attributes:
        held: What is held back.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._under_way: dict[int, deque[int]] = {}
        self.held: dict[int, State] = {}

    def set_out(self, ids: Ints) -> None:
        """Lanes set out."""
        for number in ids.tolist():
            self._under_way.setdefault(number % self._places, deque()).append(number)

    def in_order(self, arrived: list[tuple[Ints, State]], final: Final | None) -> list[tuple[Ints, State]]:
        """Those lanes of ``arrived``, and of those held back, that have none of their place before them.

        One from a final state takes the place of all that set out before it.
        """
        for ids, u in arrived:
            for i, number in enumerate(ids.tolist()):
                if number in self._under_way[number % self._places]:
                    self.held[number] = trees.lanes(u, slice(i, i + 1))
        if final is not None and self.held:
            numbers = np.array(list(self.held))
            for number in numbers[final(numbers)].tolist():
                queue = self._under_way[number % self._places]
                while queue[0] != number:
                    self.held.pop(queue.popleft(), None)
        waves: list[tuple[Ints, State]] = []
        while True:  # a place once in each, so that what is older is stored before what is newer
            ready = [queue[0] for queue in self._under_way.values() if queue and queue[0] in self.held]
            if not ready:
                return waves
            for number in ready:
                self._under_way[number % self._places].popleft()
            waves.append((np.array(ready), trees.cat([self.held.pop(number) for number in ready])))
