"""Lanes under way: one propagator carries many slices at once, a round at a time.

Lanes that stand at the same stage of a step form a cohort and are stepped by one generator, whichever slice they
belong to and whenever they set out, so that the work in Python does not grow with the number of lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal import _tree
from parareal._executor import Executor
from parareal._grid import Mesh
from parareal._problem import Stages
from parareal._schedule import Bools, Ints
from parareal._tree import State
from parareal.integrators import Integrator


@dataclass(eq=False)
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
    """

    ids: Ints
    left: Ints
    at: Tensor
    t: Tensor
    u: State
    rows: State
    fresh: Bools

    def __getitem__(self, mask: Bools) -> Lanes:
        index = torch.from_numpy(mask.nonzero()[0]).to(self.t.device)
        u, rows = _tree.lanes(self.u, index), None if self.rows is None else _tree.lanes(self.rows, index)
        return Lanes(self.ids[mask], self.left[mask], self.at[index], self.t[index], u, rows, self.fresh[mask])


def _merge(parts: list[Lanes]) -> Lanes:
    return Lanes(
        ids=np.concatenate([part.ids for part in parts]),
        left=np.concatenate([part.left for part in parts]),
        at=torch.cat([part.at for part in parts]),
        t=torch.cat([part.t for part in parts]),
        u=_tree.cat([part.u for part in parts]),
        rows=None if parts[0].rows is None else _tree.cat([part.rows for part in parts]),
        fresh=np.concatenate([part.fresh for part in parts]),
    )


@dataclass(eq=False)
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
        evaluations: Lanes times calls so far.
    """

    def __init__(self, problem: Any, integrator: Integrator, mesh: Mesh, remember_first: bool = False) -> None:
        self.problem, self.integrator, self.mesh, self.remember_first = problem, integrator, mesh, remember_first
        self.rhs = problem.rhs
        self.arrived: list[tuple[Ints, State]] = []
        self.first: list[tuple[Ints, State]] = []
        self.cohorts: list[Cohort] = []
        self.evaluations = 0
        self._waiting: list[Lanes] = []
        self._wanted: Bools | None = None

    def launch(self, ids: Ints, slices: Ints, u: State, rows: State, first: State = None) -> None:
        """Lanes set out from the left edges of ``slices``; ``first`` is the right-hand side there, if known."""
        at = torch.from_numpy(self.mesh.start[slices]).to(self.mesh.points.device)
        lanes = Lanes(
            ids,
            self.mesh.count[slices],
            at,
            self.mesh.points.index_select(0, at),
            u,
            rows,
            np.ones(len(ids), dtype=bool),
        )
        if first is None:
            self._waiting.append(lanes)
        else:
            self._begin(lanes, first)

    def leave_behind(self, wanted: Bools) -> None:
        """Lanes whose place, ``ids % len(wanted)``, is not wanted any more make no further step."""
        under_way = bool(self._waiting or self.cohorts)
        self._wanted = wanted if under_way else None

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
            self.arrived.append((lanes.ids, u))
            return
        fresh = np.zeros(len(left), dtype=bool)
        lanes = Lanes(lanes.ids, left, cohort.at1, cohort.t1, u, lanes.rows, fresh)
        if ended:
            at_end = lanes[done]
            self.arrived.append((at_end.ids, at_end.u))
            lanes = lanes[~done]
        self._waiting.append(lanes)

    def _begin(self, lanes: Lanes, first: State = None) -> None:
        at1 = lanes.at + 1
        t1 = self.mesh.points.index_select(0, at1)
        cohort = Cohort(self, lanes, at1, t1, self.integrator.step(self.problem, lanes.t, t1, lanes.u))
        cohort.resume(None)
        request = cohort.request
        cohort.at_left_edge = (
            len(request) == 3 and request[0] == self.rhs and request[1] is lanes.t and request[2] is lanes.u
        )
        if first is not None and cohort.at_left_edge:
            self.cohorts.pop()
            cohort.resume(first)


@dataclass
class Counters:
    """What was spent so far: rounds, the calls that the executor made of them, and the widest round."""

    rounds: int = 0
    calls: int = 0
    max_lanes: int = 0


def play_round(flights: list[Flight], executor: Executor, counters: Counters) -> bool:
    """One round: all lanes under way get the value they wait for. Returns whether there were any.

    Requests for the same function are stacked into one call, whichever propagator they come from.
    """
    waiting = [cohort for flight in flights for cohort in flight.begin_steps()]
    if not waiting:
        return False
    counters.rounds += 1
    counters.max_lanes = max(counters.max_lanes, sum([len(cohort.lanes.ids) for cohort in waiting]))
    groups = [waiting] if len(waiting) == 1 else _by_function(waiting)
    values = [_evaluate(cohorts, executor, counters) for cohorts in groups]
    for flight in flights:
        flight.cohorts = []
    for cohorts, parts in zip(groups, values, strict=True):
        for cohort, value in zip(cohorts, parts, strict=True):
            cohort.resume(value)
    return True


def _by_function(waiting: list[Cohort]) -> list[list[Cohort]]:
    groups: dict[Any, list[Cohort]] = {}
    for cohort in waiting:
        groups.setdefault(cohort.request[0], []).append(cohort)
    return list(groups.values())


def _evaluate(cohorts: list[Cohort], executor: Executor, counters: Counters) -> list[State]:
    """The function that all these cohorts ask for, on all their lanes as one stack."""
    fn, *args = cohorts[0].request
    sizes = [len(cohort.lanes.ids) for cohort in cohorts]
    lanes = sum(sizes)
    if len(cohorts) > 1:
        args = [_tree.cat(parts) for parts in zip(*(cohort.request[1:] for cohort in cohorts), strict=True)]
    if cohorts[0].lanes.rows is not None:
        args.append(_tree.cat([cohort.lanes.rows for cohort in cohorts]))
    value = executor.evaluate(fn, tuple(args), lanes)
    counters.calls += executor.calls(lanes)
    for cohort, size in zip(cohorts, sizes, strict=True):
        cohort.flight.evaluations += size
    return _tree.split(value, sizes)
