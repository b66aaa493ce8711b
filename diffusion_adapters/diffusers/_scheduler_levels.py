"""Noise levels, prediction and clipping, as a scheduler of diffusers has them after ``set_timesteps``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import parareal as pr
from diffusion_adapters.diffusers._translation import Clean, Preserving, Translation
from diffusion_adapters.noise_schedules._named import Flow

PREDICTIONS = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x0",
    "original_sample": "x0",
    "flow_prediction": "velocity",
}


def prediction_of(scheduler: Any) -> str:
    given = scheduler.config.get("prediction_type", "epsilon")
    if given not in PREDICTIONS:
        raise ValueError(
            f"prediction_type={given!r} of {type(scheduler).__name__} is not supported; expected one of "
            f"{', '.join(map(repr, PREDICTIONS))}"
        )
    return PREDICTIONS[given]


def share_of_noise(ratio: Tensor) -> Tensor:
    """Sigma/(alpha + sigma) from sigma/alpha."""
    return 1 / (1 + 1 / ratio)


def from_sigmas(scheduler: Any, start: int, stop: int, fine: pr.Integrator, **more: Any) -> Translation:
    """Noise levels of schedulers that keep them in ``sigmas``."""
    sigmas = scheduler.sigmas.detach().cpu().double()[start : stop + 1]
    timesteps = scheduler.timesteps.detach()[start:stop]
    prediction = prediction_of(scheduler)
    if scheduler.config.get("use_flow_sigmas") or prediction == "velocity":
        if prediction != "velocity":
            raise ValueError(
                f"use_flow_sigmas=True came with prediction_type={scheduler.config.prediction_type!r}; expected "
                "prediction_type='flow_prediction'"
            )
        return Translation(Flow(), prediction, sigmas, timesteps, fine, thresholding(scheduler), **more)
    return Translation(
        Preserving(t_max=float(share_of_noise(sigmas[0]))),
        prediction,
        share_of_noise(sigmas),
        timesteps,
        fine,
        thresholding(scheduler),
        **more,
    )


def thresholding(scheduler: Any) -> Clean | None:
    return scheduler._threshold_sample if scheduler.config.get("thresholding") else None


def clipping(scheduler: Any) -> Clean | None:
    if scheduler.config.get("thresholding"):
        return scheduler._threshold_sample
    if scheduler.config.get("clip_sample"):
        most = scheduler.config.get("clip_sample_range", 1.0)
        return lambda x0: x0.clamp(-most, most)
    return None


def whole(timesteps: Tensor) -> Tensor:
    return timesteps.detach().cpu().long()
