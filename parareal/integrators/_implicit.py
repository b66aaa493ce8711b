"""Implicit Runge-Kutta methods are tables, too; their stages are found by Newton's method."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import check_count, described
from parareal._core.multistep_state import Carried, without_history
from parareal._core.trees import State
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._differentiated import Differentiated
from parareal.integrators._newton import MOST_DENSE, Options, solve_stages
from parareal.integrators._shared import solve_shared
from parareal.integrators._simplified import Slot, new_slot, solve_kept
from parareal.integrators._stage_systems import Matrix, to_state, to_vector, weighted
from parareal.integrators._tableau import ButcherTableau, as_tableau
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._derivatives import derivatives_of, numbers
from parareal.problem._ode import Stages


def check_newton(rtol: Any, max_newton: Any, krylov: Any) -> None:
    """Raises unless the options of Newton's method are what they may be."""
    check_count(max_newton, "max_newton")
    if krylov is not None and not isinstance(krylov, bool):
        raise TypeError(f"krylov={krylov!r} is {described(krylov)}; expected True, False or None")
    if rtol is None:
        return
    if isinstance(rtol, bool) or not isinstance(rtol, Real):
        raise TypeError(f"rtol={rtol!r} is {described(rtol)}; expected a float, or None")
    if not 0.0 < float(rtol) < 1.0:
        raise ValueError(
            f"rtol={rtol!r} is out of range; expected a number between 0 and 1, or None for the rounding unit"
        )


@dataclass(frozen=True)
class Implicit(Integrator):
    """The base of implicit methods: the options of Newton's method, and the step."""

    rtol: float | None = field(default=None, kw_only=True)
    max_newton: int = field(default=20, kw_only=True)
    krylov: bool | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_newton(self.rtol, self.max_newton, self.krylov)

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
        by_gmres = self._options(problem, numbers(u0, 0)).krylov
        if problem.batching == "loop" and (by_gmres or derivatives_of(problem).matrix is None):
            theirs = "BDF" if any(leaf.is_complex() for leaf in trees.leaves(u0)) else "Radau"
            raise ValueError(
                f'{type(self).__name__} came with a problem with batching="loop", of which torch.func takes no '
                'derivatives; expected torch code with batching "vmap", "native" or "fold", or pr.ODE(f, jacobian=...) '
                "for systems without GMRES. For numpy code without derivatives take an explicit method, or "
                f"pr.SciPy({theirs!r})"
            )
        return self

    def begin_slice(self, problem: Any, u: State) -> tuple[Slot, ...] | None:
        """Room for factorisations: one for each diagonal coefficient, or one for stages that are solved together."""
        if derivatives_of(problem).kept is not None or not self._keeps(problem, numbers(u)):
            return None
        return tuple(new_slot(problem, u, self._stages) for _ in self._systems)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`. Factorisations come and go with `Carried` states."""
        solver, u = self.solver(problem, u), without_history(u)
        k, alive = yield from self.slopes(solver, t0, t1, u)
        return solver.carried(self.stepped(t1 - t0, u, k, alive))

    def solver(self, problem: Any, u: State) -> StageSolver:
        """How the stages of a step from ``u`` are found, with the factorisations that come with a `Carried` state."""
        memory: Any = u.memory if isinstance(u, Carried) else None
        plain = without_history(u)
        slots = self.begin_slice(problem, plain) if memory is None else memory
        size = numbers(plain)
        options, keeps = self._options(problem, size), self._keeps(problem, size)
        given = {} if slots is None else dict(zip(self._systems, slots, strict=True))
        return StageSolver(problem, options, keeps, given, memory is not None)

    def stepped(self, h: Tensor, u: State, k: Tensor, alive: Tensor) -> State:
        """The end of a step of length ``h`` with slopes ``k``; NaN for lanes that were not solved."""
        new = to_vector(u, 1) + h.to(k.dtype)[:, None] * weighted(self.table.b, k)
        if not alive.all():
            new = torch.where(alive.to(new.device)[:, None], new, torch.nan)
        return to_state(new, u, 1)

    def slopes(
        self, solver: StageSolver, t0: Tensor, t1: Tensor, u: State
    ) -> Generator[tuple[Any, ...], State, tuple[Tensor, Tensor]]:
        """The slopes of the stages of a step, ``(L, s, D)``, and the lanes that were solved, bool, on the CPU."""
        table, h = self.table, t1 - t0
        times = [t0 if c == 0.0 else t1 if c == 1.0 else t0 + c * h for c in table.nodes]
        alive = torch.ones(len(t0), dtype=torch.bool)
        if table.diagonal:
            return (yield from self._one_by_one(solver, times, h, u, alive))
        vector = to_vector(u, 1)
        k = vector.new_zeros(len(vector), len(times), vector.shape[1])
        return (yield from solver.solve(table.a, torch.stack(times, 1), h, u, k, alive))

    def _one_by_one(
        self, solver: StageSolver, times: list[Tensor], h: Tensor, u: State, alive: Tensor
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
                slopes.append((yield from solver.explicit(t, h, base, vector)))
            else:
                a, nodes, guess = ((row[i],),), t[:, None], guess[:, None]
                k, alive = yield from solver.solve(a, nodes, h, base, guess, alive)
                slopes.append(k[:, 0])
        return torch.stack(slopes, 1), alive

    def eliminates(self, problem: Any, u: State) -> bool:
        """Whether the systems of one state ``u`` are solved with a matrix that may be whole, not by GMRES."""
        size = numbers(u, 0)
        whole = derivatives_of(problem).structure is None or self._stages * size <= MOST_DENSE
        return whole and not self._options(problem, size).krylov

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

    def _keeps(self, problem: Any, size: int) -> bool:
        """Whether systems are solved by simplified Newton: small ones take fewer rounds with new derivatives.

        A matrix of the problem's own may be an approximation, with which convergence is linear at best.
        """
        known = derivatives_of(problem)
        if self._options(problem, size).krylov:
            return False
        said = known.linear or known.structure is not None or known.matrix is not None
        return said or self._stages * size > FEW

    def _options(self, problem: Any, size: int) -> Options:
        known, unknowns = derivatives_of(problem), self._stages * size
        most = MOST_SHARED if known.kept is not None else MOST_DENSE
        krylov = known.structure is None and unknowns > most if self.krylov is None else self.krylov
        return Options(self.rtol, self.max_newton, krylov)


MOST_SHARED = 2048
"""Unknowns of a system whose matrix all lanes of a run share: 32 MiB of float64."""

FEW = 16
"""Unknowns up to which Newton's method takes new derivatives in every iteration: they cost little, and a round less."""


@dataclass
class StageSolver:
    """How the stages of one step are found.

    Attributes:
        problem: The problem.
        options: Those of Newton's method.
        keeps: Whether factorisations are kept.
        slots: Where, by the weights of a system; empty where all lanes share one matrix.
        carries: Whether they go on to the next step, beside the state.
        derivatives: Takes the derivatives of the right-hand side at the stages, ``(L, s, D, D)``, in one part or stage
            by stage; ``None`` where nobody wants them.
    """

    problem: Any
    options: Options
    keeps: bool
    slots: dict[Matrix, Slot]
    carries: bool
    derivatives: list[Tensor] | None = None

    def solve(
        self, a: Matrix, t: Tensor, h: Tensor, base: State, k: Tensor, alive: Tensor
    ) -> Generator[tuple[Any, ...], Any, tuple[Tensor, Tensor]]:
        """See `solve_stages`."""
        if not self.keeps:
            return (yield from solve_stages(self.problem, a, t, h, base, k, alive, self.options, self.derivatives))
        matrix, wanted = None, self.derivatives is not None
        if self.slots:
            given = self.problem, a, t, h, base, k, alive, self.options, self.slots[a]
            k, alive, self.slots[a] = yield from solve_kept(*given)
        else:
            k, alive, matrix = yield from solve_shared(self.problem, a, t, h, base, k, alive, wanted)
        if self.derivatives is not None:
            if matrix is None:
                _, matrix = yield Differentiated(self.problem, a), t, h, base, k
            self.derivatives.append(matrix)
        return k, alive

    def explicit(self, t: Tensor, h: Tensor, base: State, like: Tensor) -> Generator[tuple[Any, ...], Any, Tensor]:
        """The right-hand side at a stage with nothing to solve, ``(L, D)``, as ``like``."""
        if self.derivatives is None:
            return to_vector((yield self.problem.rhs, t, base), 1)
        nothing = torch.zeros_like(like)[:, None]
        slope, jacobian = yield Differentiated(self.problem, ((0.0,),)), t[:, None], h, base, nothing
        self.derivatives.append(jacobian)
        return slope[:, 0]

    def carried(self, new: State) -> State:
        """What a step returns: the state, with the factorisations where these go on."""
        after: Any = tuple(self.slots.values())
        return Carried(new, after) if self.carries else new


@dataclass(frozen=True)
class ImplicitRungeKutta(Implicit):
    """The implicit Runge-Kutta method of a tableau, solved by Newton's method with exact derivatives.

    Stages are solved together, or one after another where the tableau is lower triangular, which costs less; one with
    a row of zeros is explicit. Newton's method begins with the state at the start of the step and iterates until the
    estimated error is below ``rtol``. Convergence is quadratic, so that the default, rounding, costs no more than one
    iteration beyond what any tolerance would take. A linear problem takes two, the second of which confirms the first.

    For a state of d real numbers (a complex element is two) and a system of s stages, one iteration takes s (1 + d)
    evaluations in one round: a directional derivative counts as one, and all are taken side by side. Above 16 unknowns,
    and where `ODE` says ``linear=True`` or has a ``structure`` or a ``jacobian``, a matrix and its factorisation are
    kept while they serve, and most iterations take s evaluations. Systems of more than 512 unknowns are solved by GMRES
    without a matrix. An iteration with m products then takes s (1 + m) evaluations in 1 + m rounds; without the
    problem's ``preconditioner`` m is large for stiff diffusion: ``krylov=False`` makes the matrix whatever its size.
    The host asks the device once in each iteration whether lanes continue, and with GMRES once for each product.

    Where Newton's method fails the state becomes NaN. In a coarse propagator this slows convergence; in the fine one,
    from a final state, the run ends with `Status.UNSOLVED`. Gradients flow through the step. They are right to what
    the last but one iteration left, which is rounding or close to it; by GMRES, to sqrt(rtol), and first ones alone.

    Args:
        tableau: A `ButcherTableau`, or its ``(a, b)`` or ``(a, b, c)`` as nested sequences.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
        rtol: Error of the solution of the stages relative to the largest element of the state; ``None`` for the
            rounding unit of its dtype.
        max_newton: Most iterations for one system, or most new factorisations where these are kept. With the problem's
            own ``jacobian`` the last one of these then goes on, for 24 times as many iterations in all, as long as
            corrections get smaller.
        krylov: Whether linear systems are solved by GMRES; ``None`` decides by their size.

    Raises:
        TypeError: An argument has the wrong type.
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
