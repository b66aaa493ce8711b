"""An executor knows where the lanes of one round are evaluated; what they are and when they go is not its business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parareal import _tree
from parareal._grid import check_count
from parareal._tree import State


class Executor(ABC):
    """Evaluates one function on the lanes of a round."""

    @abstractmethod
    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        """``fn(*args)`` on all lanes; every argument is a tree with a leading axis of ``lanes``."""

    @abstractmethod
    def calls(self, lanes: int) -> int:
        """How many calls of ``fn``, one after another, `evaluate` makes for that many lanes."""


@dataclass(frozen=True)
class Serial(Executor):
    """One lane after another: every lane is computed just as the sequential run would, bit for bit.

    Examples:
        >>> Serial().calls(lanes=8)
        8
    """

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        """``fn`` once for each lane."""
        return _chunked(fn, args, lanes, 1)

    def calls(self, lanes: int) -> int:
        """As many as there are lanes."""
        return lanes


@dataclass(frozen=True)
class Batched(Executor):
    """All lanes of a round stacked into one call.

    Args:
        max_lanes: Most lanes in one call; a round with more is cut into chunks. ``None`` for no limit.

    Raises:
        TypeError: ``max_lanes`` is not an int.
        ValueError: ``max_lanes`` is below 1.

    Examples:
        >>> Batched(max_lanes=3).calls(lanes=8)
        3
    """

    max_lanes: int | None = None

    def __post_init__(self) -> None:
        if self.max_lanes is not None:
            check_count(self.max_lanes, "max_lanes")

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        """``fn`` once, or once for each chunk."""
        if self.max_lanes is None or lanes <= self.max_lanes:
            return fn(*args)
        return _chunked(fn, args, lanes, self.max_lanes)

    def calls(self, lanes: int) -> int:
        """One for each chunk."""
        return 1 if self.max_lanes is None else -(-lanes // self.max_lanes)


def _chunked(fn: Callable[..., State], args: tuple[Any, ...], lanes: int, size: int) -> State:
    if lanes <= size:
        return fn(*args)
    parts = [slice(i, i + size) for i in range(0, lanes, size)]
    return _tree.cat([fn(*(_tree.lanes(arg, part) for arg in args)) for part in parts])
