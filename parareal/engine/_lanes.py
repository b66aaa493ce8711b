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

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.arrival_queue import Final, Queue
from parareal._core.multistep_state import Carried, bare
from parareal._core.trees import State
from parareal.engine._readiness import some
from parareal.grid._mesh import Mesh
from parareal.integrators._base import Integrator, Multistep, check_request, check_stepped, started
from parareal.problem._ode import Stages


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
        u, rows = trees.lanes(self.u, index), None if self.rows is None else trees.lanes(self.rows, index)
        number = None if self.number is None else self.number[mask]
        return Lanes(self.ids[mask], self.left[mask], self.at[index], self.t[index], u, rows, self.fresh[mask], number)


def _merge(parts: list[Lanes]) -> Lanes:
    return Lanes(
        ids=np.concatenate([part.ids for part in parts]),
        left=np.concatenate([part.left for part in parts]),
        at=torch.cat([part.at for part in parts]),
        t=torch.cat([part.t for part in parts]),
        u=trees.cat([part.u for part in parts]),
        rows=None if parts[0].rows is None else trees.cat([part.rows for part in parts]),
        fresh=np.concatenate([part.fresh for part in parts]),
        number=None if parts[0].number is None else np.concatenate([part.number for part in parts]),  # pyright: ignore
    )


@dataclass(eq=False, slots=True)
class Cohort:
    """Lanes in the middle of one step, waiting for the value of ``request``.

    Attributes:
        final: All of them set out from final states, of methods whose number of calls varies.
        value: What was asked for, where it is there already and took several rounds.
        due: The round from which it counts as there, if so.
        gone: Lanes of which a twin has made this step before; ``None`` for none.
    """

    flight: Flight
    lanes: Lanes
    at1: Tensor
    t1: Tensor
    stages: Stages
    request: tuple[Any, ...] = ()
    at_left_edge: bool = False
    final: bool = False
    value: State = None
    due: int | None = None
    gone: Bools | None = None

    def resume(self, value: State) -> None:
        """Goes on with the value asked for, up to the next request or to the end of the step."""
        if self.at_left_edge and self.flight.remember_first:
            self.flight.remember(self.lanes, value)
        self.at_left_edge, self.value, self.due = False, None, None
        if self.gone is not None and self.gone.all():
            self.stages.close()
            return
        try:
            self.request = self._next_request(value)
            while getattr(self.request[0], "free", False):
                fn, *args = self.request
                rows = () if self.lanes.rows is None else (self.lanes.rows,)
                self.request = self._next_request(fn(*args, *rows))
        except StopIteration as end:
            check_stepped(self.flight.integrator, end.value, self.lanes.u)
            self.flight.step_done(self, end.value)
        else:
            self.flight.cohorts.append(self)

    def _next_request(self, value: State) -> tuple[Any, ...]:
        request = self.stages.send(value)
        check_request(self.flight.integrator, request)
        return request


class Flight:
    """All lanes of one propagator that are under way.

    Attributes:
        arrived: Finished lanes, as ``(ids, states at the right edge)``; whoever takes them empties the list.
        first: Values of the right-hand side at left edges, as ``(ids, values)``, when ``remember_first``.
        cohorts: Lanes waiting for a value.
        evaluations: Those of the right-hand side so far.
        final: Which lanes set out from final states, if anybody knows. Where the number of calls varies, these share
            cohorts only with lanes that the sequential run steps together with them: they never wait for others, some
            of which may come from bad iterates and take long. So a run takes no more rounds than the sequential one.

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
        traits = integrator.traits
        self.first_function = integrator.first_function(problem) if traits.shares_first_stage else None
        self._multistep = integrator if isinstance(integrator, Multistep) else None
        self._remembers = remembers
        self._apart = traits.apart
        self.queue = None if traits.evaluations is not None else Queue(places)
        self.arrived: list[tuple[Ints, State]] = []
        self.first: list[tuple[Ints, State]] = []
        self.cohorts: list[Cohort] = []
        self.evaluations = 0
        self.final: Final | None = None
        self._twins: list[int] = []  # ids of lanes that are in two cohorts
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
        if self.queue is not None:  # a step may go on for long: it is not waited for
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
            self.first.append((lanes.ids[lanes.fresh], trees.lanes(value, index)))

    def step_done(self, cohort: Cohort, u: State) -> None:
        """The lanes of a cohort have made one step: they arrive, or wait for the next."""
        lanes = cohort.lanes
        if self._twins:
            lanes, u = self._first_of_twins(cohort, u)
            if not len(lanes.ids):
                return
        at1, t1 = (cohort.at1, cohort.t1) if lanes is cohort.lanes else self._next(lanes)
        left = lanes.left - 1
        done = left == 0
        ended = np.count_nonzero(done)
        if ended == len(done):
            self._arrive(lanes.ids, u)
            return
        fresh = np.zeros(len(left), dtype=bool)
        number = None if lanes.number is None else lanes.number + np.array([1, 0])
        lanes = Lanes(lanes.ids, left, at1, t1, u, lanes.rows, fresh, number)
        if ended:
            at_end = lanes[done]
            self._arrive(at_end.ids, at_end.u)
            lanes = lanes[~done]
        self._waiting.append(lanes)

    def hasten(self) -> None:
        """Lanes that turn out to have set out from final states leave others behind with which they share a cohort.

        They begin the step anew, and whichever twin is through first counts.
        """
        if self.queue is None or self.final is None:
            return
        for cohort in [cohort for cohort in self.cohorts if not cohort.final]:
            final = self.final(cohort.lanes.ids)
            if final.all():
                cohort.final = True
            elif some(new := final & ~np.isin(cohort.lanes.ids, self._twins)):
                lanes = cohort.lanes[new]
                self._twins += lanes.ids.tolist()
                self._begin(lanes)

    def _first_of_twins(self, cohort: Cohort, u: State) -> tuple[Lanes, State]:
        """Those lanes of a cohort that has made its step, with their states, whose twins have not made it before."""
        lanes = cohort.lanes
        if cohort.gone is not None:
            here = torch.from_numpy((~cohort.gone).nonzero()[0]).to(lanes.t.device)
            lanes, u = lanes[~cohort.gone], trees.lanes(u, here)
        through = lanes.ids[np.isin(lanes.ids, self._twins)]
        if len(through):
            self._twins = [number for number in self._twins if number not in through]
            for other in self.cohorts:
                if some(same := np.isin(other.lanes.ids, through)):
                    other.gone = same if other.gone is None else other.gone | same
        return lanes, u

    def _arrive(self, ids: Ints, u: State) -> None:
        self.arrived.append((ids, u if self._remembers else bare(u)))

    @property
    def may_arrive(self) -> bool:
        """Whether there may be something to take out."""
        return bool(self.arrived) or (self.queue is not None and bool(self.queue.held))

    def take_arrived(self, final: Final | None = None) -> list[tuple[Ints, State]]:
        """Takes out the lanes that have arrived, those of one place in the order in which they set out.

        Args:
            final: Which lanes set out from a final state, and need no others of their place before them.
        """
        arrived, self.arrived = self.arrived, []
        return arrived if self.queue is None else self.queue.in_order(arrived, final)

    def _begin(self, lanes: Lanes, first: State = None) -> None:
        groups = self._groups(lanes)
        if groups is None:
            self._set_off(lanes, first)
            return
        for group in np.unique(groups):
            chosen = groups == group
            if chosen.all():
                self._set_off(lanes, first)
            else:
                index = torch.from_numpy(chosen.nonzero()[0]).to(lanes.t.device)
                self._set_off(lanes[chosen], None if first is None else trees.lanes(first, index))

    def _groups(self, lanes: Lanes) -> Ints | None:
        """Lanes with different numbers shall not share a cohort; ``None`` where all may."""
        if len(lanes.ids) == 1:
            return None
        if self._apart:
            return np.arange(len(lanes.ids))
        variants = None
        if lanes.number is not None and self._multistep is not None:
            variants = self._multistep.variants(*lanes.number.T)
        if self.queue is None or self.final is None or not some(final := self.final(lanes.ids)):
            return variants
        # The sequential run steps samples together that stand at the same place.
        slices, most = len(self.mesh.count), int(self.mesh.count.max()) + 1
        place = np.where(final, lanes.ids % slices * most + lanes.left + 1, 0)
        return (
            place if variants is None else place + (int(place.max()) + 1) * np.unique(variants, return_inverse=True)[1]
        )

    def _next(self, lanes: Lanes) -> tuple[Tensor, Tensor]:
        """Index of the next point of the mesh, and its time."""
        return lanes.at + 1, self.mesh.points.index_select(0, lanes.at + 1)

    def _set_off(self, lanes: Lanes, first: State) -> None:
        variant, (at1, t1) = (), self._next(lanes)
        if lanes.number is not None and self._multistep is not None:
            variant = (int(self._multistep.variants(*lanes.number[:1].T)[0]),)
        cohort = Cohort(self, lanes, at1, t1, started(self.integrator, self.problem, lanes.t, t1, lanes.u, *variant))
        cohort.final = self.queue is not None and self.final is not None and bool(self.final(lanes.ids[:1])[0])
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
