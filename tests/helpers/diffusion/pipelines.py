"""Tiny pipelines of diffusers with random weights, built without downloads, and the arguments that they run with.

Every function takes ``scheduler``, in place of one of its own choice, and ``dtype``. Pipelines share networks, except
those of another ``dtype``, which have copies.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusion.networks import (
    Digits,
    clip_encoder,
    clip_tokenizer,
    controlnet,
    diffusers,
    digits_betas,
    dit_transformer,
    flux_transformer,
    noise,
    pixart_transformer,
    sd3_transformer,
    shifted,
    t5_encoder,
    t5_tokenizer,
    unet,
    unet_plain,
    unet_xl,
    vae,
    wan_parts,
)
from torch import Tensor, nn

STABLE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
"""The noise schedule of Stable Diffusion."""


def finished(pipe: Any, dtype: torch.dtype | None = None) -> Any:
    """Without progress bar, the networks cast."""
    pipe.set_progress_bar_config(disable=True)
    for name, part in pipe.components.items() if dtype else ():
        if isinstance(part, nn.Module):
            setattr(pipe, name, deepcopy(part).to(dtype))
    return pipe


def sd(
    kind: str = "", scheduler: Any = None, network: Any = None, *, dtype: torch.dtype | None = None, **more: Any
) -> Any:
    """Stable Diffusion, of the ``kind`` ``""``, ``"Img2Img"``, ``"Inpaint"``, ``"ControlNet[Img2Img]"``."""
    if kind.startswith("ControlNet"):
        more = {"controlnet": controlnet(), **more}
    parts = {
        "vae": vae(),
        "text_encoder": None,
        "tokenizer": None,
        "unet": network or unet(),
        "scheduler": scheduler or diffusers.DPMSolverMultistepScheduler(**STABLE),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
        **more,
    }
    return finished(getattr(diffusers, f"StableDiffusion{kind}Pipeline")(**parts), dtype)


def sd_v(scheduler: Any = None, *, dtype: torch.dtype | None = None) -> Any:
    """Stable Diffusion that predicts v."""
    scheduler = scheduler or diffusers.DDIMScheduler(**STABLE, clip_sample=False, prediction_type="v_prediction")
    return sd(scheduler=scheduler, dtype=dtype)


def sd_with_text(scheduler: Any = None, *, dtype: torch.dtype | None = None) -> Any:
    """Stable Diffusion that reads: of few words."""
    return sd(scheduler=scheduler, dtype=dtype, text_encoder=clip_encoder(), tokenizer=clip_tokenizer())


def sdxl(kind: str = "", scheduler: Any = None, *, dtype: torch.dtype | None = None, text: bool = False) -> Any:
    """Stable Diffusion XL, which reads with ``text=True``: ``kind`` is ``""``, ``"Img2Img"`` or ``"Inpaint"``."""
    scheduler = scheduler or diffusers.EulerDiscreteScheduler(**STABLE, timestep_spacing="leading")
    encoders = (clip_encoder(8), clip_encoder(8, 16)) if text else (None, None)
    tokenizers = (clip_tokenizer(),) * 2 if text else (None, None)
    kind = f"StableDiffusionXL{kind}Pipeline"
    return finished(getattr(diffusers, kind)(vae(), *encoders, *tokenizers, unet_xl(), scheduler), dtype)


def sdxl_with_text(scheduler: Any = None, *, dtype: torch.dtype | None = None) -> Any:
    """Stable Diffusion XL that reads with two encoders."""
    return sdxl(scheduler=scheduler, dtype=dtype, text=True)


def sd3(kind: str = "", channels: int = 4, scheduler: Any = None, *, dtype: torch.dtype | None = None) -> Any:
    """Stable Diffusion 3: ``kind`` is ``""``, ``"Img2Img"`` or, with 16 ``channels``, ``"Inpaint"``."""
    nothing = dict.fromkeys([f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")])
    pipe = getattr(diffusers, f"StableDiffusion3{kind}Pipeline")(
        transformer=sd3_transformer(channels),
        scheduler=scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=shifted(channels),
        **nothing,
    )
    return finished(pipe, dtype)


def flux(kind: str = "", guidance: bool = False, scheduler: Any = None, *, dtype: torch.dtype | None = None) -> Any:
    """Flux, whose network is told the guidance if wanted: ``kind`` is ``""``, ``"Img2Img"`` or ``"Inpaint"``."""
    scheduler = scheduler or diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    parts = (scheduler, shifted(4), None, None, None, None, flux_transformer(guidance))
    return finished(getattr(diffusers, f"Flux{kind}Pipeline")(*parts), dtype)


def pixart(scheduler: Any = None, *, dtype: torch.dtype | None = None, text: bool = False) -> Any:
    """PixArt-alpha, which reads with ``text=True``."""
    parts = (t5_tokenizer(), t5_encoder()) if text else (None, None)
    scheduler = scheduler or diffusers.DPMSolverMultistepScheduler()
    return finished(diffusers.PixArtAlphaPipeline(*parts, vae(), pixart_transformer(), scheduler), dtype)


def pixart_with_text(scheduler: Any = None, *, dtype: torch.dtype | None = None) -> Any:
    """PixArt-alpha that reads."""
    return pixart(scheduler, dtype=dtype, text=True)


def dit(scheduler: Any = None, *, dtype: torch.dtype | None = None) -> Any:
    """A class-conditional transformer; it returns images."""
    scheduler = scheduler or diffusers.DDIMScheduler(clip_sample=False)
    return finished(diffusers.DiTPipeline(dit_transformer(), vae(), scheduler), dtype)


def wan(scheduler: Any = None, *, dtype: torch.dtype | None = None) -> Any:
    """Video."""
    decoder, transformer = wan_parts()
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    scheduler = scheduler or diffusers.UniPCMultistepScheduler(**flow)
    return finished(diffusers.WanPipeline(None, None, decoder, scheduler, transformer), dtype)


def ddim(*, scheduler: Any = None, dtype: torch.dtype | None = None, **config: Any) -> Any:
    """Unconditional; ``config`` is of its scheduler."""
    return finished(diffusers.DDIMPipeline(unet_plain(), scheduler or diffusers.DDIMScheduler(**config)), dtype)


def ddpm(*, scheduler: Any = None, dtype: torch.dtype | None = None, **config: Any) -> Any:
    """Unconditional, with noise in every step, drawn in float32."""
    return finished(diffusers.DDPMPipeline(unet_plain(), scheduler or diffusers.DDPMScheduler(**config)), dtype)


def digits_pipeline(kind: str = "DDIM", scheduler: Any = None, *, dtype: torch.dtype | None = None) -> Any:
    """The packaged network of digits on the levels of its VP, in a ``"DDIM"`` or ``"DDPM"`` pipeline."""
    config = {"trained_betas": digits_betas(), "clip_sample": False, "timestep_spacing": "trailing"}
    scheduler = scheduler or getattr(diffusers, f"{kind}Scheduler")(**config)
    return finished(getattr(diffusers, f"{kind}Pipeline")(Digits(), scheduler), dtype)


# --- what they run with -----------------------------------------------------------------------------------------------

SIZE: dict[str, Any] = {"height": 16, "width": 16}
IMAGE = (0.5 + 0.2 * noise(3, 1, 3, 16, 16)).clamp(0, 1)
MASK = (noise(4, 1, 1, 16, 16) > 0).float()


def prompts(count: int = 1, pooled: bool = False, negative: bool = True) -> dict[str, Tensor]:
    """Embeddings of prompts."""
    given = {"prompt_embeds": noise(1, count, 5, 16)}
    if pooled:
        given["pooled_prompt_embeds"] = noise(6, count, 16)
    if negative:
        given["negative_prompt_embeds"] = noise(2, count, 5, 16)
        if pooled:
            given["negative_pooled_prompt_embeds"] = noise(7, count, 16)
    return given


TEXT: dict[str, Any] = {**prompts(), "guidance_scale": 3.0}
POOLED: dict[str, Any] = {**prompts(pooled=True), "guidance_scale": 3.0}
FLUX: dict[str, Any] = {**prompts(pooled=True, negative=False), **SIZE}
KEPT: dict[str, Any] = {"image": IMAGE, "mask_image": MASK}


class Tiny(NamedTuple):
    """A pipeline, arguments that it runs with, and changes of these, each of which must matter."""

    make: Callable[..., Any]
    inputs: dict[str, Any]
    others: tuple[dict[str, Any], ...] = ()


LATENT: dict[str, Any] = {"num_inference_steps": 10, "output_type": "latent", "guidance_scale": 5.0}
ARRAY: dict[str, Any] = {"num_inference_steps": 10, "output_type": "pt"}
PROMPT: dict[str, Any] = {"prompt_embeds": noise(9, 1, 5, 16)}
NEGATIVE: dict[str, Any] = {"negative_prompt_embeds": noise(8, 1, 5, 16)}
OTHER_IMAGE: dict[str, Any] = {"image": (noise(5, *IMAGE.shape) > 0).float()}
OTHER_MASK: dict[str, Any] = {"mask_image": 1 - MASK}

_text = {**TEXT, **LATENT}
_pooled = {**POOLED, **LATENT}
_flux = {**FLUX, **LATENT}
_from_image = {"image": IMAGE, "strength": 0.6}
_words = {"prompt": "a photo of a cat", **SIZE, **LATENT}
_masks = {"prompt_attention_mask": torch.ones(1, 5), "negative_prompt_attention_mask": torch.ones(1, 5)}
_pixart = {**SIZE, **LATENT, "negative_prompt": None, "use_resolution_binning": False}
_prompts, _dog = (PROMPT, NEGATIVE), ({"prompt": "a photo of a dog"},)
_image, _inpaint = (*_prompts, OTHER_IMAGE), (*_prompts, OTHER_IMAGE, OTHER_MASK)

PIPELINES: dict[str, Tiny] = {
    "sd": Tiny(sd, {**_text, **SIZE}, _prompts),
    "sd v": Tiny(sd_v, {**_text, **SIZE}, _prompts),
    "sd text": Tiny(sd_with_text, _words, _dog),
    "sd img2img": Tiny(partial(sd, "Img2Img"), {**_text, **_from_image}, _image),
    "sd inpaint": Tiny(partial(sd, "Inpaint"), {**_text, **SIZE, **KEPT, "strength": 0.6}, _inpaint),
    "sd inpaint 9": Tiny(
        lambda *a, **k: sd("Inpaint", *a, network=unet(9), **k), {**_text, **SIZE, **KEPT, "strength": 1.0}, _inpaint
    ),
    "sd controlnet": Tiny(partial(sd, "ControlNet"), {**_text, **SIZE, "image": IMAGE}, _image),
    "sd controlnet img2img": Tiny(
        partial(sd, "ControlNetImg2Img"),
        {**_text, **_from_image, "control_image": IMAGE},
        (*_image, {"control_image": OTHER_IMAGE["image"]}),
    ),
    "sdxl": Tiny(sdxl, {**_pooled, **SIZE}, _prompts),
    "sdxl text": Tiny(sdxl_with_text, _words, _dog),
    "sdxl img2img": Tiny(partial(sdxl, "Img2Img"), {**_pooled, **_from_image}, _image),
    "sdxl inpaint": Tiny(partial(sdxl, "Inpaint"), {**_pooled, **SIZE, **KEPT, "strength": 0.8}, _inpaint),
    "sd3": Tiny(sd3, {**_pooled, **SIZE}, _prompts),
    "sd3 img2img": Tiny(partial(sd3, "Img2Img"), {**_pooled, **SIZE, **_from_image}, _image),
    "sd3 inpaint": Tiny(partial(sd3, "Inpaint", 16), {**_pooled, **SIZE, **KEPT, "strength": 0.8}, _inpaint),
    "flux": Tiny(flux, _flux, (PROMPT,)),
    "flux guidance": Tiny(partial(flux, guidance=True), _flux, (PROMPT, {"guidance_scale": 1.0})),
    "flux true cfg": Tiny(flux, {**_flux, **prompts(pooled=True), "true_cfg_scale": 5.0}, _prompts),
    "flux img2img": Tiny(partial(flux, "Img2Img"), {**_flux, **_from_image}, (PROMPT, OTHER_IMAGE)),
    "flux inpaint": Tiny(
        partial(flux, "Inpaint"), {**_flux, **KEPT, "strength": 0.8}, (PROMPT, OTHER_IMAGE, OTHER_MASK)
    ),
    "pixart": Tiny(pixart, {**TEXT, **_masks, **_pixart}, _prompts),
    "pixart text": Tiny(
        pixart_with_text,
        {**_words, **_pixart, "negative_prompt": "", "clean_caption": False, "max_sequence_length": 8},
        _dog,
    ),
    "dit": Tiny(dit, {**ARRAY, "class_labels": [3, 900], "guidance_scale": 5.0}, ({"class_labels": [4, 20]},)),
    "wan": Tiny(wan, {**_text, **SIZE, "num_frames": 5}, _prompts),
    "ddim": Tiny(partial(ddim, clip_sample=False), {**ARRAY, "batch_size": 2}),
    "ddpm": Tiny(ddpm, {**ARRAY, "batch_size": 2}),
    "digits ddim": Tiny(digits_pipeline, {**ARRAY, "batch_size": 2}),
    "digits ddpm": Tiny(partial(digits_pipeline, "DDPM"), {**ARRAY, "batch_size": 2}),
}
"""All of them, each with arguments for ten steps."""
