"""Under `torch.autocast` a user's functions run in low precision, but the solver itself does not.

A run disables autocast for its own arithmetic, because stopping rules rely on the rounding of the state's dtype. It
enables it around each call of a user's function, and casts the result to the state's dtype.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TypeAlias

import torch
from torch import Tensor

from parareal._core.scopes import scope

SetAside: TypeAlias = tuple[str, torch.dtype]
"""Kind of the device, and the dtype that autocast lowers to there."""

_SET_ASIDE: ContextVar[SetAside | None] = ContextVar("parareal_autocast", default=None)


def set_aside() -> SetAside | None:
    """The autocast that this thread's run has set aside, if any."""
    return _SET_ASIDE.get()


def is_on(kind: str) -> bool:
    """Whether autocast is on for a kind of device; some kinds have none, of which torch says so by raising."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


@scope
def without_autocast(kind: str) -> Generator[None]:
    """Sets autocast on devices of this kind aside, where it is on."""
    if not is_on(kind):
        yield
        return
    with as_set_aside((kind, torch.get_autocast_dtype(kind))), torch.autocast(kind, enabled=False):
        yield


@scope
def as_set_aside(found: SetAside) -> Generator[None]:
    """Within, `restored` restores this one; for the threads of a run."""
    token = _SET_ASIDE.set(found)
    try:
        yield
    finally:
        _SET_ASIDE.reset(token)


def restored() -> AbstractContextManager[object]:
    """The caller's autocast, around a call of a user's function."""
    found = _SET_ASIDE.get()
    return nullcontext() if found is None else torch.autocast(found[0], dtype=found[1])


def cast_back(value: Tensor, like: Tensor) -> Tensor:
    """A value that autocast has made of another dtype than the state's, in the state's; any other as it is.

    Autocast lowers matrix products, and raises what needs range to float32.
    """
    found = _SET_ASIDE.get()
    if found is None or not like.is_floating_point():
        return value
    lowered = value.dtype == found[1]
    raised = value.dtype == torch.float32 and like.dtype in (torch.float16, torch.bfloat16)
    return value.to(like.dtype) if lowered or raised else value
