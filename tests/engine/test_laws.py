"""What must hold for every problem, state, grid, method and correction, whatever the numbers are.

The sequential solution is `parareal.serial`; where more than that is claimed, the witness is `reference.textbook`, an
implementation in plain loops. "Bit for bit" is meant literally and holds for the serial executor; elsewhere the
tolerance is what rounding can come to in the dtype (`strategies.Case.rounding`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, pairwise
from math import comb, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from reference import textbook
from strategies import Case, distance, equal, on_leaves, part
from torch import Tensor
from torch.utils import _pytree as pytree

import parareal as pr

PUBLISHED = json.loads((Path(textbook.__file__).parent / "published.json").read_text())
OTHER = {case["name"]: case for case in PUBLISHED["other"]}
NEVER = pr.Tolerance(rtol=0.0, atol=0.0)


def solve(case: Case, coarse: pr.Integrator | pr.Correction, **options: Any) -> pr.Solution:
    options = {"executor": pr.Serial(), "schedule": pr.Barrier(), **options}
    return pr.solve(case.problem, case.u0, case.grid, fine=case.fine, coarse=coarse, **options)


def reference(case: Case) -> pr.Solution:
    return pr.serial(case.problem, case.u0, case.grid, fine=case.fine)


def all_finite(tree: Any) -> bool:
    return all(bool(torch.isfinite(leaf).all()) for leaf in pytree.tree_leaves(tree))


# --- finite termination ----------------------------------------------------------------------------------------------


def nothing_finite(value: float) -> Callable[[Tensor, Tensor, Any], Any]:
    return lambda t0, t1, u: on_leaves(lambda x: torch.full_like(x, value), u)


def huge(t0: Tensor, t1: Tensor, u: Any) -> Any:
    return on_leaves(lambda x: torch.full_like(x, 0.5 * torch.finfo(x.dtype).max), u)


def noise() -> Callable[[Tensor, Tensor, Any], Any]:
    generator = torch.Generator().manual_seed(0)

    def fn(t0: Tensor, t1: Tensor, u: Any) -> Any:
        return on_leaves(lambda x: torch.randn(x.shape, dtype=x.dtype, generator=generator) * 10, u)

    return fn


def nan_now_and_then() -> Callable[[Tensor, Tensor, Any], Any]:
    generator = torch.Generator().manual_seed(1)

    def spoil(x: Tensor) -> Tensor:
        return torch.where(torch.rand(x.shape, generator=generator) < 0.3, torch.full_like(x, float("nan")), x)

    return lambda t0, t1, u: on_leaves(spoil, u)


HARMFUL = {
    "nan": lambda: nothing_finite(float("nan")),
    "inf": lambda: nothing_finite(float("inf")),
    "huge": lambda: huge,
    "noise": noise,
    "nan_now_and_then": nan_now_and_then,
}


@given(own.cases(), own.corrections(), st.data())
def test_after_k_iterations_the_first_k_edges_are_the_serial_solution(
    case: Case, coarse: pr.Correction, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, case.grid.num_slices), label="k")
    sol, ref = solve(case, coarse, stop=pr.Iterations(k)), reference(case)
    assert sol.iterations == k
    assert equal(part(sol.us, slice(k + 1)), part(ref.us, slice(k + 1)))
    assert [report.frontier for report in sol.history] == list(range(1, k + 1))
    assert sol.status is (pr.Status.FINAL if k == case.grid.num_slices else pr.Status.ITERATIONS)


@given(own.cases(), own.corrections(), st.data())
def test_batched_lanes_are_the_serial_solution_to_rounding(
    case: Case, coarse: pr.Correction, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, case.grid.num_slices), label="k")
    executor = pr.Batched(data.draw(st.none() | st.integers(1, 5), label="max_lanes"))
    sol, ref = solve(case, coarse, stop=pr.Iterations(k), executor=executor), reference(case)
    assert distance(part(sol.us, slice(k + 1)), part(ref.us, slice(k + 1))) <= case.rounding


@given(own.cases(), own.corrections())
def test_no_run_takes_more_iterations_than_slices_however_small_the_tolerance(
    case: Case, coarse: pr.Correction
) -> None:
    sol = solve(case, coarse, stop=NEVER)
    assert sol.iterations <= case.grid.num_slices
    assert sol.converged
    # An increment of exactly zero everywhere means that the iterates are a fixed point, which is the serial solution.
    assert equal(sol.us, reference(case).us)


@pytest.mark.parametrize("harm", HARMFUL)
@given(own.cases(), st.data())
def test_a_harmful_coarse_propagator_breaks_nothing(harm: str, case: Case, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, case.grid.num_slices), label="k")
    coarse = pr.Propagator(HARMFUL[harm]())
    sol, ref = solve(case, coarse, stop=pr.Iterations(k)), reference(case)
    assert equal(part(sol.us, slice(k + 1)), part(ref.us, slice(k + 1)))
    assert all_finite(sol.us)
    whole = solve(case, pr.Propagator(HARMFUL[harm]()), stop=NEVER)
    assert whole.converged
    assert equal(whole.us, ref.us)


@given(own.cases(one_step=True), st.integers(1, 3))
def test_a_coarse_propagator_as_good_as_the_fine_one_converges_in_one_iteration(case: Case, steps: int) -> None:
    method = type(case.fine)
    fine = pr.RungeKutta(case.fine.tableau, steps) if method is pr.RungeKutta else method(steps)
    sol = pr.solve(case.problem, case.u0, case.grid, fine=fine, coarse=fine, stop=NEVER, executor=pr.Serial())
    assert sol.iterations == 1
    assert sol.converged
    assert not sol.history[0].increments.any()
    assert equal(sol.us, pr.serial(case.problem, case.u0, case.grid, fine=fine).us)


# --- every iterate, not only the final ones --------------------------------------------------------------------------

STEPS = {pr.Euler: textbook.euler, pr.Midpoint: textbook.midpoint, pr.Heun: textbook.heun, pr.RK4: textbook.rk4}


def plain(case: Case, method: pr.Integrator, coarse: bool) -> Callable[[int, Any], Any]:
    """A propagator over slice n in numpy."""
    f, step = case.problem.f, STEPS[type(method)]
    edges, grid = case.grid.edges.numpy(), case.grid

    def rhs(t: float, u: Any) -> Any:
        return f(torch.tensor(t, dtype=torch.float64), torch.as_tensor(u)).numpy()

    def propagate(n: int, u: Any) -> Any:
        count = method.steps or (1 if coarse else None)
        if count is None:
            points = grid.points.numpy()[grid.bounds[n] : grid.bounds[n + 1] + 1]
        else:
            points = np.linspace(edges[n], edges[n + 1], count + 1)
        for a, b in pairwise(points):
            u = step(rhs, a, b - a, u)
        return u

    return propagate


def iterates(case: Case, coarse: pr.Correction) -> Any:
    N = case.grid.num_slices
    fine = plain(case, case.fine, coarse=False)
    rough = {pr.Identity: lambda n, u: u, pr.Zero: None}.get(type(coarse), False)
    if rough is False:
        rough = plain(case, coarse.propagator, coarse=True)
    return textbook.parareal(lambda us: np.stack([fine(n, us[n]) for n in range(N)]), rough, case.u0.numpy(), N, N)


@st.composite
def plain_cases(draw: st.DrawFn) -> tuple[Case, pr.Correction]:
    """Cases that the textbook implementation can follow: one tensor, a method it knows, nothing that overflows."""
    case = draw(own.cases(with_stiff=False, dtypes=(torch.float64, torch.complex128), one_step=True))
    coarse = draw(own.classical())
    assume(isinstance(case.u0, Tensor) and type(case.fine) in STEPS)
    assume(coarse.propagator is None or type(coarse.propagator) in STEPS)
    return case, coarse


def iterate_rounding(case: Case, k: int) -> float:
    """Rounding of an iterate: each iteration adds up three propagated values, so errors may triple each time."""
    return case.rounding * 3.0**k


@given(plain_cases(), st.data())
def test_every_iterate_is_the_textbook_one(case_coarse: tuple[Case, pr.Correction], data: st.DataObject) -> None:
    case, coarse = case_coarse
    N = case.grid.num_slices
    k = data.draw(st.integers(1, N), label="k")
    U = iterates(case, coarse)
    sol = solve(
        case,
        coarse,
        stop=pr.Tolerance(norm="max", rtol=0.0, atol=0.0) & pr.Iterations(N),
        max_iterations=k,
        throw=False,
    )
    if int(sol.iterations) < k:  # an exact fixed point ended it: later iterates are the same
        assert not sol.history[-1].increments.any()
    assert distance(sol.us, torch.as_tensor(U[k])) <= iterate_rounding(case, k)
    moved = np.abs(np.diff(U, axis=0)).reshape(N, N + 1, -1).max(axis=2)
    for report in sol.history:
        j = report.iteration
        live = np.arange(N) >= j - 1  # slices behind the frontier are not computed any more
        expected = torch.as_tensor(np.where(live, moved[j - 1, 1:], 0.0))
        assert float((report.increments - expected).abs().max()) <= 2 * iterate_rounding(case, j)


@given(own.cases(with_stiff=False), own.corrections(), st.data())
def test_executors_agree_on_every_iterate(case: Case, coarse: pr.Correction, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, case.grid.num_slices), label="k")
    chunk = data.draw(st.integers(1, 6), label="max_lanes")
    runs = [
        solve(case, coarse, stop=pr.Iterations(k), executor=executor)
        for executor in (pr.Serial(), pr.Batched(), pr.Batched(max_lanes=chunk), None)
    ]
    for run in runs[1:]:
        assert distance(run.us, runs[0].us) <= iterate_rounding(case, k)
        for name in ("rounds", "evaluations", "fine_evaluations", "coarse_evaluations", "max_lanes"):
            assert getattr(run.stats, name) == getattr(runs[0].stats, name), name
    assert runs[0].stats.calls == runs[0].stats.evaluations
    assert runs[1].stats.calls == runs[1].stats.rounds
    assert runs[1].stats.calls <= runs[2].stats.calls <= runs[0].stats.calls


@given(own.cases(with_stiff=False))
def test_all_corrections_end_at_the_same_solution(case: Case) -> None:
    ends = [
        solve(case, coarse, stop=NEVER, executor=pr.Batched()).us
        for coarse in (pr.Euler(), pr.Coarse(pr.RK4(2)), pr.Coarse(pr.Propagator(own.decay)), pr.Identity(), pr.Zero())
    ]
    # A fixed point to the last bit of one correction is one of the other only to rounding.
    bound = iterate_rounding(case, case.grid.num_slices)
    assert max(distance(end, ends[0]) for end in ends) <= bound


@given(own.cases(), own.corrections(), st.data())
def test_time_reversal(case: Case, coarse: pr.Correction, data: st.DataObject) -> None:
    """Solving f on a grid is solving -f(-t) on its mirror image, bit for bit: negation does not round."""
    k = data.draw(st.integers(1, case.grid.num_slices), label="k")
    if isinstance(coarse.propagator, pr.Propagator):
        coarse = pr.Coarse(pr.Euler())
    f, grid = case.problem.f, case.grid
    mirrored = pr.ODE(lambda t, u: on_leaves(torch.neg, f(-t, u)))
    options: dict[str, Any] = {"fine": case.fine, "coarse": coarse, "stop": pr.Iterations(k), "executor": pr.Serial()}
    there = pr.solve(case.problem, case.u0, grid, **options)
    back = pr.solve(mirrored, case.u0, pr.TimeGrid(-grid.points, grid.bounds), **options)
    assert equal(there.us, back.us)
    assert torch.equal(there.ts, -back.ts)


# --- samples ---------------------------------------------------------------------------------------------------------


@given(own.cases(batch=(3,)), own.corrections(), st.data())
def test_a_sample_does_not_depend_on_its_neighbours(case: Case, coarse: pr.Correction, data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from(("increment", "defect")), label="rule")
    freeze = data.draw(st.booleans(), label="freeze")
    tolerance = data.draw(st.sampled_from((1e-1, 1e-2, 1e-3)), label="tolerance")
    stop = pr.Tolerance(rtol=tolerance, atol=tolerance, rule=rule, freeze=freeze)
    # Samples of very different sizes, so that they take different numbers of iterations.
    u0 = on_leaves(lambda x: x * torch.tensor([1.0, 0.05, 0.3], dtype=x.dtype).reshape(3, *[1] * (x.ndim - 1)), case.u0)
    options: dict[str, Any] = {"fine": case.fine, "coarse": coarse, "stop": stop, "samples": True}
    together = pr.solve(case.problem, u0, case.grid, executor=pr.Serial(), **options)
    evaluations = 0
    for i in range(3):
        alone = pr.solve(case.problem, part(u0, slice(i, i + 1)), case.grid, executor=pr.Serial(), **options)
        assert int(alone.iterations[0]) == int(together.iterations[i])
        assert alone.sample_status == (together.sample_status[i],)
        assert equal(alone.us, part(together.us, (slice(None), slice(i, i + 1))))
        for report in alone.history:  # norms add up at most 10 squares, in an order of torch's choice
            there = together.history[report.iteration - 1].increments[i]
            rounding = 16 * torch.finfo(torch.float64).eps
            torch.testing.assert_close(report.increments[0], there, rtol=rounding, atol=0.0, equal_nan=True)
        evaluations += alone.stats.evaluations
    assert together.stats.evaluations == evaluations


@given(own.cases(batch=(3,)), own.corrections(), st.data())
def test_samples_are_the_serial_solution_of_each(case: Case, coarse: pr.Correction, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, case.grid.num_slices), label="k")
    sol = solve(case, coarse, stop=pr.Iterations(k), samples=True, executor=pr.Batched())
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine, samples=True)
    assert distance(part(sol.us, slice(k + 1)), part(ref.us, slice(k + 1))) <= case.rounding
    for i in range(3):
        alone = pr.serial(case.problem, part(case.u0, slice(i, i + 1)), case.grid, fine=case.fine)
        assert distance(part(ref.us, (slice(None), slice(i, i + 1))), alone.us) <= case.rounding


# --- costs -----------------------------------------------------------------------------------------------------------


def costs(grid: pr.TimeGrid, fine: pr.Integrator, coarse: pr.Correction, k: int) -> dict[str, int]:
    """Rounds and evaluations of k iterations in the classical order, added up iteration by iteration.

    An explicit method's first stage is the same for both propagators and counts for the coarse one.
    """
    N = grid.num_slices
    steps = grid.steps_per_slice if fine.steps is None else (fine.steps,) * N
    method = coarse.propagator
    sweep = 0 if method is None else method.evaluations * (method.steps or 1)  # rounds for one slice
    shared = int(method is not None and not isinstance(method, pr.Propagator) and not isinstance(fine, pr.Propagator))
    rounds, fines, coarses = N * sweep, 0, N * sweep
    for j in range(1, k + 1):
        work = [fine.evaluations * m - shared for m in steps[j - 1 :]]  # slices before the frontier take no part
        rounds += max(work) + (N - j) * sweep
        fines += sum(work)
        coarses += (N - j) * sweep
    return {"rounds": rounds, "fine_evaluations": fines, "coarse_evaluations": coarses, "evaluations": fines + coarses}


@given(own.grids(), own.methods(3), own.corrections(one_step=True), st.data())
def test_rounds_and_evaluations_are_as_counted(
    grid: pr.TimeGrid, fine: pr.Integrator, coarse: pr.Correction, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, grid.num_slices), label="k")
    calls = 0

    def f(t: Tensor, u: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.cos(3 * t) * u

    def black_box(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return 0.9 * u

    if isinstance(coarse.propagator, pr.Propagator):
        coarse = pr.Coarse(pr.Propagator(black_box))
    u0 = torch.ones(2, dtype=torch.float64)
    options: dict[str, Any] = {"schedule": pr.Barrier(), "stop": pr.Iterations(k), "executor": pr.Serial()}
    sol = pr.solve(pr.ODE(f), u0, grid, fine=fine, coarse=coarse, **options)
    expected = costs(grid, fine, coarse, k)
    assert {name: getattr(sol.stats, name) for name in expected} == expected
    assert calls == expected["evaluations"]
    for report in sol.history:
        then = costs(grid, fine, coarse, report.iteration)
        assert (report.rounds, report.evaluations) == (then["rounds"], then["evaluations"])
    ref = pr.serial(pr.ODE(f), u0, grid, fine=fine)
    steps = grid.num_steps if fine.steps is None else fine.steps * grid.num_slices
    assert ref.stats.rounds == ref.stats.evaluations == ref.stats.fine_evaluations == steps * fine.evaluations
    assert ref.stats.coarse_evaluations == 0


@given(st.integers(1, 12), st.integers(1, 6), st.data())
def test_the_critical_path_of_one_coarse_step_a_slice(N: int, S: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, N), label="k")
    sol = pr.solve(
        pr.ODE(lambda t, u: -u, batching="native"),
        torch.ones(1, dtype=torch.float64),
        pr.TimeGrid.uniform(0.0, 1.0, slices=N, steps=S),
        fine=pr.Euler(),
        coarse=pr.Euler(),
        schedule=pr.Barrier(),
        stop=pr.Iterations(k),
    )
    assert sol.stats.rounds == N + k * (N + S - 1) - k * (k + 1) // 2
    # k (k - 1) / 2 fine and k (k + 1) / 2 coarse solves are spared by the frontier.
    assert sol.stats.fine_evaluations == (S - 1) * (k * N - k * (k - 1) // 2)
    assert sol.stats.coarse_evaluations == N + k * N - k * (k + 1) // 2
    assert sol.stats.max_lanes == (N if S > 1 else 1)


@given(own.cases(batch=(3,), with_stiff=False, one_step=True), own.methods(2).map(pr.Coarse))
def test_samples_share_rounds_and_add_up_evaluations(case: Case, coarse: pr.Correction) -> None:
    u0 = on_leaves(lambda x: x * torch.tensor([1.0, 1e-3, 0.1], dtype=x.dtype).reshape(3, *[1] * (x.ndim - 1)), case.u0)
    options: dict[str, Any] = {"schedule": pr.Barrier(), "stop": pr.Tolerance(0.0, 1e-4)}
    sol = pr.solve(case.problem, u0, case.grid, fine=case.fine, coarse=coarse, samples=True, **options)
    each = [costs(case.grid, case.fine, coarse, int(k)) for k in sol.iterations]
    assert sol.stats.evaluations == sum(cost["evaluations"] for cost in each)
    assert sol.stats.rounds == max(cost["rounds"] for cost in each)


# --- how a right-hand side is called ---------------------------------------------------------------------------------


@given(own.cases(batch=(2,), with_stiff=False), own.corrections(), st.booleans(), st.data())
def test_all_batchings_give_the_same(case: Case, coarse: pr.Correction, samples: bool, data: st.DataObject) -> None:
    """One equation for rows of independent systems, called in the four ways; the state is a batch of 2 such rows."""
    k = data.draw(st.integers(1, case.grid.num_slices), label="k")
    rows = case.equation.rows

    def one(t: Tensor, u: Any) -> Any:
        batch = pytree.tree_leaves(u)[0].shape[0]
        return rows(t.expand(batch), u)

    def native(t: Tensor, u: Any) -> Any:
        lanes, batch = pytree.tree_leaves(u)[0].shape[:2]
        value = rows(t.repeat_interleave(batch), on_leaves(lambda x: x.flatten(0, 1), u))
        return on_leaves(lambda x: x.unflatten(0, (lanes, batch)), value)

    def numpy_one(t: Tensor, u: Any) -> Any:
        return on_leaves(lambda x: x.numpy(), one(t, u))

    problems = (
        pr.ODE(one),
        pr.ODE(native, batching="native"),
        pr.ODE(rows, batching="fold"),
        pr.ODE(one, batching="loop"),
        pr.ODE(numpy_one, batching="loop"),
    )
    runs = [
        pr.solve(p, case.u0, case.grid, fine=case.fine, coarse=coarse, stop=pr.Iterations(k), samples=samples)
        for p in problems
    ]
    for run in runs[1:]:
        assert distance(run.us, runs[0].us) <= iterate_rounding(case, k)
        assert run.stats.rounds == runs[0].stats.rounds
        assert run.stats.evaluations == runs[0].stats.evaluations


# --- exact algebra ---------------------------------------------------------------------------------------------------


class Counts(Tensor):
    """Numbers whose subtraction is addition: a state of them counts how often F and G took part in it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # `x - x`, of one object with itself, is how the engine asks whether x is finite: no part of the recursion.
        subtraction = func in (Tensor.sub, Tensor.__sub__, torch.sub) and args[0] is not args[1]
        return super().__torch_function__(Tensor.add if subtraction else func, types, args, kwargs or {})


@pytest.mark.parametrize("k", [1, 2, 3])
def test_counting_algebra(k: int) -> None:
    """F adds (1, 0), G adds (0, 1), and minus is plus: no two terms can cancel unseen."""
    N, table = OTHER["counting_algebra"]["slices"], OTHER["counting_algebra"]["table"]

    def adds(what: list[float]) -> pr.Propagator:
        return pr.Propagator(lambda t0, t1, u: u + torch.tensor(what, dtype=torch.float64), batching="native")

    u0 = torch.zeros(2, dtype=torch.float64).as_subclass(Counts)
    grid = pr.TimeGrid.from_edges(torch.arange(N + 1.0))
    problem = pr.ODE(lambda t, u: u)
    fine, coarse = adds([1.0, 0.0]), adds([0.0, 1.0])
    sol = pr.solve(problem, u0, grid, fine=fine, coarse=coarse, schedule=pr.Barrier(), stop=pr.Iterations(k))
    assert isinstance(sol.us, Counts)
    assert sol.us[1:].tolist() == table[f"U^{k}"]


def closed_form(F: list[Fraction], G: list[Fraction], k: int, n: int) -> tuple[Fraction, Fraction]:
    """Sum over all i-subsets of the first n slices, i <= k, of prod (F - G) in the subset and prod G outside it.

    The second number is the same with moduli and |F| + |G|: what rounding is relative to.
    """
    total = magnitude = Fraction(0)
    for i in range(min(k, n) + 1):
        for chosen in combinations(range(n), i):
            rest = [m for m in range(n) if m not in chosen]
            total += prod((F[m] - G[m] for m in chosen), start=Fraction(1)) * prod(
                (G[m] for m in rest), start=Fraction(1)
            )
            magnitude += prod((abs(F[m]) + abs(G[m]) for m in chosen), start=Fraction(1)) * prod(
                (abs(G[m]) for m in rest), start=Fraction(1)
            )
    return total, magnitude


FACTOR = st.integers(-24, 24).map(lambda i: i / 16)


def by_slice(factors: list[float]) -> pr.Propagator:
    """Multiplies by the factor of its slice; slice n starts at time n."""
    table = torch.tensor(factors, dtype=torch.float64)
    return pr.Propagator(lambda t0, t1, u: u * table[t0.long()], batching="native")


@given(st.lists(st.tuples(FACTOR, FACTOR), min_size=1, max_size=7), st.data())
def test_linear_problems_have_a_closed_form(factors: list[tuple[float, float]], data: st.DataObject) -> None:
    N = len(factors)
    k = data.draw(st.integers(1, N), label="k")
    F, G = [f for f, _ in factors], [g for _, g in factors]
    u0 = torch.ones((), dtype=torch.float64)
    grid = pr.TimeGrid.from_edges(torch.arange(N + 1.0))
    sol = pr.solve(
        pr.ODE(lambda t, u: u),
        u0,
        grid,
        fine=by_slice(F),
        coarse=by_slice(G),
        schedule=pr.Barrier(),
        stop=pr.Iterations(k),
        executor=pr.Serial(),
    )
    for n in range(N + 1):
        exact, magnitude = closed_form([Fraction(f) for f in F], [Fraction(g) for g in G], k, n)
        # Each of at most n slices rounds three times in each of k iterations.
        rounding = 3 * max(n, 1) * k * torch.finfo(torch.float64).eps * float(magnitude)
        assert abs(float(sol.us[n]) - float(exact)) <= rounding
        if len(set(factors)) == 1:
            f, g = Fraction(F[0]), Fraction(G[0])
            assert exact == sum(comb(n, i) * (f - g) ** i * g ** (n - i) for i in range(min(k, n) + 1))


def test_commuting_matrices_have_the_closed_form_too() -> None:
    rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    F = 0.9 * torch.linalg.matrix_exp(0.4 * rotation)
    G = torch.linalg.inv(torch.eye(2, dtype=torch.float64) - 0.4 * rotation)
    N, k = 8, 3
    u0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
    fine, coarse = (pr.Propagator(lambda t0, t1, u, M=M: u @ M.T, batching="native") for M in (F, G))
    grid = pr.TimeGrid.from_edges(torch.arange(N + 1.0))
    options: dict[str, Any] = {"schedule": pr.Barrier(), "stop": pr.Iterations(k)}
    sol = pr.solve(pr.ODE(lambda t, u: u), u0, grid, fine=fine, coarse=coarse, **options)
    power = torch.linalg.matrix_power
    for n in range(N + 1):
        terms = [comb(n, i) * power(F - G, i) @ power(G, n - i) @ u0 for i in range(min(k, n) + 1)]
        bound = 8 * max(n, 1) * k * torch.finfo(torch.float64).eps * sum(float(term.abs().max()) for term in terms)
        assert float((sol.us[n] - sum(terms)).abs().max()) <= bound


# --- stopping --------------------------------------------------------------------------------------------------------


@given(own.cases(), own.corrections(), st.sampled_from((1e-1, 1e-2, 1e-4)), st.sampled_from(("increment", "defect")))
def test_frozen_slices_are_accepted_for_good(case: Case, coarse: pr.Correction, atol: float, rule: str) -> None:
    freezing = pr.Tolerance(rtol=0.0, atol=atol, norm="max", rule=rule, freeze=True)
    N = case.grid.num_slices
    whole = solve(case, coarse, stop=freezing)
    frontiers = [report.frontier for report in whole.history]
    assert whole.converged
    assert all(after > before for before, after in zip([0, *frontiers], frontiers, strict=False))
    if rule == "increment":
        for report, before in zip(whole.history, [0, *frontiers], strict=False):
            passed = [float(increment) <= atol for increment in report.increments]
            run = passed.index(False) if False in passed else N
            assert report.frontier == max(run, before + 1)  # the frontier slice is final whether it passed or not
            assert not report.increments[:before].any()
    for k, frontier in enumerate(frontiers[:-1], start=1):
        early = solve(case, coarse, stop=freezing | pr.Iterations(k))
        assert early.history[-1].frontier == frontier
        assert equal(part(early.us, slice(frontier + 1)), part(whole.us, slice(frontier + 1)))


@given(own.cases(one_step=True), own.corrections(one_step=True), st.sampled_from((1e-1, 1e-2, 1e-4)))
def test_frozen_slices_take_no_part_in_rounds(case: Case, coarse: pr.Correction, atol: float) -> None:
    sol = solve(case, coarse, stop=pr.Tolerance(rtol=0.0, atol=atol, freeze=True))
    N, fine = case.grid.num_slices, case.fine
    steps = case.grid.steps_per_slice if fine.steps is None else (fine.steps,) * N
    method = coarse.propagator
    shared = int(method is not None and not isinstance(method, pr.Propagator))
    frontiers = [0, *(report.frontier for report in sol.history)]
    sweep = 0 if method is None else method.evaluations * (method.steps or 1)
    assert sol.stats.fine_evaluations == sum(
        fine.evaluations * m - shared for before in frontiers[:-1] for m in steps[before:]
    )
    # The sweep begins one slice after the frontier: the slice at the frontier was just made final.
    assert sol.stats.coarse_evaluations == sweep * (N + sum(N - before - 1 for before in frontiers[:-1]))


def first_met(figures: Any, atol: float) -> int:
    """The first iteration j in which the figures of all slices that moved are within ``atol``; else the last."""
    N = figures.shape[1]
    return next(j for j in range(1, N + 1) if j == N or (figures[j - 1, j - 1 :] <= atol).all())


@given(plain_cases(), st.sampled_from((3e-1, 3e-2, 3e-3, 3e-5)), st.sampled_from(("rms", "max")))
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_both_rules_stop_where_the_textbook_iterates_say(
    case_coarse: tuple[Case, pr.Correction], atol: float, norm: str
) -> None:
    case, coarse = case_coarse
    N, fine = case.grid.num_slices, plain(case, case.fine, coarse=False)
    U = iterates(case, coarse)
    F = np.array([[fine(n, U[k, n]) for n in range(N)] for k in range(N)])
    for rule, change in (("increment", np.diff(U, axis=0)[:, 1:]), ("defect", F - U[:-1, 1:])):
        flat = np.abs(change).reshape(N, N, -1)
        figures = flat.max(axis=2) if norm == "max" else np.sqrt((flat**2).mean(axis=2))
        assume((np.abs(figures - atol) > 1e-6 * atol).all())
        sol = solve(case, coarse, stop=pr.Tolerance(rtol=0.0, atol=atol, norm=norm, rule=rule))
        assert sol.iterations == first_met(figures, atol)


@given(own.cases(), own.corrections(), st.sampled_from((1e-1, 1e-2)), st.sampled_from((1e-2, 1e-3)), st.integers(1, 8))
def test_rules_combine(case: Case, coarse: pr.Correction, a: float, b: float, count: int) -> None:
    N = case.grid.num_slices
    every = solve(case, coarse, stop=pr.Tolerance(0.0, 0.0, norm="max") & pr.Iterations(N))
    figures = torch.full((N, N), 0.0, dtype=torch.float64)
    for report in every.history:
        figures[report.iteration - 1] = report.increments
    met = {atol: [bool((figures[j - 1, j - 1 :] <= atol).all()) for j in range(1, N + 1)] for atol in (a, b)}
    counted = [j >= count for j in range(1, N + 1)]

    def first(flags: list[bool]) -> int:
        return next((j for j, flag in enumerate(flags, start=1) if flag), N)

    tolerances = {atol: pr.Tolerance(0.0, atol, norm="max") for atol in (a, b)}
    for left, right, x, y in (
        (tolerances[a], tolerances[b], met[a], met[b]),
        (tolerances[a], pr.Iterations(count), met[a], counted),
        (pr.Iterations(count), tolerances[b], counted, met[b]),
    ):
        either, both = solve(case, coarse, stop=left | right), solve(case, coarse, stop=left & right)
        assert either.iterations == first([p or q for p, q in zip(x, y, strict=True)])
        assert both.iterations == first([p and q for p, q in zip(x, y, strict=True)])
