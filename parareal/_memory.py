"""The memory of a multistep method belongs to the state: it travels with it from step to step and from slice to slice.

So the sequential solution is the method itself, not the method begun anew in each slice.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from parareal._tree import State


class Memory(NamedTuple):
    """What a multistep method remembers, on L lanes.

    Attributes:
        values: What it keeps of earlier steps, newest first, in units of the state: trees of leaves ``(L, *state)``.
            Runs are not taken for settled before these are.
        clock: Numbers that say when that was, float64, shape ``(L, c)``; all zero for a method that has made no step.
    """

    values: tuple[State, ...]
    clock: Tensor


class Carried(NamedTuple):
    """A state and the memory that travels with it."""

    u: State
    memory: Memory


def bare(state: State) -> State:
    """The state without its memory."""
    return state.u if isinstance(state, Carried) else state


def with_bare(state: State, u: State) -> State:
    """The memory of ``state``, if it has one, beside ``u``."""
    return Carried(u, state.memory) if isinstance(state, Carried) else u
