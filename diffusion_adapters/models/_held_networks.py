"""The networks that a function calls, as far as can be seen: behind functions, objects, containers and modules."""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

_MOST, _MOST_ITEMS, _DEEPEST = 5000, 1000, 12
"""Most objects, and items of one container, that are looked at, and the longest way to them. Choices: more belong to
data, not to a network. The nearest are looked at first."""

_LIBRARIES = (
    *("torch", "numpy", "scipy", "math", "builtins", "functools", "itertools", "typing", "einops"),
    *("parareal", "diffusers", "transformers", "accelerate"),
)
"""Packages that hold no networks of a user."""

_NUMBERS = (str, bytes, bytearray, int, float, complex, type(None), Tensor, np.ndarray, torch.dtype, torch.device)
_PLAIN = (*_NUMBERS, types.BuiltinFunctionType, types.WrapperDescriptorType, types.MethodDescriptorType)
_CONTAINERS = (dict, types.MappingProxyType, list, tuple, set, frozenset, deque)
_Keys = tuple[Any, ...]


class _Code(NamedTuple):
    """What a function's code says of the things that it uses.

    Attributes:
        names: Names of globals and attributes that it asks for.
        keys: For names, the constant keys with which the things are always subscripted, as in ``nets["eps"]`` or
            ``nets[0][1]``. Names that are also used in other ways are not among them.
    """

    names: frozenset[str]
    keys: dict[str, list[_Keys]]


class _Seen(NamedTuple):
    """A thing, the code that uses it, and the name by which it does."""

    thing: Any
    code: _Code | None = None
    name: str | None = None

    @property
    def key(self) -> Any:
        """Equal for the same thing in the same use; methods are made anew each time that they are asked for."""
        if isinstance(self.thing, types.MethodType):
            return id(self.thing.__func__), id(self.thing.__self__)
        return id(self.thing), id(self.code), self.name


def networks_of(called: Any) -> list[nn.Module]:
    """Modules that are called when ``called`` is, each once, the nearest first.

    Of what an object holds, only what the code that uses it names is looked at: an object may hold others for training.
    Of containers that are always subscripted with constants, as ``nets["eps"]``, only those items; of others, all.
    """
    found: list[nn.Module] = []
    waiting = deque([(_Seen(called), _DEEPEST)])
    seen: dict[Any, _Seen] = {}  # with the things, so that no number is given again
    while waiting:
        one, left = waiting.popleft()
        if left == 0 or isinstance(one.thing, _PLAIN) or one.key in seen:
            continue
        seen[one.key] = one
        if isinstance(one.thing, nn.Module) and all(one.thing is not other for other in found):
            found.append(one.thing)
        room = max(0, _MOST - len(seen) - len(waiting))
        waiting.extend((part, left - 1) for part in islice(_parts_of(one), room))
    return found


def _parts_of(seen: _Seen) -> Iterator[_Seen]:
    """What a thing refers to."""
    thing, code, _ = seen
    if isinstance(thing, _CONTAINERS):
        yield from _items(seen)
    elif isinstance(thing, functools.partial):
        some = cast("functools.partial[Any]", thing)
        inner = _code_of(some.func)
        yield from (_Seen(part, inner) for part in (some.func, *some.args, *some.keywords.values()))
    elif isinstance(thing, types.FunctionType):
        yield from _of_function(thing)
    elif isinstance(thing, types.MethodType):
        if isinstance(thing.__self__, nn.Module):
            yield _Seen(thing.__self__)
        yield _Seen(thing.__func__)
        inner = _code_of(thing)
        yield from () if inner is None else _attributes(thing.__self__, inner)
    elif isinstance(thing, nn.Module):
        yield from _of_module(thing)
    elif isinstance(thing, types.ModuleType):
        if code is not None and not _of_library(thing.__name__):
            yield from (_Seen(vars(thing)[name], code, name) for name in code.names & vars(thing).keys())
    else:
        if code is not None:
            yield from _attributes(thing, code)
        call = inspect.getattr_static(type(thing), "__call__", None)
        if not isinstance(thing, type) and isinstance(call, types.FunctionType):
            yield _Seen(types.MethodType(call, thing))
        yield _Seen(inspect.getattr_static(thing, "__wrapped__", None), code)


def _items(seen: _Seen) -> Iterator[_Seen]:
    """Those of a container: of one that is only subscripted with constants, those with these keys."""
    thing, code, name = seen
    keys = None if code is None or name is None else code.keys.get(name)
    if keys is not None:
        yield from (_Seen(_item(thing, key), code) for key in keys)
        return
    items = thing.values() if isinstance(thing, dict | types.MappingProxyType) else thing
    yield from (_Seen(item, code) for item in islice(cast("Any", items), _MOST_ITEMS) if not isinstance(item, _PLAIN))


def _item(thing: Any, keys: _Keys) -> Any:
    """``thing[a][b]`` for the keys a, b, or as far as there are containers that have them."""
    for key in keys:
        try:
            thing = cast("Any", thing)[key] if isinstance(thing, _CONTAINERS) else thing
        except (LookupError, TypeError):
            return None
    return thing


def _of_function(fn: types.FunctionType) -> Iterator[_Seen]:
    """Its closure, its arguments with defaults, and the globals that it names."""
    code = _said(fn.__code__)
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        if _filled(cell):
            yield _Seen(cell.cell_contents, code, name)
    arguments = fn.__code__.co_varnames[: fn.__code__.co_argcount]
    defaults = fn.__defaults__ or ()
    named = zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)
    for name, value in (*named, *(fn.__kwdefaults__ or {}).items()):
        yield _Seen(value, code, name)
    if not _of_library(str(fn.__globals__.get("__name__", ""))):
        yield from (_Seen(fn.__globals__[name], code, name) for name in code.names & fn.__globals__.keys())


def _attributes(owner: Any, code: _Code) -> Iterator[_Seen]:
    """Those that code names, its own and those of its class: properties and methods are called with it."""
    for name in code.names:
        value = inspect.getattr_static(owner, name, None)
        if isinstance(value, types.MemberDescriptorType):  # of slots
            value = getattr(owner, name, None)
        elif isinstance(value, property | functools.cached_property):
            value = value.fget if isinstance(value, property) else value.func
            value = None if value is None else types.MethodType(value, owner)
        elif isinstance(value, staticmethod | classmethod):
            value = value.__func__
        elif isinstance(value, types.FunctionType) and name not in getattr(owner, "__dict__", {}):
            value = types.MethodType(value, owner)
        yield _Seen(value, code, name)


def _of_module(module: nn.Module) -> Iterator[_Seen]:
    """What modules hold beside their own: functions, and containers that their code names.

    `torch.nn.Module.eval` does not reach modules in those.
    """
    for part in module.modules():
        code = _used(type(part))
        for name, value in vars(part).items():
            if name not in _INTERNAL and (_calls(value) or (name in code.names and isinstance(value, _CONTAINERS))):
                yield _Seen(value, code, name)


_INTERNAL = frozenset(vars(nn.Module()))


def _calls(value: Any) -> bool:
    return callable(value) and not isinstance(value, type | nn.Module)


@functools.lru_cache(maxsize=1000)
def _used(kind: type[nn.Module]) -> _Code:
    """What a module's ``forward`` says, and the methods of its own that it calls."""
    waiting, names, keys = ["forward"], set[str](), dict[str, list[_Keys]]()
    plain: set[str] = set()
    while waiting:
        fn = inspect.getattr_static(kind, waiting.pop(), None)
        code = None if _of_library(getattr(fn, "__module__", None)) else _code_of(fn)
        if code is None:
            continue
        waiting += code.names - names
        names |= code.names
        plain |= code.names - code.keys.keys()
        for name, some in code.keys.items():
            keys.setdefault(name, []).extend(some)
    return _Code(frozenset(names), {name: some for name, some in keys.items() if name not in plain})


def _code_of(fn: Any) -> _Code | None:
    """What the code of a function, method or object that can be called says; ``None`` where it is not Python's."""
    if isinstance(fn, property):
        fn = fn.fget
    if isinstance(fn, types.MethodType | staticmethod | classmethod):
        fn = fn.__func__
    if not isinstance(fn, types.FunctionType | type):
        fn = inspect.getattr_static(type(fn), "__call__", None)
    return _said(fn.__code__) if isinstance(fn, types.FunctionType) else None


@functools.lru_cache(maxsize=4000)
def _said(code: types.CodeType) -> _Code:
    """What code says, with that of functions in it."""
    names: set[str] = set()
    uses: dict[str, list[_Keys]] = {}
    for part in nested(code):
        names.update(part.co_names)
        for name, keys in _uses(part):
            uses.setdefault(name, []).append(keys)
    return _Code(frozenset(names), {name: keys for name, keys in uses.items() if all(keys)})


def _uses(code: types.CodeType) -> Iterator[tuple[str, _Keys]]:
    """Names in the order of their use, with the constants by which each is subscripted there."""
    steps = [*dis.get_instructions(code)]
    for at, step in enumerate(steps):
        if not step.opname.startswith(("LOAD_", "STORE_FAST_")) or step.opname in _CONSTANT:
            continue
        names = step.argval if isinstance(step.argval, tuple) else (step.argval,)  # later versions load two at once
        keys: list[Any] = []
        for key, subscript in zip(steps[at + 1 :: 2], steps[at + 2 :: 2], strict=False):
            found = subscript.opname == "BINARY_SUBSCR" or subscript.argrepr == "[]"
            if not (found and key.opname in _CONSTANT):
                break
            keys.append(key.argval)
        yield from ((name, ()) for name in names[:-1])
        yield from ((name, tuple(keys)) for name in names[-1:])


_CONSTANT = ("LOAD_CONST", "LOAD_SMALL_INT")


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code, and that of the functions in it."""
    yield code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from nested(part)


def _of_library(module: str | None) -> bool:
    return (module or "").split(".")[0] in _LIBRARIES


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
