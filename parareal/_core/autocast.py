"""Under `torch.autocast` users' functions run in low precision, and the solver itself does not.

A run sets autocast aside for its own arithmetic, whose rounding its stopping rules know, and restores it around each
call of a user's function. What that returns is cast to the state's dtype.
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


@scope
def without_autocast(kind: str) -> Generator[None]:
    """Sets autocast on devices of this kind aside, where it is on."""
    # Of a kind without autocast, such as "meta", torch would raise.
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
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
