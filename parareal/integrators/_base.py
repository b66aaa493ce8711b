"""The protocol of a method: a step is a generator that requests function values by yielding.

Because a step only *requests* values, the same few lines serve one lane or a thousand, alone or stacked with the lanes
of another method. The engine sees, counts and shares every evaluation, and the method need not know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.checks import check_count, described
from parareal._core.declared import Collected, Declared
from parareal._core.multistep_state import Carried, Memory
from parareal._core.trees import State
from parareal.integrators._traits import BY_ATTRIBUTE, EXAMPLE, IntegratorTraits
from parareal.problem._ode import Stages


class Integrator(ABC):
    """A method. A final class declares its traits and gives `step`; variants wrap a method, they do not override it.

    Declare the traits as ``traits = pr.IntegratorTraits(order=1, evaluations=1)`` in the class body, as a property
    ``traits`` where they depend on the fields, or one by one as class attributes. An object can be read in both forms.

    Attributes:
        traits: The declarations of the method, an `IntegratorTraits`.
        steps: Steps in each slice. ``None`` stands for the grid's own points as fine propagator and for one step
            a slice as coarse propagator.
        evaluations: See `IntegratorTraits`, also for the following.
        order: Order of accuracy, or ``None`` if it is not known.
        shares_first_stage: Whether a step begins by requesting `first_function` at its left end.
        implicit: Whether a step solves equations, which may fail: its state is then NaN.
        apart: Whether lanes request different numbers of values.
        solves: The kinds of problems that the method is for.
    """

    traits_defaults: ClassVar[dict[str, Any]] = {}
    traits = Collected[IntegratorTraits](IntegratorTraits, BY_ATTRIBUTE, ("evaluations",), EXAMPLE)
    steps = Declared["int | None"](None)
    evaluations = Declared["int | None"]()
    order = Declared["int | float | None"]()
    shares_first_stage = Declared[bool]()
    implicit = Declared[bool]()
    apart = Declared[bool]()
    solves = Declared["tuple[type, ...]"]()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        vars(Integrator)["traits"].settle(cls)

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """Returns the method to use for a problem, before any work is done; raises if it does not fit.

        Args:
            problem: The problem.
            u0: One system's initial state.
            grid: The time grid.
        """
        return self

    def begin_slice(self, problem: Any, u: State) -> Any:
        """What lanes carry through the steps of one slice beside their states, such as a factorisation.

        Where it is not ``None``, steps are given `parareal.Carried` states and return such. Every slice begins with
        what this gives, so that a slice remains a function of where it starts.

        Args:
            problem: The problem.
            u: States at the left boundaries of slices, leaves ``(L, *state)``.

        Returns:
            A tree of tensors ``(L, ...)``, or ``None`` for nothing.
        """
        return None

    def first_function(self, problem: Any) -> Any:
        """The function that a step requests first, at its left end: the right-hand side by default."""
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
            between the coarse and the fine propagator. A function may have two attributes. With ``free = True`` it is
            evaluated at once, without a round and without cost. ``cost(value, lanes)`` returns the `Cost` of a call on
            that many lanes, if it is not one evaluation a lane in one round.

        Returns:
            States at ``t1``.
        """


class Cost(NamedTuple):
    """The cost of a request.

    Attributes:
        evaluations: Evaluations of the right-hand side, on all lanes together.
        rounds: Evaluations one after another.
        carried: Directional derivatives for what lanes carry beside the state, which count as the correction's.
    """

    evaluations: int
    rounds: int = 1
    carried: int = 0


class Multistep(Integrator):
    """A method with a history, which is part of the state: states are `parareal.Carried` in its steps.

    Attributes:
        restart: Whether each slice begins without history. As coarse propagator a method always does so.
    """

    traits_defaults: ClassVar[dict[str, Any]] = {"multistep": True}
    restart = Declared[bool](False)

    @property
    def group(self) -> int:
        """How many steps form a group: fewer iterations are needed where slices end between groups."""
        return 1

    @abstractmethod
    def begin(self, u: State) -> Memory:
        """The history of a method that has made no step, for states with leaves ``(L, *state)``."""

    @abstractmethod
    def variants(self, step: Ints, steps: Ints) -> Ints:
        """Which variant of a step each lane takes: the first or last steps of a method may differ from the others.

        Args:
            step: Number of the step of each lane, from 0, ``(L,)``: in the whole grid, or with ``restart`` in its
                slice.
            steps: How many there are, ``(L,)``.

        Returns:
            Any numbers, ``(L,)``. `step` is called for lanes of one variant.
        """

    @abstractmethod
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Carried, variant: int = 0) -> Stages:
        """One step of a variant on L lanes, from a `Carried` to a `Carried`. See `Integrator.step`."""

    def first_order(self, problem: Any, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor] | None:
        """The step of order 1 that the method refines, from the state and the value taken at it.

        Over many steps errors grow as in steps of that order, while a single step makes more of a move whose history
        does not go with its state. Error estimates use it where it is known.

        Args:
            problem: The problem.
            t0: Where steps that follow one another begin, ``(L,)``.
            t1: Where they end.

        Returns:
            Weights of the state, and of the newest value in its history after the step, ``(L,)`` each, NaN where the
            method is far from that step; ``None`` if these are not known, or are no numbers.
        """
        return None


def check_steps(steps: Any) -> None:
    """Raises unless ``steps`` is ``None`` or a positive int."""
    if steps is not None:
        check_count(steps, "steps")


def bound_integrator(method: Integrator, problem: Any, u0: State, grid: Any) -> Integrator:
    """Calls `Integrator.bind`, and checks the result."""
    bound: Any = method.bind(problem, u0, grid)
    if not isinstance(bound, Integrator):
        raise TypeError(
            f"bind of {method!r} returned {described(bound)}; expected the integrator to be used: end it with "
            "return self"
        )
    return bound


def started(method: Integrator, problem: Any, t0: Tensor, t1: Tensor, u: State, *variant: Any) -> Stages:
    """Starts a step, and checks that it is a generator."""
    stages: Any = method.step(problem, t0, t1, u, *variant)
    if not isinstance(stages, Generator):
        raise TypeError(
            f"step of {method!r} returned {described(stages)}; expected a generator, which requests values with yield, "
            "as in slope = yield problem.rhs, t0, u. For a function that propagates states over a slice by itself take "
            "pr.Propagator(fn)"
        )
    return stages  # pyright: ignore[reportUnknownVariableType]


def check_request(method: Integrator, request: Any) -> None:
    """Raises unless a step has yielded a function and its arguments."""
    if isinstance(request, tuple) and len(request) > 1 and callable(request[0]):  # pyright: ignore
        return
    parts: list[Any] = [*request] if isinstance(request, tuple) else [request]
    came = ", ".join(described(part) for part in parts)
    raise TypeError(
        f"step of {method!r} yielded {came}; expected a function and its arguments, as in yield problem.rhs, t0, u"
    )


def check_stepped(method: Integrator, new: Any, old: Any) -> None:
    """Raises unless a step has returned states of the structure and shapes that it started from."""
    if isinstance(old, Carried) and not isinstance(new, Carried):
        raise TypeError(
            f"step of {method!r} returned {described(new)}; expected pr.Carried(u, memory): states at t1 and "
            "their history"
        )
    if isinstance(old, Carried):
        new, old = new.u, old.u
    if isinstance(new, Tensor) and isinstance(old, Tensor) and new.shape == old.shape:
        return
    if trees.structure(new) != trees.structure(old):
        new = trees.in_order_of(new, old)
    leaves = trees.leaves(new)
    if trees.structure(new) != trees.structure(old) or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise TypeError(
            f"step of {method!r} returned {described(new)}; expected states at t1, of the structure of those at t0: "
            "end it with return"
        )
    for leaf, before in zip(leaves, trees.leaves(old), strict=True):
        if leaf.shape != before.shape:
            raise ValueError(
                f"step of {method!r} returned shape {tuple(leaf.shape)} for states of shape {tuple(before.shape)}; "
                "expected the same shape, lanes in front: make times (L,) fit, as in (t1 - t0)[:, None] * slope"
            )
