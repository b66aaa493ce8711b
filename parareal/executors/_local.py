"""Lanes of a round in one process: one by one, or stacked."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from parareal._core.checks import check_count, described, kind_of
from parareal._core.lane_sizes import cut, only, sizes_now
from parareal._core.scopes import scope
from parareal._core.trees import State
from parareal.executors._base import Executor, blocks, chunked, whole
from parareal.executors._multi_device import spread


@dataclass(frozen=True)
class Serial(Executor):
    """One lane after another: every lane is computed exactly as in the sequential run, bit for bit.

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
    globals that it names, in attributes and in containers of these. Changes of a copy, such as the running
    statistics of a layer, are lost, and nothing is differentiated across copies.

    Args:
        max_lanes: Most lanes in one call; a round with more is cut into chunks. ``None`` for no limit.
        devices: Devices, such as ``["cuda:0", "cuda:1"]``, the first of them that of the state; ``None`` for that of
            the state alone.
        pad_to: The only numbers of lanes that a call may have: one, or several rising ones. A round with more lanes
            than the largest is cut into chunks, and a call with too few is padded with its last lane. For
            networks that are compiled, captured or exported for a fixed batch. Every call of the right-hand side has
            one of them, those inside of implicit methods and of the adjoint too. ``stats.evaluations`` counts real
            lanes, ``stats.padded_lanes`` those that fill up the calls of rounds. The right-hand side must treat lanes
            on their own, which `check_propagator` checks. ``None`` for any number.

    Raises:
        TypeError: ``max_lanes`` or ``pad_to`` is not an int; ``devices`` is no sequence of devices.
        ValueError: ``max_lanes`` or ``pad_to`` is below 1; ``pad_to`` is empty or does not rise, or came with
            ``max_lanes``; ``devices`` is empty, or has one that does not exist. From `solve`, that the
            state is not on the first of them, or that gradients are needed.

    Examples:
        >>> Batched(max_lanes=3).calls(lanes=8)
        3
        >>> Batched(pad_to=(4, 16)).calls(lanes=21), Batched(pad_to=(4, 16)).padded(lanes=21)
        (2, 11)
        >>> import torch, parareal as pr
        >>> problem, grid = pr.ODE(lambda t, u: -u), pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=8)
        >>> two = Batched(devices=["cpu", "cpu"])
        >>> pr.solve(problem, torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler(), executor=two).converged
        True
    """

    max_lanes: int | None = None
    devices: Sequence[torch.device | str] | None = None
    pad_to: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.max_lanes is not None:
            check_count(self.max_lanes, "max_lanes")
        if self.devices is not None:
            object.__setattr__(self, "devices", _devices(self.devices))
        if self.pad_to is not None:
            object.__setattr__(self, "pad_to", _sizes(self.pad_to))
            if self.max_lanes is not None:
                raise ValueError(
                    f"max_lanes={self.max_lanes} came with pad_to={self.pad_to}, whose largest is the most lanes of a "
                    "call; expected one of them"
                )

    @property
    def _numbers(self) -> tuple[int, ...]:
        """The numbers of lanes that a call may have; empty for all."""
        return self.pad_to if isinstance(self.pad_to, tuple) else ()

    def joined(self) -> AbstractContextManager[Executor]:
        """This executor in a run; with several devices, with its threads and copies."""
        if self.devices is None:
            return _fixed(self) if self.pad_to is not None else nullcontext(self)
        return spread([torch.device(device) for device in self.devices], self.max_lanes, self._numbers)

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        """``fn`` once, or once for each chunk."""
        if self.devices is not None:
            with self.joined() as joined:
                return joined.evaluate(fn, args, lanes)
        if self.max_lanes is None and self.pad_to is None and not sizes_now():
            return whole(fn, args, lanes)
        return chunked(fn, args, lanes, self.max_lanes, self._numbers)

    def calls(self, lanes: int) -> int:
        """One for each chunk of the lanes of one device."""
        if self.devices is not None:
            lanes = -(-lanes // len(self.devices))
        if lanes and self.max_lanes is None and self.pad_to is None:
            return 1
        return len(cut(lanes, self.max_lanes, self._numbers))

    def padded(self, lanes: int) -> int:
        """The padding lanes of the last call of each device."""
        if self.pad_to is None:
            return 0
        each = blocks(lanes, len(self.devices)) if self.devices is not None else [lanes]
        return sum(size - part for own in each for part, size in cut(own, self.max_lanes, self._numbers))


@scope
def _fixed(executor: Batched) -> Generator[Executor]:
    """An executor in a run all of whose calls, those before the first round as well, have one of its numbers."""
    with only(executor._numbers):  # pyright: ignore[reportPrivateUsage]
        yield executor


def check_inner(executor: Any, name: str) -> None:
    """Raises unless it is an executor of one process."""
    if not isinstance(executor, Serial | Batched):
        raise TypeError(
            f"{name} is {described(executor)}; expected how one process evaluates its lanes: pr.Batched() or "
            "pr.Serial()"
        )


def _sizes(sizes: Any) -> tuple[int, ...]:
    """Checks the numbers of lanes of ``pad_to``."""
    if isinstance(sizes, int) and not isinstance(sizes, bool):
        sizes = (sizes,)
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise TypeError(
            f"pad_to={sizes!r} is {kind_of(sizes)}; expected a number of lanes such as 16, or rising ones such "
            "as (4, 8, 16)"
        )
    found = tuple(sizes)  # pyright: ignore[reportUnknownVariableType]
    if not found:
        raise ValueError("pad_to is empty; expected at least one number of lanes, or None for any number")
    for size in found:
        check_count(size, "pad_to")
    if any(b <= a for a, b in itertools.pairwise(found)):
        raise ValueError(f"pad_to={found} does not rise; expected {tuple(sorted({*found}))}")
    return found


def _devices(devices: Any) -> tuple[torch.device, ...]:
    if isinstance(devices, str | torch.device) or not isinstance(devices, Sequence):
        raise TypeError(f'devices={devices!r} is {kind_of(devices)}; expected a list: ["cuda:0", "cuda:1"]')
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
