"""Rounds: in each round all active lanes, coarse and fine, get the value they wait for."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.trees import State
from parareal.engine._lanes import ActiveLanes, StageGroup
from parareal.executors._base import Executor


@dataclass
class Counters:
    """Cost of the run so far: rounds, calls of the executor, lanes of the widest round, and padding lanes.

    If ``log`` is a list, it gets one entry for each stage group of each round: the round, the round after it, whether
    the lanes are coarse, and their ids.
    """

    rounds: int = 0
    calls: int = 0
    max_lanes: int = 0
    padded_lanes: int = 0
    log: list[tuple[int, int, bool, Ints]] | None = None

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


def play_round(propagators: list[ActiveLanes], executor: Executor, counters: Counters) -> bool:
    """One round: all active lanes get the value they wait for. Returns whether there were any.

    Requests for the same function are stacked into one call, of both propagators. Calls run side by side: only its own
    lanes wait for a call that takes several rounds.
    """
    waiting = [group for lanes in propagators for group in lanes.begin_steps()]
    if not waiting:
        return False
    begun = counters.rounds
    counters.max_lanes = max(counters.max_lanes, sum([len(group.lanes.ids) for group in waiting]))
    for groups in _together(waiting):
        values, rounds = _evaluate(groups, executor, counters)
        for group, value in zip(groups, values, strict=True):
            group.value, group.due = value, begun + rounds
        counters.note(begun, begun + rounds, groups)
    # The round ends with the shortest call: the lanes of the others wait for later rounds.
    counters.rounds = max(begun, min(group.due for group in waiting if group.due is not None))
    for group in waiting:
        if group.due is not None and group.due <= counters.rounds:
            group.owner.groups.remove(group)
            group.resume(group.value)
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


def _evaluate(groups: list[StageGroup], executor: Executor, counters: Counters) -> tuple[list[State], int]:
    """Evaluates the function that these groups request, on all their lanes as one stack; returns also its rounds."""
    fn, *args = groups[0].request
    sizes = [len(group.lanes.ids) for group in groups]
    lanes = sum(sizes)
    if len(groups) > 1:
        args = [trees.cat(parts) for parts in zip(*(group.request[1:] for group in groups), strict=True)]
    if groups[0].lanes.rows is not None:
        args.append(trees.cat([group.lanes.rows for group in groups]))
    value = executor.evaluate(fn, tuple(args), lanes)
    counters.calls += executor.calls(lanes)
    counters.padded_lanes += executor.padded(lanes)
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
