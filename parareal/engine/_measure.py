"""The moves of an iteration, measured on the device and brought to the host in one transfer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.trees import State
from parareal.executors._base import Executor
from parareal.stopping._checked import measured_by
from parareal.stopping._increments import Change, What
from parareal.stopping._rules import StoppingRule


class Figures(NamedTuple):
    """The figures of an iteration: by right boundary, ``(Q, N, 1 + C + 2)``, and by move, in the order of moves.

    The increment comes first, then the C figures of the stopping rule, then what a multistep method's step of order 1
    shows, if that is known, then the defect and the size of the iterate. For ``moved`` see `Seen`.
    """

    grid: Floats
    moved: tuple[Ints, Ints, Ints, Bools, Floats]


def measured(rule: StoppingRule, change: Change, front: State, executor: Executor) -> tuple[Floats, Bools]:
    """Figures of all moves, ``(V, 1 + C + 2)``, and whether the Q states ``front`` are finite.

    One transfer from the device brings all of them, because a transfer takes as long as a small round.
    """
    kind = rule.traits.norm
    increments = change.norm("increment", kind)
    columns = [increments, *measured_by(rule, change, increments)]
    shown: tuple[What, ...] = ("first order", "moved") if change.shows_first_order else ()
    columns += [change.norm(what, kind) for what in (*shown, "defect", "size")]
    count = len(trees.leaves(front)[0])
    # x - x is zero for finite numbers alone, of complex and real ones alike.
    # The times of a history, on the host, are finite.
    leaves = [leaf for leaf in trees.leaves(front) if leaf.device == columns[0].device]
    whole = torch.cat([leaf.detach().reshape(count, -1) for leaf in leaves], 1) if len(leaves) > 1 else leaves[0]
    sound = (whole - whole == 0).reshape(count, -1).all(1)
    packed = executor.agree(torch.cat([*columns, sound]).cpu()).numpy()
    return packed[:-count].reshape(len(columns), -1).T, packed[-count:] > 0


def figures(
    values: Floats, complete: Ints, place: Ints, number: Ints, final: Bools, unknown: Bools | None, slices: int
) -> Figures:
    """Sorts the figures of moves, ``(V, 1 + C + 2)``, by system and slice.

    Args:
        values: The figures.
        complete: The systems measured, in order, ``(Q,)``.
        place: Slices of all systems, ``(V,)``.
        number: The iterates that their right boundaries took, ``(V,)``.
        final: Whether these were final, ``(V,)``.
        unknown: Slices whose figures are NaN if nothing was computed, ``(Q, N)``; ``None`` for zero everywhere.
        slices: N.
    """
    grid = np.zeros((len(complete), slices, values.shape[1]))
    if unknown is not None:
        grid[unknown] = np.nan
    row, n = np.searchsorted(complete, place // slices), place % slices
    grid[row, n] = values
    return Figures(grid, (row, n, number, final, values[:, 1:]))
