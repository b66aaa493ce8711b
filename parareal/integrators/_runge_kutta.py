"""Explicit Runge-Kutta methods are tables of numbers; one function steps them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from parareal import _tree
from parareal._problem import ODE, Stages
from parareal._sde import SDE
from parareal._tree import State
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._stochastic import StratonovichHeun


@dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge-Kutta method: k_i = f(t + c_i h, u + h sum_j a_ij k_j), u' = u + h sum_i b_i k_i.

    Attributes:
        a: Rows of the strictly lower triangle: row i holds the i weights of the stages before stage i.
        b: Weights of the stages in the step.
        c: Nodes; ``None`` takes the row sums of ``a``.
        order: Order of accuracy where it is known.

    Raises:
        ValueError: Row lengths do not fit, a row does not sum to its node, or ``b`` does not sum to one.

    Source:
        J. C. Butcher, Numerical Methods for Ordinary Differential Equations (Wiley, 2016), section 23.

    Examples:
        >>> ralston = ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), order=2)
        >>> ralston.c
        (0.0, 0.6666666666666666)
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...] | None = None
    order: int | None = None

    def __post_init__(self) -> None:
        b = tuple(float(x) for x in self.b)
        if not b:
            raise ValueError("b is empty; expected one weight for each stage")
        if len(self.a) != len(b):
            raise ValueError(f"a has {len(self.a)} rows and b has {len(b)} weights; expected one row for each weight")
        a = tuple(_explicit_row(row, i) for i, row in enumerate(self.a))
        sums = tuple(float(sum(row)) for row in a)
        c = sums if self.c is None else tuple(float(x) for x in self.c)
        if len(c) != len(b):
            raise ValueError(f"c has {len(c)} nodes and b has {len(b)} weights; expected one node for each weight")
        for i, (node, total) in enumerate(zip(c, sums, strict=True)):
            if not abs(node - total) <= 1e-12 * max(1.0, sum(map(abs, a[i]))):
                raise ValueError(f"row {i} of a sums to {total!r} and c[{i}]={node!r}; expected them equal")
        if not abs(sum(b) - 1.0) <= 1e-12 * max(1.0, sum(map(abs, b))):
            raise ValueError(f"b sums to {sum(b)!r}; expected 1, else the method is not consistent")
        for name, value in (("a", a), ("b", b), ("c", c)):
            object.__setattr__(self, name, value)

    @property
    def nodes(self) -> tuple[float, ...]:
        """``c``, filled in."""
        return self.c or ()


def _explicit_row(row: Sequence[float], i: int) -> tuple[float, ...]:
    row = tuple(float(x) for x in row)
    if any(row[i:]):
        raise ValueError(
            f"row {i} of a is {row}; expected {i} weights, for the stages before it: an explicit method has a strictly "
            "lower triangular tableau"
        )
    if len(row) < i:
        raise ValueError(f"row {i} of a holds {len(row)} weights; expected {i}, one for each stage before it")
    return row[:i]


def explicit_step(table: ButcherTableau, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
    """One step of any explicit tableau; the first request is the right-hand side at ``(t0, u)``."""
    h = t1 - t0
    slopes: list[State] = []
    for c, row in zip(table.nodes, table.a, strict=True):
        t = t0 if c == 0.0 else t1 if c == 1.0 else t0 + c * h
        stage = _tree.axpy(u, h, row, slopes) if slopes else u
        slopes.append((yield problem.rhs, t, stage))
    return _tree.axpy(u, h, table.b, slopes)


@dataclass(frozen=True)
class _Named(Integrator):
    """A method whose tableau has a name; the final classes below are a tableau and a docstring each."""

    steps: int | None = None
    tableau: ClassVar[ButcherTableau]
    shares_first_stage = True

    def __post_init__(self) -> None:
        check_steps(self.steps)

    @property
    def order(self) -> int | None:
        """Order of accuracy."""
        return self.tableau.order

    @property
    def evaluations(self) -> int:
        """Evaluations of the right-hand side in one step, one for each stage."""
        return len(self.tableau.b)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        return explicit_step(self.tableau, problem, t0, t1, u)


@dataclass(frozen=True)
class Euler(_Named):
    """Explicit Euler: order 1, one evaluation a step.

    In the coordinates of `diffusion_adapters.probability_flow` it is DDIM (Denoising Diffusion Implicit Models,
    arXiv 2010.02502).

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
    """

    tableau = ButcherTableau(a=((),), b=(1.0,), order=1)


@dataclass(frozen=True)
class Midpoint(_Named):
    """The explicit midpoint rule: order 2, two evaluations a step.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
    """

    tableau = ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), order=2)


@dataclass(frozen=True)
class Heun(_Named):
    """Heun's method, the explicit trapezoidal rule: order 2, two evaluations a step.

    It is the sampler of Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364) without
    its Euler step at the end.

    For an `SDE` in the sense of Stratonovich it treats both integrals alike, and has strong order 1 for diagonal,
    scalar and additive noise, 1/2 for general noise (W. Rümelin, Numerical treatment of stochastic differential
    equations, SIAM J. Numer. Anal. 19, 1982). An Ito SDE is refused.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
    """

    tableau = ButcherTableau(a=((), (1.0,)), b=(0.5, 0.5), order=2)
    solves = (ODE, SDE)

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        """Itself for an ODE, and for an SDE the stochastic method."""
        return StratonovichHeun(self.steps).bind(problem, u0, grid) if isinstance(problem, SDE) else self


@dataclass(frozen=True)
class RK4(_Named):
    """The classical Runge-Kutta method (not the 3/8 rule): order 4, four evaluations a step.

    Args:
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).
    """

    tableau = ButcherTableau(a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), order=4)


@dataclass(frozen=True)
class RungeKutta(Integrator):
    """The explicit Runge-Kutta method of a tableau.

    Args:
        tableau: A `ButcherTableau`, or its ``(a, b)`` or ``(a, b, c)`` as nested sequences.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Raises:
        TypeError: ``tableau`` is neither.
        ValueError: The tableau is not that of a consistent explicit method.

    Examples:
        >>> RungeKutta(ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), order=2)).evaluations
        2
    """

    tableau: ButcherTableau
    steps: int | None = None
    shares_first_stage = True

    def __post_init__(self) -> None:
        table: Any = self.tableau
        if isinstance(table, tuple | list) and len(self.tableau) in (2, 3):  # pyright: ignore
            table = ButcherTableau(*self.tableau)  # pyright: ignore
        if not isinstance(table, ButcherTableau):
            raise TypeError(
                f"tableau is a {type(table).__name__}; expected a ButcherTableau or its (a, b) or (a, b, c)"
            )
        check_steps(self.steps)
        object.__setattr__(self, "tableau", table)

    @property
    def order(self) -> int | None:
        """Order of accuracy, as the tableau states it."""
        return self.tableau.order

    @property
    def evaluations(self) -> int:
        """Evaluations of the right-hand side in one step, one for each stage."""
        return len(self.tableau.b)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step on L lanes; see `Integrator.step`."""
        return explicit_step(self.tableau, problem, t0, t1, u)
