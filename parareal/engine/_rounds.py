"""Rounds: all active lanes, whichever propagator they are of, get the value they wait for."""

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
    """What was spent so far: rounds, the executor's calls, the widest round, and the lanes that filled up calls.

    Where ``log`` is a list, it takes for each stage group in each round: the round, the round after it, whether its
    lanes are coarse ones, and their ids.
    """

    rounds: int = 0
    calls: int = 0
    max_lanes: int = 0
    padded_lanes: int = 0
    log: list[tuple[int, int, bool, Ints]] | None = None

    def note(self, begun: int, due: int, groups: list[StageGroup]) -> None:
        """Notes who was in the round that has just been played."""
        if self.log is not None:  # only coarse lanes keep first values
            self.log += [(begun, due, one.owner.method.keep_first, one.lanes.ids) for one in groups]


def play_round(propagators: list[ActiveLanes], executor: Executor, counters: Counters) -> bool:
    """One round: all active lanes get the value they wait for. Returns whether there were any.

    Requests for the same function are stacked into one call, whichever propagator they come from. Calls run side by
    side: one that takes several rounds is waited for by its own lanes alone.
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
    # The round ends when the first call does: the others are still under way, and their lanes wait for later rounds.
    counters.rounds = max(begun, min(group.due for group in waiting if group.due is not None))
    for group in waiting:
        if group.due is not None and group.due <= counters.rounds:
            group.owner.groups.remove(group)
            group.resume(group.value)
    return True


def _together(waiting: list[StageGroup]) -> list[list[StageGroup]]:
    """Stage groups that have still to be answered, those that ask for the same function together."""
    if len(waiting) == 1:
        return [] if waiting[0].due is not None else [waiting]
    groups: dict[Hashable, list[StageGroup]] = {}
    for group in waiting:
        if group.due is None:
            fn = group.request[0]
            # Lanes from final states do not wait for others: they have a call of their own where it may take longer.
            apart = group.final and getattr(fn, "varies", hasattr(fn, "cost"))
            groups.setdefault((fn, apart), []).append(group)
    return list(groups.values())


def _evaluate(groups: list[StageGroup], executor: Executor, counters: Counters) -> tuple[list[State], int]:
    """The function that all these groups ask for, on all their lanes as one stack; also how many rounds it took."""
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
