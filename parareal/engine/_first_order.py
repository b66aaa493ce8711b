"""The step of order 1 in a multistep method: what becomes of an error whose history goes with its state.

A multistep method makes more of a move whose history does not go with its state than of one whose does, and iterates
move like the former. The product over many slices of what single steps make of such moves exceeds by far what becomes
of an error, which has a history of its own after a few steps. So the change of the step of order 1, which takes no
history, is measured beside that of the method.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Floats, Ints
from parareal._core.checks import described
from parareal._core.host import Table
from parareal._core.trees import State
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._base import Integrator, Multistep


class FirstOrder(NamedTuple):
    """The step of order 1 in each slice, where slices are single steps: ``scale`` times (``ratio`` u + newest value).

    Attributes:
        ratio: The weight of the state over that of the newest value.
        scale: The weight of the newest value, positive, ``(N,)``.
    """

    ratio: Table
    scale: Floats

    @classmethod
    def of(cls, fine: Integrator, problem: Any, grid: TimeGrid) -> FirstOrder | None:
        """That of a fine propagator; ``None`` where it is not known, or slices have more than one step."""
        single = grid.num_steps == grid.num_slices and fine.steps in (None, 1)
        if not (single and isinstance(fine, Multistep) and not fine.restart):
            return None
        edges = grid.edges.detach()
        with torch.no_grad():
            weights: Any = fine.first_order(problem, edges[:-1], edges[1:])
        if weights is None:
            return None
        shape = (grid.num_slices,)
        if not isinstance(weights, tuple | list) or [getattr(part, "shape", None) for part in weights] != [shape] * 2:  # pyright: ignore
            raise TypeError(
                f"first_order of {fine!r} returned {described(weights)}; expected the weights of the state and of the "
                f"newest value in the history, two tensors of shape {shape}, or None"
            )
        keep, scale = (part.to("cpu", torch.float64) for part in weights)
        return cls(Table(keep / scale), scale.abs().numpy())

    def change(self, n: Ints, moved: State, newest: State) -> State:
        """What the step makes, over ``scale``, of moves of the states and of the newest values in slices ``n``."""

        def leaf(move: Tensor, value: Tensor) -> Tensor:
            ratio = self.ratio.rows(n, value.device, value.real.dtype)
            return torch.addcmul(value, move, trees.per_lane(ratio, value))

        return trees.map(leaf, moved, newest)


def newest(tree: Any) -> tuple[State, State]:
    """Of a state with its history the state, and the newest value in the history."""
    return tree.u, tree.memory.values[0]
