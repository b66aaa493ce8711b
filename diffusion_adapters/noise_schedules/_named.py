"""The noise schedules of the literature, each a formula for alpha and sigma and its inverse.

All formulas are arranged so that neither alpha nor sigma loses digits next to an end, where the other is close to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_adapters._validate import require, set_finite
from diffusion_adapters.noise_schedules._base import NoiseSchedule, TimeIsNoise


@dataclass(frozen=True)
class VP(NoiseSchedule):
    """Variance preserving, beta linear in t: alpha_t = exp(-B/2) with B = int_0^t beta, and alpha^2 + sigma^2 = 1.

    Args:
        beta_min: beta at t = 0.
        beta_max: beta at t = 1.
        t_min: Time nearest to the data, above 0.
        t_max: Time of the most noise.

    Raises:
        ValueError: 0 <= beta_min <= beta_max or 0 < t_min < t_max does not hold, or alpha^2 underflows.

    Source:
        Score-Based Generative Modeling through Stochastic Differential Equations (arXiv 2011.13456), appendix B.

    Examples:
        >>> import torch
        >>> schedule = VP()
        >>> round(schedule.time(schedule.s(torch.tensor(0.25, dtype=torch.float64))).item(), 12)
        0.25
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        set_finite(self, "beta_min", "beta_max", "t_min", "t_max")
        require(
            0 <= self.beta_min <= self.beta_max and self.beta_max > 0,
            f"beta_min={self.beta_min} and beta_max={self.beta_max} do not rise from 0 or more; expected "
            "0 <= beta_min <= beta_max, for example VP(beta_min=0.1, beta_max=20.0)",
        )
        _check_range(self, positive=True)
        total = self.t_max * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * self.t_max)
        require(
            total < 700,
            f"beta_max={self.beta_max} and t_max={self.t_max} leave alpha^2 = exp(-{total:g}), too small for float64; "
            "expected an integral of beta below 700 (10 by default): lower beta_max or t_max",
        )

    @staticmethod
    def cosine(s: float = 0.008, t_min: float = 1e-3, t_max: float = 0.9946) -> CosineVP:
        """The variance-preserving schedule whose alpha is a cosine; see `CosineVP`."""
        return CosineVP(s, t_min, t_max)

    def _integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def alpha(self, t: Tensor) -> Tensor:
        """exp(-B/2) with B the integral of beta."""
        return torch.exp(-0.5 * self._integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - exp(-B)), without cancellation."""
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def time(self, s: Tensor) -> Tensor:
        """The root of the quadratic B(t) = log(1 + s^2)."""
        b = torch.log1p(s * s)
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * b)
        return 2 * b / (self.beta_min + root).clamp_min(torch.finfo(s.dtype).tiny)


@dataclass(frozen=True)
class CosineVP(NoiseSchedule):
    """Variance preserving, alpha a cosine: alpha_t = cos(phi_t) / cos(phi_0), and alpha^2 + sigma^2 = 1.

    The angle is phi_t = (t + s) / (1 + s) * pi/2.

    Args:
        offset: The small s of the formula, which keeps the noise of the first times from vanishing.
        t_min: Time nearest to the data, above 0.
        t_max: Time of the most noise, at most 1, where alpha is 0; the default stops before that, as DPM-Solver does.

    Raises:
        ValueError: ``offset`` is negative or 0 < t_min < t_max <= 1 does not hold.

    Source:
        Improved Denoising Diffusion Probabilistic Models (arXiv 2102.09672), eq. 17, without its cap on beta.

    Examples:
        >>> import torch
        >>> VP.cosine().alpha(torch.tensor(0.5, dtype=torch.float64)).round(decimals=3).item()
        0.703
    """

    offset: float = 0.008
    t_min: float = 1e-3
    t_max: float = 0.9946

    def __post_init__(self) -> None:
        set_finite(self, "offset", "t_min", "t_max")
        require(self.offset >= 0, f"s={self.offset} is negative; expected 0 or more, for example VP.cosine(s=0.008)")
        _check_range(self, positive=True, most=1.0)

    @property
    def _phi0(self) -> float:
        return self.offset / (1 + self.offset) * math.pi / 2

    def _left(self, t: Tensor) -> Tensor:
        """pi/2 - phi, exact near t = 1."""
        return (1 - t) * (math.pi / 2 / (1 + self.offset))

    def alpha(self, t: Tensor) -> Tensor:
        """cos(phi) / cos(phi_0)."""
        return torch.sin(self._left(t)) / math.cos(self._phi0)

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - alpha^2), without cancellation: sqrt(sin(phi - phi_0) sin(phi + phi_0)) / cos(phi_0)."""
        turn = t * (math.pi / 2 / (1 + self.offset))
        return torch.sqrt(torch.sin(turn) * torch.sin(turn + 2 * self._phi0)) / math.cos(self._phi0)

    def time(self, s: Tensor) -> Tensor:
        """From tan(pi/2 - phi) = cos(phi_0) / sqrt(s^2 + sin(phi_0)^2)."""
        left = torch.atan(math.cos(self._phi0) / torch.hypot(s, torch.full_like(s, math.sin(self._phi0))))
        return 1 - left / (math.pi / 2 / (1 + self.offset))


@dataclass(frozen=True)
class VE(NoiseSchedule):
    """Variance exploding: alpha = 1 and sigma_t = sigma_min (sigma_max / sigma_min)^t for t in [0, 1].

    Args:
        sigma_min: Noise at t = 0.
        sigma_max: Noise at t = 1.

    Raises:
        ValueError: 0 < sigma_min < sigma_max does not hold.

    Source:
        Score-Based Generative Modeling through Stochastic Differential Equations (arXiv 2011.13456), appendix C.

    Examples:
        >>> import torch
        >>> round(VE(0.01, 100.0).sigma(torch.tensor(0.5, dtype=torch.float64)).item(), 12)
        1.0
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = field(default=0.0, init=False)
    t_max: float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        _check_sigmas(self)

    def alpha(self, t: Tensor) -> Tensor:
        """Alpha is one."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """Geometric in t."""
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def time(self, s: Tensor) -> Tensor:
        """log(s / sigma_min) / log(sigma_max / sigma_min)."""
        return torch.log(s / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(TimeIsNoise):
    """Alpha = 1 and sigma = t: time is the noise level.

    The preconditioning of that paper (c_skip, c_in, ...) belongs to the network: wrap it so that it predicts ``"x0"``.

    Args:
        sigma_min: Noise at ``t_min``.
        sigma_max: Noise at ``t_max``.
        rho: Exponent of the spacing ``"karras"``.

    Raises:
        ValueError: 0 < sigma_min < sigma_max or rho > 0 does not hold.

    Source:
        Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364).

    Examples:
        >>> EDM().t_max
        80.0
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    t_min: float = field(init=False)
    t_max: float = field(init=False)
    default_spacing: ClassVar[str] = "karras"

    def __post_init__(self) -> None:
        _check_sigmas(self)
        set_finite(self, "rho")
        require(self.rho > 0, f"rho={self.rho} is not positive; expected a number such as 7")
        object.__setattr__(self, "t_min", self.sigma_min)
        object.__setattr__(self, "t_max", self.sigma_max)


@dataclass(frozen=True)
class Flow(NoiseSchedule):
    """Flow matching, rectified flow: alpha = 1 - t and sigma = t, so that dx/dt = eps - x0.

    Args:
        shift: Moves the times of the spacing ``"uniform"``: t -> shift t / (1 + (shift - 1) t). It does not change
            alpha and sigma; values above 1 spend more steps where there is much noise.
        t_min: Time nearest to the data, at least 0.
        t_max: Time of the most noise, at most 1.

    Raises:
        ValueError: shift > 0 or 0 <= t_min < t_max <= 1 does not hold.

    Source:
        Flow Matching for Generative Modeling (arXiv 2210.02747); the shift: Scaling Rectified Flow Transformers for
        High-Resolution Image Synthesis (arXiv 2403.03206), section 5.3.2.

    Examples:
        >>> Flow(shift=3.0).times(4).tolist()
        [1.0, 0.9, 0.75, 0.5, 0.0]
    """

    shift: float = 1.0
    t_min: float = 0.0
    t_max: float = 1.0
    default_spacing: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        set_finite(self, "shift", "t_min", "t_max")
        require(self.shift > 0, f"shift={self.shift} is not positive; expected 1 for none, or a number such as 3")
        _check_range(self, positive=False, most=1.0)

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """The time itself."""
        return t

    def time(self, s: Tensor) -> Tensor:
        """The time s / (1 + s)."""
        return 1 / (1 + 1 / s)


def _check_range(schedule: VP | CosineVP | Flow, positive: bool, most: float = math.inf) -> None:
    t_min, t_max = schedule.t_min, schedule.t_max
    low = "0 <" if positive else "0 <="
    high = "" if most == math.inf else f" <= {most:g}"
    require(
        (t_min > 0 if positive else t_min >= 0) and t_min < t_max <= most,
        f"t_min={t_min} and t_max={t_max} are no range of times; expected {low} t_min < t_max{high}",
    )


def _check_sigmas(schedule: VE | EDM) -> None:
    set_finite(schedule, "sigma_min", "sigma_max")
    name = type(schedule).__name__
    require(
        0 < schedule.sigma_min < schedule.sigma_max,
        f"sigma_min={schedule.sigma_min} and sigma_max={schedule.sigma_max} do not rise from above 0; expected "
        f"0 < sigma_min < sigma_max, for example {name}(sigma_min=0.01, sigma_max=50.0)",
    )
