"""Active lanes: one propagator carries many slices at once, a round at a time.

Lanes at the same stage of a step form a stage group, which one generator steps, whatever their slices and iterates. So
the work in Python does not grow with the number of lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.arrival_queue import Final, Queue
from parareal._core.host import index_to
from parareal._core.multistep_state import without_history
from parareal._core.trees import State
from parareal.engine._lane_method import Method
from parareal.engine._lane_stack import Lanes, merged
from parareal.engine._readiness import some
from parareal.grid._mesh import Mesh
from parareal.integrators._base import Integrator, check_request, check_stepped, started
from parareal.integrators._paced import PHASE, Pace
from parareal.problem._ode import Stages


@dataclass(eq=False, slots=True)
class StageGroup:
    """Lanes in the middle of one step, waiting for the value of ``request``.

    Attributes:
        final: Whether all of them started from final states; used only for methods whose number of calls varies.
        value: The requested value, if it has been computed and takes several rounds.
        due: The round in which it arrives, if so.
        gone: Lanes that have already made this step in another group; ``None`` for none.
    """

    owner: ActiveLanes
    lanes: Lanes
    at1: Ints
    t1: Tensor
    stages: Stages
    request: tuple[Any, ...] = ()
    at_left_boundary: bool = False
    final: bool = False
    value: State = None
    due: int | None = None
    gone: Bools | None = None

    def resume(self, value: State) -> None:
        """Continues with the requested value, up to the next request or the end of the step."""
        if self.at_left_boundary and self.owner.method.keep_first:
            self.owner.keep_first(self.lanes, value)
        self.at_left_boundary, self.value, self.due = False, None, None
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
            if self.owner.method.paced is not None:
                self.owner.paced_step_done(self, end.value)
            else:
                check_stepped(self.owner.method.integrator, end.value, self.lanes.u)
                self.owner.step_done(self, end.value)
        else:
            self.owner.groups.append(self)

    def _next_request(self, value: State) -> tuple[Any, ...]:
        request = self.stages.send(value)
        check_request(self.owner.method.integrator, request)
        return request


class ActiveLanes:
    """All active lanes of one propagator.

    Attributes:
        method: The propagator.
        queue: Where lanes wait for earlier ones of their place; ``None`` if none can overtake another.
        arrived: Finished lanes, as ``(ids, states at the right boundary)``; taking them empties the list.
        first: Values of the right-hand side at left boundaries, as ``(ids, values)``, when ``keep_first``.
        groups: Lanes waiting for a value.
        failures: What ended lanes of methods that choose their own steps, by place.
        evaluations: Those of the right-hand side so far.
        carried: Directional derivatives so far that came in addition, for what lanes carry beside the state.
        final: Which lanes started from final states, if anybody knows. Where the number of calls varies, these share
            groups only with lanes that the sequential run steps together with them: they never wait for others, some
            of which may come from bad iterates and take long. So a run takes no more rounds than the sequential one.

    Args:
        problem: The problem.
        integrator: The propagator.
        mesh: The points that it visits.
        keep_first: Whether ``first`` is kept.
        carries_history: Whether states carry the history of a multistep method.
        places: Number of places: ``ids`` are a place plus a multiple of it.
    """

    def __init__(
        self,
        problem: Any,
        integrator: Integrator,
        mesh: Mesh,
        keep_first: bool = False,
        carries_history: bool = False,
        places: int = 1,
    ) -> None:
        first = integrator.first_function(problem) if integrator.traits.shares_first_stage else None
        self.method = Method(problem, integrator, mesh, keep_first, carries_history, first, places)
        self.queue = None if integrator.traits.evaluations is not None else Queue(places)
        self.arrived: list[tuple[Ints, State]] = []
        self.first: list[tuple[Ints, State]] = []
        self.groups: list[StageGroup] = []
        self.failures: dict[int, str] = {}
        self.evaluations = self.carried = 0
        self.final: Final | None = None
        self._restarted: list[int] = []  # ids of lanes that are in two groups
        self._between_steps: list[Lanes] = []
        self._wanted: Bools | None = None

    def launch(
        self, ids: Ints, slices: Ints, u: State, rows: State, first: State = None, samples: Ints | None = None
    ) -> None:
        """Starts lanes from the left boundaries of ``slices``.

        Args:
            ids: Their numbers.
            slices: Their slices.
            u: Their states.
            rows: Per-sample data.
            first: The right-hand side there, if known.
            samples: Their samples; ``None`` where there is one.
        """
        if self.queue is not None:
            self.queue.started(ids)
        self._begin_slices(ids, slices, u, rows, first, samples)

    def _begin_slices(self, ids: Ints, slices: Ints, u: State, rows: State, first: State, samples: Any = None) -> None:
        mesh = self.method.mesh
        at, fresh = mesh.start[slices], np.ones(len(ids), dtype=bool)
        u, number = self.method.entered(slices, u, samples)
        lanes = Lanes(ids, mesh.count[slices], at, mesh.times(at), u, rows, fresh, number)
        self._between_steps.append(lanes) if first is None else self._begin(lanes, first)

    def launch_at(self, ids: Ints, at: Ints, left: Ints, u: State, rows: State, number: Any) -> None:
        """Starts lanes inside slices, from the points ``at`` of the mesh, for the next ``left`` steps.

        Args:
            ids: Their ids.
            at: Numbers of points, ``(L,)``.
            left: Steps to make, ``(L,)``.
            u: States; for a multistep method with their history.
            rows: Per-sample data, or ``None``.
            number: As in `Lanes`.
        """
        if self.queue is not None:
            self.queue.started(ids)
        if self.method.paced is not None:  # whose slices are one step to whoever does not look inside
            u, number = self.method.paced.enter(u, self.method.mesh.on_host.numpy()[at], np.zeros_like(ids))
        fresh = np.zeros(len(ids), dtype=bool)
        self._between_steps.append(Lanes(ids, left, at, self.method.mesh.times(at), u, rows, fresh, number))

    def drop(self, wanted: Bools) -> None:
        """Drops lanes whose place, ``ids % len(wanted)``, is not ``wanted``: they make no further step."""
        under_way = bool(self._between_steps or self.groups)
        self._wanted = wanted if under_way else None
        if self.queue is not None:  # do not wait for a step that may take long
            unwanted = [group for group in self.groups if not wanted[group.lanes.ids % len(wanted)].any()]
            for group in unwanted:
                group.stages.close()
            self.groups = [group for group in self.groups if group not in unwanted]

    def close(self) -> None:
        """Ends all lanes, and with them the threads in which solvers of other libraries wait."""
        for group in self.groups:
            group.stages.close()
        self.groups, self._between_steps = [], []

    def begin_steps(self) -> list[StageGroup]:
        """Starts the next step of every lane between two steps; returns all groups, each with its request."""
        while self._between_steps:
            waiting, self._between_steps = self._between_steps, []
            if self._wanted is not None:
                masks = [self._wanted[lanes.ids % len(self._wanted)] for lanes in waiting]
                waiting = [lanes if mask.all() else lanes[mask] for lanes, mask in zip(waiting, masks, strict=True)]
                waiting = [lanes for lanes in waiting if len(lanes.ids)]
            if self.method.paced is not None and self.queue is not None:  # lanes that have been overtaken
                masks = [self.queue.waits_for(lanes.ids) for lanes in waiting]
                waiting = [lanes if mask.all() else lanes[mask] for lanes, mask in zip(waiting, masks, strict=True)]
                waiting = [lanes for lanes in waiting if len(lanes.ids)]
            if not waiting:
                break
            self._begin(waiting[0] if len(waiting) == 1 else merged(waiting))
        return self.groups

    def keep_first(self, lanes: Lanes, value: State) -> None:
        """Keeps the right-hand side at the left boundaries of lanes that have just started."""
        fresh = np.count_nonzero(lanes.fresh)
        if fresh == len(lanes.ids):
            self.first.append((lanes.ids, value))
        elif fresh:
            index = index_to(lanes.t.device, lanes.fresh.nonzero()[0])
            self.first.append((lanes.ids[lanes.fresh], trees.lanes(value, index)))

    def step_done(self, group: StageGroup, u: State) -> None:
        """After a step of a group: its lanes arrive, or wait for the next step."""
        lanes = group.lanes
        if self._restarted:
            lanes, u = self._first_through(group, u)
            if not len(lanes.ids):
                return
        at1, t1 = (group.at1, group.t1) if lanes is group.lanes else self._next(lanes)
        left = lanes.left - 1
        done = left == 0
        ended = np.count_nonzero(done)
        if ended == len(done):
            self._arrive(lanes, u)
            return
        fresh = np.zeros(len(left), dtype=bool)
        number = None if lanes.number is None else lanes.number + np.array([1, 0])
        lanes = Lanes(lanes.ids, left, at1, t1, u, lanes.rows, fresh, number)
        if ended:
            at_end = lanes[done]
            self._arrive(at_end, at_end.u)
            lanes = lanes[~done]
        self._between_steps.append(lanes)

    def paced_step_done(self, group: StageGroup, pace: Pace) -> None:
        """After a step of a method that chooses its own steps: each lane of the group has arrived, or makes another."""
        lanes, paced = group.lanes, self.method.paced
        assert paced is not None
        for i in pace.done.nonzero()[0].tolist():
            place = int(lanes.ids[i]) % self.method.places
            self.failures.pop(place, None)
            if i in pace.failures:
                self.failures[place] = pace.failures[i]
        fresh = np.zeros(len(lanes.ids), dtype=bool)
        new = Lanes(lanes.ids, lanes.left, lanes.at, pace.t, pace.state, lanes.rows, fresh, pace.number)
        if not np.count_nonzero(pace.done):
            self._between_steps.append(new)
            return
        self._arrive(lanes[pace.done], paced.leave(pace.ends, pace.number[pace.done]))
        if not pace.done.all():
            self._between_steps.append(new[~pace.done])

    def hasten(self) -> None:
        """Restarts lanes whose start has become final meanwhile in a group of their own.

        They stay in the old group as well, and the first group to make the step counts.
        """
        if self.queue is None or self.final is None or self.method.paced is not None:  # those wait for no other lane
            return
        for group in [group for group in self.groups if not group.final]:
            final = self.final(group.lanes.ids)
            if final.all():
                group.final = True
            elif some(new := final & ~np.isin(group.lanes.ids, self._restarted)):
                lanes = group.lanes[new]
                self._restarted += lanes.ids.tolist()
                self._begin(lanes)

    def _first_through(self, group: StageGroup, u: State) -> tuple[Lanes, State]:
        """Lanes of a group after its step, without those that another group has stepped before."""
        lanes = group.lanes
        if group.gone is not None:
            here = index_to(lanes.t.device, (~group.gone).nonzero()[0])
            lanes, u = lanes[~group.gone], trees.lanes(u, here)
        through = lanes.ids[np.isin(lanes.ids, self._restarted)]
        if len(through):
            self._restarted = [number for number in self._restarted if number not in through]
            for other in self.groups:
                if some(same := np.isin(other.lanes.ids, through)):
                    other.gone = same if other.gone is None else other.gone | same
        return lanes, u

    def _arrive(self, lanes: Lanes, u: State) -> None:
        self.arrived.append((lanes.ids, u if self.method.carries_history else without_history(u)))

    @property
    def may_arrive(self) -> bool:
        """Whether lanes may have arrived."""
        return bool(self.arrived) or (self.queue is not None and bool(self.queue.kept))

    def take_arrived(self, final: Final | None = None) -> list[tuple[Ints, State]]:
        """Removes and returns the lanes that have arrived, those of one place in the order of their start.

        Args:
            final: Which lanes started from a final state, and need not wait for earlier ones of their place.
        """
        arrived, self.arrived = self.arrived, []
        return arrived if self.queue is None else self.queue.in_order(arrived, final)

    def _begin(self, lanes: Lanes, first: State = None) -> None:
        keys = self._keys(lanes)
        if keys is None:
            self._start_group(lanes, first)
            return
        for key in np.unique(keys):
            chosen = keys == key
            if chosen.all():
                self._start_group(lanes, first)
            else:
                index = index_to(lanes.t.device, chosen.nonzero()[0])
                self._start_group(lanes[chosen], None if first is None else trees.lanes(first, index))

    def _keys(self, lanes: Lanes) -> Ints | None:
        """Keys of groups: lanes with different keys must not share one; ``None`` if all may."""
        if len(lanes.ids) == 1:
            return None
        if self.method.apart:
            return np.arange(len(lanes.ids))
        if self.method.paced is not None:  # lanes in one phase ask for the same number of values
            assert lanes.number is not None
            return lanes.number[:, PHASE]
        variants = None
        if lanes.number is not None and self.method.multistep is not None:
            variants = self.method.multistep.variants(*lanes.number.T)
        if self.queue is None or self.final is None or not some(final := self.final(lanes.ids)):
            return variants
        # The sequential run steps the samples of one place together.
        slices, most = len(self.method.mesh.count), int(self.method.mesh.count.max()) + 1
        place = np.where(final, lanes.ids % slices * most + lanes.left + 1, 0)
        return (
            place if variants is None else place + (int(place.max()) + 1) * np.unique(variants, return_inverse=True)[1]
        )

    def _next(self, lanes: Lanes) -> tuple[Ints, Tensor]:
        """Index of the next point of the mesh, and its time."""
        return lanes.at + 1, self.method.mesh.times(lanes.at + 1)

    def _start_group(self, lanes: Lanes, first: State) -> None:
        variant, (at1, t1) = (), self._next(lanes)
        if self.method.paced is not None:
            variant = (lanes.number,)
        elif lanes.number is not None and self.method.multistep is not None:
            variant = (int(self.method.multistep.variants(*lanes.number[:1].T)[0]),)
        stages = started(self.method.integrator, self.method.problem, lanes.t, t1, lanes.u, *variant)
        group = StageGroup(self, lanes, at1, t1, stages)
        group.final = self.queue is not None and self.final is not None and bool(self.final(lanes.ids[:1])[0])
        group.resume(None)
        request = group.request
        group.at_left_boundary = (
            len(request) == 3
            and request[0] == self.method.first_function
            and request[1] is lanes.t
            and request[2] is without_history(lanes.u)
        )
        if first is not None and group.at_left_boundary:
            self.groups.pop()
            group.resume(first)
