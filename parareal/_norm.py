"""Norms of states, lane by lane, over all leaves together, in float64 so that float32 states do not overflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from parareal import _tree
from parareal._tree import State

NormName: TypeAlias = Literal["rms", "max"]


def norm(tree: State, kind: NormName) -> Tensor:
    """The norm of each lane, float64, shape ``(L,)``.

    Args:
        tree: Leaves ``(L, *state)``.
        kind: ``"rms"``, the root of the mean square over all elements of all leaves, or ``"max"``, the largest
            modulus.
    """
    order = 2.0 if kind == "rms" else float("inf")
    parts = [_leaf_norm(leaf, order) for leaf in _tree.leaves(tree)]
    if kind == "max":
        return parts[0] if len(parts) == 1 else torch.stack(parts).amax(0)
    size = sum(leaf[0].numel() for leaf in _tree.leaves(tree))
    total = parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return total / size**0.5


def _leaf_norm(leaf: Tensor, order: float) -> Tensor:
    dtype = torch.complex128 if leaf.is_complex() else torch.float64
    return torch.linalg.vector_norm(leaf.detach().reshape(leaf.shape[0], -1), order, dim=1, dtype=dtype)


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
        """Norm of the new iterate minus the old, of F(old input) minus the old iterate, or of the new iterate."""
        key = (what, kind)
        if key not in self._norms:
            self._norms[key] = norm(self._parts[what](), kind)
        return self._norms[key]
