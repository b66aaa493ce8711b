"""Denoisers and velocities of others, sampled as those who wrote them do."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

import diffusion_adapters as da
import parareal as pr

NOISE = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def denoise(x: Tensor, sigma: Tensor, gain: float = 1.0) -> Tensor:
    """Nonlinear, and exact for no model in particular."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return gain * torch.tanh(x / (1 + s**2).sqrt()) / (1 + 0.3 * s)


def karras(n: int, low: float = 0.02, high: float = 20.0, rho: float = 7.0) -> Tensor:
    """Equation 5 of Elucidating the Design Space of Diffusion-Based Generative Models, and the zero behind it."""
    i = np.arange(n) / (n - 1)
    sigmas = (high ** (1 / rho) + i * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.from_numpy(np.append(sigmas, 0.0))


def edm_sampler(sigmas: Tensor, heun: bool) -> Tensor:
    """Algorithm 1 of the same paper."""
    x = sigmas[0] * NOISE
    for a, b in pairwise(sigmas):
        d = (x - denoise(x, a.expand(len(x)))) / a
        euler = x + (b - a) * d
        if heun and b > 0:
            d = (d + (euler - denoise(euler, b.expand(len(x)))) / b) / 2
            euler = x + (b - a) * d
        x = euler
    return x


def close(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    return float((a - b).norm() / b.norm()) <= tolerance


MODEL = da.from_denoiser(denoise, 0.02, 20.0)


@pytest.mark.parametrize("steps", [1, 2, 3, 18])
def test_grids_are_those_of_the_paper_with_a_zero_behind(steps: int) -> None:
    times = MODEL.noise_schedule.times(steps)
    wanted = torch.tensor([20.0, 0.0], dtype=torch.float64) if steps == 1 else karras(steps)
    assert torch.allclose(times, wanted, rtol=1e-12)
    ends = da.from_denoiser(denoise, 0.02, 20.0, to_zero=False).noise_schedule.times(steps)
    assert ends[-1] == 0.02
    assert len(times) == len(ends) == steps + 1


@pytest.mark.parametrize("parallel", [True, False])
def test_euler_into_no_noise_is_that_of_the_paper(parallel: bool) -> None:
    out = da.sample(MODEL, NOISE, steps=18, solver="ddim", rtol=1e-8, parallel=parallel)
    assert close(out.samples, edm_sampler(karras(18), heun=False))


@pytest.mark.parametrize("parallel", [True, False])
def test_heun_is_that_of_the_paper_on_a_grid_of_ones_own(parallel: bool) -> None:
    """Its last step, into no noise, is one of Euler there: here the grid ends before."""
    sigmas = karras(18)[:-1]
    out = da.sample(MODEL, NOISE, spacing=sigmas, solver="heun", rtol=1e-8, parallel=parallel)
    assert close(out.samples, edm_sampler(sigmas, heun=True))


@pytest.mark.parametrize(
    ("solver", "theirs"), [("ddim", "sample_euler"), ("heun", "sample_heun"), ("dpm++2m", "sample_dpmpp_2m")]
)
def test_samplers_of_k_diffusion(solver: str, theirs: str) -> None:
    sampling = pytest.importorskip("k_diffusion.sampling")
    sigmas = karras(20)[:-1] if solver == "heun" else karras(20)
    expected = getattr(sampling, theirs)(denoise, sigmas[0] * NOISE, sigmas, disable=True)
    out = da.sample(MODEL, NOISE, spacing=sigmas, solver=solver, rtol=1e-8)
    assert close(out.samples, expected, 1e-5)


def test_samplers_of_azula() -> None:
    """Its denoisers take the time of their schedule and return a posterior."""
    azula = pytest.importorskip("azula.sample")
    schedule = pytest.importorskip("azula.noise").VESchedule(0.02, 20.0)

    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x: Tensor, t: Tensor) -> Any:
            return SimpleNamespace(mean=denoise(x, schedule(t)[1].expand(len(x))))

    sampler = azula.DDIMSampler(Denoiser(), steps=20, silent=True, dtype=torch.float64)
    expected = sampler(20.0 * NOISE)
    model = da.from_denoiser(Denoiser(), noise_schedule=da.VE(0.02, 20.0))
    out = da.sample(model, NOISE, steps=20, spacing="uniform", rtol=1e-8)
    assert close(out.samples, expected)


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """Of a path on which noise is at 1."""
    s = t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return torch.sin(2 * x) * (1 + s) - 0.5 * x


def test_a_velocity_is_integrated_from_noise_to_data() -> None:
    exact = odeint(
        lambda t, x: velocity(x, t.expand(len(x))), NOISE, torch.tensor([1.0, 0.0]).double(), rtol=1e-9, atol=1e-9
    )
    out = da.sample(da.from_velocity(velocity), NOISE, steps=400, solver="heun", rtol=1e-7)
    assert close(out.samples, exact[-1], 1e-4)
    plain, h = NOISE, 1 / 25
    for k in range(25):
        plain = plain - h * velocity(plain, torch.full((3,), 1 - k * h))
    assert close(da.sample(da.from_velocity(velocity), NOISE, steps=25, rtol=1e-8).samples, plain, 1e-5)


@pytest.mark.parametrize("time_first", [False, True])
def test_noise_at_the_other_end(time_first: bool) -> None:
    """The same path, told from the other side."""

    def other(*args: Tensor) -> Tensor:
        t, x = args if time_first else args[::-1]
        return -velocity(x, 1 - t)

    model = da.from_velocity(other, noise_at=0, time_first=time_first)
    expected = da.sample(da.from_velocity(velocity), NOISE, steps=30, rtol=1e-9).samples
    assert close(da.sample(model, NOISE, steps=30, rtol=1e-9).samples, expected)


def test_shift_is_that_of_the_grid() -> None:
    times = da.from_velocity(velocity, shift=3.0).noise_schedule.times(4)
    assert times.tolist() == [1.0, 0.9, 0.75, 0.5, 0.0]


def test_conditioning_follows_and_modules_keep_their_dtype() -> None:
    gains = torch.tensor([0.5, 1.0, 2.0])

    def conditioned(x: Tensor, sigma: Tensor, gain: Tensor) -> Tensor:
        return denoise(x, sigma, gain[:, None, None].to(x.dtype))  # pyright: ignore

    model = da.from_denoiser(conditioned, 0.02, 20.0, conditioning={"gain": gains})
    together = da.sample(model, NOISE, steps=12, rtol=1e-8).samples
    for i, gain in enumerate(gains.tolist()):
        alone = da.from_denoiser(lambda x, s, g=gain: denoise(x, s, g), 0.02, 20.0)
        assert close(together[i : i + 1], da.sample(alone, NOISE[i : i + 1], steps=12, rtol=1e-8).samples)

    class Half(nn.Linear):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:  # pyright: ignore
            assert x.dtype == torch.bfloat16
            return super().forward(x)

    small = da.from_denoiser(Half(4, 4).bfloat16())
    assert small.dtype == torch.bfloat16
    assert da.sample(small, NOISE.float(), steps=4).samples.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: da.from_denoiser(3), TypeError, "fn is an int.*denoiser"),  # pyright: ignore
        (lambda: da.from_velocity("v"), TypeError, "fn is a str.*velocity"),  # pyright: ignore
        (lambda: da.from_denoiser(denoise, 2.0, 1.0), ValueError, "sigma_min=2.0"),
        (lambda: da.from_denoiser(denoise, rho=0.0), ValueError, "rho=0.0"),
        (lambda: da.from_denoiser(denoise, 0.1, noise_schedule=da.VP()), ValueError, "came with noise_schedule"),
        (lambda: da.from_denoiser(denoise, noise_schedule=3), TypeError, "noise_schedule is an int"),  # pyright: ignore
        (lambda: da.from_velocity(velocity, noise_at=2), ValueError, "noise_at=2"),
        (lambda: da.from_velocity(velocity, shift=0.0), ValueError, "shift=0.0"),
        (lambda: MODEL.noise_schedule.times(0), ValueError, "steps=0"),
        (lambda: da.sample(MODEL, NOISE, solver=pr.Heun()), ValueError, "sigma is 0"),
    ],
)
def test_bad_input(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
