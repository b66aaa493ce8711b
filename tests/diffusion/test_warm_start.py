"""Sampling that starts from an earlier run: fewer rounds, the same samples."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

NONE = {"label": torch.tensor([10])}


def guided(scale: float, label: int = 3) -> da.DiffusionModel:
    return da.guided(da.load_digits(), scale, {"label": torch.tensor([label])}, NONE)


def normals(seed: int, count: int = 1) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def off(a: Tensor, b: Tensor) -> float:
    """The largest relative distance of a sample."""
    return float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max())


@pytest.mark.parametrize("solver", ["ddim", "dpm++2m"])
def test_other_guidance_noise_steps_and_solver_end_within_the_tolerance(solver: str) -> None:
    noise, model = normals(0, 2), guided(7.5)
    near = (1 - 0.05**2) ** 0.5 * noise + 0.05 * normals(1, 2)
    serial = da.sample(model, noise, 25, solver=solver, parallel=False).samples
    cold = da.sample(model, noise, 25, solver=solver).solution.stats.rounds
    earlier: dict[str, tuple[da.SampleResult, bool]] = {
        "guidance": (da.sample(guided(7.0), noise, 25, solver=solver), True),
        "noise": (da.sample(model, near, 25, solver=solver), True),
        "preview": (da.sample(model, noise, 12, solver=solver), False),
        "solver": (da.sample(model, noise, 25, solver="dpm++2s"), False),
        "label": (da.sample(guided(7.5, 8), noise, 25, solver=solver), False),
    }
    for name, (first, fewer) in earlier.items():
        out = da.sample(model, noise, 25, solver=solver, start=first.solution)
        assert out.solution.converged, name
        assert off(out.samples, serial) <= 1e-3, name
        if fewer:
            assert out.solution.stats.rounds < cold, name


@pytest.mark.parametrize("options", [{"width": 5}, {"coarse": "same"}, {"coarse": "none"}, {"solver": "ancestral"}])
def test_windows_other_corrections_and_noise_in_every_step(options: dict[str, Any]) -> None:
    noise, model = normals(0, 3), guided(3.0)
    seeded = {**options, "generator": torch.Generator().manual_seed(5)} if "solver" in options else options

    def run(**more: Any) -> da.SampleResult:
        if "generator" in seeded:
            more["generator"] = torch.Generator().manual_seed(5)
        return da.sample(model, noise, 20, **options, **more)

    first = da.sample(guided(2.9), noise, 20, **seeded)
    assert off(run(start=first.solution).samples, run(parallel=False).samples) <= 1e-3


def test_one_sample_stands_for_a_batch_and_samples_stay_independent() -> None:
    noise, model = normals(0, 3), guided(3.0)
    one = da.sample(model, noise[:1], 20)
    many = da.sample(model, noise, 20, start=one.solution)
    assert off(many.samples, da.sample(model, noise, 20, parallel=False).samples) <= 1e-3
    with pytest.raises(ValueError, match=r"have shape \(21, 3, 1, 8, 8\); expected \(21, 2, 1, 8, 8\)"):
        da.sample(model, noise[:2], 20, start=many.solution)


def test_a_plan_tries_from_the_start() -> None:
    noise, model = normals(0), guided(3.0)
    first = da.sample(model, noise, 16)
    found = da.plan(model, noise, 16, widths=[16], budget=5.0, start=first.solution)
    assert found.serial_rounds == 16
    with pytest.raises(ValueError, match="expected"):
        da.plan(model, normals(0, 2)[:, :, :4], 16, widths=[16], budget=5.0, start=first.solution)


@pytest.mark.parametrize("parallel", [True, False])
def test_what_does_not_fit_is_named(parallel: bool) -> None:
    noise, model = normals(0), guided(3.0)
    first = da.sample(model, noise, 8)
    with pytest.raises(TypeError, match=r"start is a SampleResult; .*earlier\.solution"):
        da.sample(model, noise, 8, parallel=parallel, start=first)  # pyright: ignore
    with pytest.raises(TypeError, match=r"torch\.float32, and the initial state is torch\.float64"):
        da.sample(model, noise.double(), 8, parallel=parallel, start=first.solution)
    times = model.noise_schedule.times(8)[2:]
    with pytest.raises(ValueError, match="expected the same span"):
        da.sample(model, noise, spacing=times, parallel=parallel, start=first.solution)


# --- pipelines --------------------------------------------------------------------------------------------------------

needs_diffusers = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs diffusers")


@needs_diffusers
@pytest.mark.filterwarnings("ignore:.*scheduler.*:FutureWarning")
def test_each_call_of_a_pipeline_starts_from_the_one_before() -> None:
    from diffusion.pipelines import digits_pipeline

    pipe = digits_pipeline()
    warm, cold = da.diffusers.parallelize(pipe, warm_start=True), da.diffusers.parallelize(pipe)

    def run(which: Any, seed: int = 0, **more: Any) -> Tensor:
        given = {"batch_size": 2, "output_type": "pt", "num_inference_steps": 12, **more}
        return torch.as_tensor(which(**given, generator=torch.Generator().manual_seed(seed)).images)

    assert torch.equal(run(warm), run(cold))  # the first call has nothing to start from
    assert warm.solution.stats.rounds == cold.solution.stats.rounds
    run(warm)
    assert warm.solution.stats.rounds < cold.solution.stats.rounds
    # Other steps, other noise, another number of samples, and back: right each time, and without a word.
    for more in ({"num_inference_steps": 15}, {"seed": 1}, {"batch_size": 1}, {"batch_size": 2}):
        torch.testing.assert_close(run(warm, **more), run(pipe, **more), rtol=0.0, atol=2e-4)
        assert warm.check.passed
        assert warm.solution.converged
    fresh = da.diffusers.parallelize(pipe, warm_start=True)
    assert fresh.solution is None


@needs_diffusers
def test_warm_start_is_a_flag() -> None:
    from diffusion.pipelines import digits_pipeline

    with pytest.raises(TypeError, match=r"warm_start is .*expected True or False"):
        da.diffusers.parallelize(digits_pipeline(), warm_start=pr)  # pyright: ignore


@pytest.mark.parametrize("solver", ["dpm++2m", "dpm++3m", "unipc", "deis"])
def test_a_start_near_the_solution_does_not_pass_for_one_with_its_history(solver: str) -> None:
    """What histories change as they fill must not be taken for what the moves of states change."""
    noise, model = normals(3, 4), da.load_digits()
    for steps in (3, 5, 12):
        serial = da.sample(model, noise, steps, solver=solver, parallel=False).samples
        out = da.sample(model, noise, steps, solver=solver, start=da.sample(model, noise, steps).solution)
        assert off(out.samples, serial) <= 1e-3, steps


def steep(seed: int) -> da.DiffusionModel:
    """A network of one number that is nearly a step function."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(32, 3, generator=generator) * 3, torch.randn(1, 32, generator=generator) / 32**0.5

    def network(x: Tensor, t: Tensor) -> Tensor:
        features = [x / (1 + x * x).sqrt(), torch.sin(3 * t.to(x.dtype))[:, None], torch.log1p(t.to(x.dtype))[:, None]]
        return torch.tanh(20 * (torch.cat(features, 1) @ a.T)) @ b.T

    return da.DiffusionModel(network, da.EDM(), "eps")


@given(
    st.integers(0, 10**6),
    st.sampled_from(["dpm++2m", "unipc", "deis"]),
    st.integers(3, 12),
    st.sampled_from([None, 4]),
    st.sampled_from(["solution", "states", "function"]),
)
@example(7, "dpm++2m", 3, None, "solution")
@example(1, "deis", 5, None, "states")
@example(0, "unipc", 12, 4, "solution")
def test_nor_on_steep_networks(seed: int, solver: str, steps: int, width: int | None, kind: str) -> None:
    model, noise = steep(seed), torch.randn(2, 1, generator=torch.Generator().manual_seed(seed))
    serial = da.sample(model, noise, steps, solver=solver, parallel=False).samples
    near = da.sample(model, noise, steps, parallel=False).solution
    given = {"solution": near, "states": near.us, "function": lambda t0, t1, u: u}
    out = da.sample(model, noise, steps, solver=solver, width=width, start=given[kind], throw=False)
    assert off(out.samples, serial) <= 2e-3
