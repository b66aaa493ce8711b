"""Moves of boundaries: recorded one by one, and measured all together once an iteration is complete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Ints
from parareal._core.host import index_to
from parareal._core.multistep_state import Carried, without_history
from parareal._core.norms import NormName, largest_norm, norm
from parareal._core.trees import State

What: TypeAlias = Literal["increment", "defect", "size", "carried", "first order", "moved"]
_CARRIED = ("carried", "first order", "moved")


class Change:
    """The moves of L boundaries in one iteration, and their norms, each computed once.

    Args:
        new: The new iterates.
        old: The iterates before.
        fine: Fine solutions from the inputs before: ``fine - old`` is the defect of the old iterate.
        carried: Changes of fine solutions with the last moves of their inputs, without a history, NaN where these are
            unknown; and of a multistep method those of its step of order 1, over a scale, and these moves, without a
            history. None if they are not kept.
    """

    def __init__(self, new: State, old: State, fine: State, *carried: State) -> None:
        self._parts: list[tuple[State, ...]] = [(new, old, fine, *carried)]
        self._norms: dict[tuple[str, str], Tensor] = {}

    @classmethod
    def of(cls, parts: list[tuple[State, ...]]) -> Change:
        """The moves of all boundaries of several parts, in this order."""
        change = cls(*parts[0])
        change._parts = parts
        return change

    @property
    def shows_first_order(self) -> bool:
        """Whether changes of the step of order 1 are known."""
        return len(self._parts[0]) > 4

    def norm(self, what: What, kind: NormName) -> Tensor:
        """The norm of one part of the moves.

        If states carry the history of a multistep method, the norm is the larger one of state and history.

        Args:
            what: ``"increment"``, the new iterate minus the old; ``"defect"``, F(old input) minus the old iterate;
                ``"size"``, the new iterate; ``"carried"``, the change of the fine solution with the last move of its
                input, NaN where that is unknown; ``"first order"``, the same of the step of order 1 in a multistep
                method, over a scale, and ``"moved"``, that last move, where these are known.
            kind: The norm.
        """
        key = (what, kind)
        if what == "carried" and len(self._parts[0]) < 4:
            return torch.full_like(self.norm("size", kind), float("nan"))
        if key not in self._norms:
            each = [_norm_of(states, what, kind) for states in self._parts]
            self._norms[key] = each[0] if len(each) == 1 else torch.cat(each)
        return self._norms[key]


def _norm_of(states: tuple[State, ...], what: str, kind: NormName) -> Tensor:
    new, old, fine, *carried = states
    if what in _CARRIED:
        return norm(carried[_CARRIED.index(what)], kind)
    tree = new if what == "size" else trees.sub(new if what == "increment" else fine, old)
    if isinstance(tree, Carried) and what != "size":  # a state has settled only if its history has
        return largest_norm([tree.u, *tree.memory.values, *tree.memory.states], kind)
    return norm(without_history(tree), kind)


class Changes:
    """The moves that have not been measured yet.

    Args:
        slices: Slices of each system: slice ``n`` of system ``m`` has the number ``m * slices + n``.
    """

    def __init__(self, slices: int) -> None:
        self._slices = slices
        self._parts: list[tuple[Ints, Ints, Bools, tuple[State, ...]]] = []

    def add(self, ids: Ints, iterate: Ints, states: tuple[State, ...], final: bool = False) -> None:
        """Records that right boundaries of slices ``ids`` took iterates ``iterate``, or final states; see `Change`."""
        self._parts.append((ids, iterate, np.full(len(ids), final), states))

    def take_over(self, other: Changes, by: int) -> None:
        """Takes over the moves of another run of one system, whose slices have numbers that are larger by ``by``."""
        self._parts = [(ids - by, iterate, final, states) for ids, iterate, final, states in other._parts]

    def newest_first(self) -> Iterator[tuple[Ints, State, Bools]]:
        """Slices whose moves are not measured yet, with the states before, and which of them became final."""
        return ((ids, states[1], final) for ids, _, final, states in reversed(self._parts))

    def take(self, systems: Ints, last: Ints | None) -> tuple[Ints, Ints, Bools, Change]:
        """Removes and returns moves of some systems, up to iterate ``last[system]``, with slices and iterates."""
        parts, self._parts = self._parts, []
        ids = np.concatenate([part[0] for part in parts])
        iterate = np.concatenate([part[1] for part in parts])
        final = np.concatenate([part[2] for part in parts])
        states = [part[3] for part in parts]
        owner = ids // self._slices
        chosen = np.isin(owner, systems)
        if last is not None:
            chosen &= iterate <= last[owner]
        if chosen.all():
            return ids, iterate, final, Change.of(_in_few(states))
        (whole,) = _in_few(states, most=1)
        device = trees.leaves(whole[0])[0].device
        later, now = (index_to(device, mask.nonzero()[0]) for mask in (~chosen, chosen))
        kept = tuple(trees.lanes(part, later) for part in whole)
        self._parts = [(ids[~chosen], iterate[~chosen], final[~chosen], kept)]
        taken = tuple(trees.lanes(part, now) for part in whole)
        return ids[chosen], iterate[chosen], final[chosen], Change(*taken)


def _in_few(parts: list[tuple[State, ...]], most: int = 3) -> list[tuple[State, ...]]:
    """Parts joined to at most ``most``, in their order, 1 or 3.

    On the host the largest one is left alone, if most lanes are in it: its copy takes longer than to measure it apart.
    """
    sizes = [len(trees.leaves(states[0])[0]) for states in parts]
    largest, groups = int(np.argmax(sizes)), [parts]
    if most > 1 and 2 * sizes[largest] > sum(sizes) and trees.leaves(parts[0][0])[0].device.type == "cpu":
        groups = [parts[:largest], parts[largest : largest + 1], parts[largest + 1 :]]
    return [tuple(trees.cat(list(same)) for same in zip(*group, strict=True)) for group in groups if group]
