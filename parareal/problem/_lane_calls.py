"""Calls a user's function on many lanes at once, and checks its results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from parareal._core import autocast, trees
from parareal._core.checks import described
from parareal._core.host import known, values_of
from parareal._core.lane_sizes import cut, in_calls, sizes_now
from parareal._core.names import BATCHING_HINTS, one_of
from parareal._core.scopes import add_note, of_torch, scope
from parareal._core.trees import State

Batching: TypeAlias = Literal["vmap", "native", "fold", "loop", "auto"]

Check: TypeAlias = Callable[[Any, State], State]


class OnLanes:
    """``f(t, u)`` or ``f(t, u, rows)`` on L lanes, called as its batching says.

    Args:
        f: The user's function.
        batching: See `parareal.ODE`.
        name: Its name in errors.
        check: Takes the result of ``f`` and the state; returns the result, or raises.

    Raises:
        TypeError: ``f`` is not callable.
        ValueError: ``batching`` is unknown.
    """

    def __init__(self, f: Callable[..., Any], batching: str, name: str = "f", check: Check | None = None) -> None:
        if not callable(f):
            raise TypeError(f"{name} is {described(f)}; expected a callable {name}(t, u)")
        one_of(batching, get_args(Batching), "batching", hints=BATCHING_HINTS)
        self._f, self._name, what = f, name, f"{name}(t, u)"
        self._check, self._likes = check or partial(check_like, what=what), check is None
        self._vmapped = torch.func.vmap(self._compared)
        self._fresh, self._drew = Fresh(name), 0  # calls in a row that drew random numbers, from the first on
        ways: dict[str, Callable[..., State]] = {
            "vmap": self._call_vmapped,
            "native": self._checked,
            "fold": self._call_folded,
            "loop": self._call_each,
            "auto": self._call_either,
        }
        self._call = ways[batching]

    def __call__(self, t: Tensor, u: State, rows: State = None) -> State:
        """Values on L lanes: ``t`` of shape ``(L,)``, leaves ``(L, *state)``."""
        if (sizes := sizes_now()) and (lanes := t.shape[0]) and lanes not in sizes:
            return in_calls(self, (t, u) if rows is None else (t, u, rows), cut(lanes, None, sizes))
        if autocast.set_aside() is not None:
            with autocast.restored():
                return self._noticing(t, u, rows)
        if self._drew < 0:  # as in nearly every call
            return self._call(t, u) if rows is None else self._call(t, u, rows)
        return self._noticing(t, u, rows)

    def _noticing(self, t: Tensor, u: State, rows: State) -> State:
        if self._drew < 0:
            return self._call(t, u) if rows is None else self._call(t, u, rows)
        before = _generators(u)
        value = self._call(t, u) if rows is None else self._call(t, u, rows)
        self._note_draws(all(torch.equal(a, b) for a, b in zip(before, _generators(u), strict=True)))
        return value

    def _note_draws(self, untouched: bool) -> None:
        """Warns where the first two calls drew random numbers: one may set something up."""
        self._drew = -1 if untouched else self._drew + 1
        if self._drew == 2:
            self._drew = -1
            warnings.warn(
                f"{self._name} draws random numbers from torch's global generator, so that it is another function in "
                "every call, and no solver settles on its noise. Where it calls a network with dropout, call "
                "network.eval(); where noise is wanted, use pr.SDE, whose noise is a function of a seed. "
                "pr.check_propagator shows how far two calls are apart",
                RuntimeWarning,
                stacklevel=2,
            )

    def _checked(self, t: Tensor, u: State, *rows: State) -> State:
        return self._fresh.check(self._compared(t, u, *rows))

    def _compared(self, t: Tensor, u: State, *rows: State) -> State:
        before = versions(u)
        value = self._f(t, u, *rows)
        # As `check_like` does; a call of it takes as long as a small operation.
        alike = isinstance(value, Tensor) and isinstance(u, Tensor) and value.shape == u.shape and self._likes
        if not (alike and value.dtype == u.dtype and value.device == u.device):
            value = self._check(value, u)
        if versions(u) != before:
            check_untouched(u, before, self._name)
        return value

    def _call_vmapped(self, *args: Any) -> State:
        if args[0].shape[0] == 1:  # one lane needs no vmap, which costs more than a small f itself
            value = self._checked(*[trees.one(arg, 0) for arg in args])
            return value.unsqueeze(0) if isinstance(value, Tensor) else trees.map(lambda leaf: leaf.unsqueeze(0), value)
        with noting_vmap(self._name), no_checkpoints(self._name):
            return self._vmapped(*args)

    def _call_either(self, *args: Any) -> State:
        """Under vmap as long as that works, and lane by lane from the first call on that only works so."""
        try:
            return self._call_vmapped(*args)
        except RuntimeError as error:
            if args[0].shape[0] == 1 or not of_torch(error):  # called as it is, or an error of its own
                raise
            value = self._call_each(*args)  # an error of its own is raised from here
            warnings.warn(
                f"{self._name} does not work under torch.func.vmap, and is called lane by lane from here on, which "
                'takes a call for each lane: pass batching="loop" if that is meant, or write it without branches on '
                f"values. What torch says: {str(error).splitlines()[0]}",
                UserWarning,
                stacklevel=2,
            )
            self._call = self._call_each
            return value

    def _call_folded(self, t: Tensor, u: State, *rows: State) -> State:
        lanes, batch = trees.leaves(u)[0].shape[:2]
        folded = trees.map(lambda leaf: leaf.flatten(0, 1), u)
        times = t if batch == 1 else t.repeat_interleave(batch)
        if batch > 1 and (values := values_of(t)) is not t:
            times = known(times, values.repeat_interleave(batch))
        value = self._checked(times, folded, *(trees.map(lambda leaf: leaf.flatten(0, 1), row) for row in rows))
        return trees.map(lambda leaf: leaf.reshape(lanes, batch, *leaf.shape[1:]), value)

    def _call_each(self, *args: Any) -> State:
        return trees.stack([self._call_one(*(trees.one(arg, i) for arg in args)) for i in range(args[0].shape[0])])

    def _call_one(self, t: Tensor, u: State, *rows: State) -> State:
        # Copies on both sides: the version counts of torch do not show what numpy code does in place.
        given = trees.clone(u)
        before = versions(given)
        value = self._f(t, given, *rows)
        if not isinstance(value, Tensor):
            device = trees.leaves(u)[0].device
            value = trees.map(lambda leaf: _from_numpy(leaf, device), value)
        value = self._check(value, u)
        check_untouched(given, before, self._name)
        return trees.clone(value)


def _generators(u: State) -> list[Tensor]:
    """States of torch's global generators, of the CPU and of the device of ``u``."""
    states, device = [torch.get_rng_state()], trees.leaves(u)[0].device
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        states.append(torch.cuda.get_rng_state(device))
    return states


def _from_numpy(leaf: Any, device: torch.device) -> Any:
    return torch.as_tensor(leaf, device=device) if isinstance(leaf, np.ndarray | np.generic) else leaf


def versions(u: State) -> int:
    """How often the tensors were changed in place, all together; 0 where torch does not count: in inference mode."""
    if isinstance(u, Tensor):
        try:
            return u._version
        except RuntimeError:
            return 0
    return sum(versions(leaf) for leaf in trees.leaves(u))


def check_untouched(u: State, before: int, name: str) -> None:
    """Raises if a tensor of ``u`` was changed in place since `versions` gave ``before``."""
    if versions(u) != before:
        raise ValueError(
            f"{name} changed the state that it was given in place; expected it to return a new tensor: write "
            "-u instead of u.neg_(), or begin with u = u.clone()"
        )


class Fresh:
    """Detects a function that overwrites an earlier result that is still needed.

    Returning one constant again and again is fine. Memory written through numpy is not noticed.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: list[tuple[Tensor, int]] = []

    def check(self, value: State) -> State:
        """Raises if ``value`` is in the memory of the last result and has overwritten it; returns it."""
        for last, version in self._last:
            if versions(last) != version and _share_memory(last, value):
                raise ValueError(
                    f"{self._name} returned a tensor in the memory of its last result, which it has overwritten; "
                    "expected a new tensor from every call: return buffer.clone(), or compute without out="
                )
        parts = [value] if isinstance(value, Tensor) else trees.leaves(value)
        try:
            self._last = [(_without_graph(leaf), versions(leaf)) for leaf in parts]
        except (RuntimeError, NotImplementedError):  # tensors under a transform of torch.func have no memory to show
            self._last = []
        return value


def _without_graph(leaf: Tensor) -> Tensor:
    leaf.data_ptr()  # raises where there is no memory
    return leaf.detach() if leaf.requires_grad else leaf


def _share_memory(last: Tensor, value: State) -> bool:
    where = last.untyped_storage().data_ptr()
    try:
        return any(leaf.untyped_storage().data_ptr() == where for leaf in trees.leaves(value))
    except (RuntimeError, NotImplementedError):
        return False


@scope
def noting_vmap(name: str) -> Generator[None, None, None]:
    """Adds to errors that torch raises inside vmap what to do if vmap is the cause."""
    try:
        yield
    except RuntimeError as error:
        add_note(
            error,
            f"{name} was called under torch.func.vmap. If it works on a single state, vmap is the cause: some "
            "functions, such as torch.utils.checkpoint, cannot be called under it: "
            'write it for stacked lanes and pass batching="native" or "fold", or pass batching="loop" to have it '
            "called once per lane.",
        )
        raise


@scope
def no_checkpoints(name: str) -> Generator[None, None, None]:
    """Has `torch.utils.checkpoint` raise where it is called under vmap: its backward pass would, inside of torch."""
    before = ExitStack()
    if torch.is_grad_enabled():
        with suppress(RuntimeError):  # the caller has hooks on saved tensors, which only see what is not under vmap
            before.enter_context(
                torch.autograd.graph.disable_saved_tensors_hooks(
                    f"{name} uses torch.utils.checkpoint, or other hooks on saved tensors, under torch.func.vmap, "
                    'where they have no backward pass; expected batching="native" or "fold" with an f for stacked '
                    'lanes, batching="loop", or no checkpointing'
                )
            )
    with before:
        yield


def check_like(value: State, u: State, what: str) -> State:
    """Raises unless ``value`` has the structure, shapes, dtypes and devices of ``u``; returns it, dicts in order."""
    if isinstance(value, Tensor) and isinstance(u, Tensor):
        if value.shape == u.shape and value.dtype == u.dtype and value.device == u.device:
            return value
        value = autocast.cast_back(value, u)
        pairs = [(value, u)]
    else:
        if trees.structure(value) != trees.structure(u):
            value = trees.in_order_of(value, u)
        if trees.structure(value) != trees.structure(u):
            raise TypeError(
                f"{what} returned {_describe(value)} for a state that is {_describe(u)}; "
                "expected the same pytree of tuples, lists and dicts, with one value for each tensor"
            )
        if autocast.set_aside() is not None:
            value = trees.map(lambda got, like: autocast.cast_back(got, like) if _two(got, like) else got, value, u)
        pairs = list(zip(trees.leaves(value), trees.leaves(u), strict=True))
    for got, expected in pairs:
        if not isinstance(got, Tensor):
            raise TypeError(f"{what} returned {described(got)}; expected a tensor of shape {tuple(expected.shape)}")
        if got.shape != expected.shape:
            raise ValueError(
                f"{what} returned shape {tuple(got.shape)} for a state of shape {tuple(expected.shape)}; expected the "
                "same shape. Where a solve treats axis 0 as samples, f must work for any number of them"
            )
        if got.dtype != expected.dtype:
            raise TypeError(
                f"{what} returned {got.dtype} for a state of {expected.dtype}; expected the same dtype. "
                f"Time is float64: use t.to(u.dtype) where it meets the state{_of_autocast(got, expected)}"
            )
        if got.device != expected.device:
            raise ValueError(
                f"{what} returned a tensor on {got.device} for a state on {expected.device}; move it there"
            )
    return value


def _of_autocast(got: Tensor, expected: Tensor) -> str:
    on = autocast.is_on(expected.device.type)
    if not on or got.dtype != torch.get_autocast_dtype(expected.device.type):
        return ""
    return ". Autocast has lowered the precision: return value.to(u.dtype)"


def _two(got: Any, like: Any) -> bool:
    return isinstance(got, Tensor) and isinstance(like, Tensor)


def _describe(tree: State) -> str:
    if isinstance(tree, Tensor):
        return f"a tensor of shape {tuple(tree.shape)}"
    if isinstance(tree, tuple | list | dict):
        return f"{described(tree)} of {len(tree)}"  # pyright: ignore[reportUnknownArgumentType]
    return described(tree)
