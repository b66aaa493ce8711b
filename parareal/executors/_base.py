"""An executor evaluates the lanes of one round; it does not know what they are or when they start."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.lane_sizes import cut, in_calls, only, sizes_now
from parareal._core.trees import State


class Executor(ABC):
    """Evaluates one function on the lanes of a round.

    Executors of one process implement `evaluate` and `calls`. The other methods are for those of several processes,
    which must make the same decisions.

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
        """The executor of one run, as a context manager."""
        return nullcontext(self)

    def meet(self, state: State, parts: Callable[[], dict[str, Any]]) -> None:  # noqa: B027  no other process
        """Raises on every process, before any work, unless all came with the same ``parts``."""

    def agree(self, figures: Tensor) -> Tensor:
        """The figures that decisions are made from, on the host, the same on every process."""
        return figures

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any process."""
        return flag

    def shared(self, make: Callable[[], Any]) -> Any:
        """The result of ``make`` on the process that leads."""
        return make()

    def engine(self, make: Callable[..., Any], keep: str, **options: Any) -> Any:
        """The engine of a run.

        Args:
            make: Makes the engine of a run with all states in this process, from ``options``.
            keep: Which iterates the run keeps, as in `solve`.
            options: The arguments of ``make``.

        Raises:
            ValueError: This executor does not support the run.
        """
        return make(**options)

    def check_verify(self) -> None:  # noqa: B027  all executors of one process can
        """Raises unless boundaries can be evaluated once more after the run, as ``verify=True`` asks for."""


def blocks(count: int, parts: int) -> list[int]:
    """The sizes of ``parts`` blocks of ``count`` things, as even as possible, larger ones first."""
    return [count // parts + (i < count % parts) for i in range(parts)]


def chunked(
    fn: Callable[..., State], args: tuple[Any, ...], lanes: int, most: int | None, sizes: tuple[int, ...] = ()
) -> State:
    """``fn(*args)`` in the calls that `cut` makes, each with `whole`; all calls inside of them have ``sizes`` too."""
    if sizes != sizes_now():
        with only(sizes):
            return chunked(fn, args, lanes, most, sizes)
    calls = cut(lanes, most, sizes)
    if calls == [(lanes, lanes)] or not calls:
        return whole(fn, args, lanes)
    return in_calls(lambda *part: whole(fn, part, len(trees.leaves(part)[0])), args, calls)


def whole(fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
    """``fn(*args)`` in one call; a single lane lies in memory as a new tensor does, wherever it has been in a stack.

    Kernels of linear algebra libraries choose their path, and with it their rounding, by the address and the strides of
    what they read. A lane alone would round in one way in a run in parallel, and in another one in the sequential run.
    """
    if lanes != 1:
        return fn(*args)
    return fn(*[_as_new(arg) if isinstance(arg, Tensor) else trees.map(_as_new, arg) for arg in args])


def _as_new(leaf: Tensor) -> Tensor:
    """The tensor, or a copy: on a CPU contiguous from the beginning of a line of memory on."""
    if leaf.numel() < 2 or not leaf.is_cpu:  # a single number is read in one way wherever it lies
        return leaf
    try:
        if leaf.data_ptr() % _LINE == 0 and leaf.stride() == _strides(leaf.shape):
            return leaf
    except RuntimeError:  # inside a transform of torch.func it has no address
        return leaf
    return leaf.clone(memory_format=torch.contiguous_format)


_LINE = 64
"""Where torch begins new tensors on a CPU: at multiples of this many bytes."""


@functools.lru_cache(256)
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a new tensor, which says them even where an axis of one entry leaves them open."""
    return torch.empty(shape, device="meta").stride()
