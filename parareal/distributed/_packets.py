"""What the processes of a pipeline write to each other: edge states, and what a block's edges have moved by."""

from __future__ import annotations

from typing import NamedTuple

import torch

from parareal._core import trees
from parareal.distributed._process_group import as_bytes
from parareal.schedules._schedule import Bools, Ints
from parareal.stopping._tolerance import Floats
from parareal._core.trees import State


class Packet(NamedTuple):
    """What a block's edges have moved by in an iteration.

    Attributes:
        grid: Figures of each slice's right edge, ``(M, B, 1 + C)``.
        moved: Systems, slices, iterates, whether final, ``(P,)`` each, and their figures, ``(P, C)``.
        finite: Whether the states at the frontiers are, ``(M,)``.
        frontier: ``(M,)``.
    """

    grid: Floats
    moved: tuple[Ints, Ints, Ints, Bools, Floats]
    finite: Bools
    frontier: Ints


def edge_content(value: State, final: Bools) -> torch.Tensor:
    """States of all systems and what is final, as bytes on the host."""
    parts = [as_bytes(leaf.detach().contiguous()).cpu() for leaf in trees.leaves(value)]
    return torch.cat([*parts, torch.from_numpy(final).to(torch.uint8)])


def edge_states(content: torch.Tensor, like: State, systems: int) -> tuple[State, Bools]:
    """The inverse of `edge_content`, for states that look like ``like``."""
    parts: list[torch.Tensor] = []
    at = 0
    for leaf in trees.leaves(like):
        size = leaf.numel() * leaf.element_size()
        raw, at = content[at : at + size].clone(), at + size
        real = raw.view(leaf.real.dtype if leaf.is_complex() else leaf.dtype)
        whole = torch.view_as_complex(real.reshape(*leaf.shape, 2)) if leaf.is_complex() else real.reshape(leaf.shape)
        parts.append(whole.to(leaf.device))
    return trees.rebuild(parts, like), content[-systems:].numpy() > 0
