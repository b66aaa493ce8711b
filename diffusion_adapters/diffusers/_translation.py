"""A scheduler's run in the terms of this library: noise levels, a prediction and a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.equations._coordinates import Name
from diffusion_adapters.noise_schedules._base import NoiseSchedule, TimeIsNoise

Sampler = Callable[[Tensor, Any], list[Tensor]]
"""Makes the noise of each step, from the latents and the call's generator."""

Clean = Callable[[Tensor], Tensor]
"""Maps an estimate of the clean data, ``(n, *rest)``, to another: clipping or thresholding."""


@dataclass(frozen=True)
class Preserving(NoiseSchedule):
    """Alpha and sigma on the unit circle; time is sigma/(alpha + sigma), from 0, clean, to 1, all noise."""

    t_min: float = 0.0
    t_max: float = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        """(1 - t) over the norm of (1 - t, t)."""
        return (1 - t) / torch.hypot(1 - t, t)

    def sigma(self, t: Tensor) -> Tensor:
        """The share t over the norm of (1 - t, t)."""
        return t / torch.hypot(1 - t, t)

    def time(self, s: Tensor) -> Tensor:
        """The inverse of `s`, also where it is 0 or infinite."""
        return 1 / (1 + 1 / s)


@dataclass(frozen=True)
class Exploding(TimeIsNoise):
    """Alpha is 1 and sigma is time."""

    t_min: float = 0.0
    t_max: float = float("inf")


@dataclass(frozen=True, eq=False)
class Translation:
    """A scheduler's run from its timestep number ``start`` on.

    Attributes:
        noise_schedule: Alpha and sigma, as functions of a time of this library.
        prediction: The kind of prediction that the pipeline passes to ``scheduler.step``: "eps", "x0", "v" or
            "velocity".
        times: Times of the grid's points, float64, falling, ``(n + 1,)``.
        timesteps: The timesteps of the first n of them in the loop of the pipeline, ``(n,)``.
        fine: The scheduler's method.
        clean: Its change of estimates of the clean data, in the right-hand side.
        noise: The dtype in which it draws noise, "model" for that of the network; ``None`` where it draws none.
        silent: Whether the last step draws no noise.
        sampler: Makes the noise of all steps, where it does not come from the generator alone.
        spare: Draws of noise after those of the steps, which are not used.
        scaled: Whether states are x/alpha, and not x.
        coordinates: The coordinates in which the method is that of the scheduler, if it depends on them.
        data: Standard deviation of the data, where the network is preconditioned as in EDM; else ``None``.
        sign: The sign of the output of the network then, or of a velocity.
        second: The timesteps of second stages at each of the points but the last, where they are others.
        visits: The number of the point at each timestep of the loop, where that visits points twice.
    """

    noise_schedule: NoiseSchedule
    prediction: Any
    times: Tensor
    timesteps: Tensor
    fine: pr.Integrator
    clean: Clean | None = None
    noise: torch.dtype | str | None = None
    sampler: Sampler | None = None
    silent: bool = False
    spare: int = 0
    scaled: bool = False
    coordinates: Name | None = None
    data: float | None = None
    sign: float = 1.0
    second: Tensor | None = None
    visits: tuple[int, ...] | None = None

    def input_scale(self, t: Tensor) -> Tensor:
        """The factor from x at ``t`` to the network's input."""
        return torch.ones_like(t) if self.data is None else torch.rsqrt(t * t + self.data**2)

    @property
    def input_factor(self) -> float:
        """The factor from the scheduler's latents at the start to what the network receives."""
        t = self.times[0]
        factor = self.input_scale(t)
        return float(factor * self.noise_schedule.alpha(t) if self.scaled else factor)
