"""What is known of the derivative of a right-hand side, and what a run keeps of it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import check_flag, described
from parareal._core.locks import ForkSafeLock
from parareal._core.trees import State
from parareal.problem._lane_calls import OnLanes
from parareal.problem._structure import Banded, Sparse, Structure

T = TypeVar("T")

MOST_KEPT = 16
"""Factorisations that a run keeps: one for each step size and each diagonal coefficient of its methods."""


class Kept:
    """What one run keeps for all its lanes, made once, by whoever needs it first.

    All that is kept is a function of its key alone, so that who makes it, and when, changes no result. Copies of a
    problem on other devices share it; keys name the device.

    Args:
        times: Start and end of the run.
    """

    __slots__ = ("_found", "_lock", "_matrices", "affine", "times")
    shared_by_copies = True

    def __init__(self, times: tuple[float, float]) -> None:
        self.times, self.affine = times, False
        self._lock, self._matrices = ForkSafeLock(), dict[Hashable, Tensor]()
        self._found = OrderedDict[Hashable, Any]()

    def matrix(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The matrix of a device and dtype, which is never dropped; see `get`."""
        with self._lock.current:
            if key not in self._matrices:
                self._matrices[key] = make()
            return self._matrices[key]

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under a key; made, by one thread alone, where there is nothing."""
        with self._lock.current:
            if key in self._found:
                self._found.move_to_end(key)
            else:
                self._found[key] = make()
                while len(self._found) > MOST_KEPT:
                    self._found.popitem(last=False)
            return self._found[key]


@dataclass(frozen=True, eq=False)
class Derivatives:
    """What is known of df/du.

    Attributes:
        matrix: df/du of one state, on lanes: leaves ``(L, *state)`` to ``(L, D, D)``; ``None`` to differentiate f.
        linear: Whether f is affine in u, with one matrix for all times.
        structure: Where the matrix has entries.
        preconditioner: An approximate solution of (I - gamma df/du) x = v, on lanes.
        kept: What the run keeps, for a matrix that all lanes share.
    """

    matrix: Callable[..., Tensor] | None = None
    linear: bool = False
    structure: Structure | None = None
    preconditioner: Callable[..., State] | None = None
    kept: Kept | None = None


PLAIN = Derivatives()


def derivatives_of(problem: Any) -> Derivatives:
    """What is known of a problem's right-hand side; nothing of one that does not say."""
    return getattr(problem, "derivatives", PLAIN)


def numbers(u: State, lead: int = 1) -> int:
    """Real numbers of one state, D, of leaves behind ``lead`` axes: a complex element is two."""
    return sum(leaf.shape[lead:].numel() * (2 if leaf.is_complex() else 1) for leaf in trees.leaves(u))


def checked(jacobian: Any, linear: Any, structure: Any, preconditioner: Any, batching: str) -> Derivatives:
    """The record of what a user says of df/du.

    Raises:
        TypeError: An argument is not of its type.
    """
    check_flag(linear, "linear")
    if structure is not None and not isinstance(structure, Banded | Sparse):
        raise TypeError(f"structure is {described(structure)}; expected pr.Banded(lower, upper) or pr.Sparse(pattern)")
    if jacobian is not None and not callable(jacobian):
        raise TypeError(
            f"jacobian is {described(jacobian)}; expected a function jacobian(t, u) that gives the matrix df/du, or "
            "None to have f differentiated. Where df/du has entries is for structure="
        )
    matrix = None if jacobian is None else Matrices(jacobian, batching)
    if preconditioner is not None and not callable(preconditioner):
        raise TypeError(
            f"preconditioner is {described(preconditioner)}; expected a callable preconditioner(t, u, gamma, v)"
        )
    return Derivatives(
        matrix, linear, structure, None if preconditioner is None else Preconditioner(preconditioner, batching)
    )


class Preconditioner:
    """A preconditioner as a function of lanes; gamma is one number for each."""

    def __init__(self, fn: Callable[..., State], batching: str) -> None:
        self._fn, self._batching = fn, batching
        self._vmapped = torch.func.vmap(fn)

    def __call__(self, t: Tensor, u: State, gamma: Tensor, v: State, rows: State = None) -> State:
        """The approximate solution, leaves ``(L, *state)``."""
        args = (t, u, gamma, v) if rows is None else (t, u, gamma, v, rows)
        if self._batching == "vmap":
            return self._vmapped(*args)
        if self._batching == "fold":
            batch = trees.leaves(u)[0].shape[1]
            flat: list[State] = [
                arg.repeat_interleave(batch) if i in (0, 2) else trees.map(lambda leaf: leaf.flatten(0, 1), arg)
                for i, arg in enumerate(args)
            ]
            value = self._fn(*flat)
            return trees.map(lambda leaf: leaf.unflatten(0, (-1, batch)), value)
        return self._fn(*args)


class Matrices:
    """A user's Jacobian as a function of lanes, checked."""

    def __init__(self, fn: Callable[..., Any], batching: str) -> None:
        self._batching = batching
        self._calls = OnLanes(fn, batching, "jacobian", self._check)

    def __call__(self, t: Tensor, u: State, rows: State = None) -> Tensor:
        """Matrices ``(L, D, D)``."""
        value = self._calls(t, u, rows)
        return self._whole(value, u) if self._batching == "fold" else value

    def _check(self, value: Any, u: State) -> Tensor:
        stacked = self._batching in ("native", "fold")
        first = trees.leaves(u)[0]
        size = numbers(u, int(stacked))
        shape = (len(first), size, size) if stacked else (size, size)
        if not isinstance(value, Tensor):
            raise TypeError(f"jacobian(t, u) returned {described(value)}; expected a tensor of shape {shape}")
        if value.ndim > len(shape) and value.shape[-2:] == shape[-2:] and value.numel() == math.prod(shape):
            value = value.reshape(shape)  # with samples=True a state is a batch of one
        if value.shape != shape:
            what = "state of each lane" if self._batching == "native" else "row" if stacked else "state"
            raise ValueError(
                f"jacobian(t, u) returned shape {tuple(value.shape)}; expected {shape}: df_i/du_j of one {what}, "
                f"flattened to {size} real numbers, leaf after leaf, a complex one as two"
            )
        if value.is_complex() or not value.is_floating_point():
            raise TypeError(f"jacobian(t, u) returned {value.dtype}; expected real numbers, two for a complex element")
        if value.device != first.device:
            raise ValueError(f"jacobian(t, u) returned a tensor on {value.device} for a state on {first.device}")
        return value

    def _whole(self, blocks: Tensor, u: State) -> Tensor:
        """Of blocks ``(L, B, d, d)``, one for each row of a state, the matrices of whole states."""
        lanes, batch = blocks.shape[:2]
        places, start = list[Tensor](), 0
        for leaf in trees.leaves(u):
            each = leaf.shape[2:].numel() * (2 if leaf.is_complex() else 1)
            places.append(start + torch.arange(batch)[:, None] * each + torch.arange(each))
            start += batch * each
        index = torch.cat(places, 1).to(blocks.device)  # (B, d): where the numbers of a row are in the state
        whole = blocks.new_zeros(lanes, start * start)
        target = (index[:, :, None] * start + index[:, None, :]).flatten()
        return whole.index_copy(1, target, blocks.flatten(1)).unflatten(1, (start, start))
