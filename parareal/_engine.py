"""The engine: the one place that knows the recursion and the frontier.

With U_n^k the state at edge n after k iterations,

    U_{n+1}^{k+1} = F_n(U_n^k) + [ G_n(U_n^{k+1}) - G_n(U_n^k) ],

or F_n(U_n^k) alone where U_n^k was already final: then the right edge is final too, and the frontier moves. That is
why the first k edges are the sequential solution after k iterations whatever G does.

A batch of samples is solved as so many independent systems whose lanes share the rounds. Every system has its own
frontier, iteration and end; rows of all buffers are numbered system by system.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from parareal import _tree
from parareal._changes import Changes
from parareal._correction import Correction, Known
from parareal._executor import Executor
from parareal._flight import Counters, Flight, play_round
from parareal._grid import Mesh, Span, TimeGrid
from parareal._schedule import Bools, Ints, Progress, Schedule
from parareal._solution import Status
from parareal._stop import Floats, StoppingRule, Verdict
from parareal._store import Ring
from parareal._tree import State
from parareal.integrators import Integrator


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
        max_iterations: Most iterations, at most N.
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
        max_iterations: int,
    ) -> None:
        leaf = _tree.leaves(u0)[0]
        self.systems, self.slices, self.device = leaf.shape[0], grid.num_slices, leaf.device
        self.correction, self.schedule, self.executor = correction, schedule, executor
        self.stop, self.max_iterations = stop, max_iterations
        self._rows = rows
        self._edges = grid.edges.to(self.device)
        self.counters = Counters()
        self.fine = Flight(problem, fine, Mesh.build(grid, fine.steps, self.device))
        coarse = correction.propagator
        self.coarse: Flight | None = None
        if coarse is not None:
            self.coarse = Flight(problem, coarse, Mesh.build(grid, coarse.steps or 1, self.device), remember_first=True)
        self._flights = [flight for flight in (self.coarse, self.fine) if flight is not None]
        self._shares = coarse is not None and coarse.shares_first_stage and fine.shares_first_stage
        self._allocate(u0)

    def _allocate(self, u0: State) -> None:
        shape, self._count = (self.systems, self.slices), self.systems * self.slices
        start = np.arange(self.systems) * (self.slices + 1)
        self.u = Ring(u0, self.systems * (self.slices + 1), 2 if self.correction.uses_input else 1)
        self.u.put(start, np.zeros_like(start), u0)
        self.f = Ring(u0, self._count)
        if self.coarse is not None:
            self.g = Ring(u0, self._count, 2)
            self.first = Ring(u0, self._count)
        self._n = np.arange(self.slices)
        # Numbers of iterates, -1 for none: held at an edge; set out from, and done with, by fine and coarse lanes.
        self.held = np.full((self.systems, self.slices + 1), -1)
        self.held[:, 0] = 0
        self.fine_from, self.fine_done, self.coarse_from, self.coarse_done, self.first_of = (
            np.full(shape, -1) for _ in range(5)
        )
        self.frontier = np.zeros(self.systems, dtype=np.int64)
        self.iteration = np.zeros(self.systems, dtype=np.int64)
        self.decided = np.zeros(self.systems, dtype=np.int64)  # the iterate at the last edge that was decided about
        self.status: list[Status | None] = [None] * self.systems
        self.active = np.ones(self.systems, dtype=bool)
        self._live = np.ones(shape, dtype=bool)  # slices of active systems from the frontier on
        self._none = np.zeros(shape, dtype=bool)
        self._changes = Changes(self.slices)

    def begin(self) -> None:
        """Makes what guesses cost nothing."""
        self._update_edges(wait=False)

    def advance(self) -> tuple[Ints, Floats]:
        """Goes on until some systems complete an iteration, and decides about them.

        Returns:
            Their numbers ``(D,)`` and the increments of their slices ``(D, N)``.
        """
        while True:
            self._set_out()
            while not self._collect():
                if not play_round(self._flights, self.executor, self.counters):
                    raise RuntimeError(f"{self.schedule!r} let no lane set out although some were ready")
            if self._update_edges():  # what has just come in may let lanes set out from an edge that is about to move
                self._set_out()
                self._update_edges(wait=False)
            complete = (self.active & (self.held[:, -1] > self.decided)).nonzero()[0]
            if len(complete):
                return complete, self._decide(complete)

    def halt(self, status: Status) -> None:
        """Ends the systems that are still going."""
        self.status = [status if known is None else known for known in self.status]
        self.active[:] = False

    @property
    def iterates(self) -> State:
        """What the edges hold, system by system, leaves ``(M * (N + 1), *state)``; NaN where they hold nothing yet."""
        edges = np.arange(self.held.size)
        return self.u.peek(edges, np.maximum(self.held.reshape(-1), 0))

    @property
    def evaluations(self) -> int:
        """Evaluations so far."""
        return self.fine.evaluations + (0 if self.coarse is None else self.coarse.evaluations)

    def _look(self) -> None:
        self._live = self.active[:, None] & (self._n >= self.frontier[:, None])

    # --- lanes set out and arrive -------------------------------------------------------------------------------

    def _set_out(self) -> None:
        left, live = self.held[:, :-1], self._live
        fine_ready = live & (left > self.fine_from)
        if self._shares:  # the value comes with the coarse lane: asking for it again would cost an evaluation
            fine_ready &= self.first_of == left
        none, free = self._none, self.coarse is None
        progress = Progress(
            fine_ready=fine_ready,
            fine_busy=live & (self.fine_from > self.fine_done),
            coarse_ready=none if free else live & (left > self.coarse_from),
            coarse_busy=none if free else live & (self.coarse_from > self.coarse_done),
            frontier=self.frontier,
            iteration=self.iteration,
        )
        fine, coarse = self.schedule.admit(progress)
        if self.coarse is not None and some(coarse):
            self._launch(self.coarse, coarse, self.coarse_from)
        if some(fine):
            self._launch(self.fine, fine, self.fine_from)

    def _launch(self, flight: Flight, mask: Bools, set_out_from: Ints) -> None:
        system, n = mask.nonzero()
        ids, iterate = system * self.slices + n, self.held[:, :-1][mask]
        set_out_from[mask] = iterate
        rows = None
        if self._rows is not None:
            rows = _tree.lanes(self._rows, torch.from_numpy(system).to(self.device))
        # A copy: a later iterate's value may come in while lanes still hold this one as a stage of their step.
        first = self.first.take(ids, iterate) if flight is self.fine and self._shares else None
        # A ticket tells the place, ticket % count, and the iterate, ticket // count.
        flight.launch(ids + self._count * iterate, n, self.u.take(ids + system, iterate), rows, first)

    def _collect(self) -> bool:
        """Stores what has arrived; returns whether anything has."""
        any_arrived = bool(self.fine.arrived)
        if self.coarse is not None and (self.coarse.arrived or self.coarse.first):
            any_arrived = True
            self._store(self.coarse.first, self.first, self.first_of, keep=False)
            self._store(self.coarse.arrived, self.g, self.coarse_done)
        self._store(self.fine.arrived, self.f, self.fine_done)
        return any_arrived

    def _store(self, arrivals: list[tuple[Ints, State]], ring: Ring, done: Ints, keep: bool = True) -> None:
        for tickets, value in arrivals:
            iterate, ids = np.divmod(tickets, self._count)
            done.reshape(-1)[ids] = iterate
            oldest = None
            if keep:  # the right edge has still to take its next iterate from the one that it holds
                oldest = np.maximum(self.held.reshape(-1)[ids + ids // self.slices + 1], 0)
            ring.put(ids, iterate, value, oldest)
        arrivals.clear()

    # --- the recursion ------------------------------------------------------------------------------------------

    def _update_edges(self, wait: bool = True) -> bool:
        """Moves on every edge that can; returns whether one waits for lanes to set out from it first."""
        while True:
            *ready, waiting = self._ready(wait)
            again = False
            for mask, recursion in zip(ready, (self._guess, self._finish, self._refine), strict=True):
                if some(mask):
                    recursion(*mask.nonzero())
                    # Without a coarse propagator to wait for, and after a guess, an edge may move on at once.
                    again |= self.coarse is None or recursion == self._guess
            if not again:
                return some(waiting)

    def _ready(self, wait: bool) -> tuple[Bools, Bools, Bools, Bools]:
        """Slices ``(M, N)`` whose right edge can take a first guess, its final state, or its next iterate.

        An edge keeps its iterate until the lanes of the slice on its right have set out from it; without ``wait`` a
        final state does not wait for them. The last mask holds the edges that only this keeps back.
        """
        left, right = self.held[:, :-1], self.held[:, 1:]
        new = left if self.coarse is None else self.coarse_done
        guess = self._live & (new > right) & (right < 0)
        solved = self._live & (self.fine_done >= right) & (right >= 0)
        final = solved & (self._n == self.frontier[:, None]) & (self.fine_done == left)
        used = self.fine_from if self.coarse is None else np.minimum(self.fine_from, self.coarse_from)
        kept = self._none.copy()
        kept[:, :-1] = used[:, 1:] < right[:, :-1]
        refined = solved & (new > right) & ~final
        return guess, final & ~kept if wait else final, refined & ~kept, (final | refined) & kept

    def _guess(self, system: Ints, n: Ints) -> None:
        """U_{n+1}^0 from U_n^0."""
        ids, edge = system * self.slices + n, system * (self.slices + 1) + n
        iterate = np.zeros_like(n)
        u = self.u.peek(edge, iterate)
        g = None if self.coarse is None else self.g.peek(ids, iterate)
        value = _tree.finite_or(self.correction.guess(Span(self._edges, n), Known(u, g)), u)
        self._write(system, n, iterate, value)

    def _finish(self, system: Ints, n: Ints) -> None:
        """U_{n+1} = F_n(U_n) where U_n is final: then so is U_{n+1}."""
        f = self.f.take(system * self.slices + n, self.held[system, n])
        k = self.held[system, n + 1]  # where coarse lanes are as slow as fine ones, this may overtake an iterate
        self._change(system, n, k + 1, f, f)
        self._write(system, n, k + 1, f)
        self.frontier[system] = n + 1
        self._look()

    def _refine(self, system: Ints, n: Ints) -> None:
        """U_{n+1}^{k+1} = F_n(U_n^k) + [G_n(U_n^{k+1}) - G_n(U_n^k)], or another correction in the brackets."""
        ids, k = system * self.slices + n, self.held[system, n + 1]
        f = self.f.take(ids, k) if self.stop.uses_defect else self.f.peek(ids, k)
        new, old = self._known(system, n, k + 1), self._known(system, n, k)._replace(f=f)
        change = self.correction.difference(Span(self._edges, n), new, old)
        value = self.f.take(ids, k) if change is None else _tree.add(f, change)
        held = self._change(system, n, k + 1, value, f if self.stop.uses_defect else value)
        self._write(system, n, k + 1, _tree.finite_or(value, held))

    def _known(self, system: Ints, n: Ints, iterate: Ints) -> Known:
        u = self.u.peek(system * (self.slices + 1) + n, iterate) if self.correction.uses_input else None
        return Known(u, None if self.coarse is None else self.g.peek(system * self.slices + n, iterate))

    def _change(self, system: Ints, n: Ints, iterate: Ints, value: State, fine: State) -> State:
        """Notes what the right edges held and what they are to hold; returns the former."""
        held = self.u.take(system * (self.slices + 1) + n + 1, self.held[system, n + 1])
        self._changes.add(system * self.slices + n, iterate, value, held, fine)
        return held

    def _write(self, system: Ints, n: Ints, iterate: Ints, value: State) -> None:
        oldest = None
        if self.correction.uses_input:  # the slice on the right looks back to what its right edge came from
            oldest = np.maximum(self.held[system, np.minimum(n + 2, self.slices)], 0)
            oldest = np.where(n + 1 == self.slices, iterate, np.minimum(oldest, iterate))
        self.u.put(system * (self.slices + 1) + n + 1, iterate, value, oldest)
        self.held[system, n + 1] = iterate

    # --- decisions ----------------------------------------------------------------------------------------------

    def _decide(self, complete: Ints) -> Floats:
        """Stops systems, and moves their frontiers, after an iteration; returns increments ``(D, N)``."""
        self.iteration[complete] += 1
        self.decided[complete] = self.held[complete, -1]
        figures, finite = self._measure(complete)
        iteration, frontier = self.iteration[complete], self.frontier[complete]
        verdict = self.stop.decide(figures[..., 1:], self._n < frontier[:, None], iteration)
        self.frontier[complete] = np.maximum(frontier, verdict.accepted)
        for i, system in enumerate(complete):
            self.status[system] = self._status(verdict, i, iteration[i], frontier[i], finite[i])
            self.active[system] = self.status[system] is None
        self._look()
        for flight in self._flights:
            flight.leave_behind(self._live.reshape(-1))
        return figures[..., 0]

    def _status(self, verdict: Verdict, i: int, iteration: int, frontier: int, finite: bool) -> Status | None:
        if not finite:
            return Status.NONFINITE
        if frontier == self.slices:
            return Status.FINAL
        if verdict.stop[i]:
            return Status.CONVERGED if verdict.converged[i] else Status.ITERATIONS
        return Status.MAX_ITERATIONS if iteration >= self.max_iterations else None

    def _measure(self, complete: Ints) -> tuple[Floats, Bools]:
        """Increments and the C figures of the stopping rule, ``(D, N, 1 + C)``, and whether frontiers are finite.

        All of it comes in one transfer from the device.
        """
        ids, changes = self._changes.take(complete, self.decided)
        columns = [changes.norm("increment", self.stop.norm), *self.stop.measure(changes)]
        edge = complete * (self.slices + 1) + self.frontier[complete]
        front = self.u.peek(edge, self.held.reshape(-1)[edge])
        finite = [(leaf - leaf == 0).reshape(len(edge), -1).all(1) for leaf in _tree.leaves(front)]
        packed = torch.cat([*columns, torch.stack(finite).all(0)]).cpu().numpy()
        figures = np.zeros((len(complete), self.slices, len(columns)))
        row = np.searchsorted(complete, ids // self.slices)
        figures[row, ids % self.slices] = packed[: -len(edge)].reshape(len(columns), -1).T
        return figures, packed[-len(edge) :] > 0


def some(mask: Bools) -> bool:
    """``mask.any()`` for small masks, several times as fast."""
    return bool(np.count_nonzero(mask))
