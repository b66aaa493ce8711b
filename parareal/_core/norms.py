"""Norms of states, lane by lane, over all leaves together, as float64, so that those of float32 do not overflow."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State

NormName: TypeAlias = Literal["rms", "max"]


def norm(tree: State, kind: NormName) -> Tensor:
    """The norm of each lane, float64, shape ``(L,)``.

    Args:
        tree: Leaves ``(L, *state)``.
        kind: ``"rms"``, the root of the mean square over all elements of all leaves, or ``"max"``, the largest
            modulus.
    """
    return largest_norm([tree], kind)


def largest_norm(alike: list[State], kind: NormName) -> Tensor:
    """The largest norm of several trees of one structure and shape, lane by lane; see `norm`."""
    totals = [_whole_norm(tree, kind) for tree in alike]
    total = totals[0] if len(totals) == 1 else torch.stack(totals).amax(0)
    return total if kind == "max" else total / sum(leaf[0].numel() for leaf in trees.leaves(alike[0])) ** 0.5


def _whole_norm(tree: State, kind: NormName) -> Tensor:
    parts = [_leaf_norm(leaf, 2.0 if kind == "rms" else float("inf")) for leaf in trees.leaves(tree)]
    if len(parts) == 1:
        return parts[0]
    return torch.stack(parts).amax(0) if kind == "max" else torch.linalg.vector_norm(torch.stack(parts), dim=0)


def _leaf_norm(leaf: Tensor, order: float) -> Tensor:
    x = leaf.detach()
    if x.is_complex():
        x = torch.view_as_real(x.resolve_conj()) if order == 2.0 else modulus(x.to(torch.complex128))
    x = x.reshape(leaf.shape[0], -1)
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[1] > _SMALL:
        if order != 2.0:
            return torch.linalg.vector_norm(x, order, dim=1).double()
        # On the CPU torch would make a copy in float64 first, which takes several times as long as the norm.
        size = torch.linalg.vector_norm(x, order, dim=1)
        odd = ~((size > _SQUARABLE[0]) & (size < _SQUARABLE[1]))
        size = size.double()
        if bool(odd.any()):
            size[odd] = _in_float64(x[odd], order)
        return size
    return _in_float64(x, order)


_SMALL = 1024
"""Lanes of no more elements are measured in float64 at once, which takes fewer operations. A choice."""
_SQUARABLE = 1e-15, 1e18
"""Norms whose squares float32 holds, with room for those of elements that count."""


def _in_float64(x: Tensor, order: float) -> Tensor:
    return torch.linalg.vector_norm(x, order, dim=1, dtype=torch.float64)


def modulus(x: Tensor) -> Tensor:
    """The modulus of each element, without fused operations.

    That of torch, of complex numbers, rounds in another way in the vectorised part of a tensor than in its tail, and so
    depends on how many lanes lie beside. Numbers are scaled by powers of two where their squares would overflow.
    """
    if not x.is_complex():
        return x.abs()
    re, im = x.real, x.imag
    largest, (most, power) = torch.maximum(re.abs(), im.abs()), _POWERS[x.dtype]
    scale = torch.where(largest > 2.0**most, 2.0**-power, torch.ones_like(largest))
    scale = torch.where(largest < 2.0**-most, 2.0**power, scale)
    re, im = re * scale, im * scale
    return (re * re + im * im).sqrt() / scale


_POWERS = {torch.complex64: (60, 90), torch.complex128: (500, 600)}
"""Exponents of 2 from which numbers are scaled, and by which: no square is infinite then, or rounded to zero."""


def rms(tree: State) -> Tensor:
    """The largest root mean square among the leaves of each lane, shape ``(L,)``, in their dtype, but at least float32.

    Numbers are added in pairs, element by element over all lanes, so that no lane's sum depends on how many lie beside
    it, as the order in which torch adds along an axis may.
    """
    parts = [_leaf_rms(leaf) for leaf in trees.leaves(tree)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).amax(0)


def at_least_single(leaf: Tensor) -> Tensor:
    """Half precision as float32: squares of 256 overflow in float16, and tolerances of 1e-8 are zero."""
    return leaf.float() if leaf.dtype in (torch.float16, torch.bfloat16) else leaf


def _leaf_rms(leaf: Tensor) -> Tensor:
    size = leaf[0].numel() if len(leaf) else 0
    x = torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else at_least_single(leaf)  # see `modulus`
    x = (x * x).reshape(leaf.shape[0], -1)
    while (width := x.shape[1]) > 1:
        half = width // 2
        pairs = x[:, :half] + x[:, half : 2 * half]
        if width % 2:
            pairs[:, 0] += x[:, -1]
        x = pairs
    return (x[:, 0] / size).sqrt() if size else x.sum(1)
