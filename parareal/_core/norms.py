"""Norms of states, lane by lane, over all leaves together, as float64, so that those of float32 do not overflow."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State

NormName: TypeAlias = Literal["rms", "max"]


def norm(tree: State, kind: NormName) -> Tensor:
    """The norm of each lane, float64, shape ``(L,)``.

    Args:
        tree: Leaves ``(L, *state)``.
        kind: ``"rms"``, the root of the mean square over all elements of all leaves, or ``"max"``, the largest
            modulus.
    """
    return largest_norm([tree], kind)


def largest_norm(alike: list[State], kind: NormName) -> Tensor:
    """The largest norm of several trees of one structure and shape, lane by lane; see `norm`."""
    totals = [_whole_norm(tree, kind) for tree in alike]
    total = totals[0] if len(totals) == 1 else torch.stack(totals).amax(0)
    return total if kind == "max" else total / sum(leaf[0].numel() for leaf in trees.leaves(alike[0])) ** 0.5


def _whole_norm(tree: State, kind: NormName) -> Tensor:
    parts = [_leaf_norm(leaf, 2.0 if kind == "rms" else float("inf")) for leaf in trees.leaves(tree)]
    if len(parts) == 1:
        return parts[0]
    return torch.stack(parts).amax(0) if kind == "max" else torch.linalg.vector_norm(torch.stack(parts), dim=0)


def _leaf_norm(leaf: Tensor, order: float) -> Tensor:
    x = leaf.detach().reshape(leaf.shape[0], -1)
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[1] > _SMALL:
        if order != 2.0:
            return torch.linalg.vector_norm(x, order, dim=1).double()
        # On the CPU torch would make a copy in float64 first, which takes several times as long as the norm.
        size = torch.linalg.vector_norm(x, order, dim=1)
        odd = ~((size > _SQUARABLE[0]) & (size < _SQUARABLE[1]))
        size = size.double()
        if bool(odd.any()):
            size[odd] = _in_float64(x[odd], order)
        return size
    return _in_float64(x, order)


_SMALL = 1024
"""Lanes of no more elements are measured in float64 at once, which takes fewer operations. A choice."""
_SQUARABLE = 1e-15, 1e18
"""Norms whose squares float32 holds, with room for those of elements that count."""


def _in_float64(x: Tensor, order: float) -> Tensor:
    dtype = torch.complex128 if x.is_complex() else torch.float64
    return torch.linalg.vector_norm(x, order, dim=1, dtype=dtype)


def rms(tree: State) -> Tensor:
    """The largest root mean square among the leaves of each lane, in the leaves' dtype, shape ``(L,)``.

    Numbers are added in pairs, element by element over all lanes, so that no lane's sum depends on how many lie beside
    it, as the order in which torch adds along an axis may.
    """
    parts = [_leaf_rms(leaf) for leaf in trees.leaves(tree)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).amax(0)


def _leaf_rms(leaf: Tensor) -> Tensor:
    x = leaf.abs() if leaf.is_complex() else leaf
    x = (x * x).reshape(leaf.shape[0], -1)
    size = x.shape[1]
    while (width := x.shape[1]) > 1:
        half = width // 2
        pairs = x[:, :half] + x[:, half : 2 * half]
        if width % 2:
            pairs[:, 0] += x[:, -1]
        x = pairs
    return (x[:, 0] / size).sqrt() if size else x.sum(1)
