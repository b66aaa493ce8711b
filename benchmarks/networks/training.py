"""How a denoiser is trained: AdamW with a cosine learning rate, a moving average of the weights, well chosen times."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffusion_adapters import NoiseSchedule

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training run.

    Attributes:
        steps: Of the optimiser.
        batch: Samples a step.
        lr: The highest learning rate.
        decay: Weight decay.
        ema: How much of the moving average stays at each step.
        label_dropout: Share of samples shown without their label, for classifier-free guidance.
        warm: Steps in which the learning rate rises.
    """

    steps: int
    batch: int = 128
    lr: float = 2e-3
    decay: float = 0.02
    ema: float = 0.999
    label_dropout: float = 0.15
    warm: int = 300


def fit(
    network: Module,
    loss: Callable[[], Tensor],
    recipe: Recipe,
    held: Callable[[Module], float] | None = None,
    every: int = 500,
) -> Module:
    """The moving average of the weights after ``recipe.steps`` steps down ``loss()``, in eval mode; prints progress.

    Args:
        network: Trained in place.
        loss: Draws a batch and returns its mean loss.
        recipe: The numbers.
        held: The loss of the average on data held out.
        every: Steps between two lines of progress.
    """
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=recipe.decay)
    began, running = time.perf_counter(), 0.0
    for step in range(recipe.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        optimiser.param_groups[0]["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warm) * (0.01 + 0.99 * cosine)
        now = loss()
        optimiser.zero_grad()
        now.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rate = min(recipe.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - rate)
        running += (now.item() - running) * min(1.0, max(0.005, 1 / (step + 1)))
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            unseen = "" if held is None else f"   held-out loss {held(average):.4f}"
            seconds = time.perf_counter() - began
            print(f"step {step + 1:6d}   training loss {running:.4f}{unseen}   {seconds:5.0f} s", flush=True)
    return average


def draw_times(
    schedule: NoiseSchedule, count: int, generator: torch.Generator, centre: float = -0.5, spread: float = 1.2
) -> Tensor:
    """Stratified times (count,): half have log(sigma/alpha) uniform over its range, half normal around ``centre``."""
    low, high = _range(schedule)
    half = count // 2
    strata = torch.rand(count, generator=generator, dtype=torch.float64)
    flat = low + (high - low) * (torch.arange(half) + strata[:half]) / half
    level = (torch.arange(count - half) + strata[half:]) / (count - half)
    normal = centre + spread * math.sqrt(2) * torch.erfinv((2 * level - 1).clamp(-0.999999, 0.999999))
    ratio = torch.cat((flat, normal.clamp(low, high)))
    times = schedule.time(ratio.exp()).clamp(schedule.t_min, schedule.t_max)
    return times[torch.randperm(count, generator=generator)].float()


def _range(schedule: NoiseSchedule, furthest: float = 6.0) -> tuple[float, float]:
    """log(sigma/alpha) at both ends of a schedule, or +-6 where that is infinite."""
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
    low, high = schedule.s(ends).log().clamp(-furthest - 1, furthest).tolist()
    return low, high
