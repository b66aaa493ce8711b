"""Numbers of the host on the device, and numbers of the device that are known on the host, without waiting for it."""

from __future__ import annotations

import threading
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
    waiting, _WAITING.upload = _WAITING.upload, None
    if waiting is not None:
        return waiting.sent_with(numbers, device)
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


class Upload:
    """Numbers of the host that will be asked for soon, for a device, which gets all of them in one copy.

    Attributes:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._indices: dict[Any, Ints | Bools] = {}
        self._numbers: list[tuple[list[np.ndarray[Any, Any]], Callable[[list[Tensor]], None]]] = []

    def indices(self, wanted: Sequence[Ints | Bools]) -> None:
        """Adds what `index_to` will be asked for; what is there already, or needs no index, is left out."""
        for index in wanted if self.device.type != "cpu" else ():
            if 1 < index.size <= _LARGE and (index.dtype == bool or not _rises(index)):
                key = _key(self.device, index)
                if key not in _SENT:
                    self._indices[key] = index

    def numbers(self, parts: Sequence[Tensor], dtype: torch.dtype, take: Callable[[list[Tensor]], None]) -> None:
        """Adds numbers in a dtype; ``take`` gets them once they have been sent."""
        self._numbers.append(([part.to(dtype).numpy() for part in parts], take))

    def wait(self) -> None:
        """Waits for the next numbers that this thread sends, and is sent with them; see `send_waiting`."""
        if self.count:
            _WAITING.upload = self

    def sent_with(self, numbers: Tensor, device: torch.device) -> Tensor:
        """``numbers`` on a device, in one copy with what has been added, if they are for the same one."""
        if device != self.device or numbers.requires_grad or numbers.dtype not in _WITH:
            self.send()
            return to_device(numbers, device)
        there: list[Tensor] = []
        self.numbers([numbers], numbers.dtype, there.extend)
        self.send()
        return there[0]

    @property
    def count(self) -> int:
        """How many arrays have been added."""
        return len(self._indices) + len(self._numbers)

    def send(self) -> None:
        """Sends what has been added."""
        arrays = [*self._indices.values(), *(part for parts, _ in self._numbers for part in parts)]
        if not arrays:
            return
        there = iter(self._sent(arrays))
        for key, index in self._indices.items():
            _keep(key, known(next(there), torch.from_numpy(index.copy())))
        for parts, take in self._numbers:
            take([next(there) for _ in parts])

    def _sent(self, arrays: list[np.ndarray[Any, Any]]) -> list[Tensor]:
        """Arrays of several dtypes on the device; each begins at a multiple of eight bytes, as their numbers must."""
        sizes = [-(-array.nbytes // 8) * 8 for array in arrays]
        ends = np.cumsum(sizes)
        whole = np.zeros(ends[-1], dtype=np.uint8)
        for array, end, size in zip(arrays, ends.tolist(), sizes, strict=True):
            whole[end - size : end - size + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        parts = to_device(torch.from_numpy(whole), self.device).split(sizes)
        kinds = [torch.from_numpy(array[..., :0].reshape(-1)).dtype for array in arrays]
        return [
            part[: array.nbytes].view(kind).reshape(array.shape)
            for part, array, kind in zip(parts, arrays, kinds, strict=True)
        ]


def forget_waiting() -> None:
    """Drops the upload that waits in this thread: an error has ended the run that it was for."""
    _WAITING.upload = None


class _Waiting(threading.local):
    upload: Upload | None = None


_WAITING = _Waiting()
_WITH = (torch.float32, torch.float64, torch.int64)


def send_waiting() -> None:
    """Sends the upload that waits in this thread, if there is one."""
    waiting, _WAITING.upload = _WAITING.upload, None
    if waiting is not None:
        waiting.send()


def _rises(index: np.ndarray[Any, Any]) -> bool:
    """Whether it is a range, for which a view takes the place of an index."""
    flat = index if index.ndim == 1 else index.reshape(-1)
    # The ends tell most of them; the rest only where there are more.
    if flat[-1] - flat[0] != len(flat) - 1:
        return False
    return len(flat) < 3 or bool((flat[1:] > flat[:-1]).all())


def _key(device: torch.device, index: Ints | Bools) -> Any:
    return *_place(device), index.dtype.char, index.shape, index.tobytes()


def _place(device: torch.device) -> tuple[Any, ...]:
    # A copy that was made on another stream may not have arrived for this one.
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    # Autograd takes no tensors that were made in inference mode.
    return device, stream, torch.is_inference_mode_enabled()


def _keep(key: Any, found: Tensor) -> None:
    while len(_SENT) >= _MOST:
        _SENT.pop(next(iter(_SENT)), None)  # the one that has not been asked for longest
    _SENT[key] = found


_SENT: dict[Any, Tensor] = {}
_MOST, _LARGE = 256, 4096
"""Indices that are kept, and the most numbers of one: a choice, of a few megabytes at most."""


def places(device: torch.device, index: Ints) -> slice | Tensor:
    """An index for the device, or a slice where it is a range, for which nothing has to get there."""
    if index.size and index.ndim == 1 and _rises(index):
        return slice(int(index[0]), int(index[0]) + len(index))
    return index_to(device, index)


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
    there = index_to(table.device, index)
    return table.index_select(0, there) if there.ndim == 1 else table[there]


class Table:
    """Rows of numbers that the host knows, sent to a device once as a whole, and looked up there.

    Args:
        rows: The rows, on the host, without a graph.
    """

    def __init__(self, rows: Tensor) -> None:
        self._rows, self._there = rows, dict[Any, Tensor]()

    def rows(self, index: Ints, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """The rows of these numbers on a device: a view where they are a range."""
        key = *_place(device), dtype
        if key not in self._there:
            self._there[key] = to_device(self._rows, device, dtype)
        return entries(self._there[key], index)


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
