"""FCF-relaxation is a correction that is left out in some iterations; the witness is multigrid in plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import textbook
from reference.multigrid import Level, mgrit
from strategies import distance, equal, part
from torch import Tensor

import parareal as pr

F64 = {"dtype": torch.float64}
STEPS = {pr.Euler: textbook.euler, pr.Midpoint: textbook.midpoint, pr.Heun: textbook.heun, pr.RK4: textbook.rk4}


def stepper(f: Any, method: pr.Integrator) -> Any:
    """One step of a method in numpy."""
    one = STEPS[type(method)]

    def rhs(t: float, u: Any) -> Any:
        return f(torch.tensor(t, **F64), torch.as_tensor(u)).numpy()

    return lambda t0, t1, u: one(rhs, t0, t1 - t0, u)


def swing(t: Tensor, u: Tensor) -> Tensor:
    return torch.stack([u[1], -torch.sin(u[0]) - 0.1 * u[1] + torch.cos(2 * t)])


U0 = torch.tensor([1.0, 0.3], **F64)
PROBLEM = pr.ODE(swing)


@given(
    own.grids(max_slices=10),
    st.sampled_from((pr.Heun(), pr.RK4())),
    st.sampled_from((pr.Euler(), pr.Midpoint(), pr.RK4())),
    st.integers(1, 3),
    st.data(),
)
def test_iterates_are_those_of_multigrid_with_fcf_relaxation(
    grid: pr.TimeGrid, fine: pr.Integrator, coarse: pr.Integrator, relaxations: int, data: st.DataObject
) -> None:
    N, together = grid.num_slices, relaxations + 1
    k = data.draw(st.integers(1, max(1, N // together)), label="k")
    schedule = data.draw(st.sampled_from((pr.Barrier(), pr.Wavefront(), pr.Wavefront(ahead=0))), label="schedule")
    points, edges = grid.points.numpy(), grid.edges.numpy()
    levels = [
        Level(points, stepper(swing, fine), list(grid.bounds), relaxations),
        Level(edges, stepper(swing, coarse)),
    ]
    start = [U0.numpy()]
    for n in range(N):
        start.append(levels[1].step(n, start[-1]))
    expected = mgrit(levels, np.stack(start), k)
    options: dict[str, Any] = {"fine": fine, "schedule": schedule, "executor": pr.Serial()}
    ref = pr.serial(PROBLEM, U0, grid, fine=fine)
    for j in range(1, k + 1):
        stop = pr.Iterations(min(N, j * together))
        sol = pr.solve(PROBLEM, U0, grid, coarse=pr.Relaxed(coarse, relaxations), stop=stop, **options)
        if j * together > N:
            break
        want = torch.as_tensor(expected[j])
        if schedule == pr.Barrier():
            assert distance(sol.us, want) < 1e-11
        else:  # boundaries on the left may be ahead, and the final state may have overtaken an iterate that came late
            assert min(distance(sol.us[-1], end) for end in (want[-1], ref.us[-1])) < 1e-11


@given(own.cases(), own.classical(), st.integers(1, 3), st.data())
def test_the_first_boundaries_are_exact_in_every_schedule(
    case: own.Case, coarse: pr.Correction, relaxations: int, data: st.DataObject
) -> None:
    N = case.grid.num_slices
    schedules = (pr.Barrier(), pr.Wavefront(), pr.Wavefront(0), pr.Windowed(data.draw(st.integers(1, N))))
    schedule = data.draw(st.sampled_from(schedules), label="schedule")
    options: dict[str, Any] = {"fine": case.fine, "schedule": schedule, "executor": pr.Serial()}
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    relaxed = pr.Relaxed(coarse, relaxations)
    sol = pr.solve(case.problem, case.u0, case.grid, coarse=relaxed, stop=pr.Tolerance(0.0, 0.0), **options)
    assert sol.converged
    assert equal(sol.us, ref.us)
    if schedule.width is None:
        k = data.draw(st.integers(1, N), label="k")
        sol = pr.solve(case.problem, case.u0, case.grid, coarse=relaxed, stop=pr.Iterations(k), **options)
        assert equal(part(sol.us, slice(k + 1)), part(ref.us, slice(k + 1)))


def costs(grid: pr.TimeGrid, fine: pr.Integrator, coarse: pr.Integrator, r: int, k: int) -> tuple[int, int, int]:
    """Rounds, fine and coarse evaluations of k iterations under `Barrier`, iteration by iteration.

    A coarse value is computed where something reads it: in a first guess, before and after an iteration with the
    correction. All of the last kind are known at once only after an iteration without it.
    """
    N, each = grid.num_slices, coarse.evaluations * (coarse.steps or 1)
    steps = grid.steps_per_slice if fine.steps is None else (fine.steps,) * N
    rounds = coarses = N * each
    fines, known = 0, True  # whether the first stage of fine lanes is that of coarse ones
    for j in range(1, k + 1):
        work = [fine.evaluations * m - known for m in steps[j - 1 :]]
        fines += sum(work)
        rounds += max(work)
        corrects, reads = j % (r + 1) == 0, (j + 1) % (r + 1) == 0
        known = corrects or reads
        if corrects:
            rounds += (N - j) * each
        elif reads and j < N:
            rounds += each
        coarses += (N - j) * each if known else 0
    return rounds, fines, coarses


@given(own.grids(), own.methods(3), own.methods(2), st.integers(1, 3), st.data())
def test_rounds_and_evaluations_are_as_counted(
    grid: pr.TimeGrid, fine: pr.Integrator, coarse: pr.Integrator, r: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, grid.num_slices), label="k")
    options: dict[str, Any] = {"schedule": pr.Barrier(), "stop": pr.Iterations(k), "executor": pr.Serial()}
    sol = pr.solve(PROBLEM, U0, grid, fine=fine, coarse=pr.Relaxed(coarse, r), **options)
    stats, (rounds, fines, coarses) = sol.stats, costs(grid, fine, coarse, r, k)
    # Coarse values after the last iteration are not waited for.
    assert (stats.rounds, stats.fine_evaluations, stats.coarse_evaluations) == (rounds, fines, coarses)


def test_jacobi_and_relaxed_jacobi_are_the_same() -> None:
    grid = pr.TimeGrid.uniform(0.0, 2.0, slices=6, steps=4)
    a, b = (
        pr.solve(PROBLEM, U0, grid, fine=pr.RK4(), coarse=c, stop=pr.Iterations(4))
        for c in (pr.Zero(), pr.Relaxed(pr.Zero()))
    )
    assert torch.equal(a.us, b.us)
    assert a.stats.rounds == b.stats.rounds


@given(st.integers(2, 10), st.integers(1, 8), st.integers(1, 3), st.data())
def test_a_resumed_run_is_the_uninterrupted_one(N: int, j: int, r: int, data: st.DataObject) -> None:
    grid = pr.TimeGrid.uniform(0.0, 3.0, slices=N, steps=3)
    k = data.draw(st.integers(min(j, N), N), label="k")
    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Relaxed(pr.Euler(), r), "schedule": pr.Barrier()}
    options |= {"executor": pr.Serial()}
    half = pr.solve(PROBLEM, U0, grid, stop=pr.Iterations(min(j, N)), **options)
    whole = pr.solve(PROBLEM, U0, grid, stop=pr.Iterations(k), **options)
    resumed = pr.solve(PROBLEM, U0, grid, stop=pr.Iterations(k), resume=half, **options)
    assert torch.equal(resumed.us, whole.us)


@given(own.cases(batch=(3,), with_stiff=False), st.sampled_from(own.RELAXABLE), st.integers(1, 2))
def test_errors_are_within_what_was_asked(case: own.Case, coarse: pr.Correction, r: int) -> None:
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    stop = pr.Tolerance(rtol=0.0, atol=1e-3, norm="max", rule="error")
    sol = pr.solve(case.problem, case.u0, case.grid, fine=case.fine, coarse=pr.Relaxed(coarse, r), stop=stop)
    assert sol.converged
    assert distance(part(sol.us, -1), part(ref.us, -1)) <= 1e-3 + case.rounding


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"inside Damped.*expected it outermost, as in pr\.Relaxed\(pr\.Damped"):
        pr.Damped(pr.Relaxed(pr.Euler()))
    with pytest.raises(ValueError, match="would not mix"):
        pr.Relaxed(pr.Anderson(pr.Identity()))
    with pytest.raises(ValueError, match="outermost"):
        pr.Anderson(pr.Relaxed(pr.Identity()))
    with pytest.raises(ValueError, match="relaxations"):
        pr.Relaxed(pr.Euler(), relaxations=0)
    with pytest.raises(TypeError, match="relaxations"):
        pr.Relaxed(pr.Euler(), relaxations=1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="expected one of them"):
        pr.CorrectionTraits(stacked=True, mixing=2, relaxations=1)
    with pytest.raises(ValueError, match="not counted here"):
        pr.theory.rounds(pr.Barrier(), 4, 4, 1, coarse=pr.Relaxed(pr.Euler()))
