"""First iterates that come from outside, as they are or moved along with the boundary that they follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.host import places
from parareal._core.multistep_state import Carried, Memory, without_history
from parareal._core.trees import State
from parareal.engine._readiness import Runs
from parareal.grid._mesh import Span

if TYPE_CHECKING:
    from parareal.engine._states import StoredStates


def given_states(it: StoredStates, rows: Runs, system: Ints, n: Ints) -> State:
    """What is given of the right boundaries ``n`` of rows, leaves ``(K, *state)``: those of ``rows`` that are valid."""
    setup, device, slices = it.setup, it.layout.device, it.layout.slices
    assert setup.given is not None
    place = places(device, system * (slices + 1) + n + 1)
    value = trees.lanes(setup.given.states, place)
    # First iterates of a run that is opened again have their histories, and stand where they are.
    if setup.given.shifted and setup.traits.stacked:
        value = _moved(value, _shift(it, rows))
    if setup.empty is not None and not isinstance(value, Carried):
        value = Carried(value, setup.empty(value))
    return value


def _shift(it: StoredStates, rows: Runs) -> State:
    """What the correction makes of the distance of the left boundaries of rows from what is given there.

    The recursion would do the same one iteration later: the difference of two guesses is the correction's own model of
    how a change is carried on.
    """
    setup, slices, start = it.setup, it.layout.slices, rows.n[:, 0]
    assert setup.given is not None
    boundary = rows.system * (slices + 1) + start
    now = without_history(it.rings.u.peek(boundary, it.state.current[rows.system, start]))
    place = places(it.layout.device, boundary)
    given = trees.lanes(without_history(setup.given.states), place)
    at = Span(setup.times, rows.n)
    shift = trees.join(trees.sub(setup.correction.guess_run(at, now, ()), setup.correction.guess_run(at, given, ())))
    if rows.ragged:
        ((shift,),) = it.valid(rows, (shift,))
    return shift


def _moved(value: State, shift: State) -> State:
    """States, and the earlier states in their histories, moved by ``shift`` where the result is finite."""
    if isinstance(value, Carried):
        earlier = tuple(_moved(state, shift) for state in value.memory.states)
        return Carried(_moved(value.u, shift), Memory(value.memory.values, earlier, value.memory.clock))
    return trees.finite_or(trees.add(value, shift), value)
