"""The record of where a run stands: what it says of itself, and that copies, files and messages give it back."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parareal as pr
from parareal.engine._engine import Engine
from parareal.results._run_state import PER_SYSTEM, RUNNING, LaneNumbers, RunState
from parareal.results._status import Status


def engine(schedule: pr.Schedule, samples: int = 1, coarse: Any = None, stop: Any = None) -> Engine:
    u0 = torch.linspace(0.5, 1.5, samples, dtype=torch.float64)[:, None]
    problem, grid = pr.ODE(lambda t, u: torch.cos(3 * t) * u - u * u), pr.TimeGrid.uniform(0.0, 3.0, slices=8, steps=4)
    coarse = pr.Coarse(pr.Euler()) if coarse is None else coarse
    stop = pr.Tolerance(1e-8, 0.0) if stop is None else stop
    return Engine(problem, u0, None, grid, pr.RK4(), coarse, schedule, pr.Batched(), stop, None)


@st.composite
def states(draw: st.DrawFn) -> RunState:
    """Any state between two iterations."""
    systems, slices = draw(st.integers(1, 6)), draw(st.integers(1, 7))

    def numbers(low: int, high: int, *shape: int) -> np.ndarray[Any, Any]:
        size = int(np.prod(shape))
        return np.array(draw(st.lists(st.integers(low, high), min_size=size, max_size=size))).reshape(shape)

    state = RunState.new(systems, slices)
    frontier, proven = (numbers(0, slices, systems) for _ in range(2))
    state.unpack(
        {
            "reached": np.arange(slices + 1) <= np.maximum(frontier, numbers(0, slices, systems))[:, None],
            "number": numbers(0, 9, systems),
            "iteration": numbers(0, 9, systems),
            "frontier": frontier,
            "proven": np.minimum(frontier, proven),
            "errors": numbers(0, 9, systems) / 7,
            "residuals": numbers(0, 9, systems, slices) / 7,
            "status": numbers(RUNNING, len(Status) - 1, systems),
        }
    )
    return state


def same(a: RunState, b: RunState) -> bool:
    first, second = a.pack(), b.pack()
    return all(np.array_equal(first[name], second[name]) for name in first) and repr(a) == repr(b)


@given(states(), st.data())
def test_files_messages_and_parts_give_it_back(state: RunState, data: st.DataObject) -> None:
    again = RunState.new(*state.residuals.shape)
    again.unpack(state.pack())
    assert same(again, state)
    told = RunState.new(*state.residuals.shape)
    told.unpack({name: array.astype(np.float64) for name, array in state.pack(PER_SYSTEM).items()})
    for name in PER_SYSTEM:
        np.testing.assert_array_equal(getattr(told, name), getattr(state, name))
    assert told.statuses == state.statuses
    np.testing.assert_array_equal(told.accepted, state.accepted)
    m = data.draw(st.integers(0, len(state.frontier) - 1), label="system")
    part = state.restrict(np.array([m]))
    assert all(np.array_equal(array, state.pack()[name][[m]]) for name, array in part.pack().items())


def test_a_copy_is_not_reached_by_what_comes_later() -> None:
    run = engine(pr.Wavefront())
    run.begin()
    run.advance()
    copy, text = run.state.copy(), repr(run.state)
    packed = run.state.pack()
    while run.active.any():
        run.advance()
    assert repr(copy) == text != repr(run.state)
    assert packed["iteration"].tolist() == [1]


SCHEDULES = (pr.Barrier(), pr.Wavefront(), pr.Windowed(3), pr.Windowed(8))


@pytest.mark.parametrize("coarse", [pr.Coarse(pr.Euler()), pr.Secant(pr.Identity())], ids=repr)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_what_must_hold_between_two_calls_of_the_engine(schedule: pr.Schedule, coarse: pr.Correction) -> None:
    run = engine(schedule, samples=3, coarse=coarse, stop=pr.Tolerance(1e-5, 0.0, freeze=True))
    run.begin()
    before = run.state.copy()
    while run.active.any():
        run.advance()
        now = run.state
        assert (now.proven <= now.settled).all()
        assert (now.settled <= now.frontier).all()
        assert (now.frontier <= 8).all()
        for name in ("proven", "settled", "frontier", "iteration"):
            assert (getattr(now, name) >= getattr(before, name)).all(), name
        known = np.arange(9) <= now.frontier[:, None]
        assert (now.current[known] >= 0).all()
        assert (now.lanes.fine_started <= now.current[:, :-1]).all()
        assert (now.lanes.fine_arrived <= now.lanes.fine_started).all()
        assert (now.active == [status is None for status in now.statuses]).all()
        before = now.copy()


def test_what_is_shown_in_a_debugger() -> None:
    state = RunState.new(5, 4, limit=3)
    state.iteration[0], state.frontier[0], state.errors[0] = 2, 1, 0.00123
    state.current[0] = [0, 2, 2, 1, -1]
    state.lanes = LaneNumbers(*(np.full((5, 4), -1) for _ in range(6)))
    state.lanes.fine_started[0] = [0, 2, 2, 1]
    state.lanes.fine_arrived[0] = [0, 1, 1, 1]
    state.lanes.coarse_started[0, 3] = 1
    state.end(1, Status.CONVERGED)
    lines = repr(state).splitlines()
    assert lines[:6] == [
        "RunState: 5 systems of 4 slices",
        "  system 0: running, iteration 2 of at most 3",
        "    frontier: 1 (proven 0), estimated error 0.0012",
        "    iterates of boundaries: 0 at 0, 2 at 1-2, 1 at 3",
        "    fine lanes from iterates: 2 at 1-2",
        "    coarse lanes from iterates: 1 at 3",
    ]
    assert lines[6] == "  system 1: CONVERGED, iteration 0 of at most 3"
    assert lines[8] == "    iterates of boundaries: 0 at 0"
    assert lines[9] == "    fine lanes from iterates: none"
    assert lines[-1] == "  and 1 more"
    assert len(lines) == 1 + 4 * 5 + 1
