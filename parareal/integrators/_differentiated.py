"""Derivatives at the stages of a step that is solved, for the tangents that go through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from parareal._core.trees import State
from parareal.integrators._base import Cost
from parareal.integrators._stage_systems import Matrix, System
from parareal.problem._derivatives import derivatives_of


@dataclass(frozen=True)
class Differentiated:
    """The function that is requested where Newton's method has not taken the derivatives at the stages itself.

    That is at explicit stages, and where systems were solved with a lane's factorisation from elsewhere, with which
    tangents would be off by its rate of convergence.

    Attributes:
        problem: The problem.
        a: The weights that couple the stages, s rows of s.
    """

    problem: Any
    a: Matrix
    varies = False

    def __call__(self, t: Tensor, h: Tensor, base: State, k: Tensor, rows: State = None) -> tuple[Tensor, Tensor]:
        """At the stages of L lanes.

        Args:
            t: Times of the stages, float64, ``(L, s)``.
            h: Lengths of the steps, float64, ``(L,)``.
            base: What the stages add to, leaves ``(L, *state)``.
            k: Slopes, ``(L, s, D)``.
            rows: Per-sample data, leaves ``(L, ...)``.

        Returns:
            The right-hand side less the slopes, ``(L, s, D)``, and its derivatives, ``(L, s, D, D)``.
        """
        system = System(self.problem, self.a, t, h, base, k, rows)
        return system.residual, system.jacobian(fixed=False)

    def cost(self, value: tuple[Tensor, Tensor], lanes: int) -> Cost:
        """One evaluation for each stage, and the derivatives."""
        stages, size = value[0].shape[1:]
        each = size if derivatives_of(self.problem).matrix is None else 1
        return Cost(lanes * stages, 1, lanes * stages * each)
