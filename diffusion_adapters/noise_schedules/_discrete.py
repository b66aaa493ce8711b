"""The schedule of a model trained at integer timesteps, made continuous by interpolating its log-SNR."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffusion_adapters._validate import require
from diffusion_adapters.noise_schedules._base import NoiseSchedule

_SNAP = 1e-11
"""Relative to the number of timesteps: a time this close to an integer is that integer (`Discrete.time`)."""


@dataclass(frozen=True, eq=False)
class Discrete(NoiseSchedule):
    """The schedule of DDPM-style training: alpha_t = sqrt(alphas_cumprod[t]), sigma_t = sqrt(1 - alphas_cumprod[t]).

    Time is the index of the timestep, from 0, and may be fractional: between integers the log-SNR is linear. Next
    to an end where it is infinite (alphas_cumprod[0] = 1, or alphas_cumprod[-1] = 0, zero terminal SNR) sigma/alpha or
    its inverse is linear instead. At the integers alpha and sigma are those of training.

    Args:
        alphas_cumprod: Shape ``(timesteps,)``, at least two, strictly falling, within (0, 1]; the last may be 0. Kept
            as float64.

    Raises:
        TypeError: ``alphas_cumprod`` is not a real floating-point tensor.
        ValueError: Its shape or its values are wrong.

    Source:
        Denoising Diffusion Probabilistic Models (arXiv 2006.11239); zero terminal SNR: Common Diffusion Noise Schedules
        and Sample Steps Are Flawed (arXiv 2305.08891).

    Examples:
        >>> import torch
        >>> betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        >>> schedule = Discrete(torch.cumprod(1 - betas, 0))
        >>> schedule.times(3, "uniform").tolist()
        [999.0, 666.0, 333.0, 0.0]
    """

    alphas_cumprod: Tensor
    t_min: float = field(default=0.0, init=False)
    t_max: float = field(init=False)
    _s: Tensor = field(init=False, repr=False)  # sigma/alpha at the integers
    _log_s: Tensor = field(init=False, repr=False)  # its log, 0 where it is not finite

    def __post_init__(self) -> None:
        a = _check_alphas_cumprod(self.alphas_cumprod)
        s = torch.sqrt((1 - a) / a)
        log_s = s.log()
        object.__setattr__(self, "alphas_cumprod", a)
        object.__setattr__(self, "t_max", float(len(a) - 1))
        object.__setattr__(self, "_s", s)
        object.__setattr__(self, "_log_s", torch.where(torch.isfinite(log_s), log_s, 0.0))

    def __repr__(self) -> str:
        a = self.alphas_cumprod
        return f"Discrete(T={len(a)}, alphas_cumprod={a[0].item():.4g} -> {a[-1].item():.4g})"

    def alpha(self, t: Tensor) -> Tensor:
        """1 / sqrt(1 + s^2)."""
        return self._curves(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        """S / sqrt(1 + s^2)."""
        return self._curves(t)[1]

    def _curves(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma; every branch is finite everywhere, so that derivatives are too."""
        s, log_s = self._s.to(t.device), self._log_s.to(t.device)
        left = t.detach().floor().clamp(0, len(s) - 2).long()
        w = t - left
        log = torch.lerp(log_s[left], log_s[left + 1], w)
        alpha, sigma = torch.sqrt(torch.sigmoid(-2 * log)), torch.sqrt(torch.sigmoid(2 * log))
        if s[0] == 0:
            first = left == 0
            ratio = w * s[1]
            alpha = torch.where(first, torch.rsqrt(1 + ratio * ratio), alpha)
            sigma = torch.where(first, ratio * torch.rsqrt(1 + ratio * ratio), sigma)
        if s[-1] == torch.inf:
            last = left == len(s) - 2
            ratio = (1 - w) / s[-2]
            alpha = torch.where(last, ratio * torch.rsqrt(1 + ratio * ratio), alpha)
            sigma = torch.where(last, torch.rsqrt(1 + ratio * ratio), sigma)
        return alpha, sigma

    def time(self, s: Tensor) -> Tensor:
        """The inverse of `s`; a time within rounding of an integer timestep is that integer, for the network's sake."""
        knots, log_s = self._s.to(s.device), self._log_s.to(s.device)
        left = (torch.searchsorted(knots, s.detach().contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
        low, high = log_s[left], log_s[left + 1]
        w = (s.log() - low) / (high - low)
        w = torch.where(knots[left] == 0, s / knots[1], w)
        w = torch.where(knots[left + 1] == torch.inf, 1 - knots[-2] / s, w)
        t = left + w
        whole = t.round()
        return torch.where((t - whole).abs() <= _SNAP * len(knots), whole, t)


def _check_alphas_cumprod(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        came = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(
            f"alphas_cumprod is {came}; expected a floating-point tensor: torch.as_tensor(alphas_cumprod, "
            "dtype=torch.float64)"
        )
    a = value.detach().to(device="cpu", dtype=torch.float64, copy=True)
    require(
        a.ndim == 1 and len(a) >= 2,
        f"alphas_cumprod has shape {tuple(a.shape)}; expected (T,) with T >= 2, one entry for each training timestep",
    )
    require(
        len(a) > 2 or a[0].item() < 1 or a[1].item() > 0,
        "alphas_cumprod is [1, 0]; expected at least one level between clean data and pure noise",
    )
    require(bool(torch.isfinite(a).all()), "alphas_cumprod holds NaN or Inf; expected finite numbers in (0, 1]")
    require(
        a[0].item() <= 1 and a[-1].item() >= 0,
        f"alphas_cumprod runs from {a[0].item()} to {a[-1].item()}; expected numbers in (0, 1], the last one may be 0. "
        "Pass torch.cumprod(1 - betas, 0), not betas or their roots",
    )
    rising = (a.diff() >= 0).nonzero()
    if len(rising):
        where = int(rising[0])
        raise ValueError(
            f"alphas_cumprod does not fall: alphas_cumprod[{where}]={a[where].item()} is followed by "
            f"{a[where + 1].item()}; expected strictly falling numbers, from little noise to much: "
            "torch.cumprod(1 - betas, 0)"
        )
    return a
