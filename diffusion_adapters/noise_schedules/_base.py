"""A noise schedule is a pair of curves: x_t = alpha_t x_0 + sigma_t eps, for times t from data to noise.

All else follows from the two: their ratio s = sigma/alpha, which orders all times by how much noise there is,
the map back from s to time, and grids of times for sampling.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from diffusion_adapters._validate import count, one_of, require
from diffusion_adapters.noise_schedules._check import check_schedule

Spacing: TypeAlias = Literal["logsnr", "karras", "uniform"] | Tensor
"""The spacing of a grid: a rule, see `NoiseSchedule.times`, or a tensor of falling times."""

SPACINGS = ("logsnr", "karras", "uniform")

_SPACING_HINTS = {
    **dict.fromkeys(("logsnruniform", "exponential", "lambda", "lu"), 'spacing="logsnr"'),
    **dict.fromkeys(("edm", "rho", "polynomial", "karrassigmas"), 'spacing="karras"'),
    **dict.fromkeys(("linear", "linspace", "time", "even", "trailing", "leading", "simple"), 'spacing="uniform"'),
}
"""Names of other libraries, spelled as `plain_name` spells them, with ours."""


class NoiseSchedule(ABC):
    """Noise level as a function of time: x_t = alpha_t x_0 + sigma_t eps, with eps a standard normal.

    A schedule of your own gives ``t_min``, ``t_max``, `alpha`, `sigma` and `time`, out of differentiable torch
    operations. Times are float64 tensors of any shape; every map keeps the shape and the device.

    Attributes:
        t_min: Time nearest to the data.
        t_max: Time of the most noise, where sampling starts; s = sigma/alpha rises from ``t_min`` to ``t_max``.
        rho: Exponent of the spacing ``"karras"``.
        shift: Time shift of the spacing ``"uniform"``.
        default_spacing: The spacing of `times` for ``spacing=None``; ``"uniform"`` where it is not defined.
    """

    t_min: float
    t_max: float
    rho: float = 7.0
    shift: float = 1.0
    default_spacing: ClassVar[str] = "logsnr"

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The factor alpha of the data at time ``t``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at time ``t``."""

    @abstractmethod
    def time(self, s: Tensor) -> Tensor:
        """The time at which sigma/alpha is ``s``: the inverse of `s`."""

    def s(self, t: Tensor) -> Tensor:
        """Noise-to-signal ratio sigma/alpha; infinite where alpha is 0."""
        return self.sigma(t) / self.alpha(t)

    def log_snr(self, t: Tensor) -> Tensor:
        """The log of the signal-to-noise ratio, log(alpha^2 / sigma^2), which is -2 log s."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def alpha_dot(self, t: Tensor) -> Tensor:
        """The derivative of alpha with respect to t, by automatic differentiation."""
        return _derivative(self.alpha, t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """The derivative of sigma with respect to t, by automatic differentiation."""
        return _derivative(self.sigma, t)

    def times(self, steps: int, spacing: Spacing | None = None) -> Tensor:
        """A grid for sampling: ``steps + 1`` times that fall from ``t_max`` to ``t_min``.

        Args:
            steps: Number of steps.
            spacing: The spacing of the times:

                - ``"logsnr"``: uniform in the log-SNR (DPM-Solver, arXiv 2206.00927).
                - ``"karras"``: uniform in s^(1/rho), rho = 7 (Elucidating the Design Space of Diffusion-Based
                  Generative Models, arXiv 2206.00364, eq. 5; without that paper's extra last point at 0).
                - ``"uniform"``: uniform in time, then moved by `Flow`'s ``shift``. For `Discrete` the times may be
                  fractional.
                - a tensor of strictly falling times in [``t_min``, ``t_max``]; ``steps`` is then not used.
                - ``None``: ``"karras"`` for `EDM`, as published; ``"uniform"`` for `Flow`, and where alpha or sigma is
                  0 at an end; ``"logsnr"`` for all others. On mixtures of sharp Gaussians, the nearest to images, it
                  had the smallest error of the three: with DDIM and `VP` half that of ``"uniform"``.

        Returns:
            Float64 times, shape ``(steps + 1,)``, on the CPU; the ends are exact.

        Raises:
            TypeError: ``steps`` is not an int.
            ValueError: ``steps`` is below 1; the spacing is unknown, is not defined where the noise or the signal
                is 0, or is a tensor that does not fall or leaves the range.

        Examples:
            >>> import diffusion_adapters as da
            >>> [round(t, 3) for t in da.EDM().times(3, "karras").tolist()]
            [80.0, 9.723, 0.47, 0.002]
        """
        return falling_times(self, steps, spacing)


class TimeIsNoise(NoiseSchedule):
    """Alpha = 1 and sigma = t: the time is the noise level."""

    def alpha(self, t: Tensor) -> Tensor:
        """Alpha is one."""
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        """The time itself."""
        return t

    def time(self, s: Tensor) -> Tensor:
        """The ratio itself."""
        return s


def _derivative(curve: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """The derivative of an elementwise function, whatever gradient mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        t = t.detach().clone().requires_grad_()
        value = curve(t)
        return torch.autograd.grad(value.sum(), t)[0] if value.requires_grad else torch.zeros_like(value)


def falling_times(schedule: NoiseSchedule, steps: int, spacing: Spacing | None) -> Tensor:
    """Float64 times of shape ``(steps + 1,)``, falling from ``t_max`` to ``t_min``; see `NoiseSchedule.times`."""
    check_schedule(schedule)
    if isinstance(spacing, Tensor):
        return _checked(schedule, spacing)
    steps = count(steps, "steps")
    s = schedule.s(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64))
    if spacing is None:
        default = one_of(schedule.default_spacing, SPACINGS, f"default_spacing of {type(schedule).__name__}")
        rule = default if math.isfinite(s[0]) and s[1] > 0 else "uniform"
    else:
        rule = one_of(spacing, SPACINGS, "spacing", "a tensor of falling times", _SPACING_HINTS)
    share = torch.arange(steps + 1, dtype=torch.float64) / steps  # how far each time is from the noisy end
    if rule == "uniform":
        times = _uniform(schedule, share)
    else:
        _check_ends(schedule, rule, s)
        times = schedule.time(_logsnr(s, share) if rule == "logsnr" else _karras(s, share, schedule.rho))
    times[0], times[-1] = schedule.t_max, schedule.t_min
    require(
        bool((times.diff() < 0).all()),
        f"{steps} steps are too many for float64 to tell their times apart; take fewer",
    )
    return times


def _logsnr(s: Tensor, share: Tensor) -> Tensor:
    return torch.exp(torch.lerp(s[0].log(), s[1].log(), share))


def _karras(s: Tensor, share: Tensor, rho: float) -> Tensor:
    root = s ** (1 / rho)
    return torch.lerp(root[0], root[1], share) ** rho


def _uniform(schedule: NoiseSchedule, share: Tensor) -> Tensor:
    shift = schedule.shift
    if shift == 1.0:
        return schedule.t_max + (schedule.t_min - schedule.t_max) * share
    first, last = (t / (shift - (shift - 1) * t) for t in (schedule.t_max, schedule.t_min))
    plain = first + (last - first) * share
    return shift * plain / (1 + (shift - 1) * plain)


def _check_ends(schedule: NoiseSchedule, rule: str, s: Tensor) -> None:
    name = type(schedule).__name__
    require(
        math.isfinite(s[0]),
        f'spacing="{rule}" is not defined on {schedule!r}: alpha is 0 at t_max={schedule.t_max}, where sigma/alpha is '
        f'infinite. Use spacing="uniform" or a tensor of times, or end {name} before that',
    )
    require(
        rule == "karras" or s[1].item() > 0,
        f'spacing="{rule}" is not defined on {schedule!r}: sigma is 0 at t_min={schedule.t_min}, where the log-SNR is '
        f'infinite. Use spacing="uniform", "karras" or a tensor of times, or begin {name} after that',
    )


def _checked(schedule: NoiseSchedule, times: Tensor) -> Tensor:
    """Times that a user gave, as float64 on the CPU; what their dtype rounded out of the range is put on its end."""
    require(
        times.ndim == 1 and len(times) >= 2 and not times.is_complex() and times.dtype != torch.bool,
        f"spacing is a tensor of shape {tuple(times.shape)} and {times.dtype}; expected a row of at least 2 times",
    )
    exact = times.detach().to(device="cpu", dtype=torch.float64)
    require(bool(torch.isfinite(exact).all()), "the times of spacing hold NaN or Inf; expected finite times")
    eps = torch.finfo(times.dtype).eps if times.is_floating_point() else 0.0
    clamped = exact.clamp(schedule.t_min, schedule.t_max)
    off = (clamped - exact).abs() > eps * exact.abs()
    if bool(off.any()):
        raise ValueError(
            f"time {exact[off][0].item()} of spacing is outside [{schedule.t_min}, {schedule.t_max}], the range of "
            f"{schedule!r}; leave it out, or give the schedule a wider range"
        )
    rising = (clamped.diff() >= 0).nonzero()
    if len(rising):
        where = int(rising[0])
        raise ValueError(
            f"the times of spacing do not fall: {exact[where].item()} is followed by {exact[where + 1].item()}; "
            "expected strictly falling times, from noise to data, none repeated"
        )
    return clamped
