"""A secant pair of another run, put beside those that a run makes itself."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.host import index_to
from parareal._core.trees import State
from parareal.corrections._base import Known


def with_pair(known: Known, move: State, change: State, iterate: Ints, first: Ints) -> Known:
    """What is known of slices, with one secant pair more than the run has made itself, as its oldest.

    Where the run has none yet, it is the newest: it makes up for the first iteration, which has no pair of its own.

    Args:
        known: What is known of L slices, with what was before.
        move: How far the inputs of the pair are apart, leaves ``(L, *state)``.
        change: How far the solutions are apart.
        iterate: The iterates that ``known`` is of, ``(L,)``.
        first: The first iterates of which anything is known, ``(L,)``.
    """
    device = trees.leaves(move)[0].device

    def extended(now: Known, at: Ints) -> Known:
        given = Known(trees.sub(now.u, move), None, trees.sub(now.f, change))
        if now.before is None:
            return now._replace(before=given)
        own = at > first
        deeper = extended(now.before, np.maximum(at - 1, first))
        if own.all():
            return now._replace(before=deeper)
        return now._replace(before=_chosen(index_to(device, own), deeper, given))

    return extended(known, iterate)


def _chosen(mask: Tensor, a: Known, b: Known) -> Known:
    """``a`` with all that was before on the lanes of a mask, ``(L,)``; on others ``b``, and again ``b`` before it."""

    def leaf(x: Tensor, y: Tensor) -> Tensor:
        return torch.where(mask.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    before = None if a.before is None else _chosen(mask, a.before, b)
    return Known(trees.map(leaf, a.u, b.u), None, trees.map(leaf, a.f, b.f), None, before)
