"""The default of `sample`: a Gaussian flow with a secant, in a window that slides along the slices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusion.cases import PREDICTIONS, SCHEDULES, mixture, normals, relative
from hypothesis import given
from hypothesis import strategies as st
from strategies import opened
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

EPS = torch.finfo(torch.float64).eps
NAMES = ["edm", "flow", "ve", "vp"]
KINDS = ["digits", *NAMES]
DIGITS = da.load_digits(dtype=torch.float64)


def labelled(kind: str, batch: int, scale: float | None) -> da.DiffusionModel:
    """With a label for each sample, guided by ``scale``; without labels where that is ``None``."""
    oracle = mixture()
    if kind == "digits":
        model, label, none = DIGITS, torch.arange(batch) % 10, 10
    else:
        prediction = "velocity" if kind == "flow" else "v"
        model, label, none = oracle.model(SCHEDULES[kind], prediction), torch.arange(batch) % 3, -1
    if scale is None:
        return model
    return da.guided(model, scale, {"label": label}, {"label": torch.full((batch,), none)})


def noise_of(kind: str, batch: int, seed: int = 0) -> Tensor:
    return normals(batch, *((1, 8, 8) if kind == "digits" else (4,)), seed=seed)


def rms(u: Tensor) -> Tensor:
    return u.flatten(1).square().mean(1).sqrt()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Of each sample, relative to ``b``."""
    return rms(a - b) / rms(b)


def pair(model: da.DiffusionModel, noise: Tensor, **options: Any) -> tuple[da.SampleResult, da.SampleResult]:
    """The default and the sequential sampler."""
    return da.sample(model, noise, **options), da.sample(model, noise, parallel=False, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [None, 1.0, 7.5])
@pytest.mark.parametrize("solver", ["ddim", "heun"])
@pytest.mark.sweep(10)
def test_samples_are_those_of_the_sequential_sampler(kind: str, scale: float | None, solver: str) -> None:
    out, serial = pair(labelled(kind, 4, scale), noise_of(kind, 4), steps=25, solver=solver)
    assert distance(out.samples, serial.samples).max().item() <= 1e-3
    assert out.solution.converged
    assert out.solution.stats.rounds < serial.solution.stats.rounds
    assert out.solution.stats.coarse_evaluations == 0


@pytest.mark.parametrize("name", ["edm", "flow-shifted", "ve", "vp"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.sweep(8)
def test_every_prediction_gives_the_same_run(name: str, prediction: str) -> None:
    noise = noise_of(name, 3)
    out, serial = pair(mixture().model(SCHEDULES[name], prediction), noise, steps=20)
    assert distance(out.samples, serial.samples).max().item() <= 1e-3
    reference = da.sample(mixture().model(SCHEDULES[name], "v"), noise, steps=20)
    assert relative(out.samples, reference.samples) < 1e-9
    assert torch.equal(out.solution.iterations, reference.solution.iterations)


def test_single_precision_is_enough() -> None:
    model = da.load_digits().with_conditioning(label=torch.arange(4))
    out, serial = pair(model, noise_of("digits", 4).float(), steps=50)
    assert out.samples.dtype == torch.float32
    assert distance(out.samples, serial.samples).max().item() <= 1e-3


@pytest.mark.parametrize("kind", ["digits", "flow"])
@pytest.mark.parametrize("width", [None, 6])
@pytest.mark.sweep(2)
def test_a_sample_does_not_depend_on_its_neighbours(kind: str, width: int | None) -> None:
    label, scale = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1.0, 7.5, 3.0, 4.0, 1.5, 2.5])
    none, noise = torch.full((6,), 10 if kind == "digits" else -1), noise_of(kind, 6, seed=3)
    plain = labelled(kind, 6, None)

    def draw(rows: list[int]) -> da.SampleResult:
        model = da.guided(plain, scale[rows], {"label": label[rows]}, {"label": none[rows]})
        return da.sample(model, noise[rows], steps=30, width=width)

    together = draw([0, 1, 2, 3, 4, 5])
    assert len(set(together.solution.iterations.tolist())) > 1, "choose samples that stop at different iterations"
    for rows in ([2], [5, 0], [4, 3, 1]):
        apart = draw(rows)
        torch.testing.assert_close(apart.samples, together.samples[rows], rtol=1e-9, atol=1e-9)
        assert torch.equal(apart.solution.iterations, together.solution.iterations[rows])
        torch.testing.assert_close(
            apart.solution.error_estimate, together.solution.error_estimate[rows], rtol=1e-5, atol=1e-12
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["ddim", "heun"])
@pytest.mark.sweep(5)
def test_a_window_of_one_slice_is_the_sequential_sampler(kind: str, solver: str) -> None:
    out, serial = pair(labelled(kind, 3, 7.5), noise_of(kind, 3), steps=12, solver=solver, width=1)
    assert relative(out.samples, serial.samples) < 100 * EPS
    assert out.solution.status is pr.Status.FINAL
    assert out.solution.stats.rounds == serial.solution.stats.rounds
    assert out.solution.stats.evaluations == serial.solution.stats.evaluations
    assert out.solution.error_estimate.tolist() == [0.0, 0.0, 0.0]


@given(
    name=st.sampled_from(NAMES),
    scale=st.sampled_from([None, 1.0, 7.5, 30.0]),
    solver=st.sampled_from(["ddim", "heun", pr.RK4()]),
    steps=st.integers(1, 40),
    cut=st.floats(0.0, 1.0),
    share=st.floats(0.0, 1.0),
    rtol=st.sampled_from([0.0, 1e-12, 1e-6, 1e-3, 1e-1]),
    seed=st.integers(0, 1000),
)
def test_never_more_rounds_than_one_after_the_other(
    name: str, scale: float | None, solver: Any, steps: int, cut: float, share: float, rtol: float, seed: int
) -> None:
    """Whatever the tolerance: the slice at the frontier always advances. And lanes keep to the window."""
    slices = max(1, round(cut * steps))
    width = max(1, round(share * slices))
    options: dict[str, Any] = {"steps": steps, "solver": solver, "slices": slices, "width": width, "rtol": rtol}
    out, serial = pair(labelled(name, 2, scale), noise_of(name, 2, seed), **options)
    assert opened(out.solution) or out.solution.stats.rounds <= serial.solution.stats.rounds
    assert out.solution.stats.max_lanes <= 2 * width
    assert out.solution.converged
    assert out.solution.error_estimate.shape == (2,)
    if rtol == 0.0:
        assert relative(out.samples, serial.samples) < 1e6 * EPS
        assert out.solution.error_estimate.max().item() <= 1e-12 * rms(serial.solution.u).max().item()


SETTINGS = [(20, None), (20, 8), (50, None), (50, 12), (100, None), (100, 8)]


@pytest.mark.parametrize("rtol", [1e-2, 1e-3])
@pytest.mark.parametrize("scale", [1.0, 7.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.sweep(2)
def test_rtol_and_the_estimate_hold_for_95_of_100_samples(kind: str, scale: float, rtol: float) -> None:
    """Of 96 and more, in settings that the constants of the estimate were not made for."""
    batch, meant, covered = 16, [], []
    model = labelled(kind, batch, scale)
    for steps in sorted({steps for steps, _ in SETTINGS}):
        noise = noise_of(kind, batch, seed=steps)
        serial = da.sample(model, noise, steps=steps, parallel=False)
        for width in [width for other, width in SETTINGS if other == steps]:
            out = da.sample(model, noise, steps=steps, width=width, rtol=rtol)
            estimate, error = out.solution.error_estimate, rms(out.solution.u - serial.solution.u)
            assert isinstance(estimate, Tensor)
            assert (estimate.shape, estimate.dtype) == ((batch,), torch.float64)
            meant += (distance(out.samples, serial.samples) <= rtol).tolist()
            covered += (error <= estimate).tolist()
    assert len(meant) == 96
    assert sum(meant) >= 0.95 * len(meant)
    assert sum(covered) >= 0.95 * len(covered)


@pytest.mark.parametrize("solver", ["dpm++2m", "dpm++2s", "unipc", "deis", "ancestral", "sde-dpm++2m"])
@pytest.mark.sweep(3)
def test_rtol_and_the_estimate_hold_for_solvers_with_a_memory_or_with_noise(solver: str) -> None:
    noise = noise_of("digits", 20, seed=5)

    def draw(parallel: bool) -> da.SampleResult:
        generator = torch.Generator().manual_seed(6) if solver in ("ancestral", "sde-dpm++2m") else None
        return da.sample(da.load_digits(), noise, 40, solver=solver, generator=generator, parallel=parallel)

    out, serial = draw(True), draw(False)
    error = distance(out.samples, serial.samples)
    assert (error <= 1e-3).double().mean() >= 0.95
    assert (error <= out.solution.error_estimate).double().mean() >= 0.9
    assert out.solution.stats.rounds <= 0.75 * serial.solution.stats.rounds


def test_the_estimate_is_of_the_size_of_the_error() -> None:
    """Not only above it."""
    out, serial = pair(labelled("digits", 16, 7.5), noise_of("digits", 16), steps=50)
    error = rms(out.solution.u - serial.solution.u)
    assert 1 <= (out.solution.error_estimate / error).median().item() < 30
    assert out.solution.error_estimate.max().item() <= 3 * 1e-3 * rms(serial.solution.u).max().item()


@given(steps=st.integers(1, 12), seed=st.integers(0, 1000))
def test_data_that_are_gaussian_take_few_rounds(steps: int, seed: int) -> None:
    """Even where the variance taken by default is far off: one pair shows the secant what the flow misses."""
    model = da.GaussianMixture(torch.tensor([[2.0]]), 4.0).model(da.VP(), "v")
    out, serial = pair(model, normals(3, 1, seed=seed), steps=steps)
    assert distance(out.samples, serial.samples).max().item() <= 1e-3
    assert out.solution.stats.rounds <= min(steps, 6)


@pytest.mark.parametrize(("scale", "memory"), [(None, 1), (1.0, 1), (1.5, 1), (2.0, 2), (-7.5, 2)])
def test_strong_guidance_keeps_two_pairs(scale: float | None, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = labelled("vp", 2, scale)
    given: list[Any] = []

    def noted(*args: Any, **kwargs: Any) -> pr.Solution:
        given.append(kwargs["coarse"])
        return solve(*args, **kwargs)

    solve = pr.solve
    monkeypatch.setattr(pr, "solve", noted)
    da.sample(model, noise_of("vp", 2), 6)
    assert given[0].memory == memory
    if scale is not None:
        each = da.guided(da.GaussianMixture(torch.zeros(3, 4), 0.1).model(da.VP()), torch.tensor([1.0, scale]), {}, {})
        assert each.guidance == max(1.0, abs(scale))
