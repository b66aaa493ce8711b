"""An executor knows where the lanes of one round are evaluated; what they are and when they go is not its business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal.grid._time_grid import check_count
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


@dataclass(frozen=True)
class Serial(Executor):
    """One lane after another: every lane is computed just as the sequential run would, bit for bit.

    Examples:
        >>> Serial().calls(lanes=8)
        8
    """

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        """``fn`` once for each lane."""
        return chunked(fn, args, lanes, 1)

    def calls(self, lanes: int) -> int:
        """As many as there are lanes."""
        return lanes


@dataclass(frozen=True)
class Batched(Executor):
    """All lanes of a round stacked into one call, or into one on each of several devices.

    With ``devices`` the lanes of a round are split evenly over them, in threads of this process. The first evaluates
    the right-hand side itself, the others copies of it, made once a run: modules and tensors are found in closures, in
    globals that it names, in attributes and in containers of these. What is written to a copy, such as the running
    statistics of a layer, is lost with it, and nothing is differentiated across copies.

    Args:
        max_lanes: Most lanes in one call; a round with more is cut into chunks. ``None`` for no limit.
        devices: Devices, such as ``["cuda:0", "cuda:1"]``, the first of them that of the state; ``None`` for that of
            the state alone.

    Raises:
        TypeError: ``max_lanes`` is not an int; ``devices`` is no sequence of devices.
        ValueError: ``max_lanes`` is below 1; ``devices`` is empty, or has one that is not there. From `solve`, that the
            state is not on the first of them, or that gradients are asked for.

    Examples:
        >>> Batched(max_lanes=3).calls(lanes=8)
        3
        >>> import torch, parareal as pr
        >>> problem, grid = pr.ODE(lambda t, u: -u), pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=8)
        >>> two = Batched(devices=["cpu", "cpu"])
        >>> pr.solve(problem, torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler(), executor=two).converged
        True
    """

    max_lanes: int | None = None
    devices: Sequence[torch.device | str] | None = None

    def __post_init__(self) -> None:
        if self.max_lanes is not None:
            check_count(self.max_lanes, "max_lanes")
        if self.devices is not None:
            object.__setattr__(self, "devices", _devices(self.devices))

    def joined(self) -> AbstractContextManager[Executor]:
        """This executor in a run; with several devices, with its threads and copies."""
        if self.devices is None:
            return nullcontext(self)
        from parareal.executors._multi_device import spread

        return spread(self)

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        """``fn`` once, or once for each chunk."""
        if self.devices is not None:
            with self.joined() as joined:
                return joined.evaluate(fn, args, lanes)
        return chunked(fn, args, lanes, self.max_lanes)

    def calls(self, lanes: int) -> int:
        """One for each chunk of the lanes of one device."""
        if self.devices is not None:
            lanes = -(-lanes // len(self.devices))
        return 1 if self.max_lanes is None else -(-lanes // self.max_lanes)


def check_inner(executor: Any, name: str) -> None:
    """Raises unless it is an executor of one process."""
    if not isinstance(executor, Serial | Batched):
        raise TypeError(
            f"{name} is a {type(executor).__name__}; expected how one process evaluates its lanes: pr.Batched() or "
            "pr.Serial()"
        )


def blocks(count: int, parts: int) -> list[int]:
    """``count`` things in ``parts`` blocks as even as can be: the sizes, larger ones first."""
    return [count // parts + (i < count % parts) for i in range(parts)]


def chunked(fn: Callable[..., State], args: tuple[Any, ...], lanes: int, size: int | None) -> State:
    """``fn(*args)``, of at most ``size`` lanes at a time."""
    if size is None or lanes <= size:
        return fn(*args)
    parts = [slice(i, i + size) for i in range(0, lanes, size)]
    return trees.cat([fn(*(trees.lanes(arg, part) for arg in args)) for part in parts])


def _devices(devices: Any) -> tuple[torch.device, ...]:
    if isinstance(devices, str | torch.device) or not isinstance(devices, Sequence):
        raise TypeError(f'devices={devices!r} is a {type(devices).__name__}; expected a list: ["cuda:0", "cuda:1"]')
    found: list[torch.device] = []
    for name in devices:  # pyright: ignore
        try:
            device = torch.device(name)  # pyright: ignore
            torch.empty(0, device=device)
        except (RuntimeError, TypeError, AssertionError) as error:
            raise ValueError(
                f"devices has {name!r}, which cannot be used here ({error}); expected devices of this machine"
            ) from None
        if str(device) == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        found.append(device)
    if not found:
        raise ValueError("devices is empty; expected at least one device, or None for that of the state")
    return tuple(found)
