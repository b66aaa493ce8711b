"""The recursion: how every edge takes its next iterate.

With U_n^k the state at edge n after k iterations,

    U_{n+1}^{k+1} = F_n(U_n^k) + [ G_n(U_n^{k+1}) - G_n(U_n^k) ],

or F_n(U_n^k) alone where U_n^k was already final: then the right edge is final too, and the frontier moves. That is
why the first k edges are the sequential solution after k iterations whatever G does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.multistep_state import Carried, Memory, bare, follow
from parareal._core.ring_buffer import Ring
from parareal._core.trees import State
from parareal.corrections._base import Correction, Edge, Known, Sweep
from parareal.engine._readiness import Edges, Runs, some
from parareal.grid._mesh import Span
from parareal.grid._time_grid import TimeGrid
from parareal.problem._lane_calls import check_like
from parareal.results._record import Recorder
from parareal.schedules._schedule import Guess
from parareal.stopping._increments import Changes


class Iterates(Edges):
    """The states on the edges of M systems of N slices.

    Args:
        u0: Initial states, leaves ``(M, *state)``.
        grid: The time grid.
        correction: What stands in the brackets of the recursion.
        keep_earlier: Whether fine solutions are kept for one iterate more, for what a stopping rule makes of them.
        width: Most slices that are worked on at a time, from the frontier on.
        dense: Whether states behind the frontier are kept.
        guess: First guesses in place of the correction's own.
        empty: Gives the empty memory that first guesses have, where states carry the memory of a multistep method.
        block: The slices that are worked on; see `Edges`.
        start: First iterates in place of guesses, leaves ``(M * (N + 1), *state)``.
    """

    def __init__(
        self,
        u0: State,
        grid: TimeGrid,
        correction: Correction,
        keep_earlier: bool,
        width: int,
        dense: bool,
        guess: Guess | None,
        empty: Callable[[State], Memory] | None = None,
        block: tuple[int, int] | None = None,
        start: State = None,
    ) -> None:
        traits = self.traits = correction.traits
        coarse = traits.propagator is not None
        lookback = max(traits.lookback, int(empty is not None or keep_earlier))
        super().__init__(u0, grid.num_slices, width, lookback, coarse, guess is None and start is None, block)
        self.correction, self._own_guess = correction, guess
        self._keep_earlier, self._start = keep_earlier, start
        self._times = grid.edges.to(self.device)
        self._u0, self._dense, self._empty = u0, dense, empty
        systems, slices = self.systems, self.slices
        self._by_run = traits.stacked or guess is not None or start is not None
        self.u = Ring(u0, systems, slices + 1, None if dense else width + 3, 2 if traits.uses_input else 1)
        start = np.arange(systems) * (slices + 1)
        self.u.put(start, np.zeros_like(start), u0)
        self._carries = traits.carries > 0
        width = min(width, max(1, self.end - self.start))
        self.f = Ring(correction.lift(u0) if self._carries else u0, systems, slices, width)
        if coarse:
            self.g = Ring(bare(u0), systems, slices, width, 2)
            self.first = Ring(bare(u0), systems, slices, width)
        if traits.mixing:
            self.update_of = Ring(bare(u0), systems, slices + 1, width + 2, traits.mixing + 1)
            self.born = np.zeros((systems, slices + 1), dtype=np.int64)  # the first iterate of each edge
        self.changes = Changes(slices)
        self._recorder: Recorder | None = None

    def put_back(self, u: State, reached: Bools, number: Ints, frontier: Ints) -> None:
        """Edges marked in ``reached`` hold ``u``, leaves ``(M * (N + 1), *state)``, as iterates of the number given."""
        edges, front = np.arange(self.slices + 1), frontier[:, None]
        if self.width < self.slices:  # first guesses for what comes into a window are made from what is there then
            reached = reached & (edges <= front + self.width)
        stored = reached if self._dense else reached & (edges >= front - 2)
        ids = stored.reshape(-1).nonzero()[0]
        numbers = np.repeat(number, self.slices + 1)[ids]
        self.u.put(ids, numbers, trees.lanes(u, torch.from_numpy(ids).to(self.device)))
        self.held, self.frontier = np.where(reached, number[:, None], -1), frontier.copy()
        if self.traits.mixing:
            self.born[:] = number[:, None]
        self.look()

    def record(self, recorder: Recorder) -> None:
        """From now on all iterates and solutions are recorded, with what the edges hold now."""
        self._recorder = recorder
        new = self.held >= 0
        if recorder.goes_on:  # final edges are in the record before; nothing sets out from those on the frontier's left
            new &= np.arange(self.slices + 1) >= self.frontier[:, None]
        ids = new.reshape(-1).nonzero()[0]
        iterate = self.held.reshape(-1)[ids]
        recorder.add("u", ids, iterate, self.u.peek(ids, iterate))

    # --- what is known ----------------------------------------------------------------------------------------------

    @property
    def states(self) -> State:
        """What the edges hold, system by system, leaves ``(M * (N + 1), *state)``; NaN where they hold nothing yet.

        Without ``dense`` the first edge and that of `reached` alone, ``(M * 2, *state)``.
        """
        if self._dense:
            return self.u.peek(np.arange(self.held.size), np.maximum(self.held.reshape(-1), 0))
        edge = np.arange(self.systems) * (self.slices + 1) + self.reached
        last = self.u.peek(edge, self.held.reshape(-1)[edge])
        return trees.join(trees.stack([self._u0, last], 1))

    @property
    def reached(self) -> Ints:
        """The last edge of each system, or where a run cut short has not come so far, that of its frontier."""
        return np.where(self.held[:, -1] >= 0, self.slices, self.frontier)

    def at_frontier(self, systems: Ints) -> State:
        """The last states known final, of some systems, leaves ``(D, *state)``."""
        edge = systems * (self.slices + 1) + self.frontier[systems]
        return self.u.peek(edge, self.held.reshape(-1)[edge])

    def store(self, tickets: Ints, value: State, ring: Ring, done: Ints) -> None:
        """Keeps what lanes brought."""
        ids, iterate, oldest = self.arrived(tickets, done)
        ring.put(ids, iterate, value, oldest)
        if self._recorder is not None and done is not self.first_of:
            if done is self.fine_done:
                self._recorder.add("fine", ids, iterate, value[0] if self._carries else value)
            else:
                self._recorder.add("coarse", ids, iterate, value)

    def _known(self, system: Ints, n: Ints, iterate: Ints, memory: int = -1) -> Known:
        """What is known of slices at an iterate; from ``memory`` of 0 on also fine values and iterates before."""
        at, place = iterate, system * self.slices + n
        u = bare(self.u.peek(place + system, at)) if self.traits.uses_input else None
        g = None if self.free else self.g.peek(place, at)
        if memory < 0:
            return Known(u, g)
        before = None
        if memory > 0:  # where there is none, the iterate itself stands in: a difference of zero
            before = self._known(system, n, np.maximum(iterate - 1, self.since[system, n]), memory - 1)
        # Tangents are factors, which autograd keeps: they must not lie where the next ones will be written.
        f, tangents = self.f.take(place, at) if self._carries else (self.f.peek(place, at), None)
        return Known(u, g, bare(f), tangents, before)

    # --- moving -----------------------------------------------------------------------------------------------------

    def update(self, wait: bool = True, guessing: bool = True) -> bool:
        """Moves on every edge that can; returns whether one waits for lanes to set out from it first."""
        while True:
            guess, final, refined, waiting = self.moves(wait)
            if not guessing:
                guess = self.none
            if some(guess) and not (self.width < self.slices and some(final | refined)):  # first what it starts from
                self._guess(guess)
            if some(final):
                self._finish(*final.nonzero())
            if self.traits.stacked:
                if some(refined) and (rows := self.runs_from(refined)) is not None:
                    self._refine_runs(rows)
            elif some(refined):
                self._refine(*refined.nonzero())
            # Without a coarse propagator to wait for, and after a guess, an edge may move on at once.
            if not (some(guess) or (self.free and some(final | refined))):
                return some(waiting)

    def _guess(self, guess: Bools) -> None:
        """The first iterates of right edges: one after another, or all those of the live slices at once."""
        if self._start is not None:
            self._take_start(guess)
            return
        if not self._by_run:
            system, n = guess.nonzero()
            iterate = self.held[system, n] if self.free else self.coarse_done[system, n]
            known = self._known(system, n, iterate)
            u = bare(self.u.peek(system * (self.slices + 1) + n, iterate))
            value = check_like(self.correction.guess(Span(self._times, n), known._replace(u=u)), u, "the guess")
        else:
            rows = self.runs_to_guess(guess)
            start = rows.n[:, 0]
            edge, iterate = rows.system * (self.slices + 1) + start, self.held[rows.system, start]
            u, at = bare(self.u.peek(edge, iterate)), Span(self._times, rows.n)
            before: list[Edge] = []
            for back in (1, 2) if some(start > 0) else ():
                n = np.maximum(start - back, 0)
                there = bare(self.u.peek(edge - start + n, self.held[rows.system, n]))
                before.append(Edge(self._times_at(n), there))
            value = (self._own_guess or self.correction.guess_run)(at, u, tuple(before))
            system, n = rows.flat()
            iterate = np.repeat(iterate, rows.n.shape[1])
            u = trees.lanes(u, torch.from_numpy(np.repeat(np.arange(len(start)), rows.n.shape[1])).to(self.device))
            value = check_like(trees.join(value), u, "the guess")
            if rows.ragged:
                (value, u), system, n, iterate = self._valid(rows, (value, u), system, n, iterate)
        if self.traits.mixing:
            self.born[system, n + 1] = iterate
        value = trees.finite_or(value, u)
        self._write(system, n, iterate, value if self._empty is None else Carried(value, self._empty(value)))
        self.look()

    def _take_start(self, guess: Bools) -> None:
        """First iterates that are given, in place of guesses."""
        rows = self.runs_to_guess(guess)
        inside = rows.valid.reshape(-1)
        system, n = (part[inside] for part in rows.flat())
        iterate = np.repeat(self.held[rows.system, rows.n[:, 0]], rows.n.shape[1])[inside]
        if self.traits.mixing:
            self.born[system, n + 1] = iterate
        place = torch.from_numpy(system * (self.slices + 1) + n + 1).to(self.device)
        self._write(system, n, iterate, trees.lanes(self._start, place))
        self.look()

    def receive(self, value: State, systems: Bools, final: Bools) -> None:
        """The block's left edge takes its next iterate from outside, leaves ``(M, *state)``, and what is final there.

        Args:
            value: The states.
            systems: The systems that they are for, ``(M,)``.
            final: Those of which it is the final one, ``(M,)``.
        """
        chosen = systems.nonzero()[0]
        if len(chosen) < len(systems):
            value = trees.lanes(value, torch.from_numpy(chosen).to(self.device))
        self._write(chosen, np.full(len(chosen), self.start - 1), self.held[chosen, self.start] + 1, value)
        self.frontier[systems & final] = self.start
        self.look()

    def _times_at(self, n: Ints) -> torch.Tensor:
        return self._times[torch.from_numpy(n).to(self.device)]

    def _finish(self, system: Ints, n: Ints) -> None:
        """U_{n+1} = F_n(U_n) where U_n is final: then so is U_{n+1}."""
        f = self._fine(system, n, self.held[system, n])
        # Where coarse lanes are as slow as fine ones this overtakes an iterate, or even the first guess.
        held = self.held[system, n + 1]
        k = np.where(held < 0, self.held[system, n], held)
        self._change(system, n, k + 1, f, f, self.held[system, n], final=True)
        self._write(system, n, k + 1, f)
        self.frontier[system] = n + 1
        self.look()

    def _refine(self, system: Ints, n: Ints) -> None:
        """U_{n+1}^{k+1} = F_n(U_n^k) + [G_n(U_n^{k+1}) - G_n(U_n^k)], or another correction in the brackets."""
        k = self.held[system, n + 1]
        new, old = self._known(system, n, k + 1), self._known(system, n, k, self.traits.lookback)
        f = self._fine(system, n, k)
        change = self.correction.difference(Span(self._times, n), new, old)
        if change is not None:
            check_like(change, bare(f), "the correction's difference")
        self._correct(system, n, self._corrected(f, change, system, n, k), f)

    def _refine_runs(self, rows: Runs) -> None:
        """`_refine` on rows of neighbouring slices, for a correction linear in what edges move by."""
        system, n = rows.flat()
        length, k, first = rows.n.shape[1], self.held[system, n + 1], rows.n[:, 0]
        f, held = self._fine(system, n, k), self._held(system, n)
        defects = trees.finite_or(trees.sub(bare(f), bare(held)), trees.map(torch.zeros_like, bare(f)))
        if rows.ragged:
            inside = torch.from_numpy(rows.valid.reshape(-1)).to(self.device)
            defects = trees.map(lambda leaf: leaf * trees.per_lane(inside, leaf), defects)
        edge, iterate = rows.system * (self.slices + 1) + first, self.held[rows.system, first + 1]
        moved = trees.sub(bare(self.u.peek(edge, iterate + 1)), bare(self.u.peek(edge, iterate)))
        lookback = self.traits.lookback
        old = self._known(system, n, k, lookback) if lookback or self._carries else None
        sweep = Sweep(moved, trees.fold(defects, length), old and old.fold(length))
        change = self.correction.difference_run(Span(self._times, rows.n), sweep)
        value = mixed = self._corrected(f, None if change is None else trees.join(change), system, n, k)
        if self.traits.mixing:
            mixed = self._mix(rows, trees.finite_or(bare(value), bare(held)))
            mixed = follow(mixed, f, self._before(system, n, k)) if isinstance(f, Carried) else mixed
        if rows.ragged:
            (value, mixed, f, held), system, n = self._valid(rows, (value, mixed, f, held), system, n)
        self._correct(system, n, value, f, held, mixed)

    def _corrected(self, f: State, change: State, system: Ints, n: Ints, k: Ints) -> State:
        """Fine solutions plus a correction, with what that makes of a multistep method's memory."""
        if change is None:
            return trees.clone(f)
        value = trees.add(bare(f), change)
        return follow(value, f, self._before(system, n, k)) if isinstance(f, Carried) else value

    def _before(self, system: Ints, n: Ints, k: Ints) -> Carried:
        """Fine solutions of the iterate before, or where there were none of this one."""
        return self.f.peek(system * self.slices + n, np.maximum(k - 1, self.since[system, n]))

    def _correct(self, system: Ints, n: Ints, value: State, f: State, held: State = None, mixed: State = None) -> None:
        # A mixed iterate may stand still where the recursion does not: what the recursion gives is what counts.
        k = self.held[system, n + 1]
        held = self._change(system, n, k + 1, value, f, k, held)
        self._write(system, n, k + 1, trees.finite_or(value if mixed is None else mixed, held))

    def _mix(self, rows: Runs, value: State) -> State:
        """What the correction makes of the recursion's updates, now and at the iterates before."""
        system, n = rows.flat()
        edge, k, mixing = system * (self.slices + 1) + n + 1, self.held[system, n + 1], self.traits.mixing
        oldest = np.maximum(k - mixing, self.born[system, n + 1])
        if rows.ragged:  # repetitions at the ends of rows must not take the place of what they repeat
            (kept,), *which = self._valid(rows, (value,), edge, k, oldest)
            self.update_of.put(which[0], which[1], kept, which[2])
        else:
            self.update_of.put(edge, k, value, oldest)
        iterates = [np.maximum(k - j, self.born[system, n + 1]) for j in range(mixing + 1)]
        states, updates = (
            [trees.fold(bare(ring.peek(edge, i)), rows.n.shape[1]) for i in iterates]
            for ring in (self.u, self.update_of)
        )
        return trees.join(self.correction.mix(states, updates))

    def _valid(self, rows: Runs, states: tuple[State, ...], *numbers: Ints) -> Any:
        """Without the repetitions at the ends of shorter rows."""
        chosen = rows.valid.reshape(-1)
        index = torch.from_numpy(chosen.nonzero()[0]).to(self.device)
        return tuple(trees.lanes(state, index) for state in states), *(number[chosen] for number in numbers)

    def _fine(self, system: Ints, n: Ints, iterate: Ints) -> State:
        """A copy of fine solutions."""
        f = self.f.take(system * self.slices + n, iterate)
        return f[0] if self._carries else f

    def _held(self, system: Ints, n: Ints) -> State:
        """A copy of what right edges hold."""
        return self.u.take(system * (self.slices + 1) + n + 1, np.maximum(self.held[system, n + 1], 0))

    def _change(
        self,
        system: Ints,
        n: Ints,
        iterate: Ints,
        value: State,
        fine: State,
        solved: Ints,
        held: State = None,
        final: bool = False,
    ) -> State:
        """Notes what the right edges held and what they are to hold; returns the former.

        ``fine`` are the solutions from the inputs' iterates ``solved``.
        """
        if held is None:
            held = self._held(system, n)
            if not (there := self.held[system, n + 1] >= 0).all():  # the place may hold what another left there
                mask = torch.from_numpy(there).to(self.device)
                held = trees.map(lambda x: torch.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, float("nan")), held)
        earlier = self._earlier(system * self.slices + n, solved - 1) if self._keep_earlier else None
        self.changes.add(system * self.slices + n, iterate, value, held, fine, earlier, final)
        return held

    def _earlier(self, place: Ints, iterate: Ints) -> State:
        """A copy of fine solutions, without a multistep history; NaN where they are not there."""
        there = (iterate >= 0) & self.f.has(place, np.maximum(iterate, 0))
        f = self.f.take(place, np.where(there, iterate, 0))
        f = bare(f[0] if self._carries else f)
        if there.all():
            return f
        mask = torch.from_numpy(there).to(self.device)
        return trees.map(lambda x: torch.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, float("nan")), f)

    def _write(self, system: Ints, n: Ints, iterate: Ints, value: State) -> None:
        oldest = None
        if self.traits.uses_input:  # the slice on the right looks back to what its right edge came from
            right = system * self.slices + np.minimum(n + 1, self.slices - 1)
            oldest = np.where(n + 1 == self.slices, iterate, self.back(right, iterate))
            if self.traits.mixing:
                # One more than is mixed: a run that is cut short may go back by one.
                oldest = np.maximum(np.minimum(oldest, iterate - self.traits.mixing - 1), self.born[system, n + 1])
        self.u.put(system * (self.slices + 1) + n + 1, iterate, value, oldest)
        self.held[system, n + 1] = iterate
        if self._recorder is not None:
            self._recorder.add("u", system * (self.slices + 1) + n + 1, iterate, value)
