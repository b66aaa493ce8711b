"""Where the times of a sampling grid lie: uniform in some function of the noise level, between two fixed ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from diffusion_adapters._validate import count, one_of, require

if TYPE_CHECKING:
    from diffusion_adapters.noise_schedules._base import NoiseSchedule

Spacing: TypeAlias = Literal["logsnr", "karras", "uniform"] | Tensor
SPACINGS = ("logsnr", "karras", "uniform")


def falling_times(schedule: NoiseSchedule, steps: int, spacing: Spacing | None) -> Tensor:
    """Float64 times of shape ``(steps + 1,)``, falling from ``t_max`` to ``t_min``; see `NoiseSchedule.times`."""
    if isinstance(spacing, Tensor):
        return _checked(schedule, spacing)
    steps = count(steps, "steps")
    s = schedule.s(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64))
    if spacing is None:
        rule = schedule.default_spacing if math.isfinite(s[0]) and s[1] > 0 else "uniform"
    else:
        rule = one_of(spacing, SPACINGS, "spacing", "a tensor of falling times")
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
