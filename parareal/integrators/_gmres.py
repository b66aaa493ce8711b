"""GMRES for many lanes at once: each has its own system, its own convergence and its own end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Operator: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
"""``M v`` for ``v`` of shape ``(L, n)`` on the L lanes of an index, or on all lanes for ``None``."""

RESTART = 50
"""Vectors of a basis: memory for 51 systems in each lane."""


def gmres(operator: Operator, rhs: Tensor, rtol: float, most: int = 300) -> tuple[Tensor, Tensor]:
    """M x = rhs for each lane, to a residual of ``rtol`` times the right-hand side in the Euclidean norm.

    A lane that has converged takes no further part, so that its result and its cost are those of the lane alone. The
    host asks the device once for each vector whether any lane continues.

    Args:
        operator: ``M v`` on chosen lanes.
        rhs: Right-hand sides, real, ``(L, n)``.
        rtol: Relative residual to reach.
        most: Most products with M; a lane that needs more keeps its current approximation.

    Returns:
        Solutions ``(L, n)``, NaN where the right-hand side or M is, and how many products each lane took, ``(L,)``,
        int64 on the CPU.

    Source:
        Y. Saad, M. H. Schultz, GMRES: A generalized minimal residual algorithm, SIAM J. Sci. Stat. Comput. 7 (1986).
    """
    target = rtol * torch.linalg.vector_norm(rhs, dim=1)
    x, residual = (rhs * 0).sum(1, keepdim=True).expand_as(rhs), rhs  # zeros, unless rhs is not finite
    products = torch.zeros(len(rhs), dtype=torch.int64)
    going = torch.linalg.vector_norm(rhs, dim=1).gt(0).cpu()
    while True:
        lanes = _index(going, rhs.device)
        change, took, reached = _cycle(operator, lanes, _at(residual, lanes), _at(target, lanes))
        x = _add(x, lanes, change)
        where = going.nonzero()[:, 0]
        products[where] += took
        going[where] = ~reached
        if not going.any() or int(products[going].max()) >= most:
            return x, products
        lanes = _index(going, rhs.device)
        fresh = _at(rhs, lanes) - operator(_at(x, lanes), lanes)
        products[going] += 1
        residual = fresh if lanes is None else residual.index_copy(0, lanes, fresh)


def _cycle(operator: Operator, lanes: Tensor | None, residual: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Up to `RESTART` steps of Arnoldi: the change of x ``(L, n)``, products ``(L,)``, and who has converged ``(L,)``.

    Lanes with numbers that are not finite count as converged.
    """
    K, n = residual.shape
    m = min(RESTART, n)
    beta = torch.linalg.vector_norm(residual, dim=1)
    basis = residual.new_zeros(K, m + 1, n)
    basis[:, 0] = residual / torch.where(beta > 0, beta, 1.0)[:, None]
    triangle = residual.new_zeros(K, m, m)
    rotations = torch.eye(m + 1, dtype=residual.dtype, device=residual.device).repeat(K, 1, 1)
    steps, reached = torch.zeros(K, dtype=torch.int64), beta.cpu() == 0
    j = 0
    while j < m and not reached.all():
        some = _index(~reached, residual.device)
        chosen = some if lanes is None else lanes if some is None else lanes[some]
        image = operator(_at(basis[:, j], some), chosen)
        # A lane that is done gets zeros, which leave its rotations as they are.
        image = image if some is None else torch.zeros_like(residual).index_copy(0, some, image)
        column, image = _orthogonal(basis[:, : j + 1], image)
        length = torch.linalg.vector_norm(image, dim=1)
        basis[:, j + 1] = image / torch.where(length > 0, length, 1.0)[:, None]
        column = torch.cat([column, length[:, None]], 1)
        column = (rotations[:, : j + 2, : j + 2] @ column.unsqueeze(-1)).squeeze(-1)
        rho = torch.hypot(column[:, j], column[:, j + 1])
        cos = torch.where(rho == 0, 1.0, column[:, j] / rho)[:, None]
        sin = torch.where(rho == 0, 0.0, column[:, j + 1] / rho)[:, None]
        triangle[:, :j, j] = column[:, :j]
        # Zero where M is singular, which then shows in the solution.
        triangle[:, j, j] = torch.where(reached.to(rho.device), 1.0, rho)
        upper, lower = rotations[:, j].clone(), rotations[:, j + 1].clone()
        rotations[:, j], rotations[:, j + 1] = cos * upper + sin * lower, cos * lower - sin * upper
        steps += ~reached
        reached |= ~(beta * rotations[:, j + 1, 0].abs() > target).cpu()  # true for NaN, too
        j += 1
    weights = beta[:, None] * rotations[:, :j, 0]
    unused = torch.arange(j)[None] >= steps[:, None]
    weights = weights.masked_fill(unused.to(weights.device), 0.0)[..., None]
    y = torch.linalg.solve_triangular(triangle[:, :j, :j], weights, upper=True)
    return (basis[:, :j].mT @ y).squeeze(-1), steps, reached


def _orthogonal(basis: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Components of ``image`` along the basis and the rest of it; done twice, to remove the effect of rounding."""
    first = (basis @ image[..., None]).squeeze(-1)
    image = image - (basis.mT @ first[..., None]).squeeze(-1)
    second = (basis @ image[..., None]).squeeze(-1)
    return first + second, image - (basis.mT @ second[..., None]).squeeze(-1)


def _index(mask: Tensor, device: torch.device) -> Tensor | None:
    """The lanes of a mask on the CPU as an index on the device; ``None`` for all of them."""
    return None if bool(mask.all()) else mask.nonzero()[:, 0].to(device)


def _at(values: Tensor, lanes: Tensor | None) -> Tensor:
    return values if lanes is None else values.index_select(0, lanes)


def _add(values: Tensor, lanes: Tensor | None, more: Tensor) -> Tensor:
    return values + more if lanes is None else values.index_add(0, lanes, more)


class Solved(torch.autograd.Function):
    """`gmres` with a gradient with respect to the right-hand side, which takes another one with the transpose."""

    @staticmethod
    def forward(ctx: Any, rhs: Tensor, operator: Operator, transpose: Operator, rtol: float) -> tuple[Tensor, Tensor]:
        """``gmres(operator, rhs, rtol)``."""
        ctx.transpose, ctx.rtol = transpose, rtol
        x, products = gmres(operator, rhs, rtol)
        ctx.mark_non_differentiable(products)
        return x, products

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """The transposed system; raises ValueError if its graph is needed."""
        if torch.is_grad_enabled():  # autograd would take the system for a constant, without a warning
            raise ValueError(
                "a gradient was asked for with create_graph=True, and GMRES gives first derivatives alone; expected "
                "create_graph=False, or a method with krylov=False"
            )
        return gmres(ctx.transpose, grads[0], ctx.rtol)[0], None, None, None
