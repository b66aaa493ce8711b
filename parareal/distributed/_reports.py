"""What processes tell each other about themselves, as bytes: exceptions and other small objects."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Report:
    """The exception of a process, as text: an exception itself need not go through a pickle."""

    what: str
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Report:
        """A report of any exception; others wait for it, so that nothing of the exception's own may stop it."""
        name = type(error).__name__
        return cls(f"{name}: {_printable(lambda: str(error))}", _printable(lambda: _traceback(error)))


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _printable(make: Any) -> str:
    try:
        return str(make()).encode("utf-8", "backslashreplace").decode("utf-8")
    except Exception as second:
        return f"(it cannot be shown: {type(second).__name__})"


def to_bytes(item: Any) -> Tensor:
    """An object as bytes."""
    return torch.from_numpy(np.frombuffer(pickle.dumps(item), dtype=np.uint8).copy())


def from_bytes(raw: Tensor) -> Any:
    """The inverse of `to_bytes`."""
    return pickle.loads(raw.numpy().tobytes())
