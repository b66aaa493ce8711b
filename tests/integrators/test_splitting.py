"""Split problems and the methods that treat their parts differently.

Witnesses: SciPy on the whole equation at tight tolerances, and loops in numpy written for each method.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from strategies import distance, equal, part
from torch import Tensor

import parareal as pr

NEVER = pr.Tolerance(rtol=0.0, atol=0.0)
RATE = 3.0
START = np.array([0.3, -0.2])


def stiff(t: Any, u: Any) -> Any:
    return -RATE * (u - (torch.cos(t) if isinstance(u, Tensor) else np.cos(t)))


def rest(t: Any, u: Any) -> Any:
    stack, sin, cos = (torch.stack, torch.sin, torch.cos) if isinstance(u, Tensor) else (np.stack, np.sin, np.cos)
    return stack([sin(u[1]), u[0] * cos(2 * t)])


def inhomogeneous(t: Tensor, u: Tensor) -> Tensor:
    return RATE * torch.cos(t) + rest(t, u)


SPLIT = pr.ODE(split=(stiff, rest))
SEMILINEAR = pr.SemilinearODE(-RATE, inhomogeneous)
PARTED: dict[str, Callable[[], pr.Integrator]] = {
    "Lie": pr.Lie,
    "Strang": pr.Strang,
    "Strang with RK4": lambda: pr.Strang(pr.RK4()),
    "Strang with two": lambda: pr.Strang((pr.ImplicitMidpoint(), pr.Heun())),
    "IMEXEuler": pr.IMEXEuler,
    "ARS222": pr.ARS222,
    "ARS443": pr.ARS443,
}


def exact(f: Callable[..., Any], start: Any, interval: tuple[float, float]) -> Any:
    return solve_ivp(f, interval, start, "DOP853", rtol=1e-13, atol=1e-13).y[:, -1]


def slope(problem: pr.Problem, u0: Any, method: pr.Integrator, end: Any, interval: tuple[float, float]) -> float:
    """The measured order, by regression."""
    steps, errors = np.array([20, 30, 45] if method.order == 1 else [10, 15, 22]), []
    for n in steps:
        grid = pr.TimeGrid.uniform(*interval, slices=1, steps=int(n))
        errors.append(distance(pr.serial(problem, u0, grid, fine=method).u, end))
    return float(-np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.mark.parametrize("interval", [(0.0, 1.0), (1.5, 0.7)], ids=["rising", "falling"])
@pytest.mark.parametrize("problem", [SPLIT, SEMILINEAR], ids=["split", "semilinear"])
@pytest.mark.parametrize("name", PARTED)
@pytest.mark.sweep(6)
def test_measured_order(name: str, problem: pr.ODE, interval: tuple[float, float]) -> None:
    end = torch.from_numpy(exact(lambda t, u: stiff(t, u) + rest(t, u), START, interval))
    method = PARTED[name]()
    measured = slope(problem, torch.from_numpy(START), method, end, interval)
    assert measured == pytest.approx(method.order, abs=0.2)


@pytest.mark.parametrize("form", ["velocity", "position"])
@pytest.mark.parametrize("kind", ["separable", "function", "pair"])
def test_measured_order_of_verlet_where_both_halves_depend_on_time(form: Any, kind: str) -> None:
    def force(t: Any, q: Any) -> Any:
        return -(q**3) + (torch.cos(3 * t) if isinstance(q, Tensor) else np.cos(3 * t))

    def velocity(t: Any, p: Any) -> Any:
        return p * (1.2 + (torch.sin(t) if isinstance(p, Tensor) else np.sin(t)) / 2)

    if kind == "separable":
        problem, moves = pr.SeparableODE(force, 0.5), lambda t, p: 0.5 * p
    else:
        moves = velocity
        problem = (
            pr.SeparableODE(force, velocity)
            if kind == "function"
            else pr.ODE(lambda t, u: (velocity(t, u[1]), force(t, u[0])))
        )
    end = exact(lambda t, u: np.array([moves(t, u[1]), force(t, u[0])]), [1.0, 0.4], (0.2, 1.4))
    u0 = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    found = slope(problem, u0, pr.StoermerVerlet(form=form), tuple(torch.from_numpy(end)), (0.2, 1.4))
    assert found == pytest.approx(2, abs=0.1)


# --- step by step in numpy -------------------------------------------------------------------------------------------


def midpoint_step(f: Callable[..., Any], t: float, h: float, u: Any) -> Any:
    return u + h * f(t + h / 2, u + h / 2 * f(t, u))


def numpy_step(name: str, t: float, h: float, u: Any) -> Any:
    if name == "Lie":
        u = u + h * stiff(t, u)
        return u + h * rest(t, u)
    if name == "Strang":
        u = midpoint_step(stiff, t, h / 2, u)
        u = midpoint_step(rest, t, h, u)
        return midpoint_step(stiff, t + h / 2, h / 2, u)

    def solved(t: float, h: float, u: Any) -> Any:  # x = u - h RATE (x - cos t)
        return (u + h * RATE * np.cos(t)) / (1 + h * RATE)

    if name == "IMEXEuler":
        return solved(t + h, h, u + h * rest(t, u))
    assert name == "ARS222"
    g = 1 - 1 / math.sqrt(2)
    d = 1 - 1 / (2 * g)
    a = rest(t, u)
    u1 = solved(t + g * h, g * h, u + h * g * a)
    k1, b = stiff(t + g * h, u1), rest(t + g * h, u1)
    u2 = solved(t + h, g * h, u + h * (d * a + (1 - d) * b) + h * (1 - g) * k1)
    return u + h * (d * a + (1 - d) * b) + h * ((1 - g) * k1 + g * stiff(t + h, u2))


@pytest.mark.parametrize("name", ["Lie", "Strang", "IMEXEuler", "ARS222"])
def test_steps_are_those_of_a_loop(name: str) -> None:
    points, u = np.linspace(0.0, 1.0, 8) ** 1.2, START
    for a, b in pairwise(points):
        u = numpy_step(name, a, b - a, u)
    grid = pr.TimeGrid.from_points(torch.from_numpy(points), slices=3)
    ref = pr.serial(SPLIT, torch.from_numpy(START), grid, fine=PARTED[name]())
    torch.testing.assert_close(ref.u, torch.from_numpy(u), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("form", ["velocity", "position"])
def test_verlet_steps_are_those_of_a_loop(form: Any) -> None:
    points = np.linspace(0.0, 2.0, 12) ** 1.1
    q, p = np.array([1.0, -0.3]), np.array([0.2, 0.5])
    u0 = {"x": torch.from_numpy(q), "v": torch.from_numpy(p)}
    for a, b in pairwise(points):
        h = b - a
        if form == "velocity":
            p = p - h / 2 * np.sin(q)
            q = q + h * 0.25 * p
            p = p - h / 2 * np.sin(q)
        else:
            q = q + h / 2 * 0.25 * p
            p = p - h * np.sin(q)
            q = q + h / 2 * 0.25 * p
    grid, method = pr.TimeGrid.from_points(torch.from_numpy(points), slices=4), pr.StoermerVerlet(form=form)
    force = pr.SeparableODE(lambda t, q: -torch.sin(q), 0.25)
    pair = pr.ODE(lambda t, u: {"x": 0.25 * u["v"], "v": -torch.sin(u["x"])})
    for problem in (force, pair):
        end = pr.serial(problem, u0, grid, fine=method).u
        assert list(end) == ["x", "v"]
        torch.testing.assert_close((end["x"], end["v"]), (torch.from_numpy(q), torch.from_numpy(p)), rtol=1e-13, atol=0)
    drifts_first = pr.serial(force, u0, grid, fine=pr.Strang((pr.Euler(), pr.Euler()))).u
    torch.testing.assert_close(drifts_first, pr.serial(force, u0, grid, fine=pr.StoermerVerlet(form="position")).u)


# --- what Verlet conserves -------------------------------------------------------------------------------------------

PENDULUM = pr.SeparableODE(lambda t, q: -torch.sin(q), batching="native")
SWUNG = torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)


@pytest.mark.parametrize("form", ["velocity", "position"])
def test_verlet_backwards_returns_to_the_start(form: Any) -> None:
    method = pr.StoermerVerlet(form=form)
    there = pr.serial(PENDULUM, SWUNG, pr.TimeGrid.uniform(0.0, 20.0, slices=1, steps=100), fine=method).u
    back = pr.serial(PENDULUM, there, pr.TimeGrid.uniform(20.0, 0.0, slices=1, steps=100), fine=method).u
    assert distance(there, SWUNG) > 0.1
    assert distance(back, SWUNG) < 1e-11
    heun = pr.serial(PENDULUM, there, pr.TimeGrid.uniform(20.0, 0.0, slices=1, steps=100), fine=pr.Heun()).u
    assert distance(heun, SWUNG) > 1e-3


def test_the_energy_of_verlet_does_not_drift() -> None:
    grid = pr.TimeGrid.uniform(0.0, 300.0, slices=1500)

    def off(method: pr.Integrator) -> Tensor:
        q, p = pr.serial(PENDULUM, SWUNG, grid, fine=method).us
        energy = p**2 / 2 - torch.cos(q)
        return (energy - energy[0]).abs()

    verlet, heun = off(pr.StoermerVerlet()), off(pr.Heun())
    assert verlet.max() < 0.02
    assert verlet[-500:].max() < 1.05 * verlet[:500].max()
    assert heun[-500:].max() > 2 * heun[:500].max()


@pytest.mark.parametrize(("method", "symplectic"), [(pr.StoermerVerlet(), True), (pr.RK4(), False)], ids=repr)
def test_the_flow_of_verlet_is_symplectic(method: pr.Integrator, symplectic: bool) -> None:
    u0 = tuple(torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([1.0, -0.4], [0.3, 0.2]))
    coupled = pr.SeparableODE(lambda t, q: -torch.sin(q) - q.flip(0) * q.prod(), torch.tensor([1.0, 0.5]))
    end = torch.cat(pr.serial(coupled, u0, pr.TimeGrid.uniform(0.0, 2.0, slices=1, steps=5), fine=method).u)
    rows = [torch.cat(torch.autograd.grad(x, u0, retain_graph=True)) for x in end]
    flow, eye = torch.stack(rows), torch.eye(2, dtype=torch.float64)
    form = torch.cat([torch.cat([0 * eye, eye], 1), torch.cat([-eye, 0 * eye], 1)])
    assert (float((flow.T @ form @ flow - form).abs().max()) < 1e-13) is symplectic


# --- laws ------------------------------------------------------------------------------------------------------------


@given(own.split_runs(), st.data())
@own.examples(8)
def test_after_k_iterations_the_first_k_boundaries_are_the_serial_solution(
    run: tuple[own.SplitCase, pr.Correction], data: st.DataObject
) -> None:
    case, coarse = run
    k = data.draw(st.integers(1, case.grid.num_slices), label="k")
    plan: Any = data.draw(st.sampled_from((pr.Barrier(), pr.Wavefront())), label="schedule")
    options: dict[str, Any] = {"fine": case.fine, "coarse": coarse, "stop": pr.Iterations(k), "schedule": plan}
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    sol = pr.solve(case.problem, case.u0, case.grid, executor=pr.Serial(), **options)
    assert equal(part(sol.us, slice(k + 1)), part(ref.us, slice(k + 1)))
    sol = pr.solve(case.problem, case.u0, case.grid, **options)
    assert distance(part(sol.us, slice(k + 1)), part(ref.us, slice(k + 1))) <= case.rounding


@given(own.split_runs(), st.data())
@own.examples(4)
def test_windows_end_in_the_serial_solution_too(run: tuple[own.SplitCase, pr.Correction], data: st.DataObject) -> None:
    case, coarse = run
    plan = pr.Windowed(data.draw(st.integers(1, case.grid.num_slices), label="width"))
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    options: dict[str, Any] = {"fine": case.fine, "coarse": coarse, "stop": NEVER, "schedule": plan}
    sol = pr.solve(case.problem, case.u0, case.grid, executor=pr.Serial(), **options)
    assert equal(sol.us, ref.us)
    assert sol.stats.rounds <= ref.stats.rounds


BATCHED = torch.tensor([[0.3, -0.2], [0.5, 0.1], [-0.4, 0.9]], dtype=torch.float64)


def each_way(build: Callable[[Any, Callable[[Callable[..., Any]], Callable[..., Any]]], pr.ODE]) -> list[pr.ODE]:
    """The same problem in all batchings; ``build(batching, shape)``, with a function that shapes times."""

    def as_is(f: Callable[..., Any]) -> Callable[..., Any]:
        return f

    def many(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda t, u: f(t.reshape(-1, *[1] * (u.ndim - 1)), u)

    return [build("vmap", as_is), build("loop", as_is), build("native", many), build("fold", many)]


@pytest.mark.parametrize("kind", ["split", "separable"])
@pytest.mark.parametrize("samples", [False, True], ids=["one", "samples"])
def test_batchings_and_samples_agree(kind: str, samples: bool) -> None:
    def build(batching: Any, shape: Any) -> pr.ODE:
        fall, swing = shape(lambda t, u: -u * torch.cos(t)), shape(lambda t, u: torch.sin(u + t))
        if kind == "split":
            return pr.ODE(split=(fall, swing), batching=batching)
        return pr.SeparableODE(fall, swing, batching=batching)

    fine: pr.Integrator = pr.Strang() if kind == "split" else pr.StoermerVerlet()
    u0, grid = BATCHED if kind == "split" else (BATCHED, BATCHED + 1), pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=3)
    runs = [
        pr.solve(problem, u0, grid, fine=fine, coarse=fine, stop=pr.Tolerance(1e-6), samples=samples)
        for problem in each_way(build)
    ]
    for run in runs:
        assert distance(run.us, runs[0].us) < 1e-14
        assert run.stats.rounds == runs[0].stats.rounds


# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "method", "evaluations"),
    [
        (SPLIT, pr.Lie(), 2),
        (SPLIT, pr.Strang(), 6),
        (SPLIT, pr.Strang((pr.RK4(), pr.Euler(2))), 10),
        (SEMILINEAR, pr.Lie(), 1),
        (SEMILINEAR, pr.Strang(), 2),
        (SEMILINEAR, pr.Strang((pr.Euler(), pr.Heun())), 4),
        (SEMILINEAR, pr.IMEXEuler(), 1),
        (SEMILINEAR, pr.ARS222(), 2),
        (SEMILINEAR, pr.ARS443(), 4),
    ],
)
def test_evaluations_are_counted_as_declared(problem: pr.ODE, method: pr.Integrator, evaluations: int) -> None:
    u0, grid = torch.from_numpy(START), pr.TimeGrid.uniform(0.0, 1.0, slices=3, steps=4)
    bound = method.bind(problem, u0, grid)
    assert bound.traits.evaluations == evaluations
    ref = pr.serial(problem, u0, grid, fine=method)
    assert ref.stats.rounds == ref.stats.evaluations == 12 * evaluations


@pytest.mark.parametrize("form", ["velocity", "position"])
def test_rounds_of_verlet_are_those_of_the_formula(form: Any) -> None:
    method, grid = pr.StoermerVerlet(form=form), pr.TimeGrid.uniform(0.0, 2.0, slices=5, steps=4)
    for schedule in (pr.Barrier(), pr.Wavefront()):
        options: dict[str, Any] = {"fine": method, "coarse": method, "schedule": schedule, "stop": pr.Iterations(2)}
        sol = pr.solve(PENDULUM, SWUNG, grid, **options)
        counted = pr.theory.rounds(schedule, 5, 4, 2, fine=method, coarse=method)
        assert sol.stats.rounds == counted


def test_the_first_evaluation_is_shared() -> None:
    u0, grid = torch.from_numpy(START), pr.TimeGrid.uniform(0.0, 1.0, slices=3, steps=4)
    for problem, fine in ((SPLIT, pr.Strang((pr.Heun(), pr.Heun()))), (SEMILINEAR, pr.ARS222())):
        coarse = replaced = pr.Lie((pr.Euler(), pr.Euler())) if problem is SPLIT else pr.IMEXEuler()
        sol = pr.solve(problem, u0, grid, fine=fine, coarse=coarse, schedule=pr.Barrier(), stop=pr.Iterations(1))
        bound = replaced.bind(problem, u0, grid)
        each = fine.bind(problem, u0, grid).traits.evaluations or 0
        assert bound.traits.evaluations is not None
        # A sweep, and fine solves of which each takes its first value from it; the second sweep leaves out slice 0.
        assert sol.stats.fine_evaluations == 3 * (4 * each - 1)
        assert sol.stats.coarse_evaluations == 5 * bound.traits.evaluations


# --- what parts may be -----------------------------------------------------------------------------------------------


def test_exact_flows_solve_a_problem_that_need_not_be_split() -> None:
    turn = pr.Propagator(lambda t0, t1, u: u * torch.exp(1j * (t1 - t0)))
    shrink = pr.Propagator(lambda t0, t1, u: u / torch.sqrt(1 + 2 * (t1 - t0) * u.abs() ** 2))  # u' = -|u|^2 u
    problem = pr.ODE(lambda t, u: 1j * u - u.abs() ** 2 * u)
    u0 = torch.tensor([0.5 + 0.3j, 1.0 - 0.2j], dtype=torch.complex128)
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=5)
    split = pr.serial(problem, u0, grid, fine=pr.Strang((turn, shrink)))
    ref = pr.serial(problem, u0, pr.TimeGrid.uniform(0.0, 1.0, slices=1, steps=400), fine=pr.RK4())
    assert distance(split.u, ref.u) < 1e-9  # these two flows commute, and so splitting them is exact


def test_an_imex_method_is_bounded_where_the_rest_of_it_alone_allows() -> None:
    problem = pr.ODE(split=(lambda t, u: -1e6 * (u - torch.cos(t)), lambda t, u: torch.sin(u)))
    u0, grid = torch.ones(1, dtype=torch.float64), pr.TimeGrid.uniform(0.0, 2.0, slices=3, steps=6)
    for method in (pr.IMEXEuler(), pr.ARS222(), pr.ARS443()):
        ref = pr.serial(problem, u0, grid, fine=method)
        assert ref.status is pr.Status.FINAL
        assert abs(float(ref.u) - math.cos(2.0)) < 1e-3
        assert pr.solve(problem, u0, grid, fine=method, coarse=pr.IMEXEuler()).converged


def test_the_implicit_part_may_be_another_than_the_first() -> None:
    third = lambda t, u: 0.1 * u  # noqa: E731
    u0, grid = torch.from_numpy(START), pr.TimeGrid.uniform(0.0, 1.0, slices=2, steps=3)
    first = pr.ODE(split=(stiff, lambda t, u: rest(t, u) + third(t, u)))
    last = pr.ODE(split=(rest, third, stiff))
    a = pr.serial(first, u0, grid, fine=pr.ARS222())
    b = pr.serial(last, u0, grid, fine=pr.ARS222(implicit_part=2))
    assert distance(a.us, b.us) < 1e-14


@pytest.mark.parametrize("method", [pr.IMEXEuler(), pr.ARS222(), pr.ARS443()], ids=repr)
def test_the_stability_function_is_the_factor_of_a_step(method: pr.Integrator) -> None:
    z, w = torch.tensor([-0.5, 1j, -30.0 + 2j]), torch.tensor([0.3, -0.2, 0.5j])
    one = torch.ones((), dtype=torch.complex128)
    for a, b in zip(z.to(torch.complex128), w.to(torch.complex128), strict=True):
        problem = pr.SemilinearODE(a, lambda t, u, b=b: b * u)
        u = pr.serial(problem, one, pr.TimeGrid.uniform(0.0, 1.0, 1), fine=method).u
        assert abs(complex(pr.theory.stability_function(method)(complex(a), complex(b))) - complex(u)) < 1e-14


def test_a_given_tableau_is_the_named_method() -> None:
    explicit, implicit = pr.ARS222().tables
    u0, grid = torch.from_numpy(START), pr.TimeGrid.uniform(0.0, 1.0, slices=2, steps=3)
    for problem in (SPLIT, SEMILINEAR):
        given_by = pr.serial(problem, u0, grid, fine=pr.IMEXRungeKutta(explicit, (implicit.a, implicit.b)))
        assert equal(given_by.us, pr.serial(problem, u0, grid, fine=pr.ARS222()).us)


def test_other_methods_see_the_sum() -> None:
    u0, grid = torch.from_numpy(START), pr.TimeGrid.uniform(0.0, 1.0, slices=2, steps=3)
    whole = pr.ODE(lambda t, u: stiff(t, u) + rest(t, u))
    both = pr.ODE(lambda t, u: stiff(t, u) + rest(t, u), split=(stiff, rest))
    for fine in (pr.RK4(), pr.ImplicitEuler(), pr.AdamsBashforth(2)):
        ref = pr.serial(whole, u0, grid, fine=fine)
        for problem in (SPLIT, both):
            assert distance(pr.serial(problem, u0, grid, fine=fine).us, ref.us) < 1e-14
    assert pr.solve(SPLIT, u0, grid, fine=pr.RK4(), coarse=pr.Jacobian()).converged
    assert equal(*(pr.serial(problem, u0, grid, fine=pr.ARS222()).us for problem in (SPLIT, both)))


def test_per_sample_data_reaches_every_part() -> None:
    rates = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    u0, grid = BATCHED, pr.TimeGrid.uniform(0.0, 1.0, slices=3, steps=4)
    decay, grow = lambda t, u, r: -r[:, None] * u, lambda t, u, r: torch.sin(r[:, None] * u)
    problem = pr.ODE(split=(decay, grow), per_sample=rates)
    for fine in (pr.Strang(), pr.ARS222()):
        sol = pr.solve(problem, u0, grid, fine=fine, coarse=fine, samples=True, stop=NEVER)
        for i, rate in enumerate(rates):
            alone = pr.ODE(split=(lambda t, u, r=rate: -r * u, lambda t, u, r=rate: torch.sin(r * u)))
            assert distance(sol.us[:, i], pr.serial(alone, u0[i], grid, fine=fine).us) < 1e-14
    moved = pr.SeparableODE(decay, grow, per_sample=rates)
    pair = pr.ODE(lambda t, u, r: (grow(t, u[1], r), decay(t, u[0], r)), per_sample=rates)
    runs = [
        pr.serial(kind, (u0, -u0), grid, fine=pr.StoermerVerlet(), samples=samples).us
        for kind in (moved, pair)
        for samples in (False, True)
    ]
    for us in runs:
        assert distance(us, runs[0]) < 1e-14


def test_split_problems_can_be_pickled() -> None:
    u0, grid = torch.from_numpy(START), pr.TimeGrid.uniform(0.0, 1.0, slices=2, steps=3)
    copy = pickle.loads(pickle.dumps(SPLIT))
    assert equal(pr.serial(copy, u0, grid, fine=pr.Strang()).us, pr.serial(SPLIT, u0, grid, fine=pr.Strang()).us)
    pair = pickle.loads(pickle.dumps(pr.SeparableODE(rest, stiff)))
    assert pair.evaluates_velocity
    assert pickle.loads(pickle.dumps(pr.ODE(rest))).parts == ()


# --- what does not fit -----------------------------------------------------------------------------------------------

ONE = torch.ones(2, dtype=torch.float64)
PAIR = (ONE, ONE)
GRID = pr.TimeGrid.uniform(0.0, 1.0, slices=2)
DAMPED = pr.ODE(lambda t, u: (u[1], -u[0] - 0.1 * u[1]))


@pytest.mark.parametrize(
    ("problem", "u0", "method", "words"),
    [
        (pr.ODE(lambda t, u: -u), ONE, pr.Strang(), "pr.Strang came with an ODE that is not split into parts"),
        (pr.ODE(lambda t, u: -u), ONE, pr.Lie(), "pr.Lie came with an ODE that is not split"),
        (pr.ODE(lambda t, u: -u), ONE, pr.ARS222(), "pr.ARS222 came with an ODE that is not split"),
        (SPLIT, ONE, pr.Strang((pr.Euler(),) * 3), "holds 3 methods for a problem of 2 parts"),
        (SPLIT, ONE, pr.Strang((pr.Euler(), pr.ETDRK2())), r"methods\[1\] is ETDRK2.* for a Semilinear"),
        (SPLIT, ONE, pr.ARS222(implicit_part=2), "implicit_part=2 is no part of a problem of 2"),
        (SEMILINEAR, ONE, pr.ARS222(implicit_part=1), "whose linear part is the implicit one"),
        (pr.ODE(split=(stiff, rest), batching="loop"), ONE, pr.ARS222(), "torch.func takes no derivatives"),
        (pr.ODE(split=(stiff, rest), batching="loop"), ONE, pr.Lie(pr.ImplicitEuler()), "torch.func takes no deriv"),
        (pr.ODE(stiff, split=(stiff, rest)), ONE, pr.Strang(), "f is not the sum of the 2 functions of split"),
        (pr.ODE(lambda t, u: -u), ONE, pr.StoermerVerlet(), r"a tensor of shape \(2,\); expected a pair"),
        (pr.ODE(lambda t, u: u), (ONE, ONE, ONE), pr.StoermerVerlet(), "a tuple; expected a pair"),
        (pr.ODE(lambda t, u: u), (ONE, torch.ones(3)), pr.StoermerVerlet(), r"momentum of shape \(3,\)"),
        (pr.ODE(lambda t, u: u), (ONE, (ONE, ONE)), pr.StoermerVerlet(), "different structure"),
        (DAMPED, PAIR, pr.StoermerVerlet(), "does not separate: the second half .* on the second half"),
        (pr.ODE(lambda t, u: (u[0] * u[1], -u[0])), PAIR, pr.StoermerVerlet(), "the first half"),
        (pr.SeparableODE(lambda t, q: -q), ONE, pr.StoermerVerlet(), "SeparableODE came with a state"),
        (pr.SeparableODE(lambda t, q: -q, torch.ones(3)), PAIR, pr.StoermerVerlet(), r"velocity has shape \(3,\)"),
    ],
)
def test_a_problem_that_does_not_split_is_refused(problem: Any, u0: Any, method: Any, words: str) -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=2)
    with pytest.raises(ValueError, match=words):
        pr.serial(problem, u0, grid, fine=method)
    if not isinstance(problem, pr.SeparableODE) and problem.f is None:  # as coarse propagator just so
        with pytest.raises(ValueError, match=words):
            pr.solve(problem, u0, grid, fine=pr.Euler(), coarse=method)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.ODE(), TypeError, r"f is None; expected a callable f\(t, u\)"),
        (lambda: pr.ODE(3.0, split=(rest, rest)), TypeError, "f is a float; expected a callable"),
        (lambda: pr.ODE(split=rest), TypeError, "split is a function; expected a tuple of functions"),
        (lambda: pr.ODE(split=(rest,)), ValueError, "split holds 1 functions; expected at least 2"),
        (lambda: pr.ODE(split=(rest, 1.0)), TypeError, r"split\[1\] is a float; expected a callable"),
        (lambda: pr.SeparableODE(rest, "m"), TypeError, "velocity is a str"),
        (lambda: pr.SeparableODE(rest, math.inf), ValueError, "velocity is not finite"),
        (lambda: pr.SeparableODE(None), TypeError, "force is None"),
        (lambda: pr.Strang(pr.Euler), TypeError, "methods holds the class Euler"),
        (lambda: pr.Strang((pr.Euler(), None)), TypeError, "methods holds None"),
        (lambda: pr.Strang(pr.AdamsBashforth(2)), ValueError, "which has a history"),
        (lambda: pr.Lie(pr.Strang()), ValueError, "which splits, too"),
        (lambda: pr.StoermerVerlet(form="leapfrog"), ValueError, "form='leapfrog' is unknown"),
        (lambda: pr.StoermerVerlet(steps=0), ValueError, "steps=0"),
        (lambda: pr.ARS222(rtol=2.0), ValueError, "rtol=2.0 is out of range"),
        (lambda: pr.ARS222(implicit_part=-1), ValueError, "implicit_part=-1"),
        (lambda: pr.IMEXRungeKutta(pr.Heun().tableau, None), TypeError, "tableau is None"),
    ],
)
def test_bad_arguments(make: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_tableaus_that_do_not_fit_together() -> None:
    explicit, implicit = pr.ARS222().tables
    with pytest.raises(ValueError, match="explicit_tableau is implicit"):
        pr.IMEXRungeKutta(implicit, implicit)
    with pytest.raises(ValueError, match="couples its stages"):
        pr.IMEXRungeKutta(pr.Heun().tableau, pr.RadauIIA(2).table)
    with pytest.raises(ValueError, match="3 stages and implicit_tableau 1"):
        pr.IMEXRungeKutta(explicit, pr.ImplicitEuler().table)
    with pytest.raises(ValueError, match="expected the same nodes"):
        pr.IMEXRungeKutta(pr.Heun().tableau, pr.SDIRK2().table)


@pytest.mark.parametrize("method", [pr.Lie(), pr.Strang(), pr.ARS222()], ids=repr)
def test_newton_refuses_methods_that_split(method: pr.Integrator) -> None:
    with pytest.raises(ValueError, match="Jacobian came with"):
        pr.solve(SPLIT, ONE, GRID, fine=method, coarse=pr.Jacobian())
    with pytest.raises(ValueError, match="Jacobian came with"):
        pr.solve(PENDULUM, SWUNG, GRID, fine=pr.StoermerVerlet(), coarse=pr.Jacobian())


def test_a_part_that_returns_another_shape_is_named() -> None:
    problem = pr.ODE(split=(stiff, lambda t, u: u.sum()))
    with pytest.raises(ValueError, match=r"split\[1\]\(t, u\) returned shape \(\)"):
        pr.serial(problem, ONE, pr.TimeGrid.uniform(0.0, 1.0, slices=2), fine=pr.RK4())
