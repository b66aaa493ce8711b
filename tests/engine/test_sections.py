"""Long grids in a narrow window without the states behind it: the engine sees a section, which moves along."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor

import parareal as pr
from parareal import _sections

U0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
FREE = (
    pr.Identity(),
    pr.Zero(),
    pr.LinearFlow(0.97),
    pr.Secant(pr.Identity()),
    pr.Secant(pr.Identity(), 2),
    pr.Anderson(pr.Identity()),
    pr.Damped(pr.Identity(), 0.9),
    pr.Jacobian(),
)
OTHERS = (pr.Euler(), pr.Secant(pr.Heun()), pr.Damped(pr.Euler(), 0.9))


def f(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(3 * t) - u - 0.3 * u**3


def run(grid: pr.TimeGrid, **options: Any) -> tuple[pr.Solution, list[pr.IterationReport]]:
    reports: list[pr.IterationReport] = []
    settings: dict[str, Any] = {"executor": pr.Serial(), "dense": False, "throw": False, **options}
    return pr.solve(pr.ODE(f), U0, grid, callback=reports.append, **settings), reports


def sectioned(monkeypatch: pytest.MonkeyPatch, slices: int, moved: list[int]) -> None:
    """Short sections, and the number of times that one has taken the place of another."""
    monkeypatch.setattr(_sections, "LEAST", slices)
    monkeypatch.setattr(_sections, "WIDTHS", 2)
    move_on = _sections.move_on
    monkeypatch.setattr("parareal._run.move_on", lambda *given: (moved.append(1), move_on(*given)))


def alike(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)


@given(
    st.sampled_from(FREE),
    st.sampled_from((pr.Euler(), pr.Heun(2), pr.RK4())),
    st.sampled_from((2, 5)),
    st.integers(70, 110),
    st.sampled_from((pr.Tolerance(1e-3, 1e-6), pr.Tolerance(1e-9) | pr.Iterations(60), pr.Iterations(40))),
    st.sampled_from(("coarse", "hold", "extrapolate")),
    st.sampled_from((None, 30)),
)
@settings(examples(8), phases=[Phase.generate])
def test_every_bit_is_that_of_the_whole_grid(
    coarse: Any, fine: Any, width: int, slices: int, stop: pr.StoppingRule, initial: Any, most: int | None
) -> None:
    grid = pr.TimeGrid.uniform(0.0, 0.05 * slices, slices, 2)
    options: dict[str, Any] = {"fine": fine, "coarse": coarse, "schedule": pr.Windowed(width, initial), "stop": stop}
    whole, seen = run(grid, max_iterations=most, **options)
    moved: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        sectioned(patch, 24, moved)
        sol, reports = run(grid, max_iterations=most, **options)
    assert moved or whole.history[-1].frontier < 24
    assert torch.equal(sol.us, whole.us)
    assert torch.equal(sol.ts, whole.ts)
    assert (sol.status, sol.iterations) == (whole.status, whole.iterations)
    assert alike(torch.tensor(sol.error_estimate), torch.tensor(whole.error_estimate))
    assert alike(sol.residuals, whole.residuals)
    for name in ("rounds", "evaluations", "fine_evaluations", "max_lanes"):
        assert getattr(sol.stats, name) == getattr(whole.stats, name)
    for a, b in zip(reports, seen, strict=True):
        assert alike(a.increments, b.increments)
        assert (a.iteration, a.frontier, a.rounds, a.evaluations) == (b.iteration, b.frontier, b.rounds, b.evaluations)
    for a, b in zip(sol.history, whole.history, strict=True):
        assert (a.frontier, a.slices) == (b.frontier, b.slices)
        assert a.increment == b.increment or a.increment != a.increment


@pytest.mark.parametrize("coarse", [*OTHERS, pr.Anderson(pr.Identity())], ids=repr)
@pytest.mark.parametrize("initial", ["coarse", "extrapolate"])
@pytest.mark.parametrize("fine", [pr.RK4(), pr.Adaptive(rtol=1e-5, atol=1e-7)], ids=["fixed", "adaptive"])
@pytest.mark.sweep(4)
def test_where_lanes_are_active_between_iterations_it_is_the_sequential_solution(
    coarse: Any, initial: Any, fine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those lanes start again, from the same states: the slices of lanes that take different numbers of rounds."""
    moved: list[int] = []
    sectioned(monkeypatch, 24, moved)
    grid = pr.TimeGrid.uniform(0.0, 5.0, 100, 2)
    ref = pr.serial(pr.ODE(f), U0, grid, fine=fine)
    for stop in (pr.Tolerance(1e-7, 1e-9), pr.Iterations(100)):
        sol, _ = run(grid, fine=fine, coarse=coarse, schedule=pr.Windowed(4, initial), stop=stop)
        assert float((sol.u - ref.u).abs().max()) < 1e-6
        assert isinstance(fine, pr.Adaptive) or sol.stats.rounds <= ref.stats.rounds
    assert len(moved) > 4


def test_what_was_computed_before_an_error_is_at_the_right_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sectioned(monkeypatch, 24, moved := [])
    grid = pr.TimeGrid.uniform(0.0, 5.0, 100, 2)
    ref = pr.serial(pr.ODE(f), U0, grid, fine=pr.RK4())

    def stops(report: pr.IterationReport) -> bool:
        if report.frontier > 80:
            raise ZeroDivisionError
        return False

    with pytest.raises(ZeroDivisionError) as caught:
        pr.solve(
            pr.ODE(f), U0, grid, fine=pr.RK4(), coarse=pr.Zero(), schedule=pr.Windowed(4), dense=False, callback=stops
        )
    sol: Any = caught.value.solution  # pyright: ignore
    at = int((grid.edges == sol.ts[1]).nonzero())
    assert at > 80
    assert len(moved) > 2
    assert float((sol.u - ref.us[at]).abs().max()) < 1e-3
    assert torch.equal(sol.us[0], U0)


def test_gradients_flow_through_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = pr.TimeGrid.uniform(0.0, 3.0, 80, 1)
    grads: list[Tensor] = []
    for length in (10**6, 24):
        monkeypatch.setattr(_sections, "LEAST", length)
        monkeypatch.setattr(_sections, "WIDTHS", 2)
        u0 = U0.clone().requires_grad_()
        options: dict[str, Any] = {"fine": pr.Heun(), "coarse": pr.Identity(), "schedule": pr.Windowed(4)}
        sol = pr.solve(pr.ODE(f), u0, grid, executor=pr.Serial(), dense=False, throw=False, **options)
        grads += torch.autograd.grad(sol.u.sum(), u0)
    assert torch.equal(*grads)


def test_memory_and_the_work_of_a_round_do_not_grow_with_the_grid() -> None:
    """All that there is for each slice: its relative defect. The same grids are there before the runs."""

    def most(grid: pr.TimeGrid) -> int:
        options: dict[str, Any] = {"schedule": pr.Windowed(16), "stop": pr.Tolerance(1e-2, 1e-2), "max_iterations": 12}
        gc.collect()
        tracemalloc.start()
        try:
            with torch.no_grad():
                pr.solve(
                    pr.ODE(f), U0, grid, fine=pr.Euler(1), coarse=pr.Identity(), dense=False, throw=False, **options
                )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    sizes = 10_000, 10_000, 50_000
    grids = [pr.TimeGrid.uniform(0.0, 1e-2 * n, n) for n in sizes]
    _, small, large = (most(grid) for grid in grids)
    slope = (large - small) / (sizes[2] - sizes[1])
    assert slope < 40, f"{slope} bytes a slice"


def test_a_run_that_kept_its_states_goes_on_without_keeping_them() -> None:
    grid = pr.TimeGrid.uniform(0.0, 45.0, slices=4500)
    options: dict[str, Any] = {"fine": pr.Euler(1), "coarse": pr.Identity(), "schedule": pr.Windowed(32)}
    part, _ = run(grid, **options, dense=True, stop=pr.Iterations(3))
    end, _ = run(grid, **options, resume=part, stop=pr.Iterations(6))
    whole, _ = run(grid, **options, stop=pr.Iterations(6))
    assert (end.iterations, end.history[-1].frontier) == (6, whole.history[-1].frontier)
    assert torch.equal(end.u, whole.u)


@pytest.mark.parametrize(
    "fine", [pr.Euler(1), pr.ImplicitEuler(1), pr.Adaptive()], ids=lambda fine: type(fine).__name__
)
def test_engines_of_passed_sections_are_free_without_the_garbage_collector(
    fine: pr.Integrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[int] = []
    sectioned(monkeypatch, 24, moved)
    engines: list[weakref.ref[Any]] = []
    move_on = _sections.move_on
    monkeypatch.setattr(
        "parareal._run.move_on", lambda *given: (engines.append(weakref.ref(given[0])), move_on(*given))
    )
    options: dict[str, Any] = {"fine": fine, "coarse": pr.Identity(), "schedule": pr.Windowed(4)}
    run(pr.TimeGrid.uniform(0.0, 2.0, 80), **options)  # what torch loads at its first derivative keeps its stack once
    engines.clear()
    gc.collect()
    gc.disable()
    try:
        run(pr.TimeGrid.uniform(0.0, 2.0, 80), **options)
        assert len(engines) > 2
        assert [engine() for engine in engines] == [None] * len(engines)
    finally:
        gc.enable()
