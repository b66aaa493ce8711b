"""The schedulers of diffusers: for each a function that translates its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.diffusers._more_rules import cosine_dpm, edm_dpm, edm_euler, kdpm2, lcm, lms, pndm, wuerstchen
from diffusion_adapters.diffusers._multistep_rules import deis, dpm_multistep, dpm_singlestep, unipc
from diffusion_adapters.diffusers._scheduler_levels import clipping, from_sigmas, prediction_of, share_of_noise, whole
from diffusion_adapters.diffusers._scheduler_steps import Ordered, Posterior
from diffusion_adapters.diffusers._translation import Preserving, Translation
from diffusion_adapters.noise_schedules._named import Flow
from diffusion_adapters.sampling._heun_to_zero import HeunToZero
from diffusion_adapters.sampling._stochastic_steps import Ancestral


def translate(scheduler: Any, start: int, stop: int, eta: float = 0.0, use_clipped: bool = False) -> Translation:
    """Translates the run of a scheduler, after ``set_timesteps``, from its timestep ``start`` up to ``stop``.

    Args:
        scheduler: The scheduler.
        start: Number of the first of its timesteps that the pipeline's loop visits.
        stop: One more than that of the last.
        eta: The argument of ``step`` of that name.
        use_clipped: Likewise ``use_clipped_model_output``.

    Raises:
        ValueError: The scheduler has no meaning as an ODE or SDE here, or a setting has none.
    """
    name = family(scheduler)
    if name is None:
        raise ValueError(
            f"scheduler {type(scheduler).__name__} is not supported{_why_not(scheduler)}; expected one of "
            f"{', '.join(sorted(_FAMILIES))}: "
            "for example pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)"
        )
    translation = _FAMILIES[name](scheduler, start, stop, eta, use_clipped)
    return _checked(translation, name)


def family(scheduler: Any) -> str | None:
    """The name of the first of a scheduler's classes that is translated here; ``None`` where there is none."""
    return next((kind.__name__ for kind in type(scheduler).__mro__ if kind.__name__ in _FAMILIES), None)


def _why_not(scheduler: Any) -> str:
    return next((f": {_WHY_NOT[kind.__name__]}" for kind in type(scheduler).__mro__ if kind.__name__ in _WHY_NOT), "")


_WHY_NOT = {
    "SASolverScheduler": "it adds noise in a predictor and again in a corrector, both made of several earlier "
    "predictions, so that a step is not that of one method for an SDE",
    "DPMSolverSDEScheduler": "it calls the network between the noise levels too, with noise of its own for both halves",
    "RePaintScheduler": "it goes back to higher noise levels in between",
    "CMStochasticIterativeScheduler": "the few steps of a consistency model each start from new noise",
    "SCMScheduler": "the few steps of a consistency model each start from new noise",
    "DDIMInverseScheduler": "it runs from the data to noise",
    "DPMSolverMultistepInverseScheduler": "it runs from the data to noise",
    "VQDiffusionScheduler": "its states are discrete",
    "AmusedScheduler": "its states are discrete",
}
"""Why some schedulers have no meaning here."""


def _checked(translation: Translation, name: str) -> Translation:
    times, timesteps = translation.times, translation.timesteps
    if translation.prediction == "eps" and float(translation.noise_schedule.alpha(times[0])) == 0:
        raise ValueError(
            f"{name} begins without signal, where prediction_type='epsilon' does not determine the data; expected "
            "prediction_type='v_prediction' or 'sample' with a network made for it, or rescale_betas_zero_snr=False"
        )
    steps = times.diff()
    if bool((steps == 0).any()):
        where = int((steps == 0).nonzero()[0])
        if where < len(steps) - 1 or not _idle(translation.fine, where):
            raise ValueError(
                f"{name} takes a step of no length, from timestep {_number(timesteps[where])} to the same noise level; "
                "expected levels that fall: set final_sigmas_type='zero' in the scheduler's config, or take fewer steps"
            )
        # It changes nothing, but methods of higher order count it as a step.
        times, timesteps, steps = times[:-1], timesteps[:-1], steps[:-1]
        translation = replace(translation, spare=0 if translation.noise is None else 1)
    if len(steps) == 0:
        raise ValueError(f"{name} has no step to take; expected at least one timestep")
    if not bool((steps < 0).all()):
        where = int((~(steps < 0)).nonzero()[0])
        raise ValueError(
            f"the noise level of {name} does not fall from timestep {_number(timesteps[where])} to the one after it; "
            "expected timesteps, or sigmas, in falling order, none repeated"
        )
    return replace(translation, times=times, timesteps=timesteps)


def _idle(fine: pr.Integrator, step: int) -> bool:
    """Whether a step of no length leaves the state as it is. The last of a group starts from the group's beginning."""
    if isinstance(fine, Ordered):
        return fine.group == 1 or fine.orders[step] == 1
    return isinstance(fine, pr.Euler | Ancestral)


def _number(t: Tensor) -> float:
    return round(float(t), 3)


def _ddim(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """DDIM steps to ``t - 1000 // N``, and the network then receives the next timestep, which may be another."""
    at = whole(scheduler.timesteps)[start:stop]
    alphas = scheduler.alphas_cumprod.detach().cpu().double()
    last = torch.as_tensor(scheduler.final_alpha_cumprod).double()
    target = at - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    if int(at.min()) < 0 or int(at.max()) >= len(alphas):
        raise ValueError(
            f"timesteps run from {int(at[0])} to {int(at[-1])}; expected them within 0 ... {len(alphas) - 1}, those of "
            "training: take a smaller num_inference_steps"
        )
    arrives = torch.where(target >= 0, alphas[target.clamp_min(0)], last)
    levels = share_of_noise(
        ((1 - torch.cat([alphas[at], arrives[-1:]])) / torch.cat([alphas[at], arrives[-1:]])).sqrt()
    )
    ends = torch.cat([levels[:1], share_of_noise(((1 - arrives) / arrives).sqrt())])
    if levels[-1] == levels[-2]:  # the last step ends where it begins, and clips: give the point another place
        levels[-1] = levels[-2] / 2
    clean = None if type(scheduler).__name__.startswith("CogVideoX") else clipping(scheduler)  # those clip nothing
    same = bool(torch.equal(ends, levels))
    prediction = prediction_of(scheduler)
    fine: pr.Integrator = pr.Euler()
    if eta > 0 and same and clean is None:
        fine = Ancestral(eta)
    elif not (same and clean is None and eta == 0):
        fine = Posterior(eta=eta, clean=clean, rederive=use_clipped, arrive=None if same else (levels, ends))
    noise = "model" if eta > 0 else None
    return Translation(
        Preserving(t_max=float(levels[0])),
        prediction,
        levels,
        scheduler.timesteps.detach()[start:stop],
        fine,
        noise=noise,
    )


def _ddpm(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    variance = scheduler.config.get("variance_type", "fixed_small")
    if variance not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise ValueError(
            f"variance_type={variance!r} of DDPMScheduler is not supported: the noise would depend on the network; "
            "expected 'fixed_small', 'fixed_small_log' or 'fixed_large'"
        )
    timesteps = whole(scheduler.timesteps)
    alphas = scheduler.alphas_cumprod.detach().cpu().double()
    at = timesteps[start:stop]
    last = alphas[timesteps[stop]] if stop < len(timesteps) else torch.ones((), dtype=torch.float64)
    a = torch.cat([alphas[at], last[None]])
    clean, large = clipping(scheduler), variance == "fixed_large"
    fine = Ancestral() if clean is None and not large else Posterior(eta=1.0, clean=clean, large=large)
    levels = share_of_noise(((1 - a) / a).sqrt())
    return Translation(
        Preserving(t_max=float(levels[0])),
        prediction_of(scheduler),
        levels,
        scheduler.timesteps.detach()[start:stop],
        fine,
        noise="model",
        silent=int(at[-1]) == 0,
    )


def _euler(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    return from_sigmas(scheduler, start, stop, pr.Euler(), scaled=True)


def _euler_ancestral(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    return from_sigmas(scheduler, start, stop, Ancestral(), scaled=True, noise="model")


def _heun(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """The scheduler repeats each noise level and timestep, once for each stage."""
    translation = from_sigmas(scheduler, start, stop, HeunToZero(), scaled=True, coordinates="ratio")
    return _halved(replace(translation, clean=clipping(scheduler)), type(scheduler).__name__)


def _halved(translation: Translation, name: str) -> Translation:
    times, timesteps = translation.times, translation.timesteps
    stages = len(timesteps)
    if stages % 2 == 0 or not torch.equal(times[1:-1:2], times[2:-1:2]):
        raise ValueError(
            f"{name} has a timestep for each stage of a step, of which the pipeline visits {stages}; expected all of "
            "them, or all from the beginning of a step on"
        )
    last = times[-1:]
    fine = HeunToZero() if float(last) == 0 else pr.Heun()
    if float(last) != 0:
        raise ValueError(f"{name} ends at the noise level {float(last):.3g}; expected 0, as it does with all timesteps")
    visits = tuple((i + 1) // 2 for i in range(stages))
    times = torch.cat([times[:-1:2], last])
    return replace(translation, times=times, timesteps=timesteps[::2], fine=fine, visits=visits)


def _flow_euler(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    sigmas = scheduler.sigmas.detach().cpu().double()[start : stop + 1]
    sign = 1.0
    if scheduler.config.get("invert_sigmas"):  # they are the share of the data, and the velocity is towards it
        sigmas, sign = 1 - sigmas, -1.0
    timesteps = scheduler.timesteps.detach()[start:stop]
    if scheduler.config.get("stochastic_sampling"):
        if sign < 0:
            raise ValueError(
                f"{type(scheduler).__name__} has invert_sigmas=True and stochastic_sampling=True, whose step adds "
                "noise as if sigmas were shares of noise; expected one of the two"
            )
        fine, noise = Posterior(renoise=True), torch.float32
        return Translation(Flow(), "velocity", sigmas, timesteps, fine, noise=noise, sign=sign)
    return Translation(Flow(), "velocity", sigmas, timesteps, pr.Euler(), sign=sign)


def _flow_heun(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    sigmas = scheduler.sigmas.detach().cpu().double()[start : stop + 1]
    timesteps = scheduler.timesteps.detach()[start:stop]
    return _halved(Translation(Flow(), "velocity", sigmas, timesteps, HeunToZero()), type(scheduler).__name__)


_FAMILIES: dict[str, Callable[[Any, int, int, float, bool], Translation]] = {
    "DDIMScheduler": _ddim,
    "DDIMParallelScheduler": _ddim,
    "CogVideoXDDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "DDPMParallelScheduler": _ddpm,
    "DDPMWuerstchenScheduler": wuerstchen,
    "LCMScheduler": lcm,
    "PNDMScheduler": pndm,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _euler_ancestral,
    "HeunDiscreteScheduler": _heun,
    "KDPM2DiscreteScheduler": kdpm2,
    "KDPM2AncestralDiscreteScheduler": kdpm2,
    "LMSDiscreteScheduler": lms,
    "DPMSolverMultistepScheduler": dpm_multistep,
    "DPMSolverSinglestepScheduler": dpm_singlestep,
    "UniPCMultistepScheduler": unipc,
    "DEISMultistepScheduler": deis,
    "FlowMatchEulerDiscreteScheduler": _flow_euler,
    "FlowMatchHeunDiscreteScheduler": _flow_heun,
    "EDMEulerScheduler": edm_euler,
    "EDMDPMSolverMultistepScheduler": edm_dpm,
    "CosineDPMSolverMultistepScheduler": cosine_dpm,
}
