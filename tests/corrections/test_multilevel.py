"""A coarse sweep that is solved in parallel is the V-cycle of multigrid in time; the witness is that in plain loops."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import textbook
from reference.multigrid import Level, mgrit, nested
from strategies import distance, equal, part
from torch import Tensor

import parareal as pr

F64 = {"dtype": torch.float64}
STEPS = {pr.Euler: textbook.euler, pr.Midpoint: textbook.midpoint, pr.Heun: textbook.heun, pr.RK4: textbook.rk4}
METHODS = st.sampled_from((pr.Euler(), pr.Midpoint(), pr.Heun(), pr.RK4()))
NEVER = pr.Tolerance(0.0, 0.0)


def swing(t: Tensor, u: Tensor) -> Tensor:
    return torch.stack([u[1], -torch.sin(u[0]) - 0.1 * u[1] + torch.cos(2 * t)])


U0 = torch.tensor([1.0, 0.3], **F64)
PROBLEM = pr.ODE(swing)


def stepper(method: pr.Integrator) -> Any:
    """Steps of a method from one point to the next, in numpy."""
    one = STEPS[type(method)]

    def rhs(t: float, u: Any) -> Any:
        return swing(torch.tensor(t, **F64), torch.as_tensor(u)).numpy()

    def step(t0: float, t1: float, u: Any) -> Any:
        points = np.linspace(t0, t1, (method.steps or 1) + 1)
        for a, b in pairwise(points):
            u = one(rhs, a, b - a, u)
        return u

    return step


def blocks(slices: int, size: int) -> list[int]:
    return [*range(0, slices, size), slices]


def coarsened(times: Any, points: list[int], step: Any, size: int | None, relaxations: int, cycles: int) -> Level:
    """The next level on the C-points of another, with C-points of its own unless it is the last."""
    own_points = [] if size is None else blocks(len(points) - 1, size)
    return Level(times[points], step, own_points, relaxations, cycles)


@given(
    own.grids(max_slices=12),
    METHODS,
    METHODS,
    METHODS,
    st.integers(1, 5),
    st.integers(1, 2),
    st.integers(0, 1),
    st.integers(0, 1),
    st.data(),
)
def test_iterates_are_those_of_v_cycles_on_three_levels(
    grid: pr.TimeGrid,
    fine: pr.Integrator,
    coarse: pr.Integrator,
    coarser: pr.Integrator,
    size: int,
    cycles: int,
    above: int,
    below: int,
    data: st.DataObject,
) -> None:
    """With and without FCF-relaxation on either level."""
    N, together = grid.num_slices, above + 1
    k = data.draw(st.integers(1, max(1, N // together)), label="k")
    size = min(size, N)
    points, bounds = grid.points.numpy(), list(grid.bounds)
    levels = [Level(points, stepper(fine), bounds, above)]
    levels.append(coarsened(points, bounds, stepper(coarse), size, below, cycles))
    levels.append(coarsened(levels[1].times, levels[1].coarse, stepper(coarser), None, 0, 1))
    expected = mgrit(levels, nested(levels[1:], U0.numpy()), k)
    inner = pr.Relaxed(coarser) if below else pr.Coarse(coarser)
    correction: Any = pr.Multilevel(coarse, inner, slices=size, iterations=cycles * (below + 1))
    correction = pr.Relaxed(correction) if above else correction
    for j in range(1, k + 1):
        if j * together > N:
            break
        stop = pr.Iterations(j * together)
        sol = pr.solve(PROBLEM, U0, grid, fine=fine, coarse=correction, stop=stop)
        assert distance(sol.us, torch.as_tensor(expected[j])) < 1e-10


@given(own.grids(max_slices=16), METHODS, st.integers(1, 4), st.integers(1, 3), st.data())
def test_four_levels(grid: pr.TimeGrid, coarse: pr.Integrator, size: int, further: int, data: st.DataObject) -> None:
    N = grid.num_slices
    k = data.draw(st.integers(1, N), label="k")
    points, bounds = grid.points.numpy(), list(grid.bounds)
    levels = [Level(points, stepper(pr.RK4()), bounds)]
    levels.append(coarsened(points, bounds, stepper(coarse), size, 0, 1))
    levels.append(coarsened(levels[1].times, levels[1].coarse, stepper(pr.Heun()), further, 0, 1))
    levels.append(coarsened(levels[2].times, levels[2].coarse, stepper(pr.Euler()), None, 0, 1))
    expected = mgrit(levels, nested(levels[1:], U0.numpy()), k)
    correction = pr.Multilevel(coarse, pr.Multilevel(pr.Heun(), pr.Euler(), slices=further), slices=size)
    sol = pr.solve(PROBLEM, U0, grid, fine=pr.RK4(), coarse=correction, stop=pr.Iterations(k))
    assert distance(sol.us, torch.as_tensor(expected[k])) < 1e-10


def test_blocks_of_one_slice_or_enough_cycles_are_the_sweep_itself() -> None:
    grid = pr.TimeGrid.uniform(0.0, 6.0, slices=12, steps=5)
    options: dict[str, Any] = {"fine": pr.RK4(), "schedule": pr.Barrier()}
    for k in (1, 3):
        plain = pr.solve(PROBLEM, U0, grid, coarse=pr.Heun(), stop=pr.Iterations(k), **options)
        for correction in (
            pr.Multilevel(pr.Heun(), pr.Euler(), slices=3, iterations=4),
            pr.Multilevel(pr.Heun(), pr.Heun(), slices=1),
            pr.Multilevel(pr.Heun(), pr.Euler(), slices=50),
        ):
            sol = pr.solve(PROBLEM, U0, grid, coarse=correction, stop=pr.Iterations(k), **options)
            assert distance(sol.us, plain.us) < 1e-13


def multilevel() -> st.SearchStrategy[pr.Correction]:
    """Coarse propagators of all kinds, and inner runs of all kinds, harmful ones among them."""
    nothing = pr.Propagator(lambda t0, t1, u: own.on_leaves(lambda x: torch.full_like(x, float("nan")), u))
    propagators = own.methods() | own.multistep() | st.sampled_from((pr.Propagator(own.decay), nothing))
    inner = st.one_of(
        propagators.map(pr.Coarse),
        st.sampled_from((pr.Identity(), pr.Zero(), pr.Secant(pr.Identity()), pr.Secant(pr.Coarse(pr.Euler())))),
        st.sampled_from((pr.Anderson(pr.Identity()), pr.Relaxed(pr.Euler()), pr.Multilevel(pr.Euler(), nothing, 2))),
    )
    made = st.builds(pr.Multilevel, propagators, inner, st.none() | st.integers(1, 4), st.none() | st.integers(1, 3))
    return made | made.map(pr.Relaxed)


@given(own.cases(), multilevel(), st.data())
def test_the_first_boundaries_are_exact(case: own.Case, coarse: pr.Correction, data: st.DataObject) -> None:
    N = case.grid.num_slices
    k = data.draw(st.integers(1, N), label="k")
    options: dict[str, Any] = {"fine": case.fine, "coarse": coarse, "executor": pr.Serial()}
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    sol = pr.solve(case.problem, case.u0, case.grid, stop=pr.Iterations(k), **options)
    assert sol.iterations == k
    assert [report.frontier for report in sol.history] == list(range(1, k + 1))
    assert equal(part(sol.us, slice(k + 1)), part(ref.us, slice(k + 1)))
    whole = pr.solve(case.problem, case.u0, case.grid, stop=NEVER, **options)
    assert whole.converged
    assert equal(whole.us, ref.us)


@given(own.cases(batch=(3,), with_stiff=False), multilevel(), st.booleans())
def test_a_sample_does_not_depend_on_its_neighbours(case: own.Case, coarse: pr.Correction, freeze: bool) -> None:
    """Frozen slices make rows that begin at different slices."""
    stop = pr.Tolerance(rtol=1e-2, atol=1e-2, freeze=freeze)
    scale = torch.tensor([1.0, 0.05, 0.3])
    u0 = own.on_leaves(lambda x: x * scale.to(x.dtype).reshape(3, *[1] * (x.ndim - 1)), case.u0)
    options: dict[str, Any] = {"fine": case.fine, "coarse": coarse, "stop": stop, "samples": True}
    options |= {"executor": pr.Serial()}
    together, evaluations = pr.solve(case.problem, u0, case.grid, **options), 0
    for i in range(3):
        alone = pr.solve(case.problem, part(u0, slice(i, i + 1)), case.grid, **options)
        assert int(alone.iterations[0]) == int(together.iterations[i])
        assert equal(alone.us, part(together.us, (slice(None), slice(i, i + 1))))
        evaluations += alone.stats.evaluations
        assert alone.stats.rounds <= together.stats.rounds
    assert together.stats.evaluations == evaluations


def sweep_rounds(slices: int, first: int, size: int, c: int, h: int, shared: int, given: bool) -> tuple[int, int]:
    """Rounds and evaluations of the inner run over the slices from ``first`` on, with one iteration."""
    bounds = [first, *range((first // size + 1) * size, slices, size), slices]
    lengths = np.diff(bounds)
    B = len(lengths)
    # First guesses: a coarser value of every block, all at once where states are given.
    rounds, evaluations = (h if given else B * h), B * h
    rounds += int(lengths.max()) * c - shared
    evaluations += int(lengths.sum()) * c - B * shared
    # The first block is final after that; a sweep goes over the others.
    rounds += (B - 1) * h
    evaluations += (B - 1) * h
    again = lengths[1:] - 1
    again = again[again > 0]
    if len(again):
        rounds += int(again.max()) * c - shared
        evaluations += int(again.sum()) * c - len(again) * shared
    return rounds, evaluations


@given(own.grids(max_slices=14), own.methods(3), own.methods(2), own.methods(2), st.integers(1, 5), st.data())
def test_rounds_and_evaluations_are_as_counted(
    grid: pr.TimeGrid,
    fine: pr.Integrator,
    coarse: pr.Integrator,
    coarser: pr.Integrator,
    size: int,
    data: st.DataObject,
) -> None:
    N = grid.num_slices
    k = data.draw(st.integers(1, N), label="k")
    c, h = (one.evaluations * (one.steps or 1) for one in (coarse, coarser))
    calls = 0

    def f(t: Tensor, u: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.cos(3 * t) * u

    options: dict[str, Any] = {"stop": pr.Iterations(k), "executor": pr.Serial()}
    correction = pr.Multilevel(coarse, coarser, slices=size)
    sol = pr.solve(pr.ODE(f), torch.ones(2, **F64), grid, fine=fine, coarse=correction, **options)
    steps = grid.steps_per_slice if fine.steps is None else (fine.steps,) * N
    rounds, coarses = sweep_rounds(N, 0, size, c, h, 1, given=False)
    fines = 0
    for j in range(1, k + 1):
        work = [fine.evaluations * m - 1 for m in steps[j - 1 :]]
        rounds += c + max(work)
        coarses += (N - j + 1) * c
        fines += sum(work)
        if j < N:
            more = sweep_rounds(N, j, size, c, h, 1, given=True)
            rounds, coarses = rounds + more[0], coarses + more[1]
    assert (sol.stats.rounds, sol.stats.fine_evaluations, sol.stats.coarse_evaluations) == (rounds, fines, coarses)
    assert calls == fines + coarses == sol.stats.evaluations


@given(st.integers(2, 10), st.integers(1, 8), st.data())
def test_a_resumed_run_is_the_uninterrupted_one(N: int, j: int, data: st.DataObject) -> None:
    grid = pr.TimeGrid.uniform(0.0, 3.0, slices=N, steps=3)
    k = data.draw(st.integers(min(j, N), N), label="k")
    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Multilevel(pr.Heun(), pr.Euler(), 3)}
    options |= {"executor": pr.Serial()}
    half = pr.solve(PROBLEM, U0, grid, stop=pr.Iterations(min(j, N)), **options)
    whole = pr.solve(PROBLEM, U0, grid, stop=pr.Iterations(k), **options)
    resumed = pr.solve(PROBLEM, U0, grid, stop=pr.Iterations(k), resume=half, **options)
    assert torch.equal(resumed.us, whole.us)
    near = pr.solve(PROBLEM, U0, grid, stop=NEVER, start=half, **options)
    assert torch.equal(near.us, pr.serial(PROBLEM, U0, grid, fine=pr.RK4()).us)


def test_other_kinds_of_problems_and_methods() -> None:
    """SDEs, whose levels share one path; implicit methods, whose lanes differ in their rounds; all without dense."""
    grid = pr.TimeGrid.uniform(0.0, 2.0, slices=5, steps=2)
    sde = pr.SDE(lambda t, u: -u, lambda t, u: 0.3 * u, generator=torch.Generator().manual_seed(4))
    semilinear = pr.SemilinearODE(-5.0, lambda t, u: torch.sin(u + t))
    cases: list[tuple[pr.Problem, pr.Integrator, pr.Correction]] = [
        (sde, pr.EulerMaruyama(), pr.Multilevel(pr.EulerMaruyama(), pr.EulerMaruyama(), 3)),
        (semilinear, pr.ETDRK4(), pr.Multilevel(pr.ETDRK2(), pr.ExponentialEuler(), 3)),
        (PROBLEM, pr.ImplicitEuler(), pr.Multilevel(pr.ImplicitEuler(), pr.ImplicitEuler(), 3)),
        (PROBLEM, pr.AdamsBashforth(2), pr.Multilevel(pr.ImplicitEuler(), pr.Euler(), 2)),
    ]
    for problem, fine, coarse in cases:
        ref = pr.serial(problem, U0, grid, fine=fine, executor=pr.Serial())
        sol = pr.solve(problem, U0, grid, fine=fine, coarse=coarse, stop=NEVER, dense=False, executor=pr.Serial())
        assert torch.equal(sol.u, ref.u)
        quick = pr.solve(problem, U0, grid, fine=fine, coarse=coarse, stop=pr.Tolerance(1e-6, 1e-6))
        assert quick.converged
        assert distance(quick.us, ref.us) < 1e-4


def test_gradients_are_those_of_the_serial_run() -> None:
    grid = pr.TimeGrid.uniform(0.0, 2.0, slices=8, steps=3)
    found: list[Tensor] = []
    for run in (pr.serial, pr.solve):
        u0 = U0.clone().requires_grad_()
        own_options = {} if run is pr.serial else {"coarse": pr.Multilevel(pr.Heun(), pr.Euler(), 3), "stop": NEVER}
        run(PROBLEM, u0, grid, fine=pr.RK4(), **own_options).u.sum().backward()
        assert u0.grad is not None
        found.append(u0.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


def test_bad_arguments() -> None:
    grid = pr.TimeGrid.uniform(0.0, 2.0, slices=8, steps=3)
    three: Any = pr.Multilevel(pr.Euler(), pr.Euler())
    for schedule in (pr.Wavefront(), pr.Windowed(3)):
        with pytest.raises(ValueError, match=r"expected schedule=pr\.Barrier"):
            pr.solve(PROBLEM, U0, grid, fine=pr.RK4(), coarse=three, schedule=schedule)
    for wrapper in (pr.Damped, pr.Secant, pr.Anderson):
        with pytest.raises(ValueError, match=f"inside {wrapper.__name__}"):
            wrapper(three)
    with pytest.raises(ValueError, match="carries nothing"):
        pr.Multilevel(pr.Euler(), pr.Jacobian())
    with pytest.raises(ValueError, match="slices"):
        pr.Multilevel(pr.Euler(), pr.Euler(), slices=0)
    with pytest.raises(TypeError, match="iterations"):
        pr.Multilevel(pr.Euler(), pr.Euler(), iterations=1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="the coarse propagator"):
        pr.Multilevel(pr.Zero(), pr.Euler())  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="coarser"):
        pr.Multilevel(pr.Euler(), 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="is for an SDE"):
        pr.solve(PROBLEM, U0, grid, fine=pr.RK4(), coarse=pr.Multilevel(pr.Euler(), pr.EulerMaruyama()))
    with pytest.raises(ValueError, match="without a propagator"):
        pr.CorrectionTraits(nested=three.traits.nested)
    with pytest.raises(ValueError, match="not counted here"):
        pr.theory.rounds(pr.Barrier(), 4, 4, 1, coarse=three)
