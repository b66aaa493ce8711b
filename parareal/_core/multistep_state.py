"""The history of a multistep method is part of the state, from step to step and from slice to slice.

So the sequential solution is that of the method itself, and not of one that restarts in each slice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.host import index_to
from parareal._core.trees import State


class Memory(NamedTuple):
    """The history of a multistep method, on L lanes.

    Attributes:
        values: Values of earlier steps, newest first, in units of the state: trees of leaves ``(L, *state)``. A run
            has not settled before these have.
        states: Earlier states, likewise.
        clock: Numbers that say when these were taken, float64, shape ``(L, c)``; all zero before the first step. On
            the device of the states, or on the host, where weights are computed from it without waiting for a device.
    """

    values: tuple[State, ...]
    states: tuple[State, ...]
    clock: Tensor


class Carried(NamedTuple):
    """A state with its multistep history."""

    u: State
    memory: Memory


class Moving(NamedTuple):
    """A state on its way through a slice, of a method that chooses its own steps: with the slope there."""

    u: State
    slope: State


def without_history(state: State) -> State:
    """The state without its history, or without its slope."""
    return state.u if isinstance(state, Carried | Moving) else state


def follow(new: State, fine: Carried, before: Carried) -> Carried:
    """Updates the history of a fine solution whose state is corrected.

    How the history of a method depends on the state is not known, but two fine solutions, of this iterate and of the
    one before, show it along one direction: values move as far along that difference as the state does, and earlier
    states move as the state itself. Otherwise a change would reach the history only through the fine propagator, slice
    by slice, and a method that steps from an earlier state would gain nothing.

    Args:
        new: The corrected states, leaves ``(L, *state)``.
        fine: Fine solutions from the last inputs.
        before: Fine solutions from the inputs before; ``fine`` again where there were none.
    """
    change, seen = trees.sub(new, fine.u), trees.sub(fine.u, before.u)
    along, length = _inner(change, seen), _inner(seen, seen)
    # Nothing has been seen where the length is zero.
    share = (along / length).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).clamp_(-1.0, 1.0)
    alike = (fine.memory.clock == before.memory.clock).all(1)
    if alike.device.type != "cpu" or not bool(alike.all()):
        there = alike if alike.device == share.device else index_to(share.device, alike.numpy())
        share = torch.where(there, share, 0.0)

    def carry(now: Tensor, old: Tensor) -> Tensor:
        far = trees.per_lane(share, now)
        return torch.where(far == 0, now, now + far * (now - old))  # the solutions before may not be finite

    values = tuple(
        trees.map(carry, now, old) for now, old in zip(fine.memory.values, before.memory.values, strict=True)
    )
    states = tuple(trees.add(state, change) for state in fine.memory.states)
    return Carried(new, Memory(values, states, fine.memory.clock))


def _inner(a: State, b: State) -> Tensor:
    """Inner products, real, over all leaves of each lane, float64, ``(L,)``."""
    total: Tensor | None = None
    for x, y in zip(trees.leaves(a), trees.leaves(b), strict=True):
        product = (x * y.conj()).real if x.is_complex() else x * y
        part = product.detach().reshape(len(x), -1).sum(1, dtype=torch.float64)
        total = part if total is None else total + part
    assert total is not None
    return total
