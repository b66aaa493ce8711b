"""The network of a pipeline, called for all lanes of a round when the pipeline calls it for its samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion_adapters.diffusers._timesteps import Noted

Call = Callable[["nn.Module", tuple[Any, ...], dict[str, Any]], Any]

_ROTARY = ("image_rotary_emb", "video_rotary_emb", "rotary_emb", "rotary_embedding", "freqs_cis", "pos_embeds")
SHARED = frozenset({"img_ids", "txt_ids", "visual_rope_pos", "text_rope_pos", "rope_interpolation_scale", *_ROTARY})
"""Arguments that hold positions, not samples."""


def proxy(module: nn.Module, call: Call) -> nn.Module:
    """A module like the given one, except for what a call does.

    It shares parameters, buffers, config and hooks with the original, which it calls in the end.
    """
    made = object.__new__(_calling(type(module)))
    made.__dict__.update(module.__dict__, _parareal_call=partial(call, module))
    return made


@cache
def _calling(kind: type[nn.Module]) -> type[nn.Module]:
    """A class like the given one, except for what a call does."""

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["_parareal_call"](args, kwargs)

    body = {"__call__": called, "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), body)


SECOND = frozenset({"encoder_hidden_states_llama3"})
"""Arguments whose samples are along their second axis: the first is that of a network's layers."""


class Layout(NamedTuple):
    """The place of the latents in the input of the network: ``groups`` times, from ``offset`` on along ``dim``."""

    groups: int
    dim: int
    offset: int
    whole: bool


def find_layout(given: Tensor, latents: Tensor) -> Layout | None:
    """The place of ``latents`` in ``given``, or ``None``."""
    rows, samples = given.shape[0] if given.ndim else 0, latents.shape[0]
    if given.ndim != latents.ndim or rows % samples or not given.is_floating_point():
        return None
    groups = rows // samples
    odd = [d for d in range(1, given.ndim) if given.shape[d] != latents.shape[d]]
    if len(odd) > 1 or (odd and given.shape[odd[0]] < latents.shape[odd[0]]):
        return None
    dim = odd[0] if odd else 1
    size, most = latents.shape[dim], given.shape[dim]
    wanted = torch.cat([latents] * groups).float()
    close = 1e-2 * wanted.abs().amax()
    for offset in dict.fromkeys((0, most - size, *range(0, most - size + 1, size))):
        if bool((given.narrow(dim, offset, size).float() - wanted).abs().amax() <= close):
            return Layout(groups, dim, offset, size == most)
    return None


class Lanes(NamedTuple):
    """The lanes of a round, as the network receives them.

    Attributes:
        x: Its input, ``(R, *rest)``.
        samples: Numbers of their samples, ``(R,)``, or ``None`` where there is but one sample.
        at: Numbers of their timesteps, ``(R,)``.
        between: Timesteps, if some are between those of the grid, ``(R,)``, else ``None``.
    """

    x: Tensor
    samples: Tensor | None
    at: Tensor
    between: Tensor | None

    def some(self, rows: Tensor | None) -> Lanes:
        """The lanes with these numbers; ``None`` for all."""
        if rows is None:
            return self
        return Lanes(*(None if part is None else part[rows] for part in self))  # pyright: ignore[reportArgumentType]


@dataclass
class Plan:
    """How a pipeline calls one of its networks, from its first call.

    Attributes:
        layout: The place of the latents in this tensor.
        at: The number of that tensor among those of the arguments.
        rows: Rows of the input of the pipeline itself.
        times: For the number of each argument that depends on the timestep: the argument, and its values at the
            timesteps of the grid, ``(n, ...)``.
        frames: Frames of each sample, ``(B, C, F, H, W)``; 1 for images.
        listed: Whether the latents are in a list with an entry for each row; ``at`` is the number of the first.
    """

    layout: Layout
    at: int
    rows: int
    times: dict[int, tuple[Noted, Tensor]] = field(default_factory=dict)
    frames: int = 1
    listed: bool = False

    def expand(self, args: tuple[Any, ...], kwargs: dict[str, Any], lanes: Lanes, known: Known) -> tuple[Any, Any]:
        """The arguments of a call for all lanes."""
        number = -1

        def leaf(value: Any, shared: bool, second: bool = False) -> Any:
            nonlocal number
            number += 1
            if second:
                rows = known.expanded(value.transpose(0, 1), self.rows // self.layout.groups, lanes, keep=False)
                return rows.transpose(0, 1)
            if isinstance(value, list | tuple):
                return self._list(value, number == self.at, lanes)
            if number == self.at:
                return self._input(value, lanes, known)
            if number in self.times:
                return self._time(number, lanes)
            if not shared and self._by_frame(value) and not known.has(value):
                by_row = value.unflatten(0, (self.rows, self.frames))
                return known.expanded(by_row, self.rows // self.layout.groups, lanes, keep=False).flatten(0, 1)
            if shared or value.ndim == 0 or value.shape[0] != self.rows or known.has(value):
                return value
            return known.expanded(value, self.rows // self.layout.groups, lanes)

        lists = self.rows if self.listed else None
        new_args = walk(args, leaf, lists=lists)
        return new_args, walk(kwargs, leaf, lists=lists)

    def latents(self, args: tuple[Any, ...], kwargs: dict[str, Any], like: Tensor) -> Tensor:
        """The tensor that holds the latents in a call of the pipeline."""
        value = leaves(args, kwargs, self.rows if self.listed else None)[self.at]
        return torch.stack([*value]).reshape(self.rows, *like.shape[1:]) if self.listed else value

    def _list(self, values: Any, latents: bool, lanes: Lanes) -> list[Tensor]:
        """A list with an entry for each row of the pipeline, for those of the lanes."""
        groups, count = self.layout.groups, len(lanes.x)
        of = [0] * count if lanes.samples is None else lanes.samples.tolist()
        rows = [
            (group * (self.rows // groups) + sample, row) for group in range(groups) for row, sample in enumerate(of)
        ]
        if not latents:
            return [values[at] for at, _ in rows]
        return [lanes.x[row].to(values[at].dtype).reshape(values[at].shape) for at, row in rows]

    def _by_frame(self, value: Tensor) -> bool:
        """Whether it holds a row for each frame of each sample, as the embeddings of some video networks do."""
        return self.frames > 1 and value.ndim == 3 and value.shape[0] == self.rows * self.frames

    def _input(self, value: Tensor, lanes: Lanes, known: Known) -> Tensor:
        groups, dim, offset, whole = self.layout
        x = lanes.x.to(value.dtype)
        x = torch.cat([x] * groups) if groups > 1 else x
        if whole:
            return x
        around = known.expanded(value, self.rows // groups, lanes, keep=False).clone()
        around.narrow(dim, offset, x.shape[dim]).copy_(x)
        return around

    def _time(self, number: int, lanes: Lanes) -> Tensor:
        noted, table = self.times[number]
        rows = table[lanes.at] if lanes.between is None else noted.at(lanes.between)
        if rows.ndim > 1:  # it has an axis of samples already, all equal
            rows = rows[:, 0]
        return torch.cat([rows] * self.layout.groups) if self.layout.groups > 1 else rows


class Known:
    """Tensors that already have rows for all lanes of this round, and must not be expanded again."""

    def __init__(self) -> None:
        self._made: dict[int, Tensor] = {}
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}
        self._lanes = 0

    def has(self, value: Tensor) -> bool:
        """Whether this is an output of a network in this round, with rows for all lanes."""
        return id(value) in self._made

    def add(self, value: Any) -> None:
        """Records the output of a network."""

        def note(leaf: Tensor, *where: bool) -> Tensor:
            self._made[id(leaf)] = leaf
            return leaf

        walk(value, note)

    def next_round(self) -> None:
        """Forgets the outputs of the round before."""
        self._made.clear()

    def expanded(self, value: Tensor, samples: int, lanes: Lanes, keep: bool = True) -> Tensor:
        """Rows for the lanes from rows for the samples, for any number of groups."""
        count = lanes.x.shape[0]
        groups = value.shape[0] // samples
        if lanes.samples is not None:
            return value.unflatten(0, (groups, samples))[:, lanes.samples].flatten(0, 1)
        if count != self._lanes:
            self._cache.clear()
            self._lanes = count
        if id(value) in self._cache:
            return self._cache[id(value)][1]
        made = value.repeat_interleave(count, 0) if groups > 1 else value.expand(count, *value.shape[1:])
        if keep:
            self._cache[id(value)] = (value, made)
        return made


def walk(value: Any, fn: Callable[..., Any], shared: bool = False, second: bool = False, lists: Any = None) -> Any:
    """``fn(tensor, shared)`` for every tensor of a pytree, always in the same order.

    Where the samples are along the second axis of a tensor it is ``fn(tensor, shared, True)``. A list of ``lists``
    tensors counts as one.
    """
    if isinstance(value, Tensor):
        return fn(value, shared, True) if second else fn(value, shared)
    if isinstance(value, dict):
        return {k: walk(item, fn, shared or k in SHARED, second or k in SECOND, lists) for k, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        if lists is not None and len(value) == lists and all(isinstance(item, Tensor) for item in value):
            return fn(value, shared)
        return type(value)(walk(item, fn, shared, second, lists) for item in value)
    return value


def leaves(args: tuple[Any, ...], kwargs: dict[str, Any], lists: int | None = None) -> list[Any]:
    """The tensors of a call, in the order in which they are numbered."""
    found: list[Any] = []
    walk(args, lambda leaf, *where: found.append(leaf), lists=lists)
    walk(kwargs, lambda leaf, *where: found.append(leaf), lists=lists)
    return found


def learn(args: tuple[Any, ...], kwargs: dict[str, Any], latents: Tensor, timesteps: Tensor) -> Plan | None:
    """A plan from the pipeline's first call, or ``None`` where the latents are not found in it."""
    found = leaves(args, kwargs)
    for at, leaf in enumerate(found):
        layout = None if isinstance(leaf, Noted) else find_layout(leaf, latents)
        if layout is not None:
            times = {i: (part, part.at(timesteps)) for i, part in enumerate(found) if isinstance(part, Noted)}
            return Plan(layout, at, leaf.shape[0], times, leaf.shape[2] if leaf.ndim == 5 else 1)
    return _learn_lists(args, kwargs, latents, timesteps)


def _learn_lists(args: tuple[Any, ...], kwargs: dict[str, Any], latents: Tensor, timesteps: Tensor) -> Plan | None:
    """The same where the latents are in a list with an entry for each row."""
    shape = latents.shape[1:]
    for value in (*args, *kwargs.values()):
        if not isinstance(value, list | tuple) or not value or not all(isinstance(item, Tensor) for item in value):
            continue
        items: list[Tensor] = [*value]
        if any(item.numel() != shape.numel() or item.shape != items[0].shape for item in items):
            continue
        layout = find_layout(torch.stack(items).reshape(len(items), *shape), latents)
        if layout is None:
            continue
        found = leaves(args, kwargs, len(items))
        at = next(i for i, leaf in enumerate(found) if leaf is value)
        times = {i: (part, part.at(timesteps)) for i, part in enumerate(found) if isinstance(part, Noted)}
        return Plan(layout, at, len(items), times, listed=True)
    return None
