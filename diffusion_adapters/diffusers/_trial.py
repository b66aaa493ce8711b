"""A trial of a translation: compares the steps of the scheduler with ours, on a few numbers and an artificial network.

A scheduler has dozens of settings, and its class may be a subclass that somebody else wrote. The translation is
used only if both give the same numbers. The trial does not call the pipeline's network.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffusion_adapters.diffusers._fresh_scheduler import fresh, timestep_of
from diffusion_adapters.diffusers._problem import Request, Setup, prepare
from diffusion_adapters.diffusers._scheduler_rules import translate
from diffusion_adapters.diffusers._translation import Translation
from diffusion_adapters.models._prediction import per_row

TOLERANCE = 2e-3
"""Relative tolerance. Schedulers that keep their states in float32 are off by up to 1e-3 where a run begins almost
without signal; ``benchmarks/schedulers.py`` prints how many configurations are refused, and how many are wrong."""

_PASSED: dict[Any, bool] = {}
_MOST = 256
"""Configurations whose trial is remembered. A choice: a process seldom uses more."""


def translated(scheduler: Any, start: int, stop: int, setup: Setup) -> Translation:
    """The run of a scheduler from its timestep ``start`` up to ``stop``, tried where its own method is used.

    Raises:
        ValueError: It has no translation, is not finite by itself, or differs from its translation.
    """
    translation = translate(scheduler, start, stop, setup.eta, setup.use_clipped)
    if not setup.own_method:
        return translation
    own = fresh(scheduler, on_cpu=True)
    key = _key(own, start, stop, setup)
    if key not in _PASSED:
        _check_beginning(own, start)
        _try(own, translation, start, stop, setup)
        if len(_PASSED) >= _MOST:
            _PASSED.clear()
        _PASSED[key] = True
    return translation


def _check_beginning(scheduler: Any, start: int) -> None:
    """Schedulers look up the first timestep that they receive, and take the second of two that are equal."""
    if not hasattr(scheduler, "_init_step_index"):
        return
    first = scheduler.timesteps[start]
    scheduler._init_step_index(first)
    if scheduler._step_index != start:
        raise ValueError(
            f"{type(scheduler).__name__} begins at the noise level number {scheduler._step_index}, and the pipeline at "
            f"the timestep number {start}: timestep {float(first):.6g} is there more than once; expected timesteps "
            "that all differ, as with fewer steps or another timestep_spacing"
        )
    scheduler._step_index = None


def _key(scheduler: Any, start: int, stop: int, setup: Setup) -> Any:
    levels = [vars(scheduler).get(name) for name in ("sigmas", "alphas_cumprod")]
    return (
        type(scheduler),
        repr(sorted(scheduler.config.items(), key=str)),
        tuple(scheduler.timesteps.tolist()),
        *(tuple(part.tolist()) if isinstance(part, Tensor) else None for part in levels),
        vars(scheduler).get("_begin_index"),
        (start, stop, setup.eta, setup.use_clipped),
    )


@torch.no_grad()
def _try(scheduler: Any, translation: Translation, start: int, stop: int, setup: Setup) -> None:
    name = f"{type(scheduler).__name__}({_settings(scheduler)})"
    latents, at = _start(translation), scheduler.timesteps[start:stop]
    precise = fresh(scheduler, on_cpu=True)
    theirs = _theirs(scheduler, translation, latents, at, setup, name)
    if isinstance(vars(precise).get("sigmas"), Tensor):  # its weights in float32 can be off by more than the tolerance
        precise.sigmas = precise.sigmas.double()
        theirs = _theirs(precise, translation, latents, at, setup, name)
    second = None if translation.second is None else translation.second.cpu()
    translation = replace(translation, timesteps=translation.timesteps.cpu(), second=second)
    prepared = prepare(replace(setup, dtype=torch.float64), translation, latents, None)
    if prepared.draw is not None:
        prepared.draw(torch.Generator().manual_seed(0), latents.dtype, False)

    def answer(request: Request) -> Tensor:
        between = request.lanes.between
        timesteps = translation.timesteps[request.lanes.at] if between is None else between
        return _made_up(translation, request.x, request.t, timesteps)

    _, ours = prepared.serial(answer)
    error = float(torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs).clamp_min(1e-6))
    if not error <= TOLERANCE:
        raise ValueError(
            f"{name} steps in a way that is not known here: on made-up numbers its own result is {error:.0e} away from "
            "what was read from it; expected a scheduler of the table in the documentation, unchanged, or "
            "parallelize(pipe, solver=...), which takes nothing from it but its noise levels"
        )


def _theirs(scheduler: Any, translation: Translation, x: Tensor, at: Tensor, setup: Setup, name: str) -> Tensor:
    """The latents after the scheduler's own steps; raises where they are not finite."""
    schedule, times, visits = translation.noise_schedule, translation.times, translation.visits
    takes = inspect.signature(scheduler.step).parameters
    given: dict[str, Any] = {"eta": setup.eta, "use_clipped_model_output": setup.use_clipped}
    given["generator"] = torch.Generator().manual_seed(0)
    given = {key: value for key, value in given.items() if key in takes}
    for i, timestep in enumerate(at):
        t = times[min(i, len(times) - 1) if visits is None else visits[i]][None]
        seen = x * schedule.alpha(t) if translation.scaled else x
        value = _made_up(translation, seen, t, timestep.double()[None])
        try:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, timestep)
            x = scheduler.step(value, timestep_of(scheduler, timestep, x), x, **given, return_dict=False)[0]
        except Exception as error:
            raise ValueError(
                f"{name} cannot take its own step from timestep {float(timestep):.6g}: {type(error).__name__}: {error}"
                f"; expected settings with which the pipeline itself runs through, {_hint(scheduler)}"
            ) from error
        if not bool(x.isfinite().all()):
            raise ValueError(
                f"{name} gives numbers that are not finite in its own step from timestep {float(timestep):.6g}, "
                f"whatever the network says; expected settings with which the pipeline itself gives an image, "
                f"{_hint(scheduler)}"
            )
    return x


def _hint(scheduler: Any) -> str:
    config = scheduler.config
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type") == "epsilon":
        return "for example a network that predicts v or the sample where rescale_betas_zero_snr=True"
    if type(scheduler).__name__ == "UniPCMultistepScheduler":
        return "for example solver_type='bh2', lower_order_final=True and predict_x0=True"
    if config.get("use_flow_sigmas"):
        return "for example use_flow_sigmas=True without Karras or other spacings, whose levels leave 0 ... 1"
    return "for example final_sigmas_type='zero', lower_order_final=True and timesteps that all differ"


def _settings(scheduler: Any) -> str:
    """The settings that are not the default."""
    defaults = {name: part.default for name, part in inspect.signature(type(scheduler).__init__).parameters.items()}
    given = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return ", ".join(
        f"{name}={value!r}"
        for name, value in given.items()
        if name in defaults and repr(defaults[name]) != repr(value) and len(repr(value)) < 60
    )


# --- made-up numbers ------------------------------------------------------------------------------------------------


def _start(translation: Translation) -> Tensor:
    """Latents of small data in noise."""
    generator = torch.Generator().manual_seed(1)
    data, noise = torch.randn(2, 1, 1, 4, 4, generator=generator, dtype=torch.float64)
    t = translation.times[0]
    schedule = translation.noise_schedule
    x = schedule.alpha(t) * 0.7 * data + schedule.sigma(t) * noise
    return x / schedule.alpha(t) if translation.scaled else x


def _made_up(translation: Translation, x: Tensor, t: Tensor, timestep: Tensor) -> Tensor:
    """A network for small data that is not linear, and depends on the timestep that it receives.

    Its estimate of the clean data is bounded, whatever the noise level, so that no error is magnified.
    """
    schedule = translation.noise_schedule
    alpha, sigma = (per_row(part, x) for part in (schedule.alpha(t), schedule.sigma(t)))
    x0 = 0.5 * alpha * x / (0.5 * alpha**2 + sigma**2) + 0.3 * torch.sin(x + per_row(0.01 * timestep, x))
    if translation.data is not None:
        total = torch.as_tensor(sigma**2 + translation.data**2)
        return (x0 - translation.data**2 / total * x) / (translation.sign * sigma * translation.data / total.sqrt())
    eps = (x - alpha * x0) / sigma
    if translation.prediction == "eps":
        return eps
    if translation.prediction == "velocity":  # that of a flow
        return translation.sign * (eps - x0)
    return x0 if translation.prediction == "x0" else alpha * eps - sigma * x0
