"""Stability functions are what the methods do to u' = lambda u; bounds hold for measured errors and are attained."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor

import parareal as pr
from parareal import theory

EXPLICIT = (
    *(pr.Euler(), pr.Midpoint(), pr.Heun(), pr.Ralston(), pr.Heun3(), pr.Kutta3(), pr.SSPRK33(), pr.BogackiShampine()),
    *(pr.RK4(), pr.ThreeEighths(), pr.DormandPrince(), pr.CashKarp()),
    pr.RungeKutta(pr.ButcherTableau(a=((), (0.25,)), b=(-1.0, 2.0))),
)
IMPLICIT = (
    *(pr.ImplicitEuler(), pr.ImplicitMidpoint(), pr.Trapezoid(), pr.SDIRK2(), pr.SDIRK2(gamma=0.3), pr.RadauIIA()),
    *(
        pr.RadauIIA(3),
        pr.LobattoIIIC(),
        pr.LobattoIIIC(3),
        pr.GaussLegendre(1),
        pr.GaussLegendre(),
        pr.GaussLegendre(3),
    ),
    pr.ImplicitRungeKutta(pr.ButcherTableau(a=((0.4,),), b=(1.0,))),
)
EXPONENTIAL = (pr.ExponentialEuler(), pr.ETDRK2(), pr.ETDRK4())
POINTS = torch.tensor([0.0, 0.3, -0.7, -2.5, -30.0, 1.1j, -0.4 + 2j, 3e-3 - 1e-3j, 0.9], dtype=torch.complex128)


def name(method: Any) -> str:
    return repr(method)[:40]


# --- stability functions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("method", EXPLICIT + IMPLICIT, ids=name)
def test_a_stability_function_is_what_the_method_does_to_a_linear_equation(method: pr.Integrator, steps: int) -> None:
    grid = pr.TimeGrid.uniform(0.0, 0.5, slices=1, steps=steps)
    problem = pr.ODE(lambda t, u: 2 * POINTS * u)
    made = pr.serial(problem, torch.ones(len(POINTS), dtype=torch.complex128), grid, fine=method).u
    expected = theory.stability_function(method, steps)(POINTS)
    assert ((made - expected).abs() <= 1e-11 * expected.abs().clamp(min=1.0)).all()


@pytest.mark.parametrize("rest", [0.0, -0.6, 0.3 + 0.9j])
@pytest.mark.parametrize("method", EXPONENTIAL, ids=name)
def test_a_stability_function_of_an_exponential_method_has_two_arguments(method: pr.Integrator, rest: complex) -> None:
    grid = pr.TimeGrid.uniform(0.0, 0.5, slices=1, steps=2)
    problem = pr.SemilinearODE(2 * POINTS, lambda t, u: 2 * rest * u)
    made = pr.serial(problem, torch.ones(len(POINTS), dtype=torch.complex128), grid, fine=method).u
    expected = theory.stability_function(method, 2)(POINTS, rest)
    assert ((made - expected).abs() <= 1e-12 * expected.abs().clamp(min=1.0)).all()
    if rest == 0.0:
        assert torch.allclose(expected, POINTS.exp(), rtol=1e-14)


def pade(j: int, k: int, z: complex) -> complex:
    """The Pade approximation of exp with a numerator of degree j and a denominator of degree k."""

    def polynomial(p: int, q: int, x: complex) -> complex:
        fact = math.factorial
        terms = [fact(p) * fact(p + q - i) / (fact(p - i) * fact(p + q) * fact(i)) * x**i for i in range(p + 1)]
        return sum(terms)

    return polynomial(j, k, z) / polynomial(k, j, -z)


@pytest.mark.parametrize("z", [-0.5, 0.2 + 1j, -1e3, -4 - 3j])
def test_stability_functions_of_collocation_methods_are_pade_approximations(z: complex) -> None:
    cases = [(pr.Euler(), 1, 0), (pr.Heun(), 2, 0), (pr.Kutta3(), 3, 0), (pr.RK4(), 4, 0), (pr.ImplicitEuler(), 0, 1)]
    cases += [(pr.Trapezoid(), 1, 1)]
    cases += [(pr.GaussLegendre(s), s, s) for s in (1, 2, 3)]
    cases += [(method(s), s - lag, s) for s in (2, 3) for method, lag in ((pr.RadauIIA, 1), (pr.LobattoIIIC, 2))]
    for method, j, k in cases:
        expected = pade(j, k, z)
        assert abs(theory.stability_function(method)(z) - expected) <= 1e-11 * max(1.0, abs(expected))


def test_what_goes_in_says_what_comes_out() -> None:
    function = theory.stability_function(pr.Euler(steps=2), steps=5)
    assert function.steps == 2  # those that the method names itself
    assert function(1) == 2.25
    assert isinstance(function(1), complex)
    out = function(np.array([[1.0, 0.0]]))
    assert isinstance(out, np.ndarray)
    assert out.tolist() == [[2.25, 1.0]]
    out = function(torch.tensor([0.0, 2.0]))
    assert torch.equal(out, torch.tensor([1.0, 4.0], dtype=torch.complex128))
    assert math.isinf(abs(theory.stability_function(pr.ImplicitEuler())(1.0)))
    assert theory.stability_function(pr.Coarse(pr.Heun(steps=3))).steps == 3
    assert theory.stability_function(pr.Identity())(-3.0) == 1
    assert theory.stability_function(pr.Zero())(-3.0) == 0


@pytest.mark.parametrize(
    "method",
    [pr.AdamsBashforth(2), pr.DPMSolver(), pr.EulerMaruyama(), pr.Propagator(lambda t0, t1, u: u), pr.Euler, 3],
    ids=lambda method: type(method).__name__,  # a repr has addresses, by which workers would not know the same test
)
def test_methods_without_a_stability_function_are_named(method: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a Runge-Kutta method such as pr\.RK4\(\)"):
        theory.stability_function(method)


# --- bounds against the recursion that they solve --------------------------------------------------------------------


def recursion(alpha: Fraction, beta: Fraction, first: list[Fraction], k: int) -> list[Fraction]:
    """Errors of all edges after k iterations, by the recursion, exactly."""
    error = first
    for _ in range(k):
        before, error = error, [Fraction(0)]
        for n in range(len(first) - 1):
            error.append(alpha * before[n] + beta * error[n])
    return error


fractions = st.fractions(0, 2, max_denominator=64)


@given(fractions, fractions, st.integers(1, 14), st.data())
def test_the_generating_function_bound_is_the_solution_of_the_recursion(
    alpha: Fraction, beta: Fraction, slices: int, data: Any
) -> None:
    k = data.draw(st.integers(0, slices + 1))
    a, b = float(alpha), float(beta)
    even = recursion(alpha, beta, [Fraction(0)] + [Fraction(3)] * slices, k)
    bound = theory.generating_function_bound(a, b, k, slices=slices, initial=3.0)
    assert bound == pytest.approx(float(even[-1]), rel=1e-12)
    assert max(even) == even[-1]
    first = [Fraction(0)]
    for n in range(slices):
        first.append(beta * first[n] + 2)
    grown = recursion(alpha, beta, first, k)
    bound = theory.generating_function_bound(a, b, k, slices=slices, gamma=2.0)
    assert bound == pytest.approx(float(grown[-1]), rel=1e-12)


@given(fractions, fractions, st.integers(1, 14), st.data())
def test_the_other_bounds_lie_above_it_and_meet_it_where_they_should(
    alpha: Fraction, beta: Fraction, slices: int, data: Any
) -> None:
    k = data.draw(st.integers(0, slices + 1))
    a, b, above = float(alpha), float(beta), 1 + 1e-12
    sharp = theory.generating_function_bound(a, b, k, slices=slices)
    assert sharp <= theory.superlinear_bound(a, b, k, slices=slices) * above
    assert sharp <= theory.linear_bound(a, b, k, slices=slices) * above
    assert sharp <= theory.linear_bound(a, b, k) * above
    grown = theory.generating_function_bound(a, b, k, slices=slices, gamma=1.0)
    assert grown <= theory.nonlinear_bound(a, b, 1.0, k, slices=slices) * above
    # With beta = 1 the factor max(1, beta) gives nothing away.
    pairs = [
        (
            theory.superlinear_bound(a, 1.0, k, slices=slices),
            theory.generating_function_bound(a, 1.0, k, slices=slices),
        ),
        (
            theory.nonlinear_bound(a, 1.0, 1.0, k, slices=slices),
            theory.generating_function_bound(a, 1.0, k, slices=slices, gamma=1.0),
        ),
        (theory.linear_bound(a, b, 1, slices=slices), theory.generating_function_bound(a, b, 1, slices=slices)),
    ]
    for one, other in pairs:
        assert one == pytest.approx(other, rel=1e-12)
    if beta <= Fraction(3, 4):  # on an interval without end the linear bound is attained
        assert theory.linear_bound(a, b, k) == pytest.approx(
            theory.generating_function_bound(a, b, k, slices=400), rel=1e-9
        )


def test_bounds_do_not_overflow_on_the_way() -> None:
    bound = theory.superlinear_bound(0.25, 1.0, 2500, slices=5000)
    exact = float(Fraction(math.comb(4999, 2500), 4**2500))  # of numbers with 1,500 digits
    assert bound == pytest.approx(exact, rel=1e-11)
    assert theory.generating_function_bound(0.25, 1.0, 2500, slices=5000) == pytest.approx(exact, rel=1e-9)
    assert theory.superlinear_bound(2.0, 1.0, 2500, slices=5000) == math.inf
    assert theory.superlinear_bound(0.5, 1.0, 4990, slices=5000) < 1e-200


def test_bounds_take_arrays_and_ends_of_their_range() -> None:
    z = np.linspace(-3.0, 0.0, 7)
    fine, coarse = theory.stability_function(pr.RK4(steps=8))(z), theory.stability_function(pr.ImplicitEuler())(z)
    alpha, beta = abs(fine - coarse), abs(coarse)
    for function in (theory.linear_bound, theory.superlinear_bound, theory.generating_function_bound):
        many = function(alpha, beta, 2, slices=9)
        assert many.shape == (7,)
        assert many.dtype == np.float64
        one_by_one = [function(a, b, 2, slices=9) for a, b in zip(alpha, beta, strict=True)]
        assert many.tolist() == pytest.approx(one_by_one, rel=1e-14)
    assert theory.convergence_factor([0.0, 0.1, 0.1], [1.0, 1.0, 0.9]).tolist() == pytest.approx([0.0, math.inf, 1.0])
    assert theory.linear_bound(0.3, 1.5, 0) == theory.superlinear_bound(0.3, 1.5, 0, slices=1) == 1.0
    assert theory.generating_function_bound(math.inf, 0.5, 2, slices=9) == math.inf
    assert theory.nonlinear_bound(0.3, 1.5, 0.0, 3, slices=9) == 0.0


def test_the_convergence_factor_of_implicit_euler_is_the_published_one() -> None:
    """With an exact fine propagator at most 0.298 on the negative axis (Gander and Vandewalle, 2007)."""
    z = -np.geomspace(1e-3, 1e4, 200_001)
    G = theory.stability_function(pr.ImplicitEuler())(z)
    assert theory.convergence_factor(abs(np.exp(z) - G), abs(G)).max() == pytest.approx(0.2984256, abs=1e-7)


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(ValueError, match=r"alpha=-0\.1 is negative"):
        theory.linear_bound(-0.1, 0.5, 1)
    with pytest.raises(ValueError, match=r"beta=nan is negative or NaN"):
        theory.convergence_factor(0.1, math.nan)
    with pytest.raises(ValueError, match=r"expected one of them"):
        theory.generating_function_bound(0.1, 0.5, 1, slices=3, initial=1.0, gamma=1.0)
    with pytest.raises(ValueError, match="iterations=-1 is too small"):
        theory.superlinear_bound(0.1, 0.5, -1, slices=3)
    with pytest.raises(TypeError, match=r"slices=2\.5 is a float"):
        theory.dahlquist_error(0.1, 0.5, 1, slices=2.5)  # pyright: ignore[reportArgumentType]


# --- bounds against measured errors ----------------------------------------------------------------------------------


@given(fractions, fractions, st.integers(1, 12), st.data())
def test_the_error_for_a_linear_equation_is_a_binomial_sum(F: Fraction, G: Fraction, slices: int, data: Any) -> None:
    k = data.draw(st.integers(0, slices))
    made = theory.dahlquist_error(float(F), float(G), k, slices=slices)
    for n in range(slices + 1):
        exact = sum((math.comb(n, j) * (F - G) ** j * G ** (n - j) for j in range(k + 1, n + 1)), Fraction(0))
        size = sum((math.comb(n, j) * abs(F - G) ** j * G ** (n - j) for j in range(k + 1, n + 1)), Fraction(0))
        assert abs(made[n] - float(exact)) <= 1e-13 * float(size)


lambdas = st.builds(complex, st.floats(-2.0, 0.5), st.floats(-1.5, 1.5))
one_step_methods = st.sampled_from(
    (pr.Euler(), pr.Heun(), pr.RK4(), pr.ImplicitEuler(), pr.Trapezoid(), pr.RadauIIA(), pr.Identity(), pr.Zero())
)


@examples(6)
@given(lambdas, st.sampled_from((pr.Euler(), pr.RK4(), pr.RadauIIA())), one_step_methods, st.integers(1, 8), st.data())
def test_measured_errors_of_linear_equations(
    z: complex, fine: pr.Integrator, coarse: Any, slices: int, data: Any
) -> None:
    """The error is as computed in advance, at every edge, and below every bound."""
    k = data.draw(st.integers(1, slices))
    grid = pr.TimeGrid.uniform(0.0, float(slices), slices, steps=4)
    problem, u0 = pr.ODE(lambda t, u: z * u), torch.ones(1, dtype=torch.complex128)
    call: dict[str, Any] = {"schedule": pr.Barrier(), "stop": pr.Iterations(k), "executor": pr.Serial()}
    sol = pr.solve(problem, u0, grid, fine=fine, coarse=coarse, **call)
    ref = pr.serial(problem, u0, grid, fine=fine)
    measured = (ref.us - sol.us)[:, 0].numpy()
    F, G = (theory.stability_function(method, steps)(z) for method, steps in ((fine, 4), (coarse, 1)))
    alpha, beta = abs(F - G), abs(G)
    # Rounding of a slice, of about 100 operations on numbers like F and G, goes through the recursion like all else.
    rounding = 1e2 * np.finfo(float).eps * slices * (abs(F) + 2 * beta + 1) * max(1.0, alpha + beta) ** slices
    guess = 1.0 if isinstance(coarse, pr.Zero) else G
    assert (abs(measured - theory.dahlquist_error(F, G, k, slices=slices, guess=guess)) <= rounding).all()
    first = abs(theory.dahlquist_error(F, G, 0, slices=slices, guess=guess)).max()
    gamma = alpha * max(1.0, abs(F) ** (slices - 1)) if guess == G else math.inf
    for bound in (
        theory.linear_bound(alpha, beta, k, initial=first),
        theory.linear_bound(alpha, beta, k, slices=slices, initial=first),
        theory.superlinear_bound(alpha, beta, k, slices=slices, initial=first),
        theory.generating_function_bound(alpha, beta, k, slices=slices, initial=first),
        theory.generating_function_bound(alpha, beta, k, slices=slices, gamma=gamma),
        theory.nonlinear_bound(alpha, beta, gamma, k, slices=slices),
    ):
        assert abs(measured).max() <= bound * (1 + 1e-11) + rounding


@given(st.floats(0.01, 0.9), st.floats(0.0, 1.2), st.floats(-0.5, 0.5), st.integers(1, 10), st.data())
def test_measured_errors_of_nonlinear_maps(alpha: float, beta: float, c: float, slices: int, data: Any) -> None:
    """G(u) = beta sin u and F - G = alpha cos u + c, whose Lipschitz constants are beta and alpha."""
    k = data.draw(st.integers(1, slices))
    coarse = pr.Propagator(lambda t0, t1, u: beta * torch.sin(u))
    fine = pr.Propagator(lambda t0, t1, u: beta * torch.sin(u) + alpha * torch.cos(u) + c)
    grid, u0 = pr.TimeGrid.uniform(0.0, 1.0, slices), torch.tensor([0.8], dtype=torch.float64)
    problem = pr.ODE(lambda t, u: u)
    call: dict[str, Any] = {"schedule": pr.Barrier(), "stop": pr.Iterations(k), "executor": pr.Serial()}
    sol = pr.solve(problem, u0, grid, fine=fine, coarse=coarse, **call)
    ref = pr.serial(problem, u0, grid, fine=fine).us
    measured, gamma = (sol.us - ref).abs().max().item(), (alpha * torch.cos(ref[:-1]) + c).abs().max().item()
    sharp = theory.generating_function_bound(alpha, beta, k, slices=slices, gamma=gamma)
    paper = theory.nonlinear_bound(alpha, beta, gamma, k, slices=slices)
    rounding = 1e2 * np.finfo(float).eps * slices * 2.2**slices
    assert measured <= sharp + rounding
    assert sharp <= paper * (1 + 1e-12)


@given(st.floats(0.05, 0.9), st.floats(0.05, 1.3), st.integers(2, 10), st.data())
def test_bounds_are_attained_by_the_engine(alpha: float, beta: float, slices: int, data: Any) -> None:
    """F u = (alpha + beta) u and G u = beta u + c_n, with c_n such that errors start as the bounds assume."""
    k = data.draw(st.integers(1, slices - 1))
    serial = (alpha + beta) ** np.arange(slices)
    grid, problem = pr.TimeGrid.uniform(0.0, float(slices), slices), pr.ODE(lambda t, u: u)
    u0, fine = torch.ones(1, dtype=torch.float64), pr.Propagator(lambda t0, t1, u: (alpha + beta) * u)

    def last_error(missed: np.ndarray[Any, Any]) -> float:
        """Where G misses the serial solution by ``missed`` in each slice."""
        c = torch.from_numpy(alpha * serial - missed)

        def coarse(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
            return beta * u + c[int(t0)]

        settings: dict[str, Any] = {
            "fine": fine,
            "coarse": pr.Propagator(coarse),
            "schedule": pr.Barrier(),
            "stop": pr.Iterations(k),
            "executor": pr.Serial(),
        }
        made = pr.solve(problem, u0, grid, **settings).u - pr.serial(problem, u0, grid, fine=fine).u
        return made.abs().item()

    bound = theory.generating_function_bound(alpha, beta, k, slices=slices)
    rounding = 1e2 * np.finfo(float).eps * slices * (2 + alpha + beta) * max(1.0, alpha + beta) ** slices
    assume(bound > 1e3 * rounding)  # otherwise there is nothing to see
    even = np.full(slices, 1 - beta)  # first iterates are then off by 1 everywhere
    even[0] = 1.0
    assert abs(last_error(even) - bound) <= rounding
    bound = theory.generating_function_bound(alpha, beta, k, slices=slices, gamma=1.0)
    assert abs(last_error(np.ones(slices)) - bound) <= rounding
