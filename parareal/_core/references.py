"""The tensors that a function refers to, found in its closure, its globals, and the attributes of objects."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

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
        yield from attributes(thing).values()


def attributes(thing: Any) -> dict[str, Any]:
    """The attributes of an object, those in slots as well, by the names that ``setattr`` takes."""
    found = dict[str, Any](getattr(thing, "__dict__", {}))
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            full = f"_{kind.__name__.lstrip('_')}{name}" if private else name
            if name not in ("__dict__", "__weakref__") and hasattr(thing, full):
                found[full] = getattr(thing, full)
    return found


def duplicate(thing: T) -> T:
    """A copy with the same attributes, all of them: what an object is pickled as may lack some.

    Objects that copy themselves do so, and those that hold more than attributes are copied as they are pickled.
    """
    if hasattr(type(thing), "__copy__"):
        return copy.copy(thing)
    try:
        made = object.__new__(type(thing))
    except TypeError:  # of a class that is made of one in C, as a dict is
        return copy.copy(thing)
    for name, part in attributes(thing).items():
        object.__setattr__(made, name, part)
    return made


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
