"""A schedule decides when lanes go. Where coarse lanes are the quicker, Wavefront moves each edge as Barrier does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import Case, cases, corrections, distance, equal, part
from torch import Tensor

import parareal as pr

NEVER = pr.Tolerance(rtol=0.0, atol=0.0)


def solve(case: Case, coarse: Any, **options: Any) -> pr.Solution:
    options = {"executor": pr.Serial(), "schedule": pr.Barrier(), **options}
    return pr.solve(case.problem, case.u0, case.grid, fine=case.fine, coarse=coarse, **options)


def rounds_of_a_slice(grid: pr.TimeGrid, integrator: pr.Integrator, default: int | None) -> list[int]:
    """How many rounds the propagator takes on each slice; ``default`` steps where it names none (None: the grid's)."""
    steps = integrator.steps or default
    return [(steps or own) * integrator.evaluations for own in grid.steps_per_slice]


def coarse_is_quicker(case: Case, correction: pr.Correction) -> bool:
    """Whether every coarse lane ends before any fine lane that set out with it."""
    if correction.propagator is None:
        return True
    if isinstance(correction.propagator, pr.Multistep):  # its first steps cost more than its others
        return False
    fine = rounds_of_a_slice(case.grid, case.fine, None)
    return all(c < f for c, f in zip(rounds_of_a_slice(case.grid, correction.propagator, 1), fine, strict=True))


# --- what comes out --------------------------------------------------------------------------------------------------


@given(cases(), corrections(), st.data())
def test_wavefront_makes_the_iterates_of_barrier_bit_for_bit(case: Case, correction: pr.Correction, data: Any) -> None:
    assume(coarse_is_quicker(case, correction))
    k = data.draw(st.integers(1, case.grid.num_slices))
    barrier = solve(case, correction, stop=pr.Iterations(k))
    wave = solve(case, correction, stop=pr.Iterations(k), schedule=pr.Wavefront())
    assert wave.iterations == barrier.iterations == k
    if correction.stacked:  # runs of slices are summed in another order
        assert distance(part(wave.us, -1), part(barrier.us, -1)) <= case.rounding
        return
    for ours, theirs in zip(wave.history, barrier.history, strict=True):
        assert torch.equal(ours.increments, theirs.increments)
    assert equal(part(wave.us, -1), part(barrier.us, -1))


def test_an_edge_that_moves_before_its_neighbour_has_a_guess_keeps_what_that_comes_from() -> None:
    """Coarse lanes of three rounds beside fine ones of four: edges move twice before the last has a first guess."""
    problem, grid = pr.ODE(lambda t, u: -1.5 * u + 0.5 * u.mean()), pr.TimeGrid.uniform(0.0, 1.0, 4, 2)
    u0 = torch.tensor([0.7, 0.3, -0.1, 0.6], dtype=torch.float64)
    for coarse in (pr.Secant(pr.Kutta3()), pr.Coarse(pr.Kutta3())):
        for k in (1, 2, 3, 4):
            options = {"fine": pr.Midpoint(), "coarse": coarse, "stop": pr.Iterations(k), "executor": pr.Serial()}
            barrier, wave = (pr.solve(problem, u0, grid, schedule=s, **options) for s in (pr.Barrier(), pr.Wavefront()))
            assert torch.equal(wave.u, barrier.u)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("coarse", [pr.Euler(), pr.Midpoint(), pr.Heun()], ids=lambda m: type(m).__name__)
def test_iterates_agree_where_several_of_a_slice_are_under_way_at_once(coarse: pr.Integrator, steps: int) -> None:
    problem, grid = pr.ODE(lambda t, u: torch.sin(t) * u + 1), pr.TimeGrid.uniform(0.0, 3.0, 6, steps)
    options = {"fine": pr.RK4(), "coarse": coarse, "executor": pr.Serial()}
    u0 = torch.ones(2, dtype=torch.float64)
    for k in range(1, 7):
        both = [
            pr.solve(problem, u0, grid, stop=pr.Iterations(k), schedule=schedule, **options)
            for schedule in (pr.Barrier(), pr.Wavefront())
        ]
        assert torch.equal(both[0].history[-1].increments, both[1].history[-1].increments)


@given(cases(), corrections())
def test_wavefront_ends_in_the_sequential_solution_and_never_takes_more_rounds(
    case: Case, correction: pr.Correction
) -> None:
    serial = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    sol = solve(case, correction, stop=NEVER, schedule=pr.Wavefront())
    assert equal(sol.us, serial.us)
    assert sol.iterations <= case.grid.num_slices
    assert sol.stats.rounds <= serial.stats.rounds


@given(cases(min_slices=2), corrections(), st.data())
def test_after_k_iterations_of_wavefront_the_known_slices_are_the_sequential_ones(
    case: Case, correction: pr.Correction, data: Any
) -> None:
    k = data.draw(st.integers(1, case.grid.num_slices))
    sol = solve(case, correction, stop=pr.Iterations(k), schedule=pr.Wavefront())
    known = sol.history[-1].frontier
    assert known >= sol.iterations
    serial = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    assert equal(part(sol.us, slice(known + 1)), part(serial.us, slice(known + 1)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@given(case=cases())
def test_a_useless_coarse_propagator_does_not_break_wavefront(case: Case, value: float) -> None:
    def useless(t0: Tensor, t1: Tensor, u: Any) -> Any:
        return torch.utils._pytree.tree_map(lambda x: torch.full_like(x, value), u)

    assume(case.eps < 1e-10)  # 1e300 is no float32
    sol = solve(case, pr.Propagator(useless), stop=NEVER, schedule=pr.Wavefront())
    assert equal(sol.us, pr.serial(case.problem, case.u0, case.grid, fine=case.fine).us)


@given(cases(), corrections())
def test_wavefront_batched_agrees_with_serial(case: Case, correction: pr.Correction) -> None:
    options = {"stop": NEVER, "schedule": pr.Wavefront()}
    one, many = solve(case, correction, **options), solve(case, correction, executor=pr.Batched(), **options)
    assert one.stats.rounds == many.stats.rounds
    assert one.stats.evaluations == many.stats.evaluations
    assert distance(one.us, many.us) <= case.rounding


@given(cases(batch=(3,), with_stiff=False), corrections(), st.booleans())
def test_samples_do_not_depend_on_their_neighbours_in_wavefront(
    case: Case, correction: pr.Correction, freeze: bool
) -> None:
    eps = case.eps
    options = {"schedule": pr.Wavefront(), "samples": True, "stop": pr.Tolerance(1e4 * eps, 1e4 * eps, freeze=freeze)}
    together = solve(case, correction, **options)
    for i in range(3):
        alone = solve(replace(case, u0=part(case.u0, slice(i, i + 1))), correction, **options)
        assert equal(part(together.us, (slice(None), slice(i, i + 1))), alone.us)
        assert together.iterations[i] == alone.iterations[0]


# --- what it costs ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 6), st.data())
def test_rounds_of_wavefront(slices: int, steps: int, data: Any) -> None:
    """k S + N - k for one-evaluation methods; with S = 1 fine solves are free and nothing is left to refine."""
    k = data.draw(st.integers(1, slices))
    problem = pr.ODE(lambda t, u: -u * u, batching="native")
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices, steps)
    u0 = torch.ones(2, dtype=torch.float64)
    options = {"fine": pr.Euler(), "coarse": pr.Euler(), "stop": pr.Iterations(k)}
    sol = pr.solve(problem, u0, grid, schedule=pr.Wavefront(), **options)
    classical = pr.solve(problem, u0, grid, schedule=pr.Barrier(), **options)
    if steps > 1:
        assert sol.iterations == k
        assert sol.stats.rounds == k * steps + slices - k
        assert sol.stats.evaluations >= classical.stats.evaluations
    else:
        assert sol.stats.rounds == slices


@pytest.mark.parametrize("fine", [pr.Euler(), pr.Heun(), pr.RK4()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("coarse", [pr.Euler(), pr.Heun(), pr.RK4(steps=2)], ids=lambda m: type(m).__name__)
@pytest.mark.sweep(5)
def test_rounds_of_wavefront_with_methods_of_many_stages(fine: pr.Integrator, coarse: pr.Integrator) -> None:
    """With phi and gamma rounds a fine and a coarse slice, edge n has its iterate k after k phi + (n - k) gamma."""
    slices, steps = 6, 9
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices, steps)
    phi, gamma = steps * fine.evaluations, (coarse.steps or 1) * coarse.evaluations
    for k in range(1, slices + 1):
        sol = pr.solve(
            pr.ODE(lambda t, u: torch.cos(t) * u),
            torch.ones(1, dtype=torch.float64),
            grid,
            fine=fine,
            coarse=coarse,
            stop=pr.Iterations(k),
            schedule=pr.Wavefront(),
        )
        assert sol.stats.rounds == k * phi + (slices - k) * gamma


def test_coarse_and_fine_lanes_share_one_call() -> None:
    widths: list[int] = []

    def f(t: Tensor, u: Tensor) -> Tensor:
        widths.append(len(t))
        return -u

    grid = pr.TimeGrid.uniform(0.0, 1.0, 8, 5)
    sol = pr.solve(
        pr.ODE(f, "native"),
        torch.ones(1, dtype=torch.float64),
        grid,
        fine=pr.RK4(),
        coarse=pr.Euler(),
        stop=pr.Iterations(3),
        schedule=pr.Wavefront(),
    )
    assert len(widths) == sol.stats.rounds == sol.stats.calls
    assert sum(widths) == sol.stats.evaluations
    assert max(widths) == sol.stats.max_lanes == 8


def test_a_sample_that_is_done_leaves_the_rounds() -> None:
    """The second sample is 0, which every propagator keeps: it is done after one iteration, its lanes under way too."""
    f = pr.ODE(lambda t, u: -u * u)
    grid = pr.TimeGrid.uniform(0.0, 4.0, 6, 7)
    u0 = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    options = {"fine": pr.Euler(), "coarse": pr.Euler(), "stop": pr.Tolerance(0.0, 1e-12), "samples": True}
    for schedule in (pr.Barrier(), pr.Wavefront()):
        both = pr.solve(f, u0, grid, schedule=schedule, **options)
        alone = [pr.solve(f, u0[i : i + 1], grid, schedule=schedule, **options) for i in (0, 1)]
        assert both.iterations.tolist() == [alone[0].iterations.item(), 1]
        assert both.stats.rounds == alone[0].stats.rounds
        assert both.stats.evaluations == sum(sol.stats.evaluations for sol in alone)


# --- a bound on speculative work -------------------------------------------------------------------------------------

BOUNDS = st.integers(0, 4)


@given(cases(), corrections(), BOUNDS)
def test_a_bound_never_costs_more_rounds_than_the_sequential_run(
    case: Case, correction: pr.Correction, ahead: int
) -> None:
    serial = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    sol = solve(case, correction, stop=NEVER, schedule=pr.Wavefront(ahead))
    assert equal(sol.us, serial.us)
    assert sol.iterations <= case.grid.num_slices
    assert sol.stats.rounds <= serial.stats.rounds


@given(cases(min_slices=2), corrections(), BOUNDS, st.data())
def test_after_k_iterations_with_a_bound_the_known_slices_are_the_sequential_ones(
    case: Case, correction: pr.Correction, ahead: int, data: Any
) -> None:
    k = data.draw(st.integers(1, case.grid.num_slices))
    sol = solve(case, correction, stop=pr.Iterations(k), schedule=pr.Wavefront(ahead))
    known = sol.history[-1].frontier
    assert known >= sol.iterations
    serial = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    assert equal(part(sol.us, slice(known + 1)), part(serial.us, slice(known + 1)))


@given(cases(), corrections(), BOUNDS, st.data())
def test_a_bound_that_is_not_reached_changes_no_iterate_and_no_round(
    case: Case, correction: pr.Correction, ahead: int, data: Any
) -> None:
    k = data.draw(st.integers(1, min(ahead + 1, case.grid.num_slices)))
    free, bound = (solve(case, correction, stop=pr.Iterations(k), schedule=pr.Wavefront(a)) for a in (None, ahead))
    assert bound.stats.rounds == free.stats.rounds
    assert bound.stats.evaluations <= free.stats.evaluations
    assert equal(part(bound.us, -1), part(free.us, -1))


@pytest.mark.parametrize(
    ("slices", "steps", "k", "ahead"), [(40, 5, 1, 0), (40, 5, 2, 1), (40, 5, 2, 6), (60, 3, 4, 4)]
)
def test_a_bound_holds_the_fine_evaluations_down(slices: int, steps: int, k: int, ahead: int) -> None:
    problem, grid = pr.ODE(lambda t, u: -u * u, batching="native"), pr.TimeGrid.uniform(0.0, 1.0, slices, steps)
    found = {
        schedule: pr.solve(
            problem,
            torch.ones(2, dtype=torch.float64),
            grid,
            fine=pr.Euler(),
            coarse=pr.Euler(),
            stop=pr.Iterations(k),
            schedule=schedule,
        ).stats
        for schedule in (pr.Barrier(), pr.Wavefront(ahead), pr.Wavefront())
    }
    barrier, bound, free = found.values()
    assert bound.rounds == free.rounds == k * steps + slices - k < barrier.rounds
    at_the_frontier = bound.rounds
    assert bound.fine_evaluations <= (k + ahead) / k * barrier.fine_evaluations + at_the_frontier
    assert bound.fine_evaluations < free.fine_evaluations


def test_solve_takes_the_bounded_wavefront_where_none_is_named() -> None:
    problem, grid = pr.ODE(lambda t, u: torch.sin(t) * u + 1), pr.TimeGrid.uniform(0.0, 3.0, 40, 3)
    options: Any = {"fine": pr.Euler(), "coarse": pr.Euler(), "stop": pr.Iterations(3)}
    u0 = torch.ones(2, dtype=torch.float64)
    default, named = (pr.solve(problem, u0, grid, **options, **more) for more in ({}, {"schedule": pr.Wavefront(6)}))
    assert torch.equal(default.us, named.us)
    assert default.stats.rounds == named.stats.rounds == 3 * 3 + 40 - 3
    assert default.stats.evaluations == named.stats.evaluations


@pytest.mark.parametrize(("ahead", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError)])
def test_a_bound_that_is_none_is_named(ahead: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="ahead="):
        pr.Wavefront(ahead)


# --- schedules of one's own ------------------------------------------------------------------------------------------


class Starving(pr.Schedule):
    """Lets nothing go."""

    def admit(self, progress: pr.Progress) -> tuple[Any, Any]:
        nothing = np.zeros_like(progress.fine_ready)
        return nothing, nothing


def test_a_schedule_that_admits_nothing_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"Starving.*no lane"):
        pr.solve(
            pr.ODE(lambda t, u: -u),
            torch.ones(1),
            pr.TimeGrid.uniform(0.0, 1.0, 3),
            fine=pr.Euler(),
            coarse=pr.Euler(),
            schedule=Starving(),
        )


class OneFineLane(pr.Schedule):
    """Coarse lanes as they come, fine lanes one at a time, the leftmost first."""

    def admit(self, progress: pr.Progress) -> tuple[Any, Any]:
        fine = np.zeros_like(progress.fine_ready)
        for system in (~progress.fine_busy.any(axis=1) & progress.fine_ready.any(axis=1)).nonzero()[0]:
            fine[system, progress.fine_ready[system].argmax()] = True
        return fine, progress.coarse_ready


@given(cases(max_slices=5), corrections(), st.data())
def test_iterates_do_not_depend_on_how_few_lanes_a_schedule_lets_go(
    case: Case, correction: pr.Correction, data: Any
) -> None:
    assume(coarse_is_quicker(case, correction))
    sol = solve(case, correction, stop=NEVER, schedule=OneFineLane())
    assert equal(sol.us, pr.serial(case.problem, case.u0, case.grid, fine=case.fine).us)
