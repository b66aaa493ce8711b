"""Conditioning is a pytree of dicts, lists and tuples; its tensors follow their samples, all else is passed on.

A tensor's leading axis is the number of samples, or 1 where all samples share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor


def map_tensors(fn: Callable[[Tensor], Any], value: Any) -> Any:
    """``fn`` applied to every tensor of a pytree, in the order of `tensors`."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, dict):
        return {key: map_tensors(fn, item) for key, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(map_tensors(fn, item) for item in value)
    return value


def tensors(value: Any) -> list[Tensor]:
    """All tensors of a pytree."""
    found: list[Tensor] = []
    map_tensors(found.append, value)
    return found


def check_conditioning(value: Any, samples: int | None = None) -> None:
    """Raises unless every tensor has a leading axis, of size 1 or ``samples`` where that is known.

    Raises:
        ValueError: A tensor has no axis, or a leading axis of another size.
    """
    for tensor in tensors(value):
        if tensor.ndim == 0:
            raise ValueError(
                "conditioning holds a tensor without an axis; expected a leading axis of one entry for each sample, or "
                "of 1 to share it: tensor[None]. A plain number is passed to the network as it is: tensor.item()"
            )
        if samples is not None and tensor.shape[0] not in (1, samples):
            raise ValueError(
                f"conditioning holds a tensor of shape {tuple(tensor.shape)} for {samples} samples; expected a leading "
                f"axis of {samples}, or of 1 to share it. Bind what has no sample axis to the network instead: "
                "functools.partial(network, name=tensor)"
            )


def split(conditioning: dict[str, Any]) -> tuple[list[Tensor], Callable[[list[Tensor]], dict[str, Any]]]:
    """The tensors with an entry for each sample, and the way back from rows of them to all of the conditioning."""
    own = [tensor.shape[0] != 1 for tensor in tensors(conditioning)]
    leaves = [tensor for tensor, mine in zip(tensors(conditioning), own, strict=True) if mine]

    return leaves, partial(_join, conditioning, own)


def _join(conditioning: dict[str, Any], own: list[bool], rows: list[Tensor]) -> dict[str, Any]:
    flags, given = iter(own), iter(rows)
    return map_tensors(lambda tensor: next(given) if next(flags) else tensor, conditioning)


def expand(conditioning: dict[str, Any], rows: int) -> dict[str, Any]:
    """Shared tensors repeated, as views, so that every tensor has a leading axis of ``rows``."""
    return map_tensors(lambda tensor: tensor.expand(rows, *tensor.shape[1:]), conditioning)


def stack_branches(first: Any, second: Any, name: str = "conditioning") -> Any:
    """Joins the tensors of two pytrees of one structure along their leading axis.

    Raises:
        ValueError: The pytrees differ in structure, in a tensor's shape, or in something that is not a tensor.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.shape[1:] != second.shape[1:]:
            raise ValueError(
                f"{name} has shape {tuple(second.shape)} in cond and {tuple(first.shape)} in uncond; expected the same "
                "axes after the first, since both branches go through the network in one batch: pad the shorter one"
            )
        return torch.cat([first, second])
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return {key: stack_branches(first[key], second[key], f"{name}[{key!r}]") for key in first}
    if isinstance(first, list | tuple) and type(first) is type(second) and len(first) == len(second):
        pairs: Iterator[tuple[Any, Any]] = zip(first, second, strict=True)
        return type(first)(stack_branches(a, b, f"{name}[{i}]") for i, (a, b) in enumerate(pairs))
    plain = not isinstance(first, dict | list | tuple | Tensor) and not isinstance(second, dict | list | tuple | Tensor)
    if plain and _same(first, second):
        return first
    raise ValueError(
        f"{name} is {_describe(second)} in cond and {_describe(first)} in uncond; expected the same names and kinds, "
        "since both branches go through the network in one batch: give uncond the tensors that mean 'no condition', "
        "such as the null label or the embedding of an empty prompt"
    )


def _same(first: Any, second: Any) -> bool:
    try:
        return first is second or bool(first == second)
    except (TypeError, ValueError, RuntimeError):  # arrays, for example, have no single answer
        return False


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a dict of {sorted(map(str, value))}"
    return repr(value)
