"""Implicit Runge-Kutta methods are tables, too; their stages are found by Newton's method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from parareal._core.checks import check_count, described
from parareal._core.multistep_state import Carried, without_history
from parareal._core.trees import State
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._newton import MOST_DENSE, Matrix, Options, solve_stages, to_state, to_vector, weighted
from parareal.integrators._shared import solve_shared
from parareal.integrators._simplified import Slot, new_slot, solve_kept
from parareal.integrators._tableau import ButcherTableau, as_tableau
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._derivatives import derivatives_of, numbers
from parareal.problem._ode import Stages


@dataclass(frozen=True)
class Implicit(Integrator):
    """What implicit methods share: the options of Newton's method, and the step."""

    rtol: float | None = field(default=None, kw_only=True)
    max_newton: int = field(default=20, kw_only=True)
    krylov: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_count(self.max_newton, "max_newton")
        if self.krylov is not None and not isinstance(self.krylov, bool):  # pyright: ignore
            raise TypeError(f"krylov={self.krylov!r} is {described(self.krylov)}; expected True, False or None")
        if self.rtol is None:
            return
        if isinstance(self.rtol, bool) or not isinstance(self.rtol, Real):  # pyright: ignore
            raise TypeError(f"rtol={self.rtol!r} is {described(self.rtol)}; expected a float, or None")
        if not 0.0 < self.rtol < 1.0:
            raise ValueError(
                f"rtol={self.rtol!r} is out of range; expected a number between 0 and 1, or None for the rounding unit"
            )

    @property
    @abstractmethod
    def table(self) -> ButcherTableau:
        """The method's tableau."""

    @property
    def traits(self) -> IntegratorTraits:
        """Newton's method varies its evaluations. An explicit first stage is the right-hand side at the left end."""
        table = self.table
        explicit = table.diagonal and not any(table.a[0])
        return IntegratorTraits(
            order=table.order, evaluations=None, shares_first_stage=explicit, implicit=True, tableau=table
        )

    def bind(self, problem: Any, u0: State, grid: Any) -> Implicit:
        """Returns itself; raises where torch.func has nothing to differentiate."""
        by_gmres = self._options(problem, self._stages, numbers(u0, 0)).krylov
        if problem.batching == "loop" and (by_gmres or derivatives_of(problem).matrix is None):
            raise ValueError(
                f'{type(self).__name__} came with a problem with batching="loop", of which torch.func takes no '
                'derivatives; expected torch code with batching "vmap", "native" or "fold", or pr.ODE(f, jacobian=...) '
                "for systems without GMRES. For numpy code without derivatives take an explicit method, or "
                "pr.SciPy('Radau')"
            )
        return self

    def begin_slice(self, problem: Any, u: State) -> tuple[Slot, ...] | None:
        """Room for factorisations: one for each diagonal coefficient, or one for stages that are solved together."""
        if not self._keeps(problem, u) or derivatives_of(problem).kept is not None:
            return None
        return tuple(new_slot(problem, u, self._stages) for _ in self._systems)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`. Factorisations come and go with `Carried` states."""
        carried, u = u if isinstance(u, Carried) else None, without_history(u)
        table, h, vector = self.table, t1 - t0, to_vector(u, 1)
        times = [t0 if c == 0.0 else t1 if c == 1.0 else t0 + c * h for c in table.nodes]
        alive = torch.ones(len(t0), dtype=torch.bool)
        memory: Any = self.begin_slice(problem, u) if carried is None else carried.memory
        solver = _Solver(problem, self._options(problem, self._stages, numbers(u)), self._keeps(problem, u))
        solver.slots = dict(zip(self._systems, memory, strict=True)) if memory else {}
        if table.diagonal:
            k, alive = yield from self._one_by_one(solver, times, h, u, alive)
        else:
            k = vector.new_zeros(len(vector), len(times), vector.shape[1])
            k, alive = yield from solver.solve(table.a, torch.stack(times, 1), h, u, k, alive)
        new = vector + h.to(vector.dtype)[:, None] * weighted(table.b, k)
        if not alive.all():
            new = torch.where(alive.to(new.device)[:, None], new, torch.nan)
        state, after = to_state(new, u, 1), tuple(solver.slots.values())
        return state if carried is None else Carried(state, after)  # pyright: ignore[reportArgumentType]

    def _one_by_one(
        self, solver: _Solver, times: list[Tensor], h: Tensor, u: State, alive: Tensor
    ) -> Generator[tuple[Any, ...], State, tuple[Tensor, Tensor]]:
        """Stages of a lower triangular tableau; returns slopes ``(L, s, D)`` and the lanes that were solved."""
        table, slopes, vector = self.table, list[Tensor](), to_vector(u, 1)
        step = h.to(vector.dtype)[:, None]
        for i, t in enumerate(times):
            row, base, guess = table.a[i], u, torch.zeros_like(vector)
            if any(row[:i]):
                change = step * weighted(row[:i], torch.stack(slopes, 1))
                base = to_state(vector + change, u, 1)
                # The stage is u then. With a slope of zero it would be where an explicit step from u ends, which for a
                # stiff equation is far off.
                guess = -change / (row[i] * step) if row[i] else guess
            if row[i] == 0.0:
                slopes.append(to_vector((yield solver.problem.rhs, t, base), 1))
            else:
                a, nodes, guess = ((row[i],),), t[:, None], guess[:, None]
                k, alive = yield from solver.solve(a, nodes, h, base, guess, alive)
                slopes.append(k[:, 0])
        return torch.stack(slopes, 1), alive

    @property
    def _stages(self) -> int:
        """Stages that are solved together."""
        return 1 if self.table.diagonal else len(self.table.b)

    @property
    def _systems(self) -> tuple[Matrix, ...]:
        """The different weights of systems: each has a matrix of its own."""
        table = self.table
        if not table.diagonal:
            return (table.a,)
        diagonal = dict.fromkeys(row[i] for i, row in enumerate(table.a) if row[i])
        return tuple(((weight,),) for weight in diagonal)

    def _keeps(self, problem: Any, u: State) -> bool:
        """Whether systems are solved by simplified Newton: small ones take fewer rounds with new derivatives."""
        known, size = derivatives_of(problem), numbers(u)
        if self._options(problem, self._stages, size).krylov:
            return False
        return known.linear or known.structure is not None or self._stages * size > FEW

    def _options(self, problem: Any, stages: int, elements: int) -> Options:
        known = derivatives_of(problem)
        most = MOST_SHARED if known.kept is not None else MOST_DENSE
        krylov = known.structure is None and stages * elements > most if self.krylov is None else self.krylov
        return Options(self.rtol, self.max_newton, krylov)


MOST_SHARED = 2048
"""Unknowns of a system whose matrix all lanes of a run share: 32 MiB of float64."""

FEW = 16
"""Unknowns up to which Newton's method takes new derivatives in every iteration: they cost little, and a round less."""


@dataclass
class _Solver:
    """How the stages of one step are found.

    Attributes:
        problem: The problem.
        options: Those of Newton's method.
        keeps: Whether factorisations are kept.
        slots: Where, by the weights of a system; empty where all lanes share one matrix.
    """

    problem: Any
    options: Options
    keeps: bool
    slots: dict[Matrix, Slot] = field(default_factory=dict[Matrix, Slot])

    def solve(
        self, a: Matrix, t: Tensor, h: Tensor, base: State, k: Tensor, alive: Tensor
    ) -> Generator[tuple[Any, ...], State, tuple[Tensor, Tensor]]:
        """See `solve_stages`."""
        if not self.keeps:
            return (yield from solve_stages(self.problem, a, t, h, base, k, alive, self.options))
        if not self.slots:
            return (yield from solve_shared(self.problem, a, t, h, base, k, alive))
        given = self.problem, a, t, h, base, k, alive, self.options, self.slots[a]
        k, alive, self.slots[a] = yield from solve_kept(*given)
        return k, alive


@dataclass(frozen=True)
class ImplicitRungeKutta(Implicit):
    """The implicit Runge-Kutta method of a tableau, solved by Newton's method with exact derivatives.

    Stages are solved together, or one after another where the tableau is lower triangular, which costs less; one with
    a row of zeros is explicit. Newton's method begins with the state at the start of the step and iterates until the
    estimated error is below ``rtol``. Convergence is quadratic, so that the default, rounding, costs no more than one
    iteration beyond what any tolerance would take. A linear problem takes two, the second of which confirms the first.

    For a state of d real numbers (a complex element is two) and a system of s stages, one iteration takes s (1 + d)
    evaluations in one round: a directional derivative counts as one, and all are taken side by side. Systems of more
    than 512 unknowns are solved by GMRES without a matrix. An iteration with m products then takes s (1 + m)
    evaluations in 1 + m rounds; there is no preconditioner, and for stiff diffusion m is large: ``krylov=False`` makes
    the matrix whatever its size. Whether lanes go on is asked of the device once an iteration, and by GMRES once for
    each product.

    Where Newton's method fails the state becomes NaN. In a coarse propagator this slows convergence; in the fine one,
    from a final state, the run ends with `Status.UNSOLVED`. Gradients flow through the step. They are right to what
    the last but one iteration left, which is rounding or close to it; by GMRES, to sqrt(rtol), and first ones alone.

    Args:
        tableau: A `ButcherTableau`, or its ``(a, b)`` or ``(a, b, c)`` as nested sequences.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        rtol: Error of the solution of the stages relative to the largest element of the state; ``None`` for the
            rounding unit of its dtype.
        max_newton: Most iterations for one system.
        krylov: Whether linear systems are solved by GMRES; ``None`` decides by their size.

    Raises:
        TypeError: An argument is not of its type.
        ValueError: The tableau is not consistent, or an option is out of range. From `solve`: the problem has
            ``batching="loop"``, or an operation that torch.func cannot differentiate.

    Source:
        E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (Springer, 1996), section IV.8.

    Examples:
        >>> import torch, parareal as pr
        >>> gauss = ButcherTableau(a=((0.5,),), b=(1.0,), order=2)
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4)
        >>> ref = pr.serial(pr.ODE(lambda t, u: -u), torch.ones(1), grid, fine=ImplicitRungeKutta(gauss))
        >>> ref.stats.rounds, ref.stats.evaluations
        (8, 16)
    """

    tableau: ButcherTableau
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        table = as_tableau(self.tableau)
        if table.explicit:
            raise ValueError("tableau is explicit, with nothing to solve; expected an implicit one, or pr.RungeKutta")
        object.__setattr__(self, "tableau", table)

    @property
    def table(self) -> ButcherTableau:
        """The tableau."""
        return self.tableau
