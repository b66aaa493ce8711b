"""Lanes of a round in one process: one by one, or stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from parareal._core.checks import check_count
from parareal._core.trees import State
from parareal.executors._base import Executor, chunked
from parareal.executors._multi_device import spread


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
        return spread([torch.device(device) for device in self.devices], self.max_lanes)

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
