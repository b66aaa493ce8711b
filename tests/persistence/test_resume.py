"""A run that was cut short goes on as if it had not been: after a stop, an exception, a file, with other settings."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, distance, equal, examples, part
from torch import Tensor

import parareal as pr
from parareal.engine._engine import Engine

GRID = pr.TimeGrid.uniform(0.0, 4.0, slices=8, steps=4)
U0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
NEVER = pr.Tolerance(rtol=0.0, atol=0.0)
SCHEDULES = (pr.Barrier(), pr.Wavefront(), pr.Windowed(2), pr.Windowed(3, initial="extrapolate"))


def wave(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(t) * u - u**3


def run(u0: Any = U0, grid: pr.TimeGrid = GRID, f: Any = wave, **options: Any) -> pr.Solution:
    settings = {
        "fine": pr.RK4(),
        "coarse": pr.Euler(),
        "executor": pr.Serial(),
        "schedule": pr.Barrier(),
        "throw": False,
        **options,
    }
    return pr.solve(f if isinstance(f, pr.Problem) else pr.ODE(f), u0, grid, **settings)


def after(count: int) -> Callable[[pr.IterationReport], bool]:
    return lambda report: report.iteration >= count


class PowerCutError(Exception):
    pass


def cut_short(f: Any, call: int) -> Any:
    """``f``, but that it raises when it is called for the ``call``-th time."""
    left = call

    def failing(t: Any, u: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise PowerCutError
        return f(t, u)

    return failing


def interrupted(case: Case, call: int, **options: Any) -> pr.Solution:
    """What is left of a run whose right-hand side raises; all of it where it ends before."""
    problem = pr.ODE(cut_short(own.single(case.equation.rows), call))
    try:
        return pr.solve(problem, case.u0, case.grid, fine=case.fine, throw=False, **options)
    except PowerCutError as error:
        return error.solution  # type: ignore[attr-defined]


def through_file(sol: pr.Solution, path: Path) -> pr.Solution:
    sol.save(path)
    return pr.Solution.load(path)


def known(tree: Any) -> Any:
    """With a number in place of NaN, which is not equal to itself."""
    return own.on_leaves(lambda leaf: torch.where(leaf.isnan(), -9.0, leaf), tree)


def assert_same_run(got: pr.Solution, expected: pr.Solution) -> None:
    """States, status, estimates and history, bit for bit; what it cost may differ."""
    assert equal(known(got.us), known(expected.us))
    assert (got.status, got.sample_status) == (expected.status, expected.sample_status)
    assert torch.equal(torch.as_tensor(got.iterations), torch.as_tensor(expected.iterations))
    assert torch.equal(known(torch.as_tensor(got.error_estimate)), known(torch.as_tensor(expected.error_estimate)))
    assert len(got.history) == len(expected.history)
    for ours, theirs in zip(got.history, expected.history, strict=True):
        assert ours.iteration == theirs.iteration
        assert torch.equal(known(ours.increments), known(theirs.increments))
        assert torch.equal(torch.as_tensor(ours.frontier), torch.as_tensor(theirs.frontier))


# --- laws ------------------------------------------------------------------------------------------------------------

CORRECTIONS = st.one_of(
    own.classical(),
    own.corrections(),
    st.sampled_from((pr.Secant(pr.Euler()), pr.Secant(pr.Identity(), memory=2), pr.Anderson(pr.Identity(), 2))),
)
RULES = (pr.Tolerance(1e-3, 0.0), pr.Tolerance(1e-6, 1e-9, rule="error"), pr.Tolerance(1e-5, freeze=True), NEVER)


@given(own.cases(), CORRECTIONS, st.sampled_from(RULES), st.booleans(), st.data())
def test_a_run_with_a_barrier_goes_on_bit_for_bit_wherever_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory,
    case: Case,
    coarse: pr.Correction,
    stop: pr.Tolerance,
    by_file: bool,
    data: st.DataObject,
) -> None:
    call = {"coarse": coarse, "stop": stop, "executor": pr.Serial(), "schedule": pr.Barrier()}
    whole = pr.solve(case.problem, case.u0, case.grid, fine=case.fine, **call)
    sol = interrupted(case, data.draw(st.integers(1, max(whole.stats.fine_evaluations, 1)), label="call"), **call)
    assert sol.status is pr.Status.INTERRUPTED
    if by_file:
        sol = through_file(sol, tmp_path_factory.mktemp("runs") / "sol")
    assert_same_run(pr.solve(case.problem, case.u0, case.grid, fine=case.fine, resume=sol, **call), whole)


@given(own.cases(batch=(3,)), CORRECTIONS, st.sampled_from(RULES), st.booleans(), st.data())
def test_so_does_a_batch_of_samples(
    tmp_path_factory: pytest.TempPathFactory,
    case: Case,
    coarse: pr.Correction,
    stop: pr.Tolerance,
    by_file: bool,
    data: st.DataObject,
) -> None:
    call = {"coarse": coarse, "stop": stop, "executor": pr.Serial(), "schedule": pr.Barrier(), "samples": True}
    whole = pr.solve(case.problem, case.u0, case.grid, fine=case.fine, **call)
    sol = interrupted(case, data.draw(st.integers(1, max(whole.stats.fine_evaluations, 1)), label="call"), **call)
    if by_file:
        sol = through_file(sol, tmp_path_factory.mktemp("runs") / "sol")
    assert_same_run(pr.solve(case.problem, case.u0, case.grid, fine=case.fine, resume=sol, **call), whole)


@given(own.cases(), st.sampled_from((pr.Secant(pr.Identity()), *own.FREE)), st.sampled_from(RULES), st.data())
def test_a_window_that_was_stopped_goes_on_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, case: Case, coarse: pr.Correction, stop: pr.Tolerance, data: st.DataObject
) -> None:
    schedule = pr.Windowed(data.draw(st.integers(1, case.grid.num_slices), label="width"))
    call = {"coarse": coarse, "stop": stop, "executor": pr.Serial(), "schedule": schedule, "fine": case.fine}
    whole = pr.solve(case.problem, case.u0, case.grid, **call)
    last = data.draw(st.integers(1, whole.iterations), label="iteration")
    sol = pr.solve(case.problem, case.u0, case.grid, **call, callback=after(last), throw=False)
    sol = through_file(sol, tmp_path_factory.mktemp("runs") / "sol")
    assert_same_run(pr.solve(case.problem, case.u0, case.grid, resume=sol, **call), whole)


@pytest.mark.parametrize(
    "coarse", [pr.Euler(), pr.Secant(pr.Identity()), pr.Secant(pr.Euler()), pr.Anderson(pr.Identity())]
)
@pytest.mark.sweep(2)
def test_what_a_multistep_method_looks_back_to_is_kept(coarse: pr.Correction | pr.Propagator) -> None:
    grid, u0 = pr.TimeGrid.uniform(0.0, 1.0, slices=5, steps=3), torch.tensor([0.7, 0.2, -0.1])
    call = {
        "fine": pr.AdamsBashforth(2),
        "coarse": coarse,
        "executor": pr.Serial(),
        "schedule": pr.Barrier(),
        "stop": pr.Tolerance(1e-6, 1e-9),
    }

    def f(t: Any, u: Any) -> Any:
        return torch.cos(3 * t) * u.roll(1, -1)

    whole = pr.solve(pr.ODE(f), u0, grid, **call)
    for last in range(1, whole.stats.evaluations, 3):
        with pytest.raises(PowerCutError) as caught:
            pr.solve(pr.ODE(cut_short(f, last)), u0, grid, **call)
        assert_same_run(pr.solve(pr.ODE(f), u0, grid, resume=caught.value.solution, **call), whole)  # type: ignore[attr-defined]


def test_every_call_of_the_right_hand_side_may_be_the_last() -> None:
    grid, count = pr.TimeGrid.uniform(0.0, 2.0, 4, 2), 0

    def counted(t: Tensor, u: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return wave(t, u)

    whole = run(f=counted, grid=grid, stop=pr.Iterations(3))
    for call in range(1, count + 1):
        with pytest.raises(PowerCutError) as caught:
            run(f=cut_short(wave, call), grid=grid, stop=pr.Iterations(3))
        sol = caught.value.solution  # type: ignore[attr-defined]
        assert_same_run(run(grid=grid, stop=pr.Iterations(3), resume=sol), whole)


@given(own.cases(), own.corrections(), own.corrections(), st.data())
def test_any_run_goes_on_to_the_sequential_solution_with_any_settings(
    case: Case, coarse: pr.Correction, other: pr.Correction, data: st.DataObject
) -> None:
    slices = case.grid.num_slices
    first, second = (
        data.draw(st.sampled_from([s for s in SCHEDULES if (s.width or 1) <= slices]), label="schedule") for _ in "ab"
    )
    rule = data.draw(st.sampled_from((pr.Tolerance(1e-2), pr.Iterations(2), NEVER)), label="stop")
    call = data.draw(st.integers(1, 400), label="call")
    sol = interrupted(case, call, coarse=coarse, schedule=first, stop=rule, executor=pr.Serial())
    then = {"coarse": other, "schedule": second, "stop": NEVER, "executor": pr.Serial()}
    end = pr.solve(case.problem, case.u0, case.grid, fine=case.fine, resume=sol, **then)
    assert end.converged
    assert equal(end.us, pr.serial(case.problem, case.u0, case.grid, fine=case.fine).us)


@given(own.cases(), own.corrections(), st.sampled_from(SCHEDULES[1:]), st.data())
def test_no_slice_that_was_final_is_solved_again(
    case: Case, coarse: pr.Correction, schedule: pr.Schedule, data: st.DataObject
) -> None:
    slices = case.grid.num_slices
    if schedule.width is not None and schedule.width > slices:
        schedule = pr.Windowed(slices)
    call = {"coarse": coarse, "schedule": schedule, "stop": NEVER, "executor": pr.Serial()}
    sol = interrupted(case, data.draw(st.integers(1, 300), label="call"), **call)
    final = int(sol.standing.state.frontier[0])
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    assert equal(part(sol.us, slice(final + 1)), part(ref.us, slice(final + 1)))
    begun = case.grid.points[case.grid.bounds[final]]
    toward = torch.sign(case.grid.points[-1] - case.grid.points[0])
    f = own.single(case.equation.rows)

    def watched(t: Tensor, u: Any) -> Any:
        assert (t - begun) * toward >= 0
        return f(t, u)

    end = pr.solve(pr.ODE(watched), case.u0, case.grid, fine=case.fine, resume=sol, **call)
    assert equal(end.us, ref.us)


@examples(8)
@given(own.cases(one_step=True, dtypes=(torch.float64,)), own.corrections(one_step=True), st.data())
def test_batched_runs_meet_the_same_tolerance(case: Case, coarse: pr.Correction, data: st.DataObject) -> None:
    schedule = data.draw(st.sampled_from((pr.Barrier(), pr.Wavefront())), label="schedule")
    call = {"coarse": coarse, "schedule": schedule, "stop": pr.Tolerance(0.0, 1e-7, norm="max")}
    sol = interrupted(case, data.draw(st.integers(1, 60), label="call"), **call)
    end = pr.solve(case.problem, case.u0, case.grid, fine=case.fine, resume=sol, **call)
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine)
    assert end.converged
    # The last increments are below 1e-7. What slices have still before them then is at most their sum, enlarged.
    assert distance(end.us, ref.us) <= 1e-7 * case.grid.num_slices * case.growth**2 + case.rounding


# --- what is counted on ----------------------------------------------------------------------------------------------


def test_one_iteration_at_a_time_is_the_whole_run(tmp_path: Path) -> None:
    whole = run(stop=pr.Tolerance(1e-8, 0.0))
    sol = run(stop=pr.Tolerance(1e-8, 0.0), callback=after(1))
    for k in range(2, whole.iterations + 1):
        sol = through_file(sol, tmp_path / "sol")
        sol = run(stop=pr.Tolerance(1e-8, 0.0), callback=after(k), resume=sol)
    assert_same_run(sol, whole)


class Twice(pr.Tolerance):
    """Stops once its figures have passed twice in a row."""

    def begin(self, start: Any) -> Any:
        return InARow(self, start)


class InARow:
    def __init__(self, rule: pr.Tolerance, start: Any) -> None:
        self.rule, self.count = rule, np.zeros(start.systems, dtype=np.int64)

    def decide(self, seen: Any) -> pr.Verdict:
        verdict = self.rule.decide(seen.figures, seen.iteration)
        self.count[seen.systems] = np.where(verdict.stop, self.count[seen.systems] + 1, 0)
        stop = self.count[seen.systems] >= 2
        return verdict._replace(stop=stop, converged=stop)


class Remembering(InARow):
    def account(self) -> dict[str, Any]:
        return {"count": self.count}


@pytest.mark.parametrize("remembers", [True, False])
def test_a_rule_of_ones_own_takes_along_what_it_says(remembers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if remembers:
        monkeypatch.setattr(Twice, "begin", lambda self, start: Remembering(self, start))
    rule = Twice(1e-3, 0.0)
    whole = run(stop=rule)
    sol = run(stop=rule, callback=after(whole.iterations - 1))  # once its figures have passed for the first time
    assert run(stop=rule, resume=sol).iterations == whole.iterations + (not remembers)


def test_costs_add_up_and_one_coarse_sweep_is_made_again() -> None:
    whole, sol = run(stop=pr.Iterations(5)), run(stop=pr.Iterations(2))
    end = run(stop=pr.Iterations(5), resume=sol)
    assert end.stats.rounds == whole.stats.rounds + 1
    # All slices from the frontier on: eight but the two that are final.
    assert end.stats.evaluations == whole.stats.evaluations + 6
    assert end.stats.fine_evaluations == whole.stats.fine_evaluations
    assert end.stats.wall_time > sol.stats.wall_time
    assert [report.rounds for report in end.history[:2]] == [report.rounds for report in whole.history[:2]]
    assert [report.rounds - 1 for report in end.history[2:]] == [report.rounds for report in whole.history[2:]]
    assert (end.history[-1].rounds, end.history[-1].evaluations) == (end.stats.rounds, end.stats.evaluations)


def test_the_callback_sees_what_is_new() -> None:
    seen: list[int] = []
    run(stop=pr.Iterations(5), resume=run(stop=pr.Iterations(2)), callback=lambda report: seen.append(report.iteration))
    assert seen == [3, 4, 5]


def test_a_tighter_tolerance_goes_on_from_a_looser_one() -> None:
    loose = run(stop=pr.Tolerance(1e-2, 0.0))
    assert_same_run(run(stop=pr.Tolerance(1e-9, 0.0), resume=loose), run(stop=pr.Tolerance(1e-9, 0.0)))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_what_another_rule_accepted_is_not_taken_for_final(schedule: pr.Schedule) -> None:
    loose = run(stop=pr.Tolerance(0.3, 0.3, freeze=True), schedule=schedule, coarse=pr.Identity())
    ref = pr.serial(pr.ODE(wave), U0, GRID, fine=pr.RK4())
    assert loose.converged
    assert not torch.equal(loose.us, ref.us)
    assert torch.equal(run(stop=NEVER, resume=loose, schedule=schedule, coarse=pr.Identity()).us, ref.us)


@pytest.mark.parametrize("stop", [NEVER, pr.Tolerance(1e-4), pr.Iterations(2), pr.Tolerance(1e-6) | pr.Iterations(3)])
@pytest.mark.parametrize("schedule", SCHEDULES[:3], ids=repr)
def test_a_run_that_has_ended_is_returned_as_it_is(stop: pr.StoppingRule, schedule: pr.Schedule) -> None:
    def untouched(t: Tensor, u: Tensor) -> Tensor:
        raise AssertionError("nothing was left to do")

    sol = run(stop=stop, schedule=schedule)
    again = run(f=untouched, stop=stop, schedule=schedule, resume=sol)
    assert_same_run(again, sol)
    assert again.stats.rounds == sol.stats.rounds


def test_max_iterations_counts_all() -> None:
    sol = run(stop=NEVER, max_iterations=2)
    assert sol.status is pr.Status.MAX_ITERATIONS
    assert run(stop=NEVER, max_iterations=2, resume=sol).iterations == 2
    assert_same_run(run(stop=NEVER, max_iterations=5, resume=sol), run(stop=NEVER, max_iterations=5))
    assert run(stop=NEVER, resume=sol).status is pr.Status.FINAL


def test_the_solution_of_an_error_goes_on() -> None:
    with pytest.raises(pr.SolveError) as caught:
        run(stop=pr.Tolerance(1e-8, 0.0), max_iterations=3, throw=True)
    whole = run(stop=pr.Tolerance(1e-8, 0.0))
    assert_same_run(run(stop=pr.Tolerance(1e-8, 0.0), resume=caught.value.solution), whole)


def test_a_run_that_fails_from_a_final_state_stays_failed() -> None:
    def explodes(t: Tensor, u: Tensor) -> Tensor:
        return torch.where(t > 1.2, torch.full_like(u, float("nan")), -u)

    sol = run(f=explodes)
    assert sol.status is pr.Status.NONFINITE
    assert_same_run(run(f=explodes, resume=sol), sol)


def test_gradients_flow_through_both_parts() -> None:
    u0 = U0.clone().requires_grad_()
    whole, end = run(u0, stop=pr.Iterations(8)), run(u0, stop=pr.Iterations(8), resume=run(u0, stop=pr.Iterations(3)))
    expected, got = (torch.autograd.grad(sol.u.sum(), u0)[0] for sol in (whole, end))
    # 128 evaluations forth and back in a problem that enlarges errors at most e-fold.
    torch.testing.assert_close(got, expected, rtol=100 * 128 * 2.3e-16, atol=0.0)


def test_the_memory_of_a_multistep_method_goes_on(tmp_path: Path) -> None:
    fine = pr.AdamsBashforth(4)
    sol = through_file(run(fine=fine, stop=pr.Iterations(4)), tmp_path / "sol")
    end = run(fine=fine, stop=pr.Iterations(8), resume=sol)
    assert torch.equal(end.us, pr.serial(pr.ODE(wave), U0, GRID, fine=fine).us)


def test_noise_is_the_same_after_a_break(tmp_path: Path) -> None:
    def sde(seed: int) -> pr.SDE:
        generator = torch.Generator().manual_seed(seed)
        return pr.SDE(lambda t, u: -u, lambda t, u: 0.3 * torch.ones_like(u), generator=generator)

    call = {"fine": pr.EulerMaruyama(), "coarse": pr.EulerMaruyama(), "stop": pr.Iterations(6)}
    sol = through_file(run(f=sde(1), **{**call, "stop": pr.Iterations(3)}), tmp_path / "sol")
    assert_same_run(run(f=sde(1), resume=sol, **call), run(f=sde(1), **call))
    with pytest.raises(ValueError, match=r"other noise.*same seed"):
        run(f=sde(2), resume=sol, **call)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_what_comes_after_may_keep_less(schedule: pr.Schedule) -> None:
    sol = run(stop=pr.Iterations(3))
    end = run(stop=NEVER, schedule=schedule, dense=False, resume=sol)
    assert torch.equal(end.u, pr.serial(pr.ODE(wave), U0, GRID, fine=pr.RK4()).u)


def test_an_interruption_while_an_iteration_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ctrl-C comes most often on a device that works on its own: nothing is missing in the history."""
    whole, calls = run(stop=NEVER), 0

    def measure(self: Any, systems: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(self, systems)

    original = Engine._measure
    monkeypatch.setattr(Engine, "_measure", measure)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(stop=NEVER)
    sol = caught.value.solution  # type: ignore[attr-defined]
    assert sol.iterations == len(sol.history) == 2
    assert_same_run(run(stop=NEVER, resume=sol), whole)


ENGINE = (
    "engine/_engine.py",
    "engine/_measure.py",
    "engine/_update.py",
    "engine/_states.py",
    "engine/_readiness.py",
    "engine/_lanes.py",
    "_core/ring_buffer.py",
    "results/_run_state.py",
    "stopping/_increments.py",
    "stopping/_tolerance.py",
    "stopping/_error_estimate.py",
    "stopping/_slice_record.py",
)
FREE = (pr.Euler(), pr.Identity(), pr.Secant(pr.Identity()), pr.Anderson(pr.Identity()))


@given(st.sampled_from(FREE), st.sampled_from(SCHEDULES), st.integers(1, 4000))
def test_ctrl_c_may_come_at_any_line_of_the_engine(coarse: Any, schedule: pr.Schedule, line: int) -> None:
    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal line
        line -= event == "line"
        if line == 0:
            raise KeyboardInterrupt
        return trace if frame.f_code.co_filename.endswith(ENGINE) else None

    call = {"coarse": coarse, "schedule": schedule, "stop": NEVER, "grid": pr.TimeGrid.uniform(0.0, 4.0, 5, 2)}
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        sol = run(**call)
    except KeyboardInterrupt as error:
        sol = getattr(error, "solution", None)  # none where it came before there was anything
    finally:
        sys.settrace(before)
    assert torch.equal(run(**call, resume=sol).us, pr.serial(pr.ODE(wave), U0, call["grid"], fine=pr.RK4()).us)


# --- what is refused -------------------------------------------------------------------------------------------------

OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"u0": torch.ones(3, dtype=torch.float64)}, r"a state of float64\[2\].*float64\[3\]"),
    "dtype": ({"u0": U0.float()}, r"float64\[2\].*float32\[2\]"),
    "structure": ({"u0": (U0,), "f": lambda t, u: (wave(t, u[0]),)}, r"a state of float64\[2\], .* \(float64\[2\]\)"),
    "state": ({"u0": U0 * (1 + 2e-16 * 2)}, "another initial state.*bit for bit"),
    "points": ({"grid": pr.TimeGrid.uniform(0.0, 4.0 + 1e-15, 8, 4)}, "very same points"),
    "slices": ({"grid": pr.TimeGrid.uniform(0.0, 4.0, 4, 8)}, "8 slices of 32 steps from 0 to 4, .* 4 slices of 32"),
    "fine": ({"fine": pr.Heun()}, r"fine propagator RK4\(steps=None\), .* Heun\(steps=None\)"),
    "samples": ({"u0": U0, "samples": True}, "samples = False, .* True"),
    "problem": (
        {"f": pr.SDE(lambda t, u: -u, lambda t, u: 0 * u), "fine": pr.Heun(), "coarse": pr.Heun()},
        "problem of the kind ODE",
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_run_is_refused_before_any_work(what: str) -> None:
    called: list[int] = []
    options, message = OTHERS[what]
    f = options.get("f", wave)
    if what == "problem":
        f = pr.SDE(f.drift, f.diffusion, calculus="stratonovich")
    elif what != "structure":
        f = lambda t, u: called.append(1) or wave(t, u)  # noqa: E731
    sol = run(stop=pr.Iterations(2), **({"fine": pr.Heun()} if what == "problem" else {}))
    with pytest.raises(ValueError, match=message):
        run(**{**options, "f": f}, resume=sol)
    assert not called


def test_what_cannot_be_gone_on_from_is_refused() -> None:
    for sol in (pr.serial(pr.ODE(wave), U0, GRID, fine=pr.RK4()), run(dense=False)):
        with pytest.raises(ValueError, match=r"without a snapshot of its run.*dense=True"):
            run(resume=sol)
    with pytest.raises(TypeError, match=r"resume is a str; expected Solution.*load"):
        run(resume="run.safetensors")


def test_per_sample_data_must_be_the_same() -> None:
    def problem(rates: Tensor) -> pr.ODE:
        return pr.ODE(lambda t, u, rate: -rate * u, per_sample=rates)

    sol = run(f=problem(torch.tensor([1.0, 2.0])), samples=True, stop=pr.Iterations(2))
    assert run(f=problem(torch.tensor([1.0, 2.0])), samples=True, resume=sol).converged
    with pytest.raises(ValueError, match="other per-sample data"):
        run(f=problem(torch.tensor([1.0, 3.0])), samples=True, resume=sol)


def test_functions_of_another_process_have_other_addresses_only() -> None:
    def step(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        return u * torch.exp(t0 - t1)

    def again() -> pr.Propagator:
        return pr.Propagator(lambda t0, t1, u: step(t0, t1, u))

    fines = again(), again()
    assert repr(fines[0]) != repr(fines[1])
    assert re.sub("0x[0-9a-f]+", "", repr(fines[0])) == re.sub("0x[0-9a-f]+", "", repr(fines[1]))
    assert run(fine=fines[1], resume=run(fine=fines[0], stop=pr.Iterations(2))).converged


# --- checkpoints -----------------------------------------------------------------------------------------------------


@given(own.cases(), CORRECTIONS, st.data())
def test_a_job_that_is_started_again_goes_on(
    tmp_path_factory: pytest.TempPathFactory, case: Case, coarse: pr.Correction, data: st.DataObject
) -> None:
    call = {"coarse": coarse, "stop": pr.Tolerance(1e-6, 0.0), "executor": pr.Serial(), "schedule": pr.Barrier()}
    whole = pr.solve(case.problem, case.u0, case.grid, fine=case.fine, **call)
    call["checkpoint"] = tmp_path_factory.mktemp("runs") / "job.safetensors"
    for _ in range(2):
        interrupted(case, data.draw(st.integers(1, max(whole.stats.fine_evaluations, 1)), label="call"), **call)
    assert_same_run(pr.solve(case.problem, case.u0, case.grid, fine=case.fine, **call), whole)


def test_a_checkpoint_holds_each_iteration_and_the_one_before(tmp_path: Path) -> None:
    path, seen = tmp_path / "job", []

    def callback(report: pr.IterationReport) -> None:
        if path.exists():
            seen.append((report.iteration, pr.Solution.load(path).iterations))

    sol = run(stop=pr.Iterations(4), checkpoint=str(path), callback=callback)
    assert seen == [(2, 1), (3, 2), (4, 3)]
    assert_same_run(pr.Solution.load(path), sol)
    assert pr.Solution.load(tmp_path / "job.previous").iterations == 4
    assert sorted(file.name for file in tmp_path.iterdir()) == ["job", "job.previous"]


@pytest.mark.parametrize("keep", [0, 7, 100, 1000])
def test_a_truncated_checkpoint_is_passed_over_and_kept_out(tmp_path: Path, keep: int) -> None:
    path, whole = tmp_path / "job", run(stop=pr.Iterations(6))
    run(stop=pr.Iterations(6), checkpoint=path, callback=after(3))
    good = (tmp_path / "job.previous").read_bytes()
    path.write_bytes(path.read_bytes()[:keep])
    with (
        pytest.raises(PowerCutError),
        pytest.warns(UserWarning, match=r"damaged.*Continuing from '.*job\.previous'") as seen,
    ):
        run(f=cut_short(wave, 1), stop=pr.Iterations(6), checkpoint=path)
    assert {item.filename for item in seen} == {__file__}
    assert (tmp_path / "job.previous").read_bytes() == good
    with pytest.warns(UserWarning, match="damaged"):
        end = run(stop=pr.Iterations(6), checkpoint=path)
    assert_same_run(end, whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_run(run(stop=pr.Iterations(6), checkpoint=path), whole)


def test_a_file_that_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "job"
    path.write_text("my only copy")
    with pytest.raises(ValueError, match=r"cannot be continued, and was left as it is.*damaged or no solution"):
        run(checkpoint=path)
    assert path.read_text() == "my only copy"
    path.unlink()
    run(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="8 slices"):
        run(grid=pr.TimeGrid.uniform(0.0, 4.0, 4, 8), checkpoint=path)
    assert path.read_bytes() == before


def test_a_place_without_a_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    seen: list[int] = []
    for path, kind in ((tmp_path / "none" / "job", FileNotFoundError), (tmp_path, ValueError)):
        with pytest.raises(kind, match="folder"):
            run(checkpoint=path, callback=lambda report: seen.append(report.iteration))
    assert not seen


def test_an_exception_in_the_callback_comes_after_its_iteration_was_saved(tmp_path: Path) -> None:
    def callback(report: pr.IterationReport) -> None:
        if report.iteration == 3:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        run(checkpoint=tmp_path / "job", callback=callback)
    assert pr.Solution.load(tmp_path / "job").iterations == 3


def test_a_crash_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "job"
    run(stop=pr.Iterations(6), checkpoint=path, callback=after(3))
    path.unlink()
    assert_same_run(run(stop=pr.Iterations(6), checkpoint=path), run(stop=pr.Iterations(6)))


def test_a_checkpoint_goes_before_resume(tmp_path: Path) -> None:
    first = run(stop=pr.Iterations(1))
    run(stop=pr.Iterations(6), checkpoint=tmp_path / "job", resume=first, callback=after(4))
    seen: list[int] = []
    call = {"checkpoint": tmp_path / "job", "resume": first, "callback": lambda report: seen.append(report.iteration)}
    run(stop=pr.Iterations(6), **call)
    assert seen == [5, 6]


def test_checkpoints_need_edges(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dense=False"):
        run(checkpoint=tmp_path / "job", dense=False)
