"""An executor knows where the lanes of one round are evaluated; what they are and when they go is not its business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
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

    def padded(self, lanes: int) -> int:
        """How many lanes `evaluate` adds to fill up its calls, for that many lanes."""
        return 0

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


def cut(lanes: int, most: int | None, sizes: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """Calls for that many lanes: how many lanes each has, and how many it is filled up to.

    Args:
        lanes: Lanes of a round.
        most: Most lanes in one call; ``None`` for no limit.
        sizes: The only numbers of lanes that a call may have, rising; empty where any will do.
    """
    most = sizes[-1] if sizes else most or lanes
    parts = [min(most, lanes - begin) for begin in range(0, lanes, most)] if lanes else []
    return [(part, next((size for size in sizes if size >= part), part)) for part in parts]


def chunked(
    fn: Callable[..., State], args: tuple[Any, ...], lanes: int, most: int | None, sizes: tuple[int, ...] = ()
) -> State:
    """``fn(*args)`` in the calls that `cut` makes; what fills up a call is its last lane again, and is dropped."""
    calls = cut(lanes, most, sizes)
    if calls == [(lanes, lanes)] or not calls:
        return fn(*args)
    values: list[State] = []
    begin = 0
    for count, size in calls:
        part = tuple(trees.lanes(arg, slice(begin, begin + count)) if len(calls) > 1 else arg for arg in args)
        if size > count:
            part = trees.map(lambda leaf, more=size - count: _filled_up(leaf, more), part)
        value = fn(*part)
        values.append(trees.lanes(value, slice(0, count)) if size > count else value)
        begin += count
    return values[0] if len(values) == 1 else trees.cat(values)


def _filled_up(leaf: Tensor, more: int) -> Tensor:
    # A real lane, and no zeros: what a function makes of those may be NaN, or raise.
    return torch.cat([leaf, leaf[-1:].expand(more, *leaf.shape[1:])])
