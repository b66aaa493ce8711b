"""What a user relies on in a run: how it ends, what is kept when it is cut short, samples, gradients and memory."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

import parareal as pr

GRID = pr.TimeGrid.uniform(0.0, 4.0, slices=8, steps=4)
U0 = torch.tensor([1.0, -0.5], dtype=torch.float64)


def wave(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(t) * u - u**3


PROBLEM = pr.ODE(wave)
NEVER = pr.Tolerance(rtol=0.0, atol=0.0)


def run(problem: pr.ODE = PROBLEM, u0: Any = U0, grid: pr.TimeGrid = GRID, **options: Any) -> pr.Solution:
    return pr.solve(problem, u0, grid, **{"fine": pr.RK4(), "coarse": pr.Euler(), **options})


REF = pr.serial(PROBLEM, U0, GRID, fine=pr.RK4())


# --- how it ends -----------------------------------------------------------------------------------------------------


def test_converged_within_what_was_asked() -> None:
    for tolerance in (1e-2, 1e-4, 1e-6):
        sol = run(coarse=pr.RK4(), stop=pr.Tolerance(rtol=0.0, atol=tolerance, norm="max"))
        assert sol.status is pr.Status.CONVERGED
        assert sol.converged
        assert float(sol.history[-1].increments.max()) <= tolerance
        assert float((sol.us - REF.us).abs().max()) <= tolerance


def test_defaults_are_those_of_the_signature() -> None:
    explicit = run(schedule=pr.Wavefront(ahead=6), executor=pr.Batched(), stop=pr.Tolerance(rtol=1e-4, atol=1e-6))
    default = run()
    assert torch.equal(default.us, explicit.us)
    assert default.iterations == explicit.iterations
    assert default.stats.rounds == explicit.stats.rounds


def test_max_iterations_is_a_failure_that_carries_what_there_is() -> None:
    with pytest.raises(pr.SolveError) as caught:
        run(stop=NEVER, max_iterations=3)
    sol = caught.value.solution
    assert (sol.status, sol.iterations, sol.converged) == (pr.Status.MAX_ITERATIONS, 3, False)
    assert "throw=False" in str(caught.value)
    assert sol.status.value in str(caught.value)
    same = run(stop=NEVER, max_iterations=3, throw=False)
    assert torch.equal(same.us, sol.us)
    assert torch.equal(run(stop=pr.Iterations(3)).us, sol.us)


@pytest.mark.parametrize("most", [8, 9, 10_000, None])
def test_more_iterations_than_slices_means_as_many_as_slices(most: int | None) -> None:
    sol = run(stop=NEVER, coarse=pr.Zero(), max_iterations=most)
    assert (sol.status, sol.iterations) == (pr.Status.FINAL, 8)


def test_iterations_is_no_failure() -> None:
    sol = run(stop=pr.Iterations(2))
    assert (sol.status, sol.iterations, sol.converged) == (pr.Status.ITERATIONS, 2, False)
    assert run(stop=pr.Iterations(50)).status is pr.Status.FINAL


def explodes_after(time: float) -> pr.ODE:
    return pr.ODE(lambda t, u: torch.where(t > time, torch.full_like(u, float("nan")), -u))


def test_nan_from_the_fine_propagator_ends_the_run_where_it_happens() -> None:
    sol = run(explodes_after(1.2), throw=False)
    assert sol.status is pr.Status.NONFINITE
    assert not sol.converged
    ref = pr.serial(explodes_after(1.2), U0, GRID, fine=pr.RK4())
    assert ref.status is pr.Status.NONFINITE
    # Time 1.2 is in the third slice: it is met from a final state in the third iteration, no earlier.
    assert sol.iterations == 3
    assert sol.history[-1].frontier == 3
    torch.testing.assert_close(sol.us[:3], ref.us[:3], rtol=1e-13, atol=0.0)
    assert bool(sol.us[3].isnan().all())
    with pytest.raises(pr.SolveError, match="smaller fine steps"):
        run(explodes_after(1.2))


def test_nan_in_the_initial_state_is_met_at_once() -> None:
    sol = run(u0=torch.tensor([1.0, float("nan")], dtype=torch.float64), throw=False)
    assert (sol.status, sol.iterations) == (pr.Status.NONFINITE, 1)
    assert bool(sol.us[:2, 1].isnan().all())


def test_a_fine_propagator_that_fails_from_bad_guesses_only_does_no_harm() -> None:
    """From states above 2 there is no solution, but only the coarse guesses go there."""
    problem = pr.ODE(lambda t, u: torch.where(u > 2, torch.full_like(u, float("inf")), -u))
    far = pr.Propagator(lambda t0, t1, u: u + 5)
    sol = run(problem, coarse=far, stop=NEVER, executor=pr.Serial())
    assert sol.status is pr.Status.FINAL
    assert torch.equal(sol.us, pr.serial(problem, U0, GRID, fine=pr.RK4()).us)


def test_one_slice_is_the_sequential_run() -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=1, steps=6)
    sol = run(grid=grid, executor=pr.Serial())
    assert (sol.iterations, sol.status) == (1, pr.Status.FINAL)
    assert torch.equal(sol.us, pr.serial(PROBLEM, U0, grid, fine=pr.RK4()).us)
    assert sol.history[0].frontier == 1


def test_inputs_are_left_alone() -> None:
    u0 = {"a": torch.ones(2), "b": [torch.zeros(())]}
    problem = pr.ODE(lambda t, u: {"a": -u["a"], "b": [u["b"][0] + 1]})
    sol = run(problem, u0)
    assert u0["a"].tolist() == [1.0, 1.0]
    assert float(u0["b"][0]) == 0.0
    sol.us["a"].fill_(7.0)
    assert u0["a"].tolist() == [1.0, 1.0]


# --- callbacks, progress, interruptions ------------------------------------------------------------------------------


def test_a_callback_sees_every_iteration_and_can_stop_the_run() -> None:
    seen: list[pr.IterationReport] = []

    def callback(report: pr.IterationReport) -> bool:
        seen.append(report)
        return report.iteration == 3

    sol = run(stop=NEVER, callback=callback)
    assert (sol.status, sol.iterations, sol.converged) == (pr.Status.STOPPED, 3, False)
    assert sol.history == tuple(seen)
    assert torch.equal(sol.us, run(stop=pr.Iterations(3)).us)


def test_a_callback_may_answer_with_a_tensor() -> None:
    """A comparison of increments is a tensor, and the natural thing to return."""
    sol = run(stop=NEVER, callback=lambda report: report.increments.max() < 1e-2)
    assert sol.status is pr.Status.STOPPED
    assert float(sol.history[-1].increments.max()) < 1e-2
    assert all(float(report.increments.max()) >= 1e-2 for report in sol.history[:-1])


def test_a_callback_that_returns_nothing_only_watches() -> None:
    seen = []
    sol = run(callback=lambda report: seen.append(report.iteration))
    assert seen == list(range(1, sol.iterations + 1))
    assert sol.status is pr.Status.CONVERGED


def test_a_callback_that_stops_a_converged_run_changes_nothing() -> None:
    last = run().iterations
    sol = run(callback=lambda report: report.iteration == last)
    assert sol.status is pr.Status.CONVERGED


class OwnError(Exception):
    pass


@pytest.mark.parametrize("error", [OwnError, KeyboardInterrupt, MemoryError, TypeError])
@pytest.mark.parametrize("batching", ["vmap", "native", "fold", "loop"])
def test_an_exception_inside_f_keeps_its_type_and_what_was_computed(error: type[BaseException], batching: Any) -> None:
    edges_known, calls = 3, 0
    limit = run(pr.ODE(lambda t, u: -u), stop=pr.Iterations(edges_known)).stats.calls

    def f(t: Tensor, u: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise error("mine")
        return -u

    u0 = U0[None]
    with pytest.raises(error, match="mine") as caught:
        run(pr.ODE(f, batching=batching), u0, executor=pr.Serial() if batching == "loop" else None, stop=NEVER)
    sol = caught.value.solution  # type: ignore[attr-defined]
    assert isinstance(sol, pr.Solution)
    assert sol.status is pr.Status.INTERRUPTED
    assert any("solution" in note for note in caught.value.__notes__)
    if batching != "loop":  # one call a round: exactly three iterations fit in
        assert sol.iterations == len(sol.history) == edges_known
        ref = pr.serial(pr.ODE(lambda t, u: -u), u0, GRID, fine=pr.RK4())
        torch.testing.assert_close(sol.us[:4], ref.us[:4], rtol=1e-13, atol=0.0)


def test_an_exception_in_the_first_call() -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        raise OwnError

    for call in (lambda: run(pr.ODE(f)), lambda: pr.serial(pr.ODE(f), U0, GRID, fine=pr.RK4())):
        with pytest.raises(OwnError) as caught:
            call()
        sol = caught.value.solution
        assert (sol.status, sol.iterations, sol.history) == (pr.Status.INTERRUPTED, 0, ())
        assert torch.equal(sol.us[0], U0)
        assert bool(sol.us[1:].isnan().all()), "edges that were not reached hold NaN"


def test_an_exception_in_the_sequential_run_keeps_the_slices_before() -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        if t > 2.1:
            raise OwnError
        return wave(t, u)

    with pytest.raises(OwnError) as caught:
        pr.serial(pr.ODE(f, batching="loop"), U0, GRID, fine=pr.RK4())
    us = caught.value.solution.us
    assert torch.equal(us[:5], REF.us[:5])
    assert bool(us[5:].isnan().all())


def test_an_exception_in_the_callback_keeps_what_was_computed() -> None:
    def callback(report: pr.IterationReport) -> None:
        if report.iteration == 2:
            raise OwnError

    with pytest.raises(OwnError) as caught:
        run(stop=NEVER, callback=callback)
    assert caught.value.solution.iterations == 2
    assert torch.equal(caught.value.solution.us, run(stop=pr.Iterations(2)).us)


def test_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    sol = run(progress=True)
    shown = capsys.readouterr().err
    assert "slice" in shown
    assert f"rounds={sol.stats.rounds}" in shown
    run(progress=False)
    assert capsys.readouterr().err == ""


def test_progress_without_tqdm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    called = []
    with pytest.raises(ImportError, match=r"pip install .*\[progress\]"):
        run(pr.ODE(lambda t, u: called.append(1) or -u), progress=True)
    assert not called
    assert run().converged


# --- samples ---------------------------------------------------------------------------------------------------------


def test_samples_end_one_by_one() -> None:
    u0 = torch.tensor([[0.01], [1.0], [0.5]], dtype=torch.float64)
    sol = run(u0=u0, samples=True, stop=pr.Tolerance(rtol=0.0, atol=1e-5))
    assert sol.us.shape == (9, 3, 1)
    assert sol.u.shape == (3, 1)
    assert sol.iterations.dtype == torch.int64
    assert len(set(sol.iterations.tolist())) > 1
    assert sol.sample_status == (pr.Status.CONVERGED,) * 3
    assert len(sol.history) == int(sol.iterations.max())
    for report in sol.history:
        assert report.increments.shape == (3, 8)
        assert report.frontier.shape == (3,)
        ended = sol.iterations < report.iteration
        assert not report.increments[ended].any()
    lanes = sum(8 * int(k) for k in sol.iterations)
    assert sol.stats.fine_evaluations < 16 * lanes, "finished samples leave the rounds"


def test_a_sample_that_fails_does_not_take_the_others_along() -> None:
    u0 = torch.tensor([[1.0], [3.0], [0.5]], dtype=torch.float64)
    problem = pr.ODE(lambda t, u: torch.where(u > 2, torch.full_like(u, float("nan")), -u))
    sol = run(problem, u0, samples=True, throw=False)
    assert [status.name for status in sol.sample_status] == ["CONVERGED", "NONFINITE", "CONVERGED"]
    assert (sol.status, sol.converged) == (pr.Status.NONFINITE, False)
    ref = pr.serial(problem, u0, GRID, fine=pr.RK4(), samples=True)
    assert [status.name for status in ref.sample_status] == ["FINAL", "NONFINITE", "FINAL"]
    torch.testing.assert_close(sol.u[[0, 2]], ref.u[[0, 2]], rtol=1e-3, atol=1e-5)
    with pytest.raises(pr.SolveError) as caught:
        run(problem, u0, samples=True)
    assert caught.value.solution.sample_status == sol.sample_status


@pytest.mark.parametrize("batching", ["vmap", "native", "fold", "loop"])
def test_no_samples_at_all(batching: Any) -> None:
    u0 = {"x": torch.empty(0, 2), "y": torch.empty(0)}
    problem = pr.ODE(lambda t, u: u, batching=batching)
    for sol in (run(problem, u0, samples=True), pr.serial(problem, u0, GRID, fine=pr.RK4(), samples=True)):
        assert sol.us["x"].shape == (9, 0, 2)
        assert sol.us["y"].shape == (9, 0)
        assert sol.converged
        assert sol.sample_status == ()
        assert sol.iterations.shape == (0,)
        assert sol.stats.evaluations == 0


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batching", ["vmap", "loop"])
@pytest.mark.parametrize("coarse", [pr.Euler(), pr.Identity(), pr.Zero()], ids=repr)
def test_gradients_are_those_of_the_sequential_run(coarse: Any, batching: Any) -> None:
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    u0 = U0.clone().requires_grad_()
    problem = pr.ODE(lambda t, u: torch.cos(rate * t) * u - rate * u**3, batching=batching)
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=3)
    got, expected = (
        torch.autograd.grad((us[1:] ** 2).sum(), (rate, u0))
        for us in (
            run(problem, u0, grid, coarse=coarse, stop=pr.Iterations(4)).us,
            pr.serial(problem, u0, grid, fine=pr.RK4()).us,
        )
    )
    # 48 evaluations forth and back in a problem that enlarges errors at most e-fold.
    torch.testing.assert_close(got, expected, rtol=100 * 48 * 2.3e-16, atol=0.0)


def test_no_graph_is_kept_where_no_gradient_is_asked_for() -> None:
    with torch.no_grad():
        sol = run(u0=U0.clone().requires_grad_())
    assert not sol.us.requires_grad


# --- memory ----------------------------------------------------------------------------------------------------------


def live_storages() -> dict[int, int]:
    """Address and bytes of each storage of float32 values alive now."""
    found = [x for x in gc.get_objects() if type(x) is Tensor and x.dtype == torch.float32]
    return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in found}


def peak_states(steps: int, slices: int = 4) -> tuple[int, float]:
    """Most values of f alive at once, and most states in the tensors of the run, at points spread over it."""
    width, alive, peak, calls, elements = 4096, [], 0, 0, 0
    others = live_storages()  # what other tests keep, a cached network for one

    def f(t: Tensor, u: Tensor) -> Tensor:
        nonlocal alive, peak, calls, elements
        alive = [ref for ref in alive if ref() is not None]
        peak, calls = max(peak, len(alive)), calls + 1
        if calls % (steps // 2) == 0:
            ours = {key: size for key, size in live_storages().items() if key not in others}
            elements = max(elements, sum(ours.values()) // 4)
        value = -u
        alive.append(weakref.ref(value))
        return value

    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=slices, steps=steps)
    with torch.no_grad():
        pr.solve(
            pr.ODE(f, batching="native"),
            torch.ones(width),
            grid,
            fine=pr.Heun(),
            coarse=pr.Euler(),
            stop=pr.Iterations(2),
        )
    return peak, elements / width


def test_memory_does_not_grow_with_the_number_of_fine_steps() -> None:
    gc.collect()
    few, many = peak_states(10), peak_states(1000)
    assert many[0] == few[0]
    assert many[1] <= few[1] + 1
    assert many[1] <= 20 * 5, "20 states for each edge are far more than the recursion needs"
