"""What a stopping rule receives: the shape of the run at its start, and the figures of each iteration."""

from __future__ import annotations

from typing import NamedTuple

from parareal._core.arrays import Bools, Floats, Ints


class Start(NamedTuple):
    """A run that begins: M systems of N slices.

    Attributes:
        systems: M.
        width: Slices computed at a time.
        mismatch: The part of a move that the correction expects to miss, before any was seen; ``(N,)``.
        mixed: Whether iterates are mixed, so that defects do not show what was missed of the move before.
        carried: Whether states carry the history of a multistep method, whose errors are added.
        rounding: Relative rounding unit of the states. Moves that are hardly larger show rounding only.
        relaxations: How many iterates without a correction precede each one that has it.
        outside: How many slices the grid has on the left and on the right of these N.
        blind: How many of the first moves show nothing: fine solutions begin near the solution, without its history.
        scale: That of the step of order 1 in a multistep method, ``(N,)``; ``None`` where that is unknown.
    """

    systems: int
    width: int
    mismatch: Floats
    mixed: bool = False
    carried: bool = False
    rounding: float = 2.2e-16
    relaxations: int = 0
    outside: tuple[int, int] = (0, 0)
    blind: int = 0
    scale: Floats | None = None


class Seen(NamedTuple):
    """An iteration of Q systems, in which V boundaries have moved.

    Attributes:
        systems: Numbers of the systems, ``(Q,)``.
        figures: C figures of each right boundary, ``(Q, N, C)``: zero if it was final before, NaN if not computed yet.
        system: The systems of the boundaries that have moved, in the order of their moves, 0 ... Q - 1; ``(V,)``.
        n: The slices whose right boundaries they are, ``(V,)``.
        number: The numbers of the iterates that they took, ``(V,)``.
        exact: Whether they took their final state, from an input that is final, ``(V,)``.
        values: Their figures, ``(V, C)``.
        frontier: Slices final or accepted before the iteration, ``(Q,)``.
        final: The same after it, ``(Q,)``.
        iteration: Iterations made, ``(Q,)``.
        first_order: Norms of the changes of the step of order 1 in a multistep method, over its scale, and of the moves
            that made them, ``(V, 2)``; no columns where they are unknown.
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
    first_order: Floats | None = None
