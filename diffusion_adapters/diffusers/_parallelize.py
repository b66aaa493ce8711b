"""`parallelize`: the way from a pipeline of diffusers to one that runs in parallel in time."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import parareal as pr
from diffusion_adapters._validate import explain_keywords, kind_of
from diffusion_adapters.diffusers._call import NETWORKS
from diffusion_adapters.diffusers._combined import CombinedPipeline, held_pipelines
from diffusion_adapters.diffusers._pipeline import ParallelPipeline
from diffusion_adapters.diffusers._problem import Setup
from diffusion_adapters.sampling._options import Options

RTOL = 2e-5
"""The default tolerance: latents are then within 1e-4 of the sequential run's (``benchmarks/schedulers.py``)."""
WIDTH = 16
"""The default width. With 50 steps of DDIM on the packaged digits it takes about as many rounds as 50 at a time (see
``benchmarks/constants.py``), and 16 times the batch fits into memory more often than 50 times."""


@explain_keywords(
    {
        "seed": "pipe(..., generator=torch.Generator().manual_seed(0)), the pipeline's own argument",
        "generator": "pipe(..., generator=...), the pipeline's own argument",
        "steps": "pipe(..., num_inference_steps=...), the pipeline's own argument",
        "num_inference_steps": "pipe(..., num_inference_steps=...), the pipeline's own argument",
        "scheduler": "pipe.scheduler = ..., before parallelize",
        "tol": "rtol=...",
    }
)
def parallelize(
    pipe: Any,
    solver: str | pr.Integrator | None = None,
    coarse: str | pr.Correction | pr.Integrator = "gaussian",
    width: int | None = None,
    rtol: float | None = None,
    *,
    slices: int | None = None,
    schedule: pr.Schedule | None = None,
    stop: pr.StoppingRule | None = None,
    max_iterations: int | None = None,
    dtype: torch.dtype = torch.float32,
    check: bool | None = None,
    verify: bool = False,
    warm_start: bool = False,
    executor: pr.Executor | None = None,
) -> ParallelPipeline:
    """A diffusers pipeline whose denoising loop runs in parallel in time, to the same result.

    The code of the pipeline runs, with its text encoders, guidance, image processing and decoder. Only the scheduler is
    replaced, in a copy that shares everything else, by one whose steps are made by the engine. One call of the network
    is then made for many timesteps at once. The pipeline itself stays as it is.

    Args:
        pipe: A pipeline with a scheduler and a denoiser among its components (``unet`` or ``transformer``). Its
            scheduler is read in every call: DDIM, DDPM, PNDM, LCM, Euler, EulerAncestral, Heun, KDPM2, LMS,
            DPMSolverMultistep and Singlestep, UniPC, DEIS, FlowMatchEuler, FlowMatchHeun, EDMEuler and others.
        solver: ``None`` for the method of the scheduler, or one of `sample`'s names or integrators on the scheduler's
            noise levels.
        coarse: See `sample`.
        width: How many timesteps are computed at a time (at most all of them): the factor on the network's batch.
            ``None`` for 16 with ``coarse="gaussian"``, and no window otherwise. Take less where memory is short, or
            where a smaller batch already keeps the device busy: the number of rounds then rises slowly.
        rtol: Tolerance on the latents, ``None`` for 2e-5; see `sample`. With that they were within 1e-4 of the
            sequential run's in every pipeline tested. An image shows differences from about 1e-2 on: 1e-3 saves rounds.
        slices: See `sample`.
        schedule: In place of ``width``.
        stop: In place of ``rtol``; both together are an error.
        max_iterations: Most iterations; ``None`` for as many as there are slices.
        dtype: The dtype of states between calls of the network, float32 or float64.
        check: Whether a copy of the pipeline's own scheduler steps through the run's predictions once more, without the
            network, and must come to the same latents. Where it does not, the run continues to a smaller tolerance. If
            that does not help, the pipeline itself runs, in sequence, with a warning. With your own ``stop`` or
            ``max_iterations`` there is only a warning. ``None`` compares wherever that is possible; True also warns
            where it is not.
        verify: Evaluate every boundary once more after convergence; see `parareal.solve`.
        warm_start: Whether each call starts from the states of the call before, where the latents have the same shape
            and the noise levels the same ends: fewer rounds where little has changed, such as a guidance scale or a
            word of the prompt. With another number of steps states are interpolated; with latents of another shape the
            call starts as the first one does. Results keep the same tolerance.
        executor: How the timesteps of a round are computed: ``pr.Batched(max_lanes=...)`` bounds the network's batch,
            ``pr.Batched(pad_to=...)`` gives it fixed ones, for networks that are compiled, captured or exported. A lane
            is one sample at one timestep: with guidance the network gets two rows for each.

    Returns:
        A `ParallelPipeline`; a `CombinedPipeline` where the pipeline is made of others, as a prior and a decoder.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range, or the pipeline has no scheduler or denoiser;
            from the call, that a scheduler or an argument is not supported.

    Source:
        Self-Refining Diffusion Samplers (arXiv 2412.08292); Parallel Sampling of Diffusion Models (arXiv 2305.16317).
    """
    combined = held_pipelines(pipe)
    if isinstance(pipe, ParallelPipeline):
        raise ValueError(
            f"pipe is parallel in time already: {type(pipe).__name__}; expected the pipeline of diffusers: "
            "parallelize(pipe.pipe)"
        )
    if combined:
        pass
    elif not hasattr(pipe, "scheduler") or pipe.scheduler is None or not hasattr(pipe.scheduler, "set_timesteps"):
        raise ValueError(
            f"pipe is {kind_of(pipe)} without a scheduler; expected a diffusers pipeline such as "
            "StableDiffusionPipeline, whose scheduler is its attribute scheduler"
        )
    elif not any(isinstance(getattr(pipe, name, None), nn.Module) for name in NETWORKS):
        raise ValueError(
            f"{type(pipe).__name__} has no known denoiser; expected a component {' or '.join(NETWORKS[:2])}"
        )
    options = Options(
        solver,
        coarse,
        slices,
        width,
        schedule,
        rtol,
        stop,
        max_iterations,
        verify,
        default_rtol=RTOL,
        default_width=WIDTH,
    )
    setup = Setup(options, dtype, check, warm_start, executor)
    return CombinedPipeline(pipe, setup) if combined else ParallelPipeline(pipe, setup)
