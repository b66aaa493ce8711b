"""What a run keeps of its iterations: the increments of all slices, or a summary that does not grow with them."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parareal as pr
from parareal.results._history import Moved

PROBLEM = pr.ODE(lambda t, u: torch.cos(t) * u - u * u)
U0 = torch.tensor([[1.0, 0.2], [0.5, 2.0], [1e-3, 0.7]], dtype=torch.float64)


def run(slices: int = 24, width: int | None = 5, **options: Any) -> pr.Solution:
    schedule = None if width is None else pr.Windowed(width)
    call: dict[str, Any] = {"fine": pr.Heun(), "coarse": pr.Identity(), "schedule": schedule}
    return pr.solve(PROBLEM, U0, pr.TimeGrid.uniform(0.0, 3.0, slices), **{**call, **options})


def largest(table: np.ndarray) -> list[float]:
    """Of rows over slices, without NaN."""
    rows = table.reshape(-1, table.shape[-1])
    return [max((float(x) for x in row if not np.isnan(x)), default=float("nan")) for row in rows]


@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("width", [None, 5])
def test_a_summary_has_the_largest_increments_and_all_else(samples: bool, width: int | None) -> None:
    full = run(width=width, samples=samples)
    brief = run(width=width, samples=samples, history="summary")
    assert len(full.history) == len(brief.history) > 2
    for report, short in zip(full.history, brief.history, strict=True):
        expected = largest(report.increments.numpy())
        for each in (report, short):
            assert torch.as_tensor(each.increment, dtype=torch.float64).reshape(-1).tolist() == pytest.approx(
                expected, nan_ok=True, abs=0
            )
            assert each.slices == 24
        assert (short.iteration, short.rounds, short.evaluations) == (
            report.iteration,
            report.rounds,
            report.evaluations,
        )
        assert torch.equal(torch.as_tensor(short.frontier), torch.as_tensor(report.frontier))
        assert short.kept is None
        assert not hasattr(short, "increments")
    with pytest.raises(AttributeError, match=r"kept a summary.*history=\"full\""):
        _ = brief.history[0].increments
    assert torch.equal(torch.as_tensor(full.us), torch.as_tensor(brief.us))
    assert "slices=24" in repr(brief)
    assert repr(brief.history[0]) == repr(full.history[0])  # figures only, so that it fits in a line
    assert "increment=" in repr(brief.history[0])


def test_without_dense_a_summary_is_what_is_kept_unless_asked_otherwise() -> None:
    assert run().history[0].increments.shape == (24,)
    assert run(dense=False).history[0].kept is None
    assert run(dense=False, history="full").history[0].increments.shape == (24,)


@pytest.mark.parametrize("history", ["none", "all", True, 3])
def test_unknown_histories_are_refused(history: Any) -> None:
    error = ValueError if isinstance(history, str) else TypeError
    with pytest.raises(error, match=r"history(=.* is unknown| is an? (bool|int)); expected one of 'full', 'summary'"):
        run(history=history)


def test_the_callback_sees_increments_of_all_slices() -> None:
    seen: list[pr.IterationReport] = []
    sol = run(history="summary", callback=seen.append)
    full = run()
    for report, expected in zip(seen, full.history, strict=True):
        torch.testing.assert_close(report.increments, expected.increments, rtol=0, atol=0, equal_nan=True)
    assert all(report.kept is None for report in sol.history)


def test_reports_can_be_copied_and_pickled() -> None:
    for sol in (run(samples=True), run(history="summary")):
        for made in (copy.deepcopy(sol.history), pickle.loads(pickle.dumps(sol.history))):
            assert [repr(report) for report in made] == [repr(report) for report in sol.history]


@pytest.mark.parametrize("samples", [False, True])
def test_histories_that_are_summaries_in_part_go_into_files(samples: bool, tmp_path: Path) -> None:
    begun = run(width=None, samples=samples, stop=pr.Iterations(3))
    options: dict[str, Any] = {"samples": samples, "stop": pr.Iterations(6), "resume": begun}
    for kept in (begun, run(width=None, **options, history="summary"), run(samples=samples, dense=False)):
        kept.save(tmp_path / "run")
        again = pr.Solution.load(tmp_path / "run")
        assert repr(again.history.to_dict()) == repr(kept.history.to_dict())
        assert repr(again.history) == repr(kept.history)
        assert [report.slices for report in again.history] == [24] * len(kept.history)
    both = run(width=None, **options, history="summary").history.to_dict()
    assert [each is None for each in both["increments"]] == [False] * 3 + [True] * 3
    assert len(both["increment"]) == 6


def test_a_frame_needs_all_slices() -> None:
    pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=r"a row for each slice.*history=\"full\""):
        run(dense=False).history.to_frame()


@given(st.lists(st.lists(st.sampled_from([0.0, float("nan"), 1.5, float("inf")]), min_size=6, max_size=6), max_size=3))
def test_increments_that_wait_for_other_samples_come_back_as_they_were(rows: list[list[float]]) -> None:
    moved, expected = Moved(3, 6), np.zeros((3, 6))
    for system, row in enumerate(rows):
        moved.put(system, np.array(row))
        expected[system] = row
    np.testing.assert_array_equal(moved.table(), expected)


def grown(slices: int, samples: bool) -> int:
    """By how many bytes what numpy and Python hold grows from the 20th to the 100th iteration."""
    at: list[int] = []

    def look(report: pr.IterationReport) -> bool:
        if report.iteration in (20, 100):
            at.append(tracemalloc.get_traced_memory()[0])
        return report.iteration == 100

    grid = pr.TimeGrid.uniform(0.0, 3.0, slices)
    u0 = torch.tensor([[1e-6, 0.0], [1.0, -1.0]], dtype=torch.float64)  # the first is through long before the second
    problem = pr.ODE(lambda t, u: torch.cos(40 * t) * u)
    tracemalloc.start()
    try:
        options: dict[str, Any] = {"fine": pr.Euler(), "coarse": pr.Identity(), "schedule": pr.Windowed(16)}
        stop = pr.Tolerance(1e-9, 1e-9)
        pr.solve(problem, u0, grid, samples=samples, dense=False, stop=stop, callback=look, throw=False, **options)
    finally:
        tracemalloc.stop()
    return at[1] - at[0]


@pytest.mark.parametrize("samples", [False, True])
def test_without_dense_nothing_grows_with_the_slices_for_every_iteration(samples: bool) -> None:
    assert grown(20_000, samples) < 400_000  # 80 iterations of all slices are 12.8 MB


def test_increments_that_wait_take_the_room_of_a_window() -> None:
    row = np.zeros(100_000)
    row[500:516], row[516:] = np.arange(16) + 1.0, np.nan
    moved = Moved(1, len(row))
    moved.put(0, row)
    assert len(pickle.dumps(moved)) < 1_000
    np.testing.assert_array_equal(moved.table()[0], row)
