"""An executor knows where the lanes of one round are evaluated; what they are and when they go is not its business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from parareal import _tree
from parareal._grid import check_count
from parareal._tree import State


class Executor(ABC):
    """Evaluates one function on the lanes of a round.

    Executors of one process implement `evaluate` and `calls`; what else there is is for those of several, which must
    come to the same decisions.

    Attributes:
        leads: Whether this process writes files and shows progress.
        sent: Bytes of states sent to other processes so far.
    """

    leads: bool = True
    sent: int = 0

    @abstractmethod
    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        """``fn(*args)`` on all lanes; every argument is a tree with a leading axis of ``lanes``."""

    @abstractmethod
    def calls(self, lanes: int) -> int:
        """How many calls of ``fn``, one after another, `evaluate` makes for that many lanes."""

    def joined(self) -> AbstractContextManager[Executor]:
        """What evaluates the rounds of one run, for as long as it lasts."""
        return nullcontext(self)

    def meet(self, state: State, parts: Callable[[], dict[str, Any]]) -> None:  # noqa: B027  nobody to meet
        """Raises on every process, before any work, unless all came with the same ``parts``."""

    def agree(self, figures: Tensor) -> Tensor:
        """The figures that decisions are made from, on the host, the same on every process."""
        return figures

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        return flag

    def shared(self, make: Callable[[], Any]) -> Any:
        """What ``make`` gives on the process that leads."""
        return make()


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


def check_inner(executor: Any, name: str) -> None:
    """Raises unless it is an executor of one process."""
    if not isinstance(executor, Serial | Batched):
        raise TypeError(
            f"{name} is a {type(executor).__name__}; expected how one process evaluates its lanes: pr.Batched() or "
            "pr.Serial()"
        )


def _chunked(fn: Callable[..., State], args: tuple[Any, ...], lanes: int, size: int) -> State:
    if lanes <= size:
        return fn(*args)
    parts = [slice(i, i + size) for i in range(0, lanes, size)]
    return _tree.cat([fn(*(_tree.lanes(arg, part) for arg in args)) for part in parts])
