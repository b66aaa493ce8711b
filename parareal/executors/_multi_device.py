"""The lanes of a round split over several devices of one process, each with a copy of the model."""

from __future__ import annotations

import collections
import contextvars
import copy
import functools
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from parareal._core import autocast, trees
from parareal._core.lane_sizes import cut, only
from parareal._core.references import attributes, duplicate, filled, foreign, names
from parareal._core.scopes import scope
from parareal._core.trees import State
from parareal.executors._base import Executor, blocks, chunked


@scope
def spread(devices: Sequence[torch.device], max_lanes: int | None, sizes: tuple[int, ...] = ()) -> Generator[Executor]:
    """Evaluates the lanes of a run on several devices, with threads and copies of the function."""
    with ThreadPoolExecutor(max(1, len(devices) - 1), "parareal-device") as threads, only(sizes):
        yield _Spread(devices, max_lanes, sizes, threads)


class _Spread(Executor):
    """A `Batched` with devices in one run."""

    def __init__(
        self,
        devices: Sequence[torch.device],
        max_lanes: int | None,
        sizes: tuple[int, ...],
        threads: ThreadPoolExecutor,
    ) -> None:
        self._devices, self._max_lanes, self._sizes, self._threads = devices, max_lanes, sizes, threads
        self._copies: dict[Any, list[Callable[..., State]]] = {}

    def __repr__(self) -> str:
        return f"Batched(devices={[str(device) for device in self._devices]})"

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        home = trees.leaves(args[-1])[0].device if args else self._devices[0]
        copies = self._copies_of(fn, home)
        sizes = [size for size in blocks(lanes, len(copies)) if size]
        modes, start, futures = _modes(home.type), 0, list[Future[State]]()
        parts: list[tuple[Any, ...]] = []
        for size in sizes:
            parts.append(tuple(trees.lanes(arg, slice(start, start + size)) for arg in args))
            start += size
        for i in range(1, len(sizes)):
            call = (self._one, i, copies[i], parts[i], sizes[i], home, modes)
            futures.append(self._threads.submit(contextvars.copy_context().run, *call))
        try:
            values = [self._one(0, copies[0], parts[0], sizes[0], home, modes)]
        finally:
            for future in futures:  # no thread continues after an exception
                future.exception()
        return trees.cat(values + [future.result() for future in futures])

    def _one(
        self, i: int, fn: Callable[..., State], args: tuple[Any, ...], lanes: int, home: torch.device, modes: Any
    ) -> State:
        device = self._devices[i]
        with ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode())
            if device.type == "cuda":
                stack.enter_context(torch.cuda.device(device))
            there = args if device == home else trees.map(lambda leaf: leaf.to(device, non_blocking=True), args)
            value = chunked(fn, there, lanes, self._max_lanes, self._sizes)
        if i and torch.is_grad_enabled() and any(leaf.requires_grad for leaf in trees.leaves(value)):
            raise ValueError(
                "the right-hand side gave values that ask for gradients, which would go to copies of the model on "
                f"{device}; expected the call under torch.no_grad(), or pr.Batched() without devices"
            )
        return trees.map(lambda leaf: leaf.to(home), value)

    def calls(self, lanes: int) -> int:
        return len(cut(-(-lanes // len(self._devices)), self._max_lanes, self._sizes))

    def padded(self, lanes: int) -> int:
        each = blocks(lanes, len(self._devices))
        return sum(size - part for own in each for part, size in cut(own, self._max_lanes, self._sizes))

    def _copies_of(self, fn: Callable[..., State], home: torch.device) -> list[Callable[..., State]]:
        if home not in self._devices:
            listed = ", ".join(map(str, self._devices))
            raise ValueError(
                f"the state lies on {home}, which is not among devices=[{listed}]; expected it there: u0.to(devices[0])"
            )
        try:
            known = self._copies.get(fn)
        except TypeError:
            return self._copy(fn, home)
        if known is None:
            known = self._copies[fn] = self._copy(fn, home)
        return known

    def _copy(self, fn: Callable[..., State], home: torch.device) -> list[Callable[..., State]]:
        first = self._devices.index(home)
        copies = [fn if i == first else replica(fn, device) for i, device in enumerate(self._devices)]
        if first:  # the thread of the caller takes the first
            raise ValueError(
                f"the state lies on {home}, which is not the first of devices={[str(d) for d in self._devices]}; "
                "expected the device of the state first"
            )
        return copies


def _modes(device: str) -> list[Callable[[], Any]]:
    """The thread-local settings of the calling thread, to be set in others as well."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    modes: list[Callable[[], Any]] = [
        functools.partial(torch.inference_mode, inference),
        functools.partial(torch.set_grad_enabled, grad),
    ]
    if torch.is_autocast_enabled(device):
        modes.append(functools.partial(torch.autocast, device, dtype=torch.get_autocast_dtype(device)))
    if (found := autocast.set_aside()) is not None:  # by this run: it is enabled again around a user's functions
        modes.append(functools.partial(autocast.as_set_aside, found))
    return modes


def replica(fn: Callable[..., State], device: torch.device) -> Callable[..., State]:
    """The function with copies, on another device, of all modules and tensors that it refers to.

    They are looked for in closures, in arguments with defaults, in the globals that its code names, in attributes of
    objects, and in containers of all these.
    """
    return _Copier(device).of(fn)


class _Copier:
    """Copies objects that refer to tensors, and leaves all others unchanged."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._done: dict[int, tuple[Any, Any]] = {}  # with the original, so that its number is not given again

    def of(self, thing: Any) -> Any:
        """A copy, or the object itself if it refers to no tensors."""
        if id(thing) in self._done:
            return self._done[id(thing)][1]
        self._done[id(thing)] = thing, thing  # for objects that refer to themselves
        made = self._made(thing)
        self._done[id(thing)] = thing, made
        return made

    def _made(self, thing: Any) -> Any:
        if isinstance(thing, nn.Module):
            return self._module(thing)
        if isinstance(thing, Tensor):
            return thing.detach().to(self._device, copy=True).requires_grad_(thing.requires_grad)
        if isinstance(thing, types.FunctionType):
            return self._function(thing)
        if isinstance(thing, types.MethodType):
            owner = self.of(thing.__self__)
            return thing if owner is thing.__self__ else types.MethodType(thing.__func__, owner)
        if isinstance(thing, functools.partial):
            some = cast("functools.partial[Any]", thing)
            fn, args, more = self.of(some.func), self.of(some.args), self.of(some.keywords)
            same = fn is some.func and args is some.args and more is some.keywords
            return thing if same else functools.partial(fn, *args, **more)
        if type(thing) in (tuple, list, set, frozenset, collections.deque) or _named_tuple(thing):
            return self._sequence(thing)
        if type(thing) in (dict, collections.OrderedDict, collections.defaultdict):
            known = cast("dict[Any, Any]", thing)
            changed = {key: new for key, part in known.items() if (new := self.of(part)) is not part}
            made = copy.copy(known) if changed else known
            made.update(changed)
            return made
        return self._object(thing)

    def _sequence(self, thing: Any) -> Any:
        old = [*thing]
        parts = [self.of(part) for part in old]
        if all(a is b for a, b in zip(parts, old, strict=True)):
            return thing
        if isinstance(thing, collections.deque):
            return collections.deque(parts, cast("collections.deque[Any]", thing).maxlen)
        return thing._make(parts) if _named_tuple(thing) else type(thing)(parts)

    def _module(self, module: nn.Module) -> nn.Module:
        """With the modules that it holds in containers, where its ``to`` does not reach."""
        made = copy.deepcopy(module).to(self._device)
        waiting, seen = [made], {id(part) for part in made.modules()}
        while waiting:
            for part in waiting.pop().modules():
                for inner in _modules_in([value for name, value in vars(part).items() if name not in _INTERNAL]):
                    if id(inner) not in seen:
                        seen.update(id(more) for more in inner.to(self._device).modules())
                        waiting.append(inner)
        return made

    def _function(self, fn: types.FunctionType) -> Any:
        cells = [cell.cell_contents if filled(cell) else None for cell in fn.__closure__ or ()]
        named = () if foreign(fn.__module__) else names(fn.__code__)
        used = {name: fn.__globals__[name] for name in named if name in fn.__globals__}
        used = {name: part for name, part in used.items() if not isinstance(part, type | types.ModuleType)}
        new_cells, new_names = [self.of(part) for part in cells], {name: self.of(part) for name, part in used.items()}
        defaults, keywords = self.of(fn.__defaults__ or ()), self.of(fn.__kwdefaults__ or {})
        same = all(a is b for a, b in zip(new_cells, cells, strict=True))
        same &= defaults is fn.__defaults__ or not fn.__defaults__
        same &= keywords is fn.__kwdefaults__ or not fn.__kwdefaults__
        if same and all(new_names[name] is part for name, part in used.items()):
            return fn
        closure = tuple(map(types.CellType, new_cells)) if cells else None
        made = types.FunctionType(fn.__code__, {**fn.__globals__, **new_names}, fn.__name__, defaults or None, closure)
        made.__kwdefaults__ = keywords or None
        made.__dict__.update(fn.__dict__)
        return made

    def _object(self, thing: Any) -> Any:
        """Of any class: its attributes."""
        if isinstance(thing, type | types.ModuleType) or foreign(type(thing).__module__):
            return thing
        own = {} if getattr(type(thing), "shared_by_copies", False) else attributes(thing)
        if not own:
            return thing
        made = duplicate(thing)
        self._done[id(thing)] = thing, made  # its own methods may be among its attributes
        changed = {name: new for name, part in own.items() if (new := self.of(part)) is not part}
        for name, part in changed.items():
            object.__setattr__(made, name, part)
        return made if changed else thing


def _named_tuple(thing: Any) -> bool:
    return isinstance(thing, tuple) and hasattr(thing, "_make")


_INTERNAL = frozenset(vars(nn.Module()))


def _modules_in(values: Any) -> Iterator[nn.Module]:
    """Modules in nested containers."""
    waiting, seen = [values], dict[int, Any]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one
        if isinstance(one, nn.Module):
            yield one
        elif isinstance(one, dict):
            waiting.extend(cast("dict[Any, Any]", one).values())
        elif isinstance(one, list | tuple | set | frozenset | collections.deque):
            waiting.extend(cast("list[Any]", one))
