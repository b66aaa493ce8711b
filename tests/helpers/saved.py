"""What a graph keeps for its backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def saved_bytes(run: Callable[[], Any]) -> int:
    """The memory of what the graph of a result keeps."""
    saved: list[weakref.ref[Tensor]] = []

    def pack(one: Tensor) -> Tensor:
        saved.append(weakref.ref(one))
        return one

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        alive = run()
    # What was saved on the way and freed does not count: where it lay other tensors may lie now, or none.
    kept = [one for one in (ref() for ref in saved) if one is not None]
    del alive
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in kept}.values())
