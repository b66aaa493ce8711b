"""Schedulers with preconditioning, with midpoints, or with methods of their own."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.diffusers._multistep_rules import multistep_orders
from diffusion_adapters.diffusers._paired_steps import AncestralMidpoint, Midpoints, PseudoAdams
from diffusion_adapters.diffusers._scheduler_levels import (
    clipping,
    from_sigmas,
    prediction_of,
    share_of_noise,
    thresholding,
    whole,
)
from diffusion_adapters.diffusers._scheduler_steps import Ordered, Posterior
from diffusion_adapters.diffusers._translation import Exploding, Preserving, Translation
from diffusion_adapters.sampling._stochastic_steps import Ancestral, SDEDPMSolverPP


def pndm(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """The first timestep but one is there twice: for the second stage of the first step, and for the second step."""
    config, visited = scheduler.config, whole(scheduler.timesteps)[start:stop]
    if not config.skip_prk_steps:
        raise ValueError(
            "skip_prk_steps=False of PNDMScheduler is not supported; expected skip_prk_steps=True, as pipelines of "
            "Stable Diffusion have it: pipe.scheduler = diffusers.PNDMScheduler.from_config(pipe.scheduler.config, "
            "skip_prk_steps=True)"
        )
    if config.prediction_type != "epsilon":
        raise ValueError(
            f"prediction_type={config.prediction_type!r} of PNDMScheduler is not supported: it extrapolates the "
            "network's output, which is not the noise then; expected 'epsilon', or another scheduler"
        )
    alphas = scheduler.alphas_cumprod.detach().cpu().double()
    at = torch.cat([visited[:1], visited[2:]])
    target = at - config.num_train_timesteps // scheduler.num_inference_steps
    if start != 0 or len(visited) < 2 or not torch.equal(target[:-1], at[1:]) or int(visited[1]) != int(target[0]):
        raise ValueError(
            "PNDMScheduler steps to timesteps that are not the next of its grid, as it does where a run begins in the "
            "middle, or where timesteps are not evenly spaced; expected a run from the first timestep on, "
            "timestep_spacing='leading', or another scheduler such as diffusers.DPMSolverMultistepScheduler"
        )
    last = alphas[target[-1]] if int(target[-1]) >= 0 else torch.as_tensor(scheduler.final_alpha_cumprod).double()
    shares = torch.cat([alphas[at], last[None].cpu()])
    levels = share_of_noise(((1 - shares) / shares).sqrt())
    timesteps = scheduler.timesteps.detach()[start:stop]
    return Translation(
        Preserving(t_max=float(levels[0])),
        prediction_of(scheduler),
        levels,
        torch.cat([timesteps[:1], timesteps[2:]]),
        PseudoAdams(),
        coordinates="ratio",
        visits=(0, 1, *range(1, len(at))),
    )


def lms(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """Adams-Bashforth of order 4 for the steps as they are; a run begins with lower orders."""
    if start > 0:
        raise ValueError(
            "LMSDiscreteScheduler takes weights of high order from its first step on where a run begins in the middle, "
            "though it has no earlier slopes; expected a run from the first timestep on, or another scheduler"
        )
    fine = Ordered(pr.AdamsBashforth(4), (1,) * (stop - start))
    return from_sigmas(scheduler, start, stop, fine, scaled=True, coordinates="ratio")


def kdpm2(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """Every other timestep is at the midpoint of a step, whose noise level is kept beside the others."""
    ancestral = hasattr(scheduler, "sigmas_up")
    if start % 2 or stop < len(scheduler.timesteps):
        raise ValueError(
            f"{type(scheduler).__name__} has two timesteps for each step, and the pipeline visits those from number "
            f"{start} up to {stop} of {len(scheduler.timesteps)}; expected a run from the start of a step to the end"
        )
    between = scheduler.sigmas_interpol.detach().cpu().double()
    sigmas = scheduler.sigmas.detach().cpu().double()
    translation = from_sigmas(scheduler, start, stop, Midpoints(), scaled=True, coordinates="ratio")
    if not ancestral:
        levels = torch.stack([sigmas[0 : stop + 1 : 2], between[1 : stop + 2 : 2]], 1).flatten()[start:stop]
        return replace(translation, times=share_of_noise(torch.cat([levels, levels.new_zeros(1)])))
    timesteps = scheduler.timesteps.detach()[start:stop]
    return replace(
        translation,
        times=share_of_noise(torch.cat([sigmas[start:stop:2], sigmas.new_zeros(1)])),
        timesteps=timesteps[::2],
        second=torch.cat([timesteps[:1], timesteps[1::2]]),
        fine=AncestralMidpoint(),
        noise="model",
        silent=True,
        visits=tuple((i + 1) // 2 for i in range(stop - start)),
    )


def lcm(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """Each step estimates the clean data, and adds new noise."""
    at = whole(scheduler.timesteps)[start:stop]
    if stop < len(scheduler.timesteps):
        raise ValueError(
            "LCMScheduler adds no noise in its last step, and the pipeline stops before it; expected a run to the end"
        )
    alphas = scheduler.alphas_cumprod.detach().cpu().double()[at]
    levels = share_of_noise(torch.cat([((1 - alphas) / alphas).sqrt(), alphas.new_zeros(1)]))
    scalings = [scheduler.get_scalings_for_boundary_condition_discrete(t) for t in at.double()]
    of_x, of_x0 = (torch.tensor([float(pair[i]) for pair in scalings], dtype=torch.float64) for i in (0, 1))
    fine = Posterior(clean=clipping(scheduler), renoise=True, boundary=(levels[:-1], of_x, of_x0))
    return Translation(
        Preserving(t_max=float(levels[0])),
        prediction_of(scheduler),
        levels,
        scheduler.timesteps.detach()[start:stop],
        fine,
        noise="model",
        silent=True,
    )


def wuerstchen(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """DDPM at times from 1 to 0; at the end some noise is left, and none is added."""
    timesteps = scheduler.timesteps.detach()
    shares = scheduler._alpha_cumprod(timesteps[start : stop + 1], timesteps.device).cpu().double()
    if stop >= len(timesteps):
        raise ValueError(
            f"{type(scheduler).__name__} has no timestep after the last that the pipeline visits; expected a pipeline "
            "that stops before its last timestep"
        )
    levels = share_of_noise(((1 - shares) / shares).sqrt())
    silent = float(timesteps[stop]) == 0
    return Translation(
        Preserving(t_max=float(levels[0])),
        "eps",
        levels,
        timesteps[start:stop],
        Ancestral(),
        noise="model",
        silent=silent,
        spare=int(silent),
    )


# --- networks that are preconditioned as in EDM ---------------------------------------------------------------------


def edm_euler(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """The scheduler preconditions the network's output, which gives x0."""
    return _preconditioned(scheduler, start, stop, pr.Euler())


def edm_dpm(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """DPM-Solver++ of several steps, with or without noise."""
    config = scheduler.config
    noisy = config.algorithm_type == "sde-dpmsolver++"
    if noisy and config.solver_order > 2:
        raise ValueError(
            f"solver_order={config.solver_order} of algorithm_type={config.algorithm_type!r} is not supported; "
            "expected solver_order=2"
        )
    rule = config.solver_type
    method = (
        SDEDPMSolverPP(config.solver_order, rule) if noisy else pr.DPMSolverPP(config.solver_order, "multistep", rule)
    )
    orders = multistep_orders(scheduler, start, stop, config.final_sigmas_type == "zero")
    noise = "model" if noisy else None
    return _preconditioned(scheduler, start, stop, Ordered(method, orders), clean=thresholding(scheduler), noise=noise)


def cosine_dpm(scheduler: Any, start: int, stop: int, eta: float, use_clipped: bool) -> Translation:
    """SDE-DPM-Solver++, with noise from a Brownian path of its own."""
    config = scheduler.config
    if config.solver_order > 2:
        raise ValueError(
            f"solver_order={config.solver_order} of {type(scheduler).__name__} is unknown; expected 1 or 2"
        )
    orders = multistep_orders(scheduler, start, stop, config.final_sigmas_type == "zero")
    fine = Ordered(SDEDPMSolverPP(config.solver_order, config.solver_type), orders)
    levels = scheduler.sigmas.detach()[start : stop + 1]

    def sampler(latents: Tensor, generator: Any) -> list[Tensor]:
        from diffusers.schedulers.scheduling_dpmsolver_sde import BrownianTreeNoiseSampler

        many = [one.initial_seed() for one in generator] if isinstance(generator, list) else None
        seed = generator.initial_seed() if isinstance(generator, torch.Generator) else many
        path = BrownianTreeNoiseSampler(latents, sigma_min=config.sigma_min, sigma_max=config.sigma_max, seed=seed)
        return [path(a, b).to(latents.device) for a, b in pairwise(levels)]

    return _preconditioned(scheduler, start, stop, fine, noise="model", sampler=sampler)


def _preconditioned(scheduler: Any, start: int, stop: int, fine: pr.Integrator, **more: Any) -> Translation:
    sigmas = scheduler.sigmas.detach().cpu().double()[start : stop + 1]
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        prediction_of(scheduler)
    data = float(scheduler.config.sigma_data)
    sign = -1.0 if scheduler.config.prediction_type == "v_prediction" else 1.0
    timesteps = scheduler.timesteps.detach()[start:stop]
    return Translation(Exploding(), "x0", sigmas, timesteps, fine, data=data, sign=sign, **more)
