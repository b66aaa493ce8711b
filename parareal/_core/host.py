"""Numbers of the host on the device, and numbers of the device that are known on the host, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from parareal._core.arrays import Bools, Ints


def to_device(numbers: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers of the host on a device, in another dtype if one is given.

    A copy from pageable memory waits for the device; one from pinned memory does not.
    """
    numbers = numbers if dtype is None else numbers.to(dtype)
    if device.type == "cuda":
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)


def together_to_device(
    numbers: Sequence[Tensor], device: torch.device, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Several tensors of the host, of one dtype, on a device, in one copy; see `to_device`."""
    flat = to_device(torch.cat([part.reshape(-1) for part in numbers]), device, dtype)
    parts = flat.split([part.numel() for part in numbers])
    return [part.reshape(whole.shape) for part, whole in zip(parts, numbers, strict=True)]


def index_to(device: torch.device, index: Ints | Bools) -> Tensor:
    """An index, or a mask, on the device; see `to_device`."""
    return to_device(torch.from_numpy(index), device)


def entries(table: Tensor, index: Ints) -> Tensor:
    """``table[index]``: a view where the index is a range, for which nothing has to get to the device."""
    flat = index.reshape(-1)
    if len(flat) and bool((np.diff(flat) == 1).all()):
        first = int(flat[0])
        return table[first : first + len(flat)].reshape(index.shape)
    return table[index_to(table.device, index)]


def known(numbers: Tensor, values: Tensor) -> Tensor:
    """``numbers``, of which the host knows the ``values``: functions of them can be computed there, see `values_of`.

    Functions of the time alone are many small operations, each of which takes as long to start on an accelerator as one
    on all states; on the host they take less, and their results get to the device together.
    """
    if numbers.device.type != "cpu":
        numbers._parareal_values = values  # pyright: ignore[reportAttributeAccessIssue]
    return numbers


def values_of(numbers: Tensor) -> Tensor:
    """The same numbers on the host, where it knows them; otherwise themselves."""
    return getattr(numbers, "_parareal_values", numbers)
