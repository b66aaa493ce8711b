"""Numbers from the host on the device, without waiting for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parareal._core.arrays import Bools, Ints


def to_device(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers of the host on the device, and in the dtype, of ``like``.

    A copy from pageable memory waits for the device; one from pinned memory does not.
    """
    numbers = numbers.to(like.dtype)
    if like.device.type == "cuda":
        return numbers.pin_memory().to(like.device, non_blocking=True)
    return numbers.to(like.device, non_blocking=True)


def index_to(device: torch.device, index: Ints | Bools) -> Tensor:
    """An index, or a mask, on the device; see `to_device`."""
    index = torch.from_numpy(index)
    if device.type == "cuda":
        return index.pin_memory().to(device, non_blocking=True)
    return index.to(device, non_blocking=True)


def entries(table: Tensor, index: Ints) -> Tensor:
    """``table[index]``: a view where the index is a range, for which nothing has to get to the device."""
    flat = index.reshape(-1)
    if len(flat) and bool((np.diff(flat) == 1).all()):
        first = int(flat[0])
        return table[first : first + len(flat)].reshape(index.shape)
    return table[index_to(table.device, index)]
