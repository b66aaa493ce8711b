"""Random problems, states, grids and methods, each with what is known of it in advance: how errors grow in it.

A right-hand side is written once, for rows of independent systems (`rows`); its four ways of being called are derived
from that one function. Every strategy draws small things: laws do not need big ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

import parareal as pr

State = Any
Rows = Callable[[Tensor, State], State]

KUTTA3 = pr.ButcherTableau(a=((), (0.5,), (-1.0, 2.0)), b=(1 / 6, 2 / 3, 1 / 6), order=3)
METHODS = (
    pr.Euler,
    pr.Midpoint,
    pr.Heun,
    pr.RK4,
    pr.Ralston,
    pr.SSPRK33,
    pr.ThreeEighths,
    pr.DormandPrince,
    lambda steps=None: pr.RungeKutta(KUTTA3, steps=steps),
)


def examples(few: int) -> settings:
    """A part of so many examples by default, and times as many under the profiles that take more."""
    return settings(max_examples=max(1, round(few * settings().max_examples / _WHOLE)))


_WHOLE = 7
"""Examples of a profile under which `examples` takes what it was asked for."""


# --- right-hand sides on rows: t (R,), leaves (R, *rest) -------------------------------------------------------------


def expand(scalars: Tensor, leaf: Tensor) -> Tensor:
    """Scalars ``(R,)`` shaped and cast to multiply a leaf ``(R, *rest)``."""
    return scalars.to(leaf.real.dtype if leaf.is_complex() else leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1))


def after(u: State, h: Tensor, slope: State) -> State:
    """States after an Euler step of length ``h``, ``(L,)``."""
    return pytree.tree_map(lambda x, k: x + expand(h, x) * k, u, slope)


def _mean(leaves: list[Tensor]) -> Tensor:
    """The mean over all leaves' means, row by row: what couples the leaves of a nest."""
    return torch.stack([leaf.reshape(leaf.shape[0], -1).mean(1) for leaf in leaves]).mean(0)


def _leafwise(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Rows:
    def rows(t: Tensor, u: State) -> State:
        leaves, spec = pytree.tree_flatten(u)
        mean = _mean(leaves)
        couple = [mean.reshape(-1, *[1] * (leaf.ndim - 1)) for leaf in leaves]
        return pytree.tree_unflatten([fn(expand(t, x), x, m) for x, m in zip(leaves, couple, strict=True)], spec)

    return rows


def _shifted(x: Tensor) -> Tensor:
    """The next element, zero after the last: a nilpotent matrix."""
    flat = x.reshape(x.shape[0], -1)
    return torch.cat([flat[:, 1:], torch.zeros_like(flat[:, :1])], 1).reshape(x.shape)


@dataclass(frozen=True)
class Equation:
    """A right-hand side and a Lipschitz constant of it in the maximum norm."""

    name: str
    rows: Rows
    lipschitz: float

    def __repr__(self) -> str:
        return self.name


LINEAR = Equation("linear", _leafwise(lambda t, x, m: -1.5 * x + 0.5 * m), 2.0)
NONLINEAR = Equation("nonlinear", _leafwise(lambda t, x, m: 2 * x / (1 + (x * x.conj()).real) - 0.5 * m), 2.5)
TIME_DEPENDENT = Equation(
    "time_dependent", _leafwise(lambda t, x, m: torch.cos(3 * t) * x + torch.sin(t) * (m + 1)), 2.0
)
NON_NORMAL = Equation("non_normal", _leafwise(lambda t, x, m: -x + 3 * _shifted(x)), 4.0)
EQUATIONS = (LINEAR, NONLINEAR, TIME_DEPENDENT, NON_NORMAL)


def stiff(rate: float) -> Equation:
    """Relaxation towards cos t; ``rate`` has the sign that makes it decay in the direction of time."""
    return Equation(f"stiff({rate:.3g})", _leafwise(lambda t, x, m: -rate * (x - torch.cos(t))), abs(rate))


def single(rows: Rows) -> Callable[[Tensor, State], State]:
    """f(t, u) on one state, from a function on rows."""

    def f(t: Tensor, u: State) -> State:
        value = rows(t.reshape(1), pytree.tree_map(lambda leaf: leaf.unsqueeze(0), u))
        return pytree.tree_map(lambda leaf: leaf.squeeze(0), value)

    return f


# --- grids, states, methods ------------------------------------------------------------------------------------------


@st.composite
def grids(draw: st.DrawFn, max_slices: int = 8, min_slices: int = 1) -> pr.TimeGrid:
    """Rising and falling, even and uneven, slices that differ by a step; they span at most 1."""
    slices = draw(st.integers(min_slices, max_slices))
    start = draw(st.sampled_from((0.0, 0.25, -0.7)))
    span = draw(st.sampled_from((1.0, 0.5, -1.0, -0.4)))
    if draw(st.booleans()):
        return pr.TimeGrid.uniform(start, start + span, slices, steps=draw(st.integers(1, 5)))
    widths = draw(st.lists(st.integers(1, 4), min_size=slices, max_size=4 * slices))
    points = torch.cumsum(torch.tensor([0, *widths], dtype=torch.float64), 0)
    return pr.TimeGrid.from_points(start + span * points / points[-1], slices)


DTYPES = (torch.float32, torch.float64, torch.complex128)
NESTS: dict[str, Callable[[Callable[..., Tensor]], State]] = {
    "vector": lambda new: new(4),
    "scalar": lambda new: new(),
    "matrix": lambda new: new(2, 3),
    "tuple": lambda new: (new(3), new()),
    "dict": lambda new: {"b": new(2), "a": new(2, 2)},
    "nested": lambda new: {"x": (new(2), [new()]), "y": new(1, 2)},
}


def make_state(nest: str, dtype: torch.dtype, seed: int, batch: tuple[int, ...] = ()) -> State:
    """A state of moduli below 1; ``batch`` is put in front of every leaf."""
    generator = torch.Generator().manual_seed(seed)

    def new(*shape: int) -> Tensor:
        real = torch.rand((*batch, *shape), generator=generator, dtype=torch.float64) * 1.4 - 0.7
        if not dtype.is_complex:
            return real.to(dtype)
        imaginary = torch.rand((*batch, *shape), generator=generator, dtype=torch.float64) * 1.4 - 0.7
        return torch.complex(real, imaginary).to(dtype)

    return NESTS[nest](new)


@st.composite
def states(draw: st.DrawFn, batch: tuple[int, ...] = ()) -> State:
    """Bare tensors, 0-dimensional ones among them, and nests, in all dtypes."""
    nest, dtype = draw(st.sampled_from(tuple(NESTS))), draw(st.sampled_from(DTYPES))
    return make_state(nest, dtype, draw(st.integers(0, 99)), batch)


def methods(max_steps: int | None = 2) -> st.SearchStrategy[pr.Integrator]:
    """Any explicit method, with ``steps=None`` or a few."""
    steps = st.none() if max_steps is None else st.none() | st.integers(1, max_steps)
    return st.builds(lambda make, steps: make(steps=steps), st.sampled_from(METHODS), steps)


def multistep() -> st.SearchStrategy[pr.Multistep]:
    """Methods with a memory, carried over slice edges or not."""
    return st.builds(
        lambda order, restart, steps: pr.AdamsBashforth(order, restart=restart, steps=steps),
        st.integers(1, 4),
        st.booleans(),
        st.none() | st.integers(1, 3),
    )


def decay(t0: Tensor, t1: Tensor, u: State) -> State:
    """A crude propagator for anything: everything shrinks a little."""
    return pytree.tree_map(
        lambda x: x * torch.exp(-0.5 * (t1 - t0).abs()).to(x.real.dtype if x.is_complex() else x.dtype), u
    )


def classical() -> st.SearchStrategy[pr.Correction]:
    """`Coarse` with all kinds of propagators, `Identity` and `Zero`."""
    return st.one_of(
        methods().map(pr.Coarse),
        st.sampled_from((pr.Coarse(pr.Euler()), pr.Coarse(pr.RK4()), pr.Coarse(pr.Propagator(decay)))),
        st.sampled_from((pr.Identity(), pr.Zero())),
    )


def corrections(one_step: bool = False) -> st.SearchStrategy[pr.Correction]:
    """Every correction; with ``one_step`` without those of which some steps or iterations cost more than others."""
    return st.one_of(
        classical(),
        *([] if one_step else [multistep().map(pr.Coarse)]),
        st.sampled_from(FREE),
        st.builds(pr.Secant, methods().map(pr.Coarse), st.integers(1, 2)),
        st.builds(pr.Damped, methods().map(pr.Coarse), st.sampled_from((0.0, 0.5, 1.2))),
        *([] if one_step else [st.builds(pr.Relaxed, classical() | st.sampled_from(RELAXABLE), st.integers(1, 3))]),
    )


def shrinking(t0: Tensor, t1: Tensor) -> Tensor:
    """A linear flow that has nothing to do with any of the problems."""
    return torch.exp(-0.5 * (t1 - t0).abs())


FREE = (
    pr.LinearFlow(shrinking),
    pr.LinearFlow(0.9),
    pr.Secant(pr.Identity()),
    pr.Secant(pr.Identity(), memory=3),
    pr.Secant(pr.LinearFlow(shrinking)),
    pr.Secant(pr.Zero(), memory=2),
    pr.Anderson(pr.Identity()),
    pr.Anderson(pr.Zero(), memory=1),
    pr.Anderson(pr.Secant(pr.Identity()), memory=3),
    pr.Damped(pr.Identity()),
    pr.Damped(pr.Zero()),
    pr.Anderson(pr.Damped(pr.LinearFlow(shrinking), 0.8)),
)
"""Corrections built on others that cost no evaluations."""


RELAXABLE = (pr.Secant(pr.Identity()), pr.Secant(pr.Euler()), pr.Damped(pr.Euler(), 0.8), pr.LinearFlow(shrinking))


@dataclass(frozen=True, eq=False)
class Case:
    """A problem with all that a solve needs.

    ``growth`` bounds how much the fine propagator enlarges a small difference over the whole grid.
    """

    equation: Equation
    u0: State
    grid: pr.TimeGrid
    fine: pr.Integrator
    growth: float

    @property
    def problem(self) -> pr.ODE:
        return pr.ODE(single(self.equation.rows))

    @property
    def eps(self) -> float:
        """Rounding unit of the state."""
        return torch.finfo(pytree.tree_leaves(self.u0)[0].dtype).eps

    @property
    def rounding(self) -> float:
        """What rounding may come to by the end: a few units in each stage of each step, enlarged by ``growth``.

        States are of size 1 times the growth; 16 covers the handful of operations in each of up to six stages.
        """
        steps = self.grid.num_steps if self.fine.steps is None else self.grid.num_slices * self.fine.steps
        return 16 * steps * self.eps * self.growth


@st.composite
def cases(
    draw: st.DrawFn,
    max_slices: int = 8,
    min_slices: int = 1,
    with_stiff: bool = True,
    batch: tuple[int, ...] = (),
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    one_step: bool = False,
) -> Case:
    """A random problem with random state, grid and fine propagator; with ``one_step`` one without a memory."""
    grid = draw(grids(max_slices, min_slices))
    u0 = make_state(draw(st.sampled_from(tuple(NESTS))), draw(st.sampled_from(dtypes)), draw(st.integers(0, 99)), batch)
    fine = draw(methods() if one_step else methods() | multistep())
    with_stiff &= not isinstance(fine, pr.Multistep)  # Adams methods are stable for shorter steps only
    span = float((grid.points[-1] - grid.points[0]).abs())
    equation = draw(st.sampled_from((*EQUATIONS, None) if with_stiff else EQUATIONS))
    if equation is None:  # as stiff as the fine steps can bear, which is more than the coarse ones can
        lengths = grid.points.diff() if fine.steps is None else grid.edges.diff() / fine.steps
        longest = float(lengths.abs().max())
        sign = 1.0 if grid.points[-1] > grid.points[0] else -1.0
        equation = stiff(sign * 1.9 / longest)
        return Case(equation, u0, grid, fine, 1.0)
    return Case(equation, u0, grid, fine, exp(equation.lipschitz * span))


# --- methods that split ----------------------------------------------------------------------------------------------

IMEX = (pr.IMEXEuler, pr.ARS222, pr.ARS443)
PARTED: tuple[Callable[[int | None], pr.Integrator], ...] = (
    lambda steps: pr.Lie((pr.Heun(), pr.RK4()), steps),
    lambda steps: pr.Lie(steps=steps),
    lambda steps: pr.Strang((pr.RK4(2), pr.Midpoint()), steps),
    lambda steps: pr.Strang(pr.Heun(), steps),
    lambda steps: pr.Strang((pr.ImplicitMidpoint(), pr.Midpoint()), steps),
    *(lambda steps, kind=kind: kind(steps=steps) for kind in IMEX),
)
VERLET: tuple[Callable[[int | None], pr.Integrator], ...] = (
    lambda steps: pr.StoermerVerlet(steps),
    lambda steps: pr.StoermerVerlet(steps, "position"),
    lambda steps: pr.Strang((pr.Euler(), pr.Euler()), steps),
    lambda steps: pr.Lie(steps=steps),
)


@dataclass(frozen=True, eq=False)
class SplitCase(Case):
    """A problem that is split, of a kind: ``"split"``, ``"semilinear"``, ``"separable"`` or ``"pair"``."""

    kind: str = "split"

    @property
    def problem(self) -> pr.ODE:
        rows = self.equation.rows
        if self.kind == "split":

            def rest(t: Tensor, u: State) -> State:
                return pytree.tree_map(lambda x, k: k + 0.5 * x, u, single(rows)(t, u))

            return pr.ODE(split=(lambda t, u: pytree.tree_map(lambda x: -0.5 * x, u), rest))
        if self.kind == "semilinear":
            return pr.SemilinearODE(-0.5, single(rows))
        if self.kind == "separable":
            return pr.SeparableODE(single(rows))
        return pr.ODE(lambda t, u: (pytree.tree_map(torch.sin, u[1]), single(rows)(t, u[0])))


@st.composite
def split_runs(draw: st.DrawFn, max_slices: int = 6) -> tuple[SplitCase, pr.Correction]:
    """A problem that is split, with a fine method for it, and a correction, often around another such method."""
    grid, steps = draw(grids(max_slices)), st.none() | st.integers(1, 2)
    kind = draw(st.sampled_from(("split", "semilinear", "separable", "pair")))
    nest, seed = draw(st.sampled_from(("vector", "scalar", "tuple", "dict"))), draw(st.integers(0, 99))
    dtype = draw(st.sampled_from((torch.float32, torch.float64, torch.complex128)))
    u0 = make_state(nest, dtype, seed)
    if kind in ("separable", "pair"):
        u0 = (u0, make_state(nest, dtype, seed + 100))
    known = {"pair": VERLET[:2], "separable": VERLET}.get(kind, PARTED)
    if kind == "semilinear":
        known = tuple(make for make in known if "methods=(" not in repr(make(None)) or draw(st.booleans()))
    fine = draw(st.sampled_from(known))(draw(steps))
    equation = draw(st.sampled_from((LINEAR, NONLINEAR, TIME_DEPENDENT)))
    splitting = st.builds(lambda make, steps: make(steps), st.sampled_from(known), steps).map(pr.Coarse)
    coarse = draw(splitting | st.sampled_from((pr.Coarse(pr.Heun()), pr.Coarse(pr.Euler()), *FREE)))
    # Parts enlarge differences more than their sum does: the Lipschitz constants of both add up.
    growth = exp((equation.lipschitz + 1.0) * float((grid.points[-1] - grid.points[0]).abs()))
    return SplitCase(equation, u0, grid, fine, growth, kind), coarse


# --- comparisons -----------------------------------------------------------------------------------------------------


def equal(a: State, b: State) -> bool:
    """Bit for bit the same tree of tensors."""
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return pytree.tree_structure(a) == pytree.tree_structure(b) and all(
        x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(left, right, strict=True)
    )


def distance(a: State, b: State) -> float:
    """Largest modulus of the difference over all elements of all leaves; NaN where anything is NaN."""
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    assert pytree.tree_structure(a) == pytree.tree_structure(b)
    return max(float((x - y).abs().max()) for x, y in zip(left, right, strict=True))


def size(a: State) -> float:
    """Largest modulus of all elements."""
    return max(float(x.abs().max()) for x in pytree.tree_leaves(a))


def opened(sol: pr.Solution) -> int:
    """How many times slices that had been accepted were opened again: there a frontier falls back."""
    frontiers = torch.stack([torch.as_tensor(report.frontier).reshape(-1) for report in sol.history])
    return int((frontiers.diff(dim=0) < 0).any(1).sum())


def part(tree: State, index: Any) -> State:
    """``leaf[index]`` of every leaf."""
    return pytree.tree_map(lambda leaf: leaf[index], tree)


def on_leaves(fn: Callable[[Tensor], Tensor], tree: State) -> State:
    """``fn`` of every leaf."""
    return pytree.tree_map(fn, tree)
