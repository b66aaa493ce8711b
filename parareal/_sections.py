"""Long runs in a window that keep no states behind it: the engine sees a section of the grid, which moves along.

An engine has numbers for each slice, and looks at all of them in each round. Where a window is narrow, the grid long
and the states behind the window are not kept, only the slices near the window matter. So the engine is given a section
of the grid, and once the window has passed the middle of it, the run continues in a new engine, on the section that
begins just before the window. Memory and the time of a round then depend on the width of the window, not on the grid.

What continues is what a resumed run continues from: the current iterates, earlier ones where the correction uses some,
the error record, and the moves that were not measured yet. Lanes that are active start again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parareal._core import trees
from parareal._core.arrays import Floats, Ints
from parareal._core.host import index_to
from parareal._core.trees import State
from parareal._inputs import Inputs
from parareal.corrections._base import Correction
from parareal.engine._engine import Engine
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._base import Multistep
from parareal.persistence import _earlier_iterates
from parareal.problem._ode import ODE
from parareal.results._run_identity import exactly
from parareal.results._snapshot import EarlierIterates
from parareal.schedules._schedule import Schedule
from parareal.stopping._rules import Iterations, StoppingRule, _Combined, error_record  # pyright: ignore
from parareal.stopping._tolerance import Tolerance

LEAST, WIDTHS = 2048, 16
"""A section has this many slices, and at least this many times the width of the window. A choice: longer ones make
rounds slower, and shorter ones move more often, which costs the active lanes of the window."""
_BEFORE = 3
"""Slices on the left of the window that a section keeps: first guesses are extrapolated from their states."""


@dataclass(frozen=True)
class Section:
    """Slices of a grid, from number ``begin`` to before ``end``.

    Attributes:
        grid: The whole grid.
        begin: The first of them.
        end: The first after them.
    """

    grid: TimeGrid
    begin: int
    end: int

    @property
    def part(self) -> TimeGrid:
        """The grid of the section."""
        bounds = self.grid.bounds[self.begin : self.end + 1]
        points = self.grid.points[bounds[0] : bounds[-1] + 1]
        return TimeGrid(points, tuple(bound - bounds[0] for bound in bounds))

    @property
    def outside(self) -> tuple[int, int]:
        """How many slices there are on its left and on its right."""
        return self.begin, self.grid.num_slices - self.end

    def next(self, frontier: int, width: int) -> Section | None:
        """The section to continue in; ``None`` while this one will do.

        Args:
            frontier: Slices of this section that are final or accepted.
            width: Slices of the window.
        """
        slices, last = self.end - self.begin, self.grid.num_slices
        if self.end == last or frontier + slices // 4 + 2 * width < slices:
            return None
        begin = min(self.begin + frontier - _BEFORE, last - slices)
        return Section(self.grid, begin, begin + slices)


def first_section(
    inputs: Inputs, correction: Correction, schedule: Schedule, stop: StoppingRule, dense: bool
) -> Section | None:
    """The first section of a run; ``None`` where the engine sees the whole grid.

    Own parts see the whole grid as well: they may depend on numbers of slices.
    """
    width, slices, problem = schedule.width, inputs.grid.num_slices, inputs.problem
    if width is None or dense or inputs.samples or inputs.rows is not None or type(problem) is not ODE:
        return None
    size, level = max(LEAST, WIDTHS * width), correction
    while isinstance(level, Correction) and type(level).__module__.startswith("parareal."):
        level = getattr(level, "correction", None)
    traits = correction.traits
    ours = level is None and type(inputs.fine).__module__.startswith("parareal.") and _known(stop)
    whole = traits.nested is not None or traits.relaxations or isinstance(inputs.fine, Multistep)
    return None if slices <= 2 * size or whole or not ours else Section(inputs.grid, 0, size)


def _known(stop: StoppingRule) -> bool:
    """Whether a rule is one of this package, which decide by the slices of a window alone."""
    if isinstance(stop, _Combined):
        return _known(stop.first) and _known(stop.second)
    return type(stop) in (Tolerance, Iterations)


def move_on(old: Engine, new: Engine, by: int) -> None:
    """Continues the run of ``old``, of one system, in ``new``, whose section begins ``by`` slices further right."""
    it, state, slices = old.iterates, old.state, old.iterates.layout.slices
    frontier, number, n = state.frontier, state.current.max(1), np.arange(slices)
    going = (n >= frontier[:, None]) & (n < frontier[:, None] + it.layout.width)
    earlier = _earlier_iterates.take_out(it, exactly(it.setup.correction), number, going)
    packed = state.pack()
    reached = _shifted(packed["reached"], by, False) & (
        np.arange(slices + 1) <= frontier[:, None] - by + it.layout.width
    )
    packed |= {"reached": reached, "residuals": _shifted(packed["residuals"], by, np.nan)}
    packed |= {"frontier": frontier - by, "proven": state.proven - by}
    u = _states(old, frontier, number, reached, by)
    new.state.unpack(packed)
    new.state.limit[:] = state.limit
    new.iterates.put_back(u)
    if earlier is not None:
        depths = {name: _shifted(getattr(earlier, name), by, 0) for name in ("slices", "boundaries")}
        _earlier_iterates.put_back(
            new.iterates, EarlierIterates(earlier.correction, **depths, states=earlier.states), number
        )
    new.iterates.changes.take_over(it.changes, by)
    records = error_record(old.stopping)
    for name, array in error_record(new.stopping).items():
        if array.ndim == 1:
            np.copyto(array, records[name])
        elif not name.endswith("part"):  # the parts of the tolerance belong to the section
            array[:, : array.shape[1] - by] = records[name][:, by:]
    new.iterates.look()


def _states(old: Engine, frontier: Ints, number: Ints, reached: Any, by: int) -> State:
    """The current states at the boundaries of the next section from the window on, and zeros elsewhere."""
    it, boundaries = old.iterates, np.arange(reached.shape[1])
    ids = (reached[0] & (boundaries >= frontier[0] - by - 2)).nonzero()[0]
    here = it.rings.u.peek(ids + by, old.state.current[0, ids + by])
    there = index_to(it.layout.device, ids)

    return trees.map(lambda leaf: leaf.new_zeros((len(boundaries), *leaf.shape[1:])).index_copy(0, there, leaf), here)


def _shifted(array: Any, by: int, rest: Any) -> Any:
    """The columns from number ``by`` on, and after them ``rest``."""
    return np.concatenate([array[:, by:], np.full_like(array[:, :by], rest)], axis=1)


@dataclass(frozen=True, eq=False)
class Passed:
    """What is kept of slices that no section has any more.

    Attributes:
        section: The section of the engine.
        residuals: Relative defects, ``(N,)``, of all slices on its left.
    """

    section: Section
    residuals: Floats

    @classmethod
    def none(cls, section: Section) -> Passed:
        """Nothing, before the first section."""
        return cls(section, np.full(section.grid.num_slices, np.nan))

    def after(self, engine: Engine, section: Section) -> Passed:
        """With the slices of an engine that the next section leaves behind."""
        self.fill(engine)
        return replace(self, section=section)

    def fill(self, engine: Engine) -> Floats:
        """The relative defects of all slices, ``(N,)``."""
        state, begin, end = engine.state, self.section.begin, self.section.end
        final = np.arange(end - begin) < state.final()[0]
        self.residuals[begin:end] = np.where(final, 0.0, state.residuals[0])
        return self.residuals

    def spread(self, increments: Floats) -> Floats:
        """Increments of all slices, ``(1, N)``, from those of the section: zero on its left, NaN on its right."""
        begin, end = self.section.begin, self.section.end
        table = np.zeros((1, self.section.grid.num_slices))
        table[:, begin:end], table[:, end:] = increments, np.nan
        return table
