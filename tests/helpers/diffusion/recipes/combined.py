"""Pipelines of several parts: a prior, and a decoder that is told what the prior has made."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from diffusion.networks import clip_encoder, clip_tokenizer, made, noise
from diffusion.recipes._parts import (
    IMAGE,
    MASK,
    STEP,
    STEPS,
    Part,
    Recipe,
    clip_image_encoder,
    image_processor,
    scheduler,
    text,
    tiny,
)
from diffusion.recipes.stable import EMBEDDED, KANDINSKY, KANDINSKY_UNET
from torch import Tensor

PROMPT = "a photo of a cat"
BOTH = {"prior_num_inference_steps": 4, "num_inference_steps": STEPS, "output_type": "latent"}


def encoder() -> Any:
    return clip_encoder(16, 16)


# --- Kandinsky 2.2 ---
PRIOR: dict[str, Any] = {
    "prior_prior": tiny(
        "PriorTransformer",
        num_attention_heads=2,
        attention_head_dim=8,
        embedding_dim=16,
        num_embeddings=8,
        num_layers=1,
    ),
    "prior_image_encoder": clip_image_encoder,
    "prior_text_encoder": encoder,
    "prior_tokenizer": clip_tokenizer,
    "prior_scheduler": scheduler("UnCLIP", variance_type="fixed_small_log", prediction_type="sample"),
    "prior_image_processor": image_processor,
}
_WIDE = {"height": 16, "width": 16}
TOLD = {**EMBEDDED, **_WIDE}


def _with_steps(pipe: Any) -> None:
    pipe.decoder_pipe.set_progress_bar_config(disable=True)
    pipe.prior_pipe.set_progress_bar_config(disable=True)


def _hinted() -> Any:
    return tiny("UNet2DConditionModel", **{**KANDINSKY_UNET, "addition_embed_type": "image_hint"}, in_channels=8)()


@cache
def _masked() -> Any:
    return tiny("UNet2DConditionModel", **KANDINSKY_UNET, in_channels=9)()


# --- Kandinsky 2.1 ---
class _Told(Part):
    """Stands in for an encoder of text: a pooled state, and one for each word."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        states = torch.sin(input_ids[:, :5, None] * torch.arange(1, 17) + 1.0)
        return states.mean(1), states


KANDINSKY_1: dict[str, Any] = {
    **KANDINSKY,
    "unet": tiny(
        "UNet2DConditionModel",
        **{**KANDINSKY_UNET, "addition_embed_type": "text_image", "encoder_hid_dim_type": "text_image_proj"},
        addition_embed_type_num_heads=2,
        in_channels=4,
    ),
    "text_encoder": _Told,
    "tokenizer": clip_tokenizer,
}
SAID = {"prompt": PROMPT, "num_inference_steps": STEPS, "output_type": "pt", **_WIDE}

# --- Stable Cascade and Wuerstchen ---
_RES, _TIME, _ATTENTION = "SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"
CASCADE_PRIOR = tiny(
    "StableCascadeUNet",
    conditioning_dim=16,
    timestep_ratio_embedding_dim=16,
    block_out_channels=(16, 16),
    num_attention_heads=(2, 2),
    down_num_layers_per_block=(1, 1),
    up_num_layers_per_block=(1, 1),
    switch_level=(False,),
    clip_image_in_channels=16,
    clip_text_in_channels=16,
    clip_text_pooled_in_channels=16,
    dropout=(0.1, 0.1),
)
CASCADE_DECODER = tiny(
    "StableCascadeUNet",
    in_channels=4,
    out_channels=4,
    conditioning_dim=16,
    timestep_ratio_embedding_dim=16,
    block_out_channels=(16, 16),
    num_attention_heads=(-1, 2),
    down_num_layers_per_block=(1, 1),
    up_num_layers_per_block=(1, 1),
    down_blocks_repeat_mappers=(1, 1),
    up_blocks_repeat_mappers=(1, 1),
    block_types_per_layer=((_RES, _TIME), (_RES, _TIME, _ATTENTION)),
    clip_text_pooled_in_channels=16,
    effnet_in_channels=16,
    dropout=(0.1, 0.1),
)


@cache
def wuerstchen_prior() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import WuerstchenPrior

    divides = {"out.1": 0.2}  # by 1 - b, which must not come near zero
    return made(WuerstchenPrior, gains=divides, c_in=4, c=16, c_cond=16, c_r=16, depth=2, nhead=2)


CONTINUOUS = scheduler("DDPMWuerstchen")


class _Pixels(Part):
    """Stands in for the decoder of latents."""

    def __init__(self) -> None:
        super().__init__(scale_factor=0.5)

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=latents[:, :3])


CASCADE_TEXT = {
    "prompt_embeds": noise(1, 1, 5, 16),
    "prompt_embeds_pooled": noise(2, 1, 1, 16),
    "negative_prompt_embeds": noise(3, 1, 5, 16),
    "negative_prompt_embeds_pooled": noise(4, 1, 1, 16),
}
CASCADE = {
    "prior_prior": CASCADE_PRIOR,
    "prior_scheduler": CONTINUOUS,
    "prior_tokenizer": clip_tokenizer,
    "prior_text_encoder": encoder,
    "decoder": CASCADE_DECODER,
    "scheduler": CONTINUOUS,
    "vqgan": _Pixels,
    "tokenizer": clip_tokenizer,
    "text_encoder": encoder,
}

RECIPES: dict[str, Recipe] = {
    "KandinskyV22CombinedPipeline": Recipe(
        {**KANDINSKY, **PRIOR}, {"prompt": PROMPT, **BOTH, **_WIDE}, prepare=_with_steps
    ),
    "KandinskyV22Img2ImgCombinedPipeline": Recipe(
        {**KANDINSKY, **PRIOR},
        {"prompt": PROMPT, **BOTH, **_WIDE, "image": 2 * IMAGE - 1, "strength": 0.8},
        prepare=_with_steps,
    ),
    "KandinskyV22InpaintCombinedPipeline": Recipe(
        {**KANDINSKY, **PRIOR, "unet": _masked},
        {
            "prompt": PROMPT,
            **BOTH,
            **_WIDE,
            "image": 2 * IMAGE - 1,
            "mask_image": MASK,
        },
        prepare=_with_steps,
    ),
    "KandinskyV22InpaintPipeline": Recipe(
        {**KANDINSKY, "unet": _masked},
        {**TOLD, "image": 2 * IMAGE - 1, "mask_image": MASK},
    ),
    "KandinskyV22ControlnetPipeline": Recipe(
        {**KANDINSKY, "unet": _hinted}, {**TOLD, "hint": noise(10, 1, 3, 64, 64), "output_type": "pt"}
    ),
    "KandinskyV22ControlnetImg2ImgPipeline": Recipe(
        {**KANDINSKY, "unet": _hinted},
        {
            **TOLD,
            "hint": noise(10, 1, 3, 64, 64),
            "output_type": "pt",
            "image": 2 * IMAGE - 1,
            "strength": 0.8,
        },
    ),
    "KandinskyPipeline": Recipe(
        KANDINSKY_1, {**SAID, "image_embeds": noise(8, 1, 16), "negative_image_embeds": noise(9, 1, 16)}
    ),
    "KandinskyImg2ImgPipeline": Recipe(
        KANDINSKY_1,
        {
            **SAID,
            "image_embeds": noise(8, 1, 16),
            "negative_image_embeds": noise(9, 1, 16),
            "image": 2 * IMAGE - 1,
            "strength": 0.8,
        },
    ),
    "KandinskyCombinedPipeline": Recipe(
        {**KANDINSKY_1, **PRIOR}, {**SAID, "prior_num_inference_steps": 4}, prepare=_with_steps
    ),
    "StableCascadePriorPipeline": Recipe(
        {"prior": CASCADE_PRIOR, "scheduler": CONTINUOUS, "text_encoder": encoder},
        {**CASCADE_TEXT, **STEP, "height": 256, "width": 256, "guidance_scale": 4.0},
    ),
    "StableCascadeDecoderPipeline": Recipe(
        {"decoder": CASCADE_DECODER, "scheduler": CONTINUOUS, "vqgan": _Pixels, "text_encoder": encoder},
        {
            **CASCADE_TEXT,
            **STEP,
            "image_embeddings": noise(5, 1, 16, 4, 4),
            "guidance_scale": 2.0,
            "output_type": "latent",
        },
    ),
    "StableCascadeCombinedPipeline": Recipe(
        CASCADE,
        {**CASCADE_TEXT, **BOTH, "height": 256, "width": 256, "decoder_guidance_scale": 2.0},
        prepare=_with_steps,
    ),
    "WuerstchenPriorPipeline": Recipe(
        {"prior": wuerstchen_prior, "scheduler": CONTINUOUS, "text_encoder": encoder},
        {**text(), **STEP, "height": 256, "width": 256, "guidance_scale": 4.0},
    ),
}
