"""The recursion: how every boundary takes its next iterate.

With U_n^k the state at boundary n after k iterations,

    U_{n+1}^{k+1} = F_n(U_n^k) + [ G_n(U_n^{k+1}) - G_n(U_n^k) ],

or F_n(U_n^k) alone where U_n^k was already final: then the right boundary is final too, and the frontier moves. That is
why the first k boundaries are the sequential solution after k iterations whatever G does.

What has arrived is looked at again and again until nothing can move: one boundary's move makes the next one's possible.
"""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.host import entries, index_to
from parareal._core.multistep_state import Carried, follow, without_history
from parareal._core.trees import State
from parareal.corrections._base import Edge, Sweep
from parareal.engine._ahead import Ahead
from parareal.engine._given import given_states
from parareal.engine._readiness import Runs, some
from parareal.engine._states import StoredStates
from parareal.grid._mesh import Span
from parareal.problem._lane_calls import check_like


class Iterates(StoredStates):
    """The iterates of M systems of N slices: all that moves a boundary is here."""

    @cached_property
    def ahead(self) -> Ahead:
        """Sends what is about to be asked for."""
        return Ahead(self)

    def update(self, wait: bool = True, guessing: bool = True) -> bool:
        """Moves every boundary that can; returns whether one waits for lanes to start from it first."""
        while True:
            guess, final, refined, relaxed, waiting = self.moves(wait)
            moved = some(final | refined | relaxed)
            if not guessing:
                guess = self.layout.nothing
            # In a window first what guesses start from: a guess from the newest states is the better one.
            if some(guess) and not (self.layout.windowed and moved):
                self._guess(guess)
            if some(final):
                self._finish(*final.nonzero())
            if self.setup.traits.stacked or self.layout.nested:
                if some(refined) and (rows := self.runs_from(refined)) is not None:
                    (self._sweep if self.layout.nested else self._refine_runs)(rows)
            elif some(refined):
                self._refine(*refined.nonzero())
            if some(relaxed) and (rows := self.runs_from(relaxed)) is not None:
                self._relax(rows)
            # Without a coarse propagator to wait for, and after a guess, a boundary may move on at once.
            if not (some(guess) or (moved and self.layout.at_once)):
                return some(waiting)

    # --- first iterates ---------------------------------------------------------------------------------------------

    def _guess(self, guess: Bools) -> None:
        """The first iterates of right boundaries: one after another, or all those of the live slices at once."""
        setup = self.setup
        if setup.given is not None:
            self._take_given(guess)
            return
        system, n, iterate, value, u = self._guess_runs(guess) if setup.by_run else self._guess_each(guess)
        if setup.traits.mixing:
            self.state.first[system, n + 1] = iterate
        value = trees.finite_or(value, u, copy=True)  # it may be a view of what is written to
        self.write(system, n, iterate, value if setup.empty is None else Carried(value, setup.empty(value)))
        self.look()

    def _guess_each(self, guess: Bools) -> tuple[Ints, Ints, Ints, State, State]:
        """Systems, slices, iterates, guesses and the states on their left, each slice for itself."""
        system, n = guess.nonzero()
        current, coarse = self.state.current, self.state.lanes.coarse_arrived
        iterate = current[system, n] if self.layout.free else coarse[system, n]
        known = self.known(system, n, iterate)
        u = without_history(self.rings.u.peek(system * (self.layout.slices + 1) + n, iterate))
        value = self.setup.correction.guess(Span(self.setup.times, n), known._replace(u=u))
        return system, n, iterate, check_like(value, u, "the guess"), u

    def _guess_runs(self, guess: Bools) -> tuple[Ints, Ints, Ints, State, State]:
        """The same, rows of neighbouring slices at once, from the state on the left of each row."""
        current, slices = self.state.current, self.layout.slices
        rows = self.runs_to_guess(guess)
        start = rows.n[:, 0]
        boundary, iterate = rows.system * (slices + 1) + start, current[rows.system, start]
        if not self.layout.on_host:
            self.ahead.of_guesses(rows, boundary, iterate)
        u, at = without_history(self.rings.u.peek(boundary, iterate)), Span(self.setup.times, rows.n)
        before: list[Edge] = []
        for back in (1, 2) if some(start > 0) else ():
            n = np.maximum(start - back, 0)
            there = without_history(self.rings.u.peek(boundary - start + n, current[rows.system, n]))
            before.append(Edge(entries(self.setup.times, n), there))
        if self.setup.nested is not None and self.setup.guess is None:
            value = self.setup.nested.guess(rows, u)
        else:
            value = (self.setup.guess or self.setup.correction.guess_run)(at, u, tuple(before))
        system, n = rows.flat()
        length = rows.n.shape[1]
        iterate = np.repeat(iterate, length)
        u = trees.repeated(u, length)
        value = check_like(trees.join(value), u, "the guess")
        if rows.ragged:
            (value, u), system, n, iterate = self.valid(rows, (value, u), system, n, iterate)
        return system, n, iterate, value, u

    def _take_given(self, guess: Bools) -> None:
        """First iterates that are given, in place of guesses."""
        rows = self.runs_to_guess(guess)
        inside = rows.valid.reshape(-1)
        system, n = (part[inside] for part in rows.flat())
        iterate = np.repeat(self.state.current[rows.system, rows.n[:, 0]], rows.n.shape[1])[inside]
        if self.setup.traits.mixing:
            self.state.first[system, n + 1] = iterate
        self.write(system, n, iterate, given_states(self, rows, system, n))
        self.look()

    def receive(self, value: State, systems: Bools, final: Bools) -> None:
        """The block's left boundary takes its next iterate from outside, and what is final there.

        Args:
            value: The states, leaves ``(M, *state)``.
            systems: The systems that they are for, ``(M,)``.
            final: Those of which it is the final one, ``(M,)``.
        """
        chosen, start = systems.nonzero()[0], self.layout.start
        if len(chosen) < len(systems):
            value = trees.lanes(value, index_to(self.layout.device, chosen))
        self.write(chosen, np.full(len(chosen), start - 1), self.state.current[chosen, start] + 1, value)
        self.state.frontier[systems & final] = start
        self.look()

    # --- next iterates ----------------------------------------------------------------------------------------------

    def _finish(self, system: Ints, n: Ints) -> None:
        """U_{n+1} = F_n(U_n) where U_n is final: then so is U_{n+1}."""
        left = self.state.current[system, n]
        if not self.layout.on_host:
            self.ahead.of_final(system, n, left)
        f = self.fine(system, n, left)
        # Where coarse lanes are as slow as fine ones this overtakes an iterate, or even the first guess.
        right = self.state.current[system, n + 1]
        k = np.where(right < 0, left, right)
        self.note_change(system, n, k + 1, f, f, left, final=True)
        self.write(system, n, k + 1, f)
        self.state.frontier[system] = n + 1
        self.look()

    def _refine(self, system: Ints, n: Ints) -> None:
        """U_{n+1}^{k+1} = F_n(U_n^k) + [G_n(U_n^{k+1}) - G_n(U_n^k)], or another correction in the brackets."""
        k, correction = self.state.current[system, n + 1], self.setup.correction
        at, place = k + 1, system * self.layout.slices + n
        if not (self.layout.free or (there := self.rings.coarse.has(place, at)).all()):
            # A final state has overtaken that iterate of the left boundary: its coarse value stands for both.
            at = np.where(there, at, self.state.lanes.coarse_arrived[system, n])
        new, old = self.known(system, n, at), self.known(system, n, k, self.setup.traits.lookback)
        f = self.fine(system, n, k)
        change = correction.difference(Span(self.setup.times, n), new, old)
        if change is not None:
            check_like(change, without_history(f), "the correction's difference")
        self._correct(system, n, self._corrected(f, change, system, n, k), f)

    def _refine_runs(self, rows: Runs) -> None:
        """`_refine` on rows of neighbouring slices, for a correction linear in what boundaries move by."""
        system, n = rows.flat()
        current, correction = self.state.current, self.setup.correction
        length, k, first = rows.n.shape[1], current[system, n + 1], rows.n[:, 0]
        if not self.layout.on_host:
            self.ahead.of_updates(rows, system, n, k)
        f, old = self.fine(system, n, k), self.right(system, n)
        fine, before = without_history(f), without_history(old)
        defects = trees.finite_or_zero(trees.sub(fine, before))
        if rows.ragged:
            inside = index_to(self.layout.device, rows.valid.reshape(-1))
            defects = trees.map(lambda leaf: leaf * trees.per_lane(inside, leaf), defects)
        # Only what the first boundary of a row has moved by is known; the correction carries it through the others.
        boundary, iterate = rows.system * (self.layout.slices + 1) + first, current[rows.system, first + 1]
        u = self.rings.u
        moved = trees.sub(without_history(u.peek(boundary, iterate + 1)), without_history(u.peek(boundary, iterate)))
        lookback = self.setup.traits.lookback
        known = self.known(system, n, k, lookback) if lookback or self.setup.carries else None
        sweep = Sweep(moved, trees.fold(defects, length), known and known.fold(length))
        change = correction.difference_run(Span(self.setup.times, rows.n), sweep)
        value = mixed = self._corrected(f, None if change is None else trees.join(change), system, n, k)
        if self.setup.traits.mixing:
            mixed = self._mix(rows, trees.finite_or(without_history(value), before))
            mixed = follow(mixed, f, self.fine_before(system, n, k)) if isinstance(f, Carried) else mixed
        if rows.ragged:
            (value, mixed, f, old), system, n = self.valid(rows, (value, mixed, f, old), system, n)
        self._correct(system, n, value, f, old, mixed)

    def _relax(self, rows: Runs) -> None:
        """U_{n+1}^{k+1} = F_n(U_n^k) on rows of neighbouring slices."""
        system, n = (part[rows.valid.reshape(-1)] for part in rows.flat())
        f = self.fine(system, n, self.state.current[system, n + 1])
        self._correct(system, n, f, f)

    def _sweep(self, rows: Runs) -> None:
        """All boundaries of rows that end with the grid, from a sweep that is solved in parallel."""
        assert self.setup.nested is not None
        system, n = rows.flat()
        current, first, length = self.state.current, rows.n[:, 0], rows.n.shape[1]
        k = current[system, n + 1]
        f, old, place = self.fine(system, n, k), self.right(system, n), system * self.layout.slices + n
        boundary = rows.system * (self.layout.slices + 1) + first
        u = without_history(self.rings.u.take(boundary, current[rows.system, first]))
        fold = partial(trees.fold, size=length)
        parts = without_history(old), without_history(f), self.rings.coarse.take(place, k)
        value = trees.join(self.setup.nested.sweep(rows, u, *map(fold, parts)))
        if isinstance(f, Carried):
            value = follow(value, f, self.fine_before(system, n, k))
        if rows.ragged:
            (value, f, old), system, n = self.valid(rows, (value, f, old), system, n)
        self._correct(system, n, value, f, old)

    def _corrected(self, f: State, change: State, system: Ints, n: Ints, k: Ints) -> State:
        """Fine solutions plus a correction, with what that makes of a multistep method's history."""
        if change is None:
            return trees.clone(f)
        value = trees.add(without_history(f), change)
        return follow(value, f, self.fine_before(system, n, k)) if isinstance(f, Carried) else value

    def _correct(self, system: Ints, n: Ints, value: State, f: State, old: State = None, mixed: State = None) -> None:
        # A mixed iterate may stand still where the recursion does not: what the recursion gives is what counts.
        k = self.state.current[system, n + 1]
        old = self.note_change(system, n, k + 1, value, f, k, old)
        # What is not finite is not stored: the recursion would carry it to all boundaries on the right.
        self.write(system, n, k + 1, trees.finite_or(value if mixed is None else mixed, old))

    def _mix(self, rows: Runs, value: State) -> State:
        """What the correction makes of the recursion's updates, now and at the iterates before."""
        system, n = rows.flat()
        correction, first = self.setup.correction, self.state.first[system, n + 1]
        boundary, k = system * (self.layout.slices + 1) + n + 1, self.state.current[system, n + 1]
        oldest = np.maximum(k - self.setup.traits.mixing, first)
        if rows.ragged:  # repetitions at the ends of rows must not take the place of what they repeat
            (kept,), *which = self.valid(rows, (value,), boundary, k, oldest)
            self.rings.update.put(which[0], which[1], kept, which[2])
        else:
            self.rings.update.put(boundary, k, value, oldest)
        iterates = [np.maximum(k - j, first) for j in range(self.setup.traits.mixing + 1)]
        states, updates = (
            [trees.fold(without_history(ring.peek(boundary, i)), rows.n.shape[1]) for i in iterates]
            for ring in (self.rings.u, self.rings.update)
        )
        return trees.join(correction.mix(states, updates))
