"""The equations of the stages of an implicit step, on lanes: what is left of them, their derivatives, their solution.

The unknowns are the slopes k of s stages, which solve k_i = f(t_i, u + h sum_j a_ij k_j).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.forward_mode import derivatives_for, differentiating
from parareal._core.trees import State
from parareal._core.vectors import flat, unflat
from parareal.integrators._factors import coupled, pattern_of
from parareal.integrators._gmres import Solved
from parareal.problem._derivatives import derivatives_of
from parareal.problem._lane_calls import check_like
from parareal.problem._structure import Pattern

Matrix: TypeAlias = tuple[tuple[float, ...], ...]


def to_vector(tree: State, lead: int) -> Tensor:
    """All leaves as one real ``(..., D)`` behind ``lead`` axes, complex elements as two numbers each.

    A derivative along both of them is right for any function of complex numbers, holomorphic or not.
    """
    if isinstance(tree, Tensor) and not tree.is_complex():
        return flat(tree, lead)
    return flat(trees.map(_as_real, tree), lead)


def to_state(vector: Tensor, like: State, lead: int) -> State:
    """The inverse of `to_vector`, for a state like ``like``."""
    if isinstance(like, Tensor) and not like.is_complex():
        return unflat(vector, like, lead)

    def leaf(part: Tensor, original: Tensor) -> Tensor:
        return torch.complex(part[..., 0], part[..., 1]) if original.is_complex() else part

    return trees.map(leaf, unflat(vector, trees.map(_as_real, like), lead), like)


def _as_real(leaf: Tensor) -> Tensor:
    return torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf


class System:
    """The linear systems of L lanes, all of them active: s stages of D numbers each.

    Attributes:
        residual: What is left of the equations, ``(L, s, D)``.
        stiffness: The size of h J A, float64, ``(L,)``, once derivatives have been taken.
    """

    def __init__(
        self, problem: Any, a: Matrix, t: Tensor, h: Tensor, base: State, k: Tensor, rows: State, exact: bool = False
    ) -> None:
        self.problem, self.like, self._a = problem, base, a
        self.known = derivatives_of(problem)
        # Functions that are called once per lane may be any code. A matrix that all lanes share has been checked.
        exact = exact and self.known.kept is None and getattr(problem, "batching", None) != "loop"
        self.matrix = None if exact else self.known.matrix
        self.t, self.h, self.k = t.flatten(), h.to(k.dtype), k
        self.rows = None if rows is None else trees.map(lambda x: x.repeat_interleave(k.shape[1], 0), rows)
        stages = to_vector(base, 1)[:, None] + self.h[:, None, None] * mix(a, k)
        self.stages = stages.flatten(0, 1)
        self.residual = (self.slope(self.stages) - k.flatten(0, 1)).unflatten(0, k.shape[:2])
        # Linear algebra is about numbers alone: gradients of iterations by GMRES are those of the solution.
        self.fixed = self.stages.detach()
        self.stiffness = torch.zeros_like(h)

    @property
    def L(self) -> int:
        """Lanes."""
        return self.k.shape[0]

    @property
    def s(self) -> int:
        """Stages."""
        return self.k.shape[1]

    @property
    def D(self) -> int:
        """Numbers of a state."""
        return self.k.shape[2]

    @property
    def directions(self) -> int:
        """Evaluations that the derivatives at a stage come to."""
        return 1 if self.matrix is not None else self.D

    @cached_property
    def a(self) -> Tensor:
        """The weights that couple the stages, ``(s, s)``."""
        return self.k.new_tensor(self._a)

    def slope(self, stages: Tensor, lanes: Tensor | None = None) -> Tensor:
        """The right-hand side as a function of vectors, ``(L * s, D)``, or of some lanes'; of none it is not called."""
        if not len(stages):
            return torch.zeros_like(stages)
        t, rows = self.t, self.rows
        if lanes is not None:
            points = self._points(lanes)
            t, rows = t[points], None if rows is None else trees.lanes(rows, points)
        args = () if rows is None else (rows,)
        return to_vector(self.problem.rhs(t, to_state(stages, self.like, 1), *args), 1)

    def jacobian(self, lanes: Tensor | None = None, pattern: Pattern | None = None, fixed: bool = True) -> Tensor:
        """Derivatives at each stage.

        Args:
            lanes: Which lanes; ``None`` for all.
            pattern: Where they are not zero.
            fixed: Whether they are numbers alone, without gradients.

        Returns:
            Matrices ``(L, s, D, D)``, or with a pattern their entries ``(L, s, E)``.
        """
        stages = self.fixed if fixed else self.stages
        points = None if lanes is None else self._points(lanes)
        stages = stages if points is None else stages.index_select(0, points)
        if self.matrix is None:
            try:
                return self._along(stages, lanes, pattern).unflatten(0, (-1, self.s))
            except ValueError:  # of what torch cannot differentiate the problem's own matrix is all there is
                if self.known.matrix is None:
                    raise
                self.matrix = self.known.matrix
        t, rows = (self.t, self.rows) if points is None else (self.t[points], None)
        if points is not None and self.rows is not None:
            rows = trees.lanes(self.rows, points)
        with differentiating():  # as it may be torch.func.jacfwd(f, 1)
            whole = self.matrix(t, to_state(stages, self.like, 1), *(() if rows is None else (rows,)))
        found = whole.to(self.k.dtype) if pattern is None else pattern.picked(whole.to(self.k.dtype))
        return found.unflatten(0, (-1, self.s))

    def _along(self, stages: Tensor, lanes: Tensor | None, pattern: Pattern | None) -> Tensor:
        """The same, of the right-hand side itself, ``(L s, D, D)`` or ``(L s, E)``: directional derivatives."""
        eye = torch.eye(self.D, dtype=self.k.dtype, device=self.k.device)
        seeds = eye if pattern is None else pattern.seeds(self.k)

        def along(direction: Tensor) -> Tensor:
            return torch.func.jvp(lambda y: self.slope(y, lanes), (stages,), (direction.expand_as(stages),))[1]

        columns = differentiated(lambda: torch.func.vmap(along)(seeds)).to(stages.dtype).permute(1, 2, 0)
        return columns if pattern is None else pattern.entries(columns)

    def matrices(self, lanes: Tensor | None = None) -> tuple[Tensor, int]:
        """Derivatives, without gradients, as `factors_for` wants them, and the evaluations of one lane."""
        structure = self.known.structure
        pattern = None if structure is None else pattern_of(structure, self.D)
        found = self.jacobian(lanes, pattern).detach()
        if pattern is not None and found.device.type != "cpu":
            found = pattern.dense(found)
        each = self.directions if pattern is None or self.matrix is not None else pattern.directions
        return found, self.s * each

    def eliminate(self) -> tuple[Tensor, Tensor]:
        """The solution by elimination, with gradients of all orders, and the derivatives, ``(L, s, D, D)``."""
        jacobian = self.jacobian(fixed=False)
        product = coupled(jacobian, self.a, self.h)
        size = self.s * self.D
        self.stiffness = product.detach().abs().sum(2).amax(1).double()
        matrix = torch.eye(size, dtype=self.k.dtype, device=self.k.device) - product
        # Not `solve`, which raises for all lanes where one of them is singular.
        delta, info = torch.linalg.solve_ex(matrix, self.residual.reshape(self.L, size, 1))
        delta = torch.where((info != 0)[:, None, None], torch.nan, delta)
        return delta.reshape(self.L, self.s, self.D), jacobian

    def iterate(self, rtol: float) -> tuple[Tensor, Tensor]:
        """The solution by GMRES, and how many directional derivatives each lane took."""
        product, transposed, rhs = self._product, self._transposed, self.residual.reshape(self.L, -1)
        if self.known.preconditioner is None:
            delta, products = Solved.apply(rhs, product, transposed, rtol)  # pyright: ignore
        else:
            # From the right, so that residuals are those of the system itself.
            delta, products = Solved.apply(  # pyright: ignore
                rhs,
                lambda v, lanes: product(self._near(v, lanes), lanes),
                lambda v, lanes: self._near_transposed(transposed(v, lanes), lanes),
                rtol,
            )
            delta = self._near(delta, None)
        return delta.reshape(self.L, self.s, self.D), products  # pyright: ignore

    def _near(self, v: Tensor, lanes: Tensor | None) -> Tensor:
        """The preconditioner, stage by stage, each with its own diagonal coefficient."""
        assert self.known.preconditioner is not None
        stages, h = self._of(lanes)
        t, rows = self.t, self.rows
        if lanes is not None:
            points = self._points(lanes)
            t, rows = t[points], None if rows is None else trees.lanes(rows, points)
        gamma = (h * self.a.diagonal()).flatten().double()
        u, given = (to_state(part, self.like, 1) for part in (stages, v.reshape(-1, self.D)))
        with differentiating():
            value = self.known.preconditioner(t, u, gamma, given, rows)
        return to_vector(check_like(value, u, "preconditioner(t, u, gamma, v)"), 1).reshape(v.shape)

    def _near_transposed(self, v: Tensor, lanes: Tensor | None) -> Tensor:
        # Linear in v: so its transpose is its gradient, anywhere.
        return torch.func.vjp(lambda x: self._near(x, lanes), torch.zeros_like(v))[1](v)[0]

    def _product(self, v: Tensor, lanes: Tensor | None) -> Tensor:
        """V - h J A v."""
        stages, h = self._of(lanes)
        mixed = torch.einsum("ij,ljd->lid", self.a, v.reshape(-1, self.s, self.D)).flatten(0, 1)
        image = differentiated(lambda: torch.func.jvp(lambda y: self.slope(y, lanes), (stages,), (mixed,))[1])
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
        image = torch.func.vjp(lambda y: self.slope(y, lanes), stages)[1](v.reshape(-1, self.D))[0]
        mixed = torch.einsum("ij,lid->ljd", self.a, image.reshape(-1, self.s, self.D))
        return v - h * mixed.reshape(v.shape)

    def _of(self, lanes: Tensor | None) -> tuple[Tensor, Tensor]:
        if lanes is None:
            return self.fixed, self.h[:, None]
        return self.fixed.index_select(0, self._points(lanes)), self.h[lanes, None]

    def _points(self, lanes: Tensor) -> Tensor:
        return (lanes[:, None] * self.s + torch.arange(self.s, device=lanes.device)).flatten()


def mix(a: Matrix, k: Tensor) -> Tensor:
    """Sums over stages, ``(L, s, D)``, in an order that does not depend on L."""
    if len(a) == 1:
        return k * a[0][0]
    return torch.stack([weighted(row, k) for row in a], 1)


def weighted(weights: tuple[float, ...], k: Tensor) -> Tensor:
    """``sum_j w_j k_j``, ``(L, D)``."""
    total = k[:, 0] * weights[0]
    for j, weight in enumerate(weights[1:], 1):
        if weight:
            total = total + k[:, j] * weight
    return total


def differentiated(call: Any) -> Tensor:
    """Directional derivatives; raises ValueError, with the fix, where torch cannot take them."""
    fix = (
        " and work under torch.func.vmap: replace what has none, or take an explicit method, or pr.SciPy, which does "
        "without"
    )
    with derivatives_for("an implicit method needs derivatives of f", fix):
        return call()
