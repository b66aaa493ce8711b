"""A problem is an equation and the way its right-hand side is called on many lanes at once.

The engine always asks for many values together: times of shape ``(L,)`` and states whose leaves are
``(L, *state)``. A problem turns that into calls of the function that the user wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

from parareal import _tree
from parareal._tree import State

Batching: TypeAlias = Literal["vmap", "native", "fold", "loop"]

Stages: TypeAlias = Generator[tuple[Any, ...], State, State]
"""A computation on lanes that asks for function values by yielding ``(function, *arguments)``; it is sent the
value (leaves ``(L, *state)``) and returns its result."""


@dataclass(frozen=True, eq=False)
class ODE:
    """The initial value problem du/dt = f(t, u).

    Args:
        f: The right-hand side. It returns a tree of the structure, shapes and dtypes of ``u``.
        batching: How ``f`` is called for L lanes:

            - ``"vmap"``: ``f`` takes a scalar ``t`` and one state; `torch.func.vmap` makes it many.
            - ``"native"``: ``f`` takes ``t`` of shape ``(L,)`` and leaves ``(L, *state)``.
            - ``"fold"``: state leaves are ``(B, *rest)``; ``f`` takes ``t`` of shape ``(L*B,)`` and leaves
              ``(L*B, *rest)``, which is how most networks are called.
            - ``"loop"``: ``f`` is called once per lane with a scalar ``t`` and one state (numpy code,
              data-dependent control flow). Numpy arrays are accepted as its result.
        per_sample: Data that belongs to the samples of a batch and follows them into every call, such as class
            labels: a tree of tensors whose leading axis is the number of samples. ``f`` is then called as
            ``f(t, u, rows)``, where ``rows`` holds, in the layout of the state's leaves, each lane's entries.

    Time is float64 whatever the dtype of the state. Cast it (``t.to(u.dtype)``) where dtypes would mix.

    Raises:
        TypeError: ``f`` is not callable, or ``per_sample`` holds something other than tensors.
        ValueError: ``batching`` is unknown.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: -u)
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=8)
        >>> sol = pr.solve(problem, torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler())
        >>> bool(sol.converged)
        True
    """

    f: Callable[..., Any]
    batching: Batching = "vmap"
    per_sample: State = None
    _vmapped: Callable[..., Any] = field(init=False, repr=False)
    _fresh: Fresh = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.f):
            raise TypeError(f"f is a {type(self.f).__name__}; expected a callable f(t, u) -> du/dt")
        if self.batching not in get_args(Batching):
            raise ValueError(
                f"batching={self.batching!r} is unknown; expected one of {', '.join(map(repr, get_args(Batching)))}"
            )
        if self.per_sample is not None:
            for leaf in _tree.leaves(self.per_sample):
                if not isinstance(leaf, Tensor):
                    raise TypeError(
                        f"per_sample holds a {type(leaf).__name__}; expected tensors with a leading sample axis"
                    )
        object.__setattr__(self, "_vmapped", torch.func.vmap(self._compared))
        object.__setattr__(self, "_fresh", Fresh("f"))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.f, self.batching, self.per_sample)

    def rhs(self, t: Tensor, u: State, rows: State = None) -> State:
        """du/dt on L lanes: ``t`` of shape ``(L,)``, leaves ``(L, *state)``; the engine counts one round a call."""
        args = (t, u) if rows is None else (t, u, rows)
        if self.batching == "vmap":
            return self._call_vmapped(args)
        if self.batching == "native":
            return self._checked(*args)
        if self.batching == "fold":
            return self._call_folded(args)
        return _tree.stack([self._call_one(*(_tree.one(arg, i) for arg in args)) for i in range(t.shape[0])])

    def _checked(self, t: Tensor, u: State, *rows: State) -> State:
        return self._fresh.check(self._compared(t, u, *rows))

    def _compared(self, t: Tensor, u: State, *rows: State) -> State:
        before = versions(u)
        value = check_like(self.f(t, u, *rows), u, "f(t, u)")
        check_untouched(u, before, "f")
        return value

    def _call_vmapped(self, args: tuple[Any, ...]) -> State:
        if args[0].shape[0] == 1:  # one lane needs no vmap, which costs more than a small f itself
            return _tree.map(lambda leaf: leaf.unsqueeze(0), self._checked(*(_tree.one(arg, 0) for arg in args)))
        with noting_vmap("f"):
            return self._vmapped(*args)

    def _call_folded(self, args: tuple[Any, ...]) -> State:
        t, u, *rows = args
        lanes, batch = _tree.leaves(u)[0].shape[:2]
        folded = _tree.map(lambda leaf: leaf.flatten(0, 1), u)
        times = t if batch == 1 else t.repeat_interleave(batch)
        value = self._checked(times, folded, *(_tree.map(lambda leaf: leaf.flatten(0, 1), row) for row in rows))
        return _tree.map(lambda leaf: leaf.reshape(lanes, batch, *leaf.shape[1:]), value)

    def _call_one(self, t: Tensor, u: State, *rows: State) -> State:
        # Copies on both sides: what numpy code does in place leaves no trace in torch's version counts.
        given = _tree.clone(u)
        before = versions(given)
        value = self.f(t, given, *rows)
        if not isinstance(value, Tensor):
            device = _tree.leaves(u)[0].device
            value = _tree.map(lambda leaf: _from_numpy(leaf, device), value)
        value = check_like(value, u, "f(t, u)")
        check_untouched(given, before, "f")
        return _tree.clone(value)


def _from_numpy(leaf: Any, device: torch.device) -> Any:
    return torch.as_tensor(leaf, device=device) if isinstance(leaf, np.ndarray | np.generic) else leaf


def versions(u: State) -> int:
    """How often the tensors were changed in place, all together; 0 where torch does not count: in inference mode."""
    if isinstance(u, Tensor):
        return 0 if u.is_inference() else u._version
    return sum(versions(leaf) for leaf in _tree.leaves(u))


def check_untouched(u: State, before: int, name: str) -> None:
    """Raises if a tensor of ``u`` was changed in place since `versions` gave ``before``."""
    if versions(u) != before:
        raise ValueError(
            f"{name} changed the state that it was given in place; expected it to return a new tensor: write "
            "-u instead of u.neg_(), or begin with u = u.clone()"
        )


class Fresh:
    """Notices a function that writes a result into memory that it returned before, where the old one is still needed.

    Returning one constant again and again is fine. Memory written through numpy is not noticed.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: list[tuple[Tensor, int, int]] = []

    def check(self, value: State) -> State:
        """Raises if ``value`` lies where the last one did and was changed in place since; returns it."""
        try:
            held = [(leaf, leaf.untyped_storage().data_ptr()) for leaf in _tree.leaves(value)]
        except (RuntimeError, NotImplementedError):  # tensors under a transform of torch.func have no memory to show
            return value
        for last, version, where in self._last:
            if any(where == ptr for _, ptr in held) and versions(last) != version:
                raise ValueError(
                    f"{self._name} returned a tensor in the memory of its last result, which it has overwritten; "
                    "expected a new tensor from every call: return buffer.clone(), or compute without out="
                )
        self._last = [(leaf.detach(), versions(leaf), ptr) for leaf, ptr in held]
        return value


@contextmanager
def noting_vmap(name: str) -> Generator[None, None, None]:
    """Says, on errors that torch raises inside of vmap, what to do where vmap is the cause."""
    try:
        yield
    except RuntimeError as error:
        error.add_note(
            f"{name} was called under torch.func.vmap. If it works on a single state, vmap is what it cannot stand: "
            'write it for stacked lanes and pass batching="native" or "fold", or pass batching="loop" to have it '
            "called once per lane."
        )
        raise


def check_like(value: State, u: State, what: str) -> State:
    """Raises unless ``value`` has the structure, shapes, dtypes and devices of ``u``; returns it, dicts in order."""
    if isinstance(value, Tensor) and isinstance(u, Tensor):
        if value.shape == u.shape and value.dtype == u.dtype and value.device == u.device:
            return value
        pairs = [(value, u)]
    else:
        if _tree.structure(value) != _tree.structure(u):
            value = _tree.in_order_of(value, u)
        if _tree.structure(value) != _tree.structure(u):
            raise TypeError(
                f"{what} returned {_describe(value)} for a state that is {_describe(u)}; "
                "expected the same nest of tuples, lists and dicts, one derivative for each tensor"
            )
        pairs = list(zip(_tree.leaves(value), _tree.leaves(u), strict=True))
    for got, expected in pairs:
        if not isinstance(got, Tensor):
            raise TypeError(
                f"{what} returned a {type(got).__name__}; expected a tensor of shape {tuple(expected.shape)}"
            )
        if got.shape != expected.shape:
            raise ValueError(
                f"{what} returned shape {tuple(got.shape)} for a state of shape {tuple(expected.shape)}; expected the "
                "same shape. Where a solve treats axis 0 as samples, f must work for any number of them"
            )
        if got.dtype != expected.dtype:
            raise TypeError(
                f"{what} returned {got.dtype} for a state of {expected.dtype}; expected the same dtype. "
                "Time is float64: use t.to(u.dtype) where it meets the state"
            )
        if got.device != expected.device:
            raise ValueError(
                f"{what} returned a tensor on {got.device} for a state on {expected.device}; move it there"
            )
    return value


def _describe(tree: State) -> str:
    if isinstance(tree, Tensor):
        return f"a tensor of shape {tuple(tree.shape)}"
    if isinstance(tree, tuple | list | dict):
        return f"a {type(tree).__name__} of {len(tree)}"  # pyright: ignore[reportUnknownArgumentType]
    return f"a {type(tree).__name__}"
