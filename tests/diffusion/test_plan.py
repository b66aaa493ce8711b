"""`da.plan` recommends a width for `da.sample`, or none."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

import diffusion_adapters as da


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"widths": [0]}, "widths"), ({"widths": []}, "no candidate"), ({"coarse": []}, "no candidate")],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        da.plan(model(), (1, 1), steps=8, **arguments)
    with pytest.raises(ValueError, match="no candidate"):
        da.plan(model(), (0, 1), steps=8)
