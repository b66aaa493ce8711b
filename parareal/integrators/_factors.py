"""Factorisations of I - h J A, on lanes: dense by torch, banded and sparse ones by SciPy.

Each lane's factors and solutions are those it has alone, bit for bit: the libraries are given one system with one
right-hand side at a time. A matrix that is singular gives factors of NaN, and so solutions of NaN.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from parareal._core.locks import ForkSafeLock
from parareal.problem._derivatives import derivatives_of
from parareal.problem._structure import Pattern, Structure

Parts: TypeAlias = tuple[Tensor, ...]
"""Factors of L lanes, ``(L, ...)``; of one lane, where all share them."""

_FEW = 32
"""Unknowns up to which shared factors are repeated for each lane, which takes one call for all of them."""


class Factors(ABC):
    """How systems of s stages of D numbers are factorised and solved."""

    @abstractmethod
    def empty(self, lanes: int, like: Tensor) -> Parts:
        """Factors of no system."""

    @abstractmethod
    def of(self, jacobian: Tensor, a: Tensor, h: Tensor) -> Parts:
        """Factors of I - h J A.

        Args:
            jacobian: Matrices ``(L, s, D, D)``, or their entries ``(L, s, E)``.
            a: Weights, ``(s, s)``.
            h: Lengths of steps, ``(L,)``.
        """

    @abstractmethod
    def solve(self, parts: Parts, rhs: Tensor, transposed: bool = False) -> Tensor:
        """Solutions ``(L, s, D)``."""

    @abstractmethod
    def row_sums(self, jacobian: Tensor, a: Tensor, h: Tensor) -> Tensor:
        """The largest sum over a row of |h J A|, float64, ``(L,)``."""


class Dense(Factors):
    """LU with pivots, kept transposed: torch wants columns to be contiguous, also after lanes have been chosen."""

    def __init__(self, unknowns: int) -> None:
        self._n = unknowns

    def empty(self, lanes: int, like: Tensor) -> Parts:
        """NaN, in the memory of one number."""
        whole = torch.full((1, 1, 1), torch.nan, dtype=like.dtype, device=like.device)
        pivots = torch.ones(1, 1, dtype=torch.int32, device=like.device)
        return whole.expand(lanes, self._n, self._n), pivots.expand(lanes, self._n)

    def of(self, jacobian: Tensor, a: Tensor, h: Tensor) -> Parts:
        """By `torch.linalg.lu_factor_ex`, which raises for no lane."""
        matrix = torch.eye(self._n, dtype=jacobian.dtype, device=jacobian.device) - coupled(jacobian, a, h)
        lu, pivots, info = torch.linalg.lu_factor_ex(matrix)
        return torch.where((info != 0)[:, None, None], torch.nan, lu).mT.contiguous(), pivots

    def solve(self, parts: Parts, rhs: Tensor, transposed: bool = False) -> Tensor:
        """By `torch.linalg.lu_solve`."""
        lu, pivots = parts
        flat = rhs.flatten(1)[..., None]
        if len(lu) == len(rhs) or self._n <= _FEW:
            lu, pivots = lu.expand(len(rhs), -1, -1), pivots.expand(len(rhs), -1)
            found = torch.linalg.lu_solve(lu.mT, pivots, flat, adjoint=transposed)
        else:
            each = [torch.linalg.lu_solve(lu.mT, pivots, one[None], adjoint=transposed) for one in flat]
            found = torch.cat(each)
        return found.reshape(rhs.shape)

    def row_sums(self, jacobian: Tensor, a: Tensor, h: Tensor) -> Tensor:
        """Of the matrix."""
        return coupled(jacobian, a, h).abs().sum(2).amax(1).double()


def coupled(jacobian: Tensor, a: Tensor, h: Tensor) -> Tensor:
    """H J A as matrices ``(L, s D, s D)``, stage after stage."""
    lanes, s, size = jacobian.shape[:3]
    blocks = h[:, None, None, None, None] * a[None, :, None, :, None] * jacobian[:, :, :, None, :]
    return blocks.reshape(lanes, s * size, s * size)


class Structured(Factors):
    """Matrices with a pattern, on the CPU. Unknowns are numbered element after element, which keeps bands narrow."""

    def __init__(self, pattern: Pattern, stages: int) -> None:
        self._pattern, self._s, self._n = pattern, stages, stages * pattern.size
        i, j = np.divmod(np.arange(stages**2), stages)
        self._rows = (pattern.rows[:, None] * stages + i).ravel()  # in the order of _entries
        self._cols = (pattern.cols[:, None] * stages + j).ravel()
        self._diagonal = self._rows == self._cols

    def _entries(self, jacobian: Tensor, a: Tensor, h: Tensor) -> Tensor:
        """Those of h J A, ``(L, E s s)``."""
        return (h[:, None, None, None] * a * jacobian.mT[..., None]).flatten(1)

    def row_sums(self, jacobian: Tensor, a: Tensor, h: Tensor) -> Tensor:
        """Of the entries."""
        entries = self._entries(jacobian, a, h).abs().double()
        rows = torch.from_numpy(self._rows).to(entries.device)
        return entries.new_zeros(len(entries), self._n).index_add(1, rows, entries).amax(1)

    def _matrix(self, jacobian: Tensor, a: Tensor, h: Tensor) -> Any:
        """Entries of I - h J A as an array, ``(L, E s s)``."""
        return self._diagonal - self._entries(jacobian, a, h).numpy()

    def solve(self, parts: Parts, rhs: Tensor, transposed: bool = False) -> Tensor:
        """Lane by lane."""
        lanes, found = len(rhs), torch.empty_like(rhs)
        for lane in range(lanes):
            one = tuple(part[lane if len(part) == lanes else 0].numpy() for part in parts)
            solution = self._one(one, rhs[lane].mT.reshape(-1).numpy(), transposed)
            found[lane] = torch.from_numpy(solution).reshape(rhs.shape[2], rhs.shape[1]).mT
        return found

    @abstractmethod
    def _one(self, parts: tuple[Any, ...], rhs: Any, transposed: bool) -> Any:
        """The solution of one system."""


class BandedLU(Structured):
    """LAPACK's gbtrf and gbtrs."""

    def __init__(self, pattern: Pattern, stages: int) -> None:
        super().__init__(pattern, stages)
        assert pattern.band is not None
        self._lower, self._upper = (stages * width + stages - 1 for width in pattern.band)

    def empty(self, lanes: int, like: Tensor) -> Parts:
        """NaN, in the memory of one number."""
        band = torch.full((1, 1, 1), torch.nan, dtype=like.dtype)
        height = 2 * self._lower + self._upper + 1
        return band.expand(lanes, height, self._n), torch.zeros(1, 1, dtype=torch.int32).expand(lanes, self._n)

    def of(self, jacobian: Tensor, a: Tensor, h: Tensor) -> Parts:
        """Diagonals as rows, with room for what elimination adds, and pivots."""
        from scipy.linalg import get_lapack_funcs

        entries = self._matrix(jacobian, a, h)
        height = 2 * self._lower + self._upper + 1
        bands = np.zeros((len(entries), height, self._n), dtype=entries.dtype)
        bands[:, self._lower + self._upper + self._rows - self._cols, self._cols] = entries
        pivots = np.zeros((len(entries), self._n), dtype=np.int32)
        (factorise,) = get_lapack_funcs(("gbtrf",), dtype=entries.dtype)
        for lane, band in enumerate(bands):
            lu, pivots[lane], info = factorise(band, self._lower, self._upper)
            bands[lane] = lu if info == 0 else np.nan
        return torch.from_numpy(bands), torch.from_numpy(pivots)

    def _one(self, parts: tuple[Any, ...], rhs: Any, transposed: bool) -> Any:
        from scipy.linalg import get_lapack_funcs

        (solve,) = get_lapack_funcs(("gbtrs",), dtype=rhs.dtype)
        return solve(parts[0], self._lower, self._upper, rhs, parts[1], trans=int(transposed))[0]


class SparseLU(Structured):
    """SuperLU. Its factors are no tensors: lanes carry the matrices, whose factors are found by their bits."""

    def empty(self, lanes: int, like: Tensor) -> Parts:
        """NaN, in the memory of one number."""
        return (torch.full((1, 1), torch.nan, dtype=like.dtype).expand(lanes, len(self._rows)),)

    def of(self, jacobian: Tensor, a: Tensor, h: Tensor) -> Parts:
        """The entries of the matrices."""
        return (torch.from_numpy(self._matrix(jacobian, a, h)),)

    def _one(self, parts: tuple[Any, ...], rhs: Any, transposed: bool) -> Any:
        factor = _superlu(self._rows, self._cols, self._n, parts[0])
        return np.full_like(rhs, np.nan) if factor is None else factor.solve(rhs, "T" if transposed else "N")


_known: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_lock = ForkSafeLock()
_MOST_KNOWN = 64
"""Factorisations that are kept, the latest used. A choice: each costs its matrix, and grids seldom have more steps."""


def _superlu(rows: Any, cols: Any, size: int, entries: Any) -> Any:
    """The factors of a matrix, or ``None`` where it is singular; of recent matrices they are kept."""
    from scipy.sparse import csc_array
    from scipy.sparse.linalg import splu

    key = size, entries.dtype.str, entries.tobytes(), id(rows)
    with _lock.current:
        if key in _known:
            _known.move_to_end(key)
            return _known[key][0]
    factor: Any = None
    if np.isfinite(entries).all():
        try:
            factor = splu(csc_array((entries, (rows, cols)), shape=(size, size)))
        except RuntimeError:  # exactly singular
            factor = None
    with _lock.current:
        _known[key] = factor, rows  # with the rows, so that their id is not given again
        while len(_known) > _MOST_KNOWN:
            _known.popitem(last=False)
    return factor


def factors_for(problem: Any, vector: Tensor, stages: int) -> Factors:
    """How the systems of a problem are factorised, for states as vectors ``(L, D)``; SciPy works on the CPU alone."""
    structure = derivatives_of(problem).structure if vector.device.type == "cpu" else None
    return Dense(stages * vector.shape[1]) if structure is None else _structured(structure, vector.shape[1], stages)


@lru_cache(maxsize=16)
def pattern_of(structure: Structure, size: int) -> Pattern:
    """The pattern of a structure for states of that many numbers."""
    return structure.pattern(size)


@lru_cache(maxsize=16)
def _structured(structure: Structure, size: int, stages: int) -> Factors:
    pattern = pattern_of(structure, size)
    return SparseLU(pattern, stages) if pattern.band is None else BandedLU(pattern, stages)
