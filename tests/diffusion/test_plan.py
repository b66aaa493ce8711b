"""`da.plan` recommends a width for `da.sample`, or none."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

pytestmark = pytest.mark.usefixtures("ticking")


def model(seconds_a_call: float = 0.0, seconds_a_row: float = 0.0, most: int | None = None) -> da.DiffusionModel:
    """A mixture of Gaussians that takes so long."""
    exact = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())

    def network(x: Tensor, t: Tensor) -> Tensor:
        if most is not None and len(x) > most:
            raise RuntimeError("out of memory")
        end = time.perf_counter() + seconds_a_call + len(x) * seconds_a_row
        while time.perf_counter() < end:
            pass
        return exact.network(x, t)

    return da.DiffusionModel(network, exact.noise_schedule, exact.prediction)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("solver", ["ddim", "dpm++2m", "ancestral"])
def test_calls_that_cost_the_same_for_any_number_of_rows_pay(solver: str) -> None:
    slow = model(seconds_a_call=5e-3)
    found = da.plan(slow, (1, 1), steps=48, solver=solver, widths=[16, 64], generator=generator())
    assert found.best is not None
    assert found.speedup > 1.3
    assert found.serial_rounds == 48
    assert {one.settings["width"] for one in found.candidates} == {16, 48}  # no wider than there are steps
    out = da.sample(slow, (1, 1), steps=48, solver=solver, generator=generator(), **found.settings)
    assert out.solution.stats.rounds < 48


def test_calls_that_cost_as_many_times_as_there_are_rows_do_not() -> None:
    found = da.plan(model(seconds_a_row=2e-3), (2, 1), steps=16, widths=[4, 8], generator=generator())
    assert found.best is None
    assert "do not run side by side" in found.reason


def test_widths_that_fail_are_left_out() -> None:
    found = da.plan(model(seconds_a_call=2e-3, most=16), (2, 1), steps=32, widths=[8, 16], generator=generator())
    assert found.round_times.lanes[-1] == 16
    notes = {one.settings["width"]: one.note for one in found.candidates}
    assert notes[16] == "calls on 32 rows fail"
    assert notes[8] != notes[16]


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError, ValueError])
def test_a_network_that_runs_out_of_memory_on_more_rows_is_reported(kind: type[Exception]) -> None:
    exact = model()

    def network(x: Tensor, t: Tensor) -> Tensor:
        if len(x) > 4:
            raise kind("no room\nfor so many")
        return exact.network(x, t)

    narrow = da.DiffusionModel(network, exact.noise_schedule, exact.prediction)
    found = da.plan(narrow, (1, 1), steps=16, widths=[4, 8, 16], generator=generator())
    assert found.round_times.lanes == (1, 2, 4)
    assert list(found.round_times.failed) == [8]
    assert "A round of 8 lanes fails: " in str(found)
    notes = {one.settings["width"]: one.note for one in found.candidates}
    assert notes[8] == "calls on 8 rows fail"
    assert notes[16] == "calls on 16 rows fail"
    assert "fail" not in notes[4]
    none = da.plan(narrow, (4, 1), steps=16, widths=[4, 8], generator=generator())
    assert none.reason == "Nothing is recommended, since no candidate was tried to its end: calls on 16 rows fail."
    with pytest.raises(kind, match="no room"):  # the serial sampler has no room either
        da.plan(narrow, (5, 1), steps=16, widths=[4], generator=generator())


@pytest.mark.parametrize(
    ("coarse", "solver", "slices"),
    [(["same"], "ddim", 4), ([pr.Euler()], "ddim", 4), ("gaussian", "dpm3", 6), (pr.Identity(), "dpm++2s", 8)],
)
def test_windows_are_no_wider_than_there_are_slices(coarse: Any, solver: str, slices: int) -> None:
    found = da.plan(model(), (2, 1), steps=16, coarse=coarse, solver=solver, generator=generator())
    widths = {one.settings["width"] for one in found.candidates}
    assert widths == {4, slices}
    out = da.sample(model(), (2, 1), steps=16, solver=solver, generator=generator(), **found.candidates[-1].settings)
    assert out.solution.converged


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"widths": 4}, TypeError, "widths is an int"),
        ({"budget": "long"}, TypeError, "budget is a str"),
        ({"model": lambda x, t: x}, TypeError, "model is a function"),
        ({"coarse": "gauss"}, ValueError, "coarse='gauss' is unknown"),
    ],
)
def test_arguments_of_the_wrong_kind(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"model": model(), "noise": (1, 1), "steps": 8, **arguments}
    with pytest.raises(kind, match=message):
        da.plan(**given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"widths": [0]}, "widths"), ({"widths": []}, "no candidate"), ({"coarse": []}, "no candidate")],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        da.plan(model(), (1, 1), steps=8, **arguments)
    with pytest.raises(ValueError, match="no candidate"):
        da.plan(model(), (0, 1), steps=8)
