"""States are trees of tensors: one tensor, or nested tuples, lists and dicts of tensors.

This module is the only one that touches ``torch.utils._pytree`` (it is private to torch), and it handles a single
tensor, by far the most common state, without any of its cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias, overload

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from parareal._core import finite
from parareal._core.host import beside, still_known, to_device

State: TypeAlias = Any
"""A tensor, or a pytree of tensors: nested tuples, lists and dicts."""


def leaves(tree: State) -> list[Tensor]:
    """The tensors of a tree, in a fixed order."""
    if isinstance(tree, Tensor):
        return [tree]
    return pytree.tree_leaves(tree)


def structure(tree: State) -> Any:
    """The structure of a tree without its leaves; comparable with ``==`` and printable."""
    return pytree.tree_structure(tree)


def rebuild(parts: Sequence[Tensor], like: State) -> State:
    """The inverse of `leaves`: a tree of the structure of ``like``."""
    return parts[0] if isinstance(like, Tensor) else pytree.tree_unflatten(list(parts), structure(like))


def in_order_of(tree: State, like: State) -> State:
    """The tree with the keys of its dicts in the order that they have in ``like``, where they are the same keys."""
    if isinstance(tree, dict) and isinstance(like, dict) and set(tree) == set(like):  # pyright: ignore
        return {key: in_order_of(tree[key], like[key]) for key in like}  # pyright: ignore
    if type(tree) is type(like) and type(tree) in (tuple, list) and len(tree) == len(like):
        return type(tree)(in_order_of(a, b) for a, b in zip(tree, like, strict=True))
    return tree


@overload
def map(fn: Callable[[Tensor], Any], tree: State, /) -> State: ...
@overload
def map(fn: Callable[[Tensor, Tensor], Any], a: State, b: State, /) -> State: ...
@overload
def map(fn: Callable[..., Any], tree: State, /, *rest: State) -> State: ...
def map(fn: Callable[..., Any], tree: State, /, *rest: State) -> State:
    """``fn`` applied leaf by leaf to trees of one structure."""
    if isinstance(tree, Tensor):
        return fn(tree, *rest)
    return pytree.tree_map(fn, tree, *rest)


def cat(trees: Sequence[State]) -> State:
    """Trees joined along the leading (lane) axis."""
    if len(trees) == 1:
        return trees[0]
    if isinstance(trees[0], Tensor):
        return still_known(torch.cat(list(trees)), trees, torch.cat)  # pyright: ignore

    def leaf(*parts: Tensor) -> Tensor:
        return torch.cat(parts)

    return map(leaf, trees[0], *trees[1:])


def stack(trees: Sequence[State], dim: int = 0) -> State:
    """States stacked on a new axis, by default the leading (lane) axis."""

    def leaf(*parts: Tensor) -> Tensor:
        return torch.stack(parts, dim)

    return map(leaf, trees[0], *trees[1:])


def split(tree: State, sizes: Sequence[int]) -> list[State]:
    """The inverse of `cat`: views of ``sizes`` lanes each."""
    if len(sizes) == 1:
        return [tree]
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return [lanes(tree, slice(a, b)) for a, b in pairwise(ends)]


def one(tree: State, i: int) -> State:
    """Lane ``i`` as a single state, without the lane axis."""
    return tree.select(0, i) if isinstance(tree, Tensor) else map(lambda leaf: leaf[i], tree)


def lanes(tree: State, index: slice | Tensor) -> State:
    """Some lanes of a tree: a view for a slice, a copy for an index tensor."""
    if isinstance(index, slice):
        return _part(tree, index) if isinstance(tree, Tensor) else map(lambda leaf: _part(leaf, index), tree)
    return map(lambda leaf: leaf.index_select(0, beside(index, leaf)), tree)


def _part(leaf: Tensor, index: slice) -> Tensor:
    part = leaf[index]
    return part if leaf.device.type == "cpu" else still_known(part, [leaf], lambda values: values[0][index])


def clone(tree: State) -> State:
    """A copy."""
    return map(Tensor.clone, tree)


def join(tree: State) -> State:
    """Leaves ``(S, L, ...)`` as ``(S * L, ...)``."""
    return map(lambda leaf: leaf.flatten(0, 1), tree)


def fold(tree: State, size: int) -> State:
    """Leaves ``(S * size, ...)`` as ``(S, size, ...)``: the inverse of `join`."""
    return map(lambda leaf: leaf.unflatten(0, (-1, size)), tree)


def add(a: State, b: State) -> State:
    """``a + b``."""
    return a + b if isinstance(a, Tensor) else map(torch.add, a, b)


def sub(a: State, b: State) -> State:
    """``a - b``."""
    return a - b if isinstance(a, Tensor) else map(torch.sub, a, b)


def finite_or(a: State, b: State, copy: bool = False) -> State:
    """``a`` where it is finite, else ``b``, element by element; ``a`` itself may be returned, unless ``copy``."""

    def leaf(x: Tensor, y: Tensor) -> Tensor:
        return x if not copy and finite.known(x) else finite.finite_or(x, y)

    return map(leaf, a, b)


def watched(a: State) -> State:
    """The same state, with no gradient through what nothing depends on, nor through what is not finite."""
    return map(finite.watched, a)


def finite_or_zero(a: State) -> State:
    """``a`` where it is finite, else zero; ``a`` itself may be returned."""

    def leaf(x: Tensor) -> Tensor:
        if finite.known(x):
            return x
        if x.requires_grad:
            return finite.finite_or(x, x.new_zeros(()))
        if x.is_complex():  # of which torch would keep the finite part
            return torch.where(x - x == 0, x, 0.0)
        return torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)

    return map(leaf, a)


def repeated(tree: State, times: int) -> State:
    """Every lane that many times, one after another; a view where there is one lane."""

    def leaf(x: Tensor) -> Tensor:
        return x.unsqueeze(1).expand(-1, times, *x.shape[1:]).flatten(0, 1)

    return map(leaf, tree)


def per_lane(scalars: Tensor, leaf: Tensor) -> Tensor:
    """``scalars`` of shape ``(L,)`` shaped and cast so that they multiply a leaf of shape ``(L, *state)``.

    The cast is to the real dtype of the leaf: time is float64, the state keeps its own dtype. A tensor of that shape
    and dtype is returned unchanged.
    """
    if scalars.ndim == leaf.ndim and scalars.dtype == leaf.dtype and scalars.device == leaf.device:
        return scalars
    dtype = leaf.real.dtype if leaf.is_complex() else leaf.dtype
    if scalars.dtype != dtype:
        scalars = scalars.to(dtype)
    if scalars.device != leaf.device:
        scalars = to_device(scalars, leaf.device)
    return scalars.reshape(-1, *[1] * (leaf.ndim - 1)) if leaf.ndim > 1 else scalars


def axpy(u: State, h: Tensor, weights: Sequence[float], slopes: Sequence[State]) -> State:
    """``u + h * sum(w * k)`` over ``weights`` and ``slopes``; ``h`` of shape ``(L,)``, or as `per_lane` makes it of it.

    Multiplication and addition are kept apart on purpose: fused kernels round differently in their vectorised
    part and in their tail, and a lane's result would depend on how many lanes lie beside it.
    """
    if isinstance(u, Tensor):
        return _axpy(u, h, weights, slopes)
    return map(lambda leaf, *ks: _axpy(leaf, h, weights, ks), u, *slopes)


def combination(h: Tensor, weights: Sequence[float], slopes: Sequence[State]) -> State:
    """``h * sum(w * k)``, as in `axpy`; not all weights are zero."""

    def leaf(*ks: Tensor) -> Tensor:
        total = _weighted(weights, ks)
        assert total is not None
        return per_lane(h, total) * total

    return leaf(*slopes) if isinstance(slopes[0], Tensor) else map(leaf, slopes[0], *slopes[1:])


def _axpy(u: Tensor, h: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    total = _weighted(weights, slopes)
    return u if total is None else (per_lane(h, u) * total).add_(u)


def shifted(u: Tensor, h: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """`axpy` of a single tensor, with ``h`` as `per_lane` makes it."""
    total = _weighted(weights, slopes)
    return u if total is None else (h * total).add_(u)


def _weighted(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor | None:
    """The sum of weights times slopes, ``None`` where all weights are zero."""
    if len(weights) == 1 and len(slopes) == 1:
        return slopes[0] if weights[0] == 1.0 else None if weights[0] == 0.0 else slopes[0] * weights[0]
    alike: dict[float, Tensor] = {}  # slopes of equal weight are added before they are multiplied
    for w, k in zip(weights, slopes, strict=True):
        if w != 0.0:
            alike[w] = alike[w] + k if w in alike else k
    total: Tensor | None = None
    for w, k in alike.items():
        term = k if w == 1.0 else k * w
        total = term if total is None else total + term
    return total


def in_dtypes(slopes: State, like: State) -> State:
    """Directional derivatives in the dtypes of a state.

    Torch makes complex128 of them where a complex64 number of no dimension meets a Python number.
    """
    return map(lambda slope, leaf: slope.to(leaf.dtype), slopes, like)


def flattened(tree: Any) -> tuple[list[Any], Any]:
    """All leaves of a tree, tensors or not, and its structure, which is hashable and which `unflattened` takes."""
    found, how = pytree.tree_flatten(tree)
    return found, how


def unflattened(parts: Sequence[Any], how: Any) -> Any:
    """The inverse of `flattened`."""
    return pytree.tree_unflatten(list(parts), how)
