"""How many operations and synchronisations a round costs outside the network: counted on a pretend device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import diffusion_adapters as da
import parareal as pr

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import launches
import pretend_device

CEILINGS = {
    "default, DDIM": (90, 1, 1),
    "default, DDIM, batch of 4": (105, 1, 1),
    "default, DPM++(2M)": (150, 1.2, 1.2),
    "default, Heun": (50, 1, 1),
    "Picard": (50, 1, 1),
    "SRDS": (40, 3, 1),
    "serial": (8, 0, 0.1),
}
"""Launches, uploads and synchronisations a round: the mean over rounds in the middle of a run."""


@pytest.mark.parametrize("name", CEILINGS)
def test_a_round_costs_no_more_than_this(name: str) -> None:
    row = launches.measure(name, **launches.CASES[name])
    most_launches, most_uploads, most_waits = CEILINGS[name]
    assert row.launches <= most_launches
    assert row.uploads <= most_uploads
    assert row.waits <= most_waits
    assert row.rounds > 4  # there is a middle


def test_causes_are_named() -> None:
    row = launches.measure("serial", **launches.CASES["serial"])
    assert any("parareal/" in cause for cause in row.causes["launches"])


OTHERS = [
    "ddim",
    "dpm2",
    "dpm3",
    "dpm++2s",
    "dpm++3s",
    "dpm++2m",
    "dpm++3m",
    "unipc",
    "deis",
    "ancestral",
    "sde-dpm++2m",
]


@pytest.mark.parametrize("solver", OTHERS)
def test_what_is_computed_on_the_host_gives_the_same(solver: str) -> None:
    """On the pretend device tensors of two devices cannot meet, and times are known on the host."""
    prediction: Any = "x0" if OTHERS.index(solver) % 2 else "eps"
    schedule: Any = da.VP() if prediction == "eps" else da.Flow()
    model = da.DiffusionModel(launches.network, schedule, prediction)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for options in ({"width": 3}, {"coarse": "same", "slices": 2})[OTHERS.index(solver) // 2 % 2 :][:1]:
        torch.manual_seed(1)
        ref = da.sample(model, x, steps=6, solver=solver, throw=False, **options)
        torch.manual_seed(1)
        with pretend_device.counting():
            out = da.sample(model, x.to(pretend_device.DEVICE), steps=6, solver=solver, throw=False, **options)
            value = out.samples.cpu()
        torch.testing.assert_close(value, ref.samples, rtol=1e-5, atol=1e-6)
        assert out.solution.stats.rounds == ref.solution.stats.rounds


@pytest.mark.parametrize(
    "fine", [pr.AdamsBashforth(3), pr.DEIS(3, lower_order_start=False), pr.UniPC(3), pr.DPMSolver(3)]
)
@pytest.mark.parametrize("linear", [-0.7, torch.tensor([-1.0, -0.2, 0.0], dtype=torch.float64)])
def test_semilinear_problems_on_the_pretend_device(fine: pr.Integrator, linear: Any) -> None:
    grid, u0 = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=2), torch.linspace(0.5, 1.5, 3, dtype=torch.float64)
    options: dict[str, Any] = {"fine": fine, "coarse": pr.Secant(pr.Identity()), "schedule": pr.Windowed(2)}

    def f(t: Any, u: Any) -> Any:
        return u.sin() + t[:, None]

    ref = pr.solve(pr.SemilinearODE(linear, f, "native"), u0, grid, **options)
    with pretend_device.counting():
        there = linear.to(pretend_device.DEVICE) if isinstance(linear, torch.Tensor) else linear
        problem = pr.SemilinearODE(there, f, "native")
        sol = pr.solve(problem, u0.to(pretend_device.DEVICE), grid, **options)
        again = pr.solve(problem, u0.to(pretend_device.DEVICE), grid, resume=sol, **options)
        states = [sol.us.cpu(), again.us.cpu()]
    for us in states:
        torch.testing.assert_close(us, ref.us, rtol=1e-10, atol=1e-10)
