"""A problem is an equation and the way its right-hand side is called on many lanes at once.

The engine always asks for many values together: times of shape ``(L,)`` and states whose leaves are
``(L, *state)``. A problem turns that into calls of the function that the user wrote.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.references import duplicate
from parareal._core.trees import State
from parareal.problem._derivatives import Derivatives, Kept, checked, numbers
from parareal.problem._lane_calls import Batching, OnLanes
from parareal.problem._structure import Structure
from parareal.problem._traits import ProblemTraits

Stages: TypeAlias = Generator[tuple[Any, ...], State, State]
"""A computation on lanes that requests function values by yielding ``(function, *arguments)``; it is sent the
value (leaves ``(L, *state)``) and returns its result."""


class Problem(ABC):
    """The equation that `solve` solves: an `ODE`, a `SemilinearODE` or an `SDE`.

    Attributes:
        batching: How the user's function is called.
        per_sample: Data that belongs to the samples of a batch and follows them into every call, or ``None``.
        traits: The declarations of the problem, a `ProblemTraits`. A class of your own declares them as a property, or
            as ``traits = pr.ProblemTraits(plain=True)`` in the class body.
    """

    batching: Batching = "vmap"
    per_sample: State = None

    @property
    def traits(self) -> ProblemTraits:
        """Nothing is known but that calls of numpy code have no derivatives."""
        return ProblemTraits(differentiable=self.batching != "loop")

    def rows(self, samples: int | None, device: torch.device) -> State:
        """Data that follows the samples into every request, free ones too: leaves ``(samples, ...)``, or ``None``.

        Args:
            samples: How many there are, or ``None`` where the whole state is one system.
            device: The device of the state.
        """
        return self.per_sample

    def compared(self) -> dict[str, Any]:
        """What else makes it this problem, beside its functions and the data in `rows`, by name.

        A run of a problem that says something else is not resumed. Numbers, names and tensors are compared, and
        dataclasses of such; functions are not.
        """
        return {}

    @abstractmethod
    def bind(self, u0: State, grid: Any, fine: Any) -> Problem:
        """Returns the problem to be used for a run, before any work is done; raises if something does not fit.

        Args:
            u0: One system's initial state.
            grid: The time grid.
            fine: The fine propagator.
        """

    @abstractmethod
    def rhs(self, t: Tensor, u: State, rows: State = None) -> State:
        """The right-hand side on L lanes: ``t`` of shape ``(L,)``, leaves ``(L, *state)``."""


@dataclass(frozen=True, eq=False, init=False)
class ODE(Problem):
    """The initial value problem du/dt = f(t, u).

    Args:
        f: The right-hand side. It returns a tree of the structure, shapes and dtypes of ``u``.
        batching: How ``f`` is called for L lanes:

            - ``"vmap"``: ``f`` takes a scalar ``t`` and one state; `torch.func.vmap` makes it many.
            - ``"native"``: ``f`` takes ``t`` of shape ``(L,)`` and leaves ``(L, *state)``.
            - ``"fold"``: state leaves are ``(B, *rest)``; ``f`` takes ``t`` of shape ``(L*B,)`` and leaves
              ``(L*B, *rest)``, which is how most networks are called.
            - ``"loop"``: ``f`` is called once per lane with a scalar ``t`` and one state (numpy code,
              data-dependent control flow). Numpy arrays are accepted as its result.
            - ``"auto"``: ``"vmap"``, and ``"loop"`` with one warning from the first call on that vmap refuses.
        per_sample: Data that belongs to the samples of a batch and follows them into every call, such as class
            labels: a tree of tensors whose leading axis is the number of samples. ``f`` is then called as
            ``f(t, u, rows)``, where ``rows`` holds, in the layout of the state's leaves, each lane's entries.
        jacobian: ``jacobian(t, u)``, called as ``f`` is, gives df/du of one state as a real matrix ``(D, D)`` over its
            numbers in flat order: leaf after leaf, each as by ``flatten``, a complex element as two numbers. With
            ``"native"`` that is ``(L, D, D)``, with ``"fold"`` one matrix for each row, ``(L*B, d, d)``.
            With ``samples=True`` a state is a batch of one sample, and ``(1, D, D)`` will do as well. It may be an
            approximation: implicit methods then take more iterations to the same result, and fail, as at a step that
            has no solution, where corrections do not shrink with it. ``None`` differentiates ``f``.
        linear: Says that ``f`` is affine in u, with a matrix that does not depend on t: implicit methods then make
            one Jacobian in a run and one factorisation for each step size. It is checked at two states and 16 times.
        structure: Where df/du has entries, a `Banded` or `Sparse`.
        preconditioner: ``preconditioner(t, u, gamma, v)``, called as ``f`` is, gives about the solution x of
            (I - gamma df/du) x = v, linear in v: for implicit methods that solve systems by GMRES.
        split: Functions like ``f`` whose sum is the right-hand side, for methods that treat them differently: `Lie`,
            `Strang` and `IMEXRungeKutta`. Other methods see the sum. ``f`` is left out then, or it is the same sum
            where that takes less work at once.

    Time is float64 whatever the dtype of the state. Cast it (``t.to(u.dtype)``) where dtypes would mix.

    Attributes:
        parts: The parts of the right-hand side, problems of their own; empty where it is not split.

    Raises:
        TypeError: ``f`` is not callable, ``split`` is not a sequence of functions, ``per_sample`` holds something
            other than tensors, or another argument is not of its type.
        ValueError: ``batching`` is unknown, or ``split`` holds fewer than two functions. From `solve`: ``f`` is not the
            sum of ``split``, a Jacobian has another shape, or ``f`` is not affine.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: -u)
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=8)
        >>> sol = pr.solve(problem, torch.ones(3), grid, fine=pr.RK4(), coarse=pr.Euler())
        >>> bool(sol.converged)
        True
    """

    f: Any
    batching: Batching = "vmap"
    per_sample: State = None
    jacobian: Callable[..., Any] | None = field(default=None, kw_only=True)
    linear: Any = field(default=False, kw_only=True)
    structure: Structure | None = field(default=None, kw_only=True)
    preconditioner: Callable[..., Any] | None = field(default=None, kw_only=True)
    parts: tuple[ODE, ...] = field(default=(), init=False, repr=False)
    derivatives: Derivatives = field(init=False, repr=False)
    _calls: Callable[[Tensor, State, State], State] = field(init=False, repr=False)

    def __init__(
        self,
        f: Callable[..., Any] | None = None,
        batching: Batching = "vmap",
        per_sample: State = None,
        *,
        split: Sequence[Callable[..., Any]] | None = None,
        jacobian: Callable[..., Any] | None = None,
        linear: Any = False,
        structure: Structure | None = None,
        preconditioner: Callable[..., Any] | None = None,
    ) -> None:
        given = {"f": f, "batching": batching, "per_sample": per_sample, "jacobian": jacobian, "linear": linear}
        for name, value in (given | {"structure": structure, "preconditioner": preconditioner}).items():
            object.__setattr__(self, name, value)
        if split is not None:
            object.__setattr__(self, "parts", _parts(split, batching))
        self.__post_init__()

    def __post_init__(self) -> None:
        self._prepare(checked(self.jacobian, self.linear, self.structure, self.preconditioner, self.batching))

    def _prepare(self, derivatives: Derivatives) -> None:
        object.__setattr__(self, "_calls", _whole(self.f, self.parts, self.batching))
        object.__setattr__(self, "derivatives", derivatives)
        check_rows(self.per_sample)

    def __reduce__(self) -> tuple[Any, ...]:
        split = tuple(part.f for part in self.parts) or None
        more = self.jacobian, self.linear, self.structure, self.preconditioner
        return _remade, (type(self), self.f, self.batching, self.per_sample, split, *more)

    @property
    def traits(self) -> ProblemTraits:
        """The right-hand side is all there is."""
        return replace(super().traits, plain=True)

    def bind(self, u0: State, grid: Any, fine: Any) -> ODE:
        """Returns itself, or, where lanes share a matrix, a copy that keeps it for this run.

        With both ``f`` and ``split`` it checks that they agree, by a call of each.
        """
        if self.parts and self.f is not None:
            check_sum(self, u0, grid.points[:1])
        if self.structure is not None:
            self.structure.pattern(numbers(u0, 0))  # raises where it does not fit
        if not self.derivatives.linear or self.per_sample is not None:
            return self
        bound, times = duplicate(self), (float(grid.points[0]), float(grid.points[-1]))
        object.__setattr__(bound, "derivatives", replace(self.derivatives, kept=Kept(times)))
        return bound

    def rhs(self, t: Tensor, u: State, rows: State = None) -> State:
        """du/dt on L lanes: ``t`` of shape ``(L,)``, leaves ``(L, *state)``; the engine counts one round a call."""
        return self._calls(t, u, rows)


def _remade(kind: Any, *args: Any) -> ODE:
    f, batching, per_sample, split, jacobian, linear, structure, preconditioner = args
    more = {"jacobian": jacobian, "linear": linear, "structure": structure, "preconditioner": preconditioner}
    return kind(f, batching, per_sample, split=split, **more)


def _parts(split: Any, batching: Batching) -> tuple[ODE, ...]:
    """The parts of a right-hand side, named in errors by their place."""
    if not isinstance(split, tuple | list):
        raise TypeError(
            f"split is {described(split)}; expected a tuple of functions whose sum is the right-hand side, as in "
            "pr.ODE(split=(f1, f2))"
        )
    if len(split) < 2:  # pyright: ignore[reportUnknownArgumentType]
        raise ValueError(
            f"split holds {len(split)} functions; expected at least 2, whose sum is the right-hand side"  # pyright: ignore
        )
    parts: list[ODE] = []
    for i, f in enumerate(split):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        calls = OnLanes(f, batching, f"split[{i}]")  # pyright: ignore[reportUnknownArgumentType]
        part = ODE(f, batching)
        object.__setattr__(part, "_calls", calls)
        parts.append(part)
    return tuple(parts)


class _Sum:
    """The sum of right-hand sides on lanes."""

    def __init__(self, parts: tuple[ODE, ...]) -> None:
        self._parts = parts

    def __call__(self, t: Tensor, u: State, rows: State = None) -> State:
        first, *others = self._parts
        total = first.rhs(t, u, rows)
        for part in others:
            total = trees.add(total, part.rhs(t, u, rows))
        return total


def _whole(f: Any, parts: tuple[ODE, ...], batching: Batching) -> Callable[[Tensor, State, State], State]:
    """The right-hand side on lanes: of ``f``, or else the sum of the parts."""
    return _Sum(parts) if parts and f is None else OnLanes(f, batching)  # pyright: ignore[reportArgumentType]


def check_sum(problem: ODE, u0: State, t: Tensor) -> None:
    """Raises unless the whole right-hand side is the sum of the parts, at the initial state and at time ``t``, (1,)."""
    u, rows = trees.map(lambda leaf: leaf.unsqueeze(0), u0), probe_rows(problem, u0)
    with torch.no_grad():
        t = t.to(trees.leaves(u0)[0].device)
        whole, parts = problem.rhs(t, u, rows), [part.rhs(t, u, rows) for part in problem.parts]
    for i, leaf in enumerate(trees.leaves(whole)):
        each = torch.stack([trees.leaves(part)[i] for part in parts])
        allowed = torch.finfo(leaf.dtype).eps ** 0.5 * each.abs().sum(0).clamp(min=torch.finfo(leaf.dtype).tiny)
        off = (leaf - each.sum(0)).abs()
        if bool((off > allowed).any()):
            raise ValueError(
                f"f is not the sum of the {len(parts)} functions of split: at the initial state they differ by up to "
                f"{off.max().item():.2g}; expected the same right-hand side, or split alone: pr.ODE(split=(f1, f2))"
            )


def probe_rows(problem: Problem, u0: State) -> State:
    """Per-sample data for a call on one lane with the state ``u0`` of one system: leaves ``(1, ...)``, or ``None``."""
    if problem.per_sample is None:
        return None
    axes = {leaf.shape[0] for leaf in trees.leaves(u0) if leaf.ndim}
    count = axes.pop() if len(axes) == 1 else None
    return trees.map(lambda leaf: leaf[:count].unsqueeze(0), problem.per_sample)


def check_rows(per_sample: State) -> None:
    """Raises unless per-sample data is a tree of tensors, or there is none."""
    if per_sample is None:
        return
    for leaf in trees.leaves(per_sample):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"per_sample holds {described(leaf)}; expected tensors with a leading sample axis")


def bound_problem(problem: Problem, u0: State, grid: Any, fine: Any) -> Problem:
    """Calls `Problem.bind`, and checks the result."""
    bound: Any = problem.bind(u0, grid, fine)
    if not isinstance(bound, Problem):
        raise TypeError(
            f"bind of {type(problem).__name__} returned {described(bound)}; expected the problem to be used: end it "
            "with return self"
        )
    return bound
