"""Semilinear equations and the methods that solve their linear part exactly.

Witnesses: mpmath for the phi functions, SciPy on the whole equation at tight tolerances, and the program of
A.-K. Kassam and L. N. Trefethen, whose weights are contour integrals.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from math import factorial
from typing import Any

import mpmath
import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from strategies import distance, equal
from torch import Tensor

import parareal as pr
from parareal.problem._semilinear import scaled_phis

EPS = float(torch.finfo(torch.float64).eps)
NEVER = pr.Tolerance(rtol=0.0, atol=0.0)

ONE_STEP = (pr.ExponentialEuler(), pr.ETDRK2(), pr.ETDRK4())
MULTISTEP = (
    *(pr.DEIS(order, lower_order_start=start) for order in (1, 2, 3, 4) for start in (True, False)),
    *(
        make(order, kind, rule)  # type: ignore[arg-type]
        for make in (pr.DPMSolver, pr.DPMSolverPP)
        for kind in ("singlestep", "multistep")
        for order in (1, 2, 3)
        for rule in ("midpoint", "heun")
    ),
    *(pr.UniPC(order, "data", variant) for order in (1, 2, 3) for variant in ("bh1", "bh2")),  # type: ignore[arg-type]
)
METHODS = (*ONE_STEP, *MULTISTEP)


# --- phi functions ---------------------------------------------------------------------------------------------------


def phi(k: int, z: complex) -> Any:
    """The sum of z^j / (j + k)! over j, to 40 digits."""
    with mpmath.workdps(40):
        return mpmath.hyp1f1(1, k + 1, mpmath.mpmathify(z)) / mpmath.factorial(k)


@given(
    st.floats(-10.0, 2.0),
    st.floats(-2.0, 2.0),
    st.sampled_from((0.0, 1.0, 0.5, 0.25, 0.75)) | st.floats(-1.0, 1.0),
    st.sampled_from((1.0, -1.0)),
    st.integers(1, 5),
)
def test_phi_functions_at_all_sizes_and_directions(
    power: float, step: float, angle: float, sign: float, n: int
) -> None:
    """Of c h from 1e-10 to 1e2, real and complex, with steps of either sign."""
    h, size = sign * 10.0**step, 10.0**power
    real = angle in (0.0, 1.0)
    c = (1 - 2 * angle if real else complex(np.exp(1j * np.pi * angle))) * size / h
    dtype = torch.float64 if real else torch.complex128
    got = scaled_phis(torch.tensor([h], dtype=torch.float64), torch.tensor(c, dtype=dtype), n)
    z = complex(c) * h
    for k, value in enumerate(got, start=1):
        assert value.is_complex() is not real
        expected = complex(h * phi(k, z))
        # e^z is off by |z| roundings of itself; below that sums of a few terms whose sizes differ by k! at most.
        scale = abs(h) * max(abs(complex(phi(k, z))), abs(np.exp(z)) / abs(z) ** k if abs(z) > 1 else 0.0)
        assert abs(complex(value[0]) - expected) <= (4 * abs(z) + 16 * factorial(k)) * EPS * scale


@pytest.mark.parametrize("turn", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("h", [1.0, -0.3])
def test_phi_functions_where_one_formula_takes_over_from_the_other(h: float, turn: float) -> None:
    """Recursions upwards lose digits for small c h, the series does for large: the worst is around 1."""
    sizes = torch.cat([torch.logspace(-6, -0.01, 30, dtype=torch.float64), 0.9 + 0.2 * torch.rand(20).double()])
    c = torch.polar(sizes, torch.full_like(sizes, np.pi * turn)) / h
    got = scaled_phis(torch.tensor(h, dtype=torch.float64), c, 5)
    for k, values in enumerate(got, start=1):
        for z, value in zip((c * h).tolist(), values.tolist(), strict=True):
            expected = complex(h * phi(k, z))
            assert abs(value - expected) <= 16 * factorial(k) * EPS * abs(expected)


@pytest.mark.parametrize("h", [1.0, -2.0, 0.0])
def test_without_a_linear_part_they_are_powers(h: float) -> None:
    got = scaled_phis(torch.tensor([h], dtype=torch.float64), torch.zeros((), dtype=torch.float64), 4)
    assert [float(value) for value in got] == pytest.approx([h, h / 2, h / 6, h / 24], rel=4 * EPS)


def test_infinite_steps_have_their_limits() -> None:
    """Decay over an endless step: h phi_k(-h) goes to 1 / (k - 1)!; growth by a factor that is scaled away, to 0."""
    endless = torch.tensor([float("inf"), 1.0], dtype=torch.float64)
    minus = torch.tensor(-1.0, dtype=torch.float64)
    decay = scaled_phis(endless, minus, 4, 0.5, -0.5 * torch.expm1(-endless))
    assert [float(part[0]) for part in decay] == [0.5, 0.5, 0.25, 0.5 / 6]
    large = scaled_phis(torch.tensor([1e12], dtype=torch.float64), minus, 4)
    assert [float(part[0]) / 2 for part in large] == pytest.approx([0.5, 0.5, 0.25, 0.5 / 6], rel=1e-11)
    scale = torch.tensor([0.0, 1.0], dtype=torch.float64)
    first = torch.tensor([3.0, float(np.expm1(1.0))], dtype=torch.float64)
    growth = scaled_phis(endless, -minus, 3, scale, first)
    assert [float(part[0]) for part in growth] == [3.0, 0.0, 0.0]
    for k in (1, 2, 3):  # lanes of finite steps beside them are as ever
        assert float(decay[k - 1][1]) == pytest.approx(0.5 * float(phi(k, -1.0)), rel=16 * EPS)
        assert float(growth[k - 1][1]) == pytest.approx(float(phi(k, 1.0)), rel=16 * EPS)


# --- equations -------------------------------------------------------------------------------------------------------


def rest(t: Any, u: Any) -> Any:
    """A nonlinear system that depends on time; arrays or tensors of shape (..., 3), real or complex."""
    x, y, z = (u[..., i] for i in range(3))
    stack, sin, cos = (torch.stack, torch.sin, torch.cos) if isinstance(u, Tensor) else (np.stack, np.sin, np.cos)
    return stack([y * cos(t), -sin(x) + 0.3 * z, x * y + sin(2 * t)], -1)


START = torch.tensor([0.8, -0.3, 0.4], dtype=torch.float64)
DIAGONAL = torch.tensor([-0.5, 0.3, -2.0], dtype=torch.float64)
LINEAR: dict[str, Any] = {
    "scalar": -1.0,
    "diagonal": DIAGONAL,
    "complex": torch.complex(DIAGONAL, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)),
}


def problem_of(name: str) -> tuple[pr.SemilinearODE, Tensor]:
    u0 = START.to(torch.complex128) * (1 + 0.2j) if name == "complex" else START
    return pr.SemilinearODE(LINEAR[name], rest), u0


def exact(name: str, interval: tuple[float, float]) -> Tensor:
    problem, u0 = problem_of(name)
    linear = np.asarray(problem.linear)

    def whole(t: float, u: Any) -> Any:
        return linear * u + rest(t, u)

    return torch.from_numpy(solve_ivp(whole, interval, u0.numpy(), "DOP853", rtol=1e-13, atol=1e-14).y[:, -1])


STEPS = np.array([60, 90, 120, 180])


def measured(
    method: pr.Integrator, name: str = "diagonal", interval: tuple[float, float] = (0.0, 2.0), slices: int | None = 3
) -> float:
    problem, u0 = problem_of(name)
    ref, errors = exact(name, interval), []
    for n in STEPS:
        x = torch.linspace(0.0, 1.0, int(n) + 1, dtype=torch.float64)
        x = x + 0.3 * torch.sin(2 * torch.pi * x) / (2 * torch.pi)  # steps that vary smoothly by a factor of 2
        x[-1] = 1.0
        grid = pr.TimeGrid.from_points(interval[0] + (interval[1] - interval[0]) * x, slices or int(n))
        errors.append(float((pr.serial(problem, u0, grid, fine=method).u - ref).norm()))
    return -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


@pytest.mark.parametrize("interval", [(0.0, 2.0), (1.5, -0.5)], ids=["rising", "falling"])
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("method", ONE_STEP, ids=repr)
@pytest.mark.sweep(3)
def test_measured_order_of_one_step_methods(method: pr.Integrator, name: str, interval: tuple[float, float]) -> None:
    assert measured(method, name, interval) == pytest.approx(method.order, abs=0.15)


def expected_order(method: Any) -> int:
    """Multistep methods start with a step that leaves an error of order 2, which UniPC's corrector makes 3."""
    if isinstance(method, pr.UniPC):
        return 2 if method.lower_order_final else min(method.order + 1, 3)
    if isinstance(method, pr.DEIS) and not method.lower_order_start:
        return method.order
    return min(method.order, 2) if getattr(method, "kind", "multistep") == "multistep" else method.order


@pytest.mark.parametrize(
    "method",
    [*MULTISTEP, *(pr.UniPC(order, lower_order_final=False) for order in (1, 2, 3))],
    ids=repr,
)
@pytest.mark.sweep(3)
def test_measured_order_of_multistep_methods(method: pr.Multistep) -> None:
    assert measured(method) == pytest.approx(expected_order(method), abs=0.25)


@pytest.mark.parametrize("method", [pr.DEIS(3, restart=True), pr.DPMSolverPP(2, "multistep", restart=True)], ids=repr)
def test_restarted_in_every_step_the_order_falls_to_that_of_the_first(method: pr.Multistep) -> None:
    assert measured(method, slices=None) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "method", [pr.DEIS(4, lower_order_start=False), pr.UniPC(3, lower_order_final=False)], ids=repr
)
def test_carried_over_slices_of_one_step_it_is_kept(method: pr.Multistep) -> None:
    assert measured(method, slices=None) == pytest.approx(expected_order(method), abs=0.25)


def test_deis_that_keeps_its_order_begins_with_etdrk4() -> None:
    problem, u0 = problem_of("diagonal")
    grid = pr.TimeGrid.uniform(0.0, 1.0, 8)
    ref = pr.serial(problem, u0, grid, fine=pr.ETDRK4())
    for order in (2, 3, 4):
        sol = pr.serial(problem, u0, grid, fine=pr.DEIS(order, lower_order_start=False))
        equal_for = [torch.equal(a, b) for a, b in zip(sol.us, ref.us, strict=True)].index(False)
        assert equal_for == order  # the initial state, and order - 1 steps
        assert sol.stats.rounds == sol.stats.evaluations == 8 + 3 * (order - 1)
    short = pr.TimeGrid.uniform(0.0, 1.0, 1, steps=2)  # the last steps are of lower order, whatever the first are
    last = pr.serial(problem, u0, short, fine=pr.DEIS(3, lower_order_start=False, lower_order_final=True))
    assert last.stats.evaluations == 2


# --- exactness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [0.0, 2.5])
@pytest.mark.parametrize("c", [-1.7, 0.3, 0.0, -300.0, -0.1 + 2.0j], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.sweep(80)
def test_what_is_linear_is_solved_exactly(method: pr.Integrator, c: complex, constant: float) -> None:
    problem = pr.SemilinearODE(c, lambda t, u: torch.full_like(u, constant))
    dtype = torch.complex128 if isinstance(c, complex) else torch.float64
    grid = pr.TimeGrid.from_points(torch.tensor([0.0, 0.1, 0.5, 0.6, 1.0, 1.5, 2.0], dtype=torch.float64), 2)
    u = complex(pr.serial(problem, torch.tensor([0.7], dtype=dtype), grid, fine=method).u[0])
    expected = complex(mpmath.exp(2 * c) * 0.7 + 2 * constant * phi(1, 2 * c))
    # Weights, of moduli up to 10 where nodes are uneven, add up to the exact one; e^{ch} is off by |c h| roundings.
    assert abs(u - expected) <= 32 * 6 * EPS * max(1.0, abs(expected), abs(constant))


def test_numbers_are_taken_as_they_are() -> None:
    """Not in torch's single precision, whose 0.1 is off by 1e-9, and whose largest number is 3e38."""
    u0 = torch.ones(1, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 1.0, 1)
    for method in (pr.ExponentialEuler(), pr.ETDRK4()):
        u = pr.serial(pr.SemilinearODE(-0.1, lambda t, u: 0 * u), u0, grid, fine=method).u
        assert float(u) == pytest.approx(float(np.exp(-0.1)), rel=4 * EPS)
    whole = pr.SemilinearODE(0.1, lambda t, u: 0 * u).rhs(torch.zeros(1, dtype=torch.float64), u0[None])
    assert float(whole) == 0.1
    tiny = pr.SemilinearODE(-1e300, lambda t, u: 0 * u)
    assert float(pr.serial(tiny, u0, grid, fine=pr.ExponentialEuler()).u) == 0.0


# --- stiff equations -------------------------------------------------------------------------------------------------

RATE = -1e4


def stiff() -> tuple[pr.SemilinearODE, Tensor]:
    """Relaxation towards cos t, with a rest that is nonlinear and not small."""
    return pr.SemilinearODE(RATE, lambda t, u: -RATE * torch.cos(t) + torch.sin(3 * u)), torch.zeros(1).double()


def stiff_end() -> float:
    def whole(t: float, u: Any) -> Any:
        return RATE * (u - np.cos(t)) + np.sin(3 * u)

    return float(solve_ivp(whole, (0.0, 2.0), [0.0], "Radau", rtol=1e-12, atol=1e-13).y[0, -1])


def test_stiff_linear_parts_limit_no_step() -> None:
    problem, u0 = stiff()
    end = stiff_end()

    def error(method: pr.Integrator, steps: int) -> float:
        return abs(float(pr.serial(problem, u0, pr.TimeGrid.uniform(0.0, 2.0, 4, steps // 4), fine=method).u) - end)

    assert not error(pr.RK4(), 64) < 1e100
    assert not error(pr.AdamsBashforth(3), 64) < 1e100
    for method in (*ONE_STEP, pr.DEIS(2), pr.DPMSolver(2), pr.DPMSolverPP(2, "multistep"), pr.UniPC(2)):
        # The rest moves by 1e4 sin(t) h over a step, and counts by 1/1e4 of that: a multiple of the step at most.
        assert error(method, 64) <= 2.0 / 64
        assert error(method, 256) <= 0.3 * error(method, 64)


@pytest.mark.parametrize("fine", [pr.ETDRK4(), pr.DEIS(2), pr.DPMSolver(2)], ids=repr)
@pytest.mark.sweep(1)
def test_parareal_on_a_stiff_problem(fine: pr.Integrator) -> None:
    problem, u0 = stiff()
    grid = pr.TimeGrid.uniform(0.0, 2.0, 16, 8)
    ref = pr.serial(problem, u0, grid, fine=fine)
    stop = pr.Tolerance(rtol=1e-8, atol=0.0)
    sol = pr.solve(problem, u0, grid, fine=fine, coarse=pr.ExponentialEuler(), stop=stop)
    assert sol.iterations <= 4
    assert distance(sol.u, ref.u) <= 1e-8 * float(ref.u.abs())
    plain = pr.solve(problem, u0, grid, fine=fine, coarse=pr.Euler(), stop=stop)
    assert plain.iterations == 16


# --- in Fourier space ------------------------------------------------------------------------------------------------

MODES, LENGTH = 128, 32 * np.pi
WAVES = 2 * np.pi / LENGTH * np.fft.fftfreq(MODES, 1 / MODES)
GRID = LENGTH * np.arange(MODES) / MODES
GROWTH = WAVES**2 - WAVES**4
FLUX = np.where(np.arange(MODES) == MODES // 2, 0, -0.5j * WAVES)
PROFILE = np.fft.fft(np.cos(GRID / 16) * (1 + np.sin(GRID / 16)))


def kassam_trefethen(v: Any, linear: Any, h: float, steps: int) -> Any:
    """Their program for u_t = -u u_x - u_xx - u_xxxx, with a linear part that may be complex."""
    circle = h * linear[:, None] + np.exp(2j * np.pi * (np.arange(1, 65) - 0.5) / 64)[None, :]
    whole, half = np.exp(h * linear), np.exp(h * linear / 2)
    Q = h * ((np.exp(circle / 2) - 1) / circle).mean(1)
    f1 = h * ((-4 - circle + np.exp(circle) * (4 - 3 * circle + circle**2)) / circle**3).mean(1)
    f2 = h * ((2 + circle + np.exp(circle) * (-2 + circle)) / circle**3).mean(1)
    f3 = h * ((-4 - 3 * circle - circle**2 + np.exp(circle) * (4 - circle)) / circle**3).mean(1)
    for _ in range(steps):
        Nv = FLUX * np.fft.fft(np.fft.ifft(v).real ** 2)
        a = half * v + Q * Nv
        Na = FLUX * np.fft.fft(np.fft.ifft(a).real ** 2)
        b = half * v + Q * Na
        Nb = FLUX * np.fft.fft(np.fft.ifft(b).real ** 2)
        c = half * a + Q * (2 * Nb - Nv)
        Nc = FLUX * np.fft.fft(np.fft.ifft(c).real ** 2)
        v = whole * v + Nv * f1 + 2 * (Na + Nb) * f2 + Nc * f3
    return v


def flux(t: Tensor, u: Tensor) -> Tensor:
    return torch.from_numpy(FLUX) * torch.fft.fft(torch.fft.ifft(u).real ** 2)


@pytest.mark.parametrize("speed", [0.0, 1.5], ids=["real", "complex"])
@pytest.mark.sweep(1)
def test_kuramoto_sivashinsky_is_that_of_kassam_and_trefethen(speed: float) -> None:
    """With a speed the solution is carried along by it, and the linear part is complex."""
    linear = GROWTH - 1j * speed * WAVES * (np.arange(MODES) != MODES // 2)
    problem = pr.SemilinearODE(torch.from_numpy(linear if speed else GROWTH), flux)
    grid = pr.TimeGrid.uniform(0.0, 20.0, 20, 4)
    u0 = torch.from_numpy(PROFILE)
    ref = pr.serial(problem, u0, grid, fine=pr.ETDRK4())
    expected = torch.from_numpy(kassam_trefethen(PROFILE, linear, 0.25, 80))
    # Disturbances grow by exp(t / 4) at most, GROWTH being at most 1/4; the contours are good to 1e-15 * 64 points.
    assert distance(ref.u, expected) <= np.exp(5.0) * 80 * 64 * EPS * own.size(expected)
    sol = pr.solve(problem, u0, grid, fine=pr.ETDRK4(), coarse=pr.ETDRK4(), stop=pr.Tolerance(1e-8, 0.0))
    assert sol.iterations <= 7
    assert distance(sol.u, ref.u) <= 1e-6 * own.size(ref.u)


def test_heat_with_a_source_has_its_closed_form() -> None:
    """v' = -k^2 v + s cos t, mode by mode."""
    k = torch.arange(0, 40, dtype=torch.float64)
    source = 1 / (1 + k**2)
    problem = pr.SemilinearODE(-(k**2), lambda t, v: source * torch.cos(t))
    c, t = -(k**2), 3.0
    particular = lambda t: source * (np.sin(t) - c * np.cos(t)) / (1 + c**2)  # noqa: E731
    expected = particular(t) + torch.exp(c * t) * (0.5 - particular(0.0))
    u0 = torch.full((40,), 0.5, dtype=torch.float64)
    h = 0.1  # the source is interpolated: by a constant, a line, a parabola through the middle
    for method, off in ((pr.ExponentialEuler(), h / 2), (pr.ETDRK2(), h**2 / 8), (pr.ETDRK4(), h**3 / (72 * 3**0.5))):
        u = pr.serial(problem, u0, pr.TimeGrid.uniform(0.0, t, 3, 10), fine=method).u
        assert distance(u, expected) <= t * off
        finer = pr.serial(problem, u0, pr.TimeGrid.uniform(0.0, t, 3, 20), fine=method).u
        assert distance(finer, expected) <= 1.2 * 0.5 ** min(method.order, 3) * distance(u, expected)


# --- the problem -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", ["vmap", "native", "fold", "loop"])
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.sweep(6)
def test_explicit_methods_see_the_whole_right_hand_side(name: str, batching: Any) -> None:
    _, u0 = problem_of(name)
    linear, samples = LINEAR[name], batching == "fold"
    state = torch.stack([u0, u0 / 2]) if samples else u0
    grid = pr.TimeGrid.uniform(0.0, 1.0, 4, 2)
    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Euler(), "samples": samples}
    ours = pr.solve(pr.SemilinearODE(linear, rest, batching), state, grid, **options)
    theirs = pr.solve(pr.ODE(lambda t, u: linear * u + rest(t, u), batching), state, grid, **options)
    # Four stages in each of eight steps, a rounding or two of difference in each.
    assert distance(ours.us, theirs.us) <= 4 * 8 * 4 * EPS
    for method in (pr.ETDRK4(), pr.DEIS(3)):
        end = pr.serial(pr.SemilinearODE(linear, rest, batching), state, grid, fine=method, samples=samples)
        single = pr.serial(pr.SemilinearODE(linear, rest), u0, grid, fine=method)
        assert distance(end.u[0] if samples else end.u, single.u) <= 4 * 8 * 4 * EPS


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.sweep(14)
def test_nests_are_stepped_like_one_flat_state(method: pr.Integrator) -> None:
    def f(t: Tensor, u: Any) -> Any:
        x, y, z = rest(t, torch.cat([u["b"][0], u["a"].reshape(1)]))
        return {"a": z, "b": [torch.stack([x, y])]}

    linear = {"b": [DIAGONAL[:2]], "a": DIAGONAL[2]}
    u0 = {"b": [START[:2]], "a": START[2]}
    grid = pr.TimeGrid.uniform(0.0, 1.0, 3, 4)
    nested = pr.serial(pr.SemilinearODE(linear, f), u0, grid, fine=method).u
    flat = pr.serial(pr.SemilinearODE(DIAGONAL, rest), START, grid, fine=method).u
    assert distance(torch.cat([nested["b"][0], nested["a"].reshape(1)]), flat) <= 32 * EPS
    scalar = pr.serial(pr.SemilinearODE(-0.5, f), u0, grid, fine=method).u  # one number for all leaves
    same = pr.serial(pr.SemilinearODE(-0.5, rest), START, grid, fine=method).u
    assert distance(torch.cat([scalar["b"][0], scalar["a"].reshape(1)]), same) <= 32 * EPS


@pytest.mark.parametrize(
    ("fine", "coarse", "shared"),
    [
        (pr.ETDRK4(), pr.ExponentialEuler(), 1),
        (pr.ETDRK2(), pr.ETDRK4(), 1),
        (pr.DEIS(3), pr.ExponentialEuler(), 1),
        (pr.DPMSolverPP(2), pr.ExponentialEuler(), 1),
        (pr.UniPC(2, restart=True), pr.ExponentialEuler(), 1),
        (pr.ETDRK4(), pr.Euler(), 0),  # asks for the whole right-hand side
        (pr.RK4(), pr.ExponentialEuler(), 0),
        (pr.RK4(), pr.Euler(), 1),
    ],
    ids=repr,
)
def test_the_first_value_of_a_slice_is_shared(fine: pr.Integrator, coarse: pr.Integrator, shared: int) -> None:
    N, S, K = 6, 3, 4
    problem, u0 = problem_of("diagonal")
    calls: list[Any] = []
    counted = pr.SemilinearODE(problem.linear, lambda t, u: calls.append(t) or rest(t, u), batching="loop")
    grid = pr.TimeGrid.uniform(0.0, 1.0, N, S)
    sol = pr.solve(counted, u0, grid, fine=fine, coarse=coarse, schedule=pr.Barrier(), stop=pr.Iterations(K))
    e, g = fine.evaluations, coarse.evaluations
    assert sol.stats.fine_evaluations == sum((N - k) * (e * S - shared) for k in range(K))
    assert sol.stats.coarse_evaluations == N * g + sum((N - k - 1) * g for k in range(K))
    assert sol.stats.evaluations == len(calls)
    assert sol.stats.rounds == N * g + K * (e * S - shared) + sum((N - k - 1) * g for k in range(K))


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.sweep(7)
def test_in_parallel_they_end_at_the_sequential_solution(method: pr.Integrator) -> None:
    problem, u0 = problem_of("complex")
    batch = torch.stack([u0, 0.3 * u0])
    grid = pr.TimeGrid.uniform(0.0, 1.0, 5, 2)
    ref = pr.serial(problem, batch, grid, fine=method, samples=True)
    for coarse, schedule in (
        (pr.ExponentialEuler(), pr.Barrier()),
        (pr.ETDRK2(), pr.Wavefront()),
        (pr.Secant(pr.Identity()), pr.Windowed(3)),
    ):
        sol = pr.solve(
            problem,
            batch,
            grid,
            fine=method,
            coarse=coarse,
            schedule=schedule,
            stop=NEVER,
            samples=True,
            executor=pr.Serial(),
        )
        assert sol.converged
        assert equal(sol.u, ref.u)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_methods_and_problems_are_plain_values(method: pr.Integrator) -> None:
    assert pickle.loads(pickle.dumps(method)) == method
    assert eval(repr(method), vars(pr)) == method
    problem = pickle.loads(pickle.dumps(pr.SemilinearODE(DIAGONAL, rest)))
    grid = pr.TimeGrid.uniform(0.0, 1.0, 2, 2)
    again = pr.serial(problem, START, grid, fine=method).u
    assert torch.equal(again, pr.serial(pr.SemilinearODE(DIAGONAL, rest), START, grid, fine=method).u)


def test_gradients_go_through_the_linear_part() -> None:
    def end(rate: Tensor, run: Callable[..., pr.Solution], **options: Any) -> Tensor:
        grid = pr.TimeGrid.uniform(0.0, 1.0, 4, 2)
        return run(pr.SemilinearODE(rate, rest), START, grid, fine=pr.ETDRK4(), **options).u.sum()

    rate = DIAGONAL.clone().requires_grad_(True)
    (serial,) = torch.autograd.grad(end(rate, pr.serial), rate)
    (parallel,) = torch.autograd.grad(end(rate, pr.solve, coarse=pr.ExponentialEuler(), stop=NEVER), rate)
    assert distance(parallel, serial) <= 64 * 8 * EPS
    h = 1e-5
    for i in range(3):
        e = torch.eye(3, dtype=torch.float64)[i] * h
        ahead, behind = (float(end(DIAGONAL + s * e, pr.serial)) for s in (1, -1))
        assert (ahead - behind) / (2 * h) == pytest.approx(float(serial[i]), rel=1e-7)


# --- what is wrong ---------------------------------------------------------------------------------------------------

GRID2 = pr.TimeGrid.uniform(0.0, 1.0, 2)


def run(linear: Any, u0: Any = START) -> Any:
    return pr.serial(pr.SemilinearODE(linear, lambda t, u: u), u0, GRID2, fine=pr.ETDRK2())


def on_plain_ode(method: pr.Integrator) -> Any:
    return pr.serial(pr.ODE(lambda t, u: -u), START, GRID2, fine=method)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: run("-1"), TypeError, ["linear", "str", "number"]),
        (lambda: run(True), TypeError, ["linear", "bool"]),
        (lambda: run([1.0, None]), TypeError, ["linear", "None"]),
        (lambda: run(float("nan")), ValueError, ["linear is not finite"]),
        (lambda: run(torch.tensor([1.0, float("inf"), 0.0])), ValueError, ["linear is not finite"]),
        (lambda: run(torch.eye(3)), ValueError, ["(3, 3)", "(3,)", "diagonal", "eigenvectors"]),
        (lambda: run(torch.ones(2)), ValueError, ["(2,)", "(3,)"]),
        (lambda: run(1.0j), ValueError, ["complex", "float64"]),
        (lambda: run(torch.ones(3, dtype=torch.complex128)), ValueError, ["complex", "float64"]),
        (lambda: run({"a": torch.ones(3), "b": torch.ones(3)}), ValueError, ["linear is a tree of 2", "one of 1"]),
        (
            lambda: run({"a": torch.ones(3), "c": torch.ones(3)}, {"a": START, "b": START}),
            ValueError,
            ["linear is a tree", "the same tree"],
        ),
        (lambda: pr.SemilinearODE(1.0, 2.0), TypeError, ["float", "f"]),
        *[
            (lambda m=m: on_plain_ode(m), ValueError, [type(m).__name__, "Semilinear", "ODE"])
            for m in (*ONE_STEP, pr.DEIS(), pr.DPMSolver(), pr.DPMSolverPP(), pr.UniPC())
        ],
        *[
            (lambda make=make, o=o: make(o), error, ["order=", word])
            for make, most in ((pr.DEIS, 4), (pr.DPMSolver, 3), (pr.DPMSolverPP, 3), (pr.UniPC, 3))
            for o, error, word in (
                (0, ValueError, "at least 1"),
                (most + 1, ValueError, f"1 ... {most}"),
                (True, TypeError, "bool"),
                (2.0, TypeError, "float"),
            )
        ],
        (lambda: pr.DPMSolver(2, "multi"), ValueError, ["kind='multi'", "'singlestep'", "'multistep'"]),
        (lambda: pr.DPMSolverPP(2, rule="rk"), ValueError, ["rule='rk'", "'midpoint'", "'heun'"]),
        (lambda: pr.UniPC(2, "x0"), ValueError, ["prediction='x0'", "'data'", "'noise'"]),
        (lambda: pr.UniPC(2, variant="bh3"), ValueError, ["variant='bh3'", "'bh1'", "'bh2'"]),
        *[
            (lambda make=make: make(steps=0), ValueError, ["steps=0", "at least 1"])
            for make in (pr.ExponentialEuler, pr.ETDRK2, pr.ETDRK4, pr.DEIS, pr.DPMSolver, pr.UniPC)
        ],
    ],
)
def test_what_is_wrong_is_said(make: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)
