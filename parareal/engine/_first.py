"""First iterates that come from outside."""

from __future__ import annotations

from dataclasses import dataclass

from parareal._core import trees
from parareal._core.trees import State
from parareal.results._run_identity import digest
from parareal.results._snapshot import SecantPairs
from parareal.schedules._schedule import Guess


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
