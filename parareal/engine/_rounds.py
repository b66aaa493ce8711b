"""Rounds: in each round all active lanes, coarse and fine, get the value they wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.checks import described
from parareal._core.forward_mode import VMAPPED, inside, stands_for_many
from parareal._core.trees import State
from parareal.engine._lanes import ActiveLanes, StageGroup
from parareal.executors._base import Executor

TIMED = 5
"""How many calls of about as many lanes are timed before their mean is used. A choice."""


@dataclass
class Timing:
    """The seconds of calls, and of what is done beside them for each stage group.

    Attributes:
        calls: Number and seconds of calls, by the number of binary digits of their lanes.
        groups: Number of stage groups that were resumed.
        beside: Seconds of all rounds without their calls.
    """

    calls: dict[int, tuple[int, float]] = field(default_factory=dict)
    groups: int = 0
    beside: float = 0.0

    def add(self, lanes: int, groups: int, call: float, whole: float) -> None:
        """Adds a round of one call."""
        count, total = self.calls.get(lanes.bit_length(), (0, 0.0))
        self.calls[lanes.bit_length()] = count + 1, total + call
        self.groups, self.beside = self.groups + groups, self.beside + whole - call

    def round_of(self, lanes: int) -> float | None:
        """No less than the mean seconds of a round of one stage group of that many lanes; ``None`` if that is unknown.

        A call on more lanes takes no less time, so the least mean over calls on as many or more is an upper estimate.
        """
        known = [part for digits, part in self.calls.items() if part[0] >= TIMED and 1 << (digits - 1) >= lanes]
        return min(total / count for count, total in known) + self.beside / self.groups if known else None


@dataclass
class Counters:
    """Cost of the run so far: rounds, calls of the executor, lanes of the widest round, and padding lanes.

    If ``log`` is a list, it gets one entry for each stage group of each round: the round, the round after it, whether
    the lanes are coarse, and their ids.

    Attributes:
        timing: The seconds that they took.
    """

    rounds: int = 0
    calls: int = 0
    max_lanes: int = 0
    padded_lanes: int = 0
    log: list[tuple[int, int, bool, Ints]] | None = None
    timing: Timing = field(default_factory=Timing)

    def add(self, other: Counters) -> None:
        """Adds the cost of a run inside this one, while which this one has waited."""
        self.rounds += other.rounds
        self.calls += other.calls
        self.max_lanes = max(self.max_lanes, other.max_lanes)
        self.padded_lanes += other.padded_lanes

    def note(self, begun: int, due: int, groups: list[StageGroup]) -> None:
        """Logs the stage groups of the last round."""
        if self.log is not None:  # coarse lanes are those that keep first values
            self.log += [(begun, due, one.owner.method.keep_first, one.lanes.ids) for one in groups]


def play_round(
    propagators: list[ActiveLanes],
    executor: Executor,
    counters: Counters,
    evaluated: Callable[[], None] | None = None,
) -> bool:
    """One round: all active lanes get the value they wait for. Returns whether there were any.

    Requests for the same function are stacked into one call, of both propagators. Calls run side by side: only its own
    lanes wait for a call that takes several rounds.
    """
    begun, started = counters.rounds, time.perf_counter()
    waiting = [group for active in propagators for group in active.begin_steps()]
    if not waiting:
        return False
    lanes = sum([len(group.lanes.ids) for group in waiting])
    counters.max_lanes = max(counters.max_lanes, lanes)
    spent: list[float] = []
    for groups in _together(waiting):
        values, rounds = _evaluate(groups, executor, counters, spent)
        for group, value in zip(groups, values, strict=True):
            group.value, group.due = value, begun + rounds
        counters.note(begun, begun + rounds, groups)
    # The round ends with the shortest call: the lanes of the others wait for later rounds.
    counters.rounds = max(begun, min(group.due for group in waiting if group.due is not None))
    if evaluated is not None:
        evaluated()
    for group in waiting:
        if group.due is not None and group.due <= counters.rounds:
            group.owner.groups.remove(group)
            group.resume(group.value)
    # In the first round torch and other libraries make themselves ready.
    if begun and len(spent) == 1 and counters.rounds == begun + 1:
        counters.timing.add(lanes, len(waiting), spent[0], time.perf_counter() - started)
    return True


def _together(waiting: list[StageGroup]) -> list[list[StageGroup]]:
    """Stage groups without a value, grouped by the function that they request."""
    if len(waiting) == 1:
        return [] if waiting[0].due is not None else [waiting]
    groups: dict[Hashable, list[StageGroup]] = {}
    for group in waiting:
        if group.due is None:
            fn = group.request[0]
            # Lanes from final states do not wait for others: if a call may take longer, they get one of their own.
            apart = group.final and getattr(fn, "varies", hasattr(fn, "cost"))
            groups.setdefault((fn, apart), []).append(group)
    return list(groups.values())


def _evaluate(
    groups: list[StageGroup], executor: Executor, counters: Counters, spent: list[float]
) -> tuple[list[State], int]:
    """Evaluates the function that these groups request, on all their lanes as one stack; returns also its rounds.

    The seconds of the call are added to ``spent``.
    """
    fn, *args = groups[0].request
    sizes = [len(group.lanes.ids) for group in groups]
    lanes = sum(sizes)
    if len(groups) > 1:
        args = [trees.cat(parts) for parts in zip(*(group.request[1:] for group in groups), strict=True)]
    if groups[0].lanes.rows is not None:
        args.append(trees.cat([group.lanes.rows for group in groups]))
    begun = time.perf_counter()
    value = called(fn, tuple(args), lanes, executor, counters)
    spent.append(time.perf_counter() - begun)
    parts, cost = trees.split(value, sizes), getattr(fn, "cost", None)
    if cost is None:
        for group, size in zip(groups, sizes, strict=True):
            group.owner.evaluations += size
        return parts, 1
    costs = [cost(part, size) for part, size in zip(parts, sizes, strict=True)]
    for group, took in zip(groups, costs, strict=True):
        group.owner.evaluations += took.evaluations
        group.owner.carried += took.carried
    return parts, max(took.rounds for took in costs)


def called(fn: Any, args: tuple[Any, ...], lanes: int, executor: Executor, counters: Counters) -> State:
    """The value of a function on all lanes; its calls are counted, but not its rounds."""
    value = executor.evaluate(fn, args, lanes)
    if inside() and any(isinstance(leaf, Tensor) and stands_for_many(leaf) for leaf in trees.leaves(value)):
        raise TypeError(
            f"a round gave values of torch.func.vmap: solve was called inside of it, over a tensor that {VMAPPED}"
        )
    calls: Any = executor.calls(lanes)
    if value is None or not isinstance(calls, int | np.integer):
        what, fix = ("evaluate", "the value of fn(*args)") if value is None else ("calls", "how many calls it makes, 1")
        raise TypeError(
            f"{what} of {executor!r} returned {described(value if value is None else calls)}; expected {fix}: end it "
            "with return"
        )
    counters.calls += int(calls)
    counters.padded_lanes += executor.padded(lanes)
    return value
