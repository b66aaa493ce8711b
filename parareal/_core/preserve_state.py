"""Restores after a trial what it may have changed: random number generators and networks."""

from __future__ import annotations

import random
import warnings
from collections import deque
from collections.abc import Generator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core.scopes import scope


@scope
def undisturbed(*owners: Any) -> Generator[list[torch.nn.Module], None, None]:
    """Restores random number generators, and buffers and modes of the networks found in ``owners``."""
    networks, generators = held_by(owners)
    states = [one.get_state() for one in generators]
    kept = [[(buffer, buffer.detach().clone()) for buffer in one.buffers()] for one in networks]
    modes = [(module, module.training) for one in networks for module in one.modules()]
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* draws random numbers")  # the findings of a trial say more
            yield networks
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        for one, state in zip(generators, states, strict=True):
            one.set_state(state)
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in (pair for pairs in kept for pair in pairs):
                buffer.copy_(value)


def held_by(owners: Sequence[Any], depth: int = 6) -> tuple[list[torch.nn.Module], list[torch.Generator]]:
    """Networks and generators that objects hold, or that functions refer to, as far as can be seen."""
    networks: list[torch.nn.Module] = []
    generators: list[torch.Generator] = []
    seen: set[int] = set()

    def look(thing: Any, left: int) -> None:
        if id(thing) in seen or left == 0:
            return
        seen.add(id(thing))
        if isinstance(thing, torch.nn.Module):
            networks.append(thing)
        elif isinstance(thing, torch.Generator):
            generators.append(thing)
        elif not isinstance(thing, Tensor | np.ndarray | str | type):
            for part in _parts_of(thing):
                look(part, left - 1)

    for owner in owners:
        look(owner, depth)
    return networks, generators


_HELD = ("__self__", "__func__", "__wrapped__", "__defaults__", "__kwdefaults__", "func", "args", "keywords")


def _parts_of(thing: Any) -> list[Any]:
    if isinstance(thing, list | tuple | set | frozenset | deque):
        return list(thing)[:64]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(thing, dict):
        return list(thing.values())[:64]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    parts = [] if isinstance(thing, ModuleType) else list(getattr(thing, "__dict__", {}).values())
    parts += [getattr(thing, name, None) for name in _HELD]
    for cell in getattr(thing, "__closure__", None) or ():
        try:
            parts.append(cell.cell_contents)
        except ValueError:  # not bound yet
            continue
    code, known = getattr(thing, "__code__", None), getattr(thing, "__globals__", {})
    parts += [known[name] for name in getattr(code, "co_names", ()) if name in known]
    return parts
