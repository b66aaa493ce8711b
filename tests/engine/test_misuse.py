"""Functions that break a promise silently are caught, or do no harm: buffers used twice, work in place, no requests."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies import equal
from torch import Tensor

import parareal as pr
from parareal.integrators import Integrator
from parareal.problem._ode import Stages

GRID = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=3)
U0 = torch.tensor([1.0, -2.0], dtype=torch.float64)
OPTIONS: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Heun(), "stop": pr.Iterations(2)}
EXPECTED = pr.solve(pr.ODE(lambda t, u: -u), U0, GRID, **OPTIONS)


# --- one buffer for all results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [pr.Batched(), pr.Serial(), pr.Batched(max_lanes=2)])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_one_buffer_for_all_results_does_no_harm_lane_by_lane(kind: str, executor: Any) -> None:
    tensor, array = torch.empty(2, dtype=torch.float64), np.empty(2)

    def f(t: Tensor, u: Tensor) -> Any:
        return torch.neg(u, out=tensor) if kind == "torch" else np.negative(u.numpy(), out=array)

    run = pr.solve(pr.ODE(f, batching="loop"), U0, GRID, **OPTIONS, executor=executor)
    torch.testing.assert_close(run.us, EXPECTED.us, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("batching", "u0"), [("native", U0), ("fold", U0[None]), ("vmap", U0)])
def test_one_buffer_for_all_results_is_noticed(batching: Any, u0: Tensor) -> None:
    buffers: dict[Any, Tensor] = {}

    def f(t: Tensor, u: Tensor) -> Tensor:
        return torch.neg(u, out=buffers.setdefault(u.shape, torch.empty_like(u)))

    with pytest.raises(ValueError, match=r"in the memory of its last result.*buffer\.clone\(\)"):
        pr.serial(pr.ODE(f, batching=batching), u0, GRID, fine=pr.RK4())


def test_returning_the_same_constant_is_fine() -> None:
    one = torch.ones(1, 2, dtype=torch.float64)
    ref = pr.serial(pr.ODE(lambda t, u: one, batching="native"), U0, GRID, fine=pr.RK4())
    torch.testing.assert_close(ref.u, U0 + 1.0, rtol=1e-14, atol=1e-15)


def test_propagators_with_one_buffer() -> None:
    buffer, rows = torch.empty(2, dtype=torch.float64), torch.empty(1, 2, dtype=torch.float64)

    def fn(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        return torch.mul(u, torch.exp(t0 - t1), out=buffer)

    sol = pr.solve(pr.ODE(lambda t, u: -u), U0, GRID, fine=pr.Propagator(fn), coarse=pr.Euler())
    torch.testing.assert_close(sol.us[-1], U0 * torch.exp(torch.tensor(-1.0, dtype=torch.float64)))

    def native(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        return torch.mul(u, 0.5, out=rows)

    with pytest.raises(ValueError, match=r"fn changed the state|fn returned a tensor in the memory"):
        pr.serial(pr.ODE(lambda t, u: -u), U0, GRID, fine=pr.Propagator(native, batching="native"))


# --- work in place ----------------------------------------------------------------------------------------------------


def test_numpy_code_in_place_reaches_neither_the_engine_nor_the_caller() -> None:
    def f(t: Tensor, u: Tensor) -> Any:
        array = u.numpy()
        array *= -1.0  # torch does not see this
        return array

    u0 = U0.clone()
    problem = pr.ODE(f, batching="loop")
    assert torch.equal(pr.serial(problem, u0, GRID, fine=pr.RK4()).us, pr.serial(problem, u0, GRID, fine=pr.RK4()).us)
    run = pr.solve(problem, u0, GRID, **OPTIONS)
    torch.testing.assert_close(run.us, EXPECTED.us, rtol=1e-14, atol=1e-15)
    assert torch.equal(u0, U0)


def test_the_sequential_run_gives_away_a_copy_of_the_initial_state() -> None:
    u0, seen = U0.clone(), []

    def f(t: Tensor, u: Tensor) -> Tensor:
        seen.append(u)
        return -u

    pr.serial(pr.ODE(f, batching="native"), u0, GRID, fine=pr.Euler())
    assert all(u.untyped_storage().data_ptr() != u0.untyped_storage().data_ptr() for u in seen)


# --- methods of one's own ---------------------------------------------------------------------------------------------


class Closed(Integrator):
    """The exact flow of du/dt = -u, which asks for nothing."""

    steps = None
    order = None
    evaluations = 0

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Stages:
        return u * torch.exp(t0 - t1)[:, None]
        yield


@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront()])
def test_steps_that_ask_for_nothing(schedule: pr.Schedule) -> None:
    problem, exact = pr.ODE(lambda t, u: -u), torch.exp(-GRID.edges)[:, None] * U0
    free = pr.solve(problem, U0, GRID, fine=pr.RK4(), coarse=Closed(), schedule=schedule)
    assert free.stats.coarse_evaluations == 0
    assert free.iterations == 1
    torch.testing.assert_close(free.us, exact, rtol=1e-4, atol=0.0)
    both = pr.solve(problem, U0, GRID, fine=Closed(), coarse=Closed(), schedule=schedule)
    assert both.stats.rounds == 0
    torch.testing.assert_close(both.us, exact, rtol=1e-14, atol=0.0)
    fine = pr.solve(problem, U0, GRID, fine=Closed(), coarse=pr.Heun(), schedule=schedule, stop=pr.Tolerance(0, 0))
    torch.testing.assert_close(fine.us, exact, rtol=1e-14, atol=0.0)
    torch.testing.assert_close(pr.serial(problem, U0, GRID, fine=Closed()).us, exact, rtol=1e-14, atol=0.0)


class LateStarter(Closed):
    """Says that its first request is the right-hand side at the left end, and asks for something else."""

    shares_first_stage = True

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Stages:
        k = yield problem.rhs, t1, u
        return u + (t1 - t0)[:, None] * k


def test_a_broken_promise_about_the_first_stage_names_the_method() -> None:
    with pytest.raises(RuntimeError, match=r"LateStarter object.*shares_first_stage=True"):
        pr.solve(pr.ODE(lambda t, u: -u), U0, GRID, fine=pr.RK4(), coarse=LateStarter())


class Wide(pr.Correction):
    """Returns a state that is too long."""

    propagator = None
    uses_input = True

    def guess(self, at: Any, new: Any) -> Any:
        return new.u

    def difference(self, at: Any, new: Any, old: Any) -> Any:
        return torch.cat([new.u, old.u], dim=1)


def test_what_a_correction_returns_is_checked() -> None:
    with pytest.raises(ValueError, match=r"the correction's difference returned shape \(\d, 4\)"):
        pr.solve(pr.ODE(lambda t, u: -u), U0, GRID, fine=pr.RK4(), coarse=Wide())


# --- what travels -----------------------------------------------------------------------------------------------------


def decay(t: Any, u: Any) -> Any:
    return -u


def half(t0: Any, t1: Any, u: Any) -> Any:
    return u * 0.5


def test_problems_and_errors_can_be_pickled() -> None:
    problem = pickle.loads(pickle.dumps(pr.ODE(decay, batching="vmap", per_sample=None)))
    assert equal(pr.solve(problem, U0, GRID, **OPTIONS).us, EXPECTED.us)
    fn = pickle.loads(pickle.dumps(pr.Propagator(half, batching="vmap")))
    assert pr.serial(problem, U0, GRID, fine=fn).u.tolist() == [0.0625, -0.125]
    with pytest.raises(pr.SolveError) as caught:
        pr.solve(problem, U0, GRID, fine=pr.RK4(), coarse=pr.Euler(), stop=pr.Tolerance(0, 0), max_iterations=1)
    error = pickle.loads(pickle.dumps(caught.value))
    assert str(error) == str(caught.value)
    assert equal(error.solution.us, caught.value.solution.us)


class ClosedError(Exception):
    """Takes no attributes beyond its own."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class ClosedRuntimeError(RuntimeError):
    """Another, of a kind that the library adds a note to."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


@pytest.mark.parametrize("error", [ClosedError, ClosedRuntimeError, StopIteration])
@pytest.mark.parametrize("lowered", [False, True])
@pytest.mark.parametrize("batching", ["vmap", "loop"])
def test_an_exception_that_takes_no_attributes_still_comes_through(
    batching: Any, lowered: bool, error: type[Exception], tmp_path: Path
) -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        raise error

    problem, fine = pr.ODE(f, batching=batching), pr.RK4()
    two = pr.Batched(devices=["cpu", "cpu"])
    runs: list[Callable[[], pr.Solution]] = [
        lambda: pr.serial(problem, U0, GRID, fine=fine),
        lambda: pr.solve(problem, U0, GRID, fine=fine, coarse=pr.Euler(), checkpoint=str(tmp_path / "run")),
        lambda: pr.solve(problem, U0, GRID, fine=fine, coarse=pr.Euler(), executor=two),
    ]
    for run in runs:
        with pytest.raises(error), torch.autocast("cpu", enabled=lowered):
            run()


# --- how a run ended --------------------------------------------------------------------------------------------------


def test_a_run_that_accepted_slices_by_tolerance_does_not_call_itself_final() -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        return torch.sin(3 * t) * u

    grid = pr.TimeGrid.uniform(0.0, 4.0, slices=12, steps=4)
    loose = {"fine": pr.RK4(), "coarse": pr.Euler(steps=3), "stop": pr.Tolerance(1e-2, 0.0, freeze=True)}
    sol = pr.solve(pr.ODE(f), U0, grid, **loose)
    assert sol.status is pr.Status.CONVERGED
    assert not torch.equal(sol.us, pr.serial(pr.ODE(f), U0, grid, fine=pr.RK4()).us)
    exact = pr.solve(pr.ODE(f), U0, grid, **{**loose, "stop": pr.Tolerance(0.0, 0.0, freeze=True)})
    assert exact.status is pr.Status.FINAL


def test_a_batch_is_as_well_off_as_its_worst_sample() -> None:
    status = pr.Status
    assert status.worst((status.FINAL, status.FINAL)) is status.FINAL
    assert status.worst((status.CONVERGED, status.FINAL)) is status.CONVERGED
    assert status.worst((status.FINAL, status.NONFINITE, status.CONVERGED)) is status.NONFINITE
    assert status.worst((status.ITERATIONS, status.FINAL)) is status.ITERATIONS
