"""The protocol of a one-step method: a step is a computation that asks for function values by yielding.

Because a step only *asks*, the same few lines serve one lane or a thousand, run alone or stacked with the lanes of
another method, and the engine sees, counts and shares every evaluation without the method knowing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from parareal._grid import check_count
from parareal._problem import Stages
from parareal._tree import State


class Integrator(ABC):
    """A one-step method. Final classes give the attributes and `step`; variants wrap, they do not override.

    Attributes:
        steps: Steps in each slice. ``None`` stands for the grid's own points as fine propagator and for one step
            a slice as coarse propagator.
        shares_first_stage: Whether a step begins by asking for the right-hand side at its left end, so that the value
            can be shared between the coarse and the fine propagator.
    """

    steps: int | None
    shares_first_stage: bool = False

    @property
    @abstractmethod
    def order(self) -> int | None:
        """Order of accuracy, or ``None`` where it is not known."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Evaluations of the right-hand side (or calls of a black box) in one step."""

    @abstractmethod
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step from ``t0`` to ``t1`` on L lanes, as a generator.

        Args:
            problem: The problem; ``problem.rhs`` is its right-hand side.
            t0: Where each lane starts, float64, shape ``(L,)``.
            t1: Where each lane ends; before ``t0`` where time falls.
            u: States, leaves ``(L, *state)``. Not to be changed in place.

        Yields:
            ``(problem.rhs, t, u)``: a function and its arguments, all with the lane axis. The value is sent back.
            When the first request is ``(problem.rhs, t0, u)`` with these very objects, the engine shares its value
            between the coarse and the fine propagator.

        Returns:
            States at ``t1``.
        """


def check_steps(steps: Any) -> None:
    """Raises unless ``steps`` is ``None`` or a positive int."""
    if steps is not None:
        check_count(steps, "steps")
