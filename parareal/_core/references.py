"""The tensors that a function refers to, found in its closure, its globals, and the attributes of objects."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_MOST_OBJECTS = 20_000
"""Most objects that are looked at: more belong to data, not to a right-hand side."""


def tensors_of(thing: Any) -> list[Tensor]:
    """The tensors that an object refers to, each once, in the order in which they are found.

    They are looked for in closures, in arguments with defaults, in the globals that a function's code names, in
    attributes of objects and modules, and in tuples, lists and dicts of all these.
    """
    found: list[Tensor] = []
    waiting, seen = [thing], dict[int, Any]()  # with the objects, so that no number is given again
    while waiting and len(seen) < _MOST_OBJECTS:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, Tensor):
            found.append(one)
        else:
            waiting.extend(reversed([*_referred(one)]))
    return found


def _referred(thing: Any) -> Iterator[Any]:
    """The objects that an object refers to."""
    if thing is None or isinstance(thing, str | bytes | int | float | complex | type | types.ModuleType | torch.device):
        return
    if isinstance(thing, types.FunctionType):
        yield from (cell.cell_contents for cell in thing.__closure__ or () if filled(cell))
        yield from thing.__defaults__ or ()
        yield from (thing.__kwdefaults__ or {}).values()
        yield from vars(thing).values()
        if not foreign(thing.__module__):
            yield from (thing.__globals__[name] for name in names(thing.__code__) if name in thing.__globals__)
    elif isinstance(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, tuple | list | set | frozenset):
        yield from thing
    elif isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, nn.Module) or not foreign(type(thing).__module__):
        yield from getattr(thing, "__dict__", {}).values()
        slots = [getattr(kind, "__slots__", ()) for kind in type(thing).__mro__]
        for name in [name for part in slots for name in ((part,) if isinstance(part, str) else part)]:
            yield getattr(thing, name, None)


def foreign(module: str | None) -> bool:
    """Whether code of that module uses a user's tensors only as arguments."""
    return (module or "").split(".")[0] in (
        "builtins",
        "torch",
        "numpy",
        "scipy",
        "threading",
        "logging",
        "_thread",
        "_io",
    )


def filled(cell: types.CellType) -> bool:
    """Whether a cell of a closure holds anything yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def names(code: types.CodeType) -> set[str]:
    """Names of globals that a function's code, or that of functions in it, may ask for."""
    inner = [names(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*inner)
