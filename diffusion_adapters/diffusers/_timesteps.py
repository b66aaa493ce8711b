"""The timesteps that a pipeline's loop runs over: it makes as many turns as the run needs.

In the first round the loop receives a timestep that records how the pipeline changes it before the network receives it
(``t / 1000``, ``t.expand(batch)``, another dtype). So every lane can get its own timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Chain = Callable[[Tensor], Tensor]
Decides = Callable[["Chain | None"], None]
Loop = Callable[[int, Tensor], Iterator[Tensor]]


class Rounds(Tensor):
    """The timesteps of a scheduler. Iterating over them makes the turns of the denoising loop.

    Slices of it are such loops too, over a part of the timesteps; anything else that is computed from it is a plain
    tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

    _loop: Loop
    _first: int

    @classmethod
    def of(cls, timesteps: Tensor, loop: Loop, first: int = 0) -> Rounds:
        """Timesteps, of which the first has the number ``first``, and what runs over the rounds of a part of them."""
        made = timesteps.as_subclass(cls)
        made._loop, made._first = loop, first
        return made

    @property
    def plain(self) -> Tensor:
        """The same as a plain tensor."""
        return self.as_subclass(Tensor)

    def __getitem__(self, index: Any) -> Tensor:
        part = self.plain[index]
        if isinstance(index, slice) and index.step in (None, 1):
            start, _, _ = index.indices(len(self.plain))
            return Rounds.of(part, self._loop, self._first + start)
        return part

    def to(self, *args: Any, **kwargs: Any) -> Rounds:
        """See `torch.Tensor.to`."""
        return Rounds.of(self.plain.to(*args, **kwargs), self._loop, self._first)

    def __iter__(self) -> Iterator[Tensor]:
        return self._loop(self._first, self.plain)


def itself(t: Tensor) -> Tensor:
    """The timestep as it is."""
    return t


class Noted(Tensor):
    """A timestep, or a value computed from it, that records how it was computed.

    Attributes:
        chain: The function of the timestep that computes it.
        decides: Receives a decision of Python: with the function of the timestep that it depends on, or ``None``
            where the value itself becomes a number.
    """

    chain: Chain
    decides: Decides
    number: Callable[[Any, Noted], Any]
    """Makes the result of ``item``, see `_numbers`."""

    @classmethod
    def of(cls, value: Tensor, chain: Chain, decides: Decides) -> Noted:
        """A value, the function of the timestep that computes it, and a hook for conversions to a Python number."""
        made = value.as_subclass(cls)
        made.chain, made.decides = chain, decides
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found: list[Noted] = []
        plain = mapped(lambda leaf: found.append(leaf) or leaf.as_subclass(Tensor), (list(args), kwargs))
        with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore
            value = func(*plain[0], **plain[1])
        if func is Tensor.item:
            return Noted.number(value, found[0])
        if func in _DECIDES:
            found[0].decides(found[0].chain if func is Tensor.__bool__ else None)
        if not isinstance(value, Tensor) or isinstance(value, Noted) or not found:
            return value

        def chain(t: Tensor) -> Tensor:
            at = mapped(lambda leaf: leaf.chain(t), (list(args), kwargs))
            return func(*at[0], **at[1])

        return Noted.of(value, chain, found[0].decides)

    def at(self, timesteps: Tensor) -> Tensor:
        """The value for other timesteps, ``(n,)``: shape ``(n, *shape)``."""
        return at_all(self.chain, timesteps)


def at_all(chain: Chain, timesteps: Tensor) -> Tensor:
    """A function of the timestep at each of several, ``(n,)``: shape ``(n, *shape)``."""
    if chain is itself:
        return timesteps
    with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore
        try:
            return torch.vmap(chain)(timesteps)
        except RuntimeError:  # an operation that vmap does not know
            return torch.stack([chain(t) for t in timesteps])


_DECIDES = {Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.tolist, Tensor.__index__}


def mapped(fn: Callable[[Noted], Any], value: Any) -> Any:
    """Nested lists and dictionaries with another value in place of each timestep that records its uses."""
    if isinstance(value, Noted):
        return fn(value)
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(mapped(fn, item) for item in value)
    if isinstance(value, dict):
        return {key: mapped(fn, item) for key, item in value.items()}
    return value
