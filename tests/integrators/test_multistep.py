"""Adams-Bashforth methods and the memory that travels with the state.

Witnesses: a plain implementation from the definition, the integral of Lagrange polynomials; SciPy at tight tolerances;
exact rational arithmetic for the weights.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from strategies import distance, equal, part, single
from torch import Tensor

import parareal as pr
from parareal._core.multistep_state import follow, without_history
from parareal.engine import _update
from parareal.integrators._interpolation import node_weights
from parareal.problem._semilinear import linear_weights
from parareal.stopping._increments import Change

EPS = float(torch.finfo(torch.float64).eps)
START = torch.tensor([0.8, -0.3, 0.4], dtype=torch.float64)
NEVER = pr.Tolerance(rtol=0.0, atol=0.0)
ORDERS = (1, 2, 3, 4)


def swing(t: Any, u: Any) -> Any:
    """A nonlinear system that depends on time; arrays or tensors of shape (3,)."""
    x, y, z = u
    stack, sin, cos = (torch.stack, torch.sin, torch.cos) if isinstance(u, Tensor) else (np.stack, np.sin, np.cos)
    return stack([y * cos(t), -sin(x) + 0.3 * z, x * y - 0.5 * z + sin(2 * t)])


def pendulum(t: Tensor, u: Tensor) -> Tensor:
    return torch.stack([u[1], torch.sin(t) - torch.sin(u[0])])


def points(interval: tuple[float, float], n: int, graded: bool) -> Tensor:
    """Even, or with steps that vary smoothly by a factor of 4."""
    x = torch.linspace(0.0, 1.0, n + 1, dtype=torch.float64)
    if graded:
        x = x + 0.6 * torch.sin(2 * torch.pi * x) / (2 * torch.pi)
        x[-1] = 1.0
    return interval[0] + (interval[1] - interval[0]) * x


# --- from the definition ---------------------------------------------------------------------------------------------


def heun(f: Callable[..., Any], t: float, h: float, u: Any) -> Any:
    k = f(t, u)
    return u + h / 2 * (k + f(t + h, u + h * k))


def rk4(f: Callable[..., Any], t: float, h: float, u: Any) -> Any:
    a = f(t, u)
    b = f(t + h / 2, u + h / 2 * a)
    c = f(t + h / 2, u + h / 2 * b)
    d = f(t + h, u + h * c)
    return u + h / 6 * (a + 2 * b + 2 * c + d)


def adams(f: Callable[..., Any], u: Any, times: Any, order: int) -> Any:
    """The integral of the polynomial through the last slopes, after Runge-Kutta steps."""
    out, slopes = [u], []
    for n, (t, end) in enumerate(pairwise(times)):
        slopes.insert(0, f(t, u))
        if n < order - 1:
            u = (heun if order == 2 else rk4)(f, t, end - t, u)
        else:
            nodes = (times[n - np.arange(order)] - t) / (end - t)  # in units of the step
            for j in range(order):
                others = np.delete(nodes, j)
                basis = np.polynomial.Polynomial(np.atleast_1d(np.poly(others))[::-1]) / np.prod(nodes[j] - others)
                u = u + (end - t) * (basis.integ()(1.0) - basis.integ()(0.0)) * slopes[j]
        out.append(u)
    return np.stack(out)


@pytest.mark.parametrize("graded", [False, True], ids=["even", "graded"])
@pytest.mark.parametrize("interval", [(0.0, 2.0), (1.5, -0.5)], ids=["rising", "falling"])
@pytest.mark.parametrize("order", ORDERS)
def test_it_is_the_integral_of_the_polynomial_through_earlier_slopes(
    order: int, interval: tuple[float, float], graded: bool
) -> None:
    times = points(interval, 24, graded)
    expected = adams(swing, START.numpy(), times.numpy(), order)
    sol = pr.serial(pr.ODE(swing), START, pr.TimeGrid.from_points(times, 24), fine=pr.AdamsBashforth(order))
    # A step adds up to four slopes, weighted by numbers whose moduli add up to less than 7, of which each has a few
    # roundings; errors grow by less than exp(2) over an interval of length 2.
    assert distance(sol.us, torch.from_numpy(expected)) <= 8 * 24 * EPS * 8


def test_complex_states_too() -> None:
    def f(t: Any, u: Any) -> Any:
        return 1j * u - 0.2 * u * abs(u) ** 2

    times = points((0.0, 3.0), 30, True)
    expected = adams(f, np.array([1.0 + 0.5j, -0.3j]), times.numpy(), 4)
    u0 = torch.tensor([1.0 + 0.5j, -0.3j], dtype=torch.complex128)
    sol = pr.serial(pr.ODE(f), u0, pr.TimeGrid.from_points(times, 5), fine=pr.AdamsBashforth(4))
    assert distance(sol.u, torch.from_numpy(expected[-1])) <= 8 * 30 * EPS * 8


@pytest.mark.parametrize("order", ORDERS)
def test_float32_differs_by_rounding(order: int) -> None:
    grid = pr.TimeGrid.uniform(0.0, 2.0, 4, 8)
    problem = pr.ODE(lambda t, u: swing(t, u).to(u.dtype))
    narrow = pr.serial(problem, START.float(), grid, fine=pr.AdamsBashforth(order)).u
    wide = pr.serial(problem, START.float().double(), grid, fine=pr.AdamsBashforth(order)).u
    assert narrow.dtype == torch.float32
    assert 0 < distance(narrow.double(), wide) <= 8 * 32 * torch.finfo(torch.float32).eps


# --- order -----------------------------------------------------------------------------------------------------------

STEPS = np.array([64, 80, 96, 128, 160])


def measured(method: pr.Integrator, interval: tuple[float, float], graded: bool, slices: int | None) -> float:
    exact = torch.from_numpy(solve_ivp(swing, interval, START.numpy(), "DOP853", rtol=1e-13, atol=1e-14).y[:, -1])
    errors = []
    for n in STEPS:
        grid = pr.TimeGrid.from_points(points(interval, int(n), graded), slices or int(n))
        errors.append(float((pr.serial(pr.ODE(swing), START, grid, fine=method).u - exact).norm()))
    return -np.polyfit(np.log(STEPS), np.log(errors), 1)[0]


@pytest.mark.parametrize("restart", [False, True], ids=["", "restart"])
@pytest.mark.parametrize("graded", [False, True], ids=["even", "graded"])
@pytest.mark.parametrize("interval", [(0.0, 2.0), (1.5, -0.5)], ids=["rising", "falling"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.sweep(5)
def test_measured_order(order: int, interval: tuple[float, float], graded: bool, restart: bool) -> None:
    method = pr.AdamsBashforth(order, restart=restart)
    assert measured(method, interval, graded, 4) == pytest.approx(method.order, abs=0.2)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.sweep(2)
def test_order_is_kept_where_slices_are_one_step_long(order: int) -> None:
    assert measured(pr.AdamsBashforth(order), (0.0, 2.0), True, None) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(("order", "start"), [(1, pr.Euler()), (2, pr.Heun()), (3, pr.RK4()), (4, pr.RK4())])
def test_restarted_in_every_step_it_is_the_method_that_it_starts_with(order: int, start: pr.Integrator) -> None:
    grid = pr.TimeGrid.from_points(points((0.0, 2.0), 12, True), 12)
    ours = pr.serial(pr.ODE(swing), START, grid, fine=pr.AdamsBashforth(order, restart=True))
    theirs = pr.serial(pr.ODE(swing), START, grid, fine=start)
    assert equal(ours.us, theirs.us) if order > 1 else distance(ours.us, theirs.us) <= 12 * EPS
    assert ours.stats.rounds == theirs.stats.rounds


# --- history belongs to the state ------------------------------------------------------------------------------------


@given(own.cases(with_stiff=False), st.integers(1, 4))
def test_slices_leave_no_trace_in_the_sequential_solution(case: own.Case, order: int) -> None:
    method = pr.AdamsBashforth(order)
    whole = pr.TimeGrid(case.grid.points, (0, case.grid.num_steps))
    cut, uncut = (pr.serial(case.problem, case.u0, grid, fine=method) for grid in (case.grid, whole))
    assert equal(cut.u, uncut.u)
    assert cut.stats.rounds == uncut.stats.rounds


@given(own.cases(with_stiff=False), st.integers(1, 4))
def test_with_restart_each_slice_is_a_run_of_its_own(case: own.Case, order: int) -> None:
    grid, u = case.grid, case.u0
    sol = pr.serial(case.problem, u, grid, fine=pr.AdamsBashforth(order, restart=True))
    for n, (a, b) in enumerate(pairwise(grid.bounds)):
        alone = pr.TimeGrid(grid.points[a : b + 1], (0, b - a))
        u = pr.serial(case.problem, u, alone, fine=pr.AdamsBashforth(order)).u
        assert equal(part(sol.us, n + 1), u)


@given(own.grids(), st.integers(1, 4), st.booleans(), st.none() | st.integers(1, 4))
def test_first_steps_cost_more_and_all_others_one(
    grid: pr.TimeGrid, order: int, restart: bool, steps: int | None
) -> None:
    method = pr.AdamsBashforth(order, restart=restart, steps=steps)
    calls: list[float] = []

    def f(t: Tensor, u: Tensor) -> Tensor:
        calls.append(float(t))
        return -u

    sol = pr.serial(pr.ODE(f, batching="loop"), START, grid, fine=method)
    sizes = grid.steps_per_slice if steps is None else (steps,) * grid.num_slices
    starts = sum(min(order - 1, m) for m in (sizes if restart else [sum(sizes)]))
    expected = sum(sizes) + starts * {1: 0, 2: 1, 3: 3, 4: 3}[order]
    assert sol.stats.evaluations == sol.stats.rounds == len(calls) == expected
    assert method.evaluations == 1


# --- in parallel -----------------------------------------------------------------------------------------------------

SCHEDULES = {"barrier": pr.Barrier(), "wavefront": pr.Wavefront(), "windowed": pr.Windowed(3)}


@pytest.mark.parametrize("name", SCHEDULES)
@given(
    own.cases(with_stiff=False, batch=(2,), max_slices=6, min_slices=3),
    st.builds(pr.AdamsBashforth, st.integers(1, 4), st.booleans()),
    st.sampled_from((pr.Euler(), pr.Secant(pr.Identity()), pr.AdamsBashforth(2), pr.Anderson(pr.Identity()))),
)
def test_every_schedule_ends_at_the_sequential_solution(
    name: str, case: own.Case, method: pr.AdamsBashforth, coarse: Any
) -> None:
    options: dict[str, Any] = {"fine": method, "samples": True, "executor": pr.Serial()}
    ref = pr.serial(case.problem, case.u0, case.grid, **options)
    sol = pr.solve(case.problem, case.u0, case.grid, coarse=coarse, schedule=SCHEDULES[name], stop=NEVER, **options)
    assert sol.converged
    assert equal(sol.u, ref.u)


def iterations(slices: int, steps: int, coarse: Any, restart: bool, order: int = 4, end: float = 8.0) -> int:
    u0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, end, slices=slices, steps=steps // slices)
    fine = pr.AdamsBashforth(order, restart=restart)
    options: dict[str, Any] = {"schedule": pr.Barrier(), "stop": pr.Tolerance(rtol=1e-6, atol=0.0)}
    return pr.solve(pr.ODE(pendulum), u0, grid, fine=fine, coarse=coarse, **options).iterations


@pytest.mark.parametrize(
    ("slices", "coarse", "most"),
    [(8, pr.RK4(), (6, 4)), (40, pr.RK4(), (12, 2)), (160, pr.Secant(pr.Identity()), (63, 22))],
    ids=["20 steps a slice", "4", "1"],
)
def test_a_memory_costs_iterations_and_not_more_than_is_said(slices: int, coarse: Any, most: tuple[int, int]) -> None:
    """The figures of docs/concepts/history.md."""
    carried, restarted = (iterations(slices, 160, coarse, restart) for restart in (False, True))
    assert restarted <= most[1]
    assert restarted < carried <= most[0] < slices


@pytest.mark.parametrize("order", [2, 3, 4])
def test_memory_that_follows_the_state_saves_iterations(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = iterations(160, 160, pr.Secant(pr.Identity()), False, order)
    monkeypatch.setattr(_update, "follow", lambda new, fine, before: pr.Carried(new, fine.memory))
    assert with_it <= 0.9 * iterations(160, 160, pr.Secant(pr.Identity()), False, order)


@pytest.mark.parametrize("restart", [False, True], ids=["", "restart"])
def test_gradients_through_a_converged_run_are_those_of_the_sequential_one(restart: bool) -> None:
    def gradients(run: Callable[..., pr.Solution], **options: Any) -> list[Tensor]:
        rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        u0 = START.clone().requires_grad_(True)
        problem = pr.ODE(lambda t, u: swing(t, u) - rate * u)
        grid = pr.TimeGrid.uniform(0.0, 1.0, 5, 2)
        sol = run(problem, u0, grid, fine=pr.AdamsBashforth(3, restart=restart), **options)
        sol.u.square().sum().backward()
        assert rate.grad is not None
        assert u0.grad is not None
        return [rate.grad, u0.grad]

    serial = gradients(pr.serial)
    parallel = gradients(pr.solve, coarse=pr.RK4(), stop=NEVER)
    assert distance(parallel, serial) <= 64 * 10 * EPS
    # And they are derivatives: of the sequential run by differences, exact to order 2.
    h, ends = 1e-5, []
    for sign in (1, -1):
        problem = pr.ODE(lambda t, u, sign=sign: swing(t, u) - (0.7 + sign * h) * u)
        grid = pr.TimeGrid.uniform(0.0, 1.0, 5, 2)
        ends.append(pr.serial(problem, START, grid, fine=pr.AdamsBashforth(3, restart=restart)).u.square().sum())
    assert float((ends[0] - ends[1]) / (2 * h)) == pytest.approx(float(serial[0]), rel=1e-7)


@given(own.multistep())
def test_methods_are_plain_values(method: pr.Multistep) -> None:
    assert pickle.loads(pickle.dumps(method)) == method
    assert eval(repr(method), vars(pr)) == method
    assert hash(method) == hash(eval(repr(method), vars(pr)))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.AdamsBashforth(0), ValueError, ["order=0", "at least 1"]),
        (lambda: pr.AdamsBashforth(5), ValueError, ["order=5", "expected 1 ... 4"]),
        (lambda: pr.AdamsBashforth(True), TypeError, ["order=True", "bool"]),
        (lambda: pr.AdamsBashforth(2.0), TypeError, ["order=2.0", "float"]),
        (lambda: pr.AdamsBashforth(2, steps=0), ValueError, ["steps=0", "at least 1"]),
        (lambda: pr.AdamsBashforth(2, steps="3"), TypeError, ["steps='3'", "str"]),
    ],
)
def test_what_is_wrong_with_a_method_is_said(make: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


# --- weights ---------------------------------------------------------------------------------------------------------


def lagrange(nodes: list[Fraction]) -> list[Fraction]:
    """The integrals over 0 ... 1 of the Lagrange polynomials, exactly."""
    out = []
    for j, node in enumerate(nodes):
        coefficients = [Fraction(1)]
        for other in nodes[:j] + nodes[j + 1 :]:
            shifted = [Fraction(0), *coefficients]
            coefficients = [
                (s - other * c) / (node - other) for s, c in zip(shifted, [*coefficients, Fraction(0)], strict=True)
            ]
        out.append(sum((c / (i + 1) for i, c in enumerate(coefficients)), Fraction(0)))
    return out


@given(
    st.lists(st.lists(st.integers(-32, 16).filter(bool), min_size=3, max_size=3, unique=True), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
    st.integers(1, 3),
)
def test_weights_are_those_of_the_polynomial_through_the_nodes(rows: list[list[int]], known: list[int], m: int) -> None:
    """Nodes are multiples of 1/8, which floats hold exactly, in any order; each lane has as many as it knows."""
    lanes = len(rows)
    count = torch.tensor([min(k, m) for k in known[:lanes]])
    nodes = [torch.tensor([row[j] / 8 for row in rows], dtype=torch.float64) for j in range(m)]
    h = torch.linspace(0.5, 2.0, lanes, dtype=torch.float64)
    weights = linear_weights([torch.zeros(())], torch.zeros_like(h), h, m + 1)
    got = torch.stack([column[0] for column in node_weights(weights, nodes, count)])
    assert got.shape == (m + 1, lanes)
    for lane, row in enumerate(rows):
        k = int(count[lane])
        exact = lagrange([Fraction(0), *(Fraction(x, 8) for x in row[:k])])
        expected = torch.tensor([float(w) for w in exact], dtype=torch.float64) * h[lane]
        # Divided differences: every division by a distance between nodes, 1/8 at the least, may enlarge by 8.
        assert float((got[: k + 1, lane] - expected).abs().max()) <= 16 * 8.0**k * 6 * EPS
        assert not got[k + 1 :, lane].any()


def test_weights_of_factors_with_the_shape_of_a_state_are_those_of_its_elements() -> None:
    rate = torch.tensor([[-1.0, 0.0, 2.0], [0.3, -5.0, 1e-9]], dtype=torch.float64)
    t0, t1 = torch.tensor([0.0, 0.5], dtype=torch.float64), torch.tensor([0.2, 0.9], dtype=torch.float64)
    nodes = [torch.tensor([-1.0, -0.7], dtype=torch.float64), torch.tensor([-2.5, -1.3], dtype=torch.float64)]
    for known in (torch.tensor([2, 2]), torch.tensor([1, 2])):
        together = node_weights(linear_weights([rate], t0, t1, 3), nodes, known)
        for index in np.ndindex(2, 3):
            alone = node_weights(linear_weights([rate[index]], t0, t1, 3), nodes, known)
            for a, b in zip(together, alone, strict=True):
                assert torch.equal(a[0][(slice(None), *index)], b[0])


# --- what the memory of a corrected state becomes --------------------------------------------------------------------


def carried(seed: int, lanes: int = 3, dtype: torch.dtype = torch.float64, clock: float = 1.0) -> pr.Carried:
    make = [own.make_state("nested", dtype, seed + i, (lanes,)) for i in range(4)]
    return pr.Carried(
        make[0], pr.Memory((make[1], make[2]), (make[3],), torch.full((lanes, 5), clock, dtype=torch.float64))
    )


def along(a: Any, b: Any, share: float) -> Any:
    return torch.utils._pytree.tree_map(lambda x, y: x + share * (x - y), a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.25, -0.5, 1.0, 3.0, -7.0])
def test_memory_goes_as_far_along_as_the_state(share: float, dtype: torch.dtype) -> None:
    fine, before = carried(0, dtype=dtype), carried(10, dtype=dtype)
    new = along(fine.u, before.u, share)
    result = follow(new, fine, before)
    assert equal(result.u, new)
    assert torch.equal(result.memory.clock, fine.memory.clock)
    for value, now, old in zip(result.memory.values, fine.memory.values, before.memory.values, strict=True):
        assert distance(value, along(now, old, max(-1.0, min(1.0, share)))) <= 32 * EPS
    moved = torch.utils._pytree.tree_map(lambda s, a, b: s + (a - b), fine.memory.states[0], new, fine.u)
    assert distance(result.memory.states[0], moved) <= 8 * EPS


@given(st.integers(0, 50))
def test_memory_stays_where_nothing_is_seen_of_it(seed: int) -> None:
    fine, before = carried(seed), carried(seed + 10)
    same, other_clock = fine, before._replace(memory=before.memory._replace(clock=before.memory.clock + 1))
    lost = before._replace(
        u=own.on_leaves(lambda x: x * float("nan"), before.u),
        memory=before.memory._replace(values=own.on_leaves(lambda x: x / 0, before.memory.values)),
    )
    for unknown in (same, other_clock, lost):
        assert equal(follow(along(fine.u, before.u, 0.5), fine, unknown).memory.values, fine.memory.values)
    assert equal(follow(fine.u, fine, before), fine)  # no correction, no change


def test_lanes_do_not_see_each_other() -> None:
    fine, before = carried(0), carried(10)
    new = along(fine.u, before.u, 0.3)
    together = follow(new, fine, before)
    for i in range(3):
        lane = slice(i, i + 1)
        assert equal(follow(part(new, lane), part(fine, lane), part(before, lane)), part(together, lane))


def test_what_has_settled_has_settled_with_its_memory() -> None:
    """An edge that stands still counts as moved by what its memory moves by."""
    old = carried(0)
    for part_of in ("values", "states"):
        moved = own.on_leaves(lambda x: x + 0.25, getattr(old.memory, part_of))
        new = old._replace(memory=old.memory._replace(**{part_of: moved}))
        for kind in ("rms", "max"):
            change = Change(new, old, new)
            for what in ("increment", "defect"):
                assert change.norm(what, kind).tolist() == pytest.approx([0.25] * 3, rel=16 * EPS)
            assert torch.equal(change.norm("size", kind), Change(old.u, old.u, old.u).norm("size", kind))


@pytest.mark.parametrize(
    "method",
    [pr.AdamsBashforth(4), pr.DEIS(3), pr.DPMSolver(3), pr.DPMSolverPP(2, "multistep"), pr.UniPC(3)],
    ids=repr,
)
def test_the_shape_of_a_memory_never_changes(method: pr.Multistep) -> None:
    """One ring holds it, whichever step it was made in; `without_history` takes it off again."""
    problem = pr.SemilinearODE(-1.0, single(own.TIME_DEPENDENT.rows))
    u = own.make_state("nested", torch.float64, 0, (2,))
    state = pr.Carried(u, method.begin(u))
    shapes = [(x.shape, x.dtype) for x in torch.utils._pytree.tree_leaves(state)]
    number, total = np.array([0, 0]), np.array([7, 7])
    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    for step in range(7):
        variant = int(method.variants(number + step, total)[0])
        stages = method.step(problem, t + 0.1 * step, t + 0.1 * (step + 1), state, variant)
        request = next(stages)
        while True:
            try:
                request = stages.send(request[0](*request[1:]))
            except StopIteration as end:
                state = end.value
                break
        assert [(x.shape, x.dtype) for x in torch.utils._pytree.tree_leaves(state)] == shapes
        assert equal(without_history(state), state.u)
        assert state.memory.clock[:, 0].tolist() == [state.memory.clock[0, 0]] * 2
        assert not bool(state.memory.clock.isnan().any())
    assert without_history(u) is u


# --- the step of order 1 ---------------------------------------------------------------------------------------------


def one_step(method: Any, problem: Any, t0: Tensor, t1: Tensor, u: Tensor, value: Tensor) -> Any:
    """The state after a step whose evaluation gives ``value``, from an empty history where it has one."""
    stages = method.step(problem, t0, t1, pr.Carried(u, method.begin(u)) if method.traits.multistep else u)
    assert next(stages)[2] is u
    with pytest.raises(StopIteration) as end:
        stages.send(value)
    return end.value.value


@pytest.mark.parametrize(
    ("method", "first"),
    [
        (pr.AdamsBashforth(3), pr.Euler()),
        (pr.DEIS(3), pr.ExponentialEuler()),
        (pr.DPMSolver(2, "multistep"), pr.ExponentialEuler()),
        (pr.DPMSolverPP(3, "multistep"), pr.ExponentialEuler()),
    ],
    ids=str,
)
@given(st.floats(-2.0, 2.0), st.floats(0.01, 1.0), st.booleans(), st.integers(0, 99))
def test_the_step_of_order_1_is_that_of_another_method(
    method: Any, first: Any, linear: float, h: float, falls: bool, seed: int
) -> None:
    """Its weights, of the state and of the newest value in the history, against a method without a history."""
    problem = pr.SemilinearODE(linear, lambda t, u: u) if isinstance(first, pr.ExponentialEuler) else pr.ODE(swing)
    t0 = torch.linspace(0.0, 2.0, 4, dtype=torch.float64)
    t1 = t0 - h if falls else t0 + h
    u, value = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    keep, scale = (part[:, None] for part in method.first_order(problem, t0, t1))
    variant = method.variants(np.array([9]), np.array([20]))[0]  # not one of the steps that fill the history
    stages = method.step(problem, t0, t1, pr.Carried(u, method.begin(u)), int(variant))
    next(stages)
    with pytest.raises(StopIteration) as end:
        stages.send(value)
    newest = end.value.value.memory.values[0]
    assert torch.allclose(keep * u + scale * newest, one_step(first, problem, t0, t1, u, value), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("order", "far"), [(2, [2]), (3, [2, 3]), (4, [2, 3, 4])])
def test_after_a_short_step_the_step_of_order_1_says_little(order: int, far: list[int]) -> None:
    """Earlier values are extrapolated far then, as long as the short step is among them."""
    edges = torch.tensor([0.0, 1.0, 1.5, 3.0, 4.5, 6.0, 7.5, 9.0], dtype=torch.float64)
    weights = pr.AdamsBashforth(order).first_order(pr.ODE(swing), edges[:-1], edges[1:])
    assert weights is not None
    assert torch.isnan(weights[0]).nonzero()[:, 0].tolist() == far


def test_methods_whose_step_of_order_1_is_not_known() -> None:
    t0, t1 = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    assert pr.AdamsBashforth(1).first_order(pr.ODE(swing), t0, t1) is None
    assert pr.DPMSolver(2).first_order(pr.SemilinearODE(-1.0, lambda t, u: u), t0, t1) is None
    modes = pr.SemilinearODE(torch.tensor([-1.0, -2.0, -3.0]), lambda t, u: u)
    assert pr.DEIS(2).first_order(modes, t0, t1) is None  # a weight for each element is no number


@pytest.mark.parametrize("weights", [1.0, (torch.ones(4),), (torch.ones(3), torch.ones(4)), (1.0, 1.0)])
def test_weights_that_are_no_pair_of_tensors_are_refused(weights: Any) -> None:
    class Own(pr.AdamsBashforth):
        def first_order(self, problem: Any, t0: Tensor, t1: Tensor) -> Any:
            return weights

    grid = pr.TimeGrid.uniform(0.0, 1.0, 4)
    with pytest.raises(TypeError, match=r"first_order of .*Own.* returned .*; expected .* two tensors of shape \(4,\)"):
        pr.solve(pr.ODE(swing), START, grid, fine=Own(2), coarse=pr.Secant(pr.Identity()), schedule=pr.Windowed(2))
