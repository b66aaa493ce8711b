"""Numbers from the host on the device, without waiting for it."""

from __future__ import annotations

from torch import Tensor


def to_device(numbers: Tensor, like: Tensor) -> Tensor:
    """Numbers of the host on the device, and in the dtype, of ``like``.

    A copy from pageable memory waits for the device; one from pinned memory does not.
    """
    numbers = numbers.to(like.dtype)
    if like.device.type == "cuda":
        return numbers.pin_memory().to(like.device, non_blocking=True)
    return numbers.to(like.device, non_blocking=True)
