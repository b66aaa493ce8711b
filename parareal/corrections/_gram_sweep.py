"""The sweep of `Secant` around a flow whose whitening is one number for each time, from one product of matrices.

All that the sweep makes of a row of L slices lies in the span of a few vectors: the last m moves m_nj of the slices,
what the flow missed of them, e_nj, the defects d_n, and the change x_0 at the left boundary of the row. The products of
the moves with all of these hold what is asked of states; everything else is arithmetic on small matrices, and a second
product makes the change out of the vectors. In the flow's whitened coordinates, with S(t) its divisor,

    y_{n+1} = y_n + d_n / S_{n+1} + sum_j r_nj e_nj c_nj / S_{n+1},    c_n = P_n <m_nj, S_n y_n>,

where j runs over the slice's own pairs and the newest ones of neighbours, r_nj is the ratio of their weights, and P_n
the inverse of the damped products of their moves. What depends on the grid alone is computed on the host and sent in
one piece.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core.arrays import Floats, Ints
from parareal._core.host import Upload, index_to, together_to_device

LONGEST = 256
"""Pairs of a row, apart from those of neighbours, up to which the small matrices are small: these are their sides."""


@dataclass(frozen=True, eq=False)
class GridNumbers:
    """What the sweep has to know of the grid, at its N + 1 boundaries or N slices, float64.

    Attributes:
        divisor: S(t) of the flow, ``(N + 1,)``.
        clock: Times in which neighbouring slices are compared, ``(N + 1,)``.
        weight: How much the flow misses in a slice, ``(N,)``.
        places: How far to the left the neighbours are whose pairs are used.
        damping: Of pairs that are pooled.
    """

    divisor: Floats
    clock: Floats
    weight: Floats
    places: tuple[int, ...]
    damping: float
    _indices: dict[tuple[int, int, torch.device], tuple[Tensor, ...]] = field(
        default_factory=dict, init=False, repr=False
    )
    _prepared: dict[Any, dict[str, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def indices(self, length: int, own: int, device: torch.device) -> tuple[Tensor, ...]:
        """Where products of pairs lie among products of moves, for rows of that many slices: made once for each length.

        Moves are in the order (j, n): the newest of all slices, then those before them.

        Returns:
            Of the pairs ``(n, i)``: products of the moves of two pairs of one slice, products of any two pairs, of a
            pair with what comes in at its slice, and the places of pairs in a matrix of slices.
        """
        key = length, own, device
        if key not in self._indices:
            self._indices[key] = tuple(index_to(device, part) for part in self._places(length, own))
        return self._indices[key]

    def _places(self, length: int, own: int) -> list[Ints]:
        """The `indices` on the host."""
        source, moves = self.sources(length, own)[0], own * length
        within = source[:, :, None] * moves + source[:, None, :]
        flat, slices = source.reshape(-1), np.repeat(np.arange(length), source.shape[1])
        between = flat[:, None] * moves + flat[None, :]
        comes_in = flat * length + slices
        lies = slices * moves + flat
        return [np.ascontiguousarray(part.reshape(-1)) for part in (within, between, comes_in, lies)]

    def prepare(self, n: Ints, own: int, dtype: torch.dtype, upload: Upload) -> None:
        """Adds the `coefficients` of rows, and new `indices`, to an upload, unless an earlier one has brought them."""
        key = n.shape, n.tobytes(), own, dtype
        if key in self._prepared:
            return
        if (n.shape[1], own, upload.device) not in self._indices:
            upload.indices(self._places(n.shape[1], own))
        numbers = self.coefficients(n, own)
        parts = [torch.from_numpy(np.ascontiguousarray(part)) for part in numbers.values()]

        def take(there: list[Tensor]) -> None:
            self._prepared.clear()  # those of the last rows were used, or will not be
            self._prepared[key] = dict(zip(numbers, there, strict=True))

        upload.numbers(parts, dtype, take)

    def there(self, n: Ints, own: int, like: Tensor) -> dict[str, Tensor]:
        """The `coefficients` of rows on the device of a tensor, in its dtype."""
        found = self._prepared.pop((n.shape, n.tobytes(), own, like.dtype), None)
        if found is not None and next(iter(found.values())).device == like.device:
            return found
        numbers = self.coefficients(n, own)
        parts = together_to_device([torch.from_numpy(part) for part in numbers.values()], like.device, like.dtype)
        return dict(zip(numbers, parts, strict=True))

    def sources(self, length: int, own: int) -> tuple[Ints, Ints]:
        """The moves whose pairs slice n uses, ``own`` of its own first, and whether that slice exists: ``(L, m)``."""
        places = np.array([0] * own + [place for place in self.places if place < length])
        source = np.arange(length)[:, None] - places
        there = source >= 0
        source[:, :own] += np.arange(own) * length
        return np.maximum(source, 0), there.astype(np.int64)

    def coefficients(self, n: Ints, own: int) -> dict[str, Floats]:
        """Numbers of rows of slices n, ``(R, L)``, with ``own`` moves each; see `gram_sweep`."""
        rows, length = n.shape
        source, there = self.sources(length, own)
        source = source % length
        with np.errstate(all="ignore"):  # a row of repetitions, or a slice in which the flow misses nothing
            return self._coefficients(n, rows, length, source, there)

    def _coefficients(self, n: Ints, rows: int, length: int, source: Ints, there: Ints) -> dict[str, Floats]:
        left, right = self.divisor[n], self.divisor[n + 1]
        strict, full = np.tri(length, k=-1), np.tri(length)
        ratio = self.weight[n][:, :, None] / self.weight[n][:, source] * there  # (R, L, m)
        inverse = 1 / right
        pairs = there[:, :, None] * there[:, None, :] / left[:, :, None, None]
        apart = self.clock[n][:, :, None] - self.clock[n][:, source]
        damped = np.where(there > 0, self.damping + apart * apart, 1.0) / left[:, :, None]
        slices = np.repeat(np.arange(length), source.shape[1])
        earlier = slices[:, None] > slices[None, :]
        column = (ratio * inverse[:, :, None]).reshape(rows, 1, -1)
        first = np.broadcast_to((1 / left[:, :1])[:, None], (rows, length, 1))
        comes = np.concatenate([strict * inverse[:, None, :], first], 2)
        return {
            "flow": right / left,  # what the flow makes of a move
            "left": np.repeat(left, source.shape[1], 1),
            "pairs": pairs,
            "damped": damped[..., None] * np.eye(source.shape[1]),
            "column": column,
            "matrix": np.where(earlier, -column, 0.0),
            "comes": comes.swapaxes(1, 2),  # of defects and x_0 in y_n
            "through": full * right[:, :, None],
            "out": comes * right[:, :, None],
        }


def gram_sweep(grid: GridNumbers, n: Ints, u: list[Tensor], f: list[Tensor], defects: Tensor, moved: Tensor) -> Tensor:
    """J D of rows of L slices, ``(R, L, D)``.

    Args:
        grid: What depends on the grid alone.
        n: The slices, ``(R, L)``.
        u: States at left boundaries at the last iterates, newest first, ``(R, L, D)`` each.
        f: Fine solutions from them.
        defects: ``(R, L, D)``.
        moved: What the left boundaries of the rows have moved by, ``(R, D)``.
    """
    length, own = n.shape[1], len(u) - 1
    on = grid.there(n, own, defects)
    within, between, comes_in, lies = grid.indices(length, own, defects.device)
    flow, count = on["flow"].unsqueeze(-1), own * length
    vectors = _vectors(u, f, flow, defects, moved)
    inverse = _inverse_sizes(vectors, count)
    # Products of the moves of unit length with all vectors; those with moves and with what was missed of them twice so.
    products = (vectors[:, :count].conj() @ vectors.mT) * inverse.unsqueeze(-1)
    with_moves, with_missed = (products[..., : 2 * count].unflatten(2, (2, count)) * inverse[:, None, None]).unbind(2)
    matrix = with_missed.flatten(1).index_select(1, between).reshape(len(n), -1, len(comes_in))
    matrix = matrix * on["matrix"]
    known = (products[..., 2 * count :] @ on["comes"]).flatten(1).index_select(1, comes_in)
    if grid.places:
        pooled = with_moves.flatten(1).index_select(1, within).reshape(on["pairs"].shape)
        mix = torch.linalg.inv_ex(torch.addcmul(on["damped"], pooled, on["pairs"]))[0]
        by_slice = (*mix.shape[:3], -1)
        matrix, known = (
            (mix @ matrix.reshape(by_slice)).reshape(matrix.shape),
            (mix @ known.reshape(by_slice)).flatten(1),
        )
    else:
        matrix, known = matrix * on["left"].unsqueeze(-1), known * on["left"]
    c = torch.linalg.solve_triangular(matrix, known.unsqueeze(-1), upper=False, unitriangular=True).squeeze(-1)
    spread = torch.zeros(len(n), length * count, dtype=c.dtype, device=c.device)
    spread.index_add_(1, lies, c * on["column"].squeeze(1))
    of_missed = (on["through"] @ spread.reshape(len(n), length, count)) * inverse.unsqueeze(1)
    return torch.cat([of_missed, on["out"]], 2) @ vectors[:, count:]


def _vectors(u: list[Tensor], f: list[Tensor], flow: Tensor, defects: Tensor, moved: Tensor) -> Tensor:
    """Moves, what the flow misses of them, defects and the first moves, one after another, ``(R, V, D)``."""
    length, own = defects.shape[1], len(u) - 1
    given = torch.is_grad_enabled() and any(x.requires_grad for x in (*u, *f, defects, moved))
    if own == 1 and not given:  # written where they belong, without a copy
        vectors = torch.empty((len(defects), 3 * length + 1, defects.shape[2]), dtype=defects.dtype, device=flow.device)
        move, missed = vectors[:, :length], vectors[:, length : 2 * length]
        torch.sub(u[0], u[1], out=move)
        torch.sub(f[0], f[1], out=missed)
        missed.addcmul_(move, flow, value=-1)
        vectors[:, 2 * length : -1], vectors[:, -1] = defects, moved
        return vectors
    moves = [now - before for now, before in pairwise(u)]
    errors = [
        torch.addcmul(now - before, move, flow, value=-1)
        for (now, before), move in zip(pairwise(f), moves, strict=True)
    ]
    if own > 1:
        moves, errors = orthogonal(moves, errors)
    return torch.cat([*moves, *errors, defects, moved.unsqueeze(1)], 1)


def orthogonal(moves: list[Tensor], missed: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The moves, each ``(..., D)``, made orthogonal, newest first, with what was missed combined in the same way.

    A move that is not finite, or that lies in the span of those before it to within rounding, becomes zero.
    """
    out: tuple[list[Tensor], list[Tensor]] = ([], [])
    inverse: list[Tensor] = []
    for move, error in zip(moves, missed, strict=True):
        size, its_size = (torch.linalg.vector_norm(one.detach(), dim=-1, keepdim=True) for one in (move, error))
        # Mask before anything is computed: what is masked later would still enter the gradients.
        unsound = ~(torch.maximum(size, its_size) < torch.inf)
        move, error = move.masked_fill(unsound, 0.0), error.masked_fill(unsound, 0.0)
        for known, its_error, over in zip(*out, inverse, strict=True):
            part = (known.conj() * move).sum(-1, keepdim=True) * over
            move, error = move - known * part, error - its_error * part
        left = torch.linalg.vector_norm(move, dim=-1, keepdim=True)
        spanned = ~(left > _SPANNED * size)
        move, error = move.masked_fill(spanned, 0.0), error.masked_fill(spanned, 0.0)
        inverse.append(left.masked_fill(spanned, torch.inf).square().reciprocal())
        out[0].append(move)
        out[1].append(error)
    return out


_SPANNED = 1e-3
"""A move that keeps less than this part of its length lies in the span of those before it. A choice: well above
rounding in float32."""


def _inverse_sizes(vectors: Tensor, length: int) -> Tensor:
    """One over the sizes of the moves, ``(R, L)``; zero for pairs that are not finite or did not move, made zero."""
    sizes = torch.linalg.vector_norm(vectors[:, : 2 * length], dim=-1)
    moves, largest = sizes[:, :length], sizes.unflatten(1, (2, length)).amax(1)
    useless = ~((largest < torch.inf) & (moves > 0))
    pairs = vectors[:, : 2 * length].unflatten(1, (2, length))
    if useless.device.type != "cpu":
        pairs.masked_fill_(useless[:, None, :, None], 0.0)
    else:  # asking costs nothing there, and few are
        for row, pair in useless.nonzero().tolist():
            pairs[row, :, pair] = 0.0
    return moves.reciprocal().masked_fill_(useless, 0.0)
