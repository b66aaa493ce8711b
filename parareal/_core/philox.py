"""Random numbers that are a function of where they are used: a key and a counter go in, no state is kept.

Philox4x32-10 maps a key of two words and a counter of four to four words of 32 bits. Words are held in int64 tensors,
so that the same few multiplications run on any device, for any number of counters at once.

Source:
    J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Words: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]

WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
"""The constants of the paper: multipliers of the two products, and what is added to the key in each round."""


def philox(counter: Words, key: tuple[Tensor, Tensor], rounds: int = 10) -> Words:
    """Four words for each counter and key; int64 tensors of values below 2^32 whose shapes broadcast.

    Products wrap at 2^64 in int64, which leaves their bits as they are without a sign; the shift that copies the sign
    is masked.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (p1 >> 32) & WORD ^ c1 ^ k0, (p0 >> 32) & WORD ^ c3 ^ k1
        c1, c3 = p1 & WORD, p0 & WORD
        k0, k1 = (k0 + _WEYL[0]) & WORD, (k1 + _WEYL[1]) & WORD
    return c0, c1, c2, c3


def normals(keys: Tensor, place: Tensor, count: int, stream: int) -> Tensor:
    """Independent standard normals for every place, lane and element.

    Args:
        keys: Key and sample of each lane, int64, ``(L, 3)``.
        place: Any numbers, int64, ``(J, L)``.
        count: Elements of each.
        stream: Different streams are independent.

    Returns:
        float64, ``(J, L, count)``. An entry depends on its lane's key, its place, its element and the stream alone.
    """
    block = torch.arange((count + 1) // 2, device=place.device)
    k0, k1, sample = keys.unsqueeze(-1).unbind(1)
    words = philox((block, place.unsqueeze(-1), torch.full_like(block, stream), sample), (k0, k1))
    pairs = torch.stack([_normal(words[0], words[1]), _normal(words[2], words[3])], -1)
    return pairs.flatten(-2)[..., :count]


def _normal(high: Tensor, low: Tensor) -> Tensor:
    """The inverse of the distribution function at a probability below 1/2 of 52 bits; one more bit is the sign.

    Unlike sums of logarithms and cosines it is computed element by element, with the same result wherever in a tensor.
    """
    bits = (high & (WORD >> 1)) << 21 | low >> 11
    tail = torch.special.ndtri((bits.to(torch.float64) + 0.5) * 2.0**-53)
    return torch.where(high > WORD >> 1, -tail, tail)
