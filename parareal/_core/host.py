"""Numbers of the host on the device, and numbers of the device that are known on the host, without waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
    """An index, or a mask, on the device, which is not written to; see `to_device`.

    The same few come again and again, within a round and from round to round: what was sent lately is kept.
    """
    values = torch.from_numpy(index)
    if device.type == "cpu":
        return values
    if index.size > _LARGE:
        return known(to_device(values, device), values)
    key = _key(device, index)
    found = _SENT.pop(key, None)
    if found is None:
        values = values.clone()
        found = known(to_device(values, device), values)
    _keep(key, found)
    return found


def send_ahead(device: torch.device, indices: Sequence[Ints]) -> None:
    """Sends indices that `index_to` is about to be asked for, in one copy; without this it sends each for itself."""
    if device.type == "cpu":
        return
    wanted = [index for index in indices if 1 < index.size <= _LARGE and index.dtype == np.int64 and not _rises(index)]
    new = {_key(device, index): index for index in wanted}
    new = {key: index for key, index in new.items() if key not in _SENT}
    if len(new) < 2:
        return
    values = torch.from_numpy(np.concatenate([index.reshape(-1) for index in new.values()]))
    sizes = [index.size for index in new.values()]
    parts = zip(to_device(values, device).split(sizes), values.split(sizes), strict=True)
    for (key, index), (there, here) in zip(new.items(), parts, strict=True):
        _keep(key, known(there.reshape(index.shape), here.reshape(index.shape)))


def _rises(index: Ints) -> bool:
    """Whether it is a range, for which a view takes the place of an index."""
    flat = index if index.ndim == 1 else index.reshape(-1)
    # The ends tell most of them; the rest only where there are more.
    if flat[-1] - flat[0] != len(flat) - 1:
        return False
    return len(flat) < 3 or bool((flat[1:] > flat[:-1]).all())


def _key(device: torch.device, index: Ints | Bools) -> Any:
    # A copy that was made on another stream may not have arrived for this one.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    # Autograd takes no tensors that were made in inference mode.
    return device, stream, torch.is_inference_mode_enabled(), index.dtype.char, index.shape, index.tobytes()


def _keep(key: Any, found: Tensor) -> None:
    while len(_SENT) >= _MOST:
        _SENT.pop(next(iter(_SENT)), None)  # the one that has not been asked for longest
    _SENT[key] = found


_SENT: dict[Any, Tensor] = {}
_MOST, _LARGE = 256, 4096
"""Indices that are kept, and the most numbers of one: a choice, of a few megabytes at most."""


def beside(index: Tensor, leaf: Tensor) -> Tensor:
    """An index where a leaf lies: most leaves lie on the device, and the times of histories on the host."""
    if index.device == leaf.device:
        return index
    return values_of(index).to(leaf.device)


def entries(table: Tensor, index: Ints) -> Tensor:
    """``table[index]``: a view where the index is a range, for which nothing has to get to the device."""
    if index.size and _rises(index):
        first = int(index.flat[0])
        part = table[first : first + index.size]
        return part if index.ndim == 1 else part.reshape(index.shape)
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


def still_known(new: Tensor, olds: Sequence[Tensor], fn: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
    """``new``, made by ``fn`` of tensors, whose values the host knows if it knows all of theirs."""
    if new.device.type != "cpu" and all(hasattr(old, "_parareal_values") for old in olds):
        return known(new, fn([values_of(old) for old in olds]))
    return new


def on_host(numbers: Tensor) -> Tensor:
    """The same numbers on the host, from the device if it does not know them."""
    return values_of(numbers).cpu()


def sent(device: torch.device, *numbers: Tensor | float, dtype: torch.dtype | None = None) -> list[Any]:
    """Numbers of each lane on a device, in one copy if they lie on the host; floats stay.

    Args:
        device: The device.
        numbers: Tensors, ``(L,)`` or ``()``, of one dtype.
        dtype: Another dtype for them.
    """
    tensors = [number for number in numbers if isinstance(number, Tensor)]
    if not tensors or tensors[0].device == device:
        return [n.to(dtype) if dtype is not None and isinstance(n, Tensor) else n for n in numbers]
    arrived = iter(to_device(torch.stack(torch.broadcast_tensors(*tensors)), device, dtype))
    return [next(arrived) if isinstance(number, Tensor) else number for number in numbers]
