"""A correction that learns from the iterates: exact along the directions in which they have moved."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.checks import check_count, described
from parareal._core.host import Upload
from parareal._core.trees import State
from parareal._core.vectors import flat, unflat
from parareal.corrections._base import Correction, Known, Sweep
from parareal.corrections._gram_sweep import LONGEST, GridNumbers, gram_sweep, orthogonal
from parareal.corrections._linear import Whitened
from parareal.corrections._traits import CorrectionTraits
from parareal.corrections._wrapper import Wrapper
from parareal.grid._mesh import Span, Where


@dataclass(frozen=True)
class Secant(Wrapper):
    """Another correction, made exact along the directions in which the iterates have moved. It needs no evaluations.

    Two successive iterates of a slice give a secant pair without further work: the change dU of its input and the
    change dF of its fine solution. With the value dG of the correction for dU, the quasi-Newton update of rank one

        F(new) - F(old) = G(new) - G(old) + (dF - dG) <dU, new - old> / <dU, dU>

    is exact for dU whatever the correction is. Several pairs give an update of that rank. The first iteration of a
    slice has no pair yet and uses the correction alone.

    Args:
        correction: A correction, or an integrator, which stands for `Coarse`.
        memory: How many pairs to use, newest first. One is enough where slices move in one direction at a time; where a
            model is guided strongly, two take fewer iterations (``benchmarks/rounds.py``).
        neighbours: Also use the newest pairs of the slices that lie this many places to the left, such as ``(1, 2,
            4)``. Far slices count less. This saves some iterations where slices are short, so that neighbours behave
            alike. Only for corrections that are a `Whitened` flow, such as `Identity`.

    Raises:
        TypeError: ``correction`` is neither, or ``memory`` or one of ``neighbours`` is not an int.
        ValueError: One of these is below 1, or ``neighbours`` came with a correction that is not a `Whitened` flow.

    Source:
        C. G. Broyden, A class of methods for solving nonlinear simultaneous equations, Math. Comp. 19 (1965), applied
        slice by slice.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: -u * u)
        >>> grid = pr.TimeGrid.uniform(0.0, 2.0, slices=40)
        >>> u0 = torch.ones(1, dtype=torch.float64)
        >>> for coarse in (pr.Identity(), pr.Secant(pr.Identity())):
        ...     print(pr.solve(problem, u0, grid, fine=pr.Euler(), coarse=coarse).iterations)
        11
        7
    """

    memory: int = 1
    neighbours: tuple[int, ...] = ()
    _numbers: ClassVar[GridNumbers | None] = None  # of an object that is bound

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_unmixed()
        check_count(self.memory, "memory")
        given: Any = self.neighbours
        if not isinstance(given, tuple):
            raise TypeError(f"neighbours={given!r} is {described(given)}; expected a tuple such as (1, 2, 4)")
        for place in self.neighbours:
            check_count(place, "neighbours")
        inner = self._base.traits
        if self.neighbours and not inner.whitened:
            raise ValueError(
                f"neighbours={self.neighbours} came with {self.correction!r}, which does not sweep over many slices at "
                "once; expected a flow such as pr.Identity(), or neighbours=()"
            )
        if inner.lookback:
            raise ValueError(
                f"{self.correction!r} reads earlier iterates itself; expected one with lookback=0 inside Secant"
            )

    @property
    def traits(self) -> CorrectionTraits:
        """The traits of the inner correction, with a lookback of ``memory``; stacked if that is whitened."""
        inner = self._base.traits
        stacked = inner.whitened and inner.propagator is None
        return replace(super().traits, uses_input=True, lookback=self.memory, pairs=True, stacked=stacked)

    def difference(self, at: Where, new: Known, old: Known) -> State:
        """The difference of the inner correction, and the update of rank ``memory``."""
        change = flat(trees.sub(new.u, old.u), 1)
        inner = self._base.difference(at, new, old)
        moves, errors = self._pairs(at, old, 1)
        moves, errors = orthonormal(moves, errors)
        update = torch.zeros_like(change)
        for move, error in zip(moves, errors, strict=True):
            update = update + error * (move.conj() * change).sum(-1, keepdim=True)
        update = unflat(update, new.u, 1)
        return update if inner is None else trees.add(inner, update)

    def _pairs(self, at: Where, old: Known, lead: int) -> tuple[list[Tensor], list[Tensor]]:
        """Secant pairs of the last iterates: moves dU and errors dF - dG, newest first, each ``(*lead, D)``."""
        moves: list[Tensor] = []
        errors: list[Tensor] = []
        now = old
        while now.before is not None:
            before = now.before
            moved = flat(trees.sub(now.u, before.u), lead)
            error = flat(trees.sub(now.f, before.f), lead)
            inner = self._inner(at, now, before)
            errors.append(error if inner is None else error - flat(inner, lead))
            moves.append(moved)
            now = before
        return moves, errors

    def _pooled(self, flow: Whitened, at: Where, moves: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Combines each slice's secant pairs with those of its neighbours in one ridge regression.

        The ridge parameter grows with the square of the distance on the flow's clock, so far neighbours count less.

        Returns:
            Moves and errors ``(R, L, m, D)``, and the inverse ``(R, L, m, m)`` of the moves' Gram matrix plus the
            ridge parameters on its diagonal.
        """
        clock, weight = flow.clock(at.t0), flow.weight(at)
        damping = [torch.full_like(clock, _DAMPING)] * moves.shape[2]
        rows, columns = [moves], [errors]
        for place in self.neighbours:
            if place >= clock.shape[1]:
                continue
            there, here = slice(None, -place), slice(place, None)
            ratio = (weight[:, here] / weight[:, there]).to(moves.real.dtype)[..., None, None]
            rows.append(torch.nn.functional.pad(moves[:, there, :1], (0, 0, 0, 0, place, 0)))
            columns.append(torch.nn.functional.pad(errors[:, there, :1] * ratio, (0, 0, 0, 0, place, 0)))
            apart = torch.nn.functional.pad(clock[:, here] - clock[:, there], (place, 0))
            damping.append(_DAMPING + apart * apart)
        moves, errors = torch.cat(rows, 2), torch.cat(columns, 2)
        system = moves.conj() @ moves.transpose(-1, -2) + torch.diag_embed(torch.stack(damping, -1)).to(moves.dtype)
        return moves, errors, torch.linalg.inv_ex(system.to(_wide(system)))[0].to(system.dtype)

    def _inner(self, at: Where, new: Known, old: Known) -> State | None:
        return self._base.difference(at, new, old)

    def bind(self, problem: Any, u0: State, grid: Any, fine: Any) -> Correction:
        """Binds the correction inside, and computes what depends on the grid alone."""
        bound = super().bind(problem, u0, grid, fine)
        assert isinstance(bound, Secant)
        flow = bound._base
        if not isinstance(flow, Whitened) or (divisor := flow.divisor(grid.edges)) is None:
            return bound
        clock, weight = flow.clock(grid.edges), flow.weight(Span(grid.edges, np.arange(grid.num_slices)))
        divisor, clock, weight = (part.detach().cpu().numpy() for part in (divisor, clock, weight))
        object.__setattr__(bound, "_numbers", GridNumbers(divisor, clock, weight, self.neighbours, _DAMPING))
        return bound

    def prepare_run(self, at: Where, like: State, upload: Upload) -> None:
        """The numbers of the sweep that depend on the grid alone."""
        n = self._rows(at, like)
        if self._numbers is not None and n is not None:
            self._numbers.prepare(n, self.memory, trees.leaves(like)[0].dtype, upload)

    def _rows(self, at: Where, states: State) -> Ints | None:
        """The slices, where the sweep can be made of products of states."""
        n = getattr(at, "n", None)
        if self._numbers is None or n is None or at.shape[1] * self.memory > LONGEST or _unfit(states):
            return None
        return n

    def difference_run(self, at: Where, sweep: Sweep) -> State:
        """All slices at once."""
        old, n = sweep.old, self._rows(at, sweep.defects)
        if self._numbers is None or n is None:
            return self._by_substitution(at, sweep)
        assert old is not None
        assert old.before is not None
        u, f = [flat(old.u, 2)], [flat(old.f, 2)]
        before: Known | None = old.before
        while before is not None:
            u, f, before = [*u, flat(before.u, 2)], [*f, flat(before.f, 2)], before.before
        change = gram_sweep(self._numbers, n, u, f, flat(sweep.defects, 2), flat(sweep.moved, 1))
        return unflat(change, sweep.defects, 2)

    def _by_substitution(self, at: Where, sweep: Sweep) -> State:
        """All slices at once: the inner products form a triangular system.

        In whitened coordinates x_{n+1} = x_n + d_n + sum_j a_nj c_nj with c_nj = <b_nj, x_n>, and so
        c = r + M c, where M is strictly lower triangular.
        """
        flow, old = cast(Whitened, self._base), sweep.old  # `traits` says stacked only then
        assert old is not None
        t0, t1 = at.t0, at.t1
        moves, errors = (torch.stack(each, 2) for each in orthonormal(*self._pairs(at, old, 2)))
        products = None
        if self.neighbours:
            moves, errors, products = self._pooled(flow, at, moves, errors)
        like = sweep.defects
        # (R, L, m, D): m pairs of each slice
        starts, ends = (t.unsqueeze(2).expand(moves.shape[:3]) for t in (t0, t1))
        a = flat(flow.whiten(ends, unflat(errors, like, 2)), 3)
        b = flat(flow.dual(starts, unflat(moves, like, 2)), 3)
        first = flat(flow.whiten(t0[:, 0], sweep.moved), 1)
        defects = flat(flow.whiten(t1, sweep.defects), 2)
        c = _triangular(a, b, _left(first, defects), products)
        update = (c.unsqueeze(2) @ a).squeeze(2)
        x = _left(first, defects + update) + update
        return flow.unwhiten(t1, unflat(x, like, 2))


def _unfit(states: State) -> bool:
    """Whether gradients are asked for, or numbers are too short for products of states."""
    leaves = trees.leaves(states)
    return any(leaf.requires_grad or leaf.real.dtype not in (torch.float32, torch.float64) for leaf in leaves)


_DAMPING = 0.1
"""Ridge parameter of pooled pairs of unit size, needed because neighbours' pairs point in similar directions. Found by
experiment: ``benchmarks/rounds.py`` prints the rounds of the secant with neighbours (default) and without (plain)."""


_WORTH = {"cpu": 4e6}
_WORTH_ELSEWHERE = 2.5e9
"""Multiplications of the matrix of a block that take as long as the few operations of one more block. On a CPU it was
measured with states of 64 and 16384 elements; elsewhere it follows from the speed of the device
and the time to launch an operation."""
_LEAST, _MOST = 8, 256
"""Fewest and most slices in a block. A choice."""


def _left(first: Tensor, gained: Tensor) -> Tensor:
    """Changes at the left boundaries, ``(R, L, D)``."""
    return torch.cat([first.unsqueeze(1), gained[:, :-1]], dim=1).cumsum(dim=1)


def _block(rows: int, length: int, pairs: int, numbers: int, device: str) -> int:
    """Slices in a block: all of them where that is cheapest, as in a window.

    A block of b slices takes a fixed time, and time for b^2 products of m^2 (D + 64) multiplications, where 64 stands
    for solving with the matrix. The time over all L / b blocks is least where the two are equal. The blocks are then
    made equally long.
    """
    worth = _WORTH.get(device, _WORTH_ELSEWHERE)
    best = (worth / (rows * pairs * pairs * (numbers + 64))) ** 0.5
    count = max(1, round(length / min(max(best, _LEAST), _MOST)))
    return math.ceil(length / count)


def _triangular(a: Tensor, b: Tensor, x: Tensor, products: Tensor | None) -> Tensor:
    """The inner products c, ``(R, L, m)``, each of which depends on those to its left.

    With ``products`` every b is multiplied by that m x m matrix, which is applied to the small inner products and never
    to states.

    This is forward substitution in blocks of slices. Blocks on the right need only the sum that a block adds to x, so
    that time and memory grow with L and not with its square.
    """
    rows, length, pairs, numbers = a.shape
    if not rows * length * pairs:
        return a.new_zeros(rows, length, pairs)
    size = _block(rows, length, pairs, numbers, a.device.type)
    if size == length:
        return _solved(a, b, x, products)
    mixes = [None] * -(-length // size) if products is None else products.split(size, 1)
    parts = list(zip(*(tensor.split(size, 1) for tensor in (a, b, x)), mixes, strict=True))
    done = [_solved(*parts[0])]
    gained = x.new_zeros(rows, 1, numbers)  # added to x by the blocks on the left
    for i in range(1, len(parts)):
        gained = gained + done[-1].flatten(1).unsqueeze(1) @ parts[i - 1][0].flatten(1, 2)
        a, b, x, mix = parts[i]
        done.append(_solved(a, b, x + gained, mix))
    return torch.cat(done, 1)


def _solved(a: Tensor, b: Tensor, x: Tensor, products: Tensor | None) -> Tensor:
    """`_triangular` of one block, with a dense matrix."""
    rows, length, pairs, _ = a.shape
    r = b.conj() @ x.unsqueeze(-1)
    matrix = (b.conj().flatten(1, 2) @ a.flatten(1, 2).transpose(1, 2)).unflatten(1, (length, pairs))
    if products is not None:
        r, matrix = products @ r, products @ matrix
    slices = torch.arange(length, device=a.device).repeat_interleave(pairs)
    matrix = torch.where(slices[:, None] > slices[None, :], -matrix.flatten(1, 2), 0.0)  # (R, L m, L m)
    wide = _wide(matrix)
    c = torch.linalg.solve_triangular(matrix.to(wide), r.flatten(1, 2).to(wide), upper=False, unitriangular=True)
    return c.to(r.dtype).reshape(rows, length, pairs)


def _wide(matrix: Tensor) -> torch.dtype:
    """The dtype to solve small systems in: torch has none of it in half precision."""
    return torch.promote_types(matrix.dtype, torch.float32)


def orthonormal(moves: list[Tensor], errors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The moves, each ``(..., D)``, made orthonormal, newest first, with the errors combined in the same way.

    A move that lies in the span of those before it, to within rounding, becomes zero.
    """
    moves, errors = orthogonal(moves, errors)
    for i, move in enumerate(moves):
        size = torch.linalg.vector_norm(move, dim=-1, keepdim=True)
        inverse = size.masked_fill(size == 0, torch.inf).reciprocal()
        moves[i], errors[i] = move * inverse, errors[i] * inverse
    return moves, errors
