"""Rounds: all lanes under way, whichever propagator they are of, get the value they wait for."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.trees import State
from parareal.engine._lanes import Cohort, Flight
from parareal.executors._base import Executor


@dataclass
class Counters:
    """What was spent so far: rounds, the executor's calls, the widest round, and the lanes that filled up calls.

    Where ``log`` is a list, it takes for each cohort in each round: the round, the round after it, whether its lanes
    are coarse ones, and their ids.
    """

    rounds: int = 0
    calls: int = 0
    max_lanes: int = 0
    padded_lanes: int = 0
    log: list[tuple[int, int, bool, Ints]] | None = None

    def note(self, begun: int, due: int, cohorts: list[Cohort]) -> None:
        """Notes who was in the round that has just been played."""
        if self.log is not None:  # only the coarse flight remembers first values
            self.log += [(begun, due, one.flight.remember_first, one.lanes.ids) for one in cohorts]


def play_round(flights: list[Flight], executor: Executor, counters: Counters) -> bool:
    """One round: all lanes under way get the value they wait for. Returns whether there were any.

    Requests for the same function are stacked into one call, whichever propagator they come from. Calls go on side by
    side: one that takes several rounds is waited for by its own lanes alone.
    """
    waiting = [cohort for flight in flights for cohort in flight.begin_steps()]
    if not waiting:
        return False
    begun = counters.rounds
    counters.max_lanes = max(counters.max_lanes, sum([len(cohort.lanes.ids) for cohort in waiting]))
    for cohorts in _together(waiting):
        values, rounds = _evaluate(cohorts, executor, counters)
        for cohort, value in zip(cohorts, values, strict=True):
            cohort.value, cohort.due = value, begun + rounds
        counters.note(begun, begun + rounds, cohorts)
    counters.rounds = max(begun, min(cohort.due for cohort in waiting if cohort.due is not None))
    for cohort in waiting:
        if cohort.due is not None and cohort.due <= counters.rounds:
            cohort.flight.cohorts.remove(cohort)
            cohort.resume(cohort.value)
    return True


def _together(waiting: list[Cohort]) -> list[list[Cohort]]:
    """Cohorts that have still to be answered, those that ask for the same function together."""
    if len(waiting) == 1:
        return [] if waiting[0].due is not None else [waiting]
    groups: dict[Hashable, list[Cohort]] = {}
    for cohort in waiting:
        if cohort.due is None:
            fn = cohort.request[0]
            # Lanes from final states do not wait for others: they have a call of their own where it may take longer.
            apart = cohort.final and getattr(fn, "varies", hasattr(fn, "cost"))
            groups.setdefault((fn, apart), []).append(cohort)
    return list(groups.values())


def _evaluate(cohorts: list[Cohort], executor: Executor, counters: Counters) -> tuple[list[State], int]:
    """The function that all these cohorts ask for, on all their lanes as one stack; also how many rounds it took."""
    fn, *args = cohorts[0].request
    sizes = [len(cohort.lanes.ids) for cohort in cohorts]
    lanes = sum(sizes)
    if len(cohorts) > 1:
        args = [trees.cat(parts) for parts in zip(*(cohort.request[1:] for cohort in cohorts), strict=True)]
    if cohorts[0].lanes.rows is not None:
        args.append(trees.cat([cohort.lanes.rows for cohort in cohorts]))
    value = executor.evaluate(fn, tuple(args), lanes)
    counters.calls += executor.calls(lanes)
    counters.padded_lanes += executor.padded(lanes)
    parts, cost = trees.split(value, sizes), getattr(fn, "cost", None)
    if cost is None:
        for cohort, size in zip(cohorts, sizes, strict=True):
            cohort.flight.evaluations += size
        return parts, 1
    costs = [cost(part, size) for part, size in zip(parts, sizes, strict=True)]
    for cohort, took in zip(cohorts, costs, strict=True):
        cohort.flight.evaluations += took.evaluations
    return parts, max(took.rounds for took in costs)
