"""The history of exponential multistep methods: values at earlier steps, and their times."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.host import on_host
from parareal._core.multistep_state import Memory
from parareal._core.trees import State
from parareal.problem._semilinear import Factors, Split, Weights, beside_factor


class History(NamedTuple):
    """Values N at the steps before, newest first.

    Attributes:
        values: N times a factor of its step, which converts it to units of the state.
        times: Their times, each ``(L,)``.
        units: Those factors, each ``(L,)``.
        known: The number of known values, int64, ``(L,)``; the others are zero.
        kept: Further states that a method keeps.
    """

    values: list[State]
    times: list[Tensor]
    units: list[Tensor]
    known: Tensor
    kept: tuple[State, ...] = ()

    def nodes(self, split: Split, weights: Weights, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """Their positions in the variable of a step that begins at ``t``, and how many of them can be used.

        None if the step is infinitely long; otherwise those before the first that is infinitely far away.
        """
        here = split.level(t)
        nodes = [(split.level(time) - here) / weights.h for time in self.times]
        if not split.endless:
            return nodes, self.known
        usable = torch.where(torch.isfinite(weights.h) & torch.isfinite(here), self.known, 0)
        for j, node in enumerate(nodes):
            usable = torch.where(torch.isfinite(node) & (node != 0), usable, usable.clamp(max=j))
        return nodes, usable

    def factor(self, weight: Factors, j: int) -> Factors:
        """The factor of ``values[j]`` that gives its N a weight."""
        unit = self.units[j]
        unit = torch.where(unit == 0, 1.0, unit)
        return tuple(part / beside_factor(unit, part) for part in weight)


def no_history(u: State, depth: int, kept: int = 0) -> Memory:
    """The history of a method that has made no step, of ``depth`` values and ``kept`` states."""
    leaf = trees.leaves(u)[0]
    zeros = trees.map(torch.zeros_like, u)
    clock = torch.zeros(leaf.shape[0], 1 + 2 * depth, dtype=torch.float64)
    return Memory((zeros,) * depth, (zeros,) * kept, clock)


def placed(split: Split, memory: Memory, *times: Tensor) -> tuple[History, list[Tensor]]:
    """A history, and times, where the weights of a split are computed: on the host if they can be."""
    if split.on_host:
        return recall(memory._replace(clock=memory.clock.cpu())), [on_host(time) for time in times]
    return recall(memory._replace(clock=memory.clock.to(times[0].device))), [*times]


def recall(memory: Memory) -> History:
    """Unpacks a history."""
    clock = memory.clock
    known, *columns = clock.unbind(1)
    return History(list(memory.values), columns[0::2], columns[1::2], known.long(), memory.states)


def remember(history: History, t: Tensor, rest: State, unit: Tensor, there: Tensor | None = None) -> Memory:
    """The history after a step that began at ``t`` with N = ``rest``, all as deep as before.

    ``there`` is the unit where states lie, if it has got there already.
    """
    depth = len(history.values)
    known = (history.known + 1).clamp(max=depth)
    return store(history._replace(known=known), [rest, *history.values][:depth], t, unit, there)


def store(history: History, values: list[State], t: Tensor, unit: Tensor, there: Tensor | None = None) -> Memory:
    """Values of which the first one, N at time ``t``, is new and not in units of the state yet."""
    times, units = [t, *history.times][: len(values)], [unit, *history.units][: len(values)]
    if values:
        factor = unit if there is None else there
        scaled = trees.map(lambda leaf: trees.per_lane(factor, leaf) * leaf, values[0])
        values = [scaled, *values[1:]]
    columns = [history.known.to(torch.float64)]
    for time, number in zip(times, units, strict=True):
        columns += [time, number]
    return Memory(tuple(values), history.kept, torch.stack(columns, 1))
