"""The method of Stoermer and Verlet: kicks by the forces and drifts by the velocities, in turn."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.names import one_of
from parareal._core.trees import State
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import ODE, Stages, probe_rows
from parareal.problem._separable import SeparableODE, check_pair, halves, joined

Form: TypeAlias = Literal["velocity", "position"]

_VELOCITY = IntegratorTraits(order=2, evaluations=2, shares_first_stage=True, splits=True)
_POSITION = IntegratorTraits(order=2, evaluations=1, splits=True)
_Half: TypeAlias = Generator[tuple[Any, ...], State, State]


@dataclass(frozen=True)
class StoermerVerlet(Integrator):
    """Stoermer-Verlet, or leapfrog, for separable problems: order 2, symplectic, symmetric in time.

    p1/2 = p + h/2 force(t0, q),  q1 = q + h velocity(t0 + h/2, p1/2),  p1 = p1/2 + h/2 force(t1, q1) is velocity
    Verlet; ``"position"`` begins and ends with half a step of q instead. A step of a `SeparableODE` whose ``velocity``
    is a factor takes two evaluations, those of the force, and in position form one. Where ``velocity`` is a function,
    it takes three.

    Any other `ODE` whose state is a pair ``(q, p)`` will do if dq/dt does not depend on q, nor dp/dt on p. Its right-
    hand side is evaluated three times a step, for half of its value each time. Once before a run a call at two
    neighbours of the initial state checks that it separates.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        form: ``"velocity"`` or ``"position"``.

    Raises:
        ValueError: ``form`` is unknown. From `solve`: the state is not a pair, or the problem does not separate.

    Source:
        E. Hairer, C. Lubich, G. Wanner, Geometric numerical integration illustrated by the Stoermer-Verlet method, Acta
        Numerica 12 (2003).

    Examples:
        >>> import torch, parareal as pr
        >>> spring = pr.SeparableODE(lambda t, q: -q)
        >>> u0 = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        >>> grid = pr.TimeGrid.uniform(0.0, 100.0, slices=1, steps=500)
        >>> q, p = pr.serial(spring, u0, grid, fine=StoermerVerlet()).u
        >>> abs((q**2 + p**2).item() - 1) < 0.01
        True
    """

    steps: int | None = None
    form: Form = "velocity"

    def __post_init__(self) -> None:
        check_steps(self.steps)
        one_of(self.form, get_args(Form), "form")

    @property
    def traits(self) -> IntegratorTraits:
        """Those for a `SeparableODE` whose ``velocity`` is a factor."""
        return _VELOCITY if self.form == "velocity" else _POSITION

    def first_function(self, problem: Any) -> Any:
        """The force."""
        return problem.kick

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """Returns itself, or for problems whose velocities are evaluated a method that knows the cost."""
        if isinstance(problem, SeparableODE):
            return _Evaluated(self, True) if problem.evaluates_velocity else self
        check_pair(u0, "StoermerVerlet")
        _check_separable(problem, u0, grid.points[:1])
        return _Evaluated(self, False)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        h, middle, (q, p) = t1 - t0, (t0 + t1) / 2, halves(u)
        if self.form == "position":
            q = trees.axpy(q, h, (0.5,), ((yield from _velocity(problem, t0, u)),))
            p = trees.axpy(p, h, (1.0,), ((yield from _force(problem, middle, joined(q, p, u))),))
            q = trees.axpy(q, h, (0.5,), ((yield from _velocity(problem, t1, joined(q, p, u))),))
            return joined(q, p, u)
        p = trees.axpy(p, h, (0.5,), ((yield from _force(problem, t0, u)),))
        q = trees.axpy(q, h, (1.0,), ((yield from _velocity(problem, middle, joined(q, p, u))),))
        p = trees.axpy(p, h, (0.5,), ((yield from _force(problem, t1, joined(q, p, u))),))
        return joined(q, p, u)


@dataclass(frozen=True)
class _Evaluated(Integrator):
    """`StoermerVerlet` where velocities are evaluated, too.

    Attributes:
        method: The method.
        separable: Whether the problem has functions of their own for forces and velocities, not one for both.
    """

    method: StoermerVerlet
    separable: bool
    steps: int | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", self.method.steps)

    @property
    def traits(self) -> IntegratorTraits:
        """Three evaluations; the first is at the left end in both forms."""
        return replace(_VELOCITY, evaluations=3)

    def first_function(self, problem: Any) -> Any:
        """What the method asks for first."""
        if not self.separable:
            return problem.rhs
        return problem.kick if self.method.form == "velocity" else problem.drift

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        return (yield from self.method.step(problem, t0, t1, u))


def _force(problem: Any, t: Tensor, u: State) -> _Half:
    if isinstance(problem, SeparableODE):
        return (yield problem.kick, t, u)
    return halves((yield problem.rhs, t, u))[1]


def _velocity(problem: Any, t: Tensor, u: State) -> _Half:
    if not isinstance(problem, SeparableODE):
        return halves((yield problem.rhs, t, u))[0]
    if problem.evaluates_velocity:
        return (yield problem.drift, t, u)
    return problem.drift(t, u)


_SHIFT = 0.1
"""How far the states of the check lie from the initial state, relative to its size. A choice: any would do."""


def _check_separable(problem: ODE, u0: State, t: Tensor) -> None:
    """Raises where a half of the right-hand side depends on its own half of the state, by a call on three lanes."""

    def moved(tree: State, by: float) -> State:
        return trees.map(lambda leaf: leaf + by * _SHIFT * (1 + leaf.abs()), tree)

    with torch.no_grad():
        q, p = halves(u0)
        base, other = joined(moved(q, 1.0), moved(p, 1.0), u0), joined(moved(q, -0.7), moved(p, 1.0), u0)
        third = joined(moved(q, 1.0), moved(p, -0.7), u0)
        t, rows = t.to(trees.leaves(u0)[0].device).expand(3), probe_rows(problem, u0)
        rows = None if rows is None else trees.map(lambda leaf: leaf.expand(3, *leaf.shape[1:]), rows)
        value = problem.rhs(t, trees.stack([base, other, third]), rows)
    for half, lane, name in zip(halves(value), (1, 2), ("first", "second"), strict=True):
        for leaf in trees.leaves(half):
            off = (leaf[0] - leaf[lane]).abs()
            allowed = torch.finfo(leaf.dtype).eps ** 0.5 * (leaf[0].abs() + leaf[lane].abs())
            if bool((off > allowed).any()):
                raise ValueError(
                    f"StoermerVerlet came with a problem that does not separate: the {name} half of its right-hand "
                    f"side depends on the {name} half of the state. Expected dq/dt = v(t, p) and dp/dt = F(t, q), for "
                    "states (q, p), best as pr.SeparableODE(force). Where only a part of it separates, as with "
                    "friction, take pr.Strang() with pr.ODE(split=(f1, f2)), else pr.RK4()"
                )
