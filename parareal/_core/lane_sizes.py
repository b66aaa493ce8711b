"""The only numbers of lanes that calls of a user's function may have, while an executor says so."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.host import still_known
from parareal._core.scopes import scope
from parareal._core.trees import State

_SIZES: ContextVar[tuple[int, ...]] = ContextVar("sizes", default=())


def sizes_now() -> tuple[int, ...]:
    """The numbers that calls may have, rising; empty for all."""
    return _SIZES.get()


@scope
def only(sizes: tuple[int, ...]) -> Generator[None]:
    """Within it, calls have these numbers of lanes alone.

    An executor cuts and fills the calls that it makes. What it calls may ask for other numbers inside: an implicit
    method for all stages of the lanes that still iterate, the adjoint for the lanes whose slice has a further step.
    """
    token = _SIZES.set(sizes)
    try:
        yield
    finally:
        _SIZES.reset(token)


def cut(lanes: int, most: int | None, sizes: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """The calls for that many lanes: the lanes of each, and the number it is padded to.

    Args:
        lanes: Lanes of a round.
        most: Most lanes in one call; ``None`` for no limit.
        sizes: The only numbers of lanes that a call may have, rising; empty for any number.
    """
    if lanes and not sizes and (most is None or most >= lanes):
        return [(lanes, lanes)]
    most = sizes[-1] if sizes else most or lanes
    parts = [min(most, lanes - begin) for begin in range(0, lanes, most)] if lanes else []
    return [(part, next((size for size in sizes if size >= part), part)) for part in parts]


def in_calls(fn: Callable[..., State], args: tuple[Any, ...], calls: list[tuple[int, int]]) -> State:
    """``fn(*args)`` in the calls that `cut` makes; a call is padded with its last lane, whose results are dropped."""
    values: list[State] = []
    begin = 0
    for count, size in calls:
        part = tuple(trees.lanes(arg, slice(begin, begin + count)) if len(calls) > 1 else arg for arg in args)
        if size > count:
            part = trees.map(lambda leaf, more=size - count: _filled_up(leaf, more), part)
        value = fn(*part)
        values.append(trees.lanes(value, slice(0, count)) if size > count else value)
        begin += count
    return values[0] if len(values) == 1 else trees.cat(values)


def _filled_up(leaf: Tensor, more: int) -> Tensor:
    # A real lane, and not zeros, for which a function may return NaN or raise.
    def filled(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([parts[0], parts[0][-1:].expand(more, *parts[0].shape[1:])])

    return still_known(filled([leaf]), [leaf], filled)
