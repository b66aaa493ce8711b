"""The schedules, models and formulas that the tests of diffusion_adapters share."""

import torch
from torch import Tensor

import diffusion_adapters as da

PREDICTIONS = ("eps", "x0", "v", "score", "velocity")


def alphas_cumprod(timesteps: int = 1000, zero_terminal: bool = False, clean_start: bool = False) -> Tensor:
    """The scaled-linear training schedule of Stable Diffusion, if wanted with alpha = 0 at last or 1 at first."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, timesteps, dtype=torch.float64) ** 2
    root = torch.cumprod(1 - betas * (1000 / timesteps), 0).sqrt()
    if zero_terminal:  # arXiv 2305.08891, algorithm 1
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    if clean_start:
        root = root / root[0]
    return root**2


SCHEDULES: dict[str, da.NoiseSchedule] = {
    "vp": da.VP(),
    "vp-constant-beta": da.VP(beta_min=8.0, beta_max=8.0),
    "cosine": da.VP.cosine(),
    "cosine-to-1": da.VP.cosine(t_max=1.0),
    "ve": da.VE(0.01, 50.0),
    "edm": da.EDM(),
    "flow": da.Flow(),
    "flow-shifted": da.Flow(shift=3.0, t_min=1e-3, t_max=0.999),
    "discrete": da.Discrete(alphas_cumprod()),
    "discrete-zero-snr": da.Discrete(alphas_cumprod(zero_terminal=True)),
    "discrete-both-ends": da.Discrete(alphas_cumprod(100, zero_terminal=True, clean_start=True)),
}


def silent(schedule: da.NoiseSchedule) -> bool:
    """Whether the schedule starts without any signal."""
    return schedule.alpha(torch.tensor(schedule.t_max, dtype=torch.float64)).item() == 0


def inner_times(schedule: da.NoiseSchedule, count: int = 12) -> Tensor:
    """Times inside the range, neither end included, not at integers."""
    share = torch.linspace(0.013, 0.987, count, dtype=torch.float64)
    return schedule.t_min + (schedule.t_max - schedule.t_min) * share


def mixture(dims: int = 4, components: int = 3, seed: int = 0) -> da.GaussianMixture:
    """A few blobs of unequal sizes and weights."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(components, dims, generator=generator, dtype=torch.float64)
    scales = 0.05 + 0.3 * torch.rand(components, generator=generator, dtype=torch.float64)
    weights = 1.0 + torch.arange(components, dtype=torch.float64)
    return da.GaussianMixture(means, scales**2, weights)


def normals(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normals, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest entry."""
    return ((a - b).abs().max() / b.abs().max()).item()
