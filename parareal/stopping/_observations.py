"""What a stopping rule receives: how a run begins, and what each iteration has shown."""

from __future__ import annotations

from typing import NamedTuple

from parareal._core.arrays import Bools, Floats, Ints


class Start(NamedTuple):
    """A run that begins: M systems of N slices.

    Attributes:
        systems: M.
        width: Slices that are worked on at a time.
        mismatch: What a correction may miss of a move, as a part of it, before any was seen; ``(N,)``.
        mixed: Whether iterates are mixed, so that defects do not show what was missed of the move before.
        carried: Whether states carry the history of a multistep method, whose errors come on top.
        rounding: Of the states, relative: what moves that are hardly larger show is rounding.
    """

    systems: int
    width: int
    mismatch: Floats
    mixed: bool = False
    carried: bool = False
    rounding: float = 2.2e-16


class Seen(NamedTuple):
    """An iteration of D systems.

    Attributes:
        systems: Their numbers, ``(D,)``.
        figures: ``(D, N, C)``: zero at boundaries that were final before, NaN where nothing was computed yet.
        system: Of P boundaries that have moved, in the order in which they did, the system, 0 ... D - 1; ``(P,)``.
        n: The slices whose right boundaries they are, ``(P,)``.
        number: The numbers of the iterates that they took, ``(P,)``.
        exact: Whether they took their final state, from an input that is final, ``(P,)``.
        values: Their figures, ``(P, C)``.
        frontier: Slices final or accepted before it, ``(D,)``.
        final: The same after it, ``(D,)``.
        iteration: Iterations made, ``(D,)``.
    """

    systems: Ints
    figures: Floats
    system: Ints
    n: Ints
    number: Ints
    exact: Bools
    values: Floats
    frontier: Ints
    final: Ints
    iteration: Ints
