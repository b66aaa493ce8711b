"""Sweeps of a change through many slices in few operations, where the map of each slice is linear and known.

A sweep is D_{n+1} = J_n D_n + d_n. Slices are put in blocks, about as many as there are slices in each. All blocks side
by side multiply their maps and carry their defects on from zero; then the ends of the blocks follow from one another;
then all blocks side by side carry the change in from their starts. For N slices that is a few sqrt(N) operations, one
after another, in place of N.

A product that is not finite, or so large that its rounding matters, is not used: its block is walked slice by slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal._core.vectors import flat, unflat
from parareal.grid._mesh import Where


@dataclass(frozen=True)
class Factors:
    """The linear maps of R rows of L neighbouring slices, as numbers.

    Attributes:
        value: For each leaf what its elements are multiplied with, ``(R, L, *state)``, with ones in place of axes of
            the state where these share a number; or for a leaf that is a vector a matrix, ``(R, L, d, d)``. With
            ``whole``, one ``(R, L, D, D)`` for all elements of a state as one vector. Matrices are transposed: row i
            is what the unit vector i becomes.
        whole: Whether it is such a matrix.
    """

    value: Any
    whole: bool = False

    def scaled(self, theta: float) -> Factors:
        """Theta times these."""
        return Factors(trees.map(lambda leaf: leaf * theta, self.value), self.whole)

    def sweep(self, moved: State, defects: State) -> State:
        """J D of all slices; see `Sweep`."""
        if self.whole:
            return unflat(carried(self.value, flat(moved, 1), flat(defects, 2)), defects, 2)
        return trees.map(_swept, defects, moved, self.value)


def _swept(gained: Tensor, first: Tensor, factors: Tensor) -> Tensor:
    """`carried` for one leaf."""
    numbers = gained.reshape(*gained.shape[:2], -1)
    if factors.ndim != gained.ndim + 1:
        shared = factors.shape[2:].numel() == 1
        factors = (factors if shared else factors.expand(gained.shape)).reshape(*gained.shape[:2], -1)
    return carried(factors, first.reshape(len(first), -1), numbers).reshape(gained.shape)


def pays(rows: int, length: int, numbers: int, device: torch.device, matrices: bool) -> bool:
    """Whether blocks are the cheaper way, for states of that many numbers."""
    if length < _SHORT:
        return False
    if not matrices:
        return rows * numbers <= _WIDE.get(device.type, _WIDE_ELSEWHERE)
    return rows * numbers**3 <= _WORTH.get(device.type, _WORTH_ELSEWHERE)


def carried(factors: Tensor, first: Tensor, gained: Tensor) -> Tensor:
    """J D of R rows of L slices, ``(R, L, D)``, in the cheaper of two ways.

    Args:
        factors: Matrices, transposed, ``(R, L, D, D)``, or what elements are multiplied with, ``(R, L, D)`` or
            ``(R, L, 1)``.
        first: The change at the left, ``(R, D)``.
        gained: Defects, ``(R, L, D)``.
    """
    rows, length, numbers = gained.shape
    by_blocks = pays(rows, length, numbers, gained.device, factors.ndim == 4)
    return (blocked if by_blocks else substituted)(factors, first, gained)


_SHORT = 32
"""Rows of fewer slices are swept one slice after another."""
_WORTH, _WORTH_ELSEWHERE = {"cpu": 3e4}, 1e8
"""Multiplications for the products of one slice, in all rows, that take as long as the operations for one more slice.
That on a CPU was found with ``benchmarks/newton.py --sweeps``; elsewhere it follows from how fast a device multiplies
and how long the start of an operation takes."""
_WIDE, _WIDE_ELSEWHERE = {"cpu": 1e4}, 1e7
"""The same for elements of a change that are multiplied one by one."""


def substituted(factors: Tensor, first: Tensor, gained: Tensor) -> Tensor:
    """`carried`, one slice after another."""
    out: list[Tensor] = []
    for factor, gain in zip(factors.unbind(1), gained.unbind(1), strict=True):
        out.append(_times(first, factor))
        first = out[-1] + gain
    return torch.stack(out, 1)


def blocked(factors: Tensor, first: Tensor, gained: Tensor) -> Tensor:
    """`carried`, by blocks."""
    rows, length, numbers = gained.shape
    size, count = block(length)
    padding = size * count - length
    factors, gained = (_blocks(part, padding, size) for part in (factors, gained))
    each, gains = factors.unbind(1), gained.unbind(1)
    # Products and what defects amount to at the ends of all blocks; those of the last are not needed.
    product, end = each[0], gains[0]
    for factor, gain in zip(each[1:], gains[1:], strict=True):
        product, end = product @ factor if factor.ndim == 3 else product * factor, _moved(end, factor, gain)
    products, ends = (part.unflatten(0, (rows, count)).unbind(1) for part in (product, end))
    starts = [first]
    for c, sound in enumerate(_sound(product, end, rows)[:-1]):
        if sound:
            starts.append(_moved(starts[-1], products[c], ends[c]))
        else:
            starts.append(_walked(starts[-1], factors, gained, slice(c, None, count)))
    x, out = torch.stack(starts, 1).flatten(0, 1), list[Tensor]()
    for factor, gain in zip(each, gains, strict=True):
        out.append(_times(x, factor))
        x = out[-1] + gain
    return torch.stack(out, 1).reshape(rows, count * size, numbers)[:, :length]


def block(length: int) -> tuple[int, int]:
    """Slices in a block, and the number of blocks: a slice takes four operations, a block one."""
    size = max(2, round((length / 4) ** 0.5))
    return size, -(-length // size)


def _blocks(part: Tensor, padding: int, size: int) -> Tensor:
    """Blocks of all rows, ``(R * C, B, ...)``."""
    if padding:
        part = torch.cat([part, part.new_zeros(len(part), padding, *part.shape[2:])], 1)
    return part.reshape(-1, size, *part.shape[2:])


def _times(x: Tensor, factor: Tensor) -> Tensor:
    """J x, ``(N, D)``."""
    return torch.bmm(x.unsqueeze(1), factor).squeeze(1) if factor.ndim == 3 else x * factor


def _moved(x: Tensor, factor: Tensor, gain: Tensor) -> Tensor:
    """J x + d, ``(N, D)``."""
    if factor.ndim == 2:
        return torch.addcmul(gain, x, factor)
    return torch.baddbmm(gain.unsqueeze(1), x.unsqueeze(1), factor).squeeze(1)


def _walked(x: Tensor, factors: Tensor, gained: Tensor, which: slice) -> Tensor:
    """What comes out of some blocks, slice by slice."""
    for factor, gain in zip(factors[which].unbind(1), gained[which].unbind(1), strict=True):
        x = _moved(x, factor, gain)
    return x


def _sound(product: Tensor, end: Tensor, rows: int) -> list[bool]:
    """Which blocks can be passed by their products, in all rows: the one transfer from the device."""
    most = torch.finfo(product.dtype).eps ** -0.25
    size = product.detach().abs().flatten(1).amax(1)
    finite = torch.isfinite(end.detach()).all(1)
    return ((size <= most) & finite).reshape(rows, -1).all(0).tolist()  # pyright: ignore


Apply = Callable[[Where, State], "State | None"]


@dataclass(frozen=True)
class Times:
    """Slices given by their times; a `Where`."""

    t0: Tensor
    t1: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the times."""
        return tuple(self.t0.shape)

    def column(self, i: int) -> Times:
        """Of rows, slice ``i`` of each."""
        return Times(self.t0[:, i], self.t1[:, i])


def walked(apply: Apply, at: Where, moved: State, defects: State) -> State:
    """J D of rows of slices, one slice after another, with ``apply`` for J."""
    return trees.stack(list(_walk(apply, at, moved, defects)), 1)


def _walk(apply: Apply, at: Where, moved: State, defects: State) -> Iterator[State]:
    for i in range(at.shape[1]):
        change = apply(at.column(i), moved)
        change = trees.map(torch.zeros_like, moved) if change is None else change
        yield change
        moved = trees.add(change, trees.map(lambda leaf, i=i: leaf[:, i], defects))


def composed(apply: Apply, compose: Callable[[Where, State], State], at: Where, moved: State, defects: State) -> State:
    """`walked` by blocks, with ``compose`` to carry a change through all slices of a block at once."""
    (rows, length), leaf = at.shape, trees.leaves(defects)[0]
    numbers = sum(part[0, 0].numel() for part in trees.leaves(defects))
    if not pays(rows, length, numbers, leaf.device, matrices=False):
        return walked(apply, at, moved, defects)
    size, count = block(length)
    padding = size * count - length
    t0, t1 = (torch.cat([t, t[:, -1:].expand(-1, padding)], 1) for t in (at.t0, at.t1))
    every = Times(t0.reshape(-1, size), t1.reshape(-1, size))
    gained = trees.map(lambda part: _blocks(part, padding, size), defects)
    nothing = trees.map(lambda part: torch.zeros_like(part[:, 0]), gained)
    *_, last = _walk(apply, every, nothing, gained)
    ends = trees.fold(trees.add(last, trees.map(lambda part: part[:, -1], gained)), count)
    x, starts = moved, [moved]
    for c in range(count - 1):
        here = slice(c * size, (c + 1) * size)
        x = trees.add(compose(Times(t0[:, here], t1[:, here]), x), trees.map(lambda part, c=c: part[:, c], ends))
        starts.append(x)
    carried_in = trees.stack(starts, 1)
    if not all(bool(torch.isfinite(part.detach()).all()) for part in trees.leaves(carried_in)):
        return walked(apply, at, moved, defects)
    out = walked(apply, every, trees.join(carried_in), gained)
    return trees.map(lambda part: part.unflatten(0, (rows, count)).flatten(1, 2)[:, :length], out)
