"""A coarse sweep that is itself solved in parallel: a run inside a run, which makes two levels three.

The sweep U_{n+1} = F_n(V_n) + [G_n(U_n) - G_n(V_n)] over all slices is a problem of its own, of which only U is
unknown. A run solves it approximately: its slices are blocks of slices, its fine propagator makes these steps one after
another inside a block (`ChainedLanes`), and its correction may be any other. It has the same engine, so the recursion
is written once. After its last iteration the steps are made once more from the new states at the block boundaries,
which gives the states inside.

In the words of multigrid this is a V-cycle in the full approximation scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.host import index_to
from parareal._core.multistep_state import without_history
from parareal._core.trees import State
from parareal.corrections._traits import CorrectionTraits
from parareal.engine._first import First
from parareal.engine._lane_stack import Lanes
from parareal.engine._lanes import ActiveLanes
from parareal.engine._readiness import Runs
from parareal.engine._rounds import Counters, play_round
from parareal.executors._base import Executor
from parareal.grid._mesh import Mesh
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._base import Integrator
from parareal.schedules._schedule import Barrier
from parareal.stopping._rules import Iterations


@dataclass(eq=False)
class Chain:
    """Steps over neighbouring slices, R systems of L slices in B blocks, and the states that they have come to.

    Attributes:
        grid: The slices; slices of this grid are blocks.
        bounds: The first slice of each block, and L, ``(B + 1,)``.
        before: How many whole blocks lie to the left of these slices.
        last: Number of the last iterate. From it the last slice of a block is left out: nobody needs it.
        fine: Fine solutions F_n(V_n) of the slices, leaves ``(R * L, *state)``; ``None`` where steps are G_n alone.
        coarse: Coarse solutions G_n(V_n), likewise.
        counters: Where the cost is counted.
        kept: States that steps have come to, and the slices that they end, in the order of their making.
    """

    grid: TimeGrid
    bounds: Ints
    before: int
    last: int
    fine: State = None
    coarse: State = None
    counters: Counters = field(default_factory=Counters)
    kept: list[tuple[Ints, State]] = field(default_factory=list[tuple[Ints, State]])

    @property
    def slices(self) -> int:
        """L."""
        return int(self.bounds[-1])

    def step(self, places: Ints, g: State) -> State:
        """States after the slices ``places``, from their coarse solutions; also kept."""
        if self.fine is not None:
            index = index_to(trees.leaves(g)[0].device, places)
            g = trees.add(trees.lanes(self.fine, index), trees.sub(g, trees.lanes(self.coarse, index)))
        self.kept.append((places, g))
        return g

    def states(self, at_blocks: State, systems: int) -> State:
        """The last states at all right boundaries, leaves ``(R, L, *state)``.

        Args:
            at_blocks: Those at the boundaries of blocks, leaves ``(R * (B + 1), *state)``.
            systems: R.
        """
        blocks, slices = len(self.bounds), self.slices
        place = np.zeros(systems * slices, dtype=np.int64)
        system, end = (part.reshape(-1) for part in np.indices((systems, blocks - 1)))
        ends = system * slices + self.bounds[end + 1] - 1
        parts, begun = [at_blocks], systems * blocks
        for places, value in self.kept:
            place[places] = begun + np.arange(len(places))
            parts, begun = [*parts, value], begun + len(places)
        place[ends] = system * blocks + end + 1
        every = trees.cat(parts)
        return trees.fold(trees.lanes(every, index_to(trees.leaves(every)[0].device, place)), slices)


class ChainedLanes(ActiveLanes):
    """Lanes that make the steps of a `Chain` over one slice after another, up to the end of their block.

    Args:
        problem: The problem.
        integrator: The coarse propagator G.
        chain: The steps.
        places: Number of places; see `ActiveLanes`. A place is a block of a system.
        device: The device of the states.
    """

    def __init__(self, problem: Any, integrator: Integrator, chain: Chain, places: int, device: torch.device) -> None:
        slices = TimeGrid.from_edges(chain.grid.points)
        super().__init__(problem, integrator, Mesh.build(slices, integrator.steps or 1, device), places=places)
        self._chain = chain

    def launch(self, ids: Ints, slices: Ints, u: State, rows: State, first: State = None, samples: Any = None) -> None:
        """Starts lanes from the left boundaries of blocks; see `ActiveLanes.launch`."""
        start, end = self._chain.bounds[slices], self._ends(ids, slices)
        if (start >= end).any():
            some = (start < end).nonzero()[0]
            if not len(some):
                return
            index = index_to(trees.leaves(u)[0].device, some)
            u, rows, first = (None if part is None else trees.lanes(part, index) for part in (u, rows, first))
            ids, start = ids[some], start[some]
        super().launch(ids, start, u, rows, first)

    def _ends(self, ids: Ints, block: Ints) -> Ints:
        """The last slice of each lane, and one."""
        return self._chain.bounds[block + 1] - (ids // self.method.places == self._chain.last)

    def _arrive(self, lanes: Lanes, u: State) -> None:
        chain, mesh = self._chain, self.method.mesh
        system, block = np.divmod(lanes.ids % self.method.places, len(chain.bounds) - 1)
        n = np.searchsorted(mesh.start, lanes.at, side="right") - 1
        u = chain.step(system * chain.slices + n, without_history(u))
        done = n + 1 >= self._ends(lanes.ids, block)
        device = lanes.t.device
        if done.any():
            self.arrived.append((lanes.ids[done], trees.lanes(u, index_to(device, done.nonzero()[0]))))
        if not done.all():
            rest = lanes[~done]
            on = trees.lanes(u, index_to(device, (~done).nonzero()[0]))
            self._begin_slices(rest.ids, n[~done] + 1, on, rest.rows, None)


class NestedSweep:
    """Sweeps the coarse propagator of an engine over all slices, in parallel.

    Args:
        make: The class of engines.
        problem: The problem, bound.
        rows: Per-sample data as systems, or ``None``.
        grid: The time grid.
        traits: Those of the correction.
        executor: How the lanes of a round are evaluated.
        counters: Those of the engine, to which the cost is added.
        before: How many slices lie to the left of the grid, if it is a part of a larger one.

    Attributes:
        evaluations: Those of the right-hand side so far.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        problem: Any,
        rows: State,
        grid: TimeGrid,
        traits: CorrectionTraits,
        executor: Executor,
        counters: Counters,
        before: int = 0,
    ) -> None:
        assert traits.nested is not None
        assert traits.propagator is not None
        self._make, self._problem, self._rows, self._grid = make, problem, rows, grid
        self._propagator, self._nested = traits.propagator, traits.nested
        self._executor, self._counters = executor, counters
        coarser = self._nested.correction.traits.propagator
        self._size = self._nested.slices or block_size(before + grid.num_slices, self._propagator, coarser)
        self._before = before
        self.evaluations = 0

    def guess(self, rows: Runs, u: State) -> State:
        """First iterates at all right boundaries, from states on the left of rows; see `Correction.guess_run`."""
        return self._solved(rows, u)

    def sweep(self, rows: Runs, u: State, old: State, fine: State, coarse: State) -> State:
        """The next iterates at all right boundaries.

        Args:
            rows: The slices, up to the end of the grid.
            u: New states on the left of rows, leaves ``(R, *state)``.
            old: States at right boundaries before, leaves ``(R, L, *state)``.
            fine: Fine solutions from the states before, likewise.
            coarse: Coarse solutions from these, likewise.
        """
        return self._solved(rows, u, old, fine, coarse)

    def _solved(self, rows: Runs, u: State, *known: State) -> State:
        """One run for all rows that begin at the same slice; these runs share their rounds."""
        device, length, counters = trees.leaves(u)[0].device, rows.valid.sum(1), Counters()
        runs: list[tuple[Any, Chain, Ints]] = []
        for first in np.unique(rows.n[:, 0]):
            chosen = (rows.n[:, 0] == first).nonzero()[0]
            index, count = index_to(device, chosen), int(length[chosen[0]])
            part = [trees.map(lambda leaf, i=index, c=count: leaf[i, :c], each) for each in known]
            chain = self._chain(int(first), part, counters)
            engine = self._engine(chain, rows.system[chosen], trees.lanes(u, index), part)
            runs.append((engine, chain, chosen))
        self._play([engine for engine, *_ in runs], counters)
        values = [chain.states(engine.iterates.states, len(chosen)) for engine, chain, chosen in runs]
        if len(runs) == 1:
            return values[0]
        # Rows that are shorter than others repeat their last state.
        place, begun = np.zeros(rows.n.shape, dtype=np.int64), 0
        for _, chain, chosen in runs:
            column = np.minimum(np.arange(rows.n.shape[1]), chain.slices - 1)
            place[chosen] = begun + np.arange(len(chosen))[:, None] * chain.slices + column
            begun += len(chosen) * chain.slices
        every = trees.cat([trees.join(value) for value in values])
        return trees.fold(trees.lanes(every, index_to(device, place.reshape(-1))), rows.n.shape[1])

    def _chain(self, first: int, part: list[State], counters: Counters) -> Chain:
        """The steps from a slice on. Block boundaries are the same whichever that is."""
        slices, size, block = self._grid.num_slices, self._size, (self._before + first) // self._size
        inner = np.arange((block + 1) * size - self._before, slices, size)
        bounds = np.concatenate([[first], inner, [slices]]) - first
        grid = TimeGrid(self._grid.edges[first:], tuple(bounds.tolist()))
        fine, coarse = (trees.join(each) for each in part[1:]) if part else (None, None)
        return Chain(grid, bounds, block, self._nested.iterations, fine, coarse, counters)

    def _engine(self, chain: Chain, system: Ints, u: State, part: list[State]) -> Any:
        device = trees.leaves(u)[0].device
        given = None
        if part:
            ends = index_to(device, chain.bounds[1:] - 1)
            every = trees.map(lambda leaf, old: torch.cat([leaf.unsqueeze(1), old[:, ends]], 1), u, part[0])
            given = First(trees.join(every), shifted=False)
        engine = self._make(
            problem=self._problem,
            u0=u,
            rows=None if self._rows is None else trees.lanes(self._rows, index_to(device, system)),
            grid=chain.grid,
            fine=self._propagator,
            correction=self._nested.correction,
            schedule=Barrier(),
            executor=self._executor,
            stop=Iterations(self._nested.iterations),
            max_iterations=None,
            given=given,
            chain=chain,
        )
        engine.iterates.open_to = np.full((len(system), 1), self._nested.iterations)
        return engine

    def _play(self, engines: list[Any], counters: Counters) -> None:
        """Runs to their ends, with the last steps inside blocks; without decisions, so nothing is measured."""
        try:
            for engine in engines:
                engine.begin()
            while True:
                for engine in engines:
                    engine.settle()
                if not play_round([lanes for one in engines for lanes in one.propagators], self._executor, counters):
                    return
        finally:
            self._counters.add(counters)
            for engine in engines:
                self.evaluations += engine.spent[1]
                engine.close()


def block_size(slices: int, coarse: Integrator, coarser: Integrator | None) -> int:
    """How many slices make a block so that a sweep takes few rounds: m steps, N / m blocks, and m steps again."""
    each = [1 if one is None else (one.traits.evaluations or 1) * (one.steps or 1) for one in (coarse, coarser)]
    return max(1, round(math.sqrt(slices * each[1] / (2 * each[0]))))
