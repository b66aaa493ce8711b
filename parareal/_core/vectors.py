"""Trees as vectors, for linear algebra."""

from __future__ import annotations

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State


def flat(tree: State, lead: int) -> Tensor:
    """All leaves as one ``(..., D)`` behind ``lead`` axes."""
    if isinstance(tree, Tensor):
        return tree.flatten(lead) if tree.ndim > lead else tree.unsqueeze(-1)
    return torch.cat([flat(leaf, lead) for leaf in trees.leaves(tree)], dim=-1)


def unflat(vector: Tensor, like: State, lead: int) -> State:
    """The inverse of `flat`, for leaves of the shapes and dtypes that ``like`` has behind its ``lead`` axes."""
    if isinstance(like, Tensor):
        part = vector.reshape((*vector.shape[:-1], *like.shape[lead:]))
        return (part.real if part.is_complex() and not like.is_complex() else part).to(like.dtype)
    leaves, start = [], 0
    for leaf in trees.leaves(like):
        shape = leaf.shape[lead:]
        part = vector[..., start : start + shape.numel()].reshape((*vector.shape[:-1], *shape))
        leaves.append((part.real if part.is_complex() and not leaf.is_complex() else part).to(leaf.dtype))
        start += shape.numel()
    return trees.rebuild(leaves, like)


def added(rows: Tensor) -> Tensor:
    """The sum over axis 0, in pairs: the order in which torch adds may depend on how long the other axes are."""
    while (count := len(rows)) > 1:
        half = count // 2
        pairs = rows[:half] + rows[half : 2 * half]
        rows = torch.cat([pairs, rows[-1:]]) if count % 2 else pairs
    return rows[0]
