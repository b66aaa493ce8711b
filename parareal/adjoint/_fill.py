"""States inside slices, differentiable without the graph of the steps that lead to them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.adjoint._attach import Adjoint, once
from parareal.adjoint._backward import Wanted
from parareal.adjoint._transpose import Linearised


def fill_by_adjoint(adjoint: Adjoint, us: State, states: State) -> State:
    """States at all points of a grid, from which gradients flow to those at its slice boundaries and to all else.

    Args:
        adjoint: The adjoint of the run, of one system.
        us: States at slice boundaries, leaves ``(N + 1, *state)``, with their graph.
        states: States at all points, leaves ``(num_steps + 1, *state)``, computed from these slice by slice.
    """
    if adjoint.inputs.grid.num_steps == adjoint.inputs.grid.num_slices:
        return us
    grid = adjoint.inputs.grid
    times = grid.points if grid.given is None else grid.given
    outputs: Any = _Fill.apply(adjoint, us, states, *trees.leaves(us), times, *adjoint.back.params)
    return trees.rebuild(list(outputs), us)


class _Fill(torch.autograd.Function):
    """From states at slice boundaries to those at all points."""

    @staticmethod
    def forward(ctx: Any, adjoint: Adjoint, us: State, states: State, *inputs: Tensor) -> tuple[Tensor, ...]:
        count = len(trees.leaves(us))
        ctx.adjoint, ctx.like, ctx.count = adjoint, trees.map(lambda leaf: leaf.detach()[:0], us), count
        ctx.save_for_backward(*[leaf.detach() for leaf in inputs[:count]], *adjoint.back.params[: adjoint.saved])
        return tuple(trees.leaves(states))

    @staticmethod
    def backward(ctx: Any, *direct: Tensor) -> tuple[Any, ...]:
        with torch.no_grad():
            found = _backward(ctx, direct)
        return None, None, None, *(once(found) if torch.is_grad_enabled() else found)


def _backward(ctx: Any, direct: tuple[Tensor, ...]) -> list[Any]:
    """Gradients with respect to the tensors that `fill_by_adjoint` has named."""
    adjoint, needed = ctx.adjoint, ctx.needs_input_grad[3:]
    grid, params = adjoint.inputs.grid, adjoint.back.params
    bounds, steps = torch.tensor(grid.bounds), max(grid.steps_per_slice)
    after = bounds[:-1, None] + torch.arange(1, steps + 1)
    inside = after < bounds[1:, None]
    at = torch.where(inside, after, 0)

    def within(leaf: Tensor) -> Tensor:
        part = leaf[at.to(leaf.device)]
        return part.masked_fill(~inside.to(leaf.device).reshape(*inside.shape, *[1] * (leaf.ndim - 1)), 0)

    inner = trees.rebuild([within(leaf) for leaf in direct], ctx.like)
    states = trees.rebuild([leaf.unsqueeze(0) for leaf in ctx.saved_tensors[: ctx.count]], ctx.like)
    right = trees.map(lambda leaf: torch.zeros_like(leaf[0, 1:]), states)
    wanted = Wanted(True, [], needed[ctx.count], [i for i in range(len(params)) if needed[ctx.count + 1 + i]])
    at_states = Linearised(states, None, 1, grid.num_slices)
    found, _ = adjoint.back.through(at_states, right, inner, wanted)
    lefts = trees.leaves(found.boundaries)
    own = [leaf[bounds.to(leaf.device)] for leaf in direct]
    for leaf, left in zip(own, lefts, strict=True):
        leaf[:-1] += left[0]
    return [*own, found.points, *[found.params.get(i) for i in range(len(params))]]
