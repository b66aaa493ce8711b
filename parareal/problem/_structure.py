"""Where the derivative of a right-hand side has entries that are not zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from parareal._core.arrays import Ints
from parareal._core.checks import check_count, described


@dataclass(frozen=True)
class Banded:
    """df/du has entries on a few diagonals alone, as for derivatives in space in one dimension.

    Implicit methods then take ``lower + upper + 1`` directional derivatives for a Jacobian, not one for each element,
    and solve its systems by LAPACK's banded elimination, in time and memory that grow with the state and not with its
    square. Elements are numbered as in the flattened state, leaf after leaf; a complex one counts as two.

    Args:
        lower: Diagonals below the main one: f_i depends on u_j for ``i - j <= lower``.
        upper: Diagonals above it: for ``j - i <= upper``.

    Raises:
        TypeError: A number is not an int.
        ValueError: A number is below 0.

    Examples:
        >>> import torch, parareal as pr
        >>> def heat(t, u):
        ...     padded = torch.nn.functional.pad(u, (1, 1))
        ...     return 1e4 * (padded[2:] - 2 * u + padded[:-2])
        >>> problem = pr.ODE(heat, structure=pr.Banded(lower=1, upper=1))
        >>> u0, grid = torch.ones(1000, dtype=torch.float64), pr.TimeGrid.uniform(0.0, 0.1, slices=4, steps=5)
        >>> pr.solve(problem, u0, grid, fine=pr.SDIRK2(), coarse=pr.ImplicitEuler()).converged
        True
    """

    lower: int
    upper: int

    def __post_init__(self) -> None:
        check_count(self.lower, "lower", 0)
        check_count(self.upper, "upper", 0)

    def pattern(self, size: int) -> Pattern:
        """The pattern of a state of ``size`` numbers."""
        offsets = np.arange(-self.upper, self.lower + 1)
        cols = np.repeat(np.arange(size), len(offsets))
        rows = cols + np.tile(offsets, size)
        inside = (rows >= 0) & (rows < size)
        colours = np.arange(size) % min(len(offsets), size)
        lower, upper = min(self.lower, size - 1), min(self.upper, size - 1)
        return Pattern(size, rows[inside], cols[inside], colours, (lower, upper))


@dataclass(frozen=True, eq=False, init=False)
class Sparse:
    """df/du has entries at known places alone, as for derivatives in space in two dimensions, or for a network.

    Implicit methods then take directional derivatives along groups of elements that share no row, and solve systems by
    SciPy's sparse elimination (SuperLU). Elements are numbered as in the flattened state, leaf after leaf; a complex
    one counts as two.

    Args:
        pattern: A square matrix, whose entries other than zero are at these places: a tensor, dense or sparse, a
            numpy array, or a matrix of scipy.sparse. The diagonal belongs to it in any case.

    Raises:
        TypeError: ``pattern`` is none of these.
        ValueError: ``pattern`` is not square.

    Examples:
        >>> import torch, parareal as pr
        >>> ring = torch.eye(50).roll(1, 0) + torch.eye(50).roll(-1, 0)
        >>> f = lambda t, u: 100.0 * (u.roll(1) - 2 * u + u.roll(-1)) - u**3
        >>> problem = pr.ODE(f, structure=pr.Sparse(ring))
        >>> u0, grid = torch.rand(50, dtype=torch.float64), pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=5)
        >>> pr.solve(problem, u0, grid, fine=pr.SDIRK2(), coarse=pr.ImplicitEuler()).converged
        True
    """

    places: Ints
    size: int

    def __init__(self, pattern: Any) -> None:
        rows, cols, shape = _places(pattern)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"pattern has shape {tuple(shape)}; expected a square matrix, with a row for each element")
        numbers = np.unique(np.concatenate([cols * shape[0] + rows, np.arange(shape[0]) * (shape[0] + 1)]))
        object.__setattr__(self, "places", numbers)
        object.__setattr__(self, "size", int(shape[0]))

    def __repr__(self) -> str:
        return f"Sparse({self.size} x {self.size}, {len(self.places)} entries)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _sparse, (self.places, self.size)

    def pattern(self, size: int) -> Pattern:
        """The pattern, of a state of ``size`` numbers."""
        if size != self.size:
            raise ValueError(
                f"structure is a pattern of {self.size} rows for a state of {size} numbers; expected one row for each "
                "number of the flattened state, two for a complex one"
            )
        cols, rows = np.divmod(self.places, size)
        return Pattern(size, rows, cols, _coloured(rows, cols, size), None)


def _sparse(places: Ints, size: int) -> Sparse:
    made = object.__new__(Sparse)
    object.__setattr__(made, "places", places)
    object.__setattr__(made, "size", size)
    return made


Structure: TypeAlias = Banded | Sparse


@dataclass(frozen=True, eq=False)
class Pattern:
    """Places of a matrix, column by column, with the diagonal.

    Attributes:
        size: Rows, D.
        rows: Rows of the entries, ``(E,)``.
        cols: Their columns.
        colours: A group for each column, ``(D,)``: the columns of a group share no row.
        band: Diagonals below and above the main one, for a banded matrix.
    """

    size: int
    rows: Ints
    cols: Ints
    colours: Ints
    band: tuple[int, int] | None

    @property
    def directions(self) -> int:
        """How many directional derivatives give all entries."""
        return int(self.colours.max()) + 1

    def seeds(self, like: Tensor) -> Tensor:
        """The directions, ``(C, D)``."""
        colours = torch.from_numpy(self.colours).to(like.device)
        return (colours == torch.arange(self.directions, device=like.device)[:, None]).to(like.dtype)

    def entries(self, columns: Tensor) -> Tensor:
        """Entries ``(..., E)`` from derivatives along the seeds, ``(..., D, C)``."""
        groups = self.colours[self.cols]
        index = torch.from_numpy(self.rows * self.directions + groups).to(columns.device)
        return columns.flatten(-2).index_select(-1, index)

    def picked(self, matrix: Tensor) -> Tensor:
        """Entries ``(..., E)`` of whole matrices, ``(..., D, D)``."""
        return matrix.flatten(-2).index_select(
            -1, torch.from_numpy(self.rows * self.size + self.cols).to(matrix.device)
        )

    def dense(self, entries: Tensor) -> Tensor:
        """The inverse of `picked`."""
        index = torch.from_numpy(self.rows * self.size + self.cols).to(entries.device)
        whole = entries.new_zeros(*entries.shape[:-1], self.size**2)
        return whole.index_copy(-1, index, entries).unflatten(-1, (self.size, self.size))


def _places(pattern: Any) -> tuple[Ints, Ints, tuple[int, ...]]:
    if isinstance(pattern, Tensor):
        index = pattern.detach().cpu()
        index = (index if index.layout == torch.sparse_coo else index.to_sparse()) if index.ndim == 2 else index
        if index.ndim != 2:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), tuple(pattern.shape)
        rows, cols = index.coalesce().indices().numpy()
        return rows, cols, tuple(pattern.shape)
    if isinstance(pattern, np.ndarray):
        rows, cols = pattern.nonzero() if pattern.ndim == 2 else (np.zeros(0, np.int64),) * 2
        return rows.astype(np.int64), cols.astype(np.int64), pattern.shape  # pyright: ignore
    if hasattr(pattern, "tocoo"):
        found = pattern.tocoo()
        return np.asarray(found.row, dtype=np.int64), np.asarray(found.col, dtype=np.int64), tuple(found.shape)
    raise TypeError(f"pattern is {described(pattern)}; expected a square matrix: a tensor, or one of scipy.sparse")


def _coloured(rows: Ints, cols: Ints, size: int) -> Ints:
    """Greedy groups of columns that share no row."""
    begins = np.searchsorted(cols, np.arange(size + 1))
    taken: list[set[int]] = [set() for _ in range(size)]  # the groups that a row is in
    colours = np.zeros(size, dtype=np.int64)
    for col in range(size):
        mine = rows[begins[col] : begins[col + 1]].tolist()
        used = set[int]().union(*(taken[row] for row in mine))
        colour = next(c for c in range(len(used) + 1) if c not in used)
        colours[col] = colour
        for row in mine:
            taken[row].add(colour)
    return colours
