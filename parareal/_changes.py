"""How slice ends moved: noted edge by edge as it happens, measured all together once an iteration is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from parareal import _tree
from parareal._memory import Carried, bare
from parareal._norm import NormName, norm
from parareal._schedule import Bools, Ints
from parareal._tree import State


class Change:
    """How slice ends moved in one iteration, on L lanes, and its norms, each computed once.

    Args:
        new: The new iterates.
        old: The iterates before.
        fine: Fine solutions from the inputs before: ``fine - old`` is the defect of the old iterate.
    """

    def __init__(self, new: State, old: State, fine: State) -> None:
        self._parts: dict[str, Callable[[], State]] = {
            "increment": lambda: _tree.sub(new, old),
            "defect": lambda: _tree.sub(fine, old),
            "size": lambda: new,
        }
        self._norms: dict[tuple[str, str], Tensor] = {}

    def norm(self, what: Literal["increment", "defect", "size"], kind: NormName) -> Tensor:
        """Norm of the new iterate minus the old, of F(old input) minus the old iterate, or of the new iterate.

        Where a multistep method's memory travels with the state, the larger of what both moved by.
        """
        key = (what, kind)
        if key not in self._norms:
            tree = self._parts[what]()
            value = norm(bare(tree), kind)
            if isinstance(tree, Carried) and what != "size":  # settled is what has settled with its memory
                parts = (*tree.memory.values, *tree.memory.states)
                value = torch.stack([value, *(norm(part, kind) for part in parts)]).amax(0)
            self._norms[key] = value
        return self._norms[key]


class Changes:
    """What has changed and was not measured yet.

    Args:
        slices: Slices of each system: slice ``n`` of system ``m`` has the number ``m * slices + n``.
    """

    def __init__(self, slices: int) -> None:
        self._slices = slices
        self._parts: list[tuple[Ints, Ints, State, State, State, Bools]] = []

    def add(self, ids: Ints, iterate: Ints, new: State, old: State, fine: State, final: bool = False) -> None:
        """Right edges of slices ``ids`` have taken the iterates numbered ``iterate``, or final ones."""
        self._parts.append((ids, iterate, new, old, fine, np.full(len(ids), final)))

    def newest_first(self) -> Iterator[tuple[Ints, State, Bools]]:
        """Slices whose right edges have moved and were not measured, what these held before, and which became final."""
        return ((ids, old, final) for ids, _, _, old, _, final in reversed(self._parts))

    def take(self, systems: Ints, last: Ints | None) -> tuple[Ints, Ints, Bools, Change]:
        """Takes out the changes of some systems, up to iterate ``last[system]``, with slices and iterates."""
        ids = np.concatenate([part[0] for part in self._parts])
        iterate = np.concatenate([part[1] for part in self._parts])
        final = np.concatenate([part[5] for part in self._parts])
        new, old, fine = (_tree.cat([part[i] for part in self._parts]) for i in (2, 3, 4))
        owner = ids // self._slices
        chosen = np.isin(owner, systems)
        if last is not None:
            chosen &= iterate <= last[owner]
        self._parts = []
        if not chosen.all():
            device = _tree.leaves(new)[0].device
            later, now = (torch.from_numpy(mask.nonzero()[0]).to(device) for mask in (~chosen, chosen))
            kept = [_tree.lanes(part, later) for part in (new, old, fine)]
            self._parts = [(ids[~chosen], iterate[~chosen], kept[0], kept[1], kept[2], final[~chosen])]
            ids, iterate, final = ids[chosen], iterate[chosen], final[chosen]
            new, old, fine = (_tree.lanes(part, now) for part in (new, old, fine))
        return ids, iterate, final, Change(new, old, fine)
