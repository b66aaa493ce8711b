"""Python numbers that a pipeline's loop computes from its timestep: what is made of them records how.

Some loops turn the timestep into a number and at once into a tensor again: ``torch.tensor([t] * n)``,
``torch.full((n,), t.item())``. Within the loop's function ``torch`` is then one whose constructors take such numbers,
and a number that is compared is compared for all timesteps.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

from diffusion_adapters.diffusers._timesteps import Chain, Decides, Noted, mapped


class Number:
    """A number that is computed from the timestep, as far as that can be seen.

    Args:
        value: The number.
        chain: The function of the timestep that computes it, as a tensor.
        decides: Receives what depends on it: see `Noted`.
    """

    __slots__ = ("chain", "decides", "value")

    def __init__(self, value: Any, chain: Chain, decides: Decides) -> None:
        self.value, self.chain, self.decides = value, chain, decides

    def __repr__(self) -> str:
        return repr(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def __bool__(self) -> bool:
        self.decides(lambda t: self.chain(t) != 0)
        return bool(self.value)

    def __float__(self) -> float:
        self.decides(None)
        return float(self.value)

    def __int__(self) -> int:
        self.decides(None)
        return int(self.value)

    def __index__(self) -> int:
        self.decides(None)
        return operator.index(self.value)

    def __hash__(self) -> int:
        self.decides(None)
        return hash(self.value)


def _computed(name: str, swapped: bool) -> Callable[..., Any]:
    """An operator whose result is such a number too, or a tensor if the other side is one."""
    function: Callable[..., Any] = getattr(operator, name)

    def ordered(a: Any, b: Any) -> Any:
        return function(b, a) if swapped else function(a, b)

    def computed(self: Number, other: Any = None) -> Any:
        one_sided = name in ("neg", "pos", "abs")

        def chain(t: Tensor) -> Tensor:
            right = other.chain(t) if isinstance(other, Number) else mapped(lambda leaf: leaf.chain(t), other)
            return function(self.chain(t)) if one_sided else ordered(self.chain(t), right)

        right = other.value if isinstance(other, Number) else mapped(lambda leaf: leaf.as_subclass(Tensor), other)
        try:
            value = function(self.value) if one_sided else ordered(self.value, right)
        except TypeError:
            return NotImplemented
        if isinstance(value, Tensor):
            return Noted.of(value, chain, self.decides)
        return Number(value, chain, self.decides)

    return computed


def _compared(name: str) -> Callable[..., Any]:
    """A comparison: for all timesteps, so that one with the same outcome for each decides nothing."""
    function: Callable[..., Any] = getattr(operator, name)

    def compared(self: Number, other: Any) -> Any:
        if isinstance(other, Tensor):
            return _computed(name, False)(self, other)
        right = other.value if isinstance(other, Number) else other
        outcome = function(self.value, right)
        self.decides(lambda t: function(self.chain(t), other.chain(t) if isinstance(other, Number) else other))
        return outcome

    return compared


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Number, f"__{_name}__", _computed(_name, False))
    setattr(Number, f"__r{_name}__", _computed(_name, True))
for _name in ("neg", "pos", "abs"):
    setattr(Number, f"__{_name}__", _computed(_name, False))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Number, f"__{_name}__", _compared(_name))


def item(value: Any, noted: Noted) -> Any:
    """What ``noted.item()`` is: a `Number` where it is called by a function that has our `TORCH`."""
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    if frame.f_globals.get("torch") is TORCH:
        return Number(value, lambda t: noted.chain(t).reshape(()), noted.decides)
    noted.decides(None)
    return value


Noted.number = item


# --- torch, as a loop sees it ---------------------------------------------------------------------------------------


class _Torch(ModuleType):
    """The module ``torch``, with constructors that take numbers computed from the timestep."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(name)

    @staticmethod
    def tensor(data: Any, **kwargs: Any) -> Tensor:
        """See `torch.tensor`."""
        return _made(torch.tensor, data, kwargs)

    @staticmethod
    def as_tensor(data: Any, **kwargs: Any) -> Tensor:
        """See `torch.as_tensor`."""
        return _made(torch.as_tensor, data, kwargs)

    @staticmethod
    def full(size: Any, fill_value: Any, **kwargs: Any) -> Tensor:
        """See `torch.full`."""
        if not _leaves(fill_value):
            return torch.full(size, fill_value, **kwargs)
        return _made(torch.tensor, fill_value, kwargs).expand(size)

    @staticmethod
    def full_like(like: Tensor, fill_value: Any, **kwargs: Any) -> Tensor:
        """See `torch.full_like`."""
        if not _leaves(fill_value):
            return torch.full_like(like, fill_value, **kwargs)
        kwargs = {"dtype": like.dtype, "device": like.device, **kwargs}
        return _made(torch.tensor, fill_value, kwargs).expand(like.shape)


TORCH = _Torch("torch")
"""What a pipeline's own function takes for torch."""


def _leaves(data: Any) -> list[Any]:
    """The values in nested lists that depend on the timestep."""
    if isinstance(data, Noted | Number):
        return [data]
    if isinstance(data, list | tuple):
        return [leaf for part in data for leaf in _leaves(part)]
    return []


def _made(make: Callable[..., Tensor], data: Any, kwargs: dict[str, Any]) -> Tensor:
    """``make(data, **kwargs)``, where data may depend on the timestep."""
    leaves = _leaves(data)
    if not leaves or (isinstance(data, Noted) and make is torch.as_tensor and not kwargs):
        return data if leaves else make(data, **kwargs)

    def chain(t: Tensor) -> Tensor:
        return _nested(data, t).to(**{key: kwargs[key] for key in ("dtype", "device") if kwargs.get(key) is not None})

    return Noted.of(make(plain(data), **kwargs), chain, leaves[0].decides)


def _nested(data: Any, t: Tensor) -> Tensor:
    """Nested lists of numbers as a tensor, at another timestep."""
    if isinstance(data, list | tuple):
        return torch.stack([_nested(part, t) for part in data])
    if isinstance(data, Number):
        value = data.chain(t)
        return value.to(torch.get_default_dtype()) if value.is_floating_point() else value
    return data.chain(t) if isinstance(data, Noted) else torch.as_tensor(data)


def plain(data: Any) -> Any:
    """The same, without a record of how it was computed."""
    if isinstance(data, list | tuple) and type(data) in (list, tuple):
        return type(data)(plain(part) for part in data)
    if isinstance(data, dict):
        return {key: plain(part) for key, part in data.items()}
    if isinstance(data, Number):
        return data.value
    return data.as_subclass(Tensor) if isinstance(data, Noted) else data


def has_numbers(data: Any) -> bool:
    """Whether nested lists or dictionaries hold a `Number`."""
    if isinstance(data, list | tuple):
        return any(has_numbers(part) for part in data)
    if isinstance(data, dict):
        return any(has_numbers(part) for part in data.values())
    return isinstance(data, Number)
