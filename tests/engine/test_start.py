"""``solve(..., start=...)``: first iterates from elsewhere change how long a run takes, and nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import strategies as own
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import EQUATIONS, Case, distance, equal, examples, on_leaves, part, single, size
from torch import Tensor
from torch.utils import _pytree as pytree

import parareal as pr

NEVER = pr.Tolerance(rtol=0.0, atol=0.0)
DTYPES = (torch.float64, torch.complex128)


def schedules(slices: int) -> st.SearchStrategy[pr.Schedule]:
    return st.sampled_from((pr.Barrier(), pr.Wavefront(), pr.Wavefront(2))) | st.builds(
        pr.Windowed, st.integers(1, slices)
    )


def reference(case: Case, samples: bool = False) -> pr.Solution:
    return pr.serial(case.problem, case.u0, case.grid, fine=case.fine, samples=samples)


@st.composite
def starts(draw: st.DrawFn, case: Case) -> Any:
    """Good ones and bad ones: noise, NaN here and there, nothing but NaN, other problems' solutions, functions."""
    kind = draw(
        st.sampled_from(("own", "moved", "noise", "nan", "partly", "huge", "other", "coarser", "fn", "drift", "pairs"))
    )
    count, generator = case.grid.num_slices + 1, torch.Generator().manual_seed(draw(st.integers(0, 9)))

    def new(leaf: Tensor) -> Tensor:
        return torch.randn((count, *leaf.shape), generator=generator, dtype=leaf.dtype)

    if kind == "noise":
        return on_leaves(lambda leaf: 3 * new(leaf), case.u0)
    if kind == "nan":
        return on_leaves(lambda leaf: torch.full_like(new(leaf), math.nan), case.u0)
    if kind == "huge":
        return on_leaves(lambda leaf: torch.full_like(new(leaf), 1e300), case.u0)
    if kind == "fn":
        return lambda t0, t1, u: on_leaves(lambda leaf: 0.9 * leaf, u)
    if kind == "drift":  # each slice looks nearly settled, and the end is far off
        rise = torch.linspace(0.0, 0.5, count, dtype=torch.float64)
        return on_leaves(lambda leaf: (own.expand(rise, new(leaf)) + leaf).to(leaf.dtype), case.u0)
    if kind == "pairs":  # those of another problem's slices
        other, coarse = pr.ODE(single(draw(st.sampled_from(EQUATIONS)).rows)), draw(st.sampled_from(own.FREE))
        stop = pr.Tolerance(draw(st.sampled_from((1e-1, 1e-3))), 0.0)
        return pr.solve(other, case.u0, case.grid, fine=pr.Heun(), coarse=coarse, stop=stop)
    if kind == "other":
        other = draw(st.sampled_from(EQUATIONS))
        return pr.serial(pr.ODE(single(other.rows)), case.u0, case.grid, fine=pr.RK4())
    if kind == "coarser":
        points = torch.stack([case.grid.points[0], case.grid.points[-1]])
        points = torch.lerp(points[0], points[1], torch.linspace(0, 1, draw(st.integers(2, 7)), dtype=torch.float64))
        grid = pr.TimeGrid.from_points(points, len(points) - 1)
        return pr.serial(case.problem, case.u0, grid, fine=pr.RK4())
    exact = reference(case)
    if kind == "own":
        return exact
    if kind == "moved":
        return on_leaves(lambda leaf: 1.05 * leaf, exact.us)
    return on_leaves(
        lambda leaf: torch.where(torch.rand(leaf.shape, generator=generator) < 0.4, math.nan, leaf), exact.us
    )


@given(case=own.cases(), data=st.data())
@examples(15)
def test_the_end_is_the_serial_solution_bit_for_bit_and_takes_no_more_rounds(case: Case, data: Any) -> None:
    start, coarse = data.draw(starts(case)), data.draw(own.corrections())
    schedule = data.draw(schedules(case.grid.num_slices))
    options: dict[str, Any] = {"fine": case.fine, "coarse": coarse, "schedule": schedule, "stop": NEVER}
    sol = pr.solve(case.problem, case.u0, case.grid, executor=pr.Serial(), start=start, **options)
    ref = reference(case)
    assert equal(sol.us, ref.us)
    assert sol.converged
    assert sol.iterations <= case.grid.num_slices
    if not isinstance(schedule, pr.Barrier):
        assert sol.stats.rounds <= ref.stats.rounds


@given(case=own.cases(), data=st.data())
@examples(6)
def test_after_k_iterations_k_boundaries_are_serial(case: Case, data: Any) -> None:
    start, k = data.draw(starts(case)), data.draw(st.integers(1, case.grid.num_slices))
    sol = pr.solve(
        case.problem, case.u0, case.grid, fine=case.fine, coarse=data.draw(own.corrections()), start=start,
        stop=pr.Iterations(k), schedule=pr.Barrier(), executor=pr.Serial(),
    )  # fmt: skip
    assert equal(part(sol.us, slice(k + 1)), part(reference(case).us, slice(k + 1)))


@given(case=own.cases(dtypes=DTYPES, min_slices=2, max_slices=14, with_stiff=False), data=st.data())
@examples(15)
def test_a_wrong_start_ends_within_the_tolerance(case: Case, data: Any) -> None:
    """Errors are estimated from what the run shows, so a start cannot pass for a result."""
    start, coarse = data.draw(starts(case)), data.draw(own.corrections())
    rtol = data.draw(st.sampled_from((1e-2, 1e-3, 1e-5)))
    sol = pr.solve(
        case.problem, case.u0, case.grid, fine=case.fine, coarse=coarse, start=start, executor=pr.Serial(),
        stop=pr.Tolerance(rtol, 1e-9, norm="max", rule="error"), schedule=data.draw(schedules(case.grid.num_slices)),
    )  # fmt: skip
    ref = reference(case)
    assume(size(ref.u) > 0.05)
    assert sol.converged
    assert distance(sol.u, ref.u) <= (rtol * size(ref.u) + 1e-9) * max(2.0, case.growth)


def test_the_solution_itself_takes_one_iteration() -> None:
    problem, u0 = pr.ODE(lambda t, u: torch.cos(t) * u), torch.ones(2, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 6.0, 12, 20)
    ref = pr.serial(problem, u0, grid, fine=pr.RK4())
    for coarse in (pr.Heun(), pr.Identity(), pr.Secant(pr.Identity())):
        sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=coarse, start=ref, schedule=pr.Wavefront())
        assert sol.iterations == 1
        assert distance(sol.us, ref.us) <= 1e-13


def test_a_start_moves_with_the_initial_state_as_the_correction_says() -> None:
    problem, one = pr.ODE(lambda t, u: -2 * u + torch.sin(t)), torch.ones(2, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 3.0, 10, 20)
    flow = pr.LinearFlow(lambda t0, t1: torch.exp(-2 * (t1 - t0)))
    before = pr.serial(problem, one, grid, fine=pr.RK4())
    after = pr.serial(problem, 1.3 * one, grid, fine=pr.RK4())
    sol = pr.solve(problem, 1.3 * one, grid, fine=pr.RK4(), coarse=flow, start=before, stop=pr.Iterations(1))
    assert distance(sol.us, after.us) <= 1e-7
    assert max(sol.history[0].increments.tolist()) <= 1e-5  # it was there before the first iteration


def test_histories_of_the_same_method_come_with_the_states() -> None:
    problem, u0 = pr.ODE(lambda t, u: torch.cos(t) * u), torch.ones(1, dtype=torch.float64)
    grid, fine = pr.TimeGrid.uniform(0.0, 6.0, 12, 10), pr.AdamsBashforth(3)
    options: dict[str, Any] = {"fine": fine, "coarse": pr.Secant(pr.Identity()), "stop": pr.Tolerance(1e-6, 0.0)}
    first = pr.solve(problem, u0, grid, **options)
    warm = pr.solve(problem, u0, grid, start=first, **options)
    bare = pr.solve(problem, u0, grid, start=first.us, **options)
    assert warm.iterations == 1
    assert bare.iterations > 1
    moved = pr.solve(problem, 1.01 * u0, grid, start=first, **options)
    assert distance(moved.u, pr.serial(problem, 1.01 * u0, grid, fine=fine).u) <= 1e-5


def test_secant_pairs_come_with_a_solution_on_the_same_slices(tmp_path: Path) -> None:
    """Along the line in which its states have moved, a linear problem is known before the first iteration."""
    f = pr.ODE(lambda t, u: torch.stack([-u[1], u[0]]) - 0.3 * u)
    u0, grid = torch.tensor([1.0, 0.5], dtype=torch.float64), pr.TimeGrid.uniform(0.0, 4.0, 16, 4)
    options: dict[str, Any] = {"fine": pr.RK4(), "stop": pr.Tolerance(1e-6, 0.0)}
    used = {}
    for memory in (1, 2):
        coarse = pr.Secant(pr.Identity(), memory=memory)
        first = pr.solve(f, u0, grid, coarse=coarse, **options)
        assert first.standing.pairs is not None
        bare = pr.solve(f, 1.1 * u0, grid, coarse=coarse, start=first.us, **options)
        warm = pr.solve(f, 1.1 * u0, grid, coarse=coarse, start=first, **options)
        ref = pr.serial(f, 1.1 * u0, grid, fine=pr.RK4())
        assert distance(warm.u, ref.u) <= 1e-6
        used[memory] = (bare.iterations, warm.iterations)
    assert all(warm <= bare for bare, warm in used.values())
    assert any(warm < bare for bare, warm in used.values())
    narrow = pr.solve(f, u0, grid, coarse=pr.Secant(pr.Identity()), schedule=pr.Windowed(4), **options)
    assert narrow.standing.pairs is None  # states outside of the window are not kept for it
    assert pr.solve(f, u0, grid, coarse=pr.Identity(), **options).standing.pairs is None


def test_pairs_of_a_solution_are_left_where_the_correction_uses_none() -> None:
    problem, grid = pr.ODE(lambda t, u: -u * u), pr.TimeGrid.uniform(0.0, 1.0, slices=6)
    u0, options = torch.tensor([0.3, 0.4], dtype=torch.float64), {"fine": pr.Heun(), "stop": pr.Iterations(2)}
    start = pr.solve(problem, u0, grid, coarse=pr.Secant(pr.Identity()), **options)
    ref = pr.serial(problem, u0, grid, fine=pr.Heun())
    for coarse in (pr.Euler(), pr.Identity(), pr.Relaxed(pr.Euler()), pr.Multilevel(pr.Euler(), pr.Euler(), 2)):
        sol = pr.solve(problem, u0, grid, coarse=coarse, start=start, **options)
        assert distance(sol.us, ref.us) < 1e-4


def test_other_grids_are_interpolated_linearly_in_time() -> None:
    f = pr.ODE(lambda t, u: torch.ones_like(u))  # whose solution is a line
    u0 = torch.zeros(2, dtype=torch.float64)
    for ends in ((0.0, 3.0), (3.0, -1.0)):
        before = pr.serial(f, u0, pr.TimeGrid.uniform(*ends, 5), fine=pr.Euler())
        grid = pr.TimeGrid.uniform(*ends, 7, 2)
        sol = pr.solve(f, u0, grid, fine=pr.Euler(), coarse=pr.Zero(), start=before)
        assert sol.iterations == 1
        assert distance(sol.us, pr.serial(f, u0, grid, fine=pr.Euler()).us) <= 1e-14


def test_a_run_cut_short_is_a_start_as_far_as_it_came() -> None:
    f, u0 = pr.ODE(lambda t, u: -u), torch.ones(2, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 4.0, 16, 4)
    window = pr.Windowed(3)
    cut = pr.solve(f, u0, grid, fine=pr.Heun(), coarse=pr.Identity(), schedule=window, stop=pr.Iterations(2))
    assert cut.us.isnan().any()
    for other in (grid, pr.TimeGrid.uniform(0.0, 4.0, 9, 4)):
        sol = pr.solve(f, u0, other, fine=pr.Heun(), coarse=pr.Identity(), start=cut, stop=NEVER)
        assert distance(sol.us, pr.serial(f, u0, other, fine=pr.Heun()).us) <= 1e-14


@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront(), pr.Windowed(4)], ids=repr)
def test_samples_start_each_from_its_own_or_all_from_one(schedule: pr.Schedule) -> None:
    f = pr.ODE(lambda t, u: torch.cos(t) * u - 0.1 * u**3)
    u0 = torch.linspace(0.5, 3.0, 4, dtype=torch.float64)[:, None]
    grid = pr.TimeGrid.uniform(0.0, 5.0, 12, 4)
    options: dict[str, Any] = {
        "fine": pr.RK4(), "coarse": pr.Secant(pr.Identity()), "schedule": schedule, "samples": True,
        "stop": pr.Tolerance(1e-8, 0.0),
    }  # fmt: skip
    cold = pr.solve(f, u0, grid, **options)
    ref = pr.serial(f, 1.02 * u0, grid, fine=pr.RK4(), samples=True)
    each = [(one[None], pr.solve(f, one[None], grid, **options)) for one in u0]
    alone = [pr.solve(f, 1.02 * one, grid, start=first, **options) for one, first in each]
    warm = pr.solve(f, 1.02 * u0, grid, start=cold, **options)
    assert distance(warm.u, ref.u) <= 1e-7
    assert warm.iterations.tolist() == [sol.iterations.item() for sol in alone]
    one_for_all = pr.solve(f, 1.02 * u0, grid, start=cold.us[:, 1:2], **options)
    assert distance(one_for_all.u, ref.u) <= 1e-7
    assert pr.solve(f, u0[:0], grid, start=cold.us[:, :0], **options).u.shape == (0, 1)


def test_a_start_fills_windows_and_a_run_that_is_opened_again() -> None:
    """What was accepted too early continues from the run's own states, and not from the start."""
    f, one = pr.ODE(lambda t, u: 3.0 * u), torch.ones(1, dtype=torch.float64)
    grid = pr.TimeGrid.uniform(0.0, 6.0, 48, 2)
    ref = pr.serial(f, one, grid, fine=pr.Heun()).us
    sol = pr.solve(
        f, one, grid, fine=pr.Heun(), coarse=pr.Identity(), schedule=pr.Windowed(6), start=ref * 1.001,
        stop=pr.Tolerance(1e-4, 0.0), verify=True,
    )  # fmt: skip
    assert sol.converged
    assert float((sol.u - ref[-1]).abs() / ref[-1]) <= 1e-4


def test_no_gradient_flows_into_a_start() -> None:
    grid, u0 = pr.TimeGrid.uniform(0.0, 1.0, 4, 2), torch.ones(1, dtype=torch.float64, requires_grad=True)
    start = torch.ones(5, 1, dtype=torch.float64, requires_grad=True)
    sol = pr.solve(pr.ODE(lambda t, u: -u), u0, grid, fine=pr.RK4(), coarse=pr.Euler(), start=start, stop=NEVER)
    sol.u.sum().backward()
    assert start.grad is None
    assert u0.grad is not None


def test_with_a_checkpoint_a_start_is_for_the_first_call(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    f, u0 = pr.ODE(lambda t, u: -u), torch.ones(2, dtype=torch.float64)
    grid, path = pr.TimeGrid.uniform(0.0, 2.0, 8, 4), tmp_path / "run.safetensors"
    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Euler(), "start": torch.zeros(9, 2, dtype=torch.float64)}
    first = pr.solve(f, u0, grid, checkpoint=path, **options)
    again = pr.solve(f, u0, grid, checkpoint=path, **options)
    assert equal(first.us, again.us)
    assert again.iterations == first.iterations
    assert equal(pr.solve(f, u0, grid, **{**options, "start": pr.Solution.load(path)}).ts, first.ts)


# --- what is refused --------------------------------------------------------------------------------------------------

GRID = pr.TimeGrid.uniform(0.0, 1.0, 4, 2)
NEST = {"x": torch.ones(2), "v": torch.ones(3)}


def solve(start: Any, u0: Any = None, grid: pr.TimeGrid = GRID, **more: Any) -> pr.Solution:
    problem = pr.ODE(lambda t, u: pytree.tree_map(torch.neg, u))
    return pr.solve(
        problem,
        torch.ones(2) if u0 is None else u0,
        grid,
        **{"fine": pr.RK4(), "coarse": pr.Euler(), **more},
        start=start,
    )


def few(**more: Any) -> pr.Solution:
    return solve(None, **more)


WRONG: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "number": (3, {}, TypeError, "start is .*expected a Solution, states"),
    "text": ("run.safetensors", {}, TypeError, "start is .*expected a Solution"),
    "none inside": ((), {}, TypeError, "start is .*expected a Solution"),
    "boundaries": (torch.ones(7, 2), {}, ValueError, r"shape \(7, 2\); expected \(5, 2\).*Solution itself"),
    "size": (torch.ones(5, 3), {}, ValueError, r"shape \(5, 3\); expected \(5, 2\).*Leave start out"),
    "scalar": (torch.ones(()), {}, ValueError, r"shape \(\)"),
    "dtype": (torch.ones(5, 2).double(), {}, TypeError, r"are torch.float64.*torch.float32.*\.to\(torch.float32\)"),
    "integers": (torch.ones(5, 2).long(), {}, TypeError, "are torch.int64"),
    "nest": ((torch.ones(5, 2),), {}, ValueError, "expected the same nest"),
    "keys": ({"x": torch.ones(5, 2)}, {"u0": NEST}, ValueError, "expected the same nest"),
    "samples": (torch.ones(5, 3, 2), {"u0": torch.ones(4, 2), "samples": True}, ValueError, r"\(5, 1, 2\), one sample"),
    "no samples": (torch.ones(5, 2), {"u0": torch.ones(4, 2), "samples": True}, ValueError, "unsqueeze"),
    "function": (lambda t0, t1, u: u[:1], {}, ValueError, r"start\(t0, t1, u\) returned shape"),
    "function of two": (lambda t, u: u, {}, TypeError, r"function of \(t, u\) .*expected fn\(t0, t1, u\)"),
    "class": (pr.Solution, {}, TypeError, "start is the class Solution; expected"),
    "list of states": ([torch.ones(2)] * 5, {}, ValueError, r"list of 5 states.*torch\.stack"),
    "array": (torch.ones(5, 2).numpy(), {}, TypeError, r"start is an ndarray.*torch\.from_numpy"),
    "number inside": ({"x": torch.ones(5, 2), "v": 3.0}, {"u0": NEST}, TypeError, "a dict that holds a float"),
    "sparse": (torch.ones(5, 2).to_sparse(), {}, TypeError, r"torch\.sparse_coo.*to_dense"),
    "without values": (torch.ones(5, 2, device="meta"), {}, TypeError, "meta device"),
    "function of less": (lambda t0, t1, u: None, {}, TypeError, r"start\(t0, t1, u\) returned"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name: str) -> None:
    start, more, kind, text = WRONG[name]
    with pytest.raises(kind, match=text):
        solve(start, **more)


def test_solutions_that_do_not_fit_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"solution from 0 to 2, and the grid goes from 0 to 1; expected the same span"
    ):
        solve(few(grid=pr.TimeGrid.uniform(0.0, 2.0, 4)))
    with pytest.raises(ValueError, match="from 1 to 0, and the grid"):
        solve(few(grid=pr.TimeGrid.uniform(1.0, 0.0, 4)))
    with pytest.raises(ValueError, match=r"dense=False, which keeps no states.*dense=True"):
        solve(few(dense=False))
    with pytest.raises(TypeError, match=r"states of the solution are torch\.float64"):
        solve(few(u0=torch.ones(2).double()))
    with pytest.raises(ValueError, match=r"states of the solution have shape \(5, 3\)"):
        solve(few(u0=torch.ones(3)))
    one = few(grid=pr.TimeGrid.uniform(0.0, 1.0, 1, 8))
    assert solve(one).converged  # of one slice, and dense
    with pytest.raises(ValueError, match="start came with resume"):
        solve(one, resume=one)


def test_a_plan_starts_every_trial_from_it_and_refuses_what_fits_only_some() -> None:
    problem, u0 = pr.ODE(lambda t, u: -u), torch.ones(2)
    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Secant(pr.Identity()), "budget": 5.0}
    cold = pr.plan(problem, u0, GRID, slices=[4], **options).candidates
    warm = pr.plan(problem, u0, GRID, slices=[4], start=few(), **options).candidates
    assert [one.name for one in warm] == [one.name for one in cold]
    calls: list[int] = []

    def guess(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        calls.append(len(t0))
        return u

    pr.plan(problem, u0, GRID, slices=[2, 8], start=guess, **options)
    assert len(calls) >= 2
    with pytest.raises(ValueError, match=r"states in start have shape \(5, 2\); expected \(9, 2\)"):
        pr.plan(problem, u0, GRID, slices=[4, 8], start=torch.ones(5, 2), **options)
    with pytest.raises(ValueError, match="expected the same span"):
        pr.plan(problem, u0, (0.0, 3.0, 8), slices=[4], start=few(), **options)


def test_keys_may_come_in_another_order() -> None:
    sol = solve({"v": torch.ones(5, 3), "x": torch.ones(5, 2)}, u0=NEST)
    assert list(sol.u) == ["x", "v"]


def test_states_without_axes() -> None:
    problem = pr.ODE(lambda t, u: torch.cos(t) * u)
    u0, grid = torch.tensor(1.0, dtype=torch.float64), pr.TimeGrid.uniform(0.0, 2.0, slices=12, steps=2)
    options = {"fine": pr.RK4(), "coarse": pr.Secant(pr.Identity()), "stop": pr.Tolerance(1e-8, 1e-10)}
    cold = pr.solve(problem, u0, grid, **options)
    warm = pr.solve(problem, u0, grid, start=cold, **options)
    assert warm.iterations <= cold.iterations
    torch.testing.assert_close(warm.us, cold.us, rtol=1e-6, atol=1e-8)


@given(
    seed=st.integers(0, 99),
    coarse=st.sampled_from(
        [pr.Euler(), pr.Identity(), pr.Secant(pr.Identity()), pr.Jacobian(), pr.Jacobian("diagonal")]
    ),
    stop=st.sampled_from([pr.Tolerance(1e-3), pr.Tolerance(0.0, 0.0), pr.Iterations(2), pr.Iterations(8)]),
    how=st.sampled_from(["start", "resume", "neither"]),
    samples=st.booleans(),
)
def test_a_gradient_after_a_start_is_right_or_refused(
    seed: int, coarse: Any, stop: pr.StoppingRule, how: str, samples: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rate = torch.rand((), dtype=torch.float64, generator=generator).requires_grad_()
    u0 = torch.rand(2, 3, dtype=torch.float64, generator=generator)
    problem = pr.ODE(lambda t, u: torch.sin(u) - rate * u, batching="native")
    grid = pr.TimeGrid.uniform(0.0, 2.0, slices=8, steps=2)
    shared: Any = {"fine": pr.Heun(), "coarse": coarse, "samples": samples, "executor": pr.Serial(), "throw": False}
    with torch.no_grad():
        first = pr.solve(problem, u0, grid, stop=pr.Iterations(2) if how == "resume" else pr.Tolerance(1e-9), **shared)
    given_ = {"start": {"start": first}, "resume": {"resume": first}, "neither": {}}[how]
    sol = pr.solve(problem, u0, grid, stop=stop, **given_, **shared)
    serial = pr.serial(problem, u0, grid, fine=pr.Heun(), samples=samples)
    wanted = torch.autograd.grad(serial.u.sum(), rate)[0]
    whole = bool((sol.us[-1] == serial.us[-1]).all()) and isinstance(stop, pr.Iterations) and stop.count == 8
    decided = isinstance(stop, pr.Tolerance) and sol.status is not pr.Status.FINAL and coarse != pr.Jacobian()
    if how == "resume" or (how == "start" and decided):
        with pytest.raises(RuntimeError, match="gradients='adjoint'"):
            torch.autograd.grad(sol.u.sum(), rate)
    elif whole or stop == pr.Tolerance(0.0, 0.0) or (how == "start" and coarse == pr.Jacobian()):
        close = 1e-3 if stop == pr.Tolerance(1e-3) else 1e-6
        torch.testing.assert_close(torch.autograd.grad(sol.u.sum(), rate)[0], wanted, rtol=close, atol=close)
