"""What an iteration has moved, measured on the device and brought to the host at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.norms import NormName
from parareal._core.trees import State
from parareal.executors._base import Executor
from parareal.stopping._increments import Change
from parareal.stopping._rules import StoppingRule


class Figures(NamedTuple):
    """What was measured: of each slice's right boundary, ``(D, N, 1 + C + 2)``, and of each change as it came.

    The increment comes first, then what the stopping rule asks for, then the defect and the size of the iterate; for
    ``moved`` see `Seen`.
    """

    grid: Floats
    moved: tuple[Ints, Ints, Ints, Bools, Floats]


def measured(rule: StoppingRule, change: Change, front: State, executor: Executor) -> tuple[Floats, Bools]:
    """Figures of all changes, ``(P, 1 + C + 2)``, and whether the D states ``front`` are finite.

    All of it comes in one transfer from the device: each costs as long as a small round.
    """
    kind: NormName = rule.norm
    columns = [change.norm("increment", kind), *rule.measure(change)]
    columns += [change.norm("defect", kind), change.norm("size", kind)]
    count = len(trees.leaves(front)[0])
    # x - x is zero for finite numbers alone, of complex and real ones alike.
    finite = [(leaf - leaf == 0).reshape(count, -1).all(1) for leaf in trees.leaves(front)]
    sound = finite[0] if len(finite) == 1 else torch.stack(finite).all(0)
    packed = executor.agree(torch.cat([*columns, sound]).cpu()).numpy()
    return packed[:-count].reshape(len(columns), -1).T, packed[-count:] > 0


def figures(
    values: Floats, complete: Ints, place: Ints, number: Ints, final: Bools, unknown: Bools | None, slices: int
) -> Figures:
    """The figures of changes, ``(P, K)``, put where they belong.

    Args:
        values: The figures.
        complete: The systems measured, in order, ``(D,)``.
        place: Slices of all systems, ``(P,)``.
        number: The iterates that their right boundaries took, ``(P,)``.
        final: Whether these were final, ``(P,)``.
        unknown: Slices that figures of NaN are of where nothing was computed, ``(D, N)``; ``None`` for zero everywhere.
        slices: N.
    """
    grid = np.zeros((len(complete), slices, values.shape[1]))
    if unknown is not None:
        grid[unknown] = np.nan
    row, n = np.searchsorted(complete, place // slices), place % slices
    grid[row, n] = values
    return Figures(grid, (row, n, number, final, values[:, 1:]))
