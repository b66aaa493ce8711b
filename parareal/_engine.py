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
from torch import Tensor

from parareal import _tree
from parareal._correction import Correction, Known
from parareal._executor import Executor
from parareal._flight import Counters, Flight, play_round
from parareal._grid import Mesh, TimeGrid
from parareal._norm import Change
from parareal._schedule import Bools, Ints, Progress, Schedule
from parareal._solution import Status
from parareal._stop import Floats, StoppingRule, Verdict
from parareal._store import Rows
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
        self._allocate(u0)

    def _allocate(self, u0: State) -> None:
        shape, count = (self.systems, self.slices), self.systems * self.slices
        self.u = Rows(u0, self.systems * (self.slices + 1))
        self.u.put(np.arange(self.systems) * (self.slices + 1), u0)
        self.f = Rows(u0, count)
        self.x = Rows(u0, count) if self.correction.uses_input else None
        if self.coarse is not None:
            self.g = Rows(u0, 2 * count)  # of two iterates, the even and the odd one
            self.first = Rows(u0, count)
        # Numbers of iterates, -1 for none: held at an edge; set out from, and done with, by fine and coarse lanes.
        self._n = np.arange(self.slices)
        self.held = np.full((self.systems, self.slices + 1), -1)
        self.held[:, 0] = 0
        self.fine_from, self.fine_done, self.coarse_from, self.coarse_done, self.first_of = (
            np.full(shape, -1) for _ in range(5)
        )
        self.exact = np.zeros(shape, dtype=bool)  # the fine lane set out from a final state
        self.frontier = np.zeros(self.systems, dtype=np.int64)
        self.iteration = np.zeros(self.systems, dtype=np.int64)
        self.status: list[Status | None] = [None] * self.systems
        self.active = np.ones(self.systems, dtype=bool)
        self._changes: list[tuple[Ints, State, State, State]] = []

    def begin(self) -> None:
        """Makes what guesses cost nothing."""
        self._update_edges()

    def advance(self) -> tuple[Ints, Floats]:
        """Goes on until some systems complete an iteration, and decides about them.

        Returns:
            Their numbers ``(D,)`` and the increments of their slices ``(D, N)``.
        """
        flights = [flight for flight in (self.coarse, self.fine) if flight is not None]
        while True:
            self._set_out()
            while not self._collect():
                if not play_round(flights, self.executor, self.counters):
                    raise RuntimeError(f"{self.schedule!r} let no lane set out although some were ready")
            complete = self._update_edges()
            if len(complete):
                return complete, self._decide(complete)

    def halt(self, status: Status) -> None:
        """Ends the systems that are still going."""
        self.status = [status if known is None else known for known in self.status]
        self.active[:] = False

    @property
    def evaluations(self) -> int:
        """Evaluations so far."""
        return self.fine.evaluations + (0 if self.coarse is None else self.coarse.evaluations)

    # --- lanes set out and arrive -------------------------------------------------------------------------------

    def _set_out(self) -> None:
        live = self.active[:, None] & (self._n >= self.frontier[:, None])
        left = self.held[:, :-1]
        none = np.zeros_like(live)
        free = self.coarse is None
        progress = Progress(
            fine_ready=live & (left > self.fine_from),
            fine_busy=self.fine_from > self.fine_done,
            coarse_ready=none if free else live & (left > self.coarse_from),
            coarse_busy=none if free else self.coarse_from > self.coarse_done,
            frontier=self.frontier,
            iteration=self.iteration,
        )
        fine, coarse = self.schedule.admit(progress)
        if self.coarse is not None and coarse.any():
            self.coarse_from[coarse] = left[coarse]
            self._launch(self.coarse, coarse)
        if fine.any():
            self.fine_from[fine] = left[fine]
            self.exact[fine] = (self._n == self.frontier[:, None])[fine]
            shared = fine & (self.first_of == left)
            for mask, first in ((shared, True), (fine & ~shared, False)):
                if mask.any():
                    self._launch(self.fine, mask, first)

    def _launch(self, flight: Flight, mask: Bools, first: bool = False) -> None:
        system, n = mask.nonzero()
        ids = system * self.slices + n
        u = self.u.take(ids + system)
        if flight is self.fine and self.x is not None:
            self.x.put(ids, u)
        rows = None
        if self._rows is not None:
            rows = _tree.lanes(self._rows, torch.from_numpy(system).to(self.device))
        flight.launch(ids, n, u, rows, self.first.peek(ids) if first else None)

    def _collect(self) -> bool:
        """Stores what has arrived; returns whether anything has."""
        any_arrived = bool(self.fine.arrived)
        if self.coarse is not None:
            any_arrived |= bool(self.coarse.arrived)
            for ids, value in self.coarse.first:
                self.first.put(ids, value)
                self.first_of.flat[ids] = self.coarse_from.flat[ids]
            for ids, g in self.coarse.arrived:
                iterate = self.coarse_done.flat[ids] = self.coarse_from.flat[ids]
                self.g.put(self._g_rows(ids, iterate), g)
            self.coarse.first.clear()
            self.coarse.arrived.clear()
        for ids, f in self.fine.arrived:
            self.fine_done.flat[ids] = self.fine_from.flat[ids]
            self.f.put(ids, f)
        self.fine.arrived.clear()
        return any_arrived

    def _g_rows(self, ids: Ints, iterate: Ints) -> Ints:
        return ids + (iterate & 1) * (self.systems * self.slices)

    # --- the recursion ------------------------------------------------------------------------------------------

    def _update_edges(self) -> Ints:
        """Moves on every edge that can; returns the systems that have completed an iteration."""
        while (ready := self._ready()).any():
            for mask in (ready & self.exact, ready & ~self.exact):
                if mask.any():
                    self._update(*mask.nonzero())
            if self.coarse is not None:
                break  # what follows waits for the coarse propagator; without one the next edge can move at once
        return (self.active & (self.held[:, -1] > self.iteration)).nonzero()[0]

    def _ready(self) -> Bools:
        """Slices ``(M, N)`` from which the right edge can take its next iterate."""
        right = self.held[:, 1:]
        new = self.held[:, :-1] if self.coarse is None else self.coarse_done
        guess = (right < 0) & (new >= 0)
        refined = (right >= 0) & (self.fine_done == right) & (self.exact | (new > right))
        return (guess | refined) & self.active[:, None]

    def _update(self, system: Ints, n: Ints) -> None:
        """The recursion, on the right edges of L slices, all from a final state or none."""
        ids, edge = system * self.slices + n, system * (self.slices + 1) + n
        iterate = self.held[system, n + 1]
        at, new = Span(self._edges, n), self._known(ids, edge, iterate + 1)
        if iterate[0] < 0:
            held = new.u if self.x is not None else self.u.peek(edge)
            self._write(system, n, _tree.finite_or(self.correction.guess(at, new), held))
            return
        old_end = self.u.take(edge + 1)
        if self.exact[system[0], n[0]]:
            self.frontier[system] = n + 1
            f = value = kept = self.f.take(ids)
        else:
            f = self.f.take(ids) if self.stop.uses_defect else self.f.peek(ids)
            u = None if self.x is None else self.x.peek(ids)
            old = Known(u, None if self.coarse is None else self.g.peek(self._g_rows(ids, iterate)), f)
            change = self.correction.difference(at, new, old)
            value = self.f.take(ids) if change is None else _tree.add(f, change)
            kept = _tree.finite_or(value, old_end)
        self._write(system, n, kept)
        self._changes.append((ids, value, old_end, f if self.stop.uses_defect else value))

    def _known(self, ids: Ints, edge: Ints, iterate: Ints) -> Known:
        u = None if self.x is None else self.u.peek(edge)
        return Known(u, None if self.coarse is None else self.g.peek(self._g_rows(ids, iterate)))

    def _write(self, system: Ints, n: Ints, value: State) -> None:
        self.u.put(system * (self.slices + 1) + n + 1, value)
        self.held[system, n + 1] += 1

    # --- decisions ----------------------------------------------------------------------------------------------

    def _decide(self, complete: Ints) -> Floats:
        """Stops systems, and moves their frontiers, after an iteration; returns increments ``(D, N)``."""
        self.iteration[complete] += 1
        figures = self._measure(complete)
        iteration, frontier = self.iteration[complete], self.frontier[complete]
        known = self._n < frontier[:, None]
        verdict = self.stop.decide(figures[..., 2:], known, iteration)
        self.frontier[complete] = np.maximum(frontier, verdict.accepted)
        for i, system in enumerate(complete):
            self.status[system] = self._status(verdict, i, iteration[i], frontier[i], figures[i])
            self.active[system] = self.status[system] is None
        return figures[..., 0]

    def _status(self, verdict: Verdict, i: int, iteration: int, frontier: int, figures: Floats) -> Status | None:
        if not np.isfinite(figures[frontier - 1, 1]):
            return Status.NONFINITE
        if frontier == self.slices:
            return Status.FINAL
        if verdict.stop[i]:
            return Status.CONVERGED if verdict.converged[i] else Status.ITERATIONS
        return Status.MAX_ITERATIONS if iteration >= self.max_iterations else None

    def _measure(self, complete: Ints) -> Floats:
        """Figures ``(D, N, 2 + C)`` of the iteration: increment, size, and the C of the stopping rule."""
        ids = np.concatenate([change[0] for change in self._changes])
        new, old, fine = (_tree.cat([change[i] for change in self._changes]) for i in (1, 2, 3))
        chosen = np.isin(ids // self.slices, complete)
        self._changes = []
        if not chosen.all():
            later, now = (torch.from_numpy(mask.nonzero()[0]).to(self.device) for mask in (~chosen, chosen))
            self._changes = [(ids[~chosen], *(_tree.lanes(part, later) for part in (new, old, fine)))]
            ids, (new, old, fine) = ids[chosen], (_tree.lanes(part, now) for part in (new, old, fine))
        change = Change(new, old, fine)
        columns = [change.norm("increment", self.stop.norm), change.norm("size", self.stop.norm)]
        columns += self.stop.measure(change)
        figures = np.zeros((len(complete), self.slices, len(columns)))
        figures[np.searchsorted(complete, ids // self.slices), ids % self.slices] = (
            torch.stack(columns, -1).cpu().numpy()
        )
        return figures


class Span:
    """The slices of L lanes: where each starts and ends, looked up only when asked for."""

    def __init__(self, edges: Tensor, n: Ints) -> None:
        self._edges, self._n = edges, n

    @property
    def t0(self) -> Tensor:
        """Times at the left edges, float64, shape ``(L,)``."""
        return self._edges[torch.from_numpy(self._n).to(self._edges.device)]

    @property
    def t1(self) -> Tensor:
        """Times at the right edges, float64, shape ``(L,)``."""
        return self._edges[torch.from_numpy(self._n + 1).to(self._edges.device)]
