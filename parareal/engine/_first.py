"""First iterates that come from outside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parareal._core import trees
from parareal._core.multistep_state import Carried
from parareal._core.trees import State
from parareal.grid._time_grid import TimeGrid
from parareal.results._run_identity import digest
from parareal.results._snapshot import SecantPairs
from parareal.schedules._schedule import Guess, Schedule
from parareal.schedules._windowed import INITIAL


@dataclass(frozen=True, eq=False)
class First:
    """First iterates from outside, in place of the correction's guesses.

    Attributes:
        states: At all boundaries, leaves ``(M * (N + 1), *state)``; `Carried` where they have a multistep history.
        guess: What makes them, where there are no states.
        shifted: Whether states move with the left boundary of their row, as far as the correction's guess does: they
            are of another run, from which this one may differ there already.
        pairs: Secant pairs of slices, of another run, for corrections that make use of such.
    """

    states: State = None
    guess: Guess | None = None
    shifted: bool = True
    pairs: SecantPairs | None = None

    def described(self) -> str:
        """A text that differs where they do, so that processes can compare theirs."""
        return "a function" if self.states is None else digest(trees.leaves(self.states))


def blind_moves(u0: State, given: First | None, schedule: Schedule, grid: TimeGrid) -> int:
    """How many of the first fine solutions show nothing, as they begin near the solution without its history.

    The history of a multistep method comes with the first fine solutions. Guesses of corrections move so far that this
    hardly matters, but states of another run, or a user's guesses, do not: what histories change would be taken for
    what the moves of states change.

    Args:
        u0: The initial states; `Carried` where they carry such a history.
        given: First iterates, or guesses, from outside.
        schedule: The schedule, which may have guesses of the user.
        grid: The time grid.
    """
    near = given is not None or schedule.guess not in INITIAL.values()
    if not isinstance(u0, Carried) or not near or (given is not None and isinstance(given.states, Carried)):
        return 0
    kept = max(len(u0.memory.values), len(u0.memory.states))
    return -(-kept // int(np.diff(grid.bounds).min()))
