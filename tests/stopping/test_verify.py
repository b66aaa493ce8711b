"""What a run knows of its own boundaries: `Solution.residuals`, ``verify=True``, and acceptance that was a mistake."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import Case, cases, corrections, distance, examples, opened, part
from torch import Tensor
from torch.utils import _pytree as pytree

import diffusion_adapters as da
import parareal as pr
from parareal.stopping._rules import Verdict

DTYPES = (torch.float64, torch.complex128)


def lengths(tree: Any, kind: str, axes: int) -> Tensor:
    """The norm over all but the first ``axes`` axes of all leaves together."""
    flat = torch.cat([leaf.abs().double().reshape(*leaf.shape[:axes], -1) for leaf in pytree.tree_leaves(tree)], axes)
    return flat.pow(2).mean(axes).sqrt() if kind == "rms" else flat.amax(axes)


def defects(case: Case, sol: pr.Solution, kind: str, samples: bool) -> tuple[Tensor, Tensor]:
    """|F(U_n) - U_{n+1}| and |U_{n+1}|, each slice solved on a grid of its own; ``(N,)`` or ``(B, N)``."""
    out, sizes = [], []
    for n in range(case.grid.num_slices):
        points = case.grid.points[case.grid.bounds[n] : case.grid.bounds[n + 1] + 1]
        alone = pr.TimeGrid.from_points(points, 1)
        start, end = part(sol.us, n), part(sol.us, n + 1)
        value = pr.serial(case.problem, start, alone, fine=case.fine, samples=samples, executor=pr.Serial()).u
        missed = pytree.tree_map(torch.sub, value, end)
        out.append(lengths(missed, kind, int(samples)))
        sizes.append(lengths(end, kind, int(samples)))
    return torch.stack(out, -1), torch.stack(sizes, -1)


def schedules(slices: int) -> st.SearchStrategy[pr.Schedule]:
    """All of them; windows of every width."""
    return st.sampled_from((pr.Barrier(), pr.Wavefront())) | st.builds(pr.Windowed, st.integers(1, slices))


@st.composite
def stops(draw: st.DrawFn, kind: str) -> pr.Tolerance:
    """Tolerances of all rules, from loose to tight."""
    rtol, atol = draw(st.sampled_from((0.3, 1e-2, 1e-4, 1e-7))), draw(st.sampled_from((0.0, 1e-5)))
    rule = draw(st.sampled_from(("increment", "defect", "error")))
    return pr.Tolerance(rtol, atol, kind, rule, freeze=draw(st.booleans()))


def free_or_classical() -> st.SearchStrategy[pr.Correction]:
    """The library's corrections, exact derivatives among them."""
    return corrections() | st.sampled_from((pr.Identity(), pr.Secant(pr.Identity()), pr.Jacobian("diagonal")))


@given(case=cases(dtypes=DTYPES, min_slices=2, one_step=True), data=st.data(), samples=st.booleans())
@examples(5)
def test_verify_evaluates_the_states_that_are_returned(case: Case, data: Any, samples: bool) -> None:
    """Each boundary solved alone has the residual that is reported; all together they keep within the tolerance."""
    if samples:
        case = replace(case, u0=pytree.tree_map(lambda leaf: torch.stack([leaf, 0.3 * leaf + 0.1]), case.u0))
    correction = data.draw(free_or_classical())
    assume(not (isinstance(correction, pr.Jacobian) and pytree.tree_leaves(case.u0)[0].is_complex()))
    kind = data.draw(st.sampled_from(("rms", "max")))
    stop = data.draw(stops(kind))
    sol = pr.solve(
        case.problem, case.u0, case.grid, fine=case.fine, coarse=correction, stop=stop, verify=True, samples=samples,
        schedule=data.draw(schedules(case.grid.num_slices)), executor=pr.Serial(),
    )  # fmt: skip
    statuses = sol.sample_status if samples else (sol.status,)
    assert set(statuses) <= {pr.Status.VERIFIED, pr.Status.FINAL}
    assert sol.converged
    missed, sizes = defects(case, sol, kind, samples)
    assert sol.residuals.shape == missed.shape
    torch.testing.assert_close(sol.residuals, missed / sizes, rtol=1e-6, atol=1e-15)
    end = lengths(sol.u, kind, int(samples))
    allowed = stop.rtol + stop.atol / end
    assert (sol.residuals.sum(-1) <= allowed * (1 + 1e-9)).all()
    estimate = torch.as_tensor(sol.error_estimate, dtype=torch.float64)
    assert (estimate <= allowed * end * (1 + 1e-9)).all()
    assert ((estimate == 0) == (sol.residuals.sum(-1) == 0)).all()
    # Whatever the correction: defects grow by no more than differences do. At most nine elements: max <= 3 rms.
    serial = pr.serial(case.problem, case.u0, case.grid, fine=case.fine, samples=samples, executor=pr.Serial())
    assert distance(sol.u, serial.u) <= 3 * case.growth * float(missed.sum(-1).max()) * (1 + 1e-9) + case.rounding


def test_verify_solves_multistep_slices_with_their_memory() -> None:
    """One step of the two-step Adams method a slice, by hand, from the state and the slope that each boundary holds."""
    grid, u0 = pr.TimeGrid.uniform(0.0, 3.0, 12), torch.tensor([1.0, -0.4], dtype=torch.float64)
    h, problem = 0.25, pr.ODE(swing)
    for schedule in (pr.Barrier(), pr.Windowed(5)):
        sol = pr.solve(
            problem, u0, grid, fine=pr.AdamsBashforth(2), coarse=pr.Identity(), schedule=schedule, verify=True,
            stop=pr.Tolerance(1e-2, 0.0),
        )  # fmt: skip
        assert sol.status is pr.Status.VERIFIED
        assert sol.standing is not None
        (before,) = sol.standing.u.memory.values  # h f at the step before
        slopes = torch.stack([swing(t, u) for t, u in zip(sol.ts, sol.us, strict=True)])
        value = sol.us + h * 1.5 * slopes - 0.5 * before
        missed = (value[1:-1] - sol.us[2:]).norm(dim=1) / sol.us[2:].norm(dim=1)
        torch.testing.assert_close(sol.residuals[1:], missed, rtol=1e-6, atol=1e-14)
        assert sol.residuals[0] == 0.0, "the first boundary is final"
        assert sol.residuals.max() > 1e-6


def swing(t: Tensor, u: Tensor) -> Tensor:
    return torch.stack([u[1], -torch.sin(u[0])]) + 0.1 * torch.cos(t)


@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "ancestral"])
def test_verify_on_diffusion_models(solver: Any) -> None:
    """Samples one by one: verified to within the tolerance, or final, and as near to the sequential ones."""
    means = torch.tensor([[1.0, -1.0, 0.5], [-0.7, 0.2, 0.0]], dtype=torch.float64)
    model = da.GaussianMixture(means, 0.05).model(da.VP())
    noise = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options: dict[str, Any] = {"steps": 20, "solver": solver, "rtol": 1e-3}
    if solver == "ancestral":
        options["generator"] = [torch.Generator().manual_seed(i) for i in range(3)]
        noise = torch.Size((3, 3))
    for width in (6, 20):
        out = da.sample(model, noise, width=width, verify=True, **options)
        sol = out.solution
        assert set(sol.sample_status) <= {pr.Status.VERIFIED, pr.Status.FINAL}
        assert sol.residuals.shape == (3, 20)
        assert (sol.residuals.sum(1) <= 1e-3).all()


def cut(case: Case, correction: pr.Correction, **options: Any) -> pr.Solution:
    return pr.solve(case.problem, case.u0, case.grid, fine=case.fine, coarse=correction, throw=False, **options)


@given(case=cases(dtypes=DTYPES, min_slices=2), correction=corrections(), data=st.data(), samples=st.booleans())
def test_residuals_are_known_where_boundaries_have_moved(
    case: Case, correction: pr.Correction, data: Any, samples: bool
) -> None:
    """Whatever ends a run: finite where there was an increment, zero behind the proven frontier."""
    if samples:
        case = replace(case, u0=pytree.tree_map(lambda leaf: torch.stack([leaf, 0.3 * leaf + 0.1]), case.u0))
    count = data.draw(st.integers(1, case.grid.num_slices))
    slices = case.grid.num_slices
    sol = cut(case, correction, stop=pr.Iterations(count), samples=samples, schedule=data.draw(schedules(slices)))
    assert sol.residuals.dtype == torch.float64
    residuals = sol.residuals if samples else sol.residuals[None]
    moves = torch.stack([report.increments.reshape(-1, slices) for report in sol.history])
    frontier = torch.as_tensor(sol.history[-1].frontier).reshape(-1)
    assert residuals.shape == moves.shape[1:]
    assert not residuals[moves.isnan().all(0)].nan_to_num().any()  # or zero, if it has become final since
    assert residuals[(moves > 0).any(0)].isfinite().all()
    assert not residuals[torch.arange(slices) < frontier[:, None]].any()
    assert (residuals.nan_to_num() >= 0).all()


def test_a_residual_is_the_defect_of_the_iterate_before() -> None:
    """As seen in the run: F of the last input less what the boundary held then, over the size of the next iterate."""
    grid, u0 = pr.TimeGrid.uniform(0.0, 3.0, 6, 2), torch.tensor([1.0, -0.4], dtype=torch.float64)
    options: dict[str, Any] = {"fine": pr.Heun(), "coarse": pr.Identity(), "stop": pr.Iterations(2)}
    sol = pr.solve(pr.ODE(swing), u0, grid, keep="all", **options)
    u, fine = sol.iterates.u, sol.iterates.fine
    expected = (fine[1, 2:] - u[1, 3:]).norm(dim=1) / u[2, 3:].norm(dim=1)
    torch.testing.assert_close(sol.residuals[2:], expected)
    assert sol.residuals[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("samples", [False, True])
def test_residuals_are_saved_and_gone_on_with(samples: bool, tmp_path: Path) -> None:
    grid, u0 = pr.TimeGrid.uniform(0.0, 3.0, 9), torch.tensor([[1.0, -0.4]], dtype=torch.float64)
    options: dict[str, Any] = {"fine": pr.Euler(), "coarse": pr.Identity(), "samples": samples}
    problem = pr.ODE(lambda t, u: torch.cos(t) * u.flip(-1))
    sol = pr.solve(problem, u0, grid, stop=pr.Iterations(2), schedule=pr.Windowed(4), **options)
    assert sol.residuals.isnan().any()
    sol.save(tmp_path / "run")
    loaded = pr.Solution.load(tmp_path / "run")
    assert torch.equal(loaded.residuals.nan_to_num(-1.0), sol.residuals.nan_to_num(-1.0))
    rule = pr.Tolerance(1e-6, 0.0)
    whole = pr.solve(problem, u0, grid, schedule=pr.Windowed(4), stop=rule, verify=True, **options)
    half = pr.solve(
        problem, u0, grid, schedule=pr.Windowed(4), stop=rule, callback=lambda report: report.iteration == 2, **options
    )
    half.save(tmp_path / "half")
    rest = pr.solve(
        problem, u0, grid, schedule=pr.Windowed(4), stop=rule, verify=True,
        resume=pr.Solution.load(tmp_path / "half"), **options
    )  # fmt: skip
    assert rest.status is whole.status
    assert rest.status in (pr.Status.VERIFIED, pr.Status.FINAL)
    assert (rest.residuals.sum(-1) <= 1e-6).all()


def test_a_verified_run_is_not_verified_again() -> None:
    grid, u0 = pr.TimeGrid.uniform(0.0, 3.0, 12), torch.tensor([1.0, -0.4], dtype=torch.float64)
    options: dict[str, Any] = {"fine": pr.Heun(), "coarse": pr.Identity(), "verify": True}
    sol = pr.solve(pr.ODE(swing), u0, grid, **options)
    assert sol.status is pr.Status.VERIFIED
    seen: list[int] = []
    again = pr.solve(pr.ODE(swing), u0, grid, resume=sol, callback=lambda report: seen.append(1), **options)
    assert again.status is pr.Status.VERIFIED
    assert torch.equal(again.us, sol.us)
    assert torch.equal(again.residuals, sol.residuals)
    assert again.stats.rounds == sol.stats.rounds
    assert not seen


def test_states_of_zero_are_verified() -> None:
    """Nothing is missed of a state that stays zero, although nothing can be said relative to its size."""
    grid, u0 = pr.TimeGrid.uniform(0.0, 1.0, 8), torch.zeros(2, dtype=torch.float64)
    sol = pr.solve(pr.ODE(lambda t, u: -u), u0, grid, fine=pr.Euler(), coarse=pr.Identity(), verify=True)
    assert sol.status is pr.Status.VERIFIED
    assert sol.iterations == 1
    assert sol.residuals.tolist() == [0.0] * 8


def test_verify_needs_states_to_evaluate() -> None:
    grid, u0 = pr.TimeGrid.uniform(0.0, 1.0, 4), torch.ones(2)
    options: dict[str, Any] = {"fine": pr.Euler(), "coarse": pr.Euler(), "verify": True}
    with pytest.raises(ValueError, match=r"verify=True came with dense=False.*expected dense=True, or verify=False"):
        pr.solve(pr.ODE(lambda t, u: -u), u0, grid, dense=False, **options)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match=r"verify=True came with RankPipeline.*expected another schedule"):
            pr.solve(pr.ODE(lambda t, u: -u), u0, grid, schedule=pr.RankPipeline(), **options)
    finally:
        torch.distributed.destroy_process_group()


# --- what vouches for too much --------------------------------------------------------------------------------------


class Boasting(pr.LinearFlow):
    """A flow that has nothing to do with the problem, and says that it misses next to nothing."""

    def mismatch(self, at: Any) -> Tensor:
        return torch.full(at.shape, 1e-12, dtype=torch.float64)


class Yielding(pr.StoppingRule):
    """A rule of one's own that takes everything for settled at once, joined to a tolerance by ``&`` or alone."""

    traits = pr.StoppingTraits(width=0)

    def measure(self, change: Any) -> list[Tensor]:
        return []

    def decide(self, figures: Any, iteration: Any) -> Any:
        every = np.ones(len(iteration), dtype=bool)
        return Verdict(every, every, np.full(len(iteration), figures.shape[1]))


def field(t: Tensor, u: Tensor) -> Tensor:
    """Differences neither grow nor shrink by much."""
    return torch.stack([u[1], -u[0], 0.5 * torch.cos(3 * t) * torch.sin(u[2] + u[0])])


START = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("factor", [0.3, 0.9, 1.2])
@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 12, 24])
@pytest.mark.sweep(10)
def test_a_prior_that_boasts_vouches_for_nothing(width: int, factor: float) -> None:
    grid = pr.TimeGrid.uniform(0.0, 4.0, 24)
    ref = pr.serial(pr.ODE(field), START, grid, fine=pr.Heun()).u
    for rtol in (1e-2, 1e-4):
        sol = pr.solve(
            pr.ODE(field), START, grid, fine=pr.Heun(), coarse=Boasting(factor), schedule=pr.Windowed(width),
            stop=pr.Tolerance(rtol, 0.0), throw=False,
        )  # fmt: skip
        assert float((sol.u - ref).norm() / ref.norm()) <= 2 * rtol or not sol.converged


def test_verify_does_not_believe_a_rule_that_accepts_everything() -> None:
    """What it accepted is off by far more than the tolerance beside it, and is not called converged."""
    grid = pr.TimeGrid.uniform(0.0, 4.0, 12)
    ref = pr.serial(pr.ODE(field), START, grid, fine=pr.Heun()).u
    options: dict[str, Any] = {"fine": pr.Heun(), "coarse": Boasting(0.5), "verify": True}
    stop = Yielding() | pr.Tolerance(1e-4, 0.0)
    for schedule in (pr.Barrier(), pr.Windowed(4)):
        sol = pr.solve(pr.ODE(field), START, grid, stop=stop, schedule=schedule, **options)
        assert sol.status in (pr.Status.VERIFIED, pr.Status.FINAL)
        assert float((sol.u - ref).norm() / ref.norm()) <= 1e-4 * 3
        blind = pr.solve(pr.ODE(field), START, grid, stop=stop, schedule=schedule, **{**options, "verify": False})
        assert not float((blind.u - ref).norm() / ref.norm()) <= 1e-2


@given(case=cases(dtypes=DTYPES, min_slices=2), correction=corrections(), data=st.data())
def test_beside_converged_the_estimate_keeps_within_the_tolerance(
    case: Case, correction: pr.Correction, data: Any
) -> None:
    stop = replace(data.draw(stops(data.draw(st.sampled_from(("rms", "max"))))), rule="error")
    sol = cut(case, correction, stop=stop, schedule=data.draw(schedules(case.grid.num_slices)))
    assert sol.converged
    allowed = stop.atol + stop.rtol * float(lengths(sol.u, stop.norm, 0))
    assert 0.0 <= sol.error_estimate <= allowed * (1 + 1e-9)


# --- runs that are opened again ------------------------------------------------------------------------------------


def unstable(rate: float) -> Any:
    """A circle, which what lies beside it leaves from t = 2 on: errors grow, the solution does not."""

    def f(t: Tensor, u: Tensor) -> Tensor:
        circle = torch.stack([torch.cos(t), torch.sin(t)]).to(u)
        along = torch.stack([-torch.sin(t), torch.cos(t)]).to(u)
        return along + torch.where(t < 2, 0.0, rate) * (u - circle) + torch.where(t < 2, 0.3, 0.0) * (u - circle).sin()

    return f


ON_CIRCLE = torch.tensor([1.0, 0.0], dtype=torch.float64)
LATER = pr.TimeGrid.uniform(0.0, 4.0, 16, 2)


def late(rate: float, width: int, rtol: float, **options: Any) -> pr.Solution:
    given: dict[str, Any] = {"problem": pr.ODE(unstable(rate)), "u0": ON_CIRCLE, "stop": pr.Tolerance(rtol, 0.0)}
    given |= {"grid": LATER, "fine": pr.Heun(), "coarse": pr.Identity(), "schedule": pr.Windowed(width), **options}
    return pr.solve(**given)


def off(sol: pr.Solution, rate: float) -> float:
    ref = pr.serial(pr.ODE(unstable(rate)), ON_CIRCLE, LATER, fine=pr.Heun()).u
    return float((sol.u - ref).norm() / ref.norm())


GROWING = tuple(product((2.0, 4.0), (2, 4, 8), (1e-2, 1e-4)))


@cache
def one_opened_again() -> tuple[float, int, float]:
    """A run that has accepted too much at first."""
    return next(which for which in GROWING if opened(late(*which)))


@pytest.mark.parametrize(
    ("rate", "width", "rtol"),
    GROWING,
)
def test_errors_that_grow_late_end_within_the_tolerance(rate: float, width: int, rtol: float) -> None:
    """And never more rounds than one slice after another takes, unless slices were opened again."""
    sol = late(rate, width, rtol)
    assert sol.converged
    assert off(sol, rate) <= 2 * rtol
    assert opened(sol) or sol.stats.rounds <= 64


def test_a_run_that_has_accepted_too_much_is_opened_again() -> None:
    rate, width, rtol = one_opened_again()
    calls, reports = [0], []

    def counted(t: Tensor, u: Tensor) -> Tensor:
        calls[0] += u.shape[0]
        return torch.func.vmap(unstable(rate))(t, u)

    problem = pr.ODE(counted, batching="native")
    sol = late(rate, width, rtol, problem=problem, keep="all", callback=reports.append)
    assert opened(sol) >= 1
    assert sol.converged
    assert off(sol, rate) <= rtol
    # All of it is counted, and counted on; a problem may be called once before the run, to see whether it can be.
    assert 0 <= calls[0] - sol.stats.evaluations <= 1
    assert [report.iteration for report in sol.history] == list(range(1, sol.iterations + 1))
    assert len(reports) == len(sol.history)
    assert all(seen is kept for seen, kept in zip(reports, sol.history, strict=True))
    for figures in ([r.rounds for r in sol.history], [r.evaluations for r in sol.history]):
        assert figures == sorted(figures)
    assert sol.history[-1].rounds == sol.stats.rounds
    # The record goes on as well: its last iterates are what is returned.
    assert sol.iterates is not None
    assert torch.equal(sol.iterates.after(len(sol.iterates.has_u) - 1), sol.us)
    assert int(sol.iterates.lanes[:, 1].max()) <= sol.stats.rounds


def test_each_sample_is_opened_again_for_itself() -> None:
    """The second sample is at rest: its run is never opened again."""
    rate, width, rtol = one_opened_again()
    u0, f = torch.stack([ON_CIRCLE, 3 * ON_CIRCLE]), unstable(rate)
    problem = pr.ODE(lambda t, u, k: f(t, u) * k, per_sample=torch.tensor([1.0, 0.0], dtype=torch.float64))
    sol = late(rate, width, rtol, problem=problem, u0=u0, samples=True)
    alone = late(rate, width, rtol)
    assert sol.converged
    assert int(sol.iterations[0]) == alone.iterations > int(sol.iterations[1])
    torch.testing.assert_close(sol.us[:, 0], alone.us, rtol=1e-9, atol=1e-12)
    assert torch.equal(sol.us[:, 1], u0[1].expand(17, 2))


def test_without_the_states_in_between_there_is_no_way_back() -> None:
    rate, width, rtol = one_opened_again()
    sol = late(rate, width, rtol, dense=False, throw=False)
    assert sol.status is pr.Status.UNCERTAIN
    assert not sol.converged
    assert sol.error_estimate > rtol * float(sol.u.norm()) / 2**0.5
    with pytest.raises(pr.SolveError, match="dense=True"):
        late(rate, width, rtol, dense=False)


def test_a_stopped_run_that_was_opened_again_goes_on() -> None:
    rate, width, rtol = one_opened_again()
    whole = late(rate, width, rtol)
    frontiers = [report.frontier for report in whole.history]
    fall = next(i for i in range(1, len(frontiers)) if frontiers[i] < frontiers[i - 1])
    for stop_at in (fall, fall + 1, fall + 2):
        half = late(rate, width, rtol, callback=lambda report, k=stop_at: report.iteration == k)
        rest = late(rate, width, rtol, resume=half)
        assert rest.converged
        assert off(rest, rate) <= rtol


class Watching(pr.StoppingRule):
    """A rule of one's own, which notes the figures that it is given, and accepts a slice at most."""

    traits = pr.StoppingTraits(width=1)

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def measure(self, change: Any) -> list[Tensor]:
        return [change.norm("size", "rms")]

    def decide(self, figures: Any, iteration: Any) -> Any:
        self.seen.append(figures[0, :, 0].copy())
        none = np.zeros(len(iteration), dtype=bool)
        return Verdict(none, none, np.zeros(len(iteration), dtype=np.int64))


@pytest.mark.parametrize("width", [1, 2, 4, 7, 16])
@pytest.mark.parametrize("coarse", [pr.Identity(), pr.Coarse(pr.Euler())], ids=["free", "coarse"])
def test_rules_see_nan_at_boundaries_that_nothing_was_computed_for(width: int, coarse: pr.Correction) -> None:
    """Never zero, which would pass: states are of size one, and zero stands for those that were final before."""
    rule = Watching()
    sol = late(2.0, width, 0.0, coarse=coarse, stop=rule)
    assert sol.status is pr.Status.FINAL
    frontier = 0
    for figures, report in zip(rule.seen, sol.history, strict=True):
        assert not figures[:frontier].any()
        assert not (figures[frontier:] == 0).any()
        assert np.isfinite(figures[frontier:]).sum() <= width + 1
        assert np.array_equal(np.isnan(figures), np.isnan(report.increments.numpy()))
        frontier = report.frontier


def test_a_doubt_that_defects_do_not_bear_out_reopens_nothing() -> None:
    """An estimate above the tolerance is a cautious one: accepted boundaries are looked at first."""
    rtol = 1e-3
    sol = late(1.0, 4, rtol)
    assert sol.status is pr.Status.CONVERGED
    assert not opened(sol)
    assert off(sol, 1.0) <= rtol
    assert sol.residuals is not None
    assert not sol.residuals.isnan().any()  # those of all slices have been evaluated
    assert sol.stats.rounds <= 64
    asked = late(1.0, 4, rtol, verify=True)
    assert asked.status is pr.Status.VERIFIED
    assert asked.stats.rounds == sol.stats.rounds  # once is enough
