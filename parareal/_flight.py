"""Lanes under way: one propagator carries many slices at once, a round at a time.

Lanes that stand at the same stage of a step form a cohort and are stepped by one generator, whichever slice they
belong to and whenever they set out, so that the work in Python does not grow with the number of lanes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from parareal import _tree
from parareal._executor import Executor
from parareal._grid import Mesh
from parareal._memory import Carried, bare
from parareal._problem import Stages
from parareal._schedule import Bools, Ints
from parareal._tree import State
from parareal.integrators import Integrator, Multistep

Final: TypeAlias = Callable[[Ints], Bools]


@dataclass(eq=False, slots=True)
class Lanes:
    """L lanes at a point of their mesh, between two steps.

    Attributes:
        ids: What the engine calls them, ``(L,)``: a place and the number of an iterate.
        left: Steps they have still to make, ``(L,)``.
        at: Index of their present time in the mesh, ``(L,)``.
        t: Their present time, float64, ``(L,)``.
        u: Their states, leaves ``(L, *state)``.
        rows: Per-sample data of their samples, or ``None``.
        fresh: They stand at the left edge of their slice, ``(L,)``.
        number: Numbers of their next steps, as a method with a memory counts them, and how many there are, ``(L, 2)``;
            ``None`` for other methods.
    """

    ids: Ints
    left: Ints
    at: Tensor
    t: Tensor
    u: State
    rows: State
    fresh: Bools
    number: Ints | None = None

    def __getitem__(self, mask: Bools) -> Lanes:
        index = torch.from_numpy(mask.nonzero()[0]).to(self.t.device)
        u, rows = _tree.lanes(self.u, index), None if self.rows is None else _tree.lanes(self.rows, index)
        number = None if self.number is None else self.number[mask]
        return Lanes(self.ids[mask], self.left[mask], self.at[index], self.t[index], u, rows, self.fresh[mask], number)


def _merge(parts: list[Lanes]) -> Lanes:
    return Lanes(
        ids=np.concatenate([part.ids for part in parts]),
        left=np.concatenate([part.left for part in parts]),
        at=torch.cat([part.at for part in parts]),
        t=torch.cat([part.t for part in parts]),
        u=_tree.cat([part.u for part in parts]),
        rows=None if parts[0].rows is None else _tree.cat([part.rows for part in parts]),
        fresh=np.concatenate([part.fresh for part in parts]),
        number=None if parts[0].number is None else np.concatenate([part.number for part in parts]),  # pyright: ignore
    )


@dataclass(eq=False, slots=True)
class Cohort:
    """Lanes in the middle of one step, waiting for the value of ``request``."""

    flight: Flight
    lanes: Lanes
    at1: Tensor
    t1: Tensor
    stages: Stages
    request: tuple[Any, ...] = ()
    at_left_edge: bool = False

    def resume(self, value: State) -> None:
        """Goes on with the value asked for, up to the next request or to the end of the step."""
        if self.at_left_edge and self.flight.remember_first:
            self.flight.remember(self.lanes, value)
        self.at_left_edge = False
        try:
            self.request = self.stages.send(value)
            while getattr(self.request[0], "free", False):
                fn, *args = self.request
                rows = () if self.lanes.rows is None else (self.lanes.rows,)
                self.request = self.stages.send(fn(*args, *rows))
        except StopIteration as end:
            self.flight.step_done(self, end.value)
        else:
            self.flight.cohorts.append(self)


class Flight:
    """All lanes of one propagator that are under way.

    Attributes:
        arrived: Finished lanes, as ``(ids, states at the right edge)``; whoever takes them empties the list.
        first: Values of the right-hand side at left edges, as ``(ids, values)``, when ``remember_first``.
        cohorts: Lanes waiting for a value.
        evaluations: Those of the right-hand side so far.

    Args:
        problem: The problem.
        integrator: The propagator.
        mesh: The points that it visits.
        remember_first: Whether ``first`` is kept.
        remembers: Whether states come and go with the memory of a multistep method, which begins anew otherwise.
        places: Number of places: ``ids`` are a place plus a multiple of it.
    """

    def __init__(
        self,
        problem: Any,
        integrator: Integrator,
        mesh: Mesh,
        remember_first: bool = False,
        remembers: bool = False,
        places: int = 1,
    ) -> None:
        self.problem, self.integrator, self.mesh, self.remember_first = problem, integrator, mesh, remember_first
        self.first_function = integrator.first_function(problem) if integrator.shares_first_stage else None
        self._multistep = integrator if isinstance(integrator, Multistep) else None
        self._remembers = remembers
        self.queue = None if integrator.evaluations is not None else Queue(places)
        self.arrived: list[tuple[Ints, State]] = []
        self.first: list[tuple[Ints, State]] = []
        self.cohorts: list[Cohort] = []
        self.evaluations = 0
        self._waiting: list[Lanes] = []
        self._wanted: Bools | None = None

    def launch(self, ids: Ints, slices: Ints, u: State, rows: State, first: State = None) -> None:
        """Lanes set out from the left edges of ``slices``; ``first`` is the right-hand side there, if known."""
        if self.queue is not None:
            self.queue.set_out(ids)
        at, count, number = torch.from_numpy(self.mesh.start[slices]).to(self.mesh.points.device), self.mesh.count, None
        if self._multistep is not None:
            if self._remembers:
                number = np.stack([count.cumsum()[slices] - count[slices], np.full(len(ids), count.sum())], 1)
            else:
                number = np.stack([np.zeros(len(ids), dtype=np.int64), count[slices]], 1)
                u = Carried(u, self._multistep.begin(u))
        fresh = np.ones(len(ids), dtype=bool)
        lanes = Lanes(ids, count[slices], at, self.mesh.points.index_select(0, at), u, rows, fresh, number)
        if first is None:
            self._waiting.append(lanes)
        else:
            self._begin(lanes, first)

    def leave_behind(self, wanted: Bools) -> None:
        """Lanes whose place, ``ids % len(wanted)``, is not wanted any more make no further step."""
        under_way = bool(self._waiting or self.cohorts)
        self._wanted = wanted if under_way else None
        if self.integrator.apart:  # a step may go on for long: it is not waited for
            unwanted = [cohort for cohort in self.cohorts if not wanted[cohort.lanes.ids % len(wanted)].any()]
            for cohort in unwanted:
                cohort.stages.close()
            self.cohorts = [cohort for cohort in self.cohorts if cohort not in unwanted]

    def close(self) -> None:
        """Ends what is under way: solvers of other libraries wait in threads."""
        for cohort in self.cohorts:
            cohort.stages.close()
        self.cohorts, self._waiting = [], []

    def begin_steps(self) -> list[Cohort]:
        """Every lane between two steps begins the next; returns all cohorts, each with its request."""
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            if self._wanted is not None:
                masks = [self._wanted[lanes.ids % len(self._wanted)] for lanes in waiting]
                waiting = [lanes if mask.all() else lanes[mask] for lanes, mask in zip(waiting, masks, strict=True)]
                waiting = [lanes for lanes in waiting if len(lanes.ids)]
                if not waiting:
                    break
            self._begin(waiting[0] if len(waiting) == 1 else _merge(waiting))
        return self.cohorts

    def remember(self, lanes: Lanes, value: State) -> None:
        """Keeps the right-hand side at the left edges of those lanes that have just set out."""
        fresh = np.count_nonzero(lanes.fresh)
        if fresh == len(lanes.ids):
            self.first.append((lanes.ids, value))
        elif fresh:
            index = torch.from_numpy(lanes.fresh.nonzero()[0]).to(lanes.t.device)
            self.first.append((lanes.ids[lanes.fresh], _tree.lanes(value, index)))

    def step_done(self, cohort: Cohort, u: State) -> None:
        """The lanes of a cohort have made one step: they arrive, or wait for the next."""
        lanes = cohort.lanes
        left = lanes.left - 1
        done = left == 0
        ended = np.count_nonzero(done)
        if ended == len(done):
            self._arrive(lanes.ids, u)
            return
        fresh = np.zeros(len(left), dtype=bool)
        number = None if lanes.number is None else lanes.number + np.array([1, 0])
        lanes = Lanes(lanes.ids, left, cohort.at1, cohort.t1, u, lanes.rows, fresh, number)
        if ended:
            at_end = lanes[done]
            self._arrive(at_end.ids, at_end.u)
            lanes = lanes[~done]
        self._waiting.append(lanes)

    def _arrive(self, ids: Ints, u: State) -> None:
        self.arrived.append((ids, u if self._remembers else bare(u)))

    def take_arrived(self, final: Final | None = None) -> list[tuple[Ints, State]]:
        """Takes out the lanes that have arrived, those of one place in the order in which they set out.

        Args:
            final: Which lanes set out from a final state, and need no others of their place before them.
        """
        arrived, self.arrived = self.arrived, []
        return arrived if self.queue is None else self.queue.in_order(arrived, final)

    def _begin(self, lanes: Lanes, first: State = None) -> None:
        if self.integrator.apart and len(lanes.ids) > 1:
            for i in range(len(lanes.ids)):
                alone = np.arange(len(lanes.ids)) == i
                index = torch.tensor([i], device=lanes.t.device)
                self._begin(lanes[alone], None if first is None else _tree.lanes(first, index))
            return
        if lanes.number is None or self._multistep is None:
            self._set_off(lanes, first, ())
            return
        variants = self._multistep.variants(*lanes.number.T)
        for variant in np.unique(variants):
            chosen = variants == variant
            if chosen.all():
                self._set_off(lanes, first, (int(variant),))
            else:
                index = torch.from_numpy(chosen.nonzero()[0]).to(lanes.t.device)
                part = None if first is None else _tree.lanes(first, index)
                self._set_off(lanes[chosen], part, (int(variant),))

    def _set_off(self, lanes: Lanes, first: State, variant: tuple[int, ...]) -> None:
        at1 = lanes.at + 1
        t1 = self.mesh.points.index_select(0, at1)
        cohort = Cohort(self, lanes, at1, t1, self.integrator.step(self.problem, lanes.t, t1, lanes.u, *variant))
        cohort.resume(None)
        request = cohort.request
        cohort.at_left_edge = (
            len(request) == 3
            and request[0] == self.first_function
            and request[1] is lanes.t
            and request[2] is bare(lanes.u)
        )
        if first is not None and cohort.at_left_edge:
            self.cohorts.pop()
            cohort.resume(first)


class Queue:
    """Lanes of methods whose steps take longer on some than on others, held back until those before them are in.

    A place's next iterate may set out while the last is under way. Were it to arrive first, what it brought would be
    overwritten by what is older.

    Args:
        places: Number of places: a lane's number is its place plus a multiple of it.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._under_way: dict[int, deque[int]] = {}
        self._here: dict[int, State] = {}

    def set_out(self, ids: Ints) -> None:
        """Lanes set out."""
        for number in ids.tolist():
            self._under_way.setdefault(number % self._places, deque()).append(number)

    def in_order(self, arrived: list[tuple[Ints, State]], final: Final | None) -> list[tuple[Ints, State]]:
        """Those lanes of ``arrived``, and of those held back, that have none of their place before them.

        One from a final state takes the place of all that set out before it.
        """
        for ids, u in arrived:
            last = np.zeros(len(ids), dtype=bool) if final is None else final(ids)
            for i, number in enumerate(ids.tolist()):
                queue = self._under_way[number % self._places]
                while last[i] and queue and queue[0] != number:
                    self._here.pop(queue.popleft(), None)
                if number in queue:
                    self._here[number] = _tree.lanes(u, slice(i, i + 1))
        waves: list[tuple[Ints, State]] = []
        while True:  # a place once in each, so that what is older is stored before what is newer
            ready = [queue[0] for queue in self._under_way.values() if queue and queue[0] in self._here]
            if not ready:
                return waves
            for number in ready:
                self._under_way[number % self._places].popleft()
            waves.append((np.array(ready), _tree.cat([self._here.pop(number) for number in ready])))


@dataclass
class Counters:
    """What was spent so far: rounds, the calls that the executor made of them, and the widest round.

    Where ``log`` is a list, it takes for each cohort in each round: the round, the round after it, whether its lanes
    are coarse ones, and their ids.
    """

    rounds: int = 0
    calls: int = 0
    max_lanes: int = 0
    log: list[tuple[int, int, bool, Ints]] | None = None

    def note(self, begun: int, cohorts: list[Cohort]) -> None:
        """Notes who was in the round that has just been played."""
        if self.log is not None:  # only the coarse flight remembers first values
            self.log += [(begun, self.rounds, one.flight.remember_first, one.lanes.ids) for one in cohorts]


def play_round(flights: list[Flight], executor: Executor, counters: Counters) -> bool:
    """One round: all lanes under way get the value they wait for. Returns whether there were any.

    Requests for the same function are stacked into one call, whichever propagator they come from.
    """
    waiting = [cohort for flight in flights for cohort in flight.begin_steps()]
    if not waiting:
        return False
    begun = counters.rounds
    if len(waiting) == 1:  # what the general case does, without its loops
        (cohort,) = waiting
        counters.max_lanes = max(counters.max_lanes, len(cohort.lanes.ids))
        (value,), rounds = _evaluate(waiting, executor, counters)
        counters.rounds += rounds
        counters.note(begun, waiting)
        cohort.flight.cohorts = []
        cohort.resume(value)
        return True
    counters.max_lanes = max(counters.max_lanes, sum([len(cohort.lanes.ids) for cohort in waiting]))
    groups = _by_function(waiting)
    values = [_evaluate(cohorts, executor, counters) for cohorts in groups]
    counters.rounds += max(rounds for _, rounds in values)
    counters.note(begun, waiting)
    for flight in flights:
        flight.cohorts = []
    for cohorts, (parts, _) in zip(groups, values, strict=True):
        for cohort, value in zip(cohorts, parts, strict=True):
            cohort.resume(value)
    return True


def _by_function(waiting: list[Cohort]) -> list[list[Cohort]]:
    groups: dict[Any, list[Cohort]] = {}
    for cohort in waiting:
        groups.setdefault(cohort.request[0], []).append(cohort)
    return list(groups.values())


def _evaluate(cohorts: list[Cohort], executor: Executor, counters: Counters) -> tuple[list[State], int]:
    """The function that all these cohorts ask for, on all their lanes as one stack; also how many rounds it took."""
    fn, *args = cohorts[0].request
    sizes = [len(cohort.lanes.ids) for cohort in cohorts]
    lanes = sum(sizes)
    if len(cohorts) > 1:
        args = [_tree.cat(parts) for parts in zip(*(cohort.request[1:] for cohort in cohorts), strict=True)]
    if cohorts[0].lanes.rows is not None:
        args.append(_tree.cat([cohort.lanes.rows for cohort in cohorts]))
    value = executor.evaluate(fn, tuple(args), lanes)
    counters.calls += executor.calls(lanes)
    parts, cost = _tree.split(value, sizes), getattr(fn, "cost", None)
    if cost is None:
        for cohort, size in zip(cohorts, sizes, strict=True):
            cohort.flight.evaluations += size
        return parts, 1
    costs = [cost(part, size) for part, size in zip(parts, sizes, strict=True)]
    for cohort, took in zip(cohorts, costs, strict=True):
        cohort.flight.evaluations += took.evaluations
    return parts, max(took.rounds for took in costs)
