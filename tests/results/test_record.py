"""What is kept of a run for those who study it: iterates, what the propagators made of them, the history as a table."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, equal, on_leaves, part

import parareal as pr

GRID = pr.TimeGrid.uniform(0.0, 4.0, slices=6, steps=4)
U0 = torch.tensor([[1.0, -0.5], [0.2, 0.1], [0.9, 0.9]], dtype=torch.float64)
PROBLEM = pr.ODE(lambda t, u: torch.cos(t) * u - u**3)


def run(**options: Any) -> pr.Solution:
    return pr.solve(PROBLEM, U0, GRID, **{"fine": pr.RK4(), "coarse": pr.Euler(), "executor": pr.Serial(), **options})


def solve(case: Case, coarse: pr.Correction, **options: Any) -> pr.Solution:
    call = {"executor": pr.Serial(), **options}
    return pr.solve(case.problem, case.u0, case.grid, fine=case.fine, coarse=coarse, **call)


@given(own.cases(), own.corrections(), st.sampled_from((pr.Barrier(), pr.Wavefront(), pr.Windowed(1))), st.booleans())
def test_keeping_all_changes_nothing(case: Case, coarse: pr.Correction, schedule: pr.Schedule, never: bool) -> None:
    stop = pr.Tolerance(0.0, 0.0) if never else pr.Tolerance(1e-3)
    plain, kept = (solve(case, coarse, schedule=schedule, stop=stop, keep=keep) for keep in ("last", "all"))
    assert plain.iterates is None
    assert equal(plain.us, kept.us)
    ours, theirs = ({**sol.stats.to_dict(), "wall_time": 0} for sol in (plain, kept))
    assert ours == theirs
    last = len(kept.iterates.has_u) - 1
    assert equal(kept.iterates.after(last), kept.us)


@given(own.cases(one_step=True), own.corrections(one_step=True), st.data())
def test_the_iterates_are_those_of_shorter_runs(case: Case, coarse: pr.Correction, data: st.DataObject) -> None:
    most = data.draw(st.integers(1, case.grid.num_slices), label="most")
    kept = solve(case, coarse, schedule=pr.Barrier(), stop=pr.Iterations(most), keep="all").iterates
    assert len(kept.has_u) == most + 1
    k = data.draw(st.integers(1, most), label="k")
    assert equal(kept.after(k), solve(case, coarse, schedule=pr.Barrier(), stop=pr.Iterations(k)).us)


def propagated(case: Case, method: pr.Integrator, u: Any, n: int) -> Any:
    """A method over slice ``n``, on its own."""
    first, last = case.grid.bounds[n], case.grid.bounds[n + 1]
    grid = pr.TimeGrid(case.grid.points[first : last + 1], (0, last - first))
    return pr.serial(case.problem, u, grid, fine=method).u


@given(own.cases(one_step=True), st.sampled_from(own.METHODS), st.none() | st.integers(1, 2), st.data())
def test_what_the_propagators_made_of_the_iterates(
    case: Case, make: Any, steps: int | None, data: st.DataObject
) -> None:
    schedule = data.draw(st.sampled_from((pr.Barrier(), pr.Wavefront())), label="schedule")
    kept = solve(case, pr.Coarse(make(steps=steps)), schedule=schedule, stop=pr.Iterations(2), keep="all").iterates
    solutions = (kept.fine, kept.has_fine, case.fine), (kept.coarse, kept.has_coarse, make(steps=steps or 1))
    for table, mask, method in solutions:
        for k, n in mask.nonzero().tolist():
            assert kept.has_u[k, n]
            assert equal(part(table, (k, n)), propagated(case, method, part(kept.u, (k, n)), n))


def test_the_recursion_can_be_read_off() -> None:
    kept = run(keep="all", stop=pr.Iterations(4)).iterates
    u, f, g = kept.u, kept.fine, kept.coarse
    assert (u.shape, f.shape, g.shape) == ((5, 7, 3, 2), (5, 6, 3, 2), (5, 6, 3, 2))
    for k in range(3):
        for n in range(k + 1, 6):
            assert torch.equal(u[k + 1, n + 1], f[k, n] + (g[k + 1, n] - g[k, n]))


def test_what_was_not_computed_is_nan_and_marked() -> None:
    kept = run(keep="all", stop=pr.Iterations(3)).iterates
    for table, mask in ((kept.u, kept.has_u), (kept.fine, kept.has_fine), (kept.coarse, kept.has_coarse)):
        assert torch.equal(table.isnan().all(-1).all(-1), ~mask)
        assert torch.equal(table.isnan().any(-1).any(-1), ~mask)
    # Edge n is final after n iterations, edge 0 from the start; from the last iterates nothing was solved any more.
    assert kept.has_u.sum(0).tolist() == [1, 2, 3, 4, 4, 4, 4]
    assert kept.has_fine.sum(1).tolist() == [6, 5, 4, 0]


@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront(), pr.Windowed(3)], ids=repr)
@pytest.mark.parametrize("samples", [False, True])
def test_who_was_in_which_round(schedule: pr.Schedule, samples: bool) -> None:
    sol = run(keep="all", schedule=schedule, samples=samples, stop=pr.Tolerance(1e-6, 0.0))
    kept, stats = sol.iterates, sol.stats
    begun, ended, fine, iterate, n, *sample = kept.lanes.T
    assert kept.lanes.shape[1] == 5 + samples
    assert bool((ended == begun + 1).all())
    assert (len(begun), int(fine.sum())) == (stats.evaluations, stats.fine_evaluations)
    assert begun.bincount().shape == (stats.rounds,)
    assert int(begun.bincount().max()) == stats.max_lanes
    # RK4 makes 16 evaluations in a slice, of which the coarse lane makes the first; every solve that is recorded made
    # all of them, and what was broken off fewer.
    for made, mask, most in ((fine == 1, kept.has_fine, 15), (fine == 0, kept.has_coarse, 1)):
        count = torch.zeros_like(mask, dtype=torch.int64)
        count.index_put_((iterate[made], n[made], *(x[made] for x in sample)), torch.tensor(1), accumulate=True)
        assert bool((count[mask] == most).all())
        assert bool((count[~mask] < most).all())


def test_rounds_are_counted_on_after_a_resume() -> None:
    first = run(keep="all", stop=pr.Iterations(2))
    rest = run(keep="all", stop=pr.Iterations(4), resume=first)
    before, lanes = first.iterates.lanes, rest.iterates.lanes
    assert torch.equal(lanes[: len(before)], before)
    assert lanes[len(before), 0] == first.stats.rounds
    assert (len(lanes), lanes[-1, 1]) == (rest.stats.evaluations, rest.stats.rounds)
    alone = run(keep="all", stop=pr.Iterations(4), resume=run(stop=pr.Iterations(2))).iterates.lanes
    assert torch.equal(alone, lanes[len(before) :])


def test_no_coarse_solutions_without_a_propagator() -> None:
    kept = run(keep="all", coarse=pr.Identity()).iterates
    assert kept.coarse is None
    assert kept.has_coarse is None


@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront(), pr.Windowed(3)], ids=repr)
def test_samples_have_their_own_iterates(schedule: pr.Schedule) -> None:
    sol = run(keep="all", samples=True, schedule=schedule, stop=pr.Tolerance(1e-6, 0.0))
    kept = sol.iterates
    assert kept.u.shape[1:] == (7, 3, 2)
    assert kept.has_fine.shape[1:] == (6, 3)
    assert equal(kept.after(len(kept.has_u) - 1), sol.us)
    for i in range(3):
        alone = pr.solve(
            PROBLEM,
            U0[i],
            GRID,
            fine=pr.RK4(),
            coarse=pr.Euler(),
            executor=pr.Serial(),
            schedule=schedule,
            stop=pr.Tolerance(1e-6, 0.0),
            keep="all",
        ).iterates
        size = len(alone.has_u)
        assert torch.equal(kept.has_u[:size, :, i], alone.has_u)
        assert torch.equal(kept.u[:size, :, i][alone.has_u], alone.u[alone.has_u])
        assert torch.equal(kept.fine[:size, :, i][alone.has_fine], alone.fine[alone.has_fine])


def test_nests_keep_their_structure() -> None:
    u0 = {"x": torch.ones(2), "y": (torch.tensor(1 + 1j),)}
    problem = pr.ODE(lambda t, u: on_leaves(lambda leaf: -leaf, u))
    kept = pr.solve(problem, u0, GRID, fine=pr.RK4(), coarse=pr.Euler(), keep="all", stop=pr.Iterations(2)).iterates
    assert kept.u["x"].shape == (3, 7, 2)
    assert kept.fine["y"][0].shape == (3, 6)
    assert kept.fine["y"][0].dtype == torch.complex64
    with pytest.raises(ValueError, match=r"k=3 is no iterate.*0 \.\.\. 2"):
        kept.after(3)
    with pytest.raises(TypeError, match=r"k=1\.0 is a float"):
        kept.after(1.0)  # pyright: ignore[reportArgumentType]


def test_a_record_goes_on_with_the_run() -> None:
    whole = run(keep="all", stop=pr.Iterations(5)).iterates
    first = run(keep="all", stop=pr.Iterations(2))
    both = run(keep="all", stop=pr.Iterations(5), resume=first).iterates
    for name in ("u", "fine", "coarse"):
        has = getattr(whole, f"has_{name}")
        assert torch.equal(getattr(both, f"has_{name}"), has)
        assert torch.equal(getattr(both, name)[has], getattr(whole, name)[has])
    assert run(stop=pr.Iterations(5), resume=first).iterates is None


def test_an_interrupted_run_has_its_record() -> None:
    def callback(report: pr.IterationReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run(keep="all", callback=callback)
    assert caught.value.solution.iterates.has_fine.sum(1).tolist() == [6, 0]  # type: ignore[attr-defined]


def test_what_is_kept_is_one_of_two() -> None:
    for keep in ("everything", True, None):
        error = ValueError if isinstance(keep, str) else TypeError
        with pytest.raises(error, match=r"keep.*; expected one of 'last', 'all'"):
            run(keep=keep)
    with pytest.raises(ValueError, match=r"keep='all' came with dense=False"):
        run(keep="all", dense=False)


# --- the history as a table ------------------------------------------------------------------------------------------


def test_history_as_a_dict() -> None:
    sol = run(stop=pr.Iterations(3))
    assert isinstance(sol.history, pr.History)
    columns = json.loads(json.dumps(sol.history.to_dict()))
    assert list(columns) == ["iteration", "increments", "frontier", "rounds", "evaluations", "increment"]
    assert columns["iteration"] == columns["frontier"] == [1, 2, 3]
    assert columns["rounds"] == [report.rounds for report in sol.history]
    assert columns["increments"] == [report.increments.tolist() for report in sol.history]
    samples = run(stop=pr.Iterations(3), samples=True).history.to_dict()
    assert samples["frontier"] == [[1] * 3, [2] * 3, [3] * 3]
    assert pr.serial(PROBLEM, U0, GRID, fine=pr.RK4()).history.to_dict() == {name: [] for name in columns}


def test_history_as_a_frame() -> None:
    pytest.importorskip("pandas")
    sol = run(stop=pr.Iterations(3))
    frame = sol.history.to_frame()
    assert list(frame.columns) == ["iteration", "slice", "increment", "final", "rounds", "evaluations"]
    table = frame.pivot(index="iteration", columns="slice", values="increment").to_numpy()
    assert torch.equal(torch.from_numpy(table.copy()), torch.stack([report.increments for report in sol.history]))
    assert frame.groupby("iteration").final.sum().tolist() == [1, 2, 3]
    samples = run(stop=pr.Tolerance(1e-4), samples=True)
    frame = samples.history.to_frame()
    assert len(frame) == len(samples.history) * 3 * 6
    last = frame[(frame["iteration"] == 2) & (frame["sample"] == 1)].increment.to_numpy()
    assert torch.equal(torch.from_numpy(last.copy()), samples.history[1].increments[1])


def test_a_frame_without_pandas_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install .*\[pandas\].*to_dict"):
        run().history.to_frame()
