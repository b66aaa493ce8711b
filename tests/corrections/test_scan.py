"""Sweeps by blocks of slices against the same sweeps slice by slice, and Newton's method where it needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import distance, equal, examples
from torch import Tensor

import parareal as pr
from parareal.corrections import _scan
from parareal.corrections._base import Sweep
from parareal.grid._mesh import Span

F64 = torch.float64


@dataclass(frozen=True)
class Maps:
    """Factors of R rows of L slices, and what passes through them."""

    factors: Tensor
    first: Tensor
    gained: Tensor

    @property
    def reach(self) -> Tensor:
        """The sizes that changes can have by the bounds of all factors, ``(R, L)``: what rounding is measured by."""
        bound = self.factors.abs().sum(2).amax(-1) if self.factors.ndim == 4 else self.factors.abs().amax(2)
        size, out = self.first.abs().amax(1), []
        for factor, gain in zip(bound.double().unbind(1), self.gained.abs().double().unbind(1), strict=True):
            out.append(size * factor)
            size = out[-1] + gain.amax(1)
        return torch.stack(out, 1)


@st.composite
def maps(draw: Any) -> Maps:
    """Of random sizes, lengths and dtypes; some of whose products grow beyond all bounds, or are not finite."""
    rows, length, numbers = draw(st.integers(1, 3)), draw(st.integers(1, 90)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from((F64, torch.float32, torch.complex128)))
    kind = draw(st.sampled_from(("matrices", "elements", "numbers")))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = {"matrices": (numbers, numbers), "elements": (numbers,), "numbers": (1,)}[kind]
    factors = torch.randn(rows, length, *shape, generator=generator, dtype=dtype)
    factors = factors * draw(st.sampled_from((0.1, 0.5, 1.0, 3.0, 1e4, 1e30)))
    first, gained = (torch.randn(rows, *s, numbers, generator=generator, dtype=dtype) for s in ((), (length,)))
    if draw(st.booleans()):  # nothing moves, whatever the products are
        first, gained = torch.zeros_like(first), torch.zeros_like(gained)
    if draw(st.booleans()):
        place = draw(st.integers(0, length - 1))
        factors[draw(st.integers(0, rows - 1)), place] = draw(st.sampled_from((float("nan"), float("inf"), 0.0)))
    return Maps(factors, first, gained)


@examples(150)
@given(maps())
def test_blocks_give_the_sweep_of_substitution(case: Maps) -> None:
    expected = _scan.substituted(case.factors, case.first, case.gained)
    got = _scan.blocked(case.factors, case.first, case.gained)
    assert got.shape == expected.shape
    same = (got == expected) | (got.isnan() & expected.isnan())
    unit = torch.finfo(got.dtype).eps * case.gained.shape[1] * 64
    allowed = (unit * case.reach).unsqueeze(-1)
    near = (got - expected).abs().double() <= allowed
    assert bool((same | near | ~torch.isfinite(allowed)).all())
    # What is finite slice by slice stays so, and nothing to the left of what is not finite is touched by it.
    assert torch.equal(torch.isfinite(got), torch.isfinite(expected))


@given(st.integers(32, 120), st.booleans())
def test_a_product_that_is_too_large_is_not_used(length: int, dense: bool) -> None:
    """Growth by 10^4 a slice, from nothing but what one slice near the end gains: exact slice by slice."""
    factors = torch.full((1, length, 2), 1e4, dtype=F64)
    factors = torch.diag_embed(factors) if dense else factors
    gained = torch.zeros(1, length, 2, dtype=F64)
    gained[0, -3] = torch.tensor([1.0, -1.0])
    got = _scan.blocked(factors, torch.zeros(1, 2, dtype=F64), gained)
    assert equal(got, _scan.substituted(factors, torch.zeros(1, 2, dtype=F64), gained))
    assert got[0, -1].tolist() == [1e8, -1e8]


def test_gradients_are_those_of_substitution() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for way in (_scan.blocked, _scan.substituted):
        generator.manual_seed(0)
        parts = [torch.randn(2, 40, 3, 3), torch.randn(2, 3), torch.randn(2, 40, 3)]
        parts = [torch.randn(part.shape, generator=generator, dtype=F64).requires_grad_() for part in parts]
        (way(parts[0] * 0.4, *parts[1:]) ** 2).sum().backward()
        gradients.append([part.grad for part in parts])
    for blocked, each in zip(*gradients, strict=True):
        torch.testing.assert_close(blocked, each, rtol=1e-11, atol=1e-11)


@dataclass(frozen=True)
class Turning(pr.Linear):
    """A turn whose speed depends on time: J is a matrix that is never made."""

    counts: Any = None

    def angle(self, t0: Tensor, t1: Tensor) -> Tensor:
        return 3 * (t1 - t0) + torch.cos(t1) - torch.cos(t0)

    def apply(self, at: Any, change: Tensor) -> Tensor:
        return turned(self.angle(at.t0, at.t1), change, self.counts)


@dataclass(frozen=True)
class Composed(Turning):
    """The same, which knows what several slices come to."""

    def compose(self, at: Any, change: Tensor) -> Tensor:
        return turned(self.angle(at.t0[:, 0], at.t1[:, -1]), change, self.counts)


def turned(angle: Tensor, change: Tensor, counts: Any) -> Tensor:
    if counts is not None:
        counts.append(len(change))
    (x, y), (c, s) = change.unbind(-1), (torch.cos(angle).to(change.dtype), torch.sin(angle).to(change.dtype))
    return torch.stack([c * x - s * y, s * x + c * y], -1)


@given(st.integers(1, 3), st.integers(2, 150), st.sampled_from((1.0, 0.7, -1.2)), st.integers(0, 2**31))
def test_compose_saves_calls_and_changes_nothing_but_rounding(rows: int, length: int, theta: float, seed: int) -> None:
    generator, edges = torch.Generator().manual_seed(seed), torch.linspace(0.0, 5.0, length + 3, dtype=F64)
    n = torch.arange(length).expand(rows, -1).numpy() + torch.arange(rows).numpy()[:, None]
    moved, defects = (torch.randn(rows, *s, 2, generator=generator, dtype=F64) for s in ((), (length,)))
    calls: list[list[int]] = [[], []]
    each, blocks = (
        pr.Damped(one, theta).difference_run(Span(edges, n.clip(max=length + 1)), Sweep(moved, defects, None))
        for one in (Turning(calls[0]), Composed(calls[1]))
    )
    assert distance(each, blocks) <= 1e-13 * max(1.0, abs(theta) ** length) * length
    assert len(calls[0]) == length
    if length >= 64:
        assert len(calls[1]) < length


@pytest.mark.parametrize("coarse", [Turning(), Composed(), pr.Damped(Composed(), 0.9)], ids=lambda c: type(c).__name__)
def test_own_linear_corrections_sweep_and_end_at_the_sequential_solution(coarse: pr.Correction) -> None:
    problem = pr.ODE(lambda t, u: (3 - torch.sin(t)) * torch.stack([-u[1], u[0]]) - 0.1 * u**3)
    grid, u0 = pr.TimeGrid.uniform(0.0, 3.0, 50, 4), torch.tensor([1.0, 0.5], dtype=F64)
    ref = pr.serial(problem, u0, grid, fine=pr.RK4())
    sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=coarse, stop=pr.Tolerance(1e-11, 0.0))
    assert distance(sol.us, ref.us) < 1e-9
    assert sol.iterations < 30
    exact = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=coarse, stop=pr.Iterations(50), executor=pr.Serial())
    assert equal(exact.us, pr.serial(problem, u0, grid, fine=pr.RK4()).us)


@pytest.mark.parametrize("u0", [0.0, 1e-200])
@pytest.mark.parametrize("kind", ["full", "diagonal", "flow", "damped"])
def test_growth_beyond_all_numbers_does_no_harm_where_nothing_grows(kind: Any, u0: float) -> None:
    """Over the whole grid a change grows by more than the largest number; from zero there is none."""
    problem, grid = pr.ODE(lambda t, u: 400.0 * u), pr.TimeGrid.uniform(0.0, 2.0 if u0 == 0.0 else 1.0, 256)
    start = torch.full((2,), u0, dtype=F64)
    ref = pr.serial(problem, start, grid, fine=pr.RK4())
    factor = ref.us[1, 0] / start[0] if u0 else 4.0
    coarse = {"flow": pr.LinearFlow(float(factor)), "damped": pr.Damped(pr.Jacobian(), 1.0)}.get(kind)
    coarse = coarse or pr.Jacobian(kind)
    sol = pr.solve(problem, start, grid, fine=pr.RK4(), coarse=coarse, stop=pr.Iterations(1))
    torch.testing.assert_close(sol.us, ref.us, rtol=1e-10, atol=0.0)


@given(st.integers(33, 100), st.sampled_from(("full", "diagonal")), st.integers(0, 2**31))
def test_samples_at_different_frontiers_are_swept_as_they_are_alone(slices: int, kind: Any, seed: int) -> None:
    """Rows of different length lie side by side, and the longer ones do not depend on the others."""
    generator = torch.Generator().manual_seed(seed)
    u0 = torch.randn(3, 2, generator=generator, dtype=F64) * torch.tensor([[2.0], [1e-3], [0.5]])
    problem, grid = pr.ODE(lambda t, u: torch.sin(u.flip(-1)) - u), pr.TimeGrid.uniform(0.0, 3.0, slices)
    options: dict[str, Any] = {
        "fine": pr.Euler(),
        "coarse": pr.Jacobian(kind),
        "stop": pr.Tolerance(1e-7, 1e-12, freeze=True),
        "samples": True,
    }
    together = pr.solve(problem, u0, grid, **options)
    for i in range(3):
        alone = pr.solve(problem, u0[i : i + 1], grid, **options)
        assert distance(alone.us, together.us[:, i : i + 1]) < 1e-11


def test_a_leaf_whose_slope_does_not_depend_on_the_state() -> None:
    def clocked(t: Tensor, u: Any) -> Any:
        return {"x": torch.cos(u["clock"]) * u["x"], "clock": torch.ones_like(u["clock"])}

    u0, grid = {"x": torch.ones(3, dtype=F64), "clock": torch.zeros(1, dtype=F64)}, pr.TimeGrid.uniform(0.0, 3.0, 40)
    for batching in ("vmap", "native"):
        problem: Any = pr.ODE(clocked, batching)
        ref = pr.serial(problem, u0, grid, fine=pr.Heun())
        for kind in ("full", "diagonal"):
            coarse: Any = pr.Jacobian(kind)  # pyright: ignore
            sol = pr.solve(problem, u0, grid, fine=pr.Heun(), coarse=coarse, stop=pr.Tolerance(1e-9, 0.0))
            assert sol.iterations <= 4
            assert distance(sol.us["x"], ref.us["x"]) < 1e-12


# --- Newton around other methods --------------------------------------------------------------------------------------

LOBATTO = pr.ButcherTableau(
    a=((0, 0, 0), (5 / 24, 1 / 3, -1 / 24), (1 / 6, 2 / 3, 1 / 6)), b=(1 / 6, 2 / 3, 1 / 6), order=4
)
IMPLICIT = [
    pr.ImplicitEuler(),
    pr.ImplicitEuler(steps=3),
    pr.Trapezoid(),
    pr.SDIRK2(),
    pr.GaussLegendre(2),
    pr.RadauIIA(3),
    pr.ImplicitRungeKutta(LOBATTO),
]
MATRIX = torch.randn(3, 3, dtype=F64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", IMPLICIT, ids=str)
@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_an_affine_equation_takes_one_iteration_with_implicit_steps(method: Any, dtype: torch.dtype) -> None:
    matrix, grid = MATRIX.to(dtype) * (1 if dtype == F64 else 1j), pr.TimeGrid.uniform(0.0, 2.0, 20)
    for coarse, f in (
        (pr.Jacobian(), lambda t, u: matrix @ u + torch.cos(t)),
        (pr.Jacobian("diagonal"), lambda t, u: matrix.diagonal() * u + torch.cos(t)),
    ):
        problem, u0 = pr.ODE(f), torch.ones(3, dtype=dtype)
        ref = pr.serial(problem, u0, grid, fine=method)
        sol = pr.solve(problem, u0, grid, fine=method, coarse=coarse, stop=pr.Iterations(1))
        assert distance(sol.us, ref.us) < 1e-11
        assert sol.stats.rounds <= ref.stats.rounds  # tangents cost no rounds


def robertson(t: Tensor, u: Tensor) -> Tensor:
    """Three species, of which the third is what is left: rates differ by nine orders of magnitude."""
    a, b = u[0], u[1]
    gain = 1e4 * b * (1 - a - b) - 0.04 * a
    return torch.stack([gain, -gain - 3e7 * b * b])


@pytest.mark.parametrize("method", [pr.ImplicitEuler(), pr.RadauIIA(2)], ids=str)
def test_a_stiff_equation_takes_few_iterations(method: Any) -> None:
    problem, grid = pr.ODE(robertson), pr.TimeGrid.uniform(0.0, 40.0, 64)
    u0 = torch.tensor([1.0, 0.0], dtype=F64)
    ref = pr.serial(problem, u0, grid, fine=method)
    sol = pr.solve(problem, u0, grid, fine=method, coarse=pr.Jacobian(), stop=pr.Tolerance(1e-8, 0.0))
    assert sol.iterations <= 10
    assert sol.stats.rounds < ref.stats.rounds / 3
    torch.testing.assert_close(sol.us, ref.us, rtol=1e-10, atol=0.0)


def test_implicit_newton_in_samples_gradients_and_every_schedule() -> None:
    problem, grid = (
        pr.ODE(lambda t, u: {"x": torch.sin(u["y"]) - u["x"], "y": -4 * u["x"]}),
        pr.TimeGrid.uniform(0, 2, 9),
    )
    for method in (pr.Trapezoid(), pr.RadauIIA(2)):
        leaf = torch.rand(2, 2, dtype=F64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        u0 = {"x": leaf, "y": leaf + 1}
        ref = pr.serial(problem, u0, grid, fine=method)
        (expected,) = torch.autograd.grad(ref.u["x"].square().sum(), leaf)
        for schedule in (pr.Barrier(), pr.Wavefront(), pr.Windowed(4)):
            sol = pr.solve(
                problem,
                u0,
                grid,
                fine=method,
                coarse=pr.Jacobian(),
                schedule=schedule,
                samples=True,
                stop=pr.Tolerance(1e-13, 0.0),
            )
            assert distance(sol.us["x"].detach(), ref.us["x"].detach()) < 1e-11
            (got,) = torch.autograd.grad(sol.u["x"].square().sum(), leaf)
            torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


def jump(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
    """A map over a slice."""
    h = (t1 - t0).reshape(*t0.shape, *[1] * (u.ndim - t0.ndim))
    return u + h * torch.sin(3 * u.flip(-1))


@pytest.mark.parametrize("batching", ["loop", "vmap", "native"])
@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_a_differentiable_propagator(batching: str, kind: Any) -> None:
    """It is a step of Euler's method, and its iterates are those with that method."""
    step, grid = pr.Propagator(jump, batching, differentiable=True), pr.TimeGrid.uniform(0.0, 1.0, 10)
    u0 = torch.tensor([1.0, -0.4, 0.1], dtype=F64)
    problem = pr.ODE(lambda t, u: torch.sin(3 * u.flip(-1)))
    for k in (1, 2, 3):
        options: dict[str, Any] = {"coarse": pr.Jacobian(kind), "stop": pr.Iterations(k)}
        sol = pr.solve(pr.ODE(lambda t, u: u, "loop"), u0, grid, fine=step, **options)
        euler = pr.solve(problem, u0, grid, fine=pr.Euler(), **options)
        assert distance(sol.us, euler.us) < 1e-12
        assert (sol.stats.rounds, sol.stats.evaluations) == (euler.stats.rounds, euler.stats.evaluations)
        assert sol.stats.coarse_evaluations == 3 * sol.stats.fine_evaluations


def test_propagators_and_methods_of_which_there_are_no_derivatives() -> None:
    problem, u0, grid = pr.ODE(lambda t, u: -u), torch.ones(2, dtype=F64), pr.TimeGrid.uniform(0.0, 1.0, 8)

    def outside(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        return torch.from_numpy(u.numpy() * 0.9)

    with pytest.raises(ValueError, match=r"needs derivatives of fn.*differentiable=False"):
        pr.solve(problem, u0, grid, fine=pr.Propagator(outside, differentiable=True), coarse=pr.Jacobian())
    with pytest.raises(ValueError, match=r"of which torch.func takes no derivatives.*differentiable=True"):
        pr.solve(problem, u0, grid, fine=pr.Propagator(outside), coarse=pr.Jacobian())
    with pytest.raises(TypeError, match="differentiable='yes'"):
        pr.Propagator(outside, differentiable="yes")  # pyright: ignore
    with pytest.raises(ValueError, match=r"solves its systems by GMRES.*krylov=False"):
        pr.solve(problem, u0, grid, fine=pr.ImplicitEuler(krylov=True), coarse=pr.Jacobian())


def test_damped_newton_where_the_full_step_leaves_the_basin() -> None:
    """Logistic growth diverges below zero: from far off the full step gets there, half of it does not."""
    problem, grid = pr.ODE(lambda t, u: 8 * u * (1 - u)), pr.TimeGrid.uniform(0.0, 3.0, 48)
    u0 = torch.tensor([0.01, 0.3], dtype=F64)
    ref = pr.serial(problem, u0, grid, fine=pr.Euler())
    options: dict[str, Any] = {"fine": pr.Euler(), "stop": pr.Tolerance(1e-9, 0.0)}
    full = pr.solve(problem, u0, grid, coarse=pr.Jacobian(), **options)
    damped = pr.solve(problem, u0, grid, coarse=pr.Damped(pr.Jacobian(), 0.7), **options)
    assert distance(damped.us, ref.us) < 1e-7
    assert damped.iterations < full.iterations
