"""What comes out says by itself what it is: shapes, counts, sentences."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import parareal as pr

GRID = pr.TimeGrid.from_points(torch.linspace(1.0, 0.0, 11, dtype=torch.float64) ** 2, slices=4)


def run(u0: Any, **options: Any) -> pr.Solution:
    problem = pr.ODE(lambda t, u: {"x": -u["x"], "y": (u["y"][0] * 0,)} if isinstance(u, dict) else -u)
    return pr.solve(problem, u0, GRID, **{"fine": pr.Heun(), "coarse": pr.Euler(), **options})


def test_states_at_the_edges_have_the_structure_of_the_state() -> None:
    u0 = {"x": torch.ones(2, 3), "y": (torch.tensor(1 + 1j),)}
    sol = run(u0)
    assert sol.us["x"].shape == (5, 2, 3)
    assert sol.us["y"][0].shape == (5,)
    assert sol.us["y"][0].dtype == torch.complex64
    assert torch.equal(sol.us["x"][0], u0["x"])
    assert torch.equal(sol.u["x"], sol.us["x"][-1])
    assert torch.equal(sol.u["y"][0], sol.us["y"][0][-1])


def test_times_are_the_edges() -> None:
    sol = run(torch.ones(()))
    assert torch.equal(sol.ts, GRID.edges)
    assert sol.ts.dtype == torch.float64
    assert sol.us.shape == (5,)
    assert sol.u.shape == ()


def test_history() -> None:
    sol = run(torch.ones(3), stop=pr.Iterations(3))
    assert [report.iteration for report in sol.history] == [1, 2, 3]
    assert [report.frontier for report in sol.history] == [1, 2, 3]
    rounds = [report.rounds for report in sol.history]
    assert rounds == sorted(rounds)
    assert (sol.history[-1].rounds, sol.history[-1].evaluations) == (sol.stats.rounds, sol.stats.evaluations)
    for report in sol.history:
        assert report.increments.shape == (4,)
        assert report.increments.dtype == torch.float64
        assert not report.increments[: report.iteration - 1].any()


def test_stats_as_a_dict() -> None:
    stats = run(torch.ones(3)).stats
    figures = json.loads(json.dumps(stats.to_dict()))
    names = ["rounds", "evaluations", "fine_evaluations", "coarse_evaluations", "calls", "max_lanes"]
    names += ["wall_time", "padded_lanes"]
    assert list(figures) == names
    assert figures["evaluations"] == figures["fine_evaluations"] + figures["coarse_evaluations"]
    assert figures["wall_time"] > 0


def test_the_sequential_solution() -> None:
    ref = pr.serial(pr.ODE(lambda t, u: -u), torch.ones(3), GRID, fine=pr.Heun())
    assert (ref.status, ref.iterations, ref.history, ref.sample_status) == (pr.Status.FINAL, 0, (), None)
    assert ref.converged
    assert ref.stats.coarse_evaluations == 0
    assert ref.stats.max_lanes == 1


def test_repr() -> None:
    text = repr(run(torch.ones(3), stop=pr.Iterations(2)))
    assert text.startswith("Solution(ITERATIONS, slices=4, iterations=2, rounds=")
    assert "iterations=[2, 2, 2]" in repr(run(torch.ones(3), stop=pr.Iterations(2), samples=True))
    assert "tensor" not in text


def test_statuses_are_sentences() -> None:
    for status in pr.Status:
        assert len(status.value.split()) > 5
        assert status.value.endswith(".")
    reached = {pr.Status.CONVERGED, pr.Status.VERIFIED, pr.Status.FINAL}
    assert {status for status in pr.Status if status.converged} == reached
    assert pr.Status.UNCERTAIN.failed
    assert not any(status.converged and status.failed for status in pr.Status)
    assert not pr.Status.STOPPED.failed
    assert not pr.Status.ITERATIONS.failed


def test_sample_status_is_for_samples_only() -> None:
    assert run(torch.ones(3)).sample_status is None
    sol = run(torch.ones(3), samples=True)
    assert len(sol.sample_status) == 3
    assert isinstance(sol.iterations, torch.Tensor)
    assert isinstance(run(torch.ones(3)).iterations, int)


def test_a_solution_cannot_be_changed_by_accident() -> None:
    sol = run(torch.ones(3))
    with pytest.raises(AttributeError):
        sol.iterations = 99  # type: ignore[misc]
    with pytest.raises(AttributeError):
        sol.stats.rounds = 0  # type: ignore[misc]
