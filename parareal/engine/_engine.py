"""The engine: it lets lanes set out, plays rounds, and decides after each iteration who goes on.

A batch of samples is solved as so many independent systems whose lanes share the rounds. Every system has its own
frontier, iteration and end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.multistep_state import Carried, bare
from parareal._core.trees import State
from parareal.corrections._base import Correction
from parareal.engine._lanes import Flight
from parareal.engine._rounds import Counters, play_round
from parareal.engine._update import Iterates, some
from parareal.executors._base import Executor
from parareal.grid._mesh import Mesh, Span
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import Integrator, Multistep
from parareal.results._status import Status
from parareal.schedules._schedule import Progress, Schedule
from parareal.stopping._rules import StoppingRule
from parareal.stopping._tolerance import Seen, Start, Verdict


class Engine:
    """One run: M systems of N slices.

    Args:
        problem: The problem.
        u0: Initial states as systems, leaves ``(M, *state)``.
        rows: Per-sample data as systems, leaves ``(M, ...)``, or ``None``.
        grid: The time grid.
        fine: The fine propagator.
        correction: The correction.
        schedule: Which lanes set out when.
        executor: How the lanes of a round are evaluated.
        stop: The stopping rule.
        max_iterations: Most iterations; never more than N.
        dense: Whether states behind the frontier are kept.
        block: The slices that are worked on here; see `Edges`.
        start: First iterates in place of guesses, leaves ``(M * (N + 1), *state)``.
    """

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
        start: State = None,
    ) -> None:
        one = trees.one(u0, 0)
        problem = problem.bind(one, grid, fine)
        fine, correction = fine.bind(problem, one, grid), correction.bind(problem, one, grid, fine)
        empty = fine.begin if isinstance(fine, Multistep) and not fine.restart else None
        if empty is not None:
            u0 = Carried(u0, empty(u0))
        self.slides = schedule.width is not None
        if self.slides:
            stop = stop.accepting()
        width = min(schedule.width or grid.num_slices, grid.num_slices)
        mismatch = correction.mismatch(Span(grid.edges, np.arange(grid.num_slices)))
        systems = trees.leaves(u0)[0].shape[0]
        rounding = max(torch.finfo(leaf.dtype).eps for leaf in trees.leaves(bare(u0)))
        self.judge = stop.begin(
            Start(systems, width, mismatch.numpy(), correction.mixing > 0, empty is not None, rounding)
        )
        keep = stop.uses_growth
        self.iterates = Iterates(u0, grid, correction, keep, width, dense, schedule.guess, empty, block, start)
        self.schedule, self.executor, self.stop, self.problem = schedule, executor, stop, problem
        self.remembers = empty is not None
        self.counters = Counters()
        self._rows = rows
        device, coarse = self.iterates.device, correction.propagator
        self._lift = correction.lift if correction.carries else None
        stepped = correction.lifted(problem) if correction.carries else problem
        places = self.iterates.count
        mesh = Mesh.build(grid, fine.steps, device)
        self.fine = Flight(stepped, fine, mesh, remembers=empty is not None, places=places)
        self.fine.final = self._from_final
        self._carries = correction.carries
        self.coarse: Flight | None = None
        if coarse is not None:
            coarse = coarse.bind(problem, one, grid)
            mesh = Mesh.build(grid, coarse.steps or 1, device)
            self.coarse = Flight(problem, coarse, mesh, remember_first=True, places=places)
        self._flights = [flight for flight in (self.coarse, self.fine) if flight is not None]
        self._shares = (
            self.coarse is not None
            and self.coarse.first_function is not None
            and self.coarse.first_function == self.fine.first_function
        )
        systems = self.iterates.systems
        most = grid.num_slices if max_iterations is None else min(max_iterations, grid.num_slices)
        self.iteration, self.most = np.zeros(systems, dtype=np.int64), np.full(systems, most)
        self.decided = np.zeros(systems, dtype=np.int64)  # what `_reached` gave when it was last decided
        self.status: list[Status | None] = [None] * systems
        self.active = np.ones(systems, dtype=bool)
        self.errors = np.full(systems, np.nan)  # estimated at the last edge, in the rule's norm
        self.settled = np.zeros(systems, dtype=np.int64)  # the frontier after the last decision
        self.accepted = np.zeros(systems, dtype=bool)  # the frontier rests on a tolerance, not on the recursion alone
        self.proven = np.zeros(systems, dtype=np.int64)  # where it was before it did
        self.doubtful = np.zeros(systems, dtype=bool)  # all was accepted, but not to within the tolerance
        self.residuals = np.full((systems, grid.num_slices), np.nan)  # relative defects, as they were last seen

    def begin(self) -> None:
        """Makes what guesses cost nothing."""
        self.iterates.update(wait=False)

    def advance(self) -> tuple[Ints, Floats]:
        """Goes on until some systems complete an iteration, and decides about them.

        Returns:
            Their numbers ``(D,)`` and the increments of their slices ``(D, N)``.
        """
        while True:
            self._set_out()
            while not self._collect():
                played = play_round(self._flights, self.executor, self.counters)
                if not (played or self.fine.may_arrive or (self.coarse is not None and self.coarse.may_arrive)):
                    raise RuntimeError(self._stuck())
            # What has just come in may let lanes set out from an edge that is about to move. A window is filled up once
            # it is decided how far it slides, unless guesses come in one by one.
            guessing = not self.slides or self.iterates.guess_waits
            if self.iterates.update(guessing=guessing):
                self._set_out()
                self.iterates.update(wait=False, guessing=guessing)
            for flight in self._flights:
                if flight.queue is not None:  # a lane that a final one has overtaken may take long
                    flight.leave_behind(self.iterates.live.reshape(-1))
            complete = (self.active & (self._reached() > self.decided)).nonzero()[0]
            if len(complete):
                return complete, self._decide(complete)

    def halt(self, status: Status) -> None:
        """Ends the systems that are still going."""
        self.status = [status if known is None else known for known in self.status]
        self.active[:] = False

    def close(self) -> None:
        """Ends the lanes that are still under way."""
        for flight in self._flights:
            flight.close()

    def together(self) -> None:
        """Where several processes have a part of the run each: brings it together; here there is nothing to do."""

    def finish(self) -> None:
        """The run has come to its end."""

    @property
    def spent(self) -> tuple[int, int]:
        """Rounds and evaluations so far."""
        return self.counters.rounds, self.evaluations

    @property
    def evaluations(self) -> int:
        """Evaluations so far."""
        return self.fine.evaluations + self.coarse_evaluations

    @property
    def coarse_evaluations(self) -> int:
        """Those of the correction: of its propagator, or directional derivatives."""
        return self._carries * self.fine.evaluations + (0 if self.coarse is None else self.coarse.evaluations)

    def rows_of(self, system: Ints) -> State:
        """Per-sample data of some systems, if there are any."""
        if self._rows is None:
            return None
        return trees.lanes(self._rows, torch.from_numpy(system).to(self.iterates.device))

    # --- lanes set out and arrive -----------------------------------------------------------------------------------

    def _set_out(self) -> None:
        it = self.iterates
        left = it.held[:, :-1]
        fine_ready = it.live & (left > it.fine_from)
        fine_ready[:, : it.start] = False
        if self._shares:  # the value comes with the coarse lane: asking for it again would cost an evaluation
            fine_ready &= it.first_of == left
        nowhere = None if self.coarse is not None else np.zeros_like(it.live)
        progress = Progress(
            fine_ready=fine_ready,
            fine_busy=it.live & (it.fine_from > it.fine_done),
            coarse_ready=it.live & (left > it.coarse_from) if nowhere is None else nowhere,
            coarse_busy=it.live & (it.coarse_from > it.coarse_done) if nowhere is None else nowhere,
            frontier=it.frontier,
            iteration=self.iteration,
            coarse=self.coarse is not None,
            ahead=left - np.maximum(it.held[:, it.end], 0)[:, None],
        )
        fine, coarse = self.schedule.admit(progress)
        if self.coarse is not None and some(coarse):
            self._launch(self.coarse, coarse, it.coarse_from)
        if some(fine):
            self._launch(self.fine, fine, it.fine_from)

    def _launch(self, flight: Flight, mask: Bools, set_out_from: Ints) -> None:
        it = self.iterates
        system, n = mask.nonzero()
        ids, iterate = system * it.slices + n, it.set_out(mask, set_out_from)
        rows = self.rows_of(system)
        # A copy: a later iterate's value may come in while lanes still hold this one as a stage of their step.
        first = it.first.take(ids, iterate) if flight is self.fine and self._shares else None
        u = it.u.take(ids + system, iterate)
        if flight is not self.fine:
            u = bare(u)
        elif self._lift is not None:
            u = self._lift(u)
        flight.launch(ids + it.count * iterate, n, u, rows, first)

    def _reached(self) -> Ints:
        """What grows when an iteration is complete, ``(M,)``: the iterate at the last edge, or a window's frontier."""
        return self.iterates.frontier if self.slides else self.iterates.held[:, self.iterates.end]

    def _stuck(self) -> str:
        """Why no lane can set out."""
        it = self.iterates
        if self._shares and self.coarse is not None and (it.live & (it.coarse_done > it.first_of)).any():
            return (
                f"{self.coarse.integrator!r} has shares_first_stage=True, but its step did not begin by asking for "
                "(problem.rhs, t0, u) with the very t0 and u that it was given; do that, or set it to False"
            )
        return f"{self.schedule!r} let no lane set out although some were ready"

    def _collect(self) -> bool:
        """Stores what has arrived; returns whether anything has."""
        it = self.iterates
        brought = [(self.fine.take_arrived(self._from_final), it.f, it.fine_done)] if self.fine.may_arrive else []
        if self.coarse is not None and (self.coarse.arrived or self.coarse.first):
            brought += [(self.coarse.first, it.first, it.first_of), (self.coarse.take_arrived(), it.g, it.coarse_done)]
            self.coarse.first = []
        for arrivals, ring, done in brought:
            for tickets, value in arrivals:
                it.store(tickets, value, ring, done)
        return any(arrivals for arrivals, _, _ in brought)

    def _from_final(self, tickets: Ints) -> Bools:
        """Which fine lanes set out from states that are final."""
        it = self.iterates
        iterate, place = np.divmod(tickets, it.count)
        system, n = np.divmod(place, it.slices)
        return (n == it.frontier[system]) & (iterate == it.held[system, n])

    # --- decisions ----------------------------------------------------------------------------------------------

    def _decide(self, complete: Ints) -> Floats:
        """Stops systems, and moves their frontiers, after an iteration; returns increments ``(D, N)``."""
        figures, finite = self._measure(complete)
        return self._conclude(complete, figures, finite, self.iterates.frontier[complete])

    def _conclude(self, complete: Ints, figures: Figures, finite: Bools, frontier: Ints) -> Floats:
        """What follows from the figures of an iteration, in which frontiers have moved as given, ``(D,)``."""
        self.iteration[complete] += 1  # not before all is measured: Ctrl-C often comes while the device is waited for
        it = self.iterates
        iteration = self.iteration[complete]
        before, self.settled[complete] = self.settled[complete], frontier
        row, n, number, final, values = figures.moved
        self._note_residuals(complete[row], n, final, values)
        moved = (row, n, number, final, values[:, :-2])
        verdict = self.judge.decide(Seen(complete, figures.grid[..., 1:-2], *moved, before, frontier, iteration))
        if verdict.error is not None:
            self.errors[complete] = verdict.error
        self.proven[complete] = np.where(self.accepted[complete], self.proven[complete], frontier)
        self.accepted[complete] |= verdict.accepted > frontier
        it.frontier[complete] = np.maximum(frontier, verdict.accepted)
        self.settled[complete] = it.frontier[complete]
        self.decided[complete] = self._reached()[complete]
        for i, system in enumerate(complete):
            self.status[system] = self._status(verdict, i, system, frontier[i], finite[i])
            self.active[system] = self.status[system] is None
        self._go_on()
        return figures.grid[..., 0]

    def _note_residuals(self, system: Ints, n: Ints, final: Bools, values: Floats) -> None:
        """What the changes of an iteration show of boundaries: a final one is what the fine propagator makes of it."""
        defect, size = values[:, -2], values[:, -1]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            relative = np.where(final | (defect == 0), 0.0, defect / size)
        self.residuals[system, n] = relative

    def _go_on(self) -> None:
        """Who goes on has been decided."""
        it = self.iterates
        it.go_on(self.active)
        if self.slides:
            it.update(wait=False)  # first guesses for the slices that have come into the window
        for flight in self._flights:
            flight.leave_behind(it.live.reshape(-1))
        self.fine.hasten()

    def _status(self, verdict: Verdict, i: int, system: int, frontier: int, finite: bool) -> Status | None:
        if not finite:
            return Status.UNSOLVED if self.fine.integrator.implicit else Status.NONFINITE
        if frontier == self.iterates.slices and not self.accepted[system]:
            return Status.FINAL
        if frontier == self.iterates.slices or (verdict.stop[i] and verdict.converged[i]):
            self.doubtful[system] = verdict.sound is not None and not verdict.sound[i]
            return Status.UNCERTAIN if self.doubtful[system] else Status.CONVERGED
        if verdict.stop[i]:
            return Status.ITERATIONS
        return Status.MAX_ITERATIONS if self.iteration[system] >= self.most[system] else None

    def _measure(self, complete: Ints) -> tuple[Figures, Bools]:
        """Increments and the C figures of the rule, and whether frontiers are finite.

        All of it comes in one transfer from the device.
        """
        last = None if self.slides else self._reached()
        ids, numbers, final, changes = self.iterates.changes.take(complete, last)
        kind = self.stop.norm
        columns = [changes.norm("increment", kind), *self.stop.measure(changes)]
        columns += [changes.norm("defect", kind), changes.norm("size", kind)]
        front = self.iterates.at_frontier(complete)
        finite = [(leaf - leaf == 0).reshape(len(complete), -1).all(1) for leaf in trees.leaves(front)]
        packed = self.executor.agree(torch.cat([*columns, torch.stack(finite).all(0)]).cpu()).numpy()
        slices = self.iterates.slices
        values = packed[: -len(complete)].reshape(len(columns), -1).T
        grid = np.zeros((len(complete), slices, len(columns)))
        if self.slides:  # zero where nothing is computed any more, NaN where nothing was computed yet
            grid[self.iterates.n >= self.decided[complete, None]] = np.nan
        row, n = np.searchsorted(complete, ids // slices), ids % slices
        grid[row, n] = values
        return Figures(grid, (row, n, numbers, final, values[:, 1:])), packed[-len(complete) :] > 0


class Figures(NamedTuple):
    """What was measured: of each slice's right edge, ``(D, N, 1 + C + 2)``, and of each change as it came; see `Seen`.

    The increment comes first, then what the stopping rule asks for, then the defect and the size of the iterate.
    """

    grid: Floats
    moved: tuple[Ints, Ints, Ints, Bools, Floats]
