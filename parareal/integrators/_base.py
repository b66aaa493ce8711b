"""The protocol of a method: a step is a computation that asks for function values by yielding.

Because a step only *asks*, the same few lines serve one lane or a thousand, run alone or stacked with the lanes of
another method, and the engine sees, counts and shares every evaluation without the method knowing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from parareal._core.arrays import Ints
from parareal._core.checks import check_count
from parareal._core.multistep_state import Carried, Memory
from parareal._core.trees import State
from parareal.problem._ode import ODE, Stages


class Integrator(ABC):
    """A method. Final classes give the attributes and `step`; variants wrap, they do not override.

    Attributes:
        steps: Steps in each slice. ``None`` stands for the grid's own points as fine propagator and for one step
            a slice as coarse propagator.
        shares_first_stage: Whether a step begins by asking for `first_function` at its left end, so that the value can
            be shared between the coarse and the fine propagator.
        implicit: Whether a step solves equations, which may fail: its state is then NaN.
        apart: Whether each lane of a step asks for as much as it needs, so that none shall wait for another.
        solves: Kinds of problems that it is for.
    """

    steps: int | None
    shares_first_stage: bool = False
    implicit: ClassVar[bool] = False
    apart: bool = False
    solves: ClassVar[tuple[type, ...]] = (ODE,)

    @property
    @abstractmethod
    def order(self) -> int | float | None:
        """Order of accuracy, the strong one for SDEs, or ``None`` where it is not known."""

    @property
    @abstractmethod
    def evaluations(self) -> int | None:
        """Evaluations of the right-hand side (or calls of a black box) in one step; ``None`` where that varies."""

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """This method, made ready for a problem before any work is done; raises where it does not fit.

        Args:
            problem: The problem.
            u0: One system's initial state.
            grid: The time grid.
        """
        return self

    def first_function(self, problem: Any) -> Any:
        """What a step asks for first, at its left end: the right-hand side, unless a method says otherwise."""
        return problem.rhs

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
            between the coarse and the fine propagator. A function may have two attributes: ``free = True`` has it
            answered at once, in no round and counted as nothing; ``cost(value, lanes)`` gives what a call on so many
            lanes took, as a `Cost`, where that is not one evaluation a lane in one round.

        Returns:
            States at ``t1``.
        """


class Cost(NamedTuple):
    """What a request took.

    Attributes:
        evaluations: Of the right-hand side, on all lanes together.
        rounds: Evaluations one after another.
    """

    evaluations: int
    rounds: int = 1


class Multistep(Integrator):
    """A method with a memory, which belongs to the state: states are `parareal.Carried` in its steps.

    Attributes:
        restart: Whether the memory is emptied at every slice edge. As coarse propagator a method always does so.
    """

    restart: bool

    @property
    def group(self) -> int:
        """How many steps belong together: iterations are fewer where slices end between such groups."""
        return 1

    @abstractmethod
    def begin(self, u: State) -> Memory:
        """An empty memory for states with leaves ``(L, *state)``."""

    @abstractmethod
    def variants(self, step: Ints, steps: Ints) -> Ints:
        """Which variant of a step lanes take: the method's first, or last, steps may differ from the others.

        Args:
            step: Number of the step of each lane, from 0, ``(L,)``: in the whole grid, or with ``restart`` in its
                slice.
            steps: How many there are, ``(L,)``.

        Returns:
            Any numbers, ``(L,)``. `step` is called for lanes of one variant.
        """

    @abstractmethod
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Carried, variant: int = 0) -> Stages:
        """One step of a variant on L lanes; gives and returns a `Carried`. See `Integrator.step`."""


def check_steps(steps: Any) -> None:
    """Raises unless ``steps`` is ``None`` or a positive int."""
    if steps is not None:
        check_count(steps, "steps")
