"""Gradients of stages whose values are known: those of the implicit function."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.integrators._base import Cost
from parareal.integrators._factors import Factors, Parts, factors_for
from parareal.integrators._newton import Correction
from parareal.integrators._stage_systems import Matrix, System
from parareal.problem._derivatives import derivatives_of


@dataclass(frozen=True)
class Adjoint:
    """The function that is requested once stages are solved: a last correction, whose gradient is that of the stages.

    Attributes:
        problem: The problem.
        a: The weights that couple the stages, s rows of s.
    """

    problem: Any
    a: Matrix
    varies = False

    def __call__(
        self, t: Tensor, h: Tensor, base: State, k: Tensor, active: Tensor, rows: State = None
    ) -> tuple[Tensor, Tensor]:
        """Corrections ``(L, s, D)``, and the evaluations of each lane, int64, on the CPU, ``(L,)``."""
        active = active.cpu()
        took = torch.zeros(len(active), dtype=torch.int64)
        if not active.any():
            return torch.zeros_like(k), took
        index = active.nonzero()[:, 0].to(k.device)
        rows = None if rows is None else trees.lanes(rows, index)
        chosen = t[index], h[index], trees.lanes(base, index), k[index], rows
        system = System(self.problem, self.a, *chosen, exact=True)
        with torch.no_grad():
            jacobian, evaluations = system.matrices()
            factors = factors_for(self.problem, system.k[:, 0], system.s)
            parts = factors.of(jacobian, system.a, system.h)
        delta: Any = _Solution.apply(system.residual, factors, parts)  # pyright: ignore[reportUnknownMemberType]
        took[active] = evaluations + system.s
        return delta.new_zeros(len(active), *delta.shape[1:]).index_copy(0, index, delta), took

    def cost(self, value: tuple[Tensor, Tensor], lanes: int) -> Cost:
        """Those of the lanes that were solved."""
        return Cost(int(value[1].sum()), 1)


class _Solution(torch.autograd.Function):
    """A solution with a gradient with respect to the right-hand side."""

    @staticmethod
    def forward(ctx: Any, rhs: Tensor, factors: Factors, parts: Parts) -> Tensor:
        """``factors.solve(parts, rhs)``."""
        ctx.factors, ctx.parts = factors, parts
        return factors.solve(parts, rhs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The transposed system; raises ValueError where a graph of it is asked for."""
        if torch.is_grad_enabled():  # autograd would take the system for a constant, and say nothing
            raise ValueError(
                "a gradient was asked for with create_graph=True, and systems with structure= give first derivatives "
                "alone; expected create_graph=False, or a problem without structure="
            )
        return ctx.factors.solve(ctx.parts, grads[0], transposed=True), None, None


def with_gradient(
    problem: Any, a: Matrix, t: Tensor, h: Tensor, base: State, k: Tensor, alive: Tensor
) -> Generator[tuple[Any, ...], Any, Tensor]:
    """The same slopes, with the gradient of the implicit function.

    A step of Newton's method from the solution has its derivative, and a second one the derivatives of second order;
    of the values nothing is changed. With a matrix that is an approximation they would be wrong, so that the
    right-hand side is differentiated itself, where torch can.
    """
    known = derivatives_of(problem)
    if known.structure is not None:
        delta, *_ = yield Adjoint(problem, a), t, h, base, k, alive
        return k + (delta - delta.detach())
    for _ in range(2):
        delta, *_ = yield Correction(problem, a, None, exact=True), t, h, base, k, alive
        k = k + (delta - delta.detach())
    return k
