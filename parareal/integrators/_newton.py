"""Newton's method for the stages of an implicit step, on many lanes at once.

The unknowns are the slopes k of s stages, which solve k_i = f(t_i, u + h sum_j a_ij k_j). One iteration is one request:
it takes the right-hand side at all stages, its derivatives there, and solves the linear system

    (I - h J A) delta = f(...) - k,    k <- k + delta.

A lane that has converged gets no further correction and no further evaluation, so that neither its result nor its cost
depends on the lanes beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.forward_mode import derivatives_for
from parareal._core.trees import State
from parareal._core.vectors import flat, unflat
from parareal.integrators._base import Cost
from parareal.integrators._gmres import Solved

MOST_DENSE = 512
"""Unknowns of a system whose matrix is made: 2 MiB of float64 for each lane. Larger ones are solved by GMRES."""

Matrix: TypeAlias = tuple[tuple[float, ...], ...]


def to_vector(tree: State, lead: int) -> Tensor:
    """All leaves as one real ``(..., D)`` behind ``lead`` axes, complex elements as two numbers each.

    A derivative along both of them is right for any function of complex numbers, holomorphic or not.
    """
    return flat(trees.map(_as_real, tree), lead)


def to_state(vector: Tensor, like: State, lead: int) -> State:
    """The inverse of `to_vector`, for a state like ``like``."""

    def leaf(part: Tensor, original: Tensor) -> Tensor:
        return torch.complex(part[..., 0], part[..., 1]) if original.is_complex() else part

    return trees.map(leaf, unflat(vector, trees.map(_as_real, like), lead), like)


def _as_real(leaf: Tensor) -> Tensor:
    return torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf


@dataclass(frozen=True)
class Options:
    """How Newton's method iterates, and when it ends.

    Attributes:
        rtol: Size that the error may have, relative to the state; ``None`` for the rounding unit.
        most: Most iterations.
        krylov: Whether linear systems are solved by GMRES.
    """

    rtol: float | None
    most: int
    krylov: bool


@dataclass(frozen=True)
class Correction:
    """The function that is requested in an iteration: equal for the same system, so that stage groups join.

    Attributes:
        problem: The problem.
        a: The weights that couple the stages, s rows of s.
        inner: Relative residual of the linear systems by GMRES, or ``None`` to solve them by elimination.
        keep: Whether the derivatives of the right-hand side are wanted too, which elimination has.
    """

    problem: Any
    a: Matrix
    inner: float | None
    keep: bool = False

    def __call__(
        self, t: Tensor, h: Tensor, base: State, k: Tensor, active: Tensor, rows: State = None
    ) -> tuple[Tensor, ...]:
        """One correction on L lanes.

        Args:
            t: Times of the stages, float64, ``(L, s)``.
            h: Lengths of the steps, float64, ``(L,)``.
            base: What the stages add to, leaves ``(L, *state)``.
            k: Slopes, ``(L, s, D)``.
            active: Lanes that want one, bool, ``(L,)``, on the CPU: their number is needed there.
            rows: Per-sample data, leaves ``(L, ...)``.

        Returns:
            Corrections ``(L, s, D)``, zero for lanes that want none; the size of h J A, float64, ``(L,)``; and what
            they took, int64, on the CPU, ``(L, 2)``: evaluations, and those that follow one another. With ``keep``
            also the derivatives at the stages before the correction, ``(L, s, D, D)``, zero like the corrections.
        """
        took = torch.zeros(len(active), 2, dtype=torch.int64)
        if not active.any():
            nothing = (k.new_zeros(*k.shape, k.shape[-1]),) if self.keep else ()
            return torch.zeros_like(k), torch.zeros_like(h), took, *nothing
        index = None if active.all() else active.nonzero()[:, 0].to(k.device)
        if index is not None:
            t, h, base, k = t[index], h[index], trees.lanes(base, index), k.index_select(0, index)
            rows = None if rows is None else trees.lanes(rows, index)
        system = _System(self, t, h, base, k, rows)
        if self.inner is None:
            delta, products = system.eliminate(), k.shape[-1]
            took[active] = torch.tensor([k.shape[1] * (1 + products), 1])
        else:
            delta, products = system.iterate(self.inner)
            took[active] = torch.stack([k.shape[1] * (1 + products), 1 + products], 1)
        given = (delta, system.stiffness, *((system.jacobian,) if self.keep else ()))
        if index is not None:
            given = (part.new_zeros(len(active), *part.shape[1:]).index_copy(0, index, part) for part in given)
        delta, stiffness, *kept = given
        return delta, stiffness, took, *kept

    @property
    def varies(self) -> bool:
        """Whether some lanes may take longer than others."""
        return self.inner is not None

    def cost(self, value: tuple[Tensor, ...], lanes: int) -> Cost:
        """Those of the lanes that wanted a correction; see `parareal.ImplicitRungeKutta` for how many."""
        evaluations, rounds = value[2].unbind(1)
        return Cost(int(evaluations.sum()), int(rounds.max()))


@dataclass(frozen=True)
class Differentiated:
    """The right-hand side and its derivatives, asked for where an explicit stage is to be differentiated.

    Attributes:
        problem: The problem.
    """

    problem: Any
    varies = False

    def __call__(self, t: Tensor, u: State, rows: State = None) -> tuple[Tensor, Tensor]:
        """On L lanes, as vectors: ``(L, D)``, and ``(L, D, D)``."""
        args, points = () if rows is None else (rows,), to_vector(u, 1)

        def slope(vector: Tensor) -> Tensor:
            return to_vector(self.problem.rhs(t, to_state(vector, u, 1), *args), 1)

        return to_vector(self.problem.rhs(t, u, *args), 1), _derivatives(slope, points)

    def cost(self, value: tuple[Tensor, Tensor], lanes: int) -> Cost:
        """One evaluation a lane, and one directional derivative for each number."""
        return Cost(lanes, 1, lanes * value[0].shape[1])


def _derivatives(slope: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """All directional derivatives side by side, ``(N, D, D)``, a column for each number."""
    eye = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)

    def along(direction: Tensor) -> Tensor:
        return torch.func.jvp(slope, (points,), (direction.expand_as(points),))[1]

    # For states without axes torch may return derivatives of another precision.
    return _differentiated(lambda: torch.func.vmap(along)(eye)).to(points.dtype).permute(1, 2, 0)


class _System:
    """The linear systems of L lanes, all of them active: s stages of D numbers each."""

    def __init__(self, request: Correction, t: Tensor, h: Tensor, base: State, k: Tensor, rows: State) -> None:
        self.problem, self.like, self.a = request.problem, base, k.new_tensor(request.a)
        self.t, self.h, self.k = t.flatten(), h.to(k.dtype), k
        self.shape = k.shape
        self.rows = None if rows is None else trees.map(lambda x: x.repeat_interleave(k.shape[1], 0), rows)
        stages = to_vector(base, 1)[:, None] + self.h[:, None, None] * mix(request.a, k)
        self.stages = stages.flatten(0, 1)
        self.residual = self.slope(self.stages) - k.flatten(0, 1)
        self.stiffness = torch.zeros_like(h)
        self.jacobian = self.stages  # until `eliminate` has made it

    def slope(self, stages: Tensor, lanes: Tensor | None = None) -> Tensor:
        """The right-hand side as a function of vectors, ``(L * s, D)``, or of some lanes'."""
        t, rows = self.t, self.rows
        if lanes is not None:
            points = self._points(lanes)
            t, rows = t[points], None if rows is None else trees.lanes(rows, points)
        args = () if rows is None else (rows,)
        return to_vector(self.problem.rhs(t, to_state(stages, self.like, 1), *args), 1)

    def eliminate(self) -> Tensor:
        """The solution by elimination: D directional derivatives at each stage, side by side."""
        lanes, stages, elements = self.shape
        self.jacobian = jacobian = _derivatives(self.slope, self.stages).unflatten(0, (lanes, stages))
        blocks = self.h[:, None, None, None, None] * self.a[None, :, None, :, None] * jacobian[:, :, :, None, :]
        size = stages * elements
        product = blocks.reshape(lanes, size, size)
        self.stiffness = product.detach().abs().sum(2).amax(1).double()
        matrix = torch.eye(size, dtype=self.k.dtype, device=self.k.device) - product
        # Not `solve`, which raises for all lanes where one of them is singular.
        delta, info = torch.linalg.solve_ex(matrix, self.residual.reshape(lanes, size, 1))
        delta = torch.where((info != 0)[:, None, None], torch.nan, delta)
        return delta.reshape(self.shape)

    def iterate(self, rtol: float) -> tuple[Tensor, Tensor]:
        """The solution by GMRES, and how many directional derivatives each lane took."""
        delta, products = Solved.apply(self.residual.reshape(self.shape[0], -1), self._product, self._transposed, rtol)  # pyright: ignore
        return delta.reshape(self.shape), products  # pyright: ignore

    def _product(self, v: Tensor, lanes: Tensor | None) -> Tensor:
        """V - h J A v."""
        stages, h = self._of(lanes)
        mixed = torch.einsum("ij,ljd->lid", self.a, v.reshape(-1, *self.shape[1:])).flatten(0, 1)
        image = _differentiated(lambda: torch.func.jvp(lambda y: self.slope(y, lanes), (stages,), (mixed,))[1])
        image = h * image.to(v.dtype).reshape(v.shape)
        ratio = torch.linalg.vector_norm(image, dim=1) / torch.linalg.vector_norm(v, dim=1)
        if lanes is None:
            self.stiffness = torch.maximum(self.stiffness, ratio.double())
        else:
            self.stiffness[lanes] = torch.maximum(self.stiffness[lanes], ratio.double())
        return v - image

    def _transposed(self, v: Tensor, lanes: Tensor | None) -> Tensor:
        """V - h A^T J^T v."""
        stages, h = self._of(lanes)
        image = torch.func.vjp(lambda y: self.slope(y, lanes), stages)[1](v.reshape(-1, self.shape[2]))[0]
        mixed = torch.einsum("ij,lid->ljd", self.a, image.reshape(-1, *self.shape[1:]))
        return v - h * mixed.reshape(v.shape)

    def _of(self, lanes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Stages and steps for GMRES: detached, since gradients of its iterations are those of the solution."""
        fixed = self.stages.detach()
        if lanes is None:
            return fixed, self.h[:, None]
        return fixed.index_select(0, self._points(lanes)), self.h[lanes, None]

    def _points(self, lanes: Tensor) -> Tensor:
        return (lanes[:, None] * self.shape[1] + torch.arange(self.shape[1], device=lanes.device)).flatten()


def mix(a: Matrix, k: Tensor) -> Tensor:
    """Sums over stages, ``(L, s, D)``, in an order that does not depend on L."""
    rows = [weighted(row, k) for row in a]
    return torch.stack(rows, 1)


def weighted(weights: tuple[float, ...], k: Tensor) -> Tensor:
    """``sum_j w_j k_j``, ``(L, D)``."""
    total = k[:, 0] * weights[0]
    for j, weight in enumerate(weights[1:], 1):
        if weight:
            total = total + k[:, j] * weight
    return total


def _differentiated(call: Any) -> Tensor:
    """Directional derivatives; raises ValueError, with the fix, where torch cannot take them."""
    fix = (
        " and work under torch.func.vmap: replace what has none, or take an explicit method, or pr.SciPy, which does "
        "without"
    )
    with derivatives_for("an implicit method needs derivatives of f", fix):
        return call()


def solve_stages(
    problem: Any,
    a: Matrix,
    t: Tensor,
    h: Tensor,
    base: State,
    k: Tensor,
    alive: Tensor,
    options: Options,
    kept: list[Tensor] | None = None,
) -> Generator[tuple[Any, ...], State, tuple[Tensor, Tensor]]:
    """Newton's method for s stages of L lanes at once.

    The error after a correction is estimated from it and from the one before: convergence being quadratic, the next
    one would be about |delta|^3 / |delta before|^2, by elimination, so that a correction of sqrt(eps) is the last.
    By GMRES, whose own error makes convergence linear, it is |delta|^2 / |delta before|. A lane is also done when
    corrections do not get smaller any more and are no larger than sqrt(eps), or than what rounding makes of the right-
    hand side, eps |h J A|: no further accuracy is available.

    Args:
        problem: The problem.
        a: Weights, s rows of s.
        t: Times of the stages, float64, ``(L, s)``.
        h: Lengths of the steps, float64, ``(L,)``.
        base: What the stages add to, leaves ``(L, *state)``.
        k: Slopes to begin with, ``(L, s, D)``.
        alive: Lanes to solve, bool, ``(L,)``, on the CPU.
        options: See there.
        kept: Takes the derivatives of the right-hand side at the stages, ``(L, s, D, D)``, those that the last
            correction of each lane was made with; ``None`` where nobody wants them.

    Yields:
        One `Correction` for each iteration.

    Returns:
        Slopes ``(L, s, D)``, and ``alive`` without the lanes that did not converge.
    """
    krylov, unit = options.krylov, _units(base, options.rtol)
    coarsest, finest = float(unit.max()), float(unit.min())
    request = Correction(problem, a, coarsest**0.5 if krylov else None, kept is not None)
    jacobian: Tensor | None = None
    size, length = to_vector(base, 1).detach().abs().amax(1).double(), h.abs()
    before = torch.full_like(length, torch.inf)
    active, failed = alive, ~alive
    for iteration in range(options.most):
        if not active.any():
            break
        delta, stiffness, _, *given = yield request, t, h, base, k, active
        k = k + delta
        for now in given:
            mask = active.to(now.device)[:, None, None, None]
            jacobian = now if jacobian is None else torch.where(mask, now, jacobian)
        # In units of the tolerance, which differs between leaves of different precision.
        change = length * (delta.detach().abs() / unit.to(delta)).amax((1, 2)).double()
        scale = size + length * k.detach().abs().amax((1, 2)).double()
        done = change <= scale
        if iteration:
            done |= change * (change / before) ** (1 if krylov else 2) <= scale
            floor = (_ROUNDINGS * stiffness).clamp(max=_MOST_NOISE / coarsest).clamp(min=finest**-0.5)
            done |= (change >= before) & (change <= floor * scale)
        before = change
        # The one transfer from the device: 0 continues, 1 is done, 2 has failed.
        state = torch.where(torch.isfinite(change) & torch.isfinite(scale), done.long(), 2).cpu()
        failed = failed | (active & (state == 2))
        active = active & (state == 0)
    if kept is not None:
        kept.append(k.new_zeros(*k.shape, k.shape[-1]) if jacobian is None else jacobian)
    return k, ~(failed | active)


_ROUNDINGS = 8.0
"""Most units of rounding in an evaluation of the right-hand side. A choice."""

_MOST_NOISE = 1e-2
"""Largest change, relative to the state, that counts as rounding. A choice."""


def _units(u: State, rtol: float | None) -> Tensor:
    """The error allowed in each number of a state relative to its largest, ``(D,)``, on the CPU."""
    sizes = [(leaf[0].numel() * (2 if leaf.is_complex() else 1), leaf.dtype) for leaf in trees.leaves(u)]
    return torch.cat(
        [torch.full((n,), max(rtol or 0.0, torch.finfo(dtype).eps), dtype=torch.float64) for n, dtype in sizes]
    )
