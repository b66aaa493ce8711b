"""Pipelines of diffusers in parallel in time give what they give in sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusion.pipelines import (
    FLUX,
    IMAGE,
    KEPT,
    POOLED,
    SIZE,
    STABLE,
    TEXT,
    ddim,
    ddpm,
    dit,
    flux,
    noise,
    pixart,
    prompts,
    sd,
    sd3,
    sd_with_text,
    sdxl,
    unet,
    wan,
)
from diffusion.pipelines import controlnet as control_network
from torch import Tensor

import diffusion_adapters as da

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.algorithm_type.*dpmsolver:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*scheduler.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # levels in float32, of torchsde's path
]

CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sd": (sd, {**TEXT, **SIZE}),
    "sd, guidance rescaled": (sd, {**TEXT, **SIZE, "guidance_rescale": 0.7}),
    "sd, without guidance": (sd, {**prompts(negative=False), **SIZE, "guidance_scale": 1.0}),
    "sd, two prompts, two images each": (
        sd,
        {**prompts(2), **SIZE, "guidance_scale": 3.0, "num_images_per_prompt": 2},
    ),
    "sd, v": (
        lambda: sd(scheduler=diffusers.DDIMScheduler(**STABLE, clip_sample=False, prediction_type="v_prediction")),
        {**TEXT, **SIZE},
    ),
    "sd, a generator for each": (
        sd,
        {**TEXT, **SIZE, "num_images_per_prompt": 2, "generator": [3, 4]},
    ),
    "sd, reading": (sd_with_text, {"prompt": ["a cat", "a photo of a dog"], "guidance_scale": 5.0, **SIZE}),
    "sd, image to image": (lambda: sd("Img2Img"), {**TEXT, "image": IMAGE, "strength": 0.6}),
    "sd, inpainting": (lambda: sd("Inpaint"), {**TEXT, **SIZE, **KEPT, "strength": 0.9, "num_images_per_prompt": 2}),
    "sd, inpainting with its own network": (
        lambda: sd("Inpaint", network=unet(9)),
        {**TEXT, **SIZE, **KEPT, "strength": 1.0, "num_images_per_prompt": 2},
    ),
    "sd, ControlNet": (
        lambda: sd("ControlNet", diffusers.UniPCMultistepScheduler(**STABLE), controlnet=control_network()),
        {**TEXT, **SIZE, "image": IMAGE, "num_images_per_prompt": 2},
    ),
    "sdxl": (sdxl, {**POOLED, **SIZE, "num_images_per_prompt": 2}),
    "sdxl, the first part": (sdxl, {**POOLED, **SIZE, "denoising_end": 0.7}),
    "sdxl, image to image": (lambda: sdxl("Img2Img"), {**POOLED, "image": IMAGE, "strength": 0.6}),
    "sdxl, inpainting": (lambda: sdxl("Inpaint"), {**POOLED, **SIZE, **KEPT, "strength": 0.8}),
    "sd3": (sd3, {**prompts(2, pooled=True), **SIZE, "guidance_scale": 3.0}),
    "sd3, image to image": (lambda: sd3("Img2Img"), {**POOLED, **SIZE, "image": IMAGE, "strength": 0.6}),
    "sd3, inpainting": (lambda: sd3("Inpaint", 16), {**POOLED, **SIZE, **KEPT, "strength": 0.8}),
    "flux": (flux, FLUX),
    "flux, told the guidance": (lambda: flux(guidance=True), {**FLUX, "num_images_per_prompt": 2}),
    "flux, true guidance": (
        flux,
        {**prompts(pooled=True), **SIZE, "true_cfg_scale": 3.0, "num_images_per_prompt": 2},
    ),
    "flux, image to image": (lambda: flux("Img2Img"), {**FLUX, "image": IMAGE, "strength": 0.6}),
    "flux, inpainting": (lambda: flux("Inpaint"), {**FLUX, **KEPT, "strength": 0.8, "num_images_per_prompt": 2}),
    "pixart": (
        pixart,
        {
            **TEXT,
            **SIZE,
            "prompt_attention_mask": torch.ones(1, 5),
            "negative_prompt_attention_mask": torch.ones(1, 5),
            "negative_prompt": None,
            "use_resolution_binning": False,
            "num_images_per_prompt": 2,
        },
    ),
    "dit": (dit, {"class_labels": [3, 900], "guidance_scale": 3.0, "output_type": "pt"}),
    "dit, without guidance": (dit, {"class_labels": [3, 900], "guidance_scale": 1.0, "output_type": "pt"}),
    "dit, ddpm": (
        lambda: dit(diffusers.DDPMScheduler(clip_sample=False)),
        {"class_labels": [3, 900], "guidance_scale": 3.0, "output_type": "pt"},
    ),
    "wan": (wan, {**TEXT, **SIZE, "num_frames": 5}),
    "ddim": (lambda: ddim(clip_sample=False), {"batch_size": 2, "output_type": "pt"}),
    "ddim, eta": (lambda: ddim(clip_sample=False), {"batch_size": 2, "eta": 0.7, "output_type": "pt"}),
    "ddpm, clipped": (ddpm, {"batch_size": 2, "output_type": "pt"}),
}


def call(pipe: Any, given: dict[str, Any], seed: int = 1) -> Tensor:
    """What the pipeline returns, as a tensor; the global generator is where some schedulers draw from."""
    seeds = given.get("generator", seed)
    many = [torch.Generator().manual_seed(s) for s in seeds] if isinstance(seeds, list) else None
    given = {"num_inference_steps": 16, "output_type": "latent", "return_dict": False, **given}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return torch.as_tensor(pipe(**{**given, "generator": many or torch.Generator().manual_seed(seed)})[0])


def distance(a: Tensor, b: Tensor) -> float:
    """Relative, over all samples."""
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.sweep(7)
def test_a_pipeline_gives_what_it_gives_in_sequence(name: str) -> None:
    make, given = CASES[name]
    pipe = make()
    scheduler, before = pipe.scheduler, dict(pipe.__dict__)
    expected = call(pipe, given)
    state = {key: value for key, value in vars(scheduler).items() if isinstance(value, Tensor | int | float)}
    parallel = da.diffusers.parallelize(pipe)
    value = call(parallel, given)
    assert torch.isfinite(expected).all()
    assert expected.std() > 0.1
    assert distance(value, expected) <= 1e-4
    assert parallel.solution.converged
    assert parallel.solution.stats.rounds < 16 or parallel.solution.status.name == "FINAL"
    other = (
        call(parallel, given, seed=2) if "generator" not in given else call(parallel, {**given, "generator": [5, 4]})
    )
    assert distance(other, expected) > 1e-2  # the comparison above could have failed
    # The pipeline is what it was, down to the state of its scheduler.
    assert pipe.scheduler is scheduler
    assert {key for key in pipe.__dict__ if not key.startswith("_")} == {k for k in before if not k.startswith("_")}
    assert all(vars(scheduler)[key] is value for key, value in state.items() if isinstance(value, Tensor))
    assert type(pipe.components[_denoiser(pipe)]).__call__ is torch.nn.Module.__call__


def _denoiser(pipe: Any) -> str:
    return "unet" if hasattr(pipe, "unet") else "transformer"


@pytest.mark.parametrize("name", ["sd", "flux", "sd, inpainting"])
@pytest.mark.sweep(1)
def test_prompts_matter(name: str) -> None:
    make, given = CASES[name]
    parallel = da.diffusers.parallelize(make())
    embeds = given["prompt_embeds"]
    one, two = (call(parallel, {**given, "prompt_embeds": e}) for e in (embeds, embeds + 3 * noise(9, *embeds.shape)))
    assert distance(one, two) > 1e-2


D = diffusers
SCHEDULERS: dict[str, Callable[[], Any]] = {
    "ddim": lambda: D.DDIMScheduler(**STABLE, clip_sample=False, set_alpha_to_one=False),
    "ddim, linspace": lambda: D.DDIMScheduler(**STABLE, clip_sample=False, timestep_spacing="linspace"),
    "ddim, trailing": lambda: D.DDIMScheduler(**STABLE, clip_sample=False, timestep_spacing="trailing"),
    "ddim, no signal": lambda: D.DDIMScheduler(
        **STABLE,
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ),
    "ddpm": lambda: D.DDPMScheduler(clip_sample=False),
    "ddpm, large": lambda: D.DDPMScheduler(clip_sample=False, variance_type="fixed_large"),
    "ddpm, clipped": lambda: D.DDPMScheduler(clip_sample_range=20.0),
    "euler": lambda: D.EulerDiscreteScheduler(**STABLE),
    "euler, karras": lambda: D.EulerDiscreteScheduler(**STABLE, use_karras_sigmas=True),
    "euler, beta": lambda: D.EulerDiscreteScheduler(**STABLE, use_beta_sigmas=True),
    "euler, v": lambda: D.EulerDiscreteScheduler(**STABLE, prediction_type="v_prediction"),
    "euler, to the least": lambda: D.EulerDiscreteScheduler(**STABLE, final_sigmas_type="sigma_min"),
    "euler ancestral": lambda: D.EulerAncestralDiscreteScheduler(**STABLE),
    "heun": lambda: D.HeunDiscreteScheduler(**STABLE),
    "heun, karras": lambda: D.HeunDiscreteScheduler(**STABLE, use_karras_sigmas=True),
    **{
        f"{algorithm} {order} {rule} {sigmas}": lambda a=algorithm, o=order, r=rule, s=sigmas: (
            D.DPMSolverMultistepScheduler(
                **STABLE,
                algorithm_type=a,
                solver_order=o,
                solver_type=r,
                final_sigmas_type="zero" if a.endswith("++") else "sigma_min",
                **({s: True} if s else {}),
            )
        )
        for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
        for order in (1, 2, 3)
        for rule, sigmas in (("midpoint", ""), ("heun", "use_karras_sigmas"))
        if not (algorithm.startswith("sde") and order == 3) and not (algorithm[-1] == "r" and sigmas)
    },
    "dpm, exponential": lambda: D.DPMSolverMultistepScheduler(**STABLE, use_exponential_sigmas=True),
    "dpm, beta": lambda: D.DPMSolverMultistepScheduler(**STABLE, use_beta_sigmas=True),
    "dpm, thresholding": lambda: D.DPMSolverMultistepScheduler(**STABLE, thresholding=True),
    "singlestep 2": lambda: D.DPMSolverSinglestepScheduler(**STABLE_BUT),
    "singlestep 3, karras": lambda: D.DPMSolverSinglestepScheduler(
        **STABLE_BUT, solver_order=3, use_karras_sigmas=True
    ),
    "unipc": lambda: D.UniPCMultistepScheduler(**STABLE),
    "unipc 3, karras": lambda: D.UniPCMultistepScheduler(**STABLE, solver_order=3, use_karras_sigmas=True),
    "deis": lambda: D.DEISMultistepScheduler(**STABLE),
    "deis 3": lambda: D.DEISMultistepScheduler(**STABLE, solver_order=3),
    "edm": D.EDMEulerScheduler,
    "edm dpm": D.EDMDPMSolverMultistepScheduler,
    "edm dpm 3": lambda: D.EDMDPMSolverMultistepScheduler(solver_order=3),
    "edm dpm, noisy": lambda: D.EDMDPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
    "cosine dpm": D.CosineDPMSolverMultistepScheduler,
    "pndm": lambda: D.PNDMScheduler(**STABLE, skip_prk_steps=True),
    "pndm, to one": lambda: D.PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=True),
    "kdpm2": lambda: D.KDPM2DiscreteScheduler(**STABLE),
    "kdpm2, v, karras": lambda: D.KDPM2DiscreteScheduler(
        **STABLE, prediction_type="v_prediction", use_karras_sigmas=True
    ),
    "kdpm2 ancestral": lambda: D.KDPM2AncestralDiscreteScheduler(**STABLE),
    "kdpm2 ancestral, karras": lambda: D.KDPM2AncestralDiscreteScheduler(**STABLE, use_karras_sigmas=True),
    "lms": lambda: D.LMSDiscreteScheduler(**STABLE),
    "lms, v, karras": lambda: D.LMSDiscreteScheduler(**STABLE, prediction_type="v_prediction", use_karras_sigmas=True),
    "lcm": lambda: D.LCMScheduler(**STABLE_BUT),
    "lcm, clipped": lambda: D.LCMScheduler(**STABLE_BUT, clip_sample=True),
    "ddim parallel": lambda: D.DDIMParallelScheduler(**STABLE),
    "ddpm parallel": lambda: D.DDPMParallelScheduler(clip_sample=False),
    "ddim of cogvideox": lambda: D.CogVideoXDDIMScheduler(prediction_type="v_prediction", snr_shift_scale=1.0),
    "flow dpm": lambda: D.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
    "flow unipc": lambda: D.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
}
STABLE_BUT = {key: value for key, value in STABLE.items() if key != "steps_offset"}


@pytest.mark.parametrize("steps", [10, 18])  # below and above the 15 up to which some schedulers lower their order
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.sweep(6)
def test_a_scheduler_is_its_method(name: str, steps: int) -> None:
    """Levels are float32 in the schedulers; states are float64 here, to see nothing but that."""
    pipe = sd(scheduler=SCHEDULERS[name]())
    given = {**TEXT, **SIZE, "num_inference_steps": steps}
    expected = call(pipe, given)
    parallel = da.diffusers.parallelize(pipe, rtol=1e-7, dtype=torch.float64)
    assert torch.isfinite(expected).all()
    assert distance(call(parallel, given), expected) <= (5e-5 if "deis" in name else 1e-5)


@pytest.mark.parametrize(
    "scheduler",
    [
        D.FlowMatchEulerDiscreteScheduler(shift=3.0),
        D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_karras_sigmas=True),
        D.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
        D.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        D.FlowMatchHeunDiscreteScheduler(shift=3.0),
    ],
    ids=["euler", "euler, karras", "stochastic", "inverted", "heun"],
)
@pytest.mark.sweep(2)
def test_a_scheduler_for_flows_is_its_method(scheduler: Any) -> None:
    pipe = sd3()
    pipe.scheduler = scheduler
    given = {**POOLED, **SIZE}
    expected = call(pipe, given)
    parallel = da.diffusers.parallelize(pipe, rtol=1e-7, dtype=torch.float64)
    assert distance(call(parallel, given), expected) <= 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "euler",
        "heun",
        "ddim",
        "ddim, trailing",
        "euler ancestral",
        "unipc",
        "deis",
        "singlestep 3, karras",
        "kdpm2",
        "kdpm2 ancestral",
        "lcm",
        "cosine dpm",
    ],
)
@pytest.mark.parametrize("kind", ["Img2Img", "Inpaint"])
@pytest.mark.sweep(4)
def test_a_scheduler_that_begins_in_the_middle_or_keeps_an_image(name: str, kind: str) -> None:
    pipe = sd(kind, SCHEDULERS[name]())
    given = {**TEXT, "image": IMAGE, "strength": 0.65, **({**SIZE, **KEPT} if kind == "Inpaint" else {})}
    expected = call(pipe, given)
    parallel = da.diffusers.parallelize(pipe, rtol=1e-7, dtype=torch.float64)
    assert distance(call(parallel, given), expected) <= (5e-5 if "deis" in name else 1e-5)


@pytest.mark.parametrize("kind", ["Img2Img", "Inpaint"])
@pytest.mark.sweep(1)
def test_a_soft_mask(kind: str) -> None:
    """Keeping part of an element, the pipeline does so once more in every step."""
    pipe = sd("Inpaint", SCHEDULERS["euler"]())
    prepare = pipe.prepare_mask_latents

    def softened(*args: Any, **kwargs: Any) -> Any:
        mask, image = prepare(*args, **kwargs)
        return 0.2 + 0.6 * mask, image

    pipe.prepare_mask_latents = softened
    given = {**TEXT, **SIZE, **KEPT, "strength": 0.8 if kind == "Img2Img" else 1.0}
    expected = call(pipe, given)
    assert distance(call(da.diffusers.parallelize(pipe, rtol=1e-7), given), expected) <= 1e-5


@pytest.mark.parametrize("coarse", ["gaussian", "same", "none"])
@pytest.mark.parametrize("solver", [None, "ddim", "heun", "dpm++2m", "ancestral"])
@pytest.mark.sweep(5)
def test_other_methods_on_the_schedulers_levels(solver: str | None, coarse: str) -> None:
    """Whatever the way, the result is that of the same method with every slice final."""
    pipe = sd(scheduler=D.DPMSolverMultistepScheduler(**STABLE))
    given = {**TEXT, **SIZE, "num_inference_steps": 9}
    results = [
        call(da.diffusers.parallelize(pipe, solver, way, rtol=rtol), given)
        for way, rtol in ((coarse, 1e-5), ("none", 0.0))
    ]
    assert distance(*results) <= 1e-4
    if solver in (None, "dpm++2m"):
        assert distance(results[0], call(pipe, given)) <= (1e-4 if solver is None else 1e-1)


def test_ddim_goes_by_the_grid_when_asked() -> None:
    """The scheduler steps to t - 1000 // N, which is not the next timestep of this spacing; ``solver="ddim"`` does."""
    pipe = sd(scheduler=SCHEDULERS["ddim, linspace"]())
    given = {**TEXT, **SIZE}
    theirs, by_grid = (call(da.diffusers.parallelize(pipe, solver, rtol=1e-6), given) for solver in (None, "ddim"))
    assert distance(theirs, call(pipe, given)) <= 1e-5
    assert distance(by_grid, theirs) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.sweep(1)
def test_networks_in_half_precision(dtype: torch.dtype) -> None:
    """States are float32 between the calls: closer to the float32 pipeline than one that rounds in every step."""
    exact = call(sd(), {**TEXT, **SIZE})
    pipe = sd(network=_cast(unet(), dtype))
    pipe.vae = _cast(pipe.vae, dtype)
    given = {**{k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in TEXT.items()}, **SIZE}
    expected = call(pipe, given)
    parallel = da.diffusers.parallelize(pipe, rtol=1e-3)
    value = call(parallel, given)
    assert value.dtype == expected.dtype == dtype
    unit = torch.finfo(dtype).eps
    assert distance(value, expected) <= 30 * unit
    assert distance(value, exact) <= max(2 * distance(expected, exact), 30 * unit)


def _cast(module: Any, dtype: torch.dtype) -> Any:
    from copy import deepcopy

    return deepcopy(module).to(dtype)
