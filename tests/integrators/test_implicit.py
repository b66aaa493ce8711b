"""Implicit methods: orders, stability functions, Newton's method on lanes, what it costs and how it fails."""

from __future__ import annotations

from math import factorial, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from strategies import EQUATIONS, distance, equal, examples, grids, make_state, methods, single, size, stiff
from swing import START, swing
from torch import Tensor
from torch.utils import _pytree as pytree
from trees import misses, square

import parareal as pr

EPS = float(torch.finfo(torch.float64).eps)

# Three stages of which the first is explicit and the others are not triangular: Lobatto IIIA.
LOBATTO_IIIA = pr.ButcherTableau(
    a=((0.0, 0.0, 0.0), (5 / 24, 1 / 3, -1 / 24), (1 / 6, 2 / 3, 1 / 6)), b=(1 / 6, 2 / 3, 1 / 6), order=4
)
METHODS: dict[str, Any] = {
    "ImplicitEuler": pr.ImplicitEuler(),
    "Trapezoid": pr.Trapezoid(),
    "ImplicitMidpoint": pr.ImplicitMidpoint(),
    "SDIRK2": pr.SDIRK2(),
    "SDIRK2(1 + 1/sqrt 2)": pr.SDIRK2(1 + sqrt(0.5)),
    "SDIRK2(0.4)": pr.SDIRK2(0.4),
    "RadauIIA(2)": pr.RadauIIA(2),
    "RadauIIA(3)": pr.RadauIIA(3),
    "LobattoIIIC(2)": pr.LobattoIIIC(2),
    "LobattoIIIC(3)": pr.LobattoIIIC(3),
    "GaussLegendre(2)": pr.GaussLegendre(2),
    "GaussLegendre(3)": pr.GaussLegendre(3),
    "LobattoIIIA": pr.ImplicitRungeKutta(LOBATTO_IIIA),
}
ORDERS = dict(zip(METHODS, (1, 2, 2, 2, 2, 1, 3, 5, 2, 4, 4, 6, 4), strict=True))


def real(t0: float = 0.0, t1: float = 1.0, slices: int = 4, steps: int = 1) -> pr.TimeGrid:
    return pr.TimeGrid.uniform(t0, t1, slices, steps)


# --- the methods are what their names say ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.sweep(1)
def test_measured_order(name: str) -> None:
    method = METHODS[name]
    interval = (1.5, -0.5) if list(METHODS).index(name) % 2 else (0.0, 2.0)
    exact = torch.from_numpy(solve_ivp(swing, interval, START.numpy(), "DOP853", rtol=1e-13, atol=1e-14).y[:, -1])
    # Where the asymptote is reached and rounding is not.
    steps = np.array({1: [64, 96, 128], 5: [24, 32, 40], 6: [12, 16, 20]}.get(method.order, [40, 52, 64]))
    errors = [
        float((pr.serial(pr.ODE(swing), START, real(*interval, 4, n // 4), fine=method).u - exact).norm())
        for n in steps
    ]
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert method.order == ORDERS[name]
    assert order == pytest.approx(method.order, abs=0.15)


@pytest.mark.parametrize("name", METHODS)
def test_order_conditions(name: str) -> None:
    table = METHODS[name].table
    A, _ = square(table)
    np.testing.assert_allclose(A.sum(axis=1), table.nodes, atol=4 * EPS * np.abs(A).sum())
    assert max(misses(table, order) for order in range(1, table.order + 1)) <= 16 * EPS
    assert misses(table, table.order + 1) > 1e-5


def pade(j: int, k: int) -> Any:
    """The Padé approximant of exp with a numerator of degree j and a denominator of degree k."""

    def half(z: Any, j: int, k: int) -> Any:
        return sum(
            factorial(j) / factorial(j - i) * factorial(j + k - i) / factorial(j + k) * z**i / factorial(i)
            for i in range(j + 1)
        )

    return lambda z: half(z, j, k) / half(-z, k, j)


def alexander(gamma: float) -> Any:
    return lambda z: (1 + (1 - 2 * gamma) * z) / (1 - gamma * z) ** 2


# Stability functions by theory, not from the tables: Hairer and Wanner II, sections IV.3, IV.5 and IV.6.
STABILITY = {
    "ImplicitEuler": pade(0, 1),
    "Trapezoid": pade(1, 1),
    "ImplicitMidpoint": pade(1, 1),
    "SDIRK2": alexander(1 - sqrt(0.5)),
    "SDIRK2(1 + 1/sqrt 2)": alexander(1 + sqrt(0.5)),
    "SDIRK2(0.4)": alexander(0.4),
    "RadauIIA(2)": pade(1, 2),
    "RadauIIA(3)": pade(2, 3),
    "LobattoIIIC(2)": pade(0, 2),
    "LobattoIIIC(3)": pade(1, 3),
    "GaussLegendre(2)": pade(2, 2),
    "GaussLegendre(3)": pade(3, 3),
    "LobattoIIIA": pade(2, 2),
}
L_STABLE = {name for name in METHODS if not name.startswith(("Trapezoid", "ImplicitMidpoint", "Gauss", "LobattoIIIA"))}


def amplification(method: pr.Integrator, z: Tensor) -> Tensor:
    """R(z): one step of length 1 of u' = z u from 1, for many z at once."""
    problem = pr.ODE(lambda t, u, z: z * u, per_sample=z)
    return pr.serial(problem, torch.ones_like(z), real(slices=1), fine=method, samples=True).u


@pytest.mark.parametrize("name", METHODS)
def test_stability_function(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.complex(*(8 * torch.rand(2, 200, generator=generator, dtype=torch.float64) - 4))
    z = torch.cat([z, torch.tensor([0.0, -1e3, -1e6, 100j], dtype=torch.complex128)])
    R, expected = amplification(METHODS[name], z), STABILITY[name](z.numpy())
    # A solution of three stages by elimination; near a pole R is large and its argument matters. An explicit first
    # stage is as large as z.
    explicit = not any(METHODS[name].table.a[0])
    atol = 64 * EPS * (np.maximum(1.0, np.abs(z.numpy())) if explicit else 1.0)
    assert (np.abs(R.numpy() - expected) <= 1e3 * EPS * np.abs(expected) + atol).all()


@pytest.mark.parametrize("name", [name for name in METHODS if name != "LobattoIIIA"])
def test_a_and_l_stability(name: str) -> None:
    """Damping in the left half plane up to its edge; complete damping of what is infinitely stiff."""
    angle = torch.linspace(np.pi / 2, 3 * np.pi / 2, 33, dtype=torch.float64)
    radius = torch.logspace(-2, 6, 33, dtype=torch.float64)
    z = torch.polar(*torch.broadcast_tensors(radius[:, None], angle)).flatten()
    assert float(amplification(METHODS[name], z).abs().max()) <= 1 + 64 * EPS
    far = float(amplification(METHODS[name], torch.tensor([-1e7], dtype=torch.complex128)).abs())
    assert far <= 1e-5 if name in L_STABLE else far >= 1 - 1e-4


@pytest.mark.nightly
def test_named_methods_are_their_tableaux() -> None:
    for method in METHODS.values():
        generic = pr.ImplicitRungeKutta(method.table, 2)
        ours = [pr.serial(pr.ODE(swing), START, real(), fine=fine).us for fine in (generic, method)]
        twice = pr.serial(pr.ODE(swing), START, real(steps=2), fine=method).us
        assert generic.order == method.order
        assert not torch.equal(ours[0], ours[1])
        assert distance(ours[0], twice) <= 64 * EPS


def test_one_stage_of_gauss_is_the_midpoint_rule() -> None:
    runs = [
        pr.serial(pr.ODE(swing), START, real(), fine=fine).us
        for fine in (pr.GaussLegendre(1), METHODS["ImplicitMidpoint"])
    ]
    assert torch.equal(*runs)


def test_an_implicit_tableau_is_kept_as_full_rows() -> None:
    table = pr.ButcherTableau(a=((0.0,), (0.5, 0.5)), b=(0.5, 0.5))
    assert table.a == ((0.0, 0.0), (0.5, 0.5))
    assert table.c == (0.0, 1.0)
    assert not table.explicit
    assert table.diagonal
    assert not METHODS["RadauIIA(2)"].table.diagonal
    assert pr.ButcherTableau(a=((0.0, 0.0), (0.5, 0.0)), b=(0.0, 1.0)).explicit


# --- stiff problems --------------------------------------------------------------------------------------------------


def robertson(t: Any, u: Any) -> Any:
    x, y, z = u
    stack = torch.stack if isinstance(u, Tensor) else np.stack
    return stack([-0.04 * x + 1e4 * y * z, 0.04 * x - 1e4 * y * z - 3e7 * y**2, 3e7 * y**2])


@pytest.mark.nightly
def test_robertsons_reaction_agrees_with_scipy() -> None:
    u0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-5, 3, 161, dtype=torch.float64)])
    grid = pr.TimeGrid.from_points(edges, 10)
    theirs = solve_ivp(robertson, (0.0, 1e3), u0.numpy(), "Radau", rtol=1e-11, atol=1e-15).y[:, -1]
    sol = pr.solve(pr.ODE(robertson), u0, grid, fine=pr.RadauIIA(3), coarse=pr.ImplicitEuler(), stop=pr.Tolerance(1e-9))
    assert sol.converged
    assert sol.iterations < 10
    np.testing.assert_allclose(sol.u.numpy(), theirs, rtol=1e-7)
    assert float((sol.us.sum(1) - 1).abs().max()) <= 162 * 4 * EPS  # linear invariants are kept


def test_van_der_pol_agrees_with_scipy() -> None:
    mu = 100.0

    def f(t: Any, u: Any) -> Any:
        x, y = u
        return (torch.stack if isinstance(u, Tensor) else np.stack)([y, mu * (1 - x**2) * y - x])

    theirs = solve_ivp(f, (0.0, 50.0), [2.0, 0.0], "Radau", rtol=1e-12, atol=1e-13).y[:, -1]
    u0 = torch.tensor([2.0, 0.0], dtype=torch.float64)
    errors = {
        (fine.order, steps): abs(pr.serial(pr.ODE(f), u0, real(0.0, 50.0, 10, steps), fine=fine).u.numpy() - theirs)[0]
        for fine in (pr.SDIRK2(), pr.RadauIIA(2), pr.RadauIIA(3))
        for steps in (1, 4)
    }
    assert errors[2, 1] / errors[2, 4] == pytest.approx(4**2, rel=0.1)
    assert errors[3, 1] / errors[3, 4] == pytest.approx(4**3, rel=0.1)
    assert errors[5, 4] <= 2e-9


@pytest.mark.nightly
def test_an_implicit_coarse_propagator_where_an_explicit_one_is_unstable() -> None:
    problem = pr.ODE(lambda t, u: -1000.0 * (u - torch.cos(t)))
    u0, grid = torch.zeros(2, dtype=torch.float64), real(0.0, 0.6, 12, 50)
    runs = {
        coarse: pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=coarse, stop=pr.Tolerance(1e-8, 1e-8))
        for coarse in (pr.Euler(), pr.ImplicitEuler(), pr.RadauIIA(2))
    }
    ref = pr.serial(problem, u0, grid, fine=pr.RK4())
    assert runs[pr.Euler()].iterations == 12
    for coarse in (pr.ImplicitEuler(), pr.RadauIIA(2)):
        assert runs[coarse].iterations <= 6
        assert distance(runs[coarse].us, ref.us) <= 1e-7


# --- laws ------------------------------------------------------------------------------------------------------------


def implicit_methods() -> st.SearchStrategy[Any]:
    makers = [
        pr.ImplicitEuler,
        pr.Trapezoid,
        pr.SDIRK2,
        pr.RadauIIA,
        pr.LobattoIIIC,
        lambda steps: pr.SDIRK2(0.4, steps=steps, krylov=True),
        lambda steps: pr.GaussLegendre(2, steps=steps, krylov=True),
    ]
    return st.builds(lambda make, steps: make(steps=steps), st.sampled_from(makers), st.none() | st.integers(1, 2))


@st.composite
def implicit_cases(draw: st.DrawFn) -> tuple[pr.ODE, Any, pr.TimeGrid, Any, float]:
    grid = draw(grids(max_slices=4))
    dtype = draw(st.sampled_from((torch.float32, torch.float64, torch.complex128)))
    u0 = make_state(
        draw(st.sampled_from(("vector", "scalar", "tuple", "dict", "nested"))), dtype, draw(st.integers(0, 99))
    )
    sign = 1.0 if grid.points[-1] > grid.points[0] else -1.0
    equation = draw(st.sampled_from((*EQUATIONS, stiff(sign * 300.0))))
    growth = 1.0 if equation.name.startswith("stiff") else float(np.exp(equation.lipschitz))
    # Roundings in a few dozen operations of each step, enlarged by the equation, by a stiff term's h J and a solve.
    rounding = 1e3 * grid.num_steps * torch.finfo(dtype).eps * growth
    return pr.ODE(single(equation.rows)), u0, grid, draw(implicit_methods()), rounding


@given(
    implicit_cases(), implicit_methods() | methods(), st.sampled_from((pr.Barrier(), pr.Wavefront(), pr.Windowed(1)))
)
def test_finite_termination(case: Any, coarse: pr.Integrator, schedule: pr.Schedule) -> None:
    problem, u0, grid, fine, rounding = case
    ref = pr.serial(problem, u0, grid, fine=fine)
    stop, most = pr.Iterations(grid.num_slices), grid.num_slices
    options: dict[str, Any] = {
        "fine": fine,
        "coarse": coarse,
        "stop": stop,
        "max_iterations": most,
        "schedule": schedule,
    }
    alone = pr.solve(problem, u0, grid, executor=pr.Serial(), **options)
    assert equal(alone.us, ref.us)
    stacked = pr.solve(problem, u0, grid, executor=pr.Batched(max_lanes=3), **options)
    assert distance(stacked.us, ref.us) <= rounding * (1 + size(ref.us))
    assert alone.status is pr.Status.FINAL


@examples(5)
@given(implicit_cases(), st.integers(0, 99))
def test_a_sample_does_not_see_its_neighbours(case: Any, seed: int) -> None:
    problem, u0, grid, fine, rounding = case
    other = pytree.tree_map(lambda x: x * (5.0 + seed), u0)
    both = pytree.tree_map(lambda x, y: torch.stack([x, y, y]), u0, other)
    together = pr.serial(problem, both, grid, fine=fine, samples=True)
    for i, u in enumerate((u0, other)):
        alone = pr.serial(problem, u, grid, fine=fine)
        mine = pytree.tree_map(lambda x, i=i: x[:, i], together.us)
        assert distance(mine, alone.us) <= rounding * (1 + size(alone.us))


# --- lanes -----------------------------------------------------------------------------------------------------------


def quadratic(t: Tensor, u: Tensor) -> Tensor:
    """u' = u^2: implicit Euler from u has a solution for 4 h u <= 1 alone."""
    return u**2


@pytest.mark.parametrize("krylov", [False, True])
def test_a_lane_that_fails_leaves_the_others_alone(krylov: bool) -> None:
    fine = pr.ImplicitEuler(krylov=krylov)
    u0 = torch.tensor([[0.1], [10.0], [0.2], [float("nan")], [float("inf")]], dtype=torch.float64)
    problem, grid = pr.ODE(quadratic), real(slices=2)
    with pytest.raises(pr.SolveError) as caught:
        pr.solve(problem, torch.nan_to_num(u0, 10.0, 10.0), grid, fine=fine, coarse=pr.Euler(), samples=True)
    assert caught.value.solution.status is pr.Status.UNSOLVED
    t0, t1 = torch.zeros(5, dtype=torch.float64), torch.full((5,), 0.5, dtype=torch.float64)
    end = drive(fine.step(problem, t0, t1, u0))
    assert torch.isfinite(end)[:, 0].tolist() == [True, False, True, False, False]
    assert end.isnan()[:, 0].tolist() == [False, True, False, True, True]
    for lane in (0, 2):
        alone = drive(fine.step(problem, t0[:1], t1[:1], u0[lane : lane + 1]))
        assert distance(end[lane], alone[0]) <= 2 * EPS
        exact = (1 - torch.sqrt(1 - 2 * u0[lane])) / 1.0
        assert distance(alone[0], exact) <= 8 * EPS


def drive(stages: Any, spent: list[Any] | None = None) -> Any:
    """A step by hand; ``spent`` collects what each request cost."""
    value = None
    try:
        while True:
            function, *args = stages.send(value)
            value = function(*args)
            if spent is not None:
                spent.append(function.cost(value, len(args[0])) if hasattr(function, "cost") else pr.Cost(len(args[0])))
    except StopIteration as end:
        return end.value


def test_requests_of_equal_methods_join() -> None:
    problem = pr.ODE(quadratic)
    args = torch.zeros(1), torch.ones(1), torch.full((1, 1), 0.1)
    first = [
        next(method.step(problem, *args))[0] for method in (pr.RadauIIA(2), pr.RadauIIA(2, steps=3), pr.RadauIIA(3))
    ]
    assert first[0] == first[1]
    assert hash(first[0]) == hash(first[1])
    assert first[0] != first[2]
    assert first[0] != next(pr.RadauIIA(2).step(pr.ODE(quadratic), *args))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("krylov", [False, True])
@pytest.mark.sweep(4)
def test_batchings_agree_and_dtypes_are_kept(dtype: torch.dtype, krylov: bool) -> None:
    u0 = make_state("matrix", dtype, seed=4)
    problems = {
        "vmap": pr.ODE(lambda t, u: torch.sin(u.flip(-1)) - torch.cos(t).to(u.dtype) * u),
        "native": pr.ODE(
            lambda t, u: torch.sin(u.flip(-1)) - torch.cos(t).to(u.dtype)[:, None, None] * u, batching="native"
        ),
        "fold": pr.ODE(lambda t, u: torch.sin(u.flip(-1)) - torch.cos(t).to(u.dtype)[:, None] * u, batching="fold"),
    }
    runs = {
        name: pr.solve(
            problem, u0, real(), fine=pr.RadauIIA(2, krylov=krylov), coarse=pr.Trapezoid(), stop=pr.Iterations(3)
        )
        for name, problem in problems.items()
    }
    for run in runs.values():
        assert run.us.dtype == dtype
        assert distance(run.us, runs["vmap"].us) <= 100 * torch.finfo(dtype).eps


def test_states_without_axes_in_single_precision() -> None:
    """Of which torch takes derivatives in double precision."""
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=2)
    for krylov in (False, True):
        u = pr.serial(pr.ODE(lambda t, u: -0.5 * u), torch.tensor(1.0), grid, fine=pr.ImplicitEuler(krylov=krylov)).u
        assert u.dtype == torch.float32
        assert float(u) == pytest.approx(1 / 1.25**2, rel=1e-6)


@pytest.mark.parametrize("batching", ["vmap", "native", "fold"])
def test_rows_follow_their_samples_into_every_stage(batching: Any) -> None:
    rates = torch.tensor([1.0, 20.0, 300.0], dtype=torch.float64)

    def f(t: Tensor, u: Tensor, rate: Tensor) -> Tensor:
        return -(rate if batching == "vmap" else rate[..., None]) * u

    u0 = torch.ones(3, 2, dtype=torch.float64)
    if batching == "fold":
        u0, rates = u0[:, None], rates[:, None]
    problem = pr.ODE(f, batching=batching, per_sample=rates)
    sol = pr.solve(problem, u0, real(), fine=pr.RadauIIA(2), coarse=pr.ImplicitEuler(), samples=True)
    R = STABILITY["RadauIIA(2)"](-rates.reshape(3) / 4) ** 4
    assert distance(sol.u.reshape(3, 2), R[:, None].expand(3, 2)) <= 1e-6


# Not holomorphic, and leaves of several dtypes: derivatives are those of real numbers.
def test_complex_functions_need_not_be_holomorphic() -> None:
    u0 = {"z": torch.tensor([1.0 + 0.5j, -0.3j], dtype=torch.complex128), "x": torch.tensor(0.7, dtype=torch.float32)}
    f = lambda t, u: {  # noqa: E731
        "z": -u["z"] * (u["z"] * u["z"].conj()).real + u["z"].conj(),
        "x": u["z"].abs().sum().float() - u["x"],
    }
    spent: list[pr.Cost] = []
    lanes = pytree.tree_map(lambda x: x[None], u0)
    h = torch.tensor([0.5], dtype=torch.float64)
    end = drive(pr.ImplicitEuler().step(pr.ODE(f), 0 * h, h, lanes), spent)
    end = pytree.tree_map(lambda x: x[0], end)
    slope = f(h[0], end)
    assert distance(end["z"], u0["z"] + 0.5 * slope["z"]) <= 16 * EPS
    assert distance(end["x"], u0["x"] + 0.5 * slope["x"]) <= 4 * torch.finfo(torch.float32).eps
    assert {cost.evaluations for cost in spent} == {1 + 5}
    assert len(spent) <= 7  # quadratic convergence; a derivative along the real axis alone takes dozens


# --- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 5])
@pytest.mark.parametrize(
    ("method", "systems", "stages", "explicit"),
    [
        (pr.ImplicitEuler(), 1, 1, 0),
        (pr.Trapezoid(), 1, 1, 1),
        (pr.SDIRK2(), 2, 1, 0),
        (pr.RadauIIA(3), 1, 3, 0),
        (pr.ImplicitRungeKutta(LOBATTO_IIIA), 1, 3, 0),
    ],
)
def test_a_linear_problem_takes_two_iterations(
    method: Any, systems: int, stages: int, explicit: int, lanes: int
) -> None:
    d = 4
    A = torch.randn(d, d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    spent: list[pr.Cost] = []
    t = torch.zeros(lanes, dtype=torch.float64)
    drive(method.step(pr.ODE(lambda t, u: A @ u + torch.cos(t)), t, t + 0.3, torch.ones(lanes, d).double()), spent)
    iterations = [pr.Cost(lanes * stages * (1 + d), 1)] * (2 * systems)
    assert spent == [pr.Cost(lanes, 1)] * explicit + iterations


def test_counts_of_a_run() -> None:
    problem = pr.ODE(lambda t, u: -u)
    run = pr.serial(problem, torch.ones(3, dtype=torch.float64), real(slices=5, steps=2), fine=pr.LobattoIIIC(2))
    assert run.stats.rounds == 10 * 2
    assert run.stats.evaluations == 10 * 2 * 2 * (1 + 3)
    assert pr.LobattoIIIC(2).evaluations is None
    sol = pr.solve(
        problem,
        torch.ones(3, dtype=torch.float64),
        real(slices=4),
        fine=pr.RadauIIA(2),
        coarse=pr.Trapezoid(),
        schedule=pr.Barrier(),
        stop=pr.Iterations(1),
    )
    # 4 coarse steps for the guess and 3 in the sweep, whose first stages none of the fine steps uses.
    assert sol.stats.coarse_evaluations == 7 * (1 + 2 * (1 + 3))
    assert sol.stats.fine_evaluations == 4 * 2 * 2 * (1 + 3)


@pytest.mark.parametrize("lanes", [1, 6])
def test_every_row_that_f_sees_is_counted(lanes: int) -> None:
    """By GMRES, with lanes that take different numbers of iterations: none works for another."""
    rows: list[int] = []

    def f(t: Tensor, u: Tensor) -> Tensor:
        rows.append(u.shape[0])
        return -(torch.arange(6, dtype=u.dtype) ** 3) * u - u**3

    u0 = torch.logspace(-3, 1, 6, dtype=torch.float64)[:lanes, None] * torch.linspace(1, 2, 6, dtype=torch.float64)
    t, problem, spent = torch.zeros(lanes, dtype=torch.float64), pr.ODE(f, batching="native"), list[pr.Cost]()
    fine = pr.RadauIIA(2, krylov=True)
    end = drive(fine.step(problem, t, t + 0.7, u0), spent)
    assert sum(cost.evaluations for cost in spent) == sum(rows)
    assert sum(cost.rounds for cost in spent) <= len(rows)
    alone: list[list[pr.Cost]] = [[] for _ in range(lanes)]
    ends = [drive(fine.step(problem, t[:1], t[:1] + 0.7, u0[i : i + 1]), alone[i]) for i in range(lanes)]
    assert len({len(costs) for costs in alone}) > 1 or lanes == 1
    assert sum(cost.evaluations for costs in alone for cost in costs) == sum(cost.evaluations for cost in spent)
    assert len(spent) == max(map(len, alone))
    assert distance(end, torch.cat(ends)) <= 64 * EPS * size(end)


def test_the_trapezoid_shares_its_first_stage() -> None:
    assert pr.Trapezoid().shares_first_stage
    assert not pr.ImplicitEuler().shares_first_stage
    assert not pr.ImplicitRungeKutta(LOBATTO_IIIA).shares_first_stage
    problem, u0 = pr.ODE(swing), START
    options: dict[str, Any] = {"fine": pr.Heun(), "stop": pr.Iterations(4), "max_iterations": 4}
    sol = pr.solve(problem, u0, real(steps=3), coarse=pr.Trapezoid(), **options)
    assert distance(sol.us, pr.serial(problem, u0, real(steps=3), fine=pr.Heun()).us) <= 64 * EPS
    # 4 fine slices in the first iteration, then 3, 2, 1: each gets its first value from a coarse step.
    assert sol.stats.fine_evaluations == 10 * (3 * 2 - 1)


# --- how it ends -----------------------------------------------------------------------------------------------------


def rootless(t: Tensor, u: Tensor) -> Tensor:
    """Newton's method wanders about for ever: no step of length 1 has a real solution."""
    return u**2 + 1


@pytest.mark.parametrize("krylov", [False, True])
@pytest.mark.parametrize("method", [pr.ImplicitEuler, pr.Trapezoid, pr.RadauIIA])
@pytest.mark.sweep(3)
def test_an_unsolved_fine_step_is_a_status(method: Any, krylov: bool) -> None:
    fine = method(krylov=krylov, max_newton=12)
    u0 = torch.ones(1, dtype=torch.float64)
    for coarse in (pr.ImplicitEuler(), pr.Identity()):
        sol = pr.solve(pr.ODE(rootless), u0, real(0.0, 4.0), fine=fine, coarse=coarse, throw=False)
        assert sol.status is pr.Status.UNSOLVED
        with pytest.raises(pr.SolveError, match="Newton"):
            pr.solve(pr.ODE(rootless), u0, real(0.0, 4.0), fine=fine, coarse=coarse)
    ref = pr.serial(pr.ODE(rootless), u0, real(0.0, 4.0), fine=fine)
    assert ref.status is pr.Status.UNSOLVED
    assert ref.us[1:].isnan().all()


@pytest.mark.nightly
def test_an_unsolved_coarse_step_slows_convergence_only() -> None:
    problem, u0 = pr.ODE(rootless), torch.zeros(2, dtype=torch.float64)
    grid = real(0.0, 1.4, 7, 20)  # u = tan t: short fine steps are fine, coarse ones soon have no solution
    coarse = pr.ImplicitEuler(max_newton=8)
    ref = pr.serial(problem, u0, grid, fine=pr.RadauIIA(2))
    assert pr.serial(problem, u0, grid, fine=pr.ImplicitEuler(steps=1, max_newton=8)).us.isnan().any()
    sol = pr.solve(problem, u0, grid, fine=pr.RadauIIA(2), coarse=coarse, stop=pr.Iterations(7), max_iterations=7)
    assert sol.status is pr.Status.FINAL
    assert distance(sol.us, ref.us) <= 1e3 * EPS * size(ref.us) ** 2
    np.testing.assert_allclose(ref.u.numpy(), np.tan(1.4), rtol=1e-4)


def test_what_has_no_inverse_has_failed() -> None:
    """I - h J is singular at the first iterate, u = 1: for lane 0 alone."""
    u0, h = torch.tensor([[1.0], [0.25]], dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)
    end = drive(pr.ImplicitEuler().step(pr.ODE(quadratic), 0 * h, h, u0))
    assert end[0].isnan().all()
    assert distance(end[1], 1 - torch.sqrt(1 - 2 * u0[1])) <= 8 * EPS


def test_a_looser_tolerance_costs_less() -> None:
    runs = [pr.serial(pr.ODE(swing), START, real(0.0, 2.0), fine=pr.ImplicitEuler(rtol=rtol)) for rtol in (1e-3, None)]
    assert runs[0].stats.rounds < runs[1].stats.rounds
    assert 0 < distance(runs[0].us, runs[1].us) <= 1e-2
    again = pr.serial(pr.ODE(swing), START, real(0.0, 2.0), fine=pr.ImplicitEuler(rtol=1e-30, max_newton=50))
    assert distance(again.us, runs[1].us) <= 16 * EPS  # no more than rounding can be had


@pytest.mark.parametrize("rate", [1e4, 1e8, 1e10])
def test_rounding_does_not_keep_newtons_method_going(rate: float) -> None:
    """A stiff problem that is badly conditioned as well: corrections end at a floor far above the rounding unit."""
    Q = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    B = Q @ torch.diag(-torch.logspace(0, np.log10(rate), 5, dtype=torch.float64)) @ Q.T
    for method in (pr.ImplicitEuler(), pr.RadauIIA(3), pr.Trapezoid()):
        ref = pr.serial(pr.ODE(lambda t, u: B @ u - u**3), torch.ones(5, dtype=torch.float64), real(), fine=method)
        assert ref.status is pr.Status.FINAL
        assert torch.isfinite(ref.us).all()


# --- large states ----------------------------------------------------------------------------------------------------


def heat(t: Tensor, u: Tensor) -> Tensor:
    """u_t = u_xx / 100 + u (1 - u) on the unit interval, fixed ends."""
    padded = torch.cat([u.new_zeros(1), u, u.new_zeros(1)])
    return (padded[2:] - 2 * u + padded[:-2]) * ((len(u) + 1) ** 2 / 100) + u * (1 - u)


@pytest.mark.parametrize(
    ("size_", "method"), [(40, pr.RadauIIA), (40, pr.SDIRK2), (40, pr.Trapezoid), (520, pr.ImplicitEuler)]
)
@pytest.mark.sweep(2)
def test_gmres_and_elimination_agree(size_: int, method: Any) -> None:
    x = torch.linspace(0, 1, size_ + 2, dtype=torch.float64)[1:-1]
    u0, grid = torch.sin(np.pi * x) * (1 + 0.3 * torch.cos(9 * x)), real(0.0, 0.02, 2)
    dense, krylov = (pr.serial(pr.ODE(heat), u0, grid, fine=method(krylov=k)) for k in (False, True))
    assert dense.stats.evaluations != krylov.stats.evaluations
    # The two differ by the residuals of GMRES, which have converged to rounding.
    assert distance(dense.us, krylov.us) <= 1e3 * EPS
    chosen = pr.serial(pr.ODE(heat), u0, grid, fine=method())
    assert equal(chosen.us, (krylov if size_ > 512 else dense).us)


@pytest.mark.parametrize(("h", "rtol"), [(0.2, 1e-8), (0.2, 1e-4), (2.0, 1e-6)])
def test_gmres_goes_on_until_its_own_error_is_small(h: float, rtol: float) -> None:
    """Stiff steps, where what GMRES leaves of a residual is enlarged in the solution."""
    x = torch.linspace(0, 1, 102, dtype=torch.float64)[1:-1]
    u0, grid = torch.sin(np.pi * x) + x**2, real(0.0, h, 1)
    exact = pr.serial(pr.ODE(heat), u0, grid, fine=pr.ImplicitEuler()).u
    ours = pr.serial(pr.ODE(heat), u0, grid, fine=pr.ImplicitEuler(rtol=rtol, krylov=True)).u
    assert distance(ours, exact) <= rtol * size(u0)


@pytest.mark.parametrize(("points", "krylov"), [(100, True), pytest.param(600, None, marks=pytest.mark.nightly)])
def test_parareal_on_a_large_state(points: int, krylov: bool | None) -> None:
    x = torch.linspace(0, 1, points + 2, dtype=torch.float64)[1:-1]
    u0, grid = torch.sin(np.pi * x), real(0.0, 0.1, 4, 2)
    given: dict[str, Any] = {"rtol": 1e-10, "krylov": krylov}
    options: dict[str, Any] = {"fine": pr.SDIRK2(**given), "coarse": pr.ImplicitEuler(**given)}
    ref = pr.serial(pr.ODE(heat), u0, grid, fine=options["fine"])
    sol = pr.solve(pr.ODE(heat), u0, grid, stop=pr.Tolerance(1e-7, 1e-7), **options)
    assert sol.converged
    assert sol.iterations < 4
    assert distance(sol.us, ref.us) <= 1e-6


# --- gradients -------------------------------------------------------------------------------------------------------


def run_with(method: Any, theta: Tensor, u0: Tensor) -> Tensor:
    problem = pr.ODE(lambda t, u: torch.sin(theta * u.flip(0)) - u**3 + torch.cos(t))
    return pr.serial(problem, u0, real(0.0, 0.5, 2), fine=method).us


@pytest.mark.parametrize("name", ["ImplicitEuler", "Trapezoid", "SDIRK2", "RadauIIA(2)", "LobattoIIIA"])
@pytest.mark.sweep(1)
def test_gradients(name: str) -> None:
    theta = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    u0 = torch.tensor([0.7, -0.2, 0.4], dtype=torch.float64, requires_grad=True)
    method = METHODS[name]
    assert torch.autograd.gradcheck(lambda a, b: run_with(method, a, b), (theta, u0))
    assert torch.autograd.gradgradcheck(lambda a, b: run_with(method, a, b), (theta, u0))
    by_elimination = torch.autograd.grad(run_with(method, theta, u0).sum(), (theta, u0))
    krylov = pr.ImplicitRungeKutta(method.table, krylov=True)
    by_gmres = torch.autograd.grad(run_with(krylov, theta, u0).sum(), (theta, u0))
    for a, b in zip(by_elimination, by_gmres, strict=True):
        torch.testing.assert_close(a, b, rtol=100 * sqrt(EPS), atol=0)
    with pytest.raises(ValueError, match="krylov=False"):
        torch.autograd.grad(run_with(krylov, theta, u0).sum(), theta, create_graph=True)


def test_the_gradient_is_that_of_the_implicit_function() -> None:
    """u1 = u0 + h sin(u1): du1/du0 = 1 / (1 - h cos(u1))."""
    u0 = torch.tensor([0.7, 2.5], dtype=torch.float64, requires_grad=True)
    u1 = pr.serial(pr.ODE(lambda t, u: torch.sin(u)), u0, real(0.0, 0.5, 1), fine=pr.ImplicitEuler()).u
    (gradient,) = torch.autograd.grad(u1.sum(), u0)
    assert distance(gradient, (1 / (1 - 0.5 * torch.cos(u1))).detach()) <= 64 * EPS
    with torch.inference_mode():
        plain = pr.serial(pr.ODE(lambda t, u: torch.sin(u)), u0, real(0.0, 0.5, 1), fine=pr.ImplicitEuler()).u
    assert torch.equal(plain, u1.detach())


# --- what is wrong is said -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.ImplicitRungeKutta(pr.RK4.tableau), ValueError, ["explicit", "pr.RungeKutta"]),
        (lambda: pr.ImplicitRungeKutta("radau"), TypeError, ["tableau is a str", "ButcherTableau"]),
        (lambda: pr.ImplicitRungeKutta(([[0.5]], [0.5])), ValueError, ["b sums to 0.5"]),
        (lambda: pr.RadauIIA(4), ValueError, ["stages=4", "2 ... 3"]),
        (lambda: pr.LobattoIIIC(1), ValueError, ["stages=1", "2 ... 3"]),
        (lambda: pr.GaussLegendre(2.0), TypeError, ["stages=2.0", "int"]),
        (lambda: pr.SDIRK2(gamma="a"), TypeError, ["gamma='a'", "float"]),
        (lambda: pr.SDIRK2(gamma=0.0), ValueError, ["gamma=0.0"]),
        (lambda: pr.SDIRK2(gamma=float("nan")), ValueError, ["gamma=nan"]),
        (lambda: pr.ImplicitEuler(steps=0), ValueError, ["steps=0"]),
        (lambda: pr.ImplicitEuler(max_newton=0), ValueError, ["max_newton=0"]),
        (lambda: pr.ImplicitEuler(rtol=0.0), ValueError, ["rtol=0.0", "between 0 and 1"]),
        (lambda: pr.ImplicitEuler(rtol=1.0), ValueError, ["rtol=1.0", "between 0 and 1"]),
        (lambda: pr.ImplicitEuler(rtol="a"), TypeError, ["rtol='a'", "float"]),
        (lambda: pr.Trapezoid(krylov="yes"), TypeError, ["krylov='yes'", "True, False or None"]),
    ],
)
def test_what_is_wrong_with_a_method_is_said(make: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_what_torch_cannot_differentiate_is_refused() -> None:
    u0, calls = torch.ones(3), []
    loop = pr.ODE(lambda t, u: calls.append(t) or -u, batching="loop")
    for options in (
        {"fine": pr.ImplicitEuler(), "coarse": pr.Euler()},
        {"fine": pr.Euler(), "coarse": pr.ImplicitEuler()},
    ):
        with pytest.raises(ValueError, match='ImplicitEuler came with a problem with batching="loop"'):
            pr.solve(loop, u0, real(), **options)
    assert not calls

    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, u: Tensor) -> Tensor:
            return -u

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return -grad

    numpy = pr.ODE(lambda t, u: torch.from_numpy(-u.detach().numpy()), batching="native")
    opaque = pr.ODE(lambda t, u: Opaque.apply(u), batching="native")
    for problem in (numpy, opaque):
        for fine in (pr.ImplicitEuler(), pr.RadauIIA(krylov=True)):
            with pytest.raises(ValueError, match=r"torch\.func\.jvp could not take them.*explicit method"):
                pr.serial(problem, u0, real(), fine=fine)
    # What is wrong with f itself is not put on the derivatives.
    with pytest.raises(RuntimeError, match="size"):
        pr.serial(pr.ODE(lambda t, u: u + torch.ones(2), batching="native"), u0, real(), fine=pr.ImplicitEuler())
