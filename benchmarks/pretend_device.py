"""A pretend accelerator: tensors that compute on the CPU, say that they lie elsewhere, and count what that would cost.

Every operation on such a tensor is a launch, unless it only makes a view. Every copy from the CPU is an upload, and a
synchronisation as well unless it is made with ``non_blocking``. So is all that needs a value on the host (``item``,
``tolist``, ``cpu``, a mask as an index, ``nonzero``).
Each is noted with the function of this project that caused it. What a network does is left out with `paused`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy")  # a kind of device of which nothing else is used here
ROOT = str(Path(__file__).resolve().parents[1])

VIEWS = {
    *("alias", "as_strided", "detach", "diagonal", "expand", "permute", "select", "slice", "split", "split_with_sizes"),
    *(
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unfold",
        "unsqueeze",
        "view",
        "_unsafe_view",
        "view_as_real",
        "lift_fresh",
    ),
    *("view_as_complex", "empty", "empty_like", "new_empty", "empty_strided", "_reshape_alias", "new_empty_strided"),
}
"""Operations without a kernel."""
WAITS = {"nonzero", "masked_select", "equal", "_local_scalar_dense", "unique_dim", "_unique2", "is_nonzero"}
"""Operations whose result, or its shape, is needed on the host."""
READS = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__", "cpu"}
"""Methods that bring a value to the host."""


@dataclass
class Counts:
    """What was done, and by whom: ``file:line function``."""

    launches: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    paused: int = 0

    def note(self, kind: str) -> None:
        if not self.paused:
            getattr(self, kind)[_cause()] += 1

    @property
    def totals(self) -> tuple[int, int, int]:
        """Launches, uploads and synchronisations."""
        return self.launches.total(), self.uploads.total(), self.waits.total()


counts = Counts()


def _cause() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(ROOT) and "pretend_device" not in name and "/.venv/" not in name:
            return f"{name[len(ROOT) + 1 :]}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


class Pretend(Tensor):
    """A tensor on the pretend device; ``inner`` has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretend:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Pretend({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {**(kwargs or {})}
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for leaf in tensors:
            if not isinstance(leaf, Pretend) and leaf.ndim:
                if name not in ("index", "index_put", "index_put_", "_index_put_impl_", "copy_", "_to_copy"):
                    raise RuntimeError(f"{name} on tensors of two devices: {tuple(leaf.shape)} is on the CPU")
                counts.note("uploads")
        if name in WAITS or (name.startswith("index") and any(leaf.dtype == torch.bool for leaf in tensors[1:2])):
            counts.note("waits")
        if name not in VIEWS:
            counts.note("launches")
        held = tree_map(lambda leaf: leaf.inner if isinstance(leaf, Pretend) else leaf, (args, kwargs))
        value = func(*held[0], **held[1])
        known = {id(leaf.inner): leaf for leaf in tensors if isinstance(leaf, Pretend)}

        def wrapped(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return known[id(leaf)] if id(leaf) in known else cls(leaf)

        return tree_map(wrapped, value)


def _there(device: Any) -> bool:
    return device is not None and not isinstance(device, Tensor | torch.dtype) and torch.device(device) == DEVICE


class OnPretendDevice(TorchFunctionMode):
    """Calls that name the pretend device, and reads of its values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {**(kwargs or {})}
        name = getattr(func, "__name__", "")
        if name == "to":
            return _to(func, args, kwargs)
        if args and isinstance(args[0], Pretend):
            if name in READS:
                counts.note("waits")
                inner = args[0].inner
                return func(inner.clone() if name == "cpu" else inner, *args[1:], **kwargs)
            if name == "new_tensor":
                counts.note("uploads")
                counts.note("waits")
                return Pretend(torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)))
            if name == "data_ptr":
                return args[0].inner.data_ptr()
        if name == "where" and any(isinstance(one, Pretend) for one in args):
            # torch would make a tensor of a number on the device itself, of which it knows nothing here.
            numbers = [not isinstance(one, Tensor) for one in args]
            like = next((one for one in args[1:] if isinstance(one, Tensor)), None)
            dtype = None if like is None else like.dtype
            args = tuple(torch.scalar_tensor(a, dtype=dtype) if n else a for a, n in zip(args, numbers, strict=True))
        if _there(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
            source = args[0] if args else None
            made = func(*args, **kwargs)
            if isinstance(source, Pretend):
                return made
            if name in ("tensor", "as_tensor", "asarray"):
                counts.note("uploads")
                counts.note("waits")
            else:
                counts.note("launches")
            return Pretend(made)
        if name == "copy_" and isinstance(args[1], Pretend) and not isinstance(args[0], Pretend):
            counts.note("waits")
            return args[0].copy_(args[1].inner)
        return func(*args, **kwargs)


def _to(func: Any, args: Any, kwargs: Any) -> Any:
    """``to``: between devices, or to another dtype."""
    source, *more = args
    waits = not kwargs.pop("non_blocking", False)
    named = [one for one in (*more, *kwargs.values()) if isinstance(one, torch.device | str | Tensor)]
    target = named[0] if named else None
    if isinstance(target, Tensor):
        target = DEVICE if isinstance(target, Pretend) else torch.device("cpu")
    dtypes = [one for one in (*more, *kwargs.values()) if isinstance(one, torch.dtype)]
    dtypes += [one.dtype for one in named if isinstance(one, Tensor)]
    away = isinstance(source, Pretend)
    if target is not None and torch.device(target) != DEVICE and away:
        counts.note("waits")
        source, away = source.inner.clone(), False
    elif target is not None and torch.device(target) == DEVICE and not away:
        counts.note("uploads")
        if waits:  # a copy from pageable memory waits for the device
            counts.note("waits")
        source, away = Pretend(source.clone()), True
    return func(source, dtypes[0]) if dtypes and dtypes[0] != source.dtype else source


@contextmanager
def paused() -> Generator[None]:
    """What is done in here is not counted."""
    counts.paused += 1
    try:
        yield
    finally:
        counts.paused -= 1


@contextmanager
def counting() -> Generator[Counts]:
    """Counts from zero."""
    global counts
    counts = Counts()
    with OnPretendDevice(), torch.no_grad():
        yield counts
