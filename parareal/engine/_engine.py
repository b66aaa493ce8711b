"""The engine: it starts lanes, plays rounds, and decides after each iteration which systems continue.

Each sample of a batch is a system of its own: all systems share the rounds, but each has its own frontier, iteration
count and end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.host import forget_waiting, send_waiting
from parareal._core.multistep_state import Carried, without_history
from parareal._core.trees import State
from parareal.corrections._base import Correction, bound_correction, mismatch_of
from parareal.engine._first import First, blind_moves
from parareal.engine._first_order import FirstOrder
from parareal.engine._lanes import ActiveLanes
from parareal.engine._measure import Figures, figures, measured
from parareal.engine._nested import Chain, ChainedLanes, NestedSweep
from parareal.engine._parts import Parts
from parareal.engine._readiness import some
from parareal.engine._rounds import Counters, play_round
from parareal.engine._states import Setup
from parareal.engine._update import Iterates
from parareal.engine._verdicts import relative_defects, status_of, why_stuck
from parareal.executors._base import Executor
from parareal.grid._mesh import Mesh, Span
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._base import Integrator, Multistep, bound_integrator
from parareal.problem._ode import bound_problem
from parareal.results._run_state import RunState
from parareal.results._status import Status
from parareal.schedules._schedule import Progress, Schedule, admitted
from parareal.stopping._checked import begun, decided
from parareal.stopping._observations import Seen, Start
from parareal.stopping._rules import StoppingRule, StoppingState


class Engine:
    """One run: M systems of N slices.

    Args:
        problem: The problem.
        u0: Initial states as systems, leaves ``(M, *state)``.
        rows: Per-sample data as systems, leaves ``(M, ...)``, or ``None``.
        grid: The time grid.
        fine: The fine propagator.
        correction: The correction.
        schedule: Which lanes start when.
        executor: How the lanes of a round are evaluated.
        stop: The stopping rule.
        max_iterations: Most iterations; never more than N.
        dense: Whether states behind the frontier are kept.
        block: The slices that are worked on here, from the first to before the last; ``None`` for all.
        given: First iterates in place of guesses.
        chain: For a run inside another one, what its fine lanes do in place of one step after another of ``fine``.
        outside: Where the grid is a section of another one, how many slices that has on the left and on the right.

    Attributes:
        parts: What the run is made of.
        state: The run state; only the engine and its `Iterates` write to it.
        iterates: The states at the boundaries, and their updates.
        stopping: The state of the stopping rule.
        counters: Cost of the run so far.
        nested: Sweeps over all slices in parallel; ``None`` where sweeps go from slice to slice.
        fine: Fine lanes.
        coarse: Coarse lanes; ``None`` for corrections without a propagator.
    """

    holds_all = True
    """Whether this process holds the whole run, and not a block of it."""

    def __init__(
        self,
        problem: Any,
        u0: State,
        rows: State,
        grid: TimeGrid,
        fine: Integrator,
        correction: Correction,
        schedule: Schedule,
        executor: Executor,
        stop: StoppingRule,
        max_iterations: int | None,
        dense: bool = True,
        block: tuple[int, int] | None = None,
        given: First | None = None,
        chain: Chain | None = None,
        outside: tuple[int, int] = (0, 0),
    ) -> None:
        one, slices = trees.one(u0, 0), grid.num_slices
        problem = bound_problem(problem, one, grid, fine)
        fine = bound_integrator(fine, problem, one, grid)
        correction = bound_correction(correction, problem, one, grid, fine)
        empty = fine.begin if isinstance(fine, Multistep) and not fine.restart and chain is None else None
        rounding = max(torch.finfo(leaf.dtype).eps for leaf in trees.leaves(u0))
        if empty is not None:
            u0 = Carried(u0, empty(u0))
        windowed = schedule.width is not None
        if windowed:
            stop = stop.accepting()
        width, systems = min(schedule.width or slices, slices), trees.leaves(u0)[0].shape[0]
        traits = correction.traits
        mismatch = mismatch_of(correction, Span(grid.edges, np.arange(slices)))
        blind = blind_moves(u0, given, schedule, grid)
        order = FirstOrder.of(fine, problem, grid) if empty is not None and stop.traits.uses_growth else None
        scale = None if order is None else order.scale
        facts = (traits.mixing > 0, empty is not None, rounding, traits.relaxations, outside, blind, scale)
        self.stopping: StoppingState = begun(stop, Start(systems, width, mismatch, *facts))
        device, coarse = trees.leaves(u0)[0].device, traits.propagator
        self.state = RunState.new(systems, slices, max_iterations, coarse is not None)
        if sum(outside):
            most = slices + sum(outside)
            self.state.limit[:] = most if max_iterations is None else min(max_iterations, most)
        guess = schedule.guess if given is None or given.guess is None else given.guess
        given = None if given is None or given.states is None else given
        self.counters = Counters() if chain is None else chain.counters
        self.nested = None
        if traits.nested is not None:
            before = 0 if chain is None else chain.before
            self.nested = NestedSweep(Engine, problem, rows, grid, traits, executor, self.counters, before)
        edges, grows = grid.edges.to(device), stop.traits.uses_growth
        setup = Setup(correction, u0, edges, dense, grows, guess, given, empty, self.nested, blind, order)
        self.iterates = Iterates(self.state, setup.layout(slices, width, block), setup)
        tangents, places = traits.carries, systems * slices
        stepped = correction.lifted(problem) if tangents else problem
        carrier = correction.carrier(fine) if tangents else fine
        if chain is None:
            mesh = Mesh.build(grid, fine.steps, device)
            self.fine = ActiveLanes(stepped, carrier, mesh, carries_history=empty is not None, places=places)
        else:
            self.fine = ChainedLanes(problem, fine, chain, places, device)
        self.fine.final = self._from_final
        self.coarse: ActiveLanes | None = None
        if coarse is not None:
            coarse = bound_integrator(coarse, problem, one, grid)
            mesh = Mesh.build(grid, coarse.steps or 1, device)
            self.coarse = ActiveLanes(problem, coarse, mesh, keep_first=True, places=places)
        first = None if self.coarse is None else self.coarse.method.first_function
        shared = first is not None and first == self.fine.method.first_function
        lift = correction.lift if tangents else None
        extra = 0 if fine.traits.implicit else tangents  # implicit lanes count what they carry themselves
        history = empty is not None
        self.parts = Parts(problem, fine, rows, schedule, executor, stop, lift, extra, windowed, history, shared)

    @property
    def active(self) -> Bools:
        """Systems that have not ended, ``(M,)``."""
        return self.state.active

    @property
    def propagators(self) -> list[ActiveLanes]:
        """Coarse lanes, if there are any, and fine ones."""
        return [self.fine] if self.coarse is None else [self.coarse, self.fine]

    # --- called by a run; `BlockEngine` overrides these ---------------------------------------------------------------

    def begin(self) -> None:
        """Makes the first guesses that need no evaluation."""
        self.iterates.update(wait=False)

    def advance(self) -> tuple[Ints, Floats]:
        """Continues until some systems complete an iteration, and decides about them.

        Returns:
            Their numbers ``(Q,)`` and the increments of their slices ``(Q, N)``.
        """
        while True:
            self._start_lanes()
            while not self._collect():
                look = None if self.iterates.layout.on_host else self._look_ahead
                played = play_round(self.propagators, self.parts.executor, self.counters, look)
                if not (played or any(lanes.may_arrive for lanes in self.propagators)):
                    raise RuntimeError(why_stuck(self.parts, self.state, self.iterates.live, self.coarse))
            # New values can make a boundary both readable (a lane should start from it) and writable (it should be
            # updated): start those lanes first, then update. Slices enter a window after the decision how
            # far it slides, unless guesses arrive one by one.
            guessing = not self.parts.windowed or self.iterates.layout.guess_waits
            if self.iterates.update(guessing=guessing):
                self._start_lanes()
                self.iterates.update(wait=False, guessing=guessing)
            self._drop_overtaken()
            complete = (self.active & (self._reached() > self._decided())).nonzero()[0]
            if len(complete):
                return complete, self._decide(complete)

    def settle(self) -> None:
        """Moves boundaries and starts lanes as long as any can, without decisions: for a run inside another one."""
        self._start_lanes()
        while self._collect():
            if self.iterates.update():
                self._start_lanes()
                self.iterates.update(wait=False)
            self._start_lanes()

    def halt(self, status: Status) -> None:
        """Ends the systems that are still active."""
        for system in self.active.nonzero()[0].tolist():
            self.state.end(system, status)

    def close(self) -> None:
        """Ends all active lanes, and lets go of itself: memory is free at once, not when cycles are looked for."""
        forget_waiting()
        for lanes in self.propagators:
            lanes.close()
        self.fine.final = None

    def together(self) -> None:
        """Collects the states of all processes; one process has nothing to collect."""

    def finish(self) -> None:
        """Called at the end of the run."""

    def fail(self, error: BaseException) -> None:
        """Called when an exception ends the run; other processes are informed."""

    @property
    def spent(self) -> tuple[int, int]:
        """Rounds and evaluations so far."""
        return self.counters.rounds, self.fine.evaluations + self.coarse_evaluations

    @property
    def coarse_evaluations(self) -> int:
        """Evaluations for the correction: of its propagator, or directional derivatives."""
        own = 0 if self.coarse is None else self.coarse.evaluations
        own += 0 if self.nested is None else self.nested.evaluations
        return self.parts.tangents * self.fine.evaluations + self.fine.carried + own

    # --- lanes start and arrive -------------------------------------------------------------------------------------

    def _start_lanes(self) -> None:
        live, layout, lanes = self.iterates.live, self.iterates.layout, self.state.lanes
        left = self.state.current[:, :-1]
        self.iterates.skip_unread()
        fine_ready = live & (left > lanes.fine_started)
        fine_ready[:, : layout.start] = False
        if self.parts.shares_first_stage:  # the coarse lane brings this value: another request would cost an evaluation
            fine_ready &= lanes.first_stage == left
        none = None if self.coarse is not None else np.zeros_like(live)
        progress = Progress(
            fine_ready=fine_ready,
            fine_busy=live & (lanes.fine_started > lanes.fine_arrived),
            coarse_ready=live & (left > lanes.coarse_started) if none is None else none,
            coarse_busy=live & (lanes.coarse_started > lanes.coarse_arrived) if none is None else none,
            frontier=self.state.frontier,
            iteration=self.state.iteration,
            coarse=self.coarse is not None,
            ahead=left - np.maximum(self.state.current[:, layout.end], 0)[:, None],
        )
        fine, coarse = admitted(self.parts.schedule, progress)
        if self.coarse is not None and some(coarse):
            self._launch(self.coarse, coarse, lanes.coarse_started)
        if some(fine):
            self._launch(self.fine, fine, lanes.fine_started)

    def _launch(self, lanes: ActiveLanes, mask: Bools, started: Ints) -> None:
        it, layout, parts = self.iterates, self.iterates.layout, self.parts
        shared = lanes is self.fine and parts.shares_first_stage
        if shared and layout.relaxations:  # some have no coarse lane that has brought this value
            known = np.zeros_like(mask)
            system, n = mask.nonzero()
            known[mask] = it.rings.first_stage.has(system * layout.slices + n, self.state.current[:, :-1][mask])
            if some(known) and some(mask & ~known):
                self._launch(lanes, mask & ~known, started)
                mask = known
            shared = some(known)
        system, n = mask.nonzero()
        ids, iterate = system * layout.slices + n, it.note_started(mask, started)
        if not layout.on_host:
            it.ahead.of_launch(lanes.method.mesh.start[n], ids, system, iterate, parts.rows is not None)
        rows = parts.rows_of(system, layout.device)
        # A copy: the value of a later iterate may arrive while lanes still use this one as a stage of their step.
        first = it.rings.first_stage.take(ids, iterate) if shared else None
        u = it.rings.u.take(ids + system, iterate)
        if lanes is not self.fine:
            u = without_history(u)
        elif parts.lift is not None:
            u = parts.lift(u)
        lanes.launch(ids + it.live.size * iterate, n, u, rows, first, system)

    def _collect(self) -> bool:
        """Stores the results of lanes that have arrived; returns whether there were any."""
        rings, lanes = self.iterates.rings, self.state.lanes
        brought: list[Any] = []
        if self.fine.may_arrive:
            brought.append((self.fine.take_arrived(self._from_final), rings.fine, lanes.fine_arrived))
        if self.coarse is not None and (self.coarse.arrived or self.coarse.first):
            brought.append((self.coarse.first, rings.first_stage, lanes.first_stage))
            brought.append((self.coarse.take_arrived(), rings.coarse, lanes.coarse_arrived))
            self.coarse.first = []
        if not self.iterates.layout.on_host:
            self.iterates.ahead.of_arrivals([tickets for arrivals, *_ in brought for tickets, _ in arrivals])
            send_waiting()
        for arrivals, ring, arrived in brought:
            for tickets, value in arrivals:
                value = trees.watched(value) if ring is rings.coarse else value
                self.iterates.store(tickets, value, ring, arrived)
        return bool(brought) and any(arrivals for arrivals, _, _ in brought)

    def _look_ahead(self) -> None:
        """What updates will ask for goes to the device with what steps ask for, while that is busy with the call."""
        arriving = [lanes.ids for lanes in (group.lanes for group in self.fine.groups) if (lanes.left == 1).all()]
        self.iterates.ahead.of_arrivals(arriving)

    def _drop_overtaken(self) -> None:
        """Drops lanes that a lane from a final state has overtaken: nobody waits for them, and they may take long."""
        for lanes in self.propagators:
            if lanes.queue is not None:
                lanes.drop(self.iterates.live.reshape(-1))

    def _from_final(self, tickets: Ints) -> Bools:
        """Which fine lanes started from final states."""
        iterate, place = np.divmod(tickets, self.iterates.live.size)
        system, n = np.divmod(place, self.iterates.layout.slices)
        return (n == self.state.frontier[system]) & (iterate == self.state.current[system, n])

    def _reached(self) -> Ints:
        """Rises with each iteration, ``(M,)``: the iterate of the last boundary, or the frontier of a window."""
        return self.state.frontier if self.parts.windowed else self.state.current[:, self.iterates.layout.end]

    def _decided(self) -> Ints:
        """The value of `_reached` at the last decision, ``(M,)``."""
        return self.state.settled if self.parts.windowed else self.state.counted

    def _decide(self, complete: Ints) -> Floats:
        """Stops systems, and moves their frontiers, after an iteration; returns increments ``(Q, N)``."""
        measured_now, finite = self._measure(complete)
        return self._conclude(complete, measured_now, finite, self.state.frontier[complete])

    def _measure(self, complete: Ints) -> tuple[Figures, Bools]:
        """Increments and the C figures of the rule, and whether the states at the frontiers are finite."""
        last = None if self.parts.windowed else self._reached()
        place, numbers, final, changes = self.iterates.changes.take(complete, last)
        values, finite = measured(self.parts.stop, changes, self.iterates.at_frontier(complete), self.parts.executor)
        # In a window, figures are zero behind the frontier, and NaN where nothing was computed yet.
        layout = self.iterates.layout
        unknown = layout.n >= self.state.settled[complete, None] if self.parts.windowed else None
        return figures(values, complete, place, numbers, final, unknown, layout.slices), finite

    def _conclude(self, complete: Ints, seen: Figures, finite: Bools, frontier: Ints) -> Floats:
        """Decides from the figures of an iteration; ``frontier`` is where the frontiers are now, ``(Q,)``."""
        state = self.state
        state.iteration[complete] += 1  # after the measurement: Ctrl-C often comes while the host waits for the device
        before = state.settled[complete]
        accepted = state.accepted[complete]
        row, n, number, final, values = seen.moved
        state.residuals[complete[row], n] = relative_defects(values, final)
        width, iteration = self.parts.stop.traits.width, state.iteration[complete]
        moved = (row, n, number, final, values[:, :width])
        at = (before, frontier, iteration, values[:, width:-2])
        decision = decided(self.stopping, Seen(complete, seen.grid[..., 1 : 1 + width], *moved, *at))
        if decision.error is not None:
            state.errors[complete] = decision.error
        # A boundary to the right of an accepted one is not proven either.
        state.proven[complete] = np.where(accepted, state.proven[complete], frontier)
        # In this order: after Ctrl-C in between, an accepted frontier must not count as a proven one.
        state.settled[complete] = np.maximum(frontier, decision.accepted)
        state.frontier[complete] = state.settled[complete]
        state.counted[complete] = state.current[complete, self.iterates.layout.end]
        for i, system in enumerate(complete):
            state.end(system, status_of(state, decision, i, system, frontier[i], finite[i], self.fine))
        self._after_decision()
        return seen.grid[..., 0]

    def _after_decision(self) -> None:
        """After frontiers have moved or systems have ended: drops the lanes that are no longer needed."""
        it = self.iterates
        it.look()
        if not it.layout.on_host:
            it.ahead.of_round(self.fine.method.mesh.start, self.parts.rows is not None)
        if self.parts.windowed:
            it.update(wait=False)  # first guesses for the slices that have entered the window
        for lanes in self.propagators:
            lanes.drop(it.live.reshape(-1))
        self.fine.hasten()
