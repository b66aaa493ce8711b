"""The engine takes just the rounds and evaluations that `theory` says; time on few workers keeps to its bounds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import parareal as pr
from parareal import theory

BARRIER, WAVEFRONT = pr.Barrier(), pr.Wavefront()


def run(grid: pr.TimeGrid, fine: pr.Integrator, coarse: Any, schedule: pr.Schedule, stop: Any) -> tuple[Any, list[int]]:
    """The counters of a run, and the width of each call of the right-hand side."""
    widths: list[int] = []

    def f(t: Tensor, u: Tensor) -> Tensor:
        widths.append(len(t))
        return torch.cos(3 * t)[:, None] * u

    u0 = torch.ones(2, dtype=torch.float64)
    sol = pr.solve(pr.ODE(f, "native"), u0, grid, fine=fine, coarse=coarse, schedule=schedule, stop=stop)
    return sol.stats, widths


# --- rounds and evaluations ------------------------------------------------------------------------------------------


def uneven(steps: list[int]) -> pr.TimeGrid:
    points = torch.linspace(0.0, 1.0, sum(steps) + 1, dtype=torch.float64)
    return pr.TimeGrid(points, (0, *np.cumsum(steps).tolist()))


@pytest.mark.parametrize("coarse", [pr.Identity(), pr.Euler(), pr.Heun()])
@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_iterates_wait_in_short_slices_for_long_ones_before_them(k: int, coarse: Any) -> None:
    """Iterate 2 would be early in slice 2, but comes out of slice 1 when the run is at its end."""
    steps, fine = [3, 5, 2, 2, 1, 2], pr.BogackiShampine()
    stats, widths = run(uneven(steps), fine, coarse, WAVEFRONT, pr.Iterations(k))
    counts = theory.counts(WAVEFRONT, 6, steps, k, fine=fine, coarse=coarse)
    assert counts.lanes.tolist() == widths
    assert counts.evaluations == stats.evaluations


def test_where_only_some_coarse_lanes_are_overtaken_there_is_no_count() -> None:
    steps, settings = [5, 1, 1, 5, 3, 1], {"fine": pr.Heun(), "coarse": pr.Heun(steps=2)}
    for count in (theory.rounds, theory.counts):
        with pytest.raises(ValueError, match=r"a coarse slice takes 4 rounds"):
            count(WAVEFRONT, 6, steps, 2, **settings)
    for steps in ([1, 2, 1], [2, 2, 2]):  # where none is in time, the final states are all there is
        stats, _ = run(uneven(steps), pr.Heun(), pr.Heun(steps=2), WAVEFRONT, pr.Iterations(1))
        assert theory.rounds(WAVEFRONT, 3, steps, 1, **settings) == stats.rounds == 2 * sum(steps)


@given(st.integers(1, 10), st.integers(1, 6), st.data())
def test_the_counts_of_the_contract(N: int, S: int, data: Any) -> None:
    k = data.draw(st.integers(1, N), label="k")
    grid = pr.TimeGrid.uniform(0.0, 1.0, N, S)
    for schedule, formula in ((BARRIER, N + k * (N + S - 1) - k * (k + 1) // 2), (WAVEFRONT, k * S + N - k)):
        stats, widths = run(grid, pr.Euler(), pr.Euler(), schedule, pr.Iterations(k))
        assert theory.rounds(schedule, N, S, k) == formula == stats.rounds == len(widths)
        if schedule is BARRIER or S > 1:
            assert theory.evaluations(schedule, N, S, k) == stats.evaluations == sum(widths)


@given(own.grids(), own.methods(3), own.corrections(one_step=True) | own.methods(3), st.data())
def test_every_round_of_the_engine_is_as_wide_as_counted(
    grid: pr.TimeGrid, fine: pr.Integrator, coarse: Any, data: Any
) -> None:
    N, steps = grid.num_slices, grid.steps_per_slice
    k = data.draw(st.integers(1, N), label="k")
    width = data.draw(st.integers(1, N), label="width")
    black_box = isinstance(getattr(coarse, "propagator", None), pr.Propagator)
    for schedule in (BARRIER, WAVEFRONT, pr.Windowed(width)):
        stats, widths = run(grid, fine, coarse, schedule, pr.Iterations(k))
        settings = {"fine": fine, "coarse": coarse}
        try:
            expected = theory.rounds(schedule, N, steps, k, **settings)
        except ValueError:  # some coarse lanes are overtaken
            assert schedule is WAVEFRONT
            assert len(set(steps)) > 1
            continue
        assert stats.rounds == expected
        try:
            counts = theory.counts(schedule, N, steps, k, **settings)
        except ValueError:  # no formula for the evaluations
            if isinstance(schedule, pr.Windowed) and stats.coarse_evaluations == 0:
                assert stats.evaluations <= width * stats.rounds
            continue
        assert counts.rounds == expected
        assert (stats.fine_evaluations, stats.coarse_evaluations, stats.max_lanes) == (
            counts.fine_evaluations,
            counts.coarse_evaluations,
            counts.max_lanes,
        )
        assert counts.lanes.sum() == counts.evaluations == stats.evaluations
        if not black_box:  # which the right-hand side does not see
            assert counts.lanes.tolist() == widths


def test_a_window_that_accepts_takes_fewer_rounds_than_the_count_by_iterations() -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, 40)
    stats, _ = run(grid, pr.Euler(), pr.Identity(), pr.Windowed(8), pr.Tolerance(1e-3, 0.0))
    assert 40 / 8 <= stats.rounds < theory.rounds(pr.Windowed(8), 40, 1, 40, coarse=pr.Identity()) == 40


def test_many_slices_are_counted_in_no_time() -> None:
    counts = theory.counts(WAVEFRONT, 3000, 50, 10)
    assert counts.rounds == 10 * 50 + 3000 - 10 == theory.rounds(WAVEFRONT, 3000, 50, 10)
    assert counts.lanes.sum() == counts.evaluations > theory.counts(BARRIER, 3000, 50, 10).evaluations


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((BARRIER, 4, [1, 2], 1, {}), ValueError, "steps holds 2 numbers; expected 4, one for each slice"),
        ((BARRIER, 4, 0, 1, {}), ValueError, "steps=0 is too small"),
        ((BARRIER, 0, 1, 1, {}), ValueError, "slices=0 is too small"),
        (("barrier", 4, 2, 1, {}), TypeError, r"schedule is 'barrier'; expected pr\.Barrier\(\)"),
        ((BARRIER, 4, 2, 1, {"fine": pr.ImplicitEuler()}), ValueError, "varies from step to step"),
        ((BARRIER, 4, 2, 1, {"coarse": pr.AdamsBashforth(2)}), ValueError, "varies from step to step"),
        ((BARRIER, 4, 2, 1, {"coarse": pr.Jacobian()}), ValueError, "derivatives"),
        ((BARRIER, 4, 2, 1, {"fine": 3}), TypeError, "fine is an int"),
        ((WAVEFRONT, 4, 1, 1, {}), ValueError, "expected fewer: coarse lanes as slow"),
        ((pr.Windowed(2), 4, 1, 1, {}), ValueError, "without a propagator"),
    ],
)
def test_what_cannot_be_counted_is_named(arguments: Any, error: type[Exception], says: str) -> None:
    *rest, options = arguments
    with pytest.raises(error, match=says):
        theory.counts(*rest, **options)


# --- time on so many workers -----------------------------------------------------------------------------------------


def longest_chain(fine: Sequence[Any], coarse: Sequence[Any], k: int) -> Any:
    """When the last of the iterates 0 ... k arrives at the last edge, with a worker for every task."""
    there = {(n, 0): sum(coarse[:n]) for n in range(len(fine) + 1)}
    for j in range(1, k + 1):
        there[j, j] = sum(fine[:j])
        for n in range(j, len(fine)):
            there[n + 1, j] = max(there[n, j - 1] + fine[n], max(there[n, j - 1], there[n, j]) + coarse[n])
    return max(there[len(fine), j] for j in range(k + 1))


def tasks(N: int, k: int) -> tuple[int, int]:
    """Fine and coarse solves of k iterations, added up one by one."""
    return sum(N - j for j in range(k)), N + sum(N - j for j in range(1, k + 1))


@given(st.integers(1, 12), st.integers(1, 16), st.booleans(), st.data())
def test_time_keeps_to_the_bounds_of_all_list_schedules(N: int, P: int, even: bool, data: Any) -> None:
    k = data.draw(st.integers(1, N), label="k")
    size = 1 if even else N
    fine = data.draw(st.lists(st.integers(1, 9), min_size=size, max_size=size)) * (N // size)
    coarse = data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)) * (N // size)
    chain = longest_chain(fine, coarse, k)
    work = sum(sum(fine[j:]) for j in range(k)) + sum(coarse) + sum(sum(coarse[j:]) for j in range(1, k + 1))
    settings = {"fine": fine, "coarse": coarse}
    assert theory.makespan(WAVEFRONT, N, k, **settings) == chain
    assert theory.makespan(WAVEFRONT, N, k, **settings, workers=1) == work
    assert theory.makespan(BARRIER, N, k, **settings, workers=1) == work
    least = max(Fraction(chain), Fraction(work, P))
    assert least <= theory.makespan(WAVEFRONT, N, k, **settings, workers=P) <= Fraction(work - chain, P) + chain
    for schedule in (BARRIER, WAVEFRONT):
        for placement in ("owner", "manager"):
            workers = P + (placement == "manager")
            time = theory.makespan(schedule, N, k, **settings, workers=workers, placement=placement)
            assert max(Fraction(chain), Fraction(work, workers)) <= time <= work
    if even:
        tf, tg = fine[0], coarse[0]
        assert chain == max(k * tf + (N - k) * tg, N * tg)
        assert work == sum(count * time for count, time in zip(tasks(N, k), (tf, tg), strict=True))
        # One sweep and, in each iteration, a fine solve in as many shifts as it takes and a shorter sweep.
        barrier = N * tg + sum(-(-(N - j) // P) * tf + (N - j - 1) * tg for j in range(k))
        assert theory.makespan(BARRIER, N, k, **settings, workers=P) == barrier


@given(
    st.sampled_from((BARRIER, WAVEFRONT)),
    st.sampled_from(("any", "owner", "manager")),
    st.integers(1, 8),
    st.none() | st.integers(2, 9),
    st.data(),
)
def test_every_solve_has_its_place(schedule: pr.Schedule, placement: Any, N: int, P: int | None, data: Any) -> None:
    k = data.draw(st.integers(1, N), label="k")
    times = st.lists(st.floats(0.1, 9.0), min_size=N, max_size=N)
    settings = {"fine": data.draw(times), "coarse": data.draw(times), "workers": P, "placement": placement}
    laid = theory.layout(schedule, N, k, **settings)
    assert laid.makespan == theory.makespan(schedule, N, k, **settings)
    # All solves of k iterations, each once and in its time, none beside another of the same worker.
    wanted = {(False, j, n) for j in range(k + 1) for n in range(j, N)} | {
        (True, j, n) for j in range(k) for n in range(j, N)
    }
    assert len(laid.solves) == len(wanted)
    assert {(one.fine, one.iterate, one.slice) for one in laid.solves} == wanted
    for one in laid.solves:
        took = settings["fine" if one.fine else "coarse"][one.slice]
        assert one.end - one.start == pytest.approx(took, rel=1e-12)
        assert one.worker < laid.workers
        if placement == "owner":
            owners = min(P or N, N)
            assert one.worker == one.slice * owners // N
        elif placement == "manager":
            assert (one.worker > 0) == one.fine
    for worker in range(laid.workers):
        own = sorted((one.start, one.end) for one in laid.solves if one.worker == worker)
        assert all(before[1] <= after[0] for before, after in pairwise(own))
    # None begins before what its state is made of has ended.
    ends = {(one.fine, one.iterate, one.slice): one.end for one in laid.solves}
    for one in laid.solves:
        j, n = one.iterate, one.slice
        needs = [(True, j - 1, n - 1)] if j else []
        needs += [(False, j, n - 1)] if n > j else []
        needs += [(False, j - 1, n - 1)] if 0 < j < n else []
        assert all(ends[need] <= one.start for need in needs)


@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 9), st.data())
def test_the_pipelined_estimate_is_the_time_of_a_worker_for_each_slice(N: int, tf: int, tg: int, data: Any) -> None:
    k = data.draw(st.integers(1, N - 1), label="k")
    time = theory.makespan(WAVEFRONT, N, k, fine=tf, coarse=tg, workers=N, placement="owner")
    assert time == N * tg + k * (tf + tg)
    assert theory.pipelined_speedup(N, k, tg / tf) == pytest.approx(N * tf / time, rel=1e-14)
    assert theory.speedup(WAVEFRONT, N, k, tg / tf, workers=N, placement="owner") == pytest.approx(N * tf / time)


@given(st.integers(1, 12), st.integers(0, 40).map(lambda i: i / 20), st.integers(1, 14), st.data())
def test_speed_up_lies_between_its_estimates(N: int, ratio: float, P: int, data: Any) -> None:
    k = data.draw(st.integers(1, N), label="k")
    above = 1 + 1e-12
    limit = theory.speedup_limit(N, k, ratio)
    assert theory.speedup(WAVEFRONT, N, k, ratio) == pytest.approx(limit)
    assert theory.classical_speedup(N, k, ratio) <= theory.speedup(BARRIER, N, k, ratio, workers=N) * above
    assert theory.speedup(BARRIER, N, k, ratio, workers=N) <= limit * above
    assert theory.classical_speedup(N, k, ratio) <= theory.pipelined_speedup(N, k, ratio) * above
    assert theory.pipelined_speedup(N, k, ratio) <= limit * above <= N / k * above**2
    few = theory.speedup_limit(N, k, ratio, workers=P)
    assert few <= P * above  # no efficiency above one
    for schedule in (BARRIER, WAVEFRONT):
        made = theory.speedup(schedule, N, k, ratio, workers=P)
        assert made <= few * above
    assert few <= (2 - 1 / P) * theory.speedup(WAVEFRONT, N, k, ratio, workers=P) * above
    assert theory.speedup(BARRIER, N, k, ratio, workers=1) == pytest.approx(
        theory.speedup_limit(N, k, ratio, workers=1)
    )


@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 3), st.data())
def test_rounds_are_the_time_of_unlimited_workers(N: int, S: int, evaluations: int, data: Any) -> None:
    """The first evaluation, which both propagators share, is on the way of `Barrier` once an iteration less."""
    k = data.draw(st.integers(1, N), label="k")
    fine = (pr.Euler, pr.Heun, pr.Kutta3)[evaluations - 1]()
    phi = S * evaluations
    rounds = theory.rounds(WAVEFRONT, N, S, k, fine=fine)
    assert rounds == theory.makespan(WAVEFRONT, N, k, fine=phi, coarse=1)
    assert theory.rounds(BARRIER, N, S, k, fine=fine) == theory.makespan(BARRIER, N, k, fine=phi - 1, coarse=1)


def test_thousands_of_workers() -> None:
    time = theory.makespan(WAVEFRONT, 4096, 8, fine=64.0, coarse=1.0, workers=4096, placement="owner")
    assert time == 4096 + 8 * 65
    assert (
        theory.makespan(WAVEFRONT, 4096, 8, fine=64.0, coarse=1.0, workers=4097, placement="manager") >= 4096 * 9 - 36
    )
    few = theory.makespan(WAVEFRONT, 4096, 8, fine=64.0, coarse=1.0, workers=1000)
    assert np.isclose(theory.speedup_limit(4096, 8, 1 / 64, workers=1000), 4096 * 64 / few, rtol=0.5)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"fine": -1.0}, ValueError, "fine=-1.0 is no time"),
        ({"coarse": [1.0, 2.0]}, ValueError, "coarse holds 2 times; expected 4, one for each slice"),
        ({"placement": "here"}, ValueError, "placement='here' is unknown; expected one of 'any', 'owner', 'manager'"),
        ({"workers": 1, "placement": "manager"}, ValueError, "workers=1 is too small; expected at least 2"),
        ({"schedule": pr.Windowed(2)}, TypeError, r"expected pr\.Barrier\(\) or pr\.Wavefront\(\)"),
    ],
)
def test_what_has_no_time_is_named(options: Any, error: type[Exception], says: str) -> None:
    options = {"schedule": WAVEFRONT, "slices": 4, "iterations": 2, "fine": 1.0, "coarse": 0.1, **options}
    with pytest.raises(error, match=says):
        theory.makespan(**options)
    with pytest.raises(ValueError, match=r"ratio=-1 is out of range"):
        theory.classical_speedup(4, 2, -1)
