"""Lanes between two steps, stacked so that they are stepped together, whatever their slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.host import index_to, still_known, values_of
from parareal._core.trees import State


@dataclass(eq=False, slots=True)
class Lanes:
    """L lanes at a point of their mesh, between two steps.

    Attributes:
        ids: Their tickets, ``(L,)``: a place plus the number of places times that of the iterate they started from.
        left: Steps they have still to make, ``(L,)``.
        at: Index of their current time in the mesh, ``(L,)``.
        t: Their current time, float64, ``(L,)``.
        u: Their states, leaves ``(L, *state)``.
        rows: Per-sample data of their samples, or ``None``.
        fresh: Whether they are at the left boundary of their slice, ``(L,)``.
        number: Numbers of their next steps, as a multistep method counts them, and how many there are, ``(L, 2)``;
            ``None`` for other methods. Of methods that choose their own steps the numbers of `Paced`, ``(L, 5)``.
    """

    ids: Ints
    left: Ints
    at: Ints
    t: Tensor
    u: State
    rows: State
    fresh: Bools
    number: Any = None

    def __getitem__(self, mask: Bools) -> Lanes:
        index = index_to(self.t.device, mask.nonzero()[0])
        u, rows = trees.lanes(self.u, index), None if self.rows is None else trees.lanes(self.rows, index)
        number = None if self.number is None else self.number[mask]
        t = still_known(self.t.index_select(0, index), [self.t], lambda values: values[0][values_of(index)])
        return Lanes(self.ids[mask], self.left[mask], self.at[mask], t, u, rows, self.fresh[mask], number)


def merged(parts: list[Lanes]) -> Lanes:
    """Joins stacks into one."""
    return Lanes(
        ids=np.concatenate([part.ids for part in parts]),
        left=np.concatenate([part.left for part in parts]),
        at=np.concatenate([part.at for part in parts]),
        t=trees.cat([part.t for part in parts]),
        u=trees.cat([part.u for part in parts]),
        rows=None if parts[0].rows is None else trees.cat([part.rows for part in parts]),
        fresh=np.concatenate([part.fresh for part in parts]),
        number=None if parts[0].number is None else np.concatenate([part.number for part in parts]),
    )
