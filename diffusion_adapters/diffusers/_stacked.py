"""Outputs of a network for all lanes, in the shape of the pipeline's own batch: for pipelines that know their batch.

Between network and scheduler most pipelines compute each row from itself, so that a tensor of more rows passes through.
Some reshape to their own batch, or go through lists of samples. They receive one tensor in their own shape that holds a
value for each lane, and what they compute of it is computed for each lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Stacked(Tensor):
    """A tensor for each of L lanes, ``(L, *shape)``, which says that its shape is ``shape``."""

    @classmethod
    def of(cls, lanes: Tensor) -> Stacked:
        """From the tensors of all lanes, ``(L, *shape)``."""
        return lanes.as_subclass(cls)

    @property
    def lanes(self) -> Tensor:
        """The tensors of all lanes, ``(L, *shape)``."""
        return self.as_subclass(Tensor)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found: list[Tensor] = []
        tree = (list(args), kwargs or {})
        _mapped(lambda leaf: found.append(leaf.lanes), tree)
        with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore
            if func in _DECIDES:
                raise ValueError(
                    "the pipeline decides by values of its network's output, which differ from step to step; expected "
                    "guidance that treats all steps in the same way, or the pipeline itself"
                )

            def one(*leaves: Tensor) -> Any:
                waiting = iter(leaves)
                given = _mapped(lambda _: next(waiting), tree)
                return func(*given[0], **given[1])

            first = one(*(leaf[0] for leaf in found))
            if not _tensors(first):
                return first
            try:
                value = torch.vmap(one, randomness="different")(*found)
            except (RuntimeError, ValueError):  # an operation that vmap does not know
                each = [one(*(leaf[lane] for leaf in found)) for lane in range(len(found[0]))]
                value = _zipped(each)
        return _wrapped(value)


_DECIDES = {Tensor.__bool__, Tensor.item, Tensor.__int__, Tensor.__float__, Tensor.tolist, Tensor.__index__}


def _mapped(fn: Callable[[Stacked], Any], value: Any) -> Any:
    if isinstance(value, Stacked):
        return fn(value)
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_mapped(fn, item) for item in value)
    if isinstance(value, dict):
        return {key: _mapped(fn, item) for key, item in value.items()}
    return value


def _tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value)
    )


def _zipped(each: list[Any]) -> Any:
    if isinstance(each[0], Tensor):
        return torch.stack(each)
    return tuple(_zipped([*parts]) for parts in zip(*each, strict=True))


def _wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Stacked.of(value)
    if isinstance(value, list | tuple):
        return tuple(_wrapped(item) for item in value)
    return value


class Places:
    """Where the rows of a round's lanes stand in the stack: by the number of the lane, and of the sample.

    Args:
        samples: Numbers of the rows' samples, ``(R,)``; ``None`` where there is but one.
        rows: R.
        count: How many samples there are.
        device: Of the rows.

    Attributes:
        count: How many samples there are.
    """

    def __init__(self, samples: Tensor | None, rows: int, count: int, device: torch.device) -> None:
        of = [0] * rows if samples is None else samples.tolist()
        by_sample: list[list[int]] = [[] for _ in range(count)]
        lanes: list[int] = []
        for row, sample in enumerate(of):
            lanes.append(len(by_sample[sample]))
            by_sample[sample].append(row)
        most = max(len(rows) for rows in by_sample)
        filled = [[(rows[min(lane, len(rows) - 1)] if rows else 0) for rows in by_sample] for lane in range(most)]
        self.count = count
        self._rows = torch.tensor(filled, device=device)
        self._lanes, self._samples = torch.tensor(lanes, device=device), torch.tensor(of, device=device)

    def stacked(self, value: Tensor, groups: int) -> Stacked:
        """From ``(groups * R, ...)``, a lane for as many rows as the pipeline's own batch: ``(L, groups * B, ...)``."""
        parts = value.unflatten(0, (groups, -1))[:, self._rows]  # (groups, L, B, ...)
        return Stacked.of(parts.transpose(0, 1).flatten(1, 2))

    def rows(self, value: Stacked, groups: int) -> Tensor:
        """The inverse: rows of the lanes, group by group."""
        parts = value.lanes.unflatten(1, (groups, -1))  # (L, groups, B, ...)
        return parts[self._lanes, :, self._samples].transpose(0, 1).flatten(0, 1)

    def stacked_list(self, values: list[Tensor], groups: int) -> list[Stacked]:
        """The same for a list with an entry for each row."""
        return [Stacked.of(lanes) for lanes in self.stacked(torch.stack(values), groups).lanes.unbind(1)]


def stacks(value: Any) -> list[Stacked]:
    """The stacks in nested lists and dictionaries."""
    found: list[Stacked] = []
    _mapped(found.append, value)
    return found


def as_rows(value: Any, places: Places) -> Any:
    """Nested lists and dictionaries, with rows of the lanes in place of stacks."""
    return _mapped(
        lambda leaf: places.rows(leaf, 1 if leaf.ndim == 0 else max(1, leaf.shape[0] // places.count)), value
    )


def as_stacks(value: Any, places: Places, groups: int, rows: int, listed: bool) -> Any:
    """The output of a network, with stacks in place of what has a row for each lane.

    Args:
        value: The output.
        places: Where the rows stand.
        groups: How often the lanes are in it.
        rows: How many lanes there are.
        listed: Whether the network takes and returns lists with an entry for each row.
    """
    if isinstance(value, Tensor):
        return places.stacked(value, groups) if value.ndim and len(value) == groups * rows else value
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items: list[Any] = [*value]
        if listed and len(items) == groups * rows and all(isinstance(item, Tensor) for item in items):
            return type(value)(places.stacked_list(items, groups))
        return type(value)(as_stacks(item, places, groups, rows, listed) for item in items)
    if isinstance(value, dict):
        made = {key: as_stacks(item, places, groups, rows, listed) for key, item in value.items()}
        if type(value) is dict:
            return made
        for key, item in made.items():  # an output of diffusers, read by name and by attribute
            value[key] = item
    return value
