"""An executor knows where the lanes of one round are evaluated; what they are and when they go is not its business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State


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

    def engine(self, make: Callable[..., Any], keep: str, **options: Any) -> Any:
        """The engine of a run.

        Args:
            make: Makes that of a run whose states are all here, of ``options``.
            keep: Which iterates the run keeps, as in `solve`.
            options: What it is made of.

        Raises:
            ValueError: The run is not one that this executor can do.
        """
        return make(**options)

    def check_verify(self) -> None:  # noqa: B027  all executors of one process can
        """Raises unless boundaries can be evaluated once more after the run, as ``verify=True`` asks for."""


def blocks(count: int, parts: int) -> list[int]:
    """``count`` things in ``parts`` blocks as even as can be: the sizes, larger ones first."""
    return [count // parts + (i < count % parts) for i in range(parts)]


def chunked(fn: Callable[..., State], args: tuple[Any, ...], lanes: int, size: int | None) -> State:
    """``fn(*args)``, of at most ``size`` lanes at a time."""
    if size is None or lanes <= size:
        return fn(*args)
    parts = [slice(i, i + size) for i in range(0, lanes, size)]
    return trees.cat([fn(*(trees.lanes(arg, part) for arg in args)) for part in parts])
