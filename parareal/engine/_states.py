"""Storage of the states at slice boundaries and of coarse and fine solutions: which are kept, and how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.host import beside, index_to
from parareal._core.multistep_state import Memory, without_history
from parareal._core.ring_buffer import Ring
from parareal._core.trees import State
from parareal.corrections._base import Correction, Known
from parareal.corrections._traits import CorrectionTraits
from parareal.engine._first import First
from parareal.engine._first_order import FirstOrder, newest
from parareal.engine._nested import NestedSweep
from parareal.engine._pairs import with_pair
from parareal.engine._readiness import Layout, Readiness, Runs
from parareal.results._record import Recorder
from parareal.results._run_state import RunState
from parareal.schedules._schedule import Guess
from parareal.stopping._increments import Changes


@dataclass(frozen=True, eq=False)
class Setup:
    """The fixed data from which iterates are computed.

    Attributes:
        correction: The term in brackets of the recursion.
        u0: Initial states, leaves ``(M, *state)``.
        times: Times of all boundaries.
        dense: Whether states behind the frontier are kept.
        keep_earlier: Whether fine solutions are kept for one more iterate, for the stopping rule.
        guess: First guesses in place of the correction's own.
        given: First iterates in place of guesses.
        empty: Gives the empty history that first guesses have, where states carry that of a multistep method.
        nested: Sweeps over all slices in parallel, for corrections that ask for it.
        blind: How many of the first fine solutions show nothing; see `blind_moves`.
        first_order: The step of order 1, for the stopping rule, where states carry the history of a multistep method.
    """

    correction: Correction
    u0: State
    times: torch.Tensor
    dense: bool
    keep_earlier: bool
    guess: Guess | None = None
    given: First | None = None
    empty: Callable[[State], Memory] | None = None
    nested: NestedSweep | None = None
    blind: int = 0
    first_order: FirstOrder | None = None

    @cached_property
    def traits(self) -> CorrectionTraits:
        """Those of the correction, read once: wrappers put theirs together anew each time they are asked."""
        return self.correction.traits

    @property
    def by_run(self) -> bool:
        """Whether first guesses of neighbouring slices are made together."""
        return self.traits.stacked or not (self.guess is self.given is self.nested is None)

    @property
    def carries(self) -> bool:
        """Whether fine solutions carry tangents for the correction."""
        return self.traits.carries > 0

    def layout(self, slices: int, width: int, block: tuple[int, int] | None) -> Layout:
        """The layout of N slices, of which at most ``width`` are computed at a time, or only those of a block."""
        leaf = trees.leaves(self.u0)[0]
        coarse = self.traits.propagator is not None
        return Layout(
            systems=leaf.shape[0],
            slices=slices,
            device=leaf.device,
            width=width,
            lookback=max(self.traits.lookback, int(self.empty is not None or self.keep_earlier)),
            free=not coarse,
            guess_waits=coarse and self.guess is None and self.given is None and self.nested is None,
            start=0 if block is None else block[0],
            end=slices if block is None else block[1],
            relaxations=self.traits.relaxations,
            nested=self.nested is not None,
            blind=self.blind,
            in_step=block is not None,
            n=np.arange(slices),
            nothing=np.zeros((leaf.shape[0], slices), dtype=bool),
        )


@dataclass(eq=False, slots=True)
class Rings:
    """The ring buffers of a run; see `Ring`.

    Attributes:
        u: Iterates at boundaries.
        fine: Fine solutions of slices.
        coarse: Coarse solutions; ``None`` where there is no coarse propagator, as ``first_stage``.
        first_stage: Values of the right-hand side at left boundaries, which the fine lane may share.
        update: Updates of the recursion before mixing; ``None`` for corrections that do not mix.
    """

    u: Ring
    fine: Ring
    coarse: Any
    first_stage: Any
    update: Any

    @classmethod
    def of(cls, setup: Setup, layout: Layout) -> Rings:
        """Empty buffers, except for the first boundary."""
        u0, correction, width = setup.u0, setup.correction, layout.width
        systems, slices, plain = layout.systems, layout.slices, without_history(setup.u0)
        mixing = setup.traits.mixing
        # Three more than a window: the boundary before it, and the two from which first guesses are extrapolated.
        u = Ring(u0, systems, slices + 1, None if setup.dense else width + 3, 2 if setup.traits.uses_input else 1)
        start = np.arange(systems) * (slices + 1)
        u.put(start, np.zeros_like(start), u0)
        here = min(width, max(1, layout.end - layout.start))
        coarse = not layout.free
        return cls(
            u=u,
            fine=Ring(correction.lift(u0) if setup.carries else u0, systems, slices, here),
            coarse=Ring(plain, systems, slices, here, 2) if coarse else None,
            first_stage=Ring(plain, systems, slices, here) if coarse else None,
            update=Ring(plain, systems, slices + 1, here + 2, mixing + 1) if mixing else None,
        )


class StoredStates(Readiness):
    """The states at the boundaries of M systems of N slices.

    Attributes:
        rings: The ring buffers.
        changes: Moves that have not been measured yet.
        recorder: Records all iterates and solutions, if the run keeps them.
    """

    def __init__(self, state: RunState, layout: Layout, setup: Setup) -> None:
        self.setup, self.rings = setup, Rings.of(setup, layout)
        self.changes = Changes(layout.slices)
        self.recorder: Recorder | None = None
        super().__init__(state, layout)

    def put_back(self, u: State) -> None:
        """Puts the states ``u``, leaves ``(M * (N + 1), *state)``, back as the iterates that the run state names."""
        stored = self.state.current >= 0
        if not self.setup.dense:
            stored &= np.arange(self.layout.slices + 1) >= self.state.frontier[:, None] - 2
        ids = stored.reshape(-1).nonzero()[0]
        numbers = self.state.current.reshape(-1)[ids]
        self.rings.u.put(ids, numbers, trees.lanes(u, index_to(self.layout.device, ids)))
        self.look()

    def record(self, recorder: Recorder) -> None:
        """Records all iterates and solutions from now on, and the current iterates."""
        self.recorder = recorder
        new = self.state.current >= 0
        if recorder.continues:  # final boundaries are in the record before; no lane starts left of the frontier
            new &= np.arange(self.layout.slices + 1) >= self.state.frontier[:, None]
        ids = new.reshape(-1).nonzero()[0]
        iterate = self.state.current.reshape(-1)[ids]
        recorder.add("u", ids, iterate, self.rings.u.peek(ids, iterate))

    # --- reading ----------------------------------------------------------------------------------------------------

    @property
    def states(self) -> State:
        """The current states, system by system, leaves ``(M * (N + 1), *state)``; NaN where there is none yet.

        Without ``dense`` only those at the first boundary and at `reached`, ``(M * 2, *state)``.
        """
        current = self.state.current
        if self.setup.dense:
            return self.rings.u.peek(np.arange(current.size), np.maximum(current.reshape(-1), 0))
        boundary = np.arange(self.layout.systems) * (self.layout.slices + 1) + self.reached
        last = self.rings.u.peek(boundary, current.reshape(-1)[boundary])
        return trees.join(trees.stack([self.setup.u0, last], 1))

    @property
    def reached(self) -> Ints:
        """The last boundary of each system; the frontier, if an interrupted run has not reached the last one."""
        return np.where(self.state.current[:, -1] >= 0, self.layout.slices, self.state.frontier)

    def at_frontier(self, systems: Ints) -> State:
        """The states at the frontiers of some systems, leaves ``(Q, *state)``."""
        boundary = systems * (self.layout.slices + 1) + self.state.frontier[systems]
        return self.rings.u.peek(boundary, self.state.current.reshape(-1)[boundary])

    def right(self, system: Ints, n: Ints) -> State:
        """A copy of the current states at right boundaries."""
        iterate = np.maximum(self.state.current[system, n + 1], 0)
        return self.rings.u.take(system * (self.layout.slices + 1) + n + 1, iterate)

    def fine(self, system: Ints, n: Ints, iterate: Ints) -> State:
        """A copy of fine solutions."""
        f = self.rings.fine.take(system * self.layout.slices + n, iterate)
        return f[0] if self.setup.carries else f

    def fine_before(self, system: Ints, n: Ints, k: Ints) -> State:
        """Fine solutions of the iterate before, or of this one if there was none."""
        return self.rings.fine.peek(system * self.layout.slices + n, self.before(system, n, k))

    def known(self, system: Ints, n: Ints, iterate: Ints, lookback: int = -1) -> Known:
        """What is known of slices at an iterate; from ``lookback`` of 0 on also fine values and iterates before."""
        at, place = iterate, system * self.layout.slices + n
        u = without_history(self.rings.u.peek(place + system, at)) if self.setup.traits.uses_input else None
        g = None if self.layout.free else self.rings.coarse.peek(place, at)
        if lookback < 0:
            return Known(u, g)
        before = None
        if lookback > 0:
            before = self.known(system, n, self.before(system, n, iterate), lookback - 1)
        # Autograd keeps tangents as factors, so they must not be overwritten by the next ones.
        carries, fine = self.setup.carries, self.rings.fine
        f, tangents = fine.take(place, at) if carries else (fine.peek(place, at), None)
        known = Known(u, g, without_history(f), tangents, before)
        given, traits = self.setup.given, self.setup.traits
        if given is None or given.pairs is None or not traits.pairs or lookback != traits.lookback:
            return known
        places = index_to(self.layout.device, place)
        move, change = (trees.lanes(part, places) for part in (given.pairs.moves, given.pairs.changes))
        return with_pair(known, move, change, at, self.state.lanes.fine_first[system, n])

    # --- writing ----------------------------------------------------------------------------------------------------

    def store(self, tickets: Ints, value: State, ring: Ring, arrived: Ints) -> None:
        """Stores the results of lanes."""
        ids, iterate, oldest = self.note_arrived(tickets, arrived)
        ring.put(ids, iterate, value, oldest)
        lanes = self.state.lanes
        if self.recorder is not None and arrived is not lanes.first_stage:
            if arrived is lanes.fine_arrived:
                self.recorder.add("fine", ids, iterate, value[0] if self.setup.carries else value)
            else:
                self.recorder.add("coarse", ids, iterate, value)

    def note_change(
        self,
        system: Ints,
        n: Ints,
        iterate: Ints,
        value: State,
        fine: State,
        solved: Ints,
        old: State = None,
        final: bool = False,
    ) -> State:
        """Records the moves of right boundaries from their current states, which are returned, to ``value``.

        ``fine`` are the solutions from the iterates ``solved`` of the inputs.
        """
        place = system * self.layout.slices + n
        if old is None:  # a row of the ring may be that of another boundary, where this one has no iterate
            old = self._only(self.state.current[system, n + 1] >= 0, self.right(system, n))
        carried = self._carried(place, n, solved, fine) if self.setup.keep_earlier else ()
        self.changes.add(place, iterate, (value, old, fine, *carried), final)
        return old

    def _carried(self, place: Ints, n: Ints, solved: Ints, fine: State) -> tuple[State, ...]:
        """Changes of fine solutions with the last moves of their inputs, NaN where these are unknown; see `Change`."""
        first, ring, u = self.setup.first_order, self.rings.fine, self.rings.u
        carries = self.setup.carries
        if first is None:
            earlier = ring.peek_or_nan(place, solved - 1, lambda tree: without_history(tree[0] if carries else tree))
            return (trees.sub(without_history(fine), earlier),)
        earlier = ring.peek_or_nan(place, solved - 1, lambda tree: newest(tree[0] if carries else tree))
        change, value = trees.sub(newest(fine), earlier)
        boundary = place + place // self.layout.slices
        now, before = (u.peek_or_nan(boundary, k, without_history) for k in (solved, solved - 1))
        moved = trees.sub(now, before)
        return change, first.change(n, moved, value), moved

    def write(self, system: Ints, n: Ints, iterate: Ints, value: State) -> None:
        """Right boundaries take their next states."""
        oldest, slices = None, self.layout.slices
        if self.setup.traits.uses_input:  # the slice on the right looks back to what its right boundary came from
            right = system * slices + np.minimum(n + 1, slices - 1)
            oldest = np.where(n + 1 == slices, iterate, self.needed(right, iterate))
            if self.setup.traits.mixing:
                # One more than is mixed: a run that is cut short may go back by one.
                first = self.state.first[system, n + 1]
                oldest = np.maximum(np.minimum(oldest, iterate - self.setup.traits.mixing - 1), first)
        self.rings.u.put(system * (slices + 1) + n + 1, iterate, value, oldest)
        # After the state itself: Ctrl-C may come at any time, and a number must not be there without its state.
        self.state.current[system, n + 1] = iterate
        if self.recorder is not None:
            self.recorder.add("u", system * (slices + 1) + n + 1, iterate, value)

    # --- shared -----------------------------------------------------------------------------------------------------

    def valid(self, rows: Runs, states: tuple[State, ...], *numbers: Ints) -> Any:
        """Removes the repetitions at the ends of shorter rows."""
        chosen = rows.valid.reshape(-1)
        index = index_to(self.layout.device, chosen.nonzero()[0])
        return tuple(trees.lanes(state, index) for state in states), *(number[chosen] for number in numbers)

    def _only(self, there: Bools, state: State) -> State:
        """States where they are ``there``, NaN elsewhere."""
        if there.all():
            return state
        mask = index_to(self.layout.device, there)

        def leaf(x: torch.Tensor) -> torch.Tensor:
            return torch.where(beside(mask, x).reshape(-1, *[1] * (x.ndim - 1)), x, float("nan"))

        return trees.map(leaf, state)
