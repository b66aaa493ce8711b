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

SHARED = frozenset({"img_ids", "txt_ids", "image_rotary_emb", "freqs_cis", "rotary_emb"})
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
    """

    layout: Layout
    at: int
    rows: int
    times: dict[int, tuple[Noted, Tensor]] = field(default_factory=dict)
    frames: int = 1

    def expand(self, args: tuple[Any, ...], kwargs: dict[str, Any], lanes: Lanes, known: Known) -> tuple[Any, Any]:
        """The arguments of a call for all lanes."""
        number = -1

        def leaf(value: Tensor, shared: bool) -> Tensor:
            nonlocal number
            number += 1
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

        new_args = walk(args, leaf)
        return new_args, walk(kwargs, leaf)

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

        def note(leaf: Tensor, shared: bool) -> Tensor:
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


def walk(value: Any, fn: Callable[[Tensor, bool], Any], shared: bool = False) -> Any:
    """``fn(tensor, shared)`` for every tensor of a pytree, always in the same order."""
    if isinstance(value, Tensor):
        return fn(value, shared)
    if isinstance(value, dict):
        return {key: walk(item, fn, shared or key in SHARED) for key, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(walk(item, fn, shared) for item in value)
    return value


def learn(args: tuple[Any, ...], kwargs: dict[str, Any], latents: Tensor, timesteps: Tensor) -> Plan | None:
    """A plan from the pipeline's first call, or ``None`` where the latents are not found in it."""
    found: list[Tensor] = []
    walk(args, lambda leaf, shared: found.append(leaf))
    walk(kwargs, lambda leaf, shared: found.append(leaf))
    for at, leaf in enumerate(found):
        if isinstance(leaf, Noted):
            continue
        layout = find_layout(leaf, latents)
        if layout is not None:
            times = {i: (part, part.at(timesteps)) for i, part in enumerate(found) if isinstance(part, Noted)}
            return Plan(layout, at, leaf.shape[0], times, leaf.shape[2] if leaf.ndim == 5 else 1)
    return None
