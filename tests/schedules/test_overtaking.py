"""Lanes that arrive in another order than they set out in, and what is kept for those that come after them.

All of it against the recursion written as plain loops, iterate by iterate: a run would end in the same place otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from varying import Varying

import parareal as pr
from parareal._core.arrival_queue import Queue
from parareal.engine._engine import Engine

D = torch.float64


@dataclass(frozen=True)
class Late(Varying):
    """Euler with many calls from states below a bound, which first guesses are, and one from others."""

    calls: int
    bound: float
    steps: int | None = None
    apart = True

    def more(self, u: Any) -> int:
        return self.calls if float(u) < self.bound else 0


def textbook(h: float, N: int, K: int) -> list[list[float]]:
    """Picard's iterates for u' = 1 + u / 4, from 0."""
    rows = [[0.0] * (N + 1)]
    for _ in range(K):
        old, new = rows[-1], [0.0]
        for n in range(N):
            new.append(old[n] + h * (1 + old[n] / 4) + (new[n] - old[n]))
        rows.append(new)
    return rows


@pytest.mark.parametrize("calls", [0, 3, 7, 40])
@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront(), pr.Windowed(4)], ids=lambda s: type(s).__name__)
def test_iterates_are_those_of_the_recursion_whichever_lane_arrives_first(schedule: pr.Schedule, calls: int) -> None:
    """Lanes from first guesses arrive after those from the next iterates: each iterate waits for its own."""
    N, h, start = 4, 0.5, torch.zeros((), dtype=D)
    sol = pr.solve(
        pr.ODE(lambda t, u: 1 + u / 4),
        start,
        pr.TimeGrid.uniform(0.0, N * h, slices=N),
        fine=Late(calls, 0.1),
        coarse=pr.Identity(),
        schedule=schedule,
        stop=pr.Iterations(N),
        executor=pr.Serial(),
        keep="all",
    )
    kept, expected = sol.iterates, torch.tensor(textbook(h, N, N), dtype=D)
    assert kept is not None
    assert kept.has_u[1, 1:].any()
    torch.testing.assert_close(kept.u[kept.has_u], expected[: len(kept.u)][kept.has_u], rtol=1e-14, atol=0)
    fine = expected[:, :-1] + h * (1 + expected[:, :-1] / 4)
    torch.testing.assert_close(kept.fine[kept.has_fine], fine[: len(kept.fine)][kept.has_fine], rtol=1e-14, atol=0)


def arrivals(queue: Queue, *numbers: int, final: tuple[int, ...] = ()) -> list[list[int]]:
    """What comes out when lanes of these numbers arrive, each with its number as state."""
    arrived = [(np.array([n]), torch.tensor([[float(n)]])) for n in numbers]
    waves = queue.in_order(arrived, lambda ids: np.isin(ids, final))
    assert all(u[:, 0].tolist() == ids.tolist() for ids, u in waves)
    return [ids.tolist() for ids, _ in waves]


def test_only_lanes_from_final_states_pass_others() -> None:
    queue = Queue(places=2)
    queue.started(np.array([0, 1]))  # iterate 0 of places 0 and 1
    queue.started(np.array([2, 3, 4]))  # iterate 1 of both, and 2 of place 0
    assert arrivals(queue, 2, 3) == []
    assert arrivals(queue, 1) == [[1], [3]]
    assert arrivals(queue, 4, final=(4,)) == [[4]]  # 0 and 2 are passed
    assert arrivals(queue, 0) == []


def test_a_lane_held_back_goes_on_once_its_state_is_final() -> None:
    queue = Queue(places=1)
    queue.started(np.array([0, 1, 2]))
    assert arrivals(queue, 1) == []
    assert arrivals(queue, final=(1,)) == [[1]]
    assert arrivals(queue, 2) == [[2]]


def numbers(kept: pr.Record) -> list[list[int]]:
    """Numbers of the iterates of each edge."""
    return [kept.has_u[:, n].nonzero()[:, 0].tolist() for n in range(kept.has_u.shape[1])]


def test_an_iterate_that_is_overtaken_keeps_its_number_to_itself() -> None:
    """Coarse lanes are slower than fine ones: what is final comes before the first guess that it overtakes."""
    N = 5
    run = {"fine": pr.Euler(), "coarse": pr.Coarse(pr.RK4(steps=3)), "stop": pr.Iterations(N), "keep": "all"}
    problem, grid, u0 = pr.ODE(lambda t, u: -u), pr.TimeGrid.uniform(0.0, 1.0, slices=N), torch.ones(1, dtype=D)
    sol = pr.solve(problem, u0, grid, schedule=pr.Wavefront(), executor=pr.Serial(), **run)
    assert torch.equal(sol.us, pr.serial(problem, u0, grid, fine=pr.Euler(), executor=pr.Serial()).us)
    assert sol.iterates is not None
    # U_n is F applied n times to U_0^0: each of these lanes takes the place of an iterate that never came.
    assert numbers(sol.iterates) == [[0], [1], [2], [3], [4], [5]]


@pytest.mark.parametrize("memory", [1, 2, 3])
@pytest.mark.parametrize("cut", [3, 5, 6])
def test_mixing_goes_on_with_all_that_it_mixes(memory: int, cut: int) -> None:
    """All edges know as many iterates as are mixed, and a run gone on with is the uninterrupted one."""
    problem, u0 = pr.ODE(lambda t, u: torch.sin(3 * u.flip(0)) - u + torch.cos(t)), torch.tensor([0.4, -1.0], dtype=D)
    grid = pr.TimeGrid.from_points(torch.linspace(0.0, 4.0, 22, dtype=D), slices=11)
    run: dict[str, Any] = {"fine": pr.Euler(), "coarse": pr.Anderson(pr.Identity(), memory), "executor": pr.Serial()}
    run |= {"schedule": pr.Wavefront()}
    whole = pr.solve(problem, u0, grid, stop=pr.Iterations(cut + 2), **run)
    first = pr.solve(problem, u0, grid, stop=pr.Iterations(cut), **run)
    assert first.standing is not None
    assert first.standing.earlier is not None
    assert int(first.standing.earlier.boundaries.max()) == memory
    assert (first.standing.earlier.boundaries[first.standing.earlier.boundaries > 0] == min(memory, cut)).all()
    second = pr.solve(problem, u0, grid, stop=pr.Iterations(cut + 2), resume=first, **run)
    assert torch.equal(second.us, whole.us)


@pytest.mark.parametrize("memory", [1, 3])
def test_edges_that_may_go_back_by_one_keep_one_iterate_more_than_is_mixed(memory: int) -> None:
    problem, u0 = pr.ODE(lambda t, u: torch.sin(3 * u) + torch.cos(t)), torch.tensor([[0.4]], dtype=D)
    engine = Engine(
        problem,
        u0,
        None,
        pr.TimeGrid.uniform(0.0, 4.0, slices=12),
        pr.Euler(),
        pr.Anderson(pr.Identity(), memory),
        pr.Wavefront(),
        pr.Batched(),
        pr.Iterations(12),
        None,
    )
    engine.begin()
    for _ in range(memory + 4):
        engine.advance()
    it = engine.iterates
    state = engine.state
    _, boundary = (state.current - state.first > memory).nonzero()
    boundary = boundary[boundary > state.frontier[0]]
    assert len(boundary)
    for back in range(memory + 2):
        assert it.rings.u.has(boundary, state.current[0, boundary] - back).all()
