"""Pictures show the numbers they are made from: the artists' own data are compared with the solution's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from strategies import Case

import parareal as pr
from parareal import plot, theory

GRID = pr.TimeGrid.uniform(0.0, 4.0, slices=6, steps=4)
U0 = torch.tensor([[1.0, -0.5], [0.2, 0.1], [0.9, 0.9]], dtype=torch.float64)
PROBLEM = pr.ODE(lambda t, u: torch.cos(t) * u - u**3)
SCHEDULES = (pr.Barrier(), pr.Wavefront(), pr.Windowed(3))


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def run(**options: Any) -> pr.Solution:
    call = {"fine": pr.RK4(), "coarse": pr.Euler(), "executor": pr.Serial(), "keep": "all", **options}
    return pr.solve(PROBLEM, U0, GRID, **call)


def reference(**options: Any) -> pr.Solution:
    return pr.serial(PROBLEM, U0, GRID, fine=pr.RK4(), executor=pr.Serial(), **options)


def planned(workers: int | None, speedup: float) -> pr.Plan:
    """A plan that predicts so much."""
    times: Any = None
    best: Any = pr.Candidate("a", {}, 1.0, 1, 1, 1, 1, 1, True, on_workers=1.0 / speedup)
    return pr.Plan((best,), 1.0, 1, times, best, "", 0.0, workers)


def part(ax: Axes, gid: str) -> Any:
    """The artist of that name; ``None`` where it is not drawn."""
    found = [artist for artist in (*ax.collections, *ax.lines) if artist.get_gid() == gid]
    assert len(found) < 2
    return found[0] if found else None


def cells(ax: Axes, gid: str, shape: tuple[int, int], first: int) -> np.ndarray:
    """Which cells the rectangles of that name cover."""
    mask = np.zeros(shape, dtype=bool)
    made = part(ax, gid)
    for path in [] if made is None else made.get_paths():
        (x0, y0), (x1, y1) = path.get_extents().get_points()
        assert y1 - y0 == 1
        block = mask[round(y0 + 0.5) - first, round(x0 + 0.5) : round(x1 + 0.5)]
        assert not block.any()
        block[:] = True
    return mask


def values(ax: Axes, shape: tuple[int, int]) -> np.ndarray:
    """Colours' numbers, NaN where there is none."""
    mesh = part(ax, "values")
    return np.full(shape, np.nan) if mesh is None else mesh.get_array().reshape(shape).filled(np.nan)


PICTURES: dict[str, Callable[..., Axes]] = {
    "increments": lambda **o: plot.increments(run(), **o),
    "errors": lambda **o: plot.errors(run(), reference(), **o),
    "timeline": lambda **o: plot.timeline(run(), **o),
    "layout": lambda **o: plot.timeline(theory.layout(pr.Wavefront(), 6, 3, fine=8, coarse=1, workers=3), **o),
    "convergence": lambda **o: plot.convergence(run(), bounds={"half": lambda k: 0.5**k}, **o),
    "speedup": lambda **o: plot.speedup(run(), ratio=0.1, **o),
    "work_precision": lambda **o: plot.work_precision({"a": [run()]}, reference(), **o),
}


@pytest.mark.parametrize("name", PICTURES)
def test_axes_come_back_and_nothing_else_is_touched(name: str) -> None:
    figure, ax = plt.subplots()
    assert PICTURES[name](ax=ax) is ax
    assert plt.get_fignums() == [figure.number]
    made = PICTURES[name]()
    assert isinstance(made, Axes)
    assert len(plt.get_fignums()) == 2
    for one in (ax, made):
        assert one.get_xlabel()
        assert one.get_ylabel()
        one.figure.canvas.draw()


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_not_axes_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=r"ax is a Figure; expected matplotlib Axes"):
        PICTURES[name](ax=plt.figure())


@pytest.mark.parametrize("name", PICTURES)
def test_legends_cover_no_data(name: str) -> None:
    ax = PICTURES[name]()
    ax.figure.canvas.draw()
    legend = ax.get_legend()
    if legend is not None:
        inside, outside = ax.get_window_extent(), legend.get_window_extent()
        assert outside.x0 >= inside.x1 - 1 or outside.y0 >= inside.y1 - 1
        assert ax.figure.bbox.x1 >= outside.x1 - 1
        assert ax.figure.bbox.y1 >= outside.y1 - 1


def test_the_import_loads_no_matplotlib() -> None:
    code = (
        "import sys, parareal as pr\n"
        "pr.plot.increments\n"
        "assert 'matplotlib' not in sys.modules\n"
        "sys.modules['matplotlib'] = sys.modules['matplotlib.axes'] = None\n"
        "laid = pr.theory.layout(pr.Barrier(), 2, 1, fine=1, coarse=1)\n"
        "try:\n    pr.plot.timeline(laid)\n"
        "except ImportError as error:\n    print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out == "parareal.plot needs matplotlib: pip install 'torch-parareal[plot]'\n"


# --- heat maps --------------------------------------------------------------------------------------------------------


@given(own.cases(), own.corrections(), st.sampled_from((*SCHEDULES[:2], pr.Windowed(1))))
def test_every_increment_is_shown_once(case: Case, coarse: pr.Correction, schedule: pr.Schedule) -> None:
    stop = pr.Tolerance(1e-4, 1e-6)
    sol = pr.solve(
        case.problem, case.u0, case.grid, fine=case.fine, coarse=coarse, schedule=schedule, stop=stop, throw=False
    )
    table = np.array(sol.history.to_dict()["increments"])
    ax = plot.increments(sol, ax=Figure().subplots())
    shown = values(ax, table.shape)
    positive = np.isfinite(table) & (table > 0)
    assert np.array_equal(shown[positive], table[positive])
    assert np.isnan(shown[~positive]).all()
    # What is not above 0 is marked as what it is.
    before = np.array([0, *sol.history.to_dict()["frontier"][:-1]])
    held = (np.arange(table.shape[1]) < before[:, None]) & (table == 0)
    assert np.array_equal(cells(ax, "final or accepted", table.shape, 1), held)
    assert np.array_equal(cells(ax, "increment 0", table.shape, 1), (table == 0) & ~held)
    assert np.array_equal(cells(ax, "not computed", table.shape, 1), ~np.isfinite(table))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_errors_are_those_of_shorter_runs(schedule: pr.Schedule) -> None:
    sol, ref = run(schedule=schedule, stop=pr.Tolerance(1e-3, 0.0)), reference()
    kept = sol.iterates
    ax = plot.errors(sol, ref)
    shape = (len(kept.has_u), 6)
    shown = values(ax, shape)
    missing, exact = cells(ax, "not computed", shape, 0), cells(ax, "error 0", shape, 0) | cells(ax, "held 0", shape, 0)
    assert np.array_equal(cells(ax, "final or accepted", shape, 0), _held(kept.has_u[:, 1:].numpy()))
    for k in range(shape[0]):
        gap = (kept.after(k) - ref.us)[1:].abs().flatten(1).amax(1).numpy()
        assert np.array_equal(missing[k], np.isnan(gap))
        assert np.array_equal(exact[k], gap == 0)
        assert np.array_equal(shown[k][gap > 0], gap[gap > 0])
    if schedule == pr.Barrier():
        for k in range(1, shape[0]):
            gap = (run(stop=pr.Iterations(k)).us - ref.us)[1:].abs().flatten(1).amax(1).numpy()
            assert np.array_equal(np.nan_to_num(shown[k]), gap)


def _held(there: np.ndarray) -> np.ndarray:
    """Edges without an iterate of this number that have had one before, said one by one."""
    held = np.zeros_like(there)
    for k, n in np.ndindex(there.shape):
        held[k, n] = not there[k, n] and bool(there[:k, n].any())
    return held


def test_norms_and_samples() -> None:
    stop = pr.Tolerance(1e-3, 0.0)
    sol, ref = run(samples=True, stop=stop), reference(samples=True)
    shape = (len(sol.iterates.has_u), 6)
    each = [values(plot.errors(sol, ref, sample=i), shape) for i in range(3)]
    for i in range(3):
        alone = pr.solve(
            PROBLEM, U0[i], GRID, fine=pr.RK4(), coarse=pr.Euler(), executor=pr.Serial(), keep="all", stop=stop
        )
        rows = len(alone.iterates.has_u)
        assert np.array_equal(each[i][:rows], values(plot.errors(alone, ref.us[:, i]), (rows, 6)), equal_nan=True)
    assert np.array_equal(values(plot.errors(sol, ref), shape), np.fmax.reduce(each), equal_nan=True)
    rms = (sol.iterates.u[0] - ref.us)[1:, 1].square().mean(1).sqrt().numpy()
    assert values(plot.errors(sol, ref, norm="rms", sample=1), shape)[0] == pytest.approx(rms, rel=1e-14)

    table = np.array(sol.history.to_dict()["increments"])
    for sample, wanted in ((None, table.max(1)), (2, table[:, 2])):
        shown = values(plot.increments(sol, sample=sample), wanted.shape)
        assert np.array_equal(np.nan_to_num(shown), wanted)


def test_a_run_of_zeros_and_one_of_a_single_value_are_drawn() -> None:
    one = pr.TimeGrid.uniform(0.0, 1.0, slices=1, steps=2)
    for rate in (0.0, 1.0):
        problem = pr.ODE(lambda t, u, rate=rate: rate * u)
        u0 = torch.ones(2, dtype=torch.float64)
        sol = pr.solve(problem, u0, one, fine=pr.RK4(), coarse=pr.Euler(), keep="all")
        ax = plot.increments(sol)
        ax.figure.canvas.draw()
        assert np.nan_to_num(values(ax, (1, 1)))[0, 0] == sol.history[0].increments.item()
        assert cells(ax, "increment 0", (1, 1), 1)[0, 0] == (rate == 0)


# --- timelines --------------------------------------------------------------------------------------------------------


def boxes(ax: Axes, gid: str) -> np.ndarray:
    """``(n, 4)``: start, end, lower and upper edge of each bar."""
    made = part(ax, gid)
    found = [] if made is None else [path.get_extents().get_points().T.ravel() for path in made.get_paths()]
    return np.array(found).reshape(-1, 4)


@given(own.grids(), own.corrections(), st.sampled_from(SCHEDULES), st.integers(1, 4))
def test_bars_are_as_long_as_the_evaluations_of_their_slices(
    grid: pr.TimeGrid, coarse: pr.Correction, schedule: pr.Schedule, k: int
) -> None:
    called: list[float] = []
    if schedule == pr.Windowed(3) and grid.num_slices < 3:
        schedule = pr.Windowed(1)

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        called.extend(t.tolist())
        return torch.cos(3 * t)[:, None] * u

    u0 = torch.ones(2, dtype=torch.float64)
    stop = pr.Iterations(k)
    sol = pr.solve(
        pr.ODE(f, "native"), u0, grid, fine=pr.Euler(), coarse=coarse, schedule=schedule, stop=stop, keep="all"
    )
    ax = plot.timeline(sol, ax=Figure().subplots())
    fine, other = boxes(ax, "fine"), boxes(ax, "coarse")
    both = np.concatenate([fine, other])
    assert (fine[:, 1] - fine[:, 0]).sum() == sol.stats.fine_evaluations
    assert (other[:, 1] - other[:, 0]).sum() == sol.stats.coarse_evaluations
    widths = [int(((both[:, 0] <= r) & (r < both[:, 1])).sum()) for r in range(sol.stats.rounds)]
    assert max(widths) == sol.stats.max_lanes
    assert min(widths) > 0
    slices = np.round((both[:, 2] + both[:, 3]) / 2).astype(int)
    assert (np.abs(both[:, 2:] - slices[:, None]) < 0.5).all()
    # Every Euler step asks at the left of its step, so that the times of the calls tell whose they were.
    if coarse.propagator is None or isinstance(coarse.propagator, pr.Euler):
        assert len(called) == sol.stats.evaluations
        sign = 1 if grid.points[-1] > grid.points[0] else -1
        of = np.searchsorted(sign * grid.edges.numpy(), sign * np.array(called), side="right") - 1
        made = np.bincount(of, minlength=grid.num_slices)
        drawn = np.bincount(slices, weights=both[:, 1] - both[:, 0], minlength=grid.num_slices)
        assert np.array_equal(made, drawn)
    for n in range(grid.num_slices):
        mine = both[slices == n]
        for i, a in enumerate(mine):
            for b in mine[:i]:
                beside = a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] + 1e-9 or b[3] <= a[2] + 1e-9
                assert beside, "two bars cover each other"


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_bars_are_the_solves_of_each_iteration(schedule: pr.Schedule) -> None:
    sol = run(schedule=schedule, stop=pr.Iterations(3))
    ax = plot.timeline(sol)
    made = part(ax, "fine")
    iteration = made.get_array()
    length = boxes(ax, "fine")[:, 1] - boxes(ax, "fine")[:, 0]
    for k in range(3):  # 16 evaluations a slice, of which the coarse lane makes the first
        assert (length[iteration == k + 1] == 15).sum() == sol.iterates.has_fine[k].sum()
    front = part(ax, "frontier")
    assert front.get_xdata().tolist() == [0, *(report.rounds for report in sol.history)]
    assert (front.get_ydata() + 0.5).tolist() == [0, *(report.frontier for report in sol.history)]


def test_a_timeline_of_one_sample() -> None:
    sol = run(samples=True, stop=pr.Tolerance(1e-3, 0.0), schedule=pr.Wavefront())
    total = 0.0
    for i in range(3):
        ax = plot.timeline(sol, sample=i)
        bars = np.concatenate([boxes(ax, "fine"), boxes(ax, "coarse")])
        total += (bars[:, 1] - bars[:, 0]).sum()
        assert part(ax, "frontier").get_ydata()[-1] + 0.5 == sol.history[-1].frontier[i]
    assert total == sol.stats.evaluations


@given(
    st.sampled_from((pr.Barrier(), pr.Wavefront())), st.integers(1, 7), st.integers(1, 4), st.none() | st.integers(1, 5)
)
def test_a_layout_has_a_bar_for_each_solve(schedule: pr.Schedule, N: int, k: int, P: int | None) -> None:
    laid = theory.layout(schedule, N, k, fine=4.0, coarse=1.0, workers=P)
    ax = plot.timeline(laid, ax=Figure().subplots())
    for name, fine in (("fine", True), ("coarse", False)):
        wanted = sorted((one.start, one.end, one.worker) for one in laid.solves if one.fine == fine)
        bars = boxes(ax, name)
        assert sorted(zip(bars[:, 0], bars[:, 1], np.round(bars[:, 2:].mean(1)), strict=True)) == wanted
    written = sorted((text.get_position()[0], text.get_text()) for text in ax.texts)
    assert written == sorted(((one.start + one.end) / 2, str(one.slice)) for one in laid.solves if one.fine)


# --- curves -----------------------------------------------------------------------------------------------------------


def line(ax: Axes, gid: str) -> list[tuple[float, float]]:
    """The points of a line that are drawn."""
    made = part(ax, gid)
    points = zip(made.get_xdata().tolist(), made.get_ydata().tolist(), strict=True)
    return [point for point in points if not np.isnan(point[1])]


def test_convergence_shows_increments_errors_and_bounds() -> None:
    sol, ref = run(stop=pr.Tolerance(0.0, 0.0)), reference()
    ax = plot.convergence(sol)
    moved = [(report.iteration, report.increments.max().item()) for report in sol.history]
    assert line(ax, "measured") == [point for point in moved if point[1] > 0]
    assert ax.get_yscale() == "log"

    bound = [1.0, 0.5, 0.25, 0.0]
    ax = plot.convergence({"a": sol, "b": sol}, ref, bounds={"f": lambda k: 0.5**k, "g": bound})
    gap = [(k, (sol.iterates.after(k) - ref.us).abs().max().item()) for k in range(len(sol.iterates.has_u))]
    assert gap[-1][1] == 0
    for name in ("a", "b"):
        assert line(ax, name) == [point for point in gap if point[1] > 0]
        zeros = part(ax, f"{name}: zeros")
        assert zeros.get_xdata().tolist() == [k for k, error in gap if error == 0]
    assert line(ax, "f") == [(k, 0.5**k) for k in range(len(gap))]
    assert line(ax, "g") == list(enumerate(bound[:3]))
    assert part(ax, "g: zeros").get_xdata().tolist() == [3]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b", "f", "g", "0, on the axis"]


def test_infinite_bounds_are_left_out() -> None:
    ax = plot.convergence(run(), bounds={"linear": lambda k: theory.linear_bound(0.1, 1.0, k)})
    assert line(ax, "linear") == [(0, 1.0)]


def test_speedup_is_that_of_theory_and_of_plans() -> None:
    sol = run(stop=pr.Iterations(2), schedule=pr.Wavefront())
    plans = [planned(4, 1.5), planned(2, 1.25)]
    ax = plot.speedup(sol, ratio=0.125, workers=[1, 6, 3], plans=plans)
    for name, (schedule, placement) in plot._speedup.CURVES.items():
        counts = [3, 6] if placement == "manager" else [1, 3, 6]
        wanted = [
            (p, 6 / theory.makespan(schedule, 6, 2, fine=1.0, coarse=0.125, workers=p, placement=placement))
            for p in counts
        ]
        assert line(ax, name) == wanted
    assert line(ax, "limit") == [(p, theory.speedup_limit(6, 2, 0.125, workers=p)) for p in (1, 3, 6)]
    assert line(ax, "classical") == [(6, 6 / (0.75 + 2 * 1.75))]
    assert line(ax, "pipelined") == [(6, 6 / (0.75 + 2 * 1.125))]
    assert line(ax, "planned") == [(2, 1.25), (4, 1.5)]
    assert line(ax, "ideal") == [(p, p) for p in (1, 2, 3, 4, 6)]
    low, high = ax.get_ylim()
    heights = [y for made in ax.lines if made.get_gid() != "ideal" for y in made.get_ydata()]
    assert low <= min(heights) <= max(heights) <= high
    assert line(plot.speedup(sol, ratio=0.125), "ideal") == [(p, p) for p in (1, 2, 4, 6, 8)]
    for given_ in (plans, plans[0]):
        ax = plot.speedup(given_)
        assert line(ax, "planned") == [(2, 1.25), (4, 1.5)][-len(plans) if given_ is plans else -1 :]
        assert part(ax, "limit") is None


@pytest.mark.parametrize(("against", "field"), [("rounds",) * 2, ("evaluations",) * 2, ("seconds", "wall_time")])
def test_work_precision_shows_errors_at_the_end(against: Any, field: str) -> None:
    ref = reference()
    many = [run(stop=pr.Iterations(k)) for k in (3, 1, 6)]
    ax = plot.work_precision({"a": many, "b": many[:1]}, ref.u, against=against)
    for name, runs in (("a", many), ("b", many[:1])):
        points = sorted((getattr(sol.stats, field), (sol.u - ref.u).abs().max().item()) for sol in runs)
        assert line(ax, name) == [point for point in points if point[1] > 0]
    assert part(ax, "a: zeros").get_xdata().tolist() == [getattr(many[2].stats, field)]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    rms = plot.work_precision({"a": many[:1]}, ref, norm="rms", against=against)
    assert line(rms, "a")[0][1] == pytest.approx((many[0].u - ref.u).square().mean().sqrt().item(), rel=1e-14)


# --- misuse -----------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "increments of a tensor": (lambda: plot.increments(U0), TypeError, "run is a Tensor; expected Solution"),
    "increments of a serial run": (lambda: plot.increments(reference()), ValueError, "no iterations to show"),
    "no such sample": (lambda: plot.increments(run(samples=True), sample=3), ValueError, "expected 0 ... 2"),
    "a sample's name": (lambda: plot.increments(run(samples=True), sample="a"), TypeError, "expected an int"),
    "a sample of no batch": (lambda: plot.increments(run(), sample=0), ValueError, "leave it out"),
    "errors without iterates": (lambda: plot.errors(run(keep="last"), U0), ValueError, 'keep="all"'),
    "a reference of another grid": (lambda: plot.errors(run(), U0), ValueError, "has leaves of shapes"),
    "a reference of another kind": (lambda: plot.errors(run(), "ref"), TypeError, "expected a Solution of pr.serial"),
    "a reference of another structure": (
        lambda: plot.errors(run(), (reference().us,)),
        ValueError,
        "has leaves of shapes|expected the same",
    ),
    "an unknown norm": (lambda: plot.errors(run(), reference(), norm="l2"), ValueError, 'Did you mean norm="rms"'),
    "a timeline of a plan": (lambda: plot.timeline(planned(2, 1.0)), TypeError, "pr.theory.layout"),
    "a timeline without iterates": (lambda: plot.timeline(run(keep="last")), ValueError, 'keep="all"'),
    "a timeline of a serial run": (lambda: plot.timeline(reference()), ValueError, 'keep="all"'),
    "a timeline of a batch": (lambda: plot.timeline(run(samples=True)), ValueError, "expected sample=0"),
    "convergence of nothing": (lambda: plot.convergence({}), ValueError, "runs is empty"),
    "convergence of a list": (lambda: plot.convergence([run()]), TypeError, "runs is a list"),
    "convergence of tensors": (lambda: plot.convergence({"a": U0}), TypeError, "run is a Tensor"),
    "convergence without iterates": (
        lambda: plot.convergence(run(keep="last"), reference()),
        ValueError,
        'keep="all"',
    ),
    "no bounds": (lambda: plot.convergence(run(), bounds={}), ValueError, "bounds is empty"),
    "a bound without numbers": (lambda: plot.convergence(run(), bounds={"a": []}), ValueError, "has the shape"),
    "a bound of words": (lambda: plot.convergence(run(), bounds={"a": "no"}), TypeError, "expected a function"),
    "a bound below 0": (lambda: plot.convergence(run(), bounds={"a": [1.0, -1.0]}), ValueError, "negative or NaN"),
    "speed-up without a ratio": (lambda: plot.speedup(run()), ValueError, "ratio is missing"),
    "speed-up with a wrong ratio": (lambda: plot.speedup(run(), ratio="a"), TypeError, "expected a number"),
    "speed-up of a serial run": (lambda: plot.speedup(reference(), ratio=0.1), ValueError, "no iterations"),
    "no workers": (lambda: plot.speedup(run(), ratio=0.1, workers=[]), ValueError, "workers is empty"),
    "a word as workers": (lambda: plot.speedup(run(), ratio=0.1, workers="ab"), TypeError, "workers is a str"),
    "half a worker": (lambda: plot.speedup(run(), ratio=0.1, workers=[0.5]), TypeError, "workers"),
    "no plans": (lambda: plot.speedup([]), ValueError, "no plans to draw"),
    "speed-up of a tensor": (lambda: plot.speedup(U0), TypeError, "expected a Solution with ratio"),
    "a plan without workers": (lambda: plot.speedup([planned(None, 2.0)]), ValueError, "a plan has no workers"),
    "plans with a ratio": (lambda: plot.speedup([planned(2, 2.0)], ratio=1.0), ValueError, "are for a solution"),
    "no runs": (lambda: plot.work_precision({}, U0), ValueError, "runs is empty"),
    "runs without a list": (lambda: plot.work_precision({"a": run()}, U0), TypeError, "expected a list of solutions"),
    "a name without runs": (lambda: plot.work_precision({"a": []}, U0), ValueError, "is empty"),
    "a tensor as a run": (lambda: plot.work_precision({"a": [U0]}, U0), TypeError, "an entry of runs"),
    "an unknown cost": (lambda: plot.work_precision({"a": [run()]}, U0, against="x"), ValueError, "'seconds'"),
    "another final state": (lambda: plot.work_precision({"a": [run()]}, U0[0]), ValueError, "has leaves of shapes"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_say_what_came_and_what_is_expected(name: str) -> None:
    call, kind, said = BAD[name]
    with pytest.raises(kind, match=said):
        call()
    assert plt.get_fignums() == [], "a figure was made for nothing"
