"""Restores the order of lanes that arrive in another order than they started in."""

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
    """Holds finished lanes back until all earlier lanes of their place have arrived; for methods whose cost varies.

    The next iterate of a place may start while the last one is still under way. If it arrived first, its result would
    be overwritten by an older one.

    Args:
        places: Number of places: the number of a lane is its place plus a multiple of it.

    Attributes:
        kept: Lanes held back.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._under_way: dict[int, deque[int]] = {}
        self.kept: dict[int, State] = {}

    def started(self, ids: Ints) -> None:
        """Lanes start."""
        for number in ids.tolist():
            self._under_way.setdefault(number % self._places, deque()).append(number)

    def waits_for(self, ids: Ints) -> Bools:
        """Which of these lanes nobody has overtaken."""
        return np.array([number in self._under_way[number % self._places] for number in ids.tolist()], dtype=bool)

    def in_order(self, arrived: list[tuple[Ints, State]], final: Final | None) -> list[tuple[Ints, State]]:
        """Returns the lanes of ``arrived``, and of those held back, that wait for no earlier lane of their place.

        A lane from a final state replaces all that started before it.
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
        while True:  # each place once in a part, so that older results are stored before newer ones
            ready = [queue[0] for queue in self._under_way.values() if queue and queue[0] in self.kept]
            if not ready:
                return waves
            for number in ready:
                self._under_way[number % self._places].popleft()
            waves.append((np.array(ready), trees.cat([self.kept.pop(number) for number in ready])))
