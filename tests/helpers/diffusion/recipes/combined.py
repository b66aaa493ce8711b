"""Pipelines of several parts: a prior, and a decoder that is told what the prior has made."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from diffusion.networks import clip_encoder, clip_tokenizer, made, noise, transformers
from diffusion.recipes._parts import IMAGE, MASK, STEP, STEPS, Part, Recipe, scheduler, text, tiny
from diffusion.recipes.stable import EMBEDDED, KANDINSKY
from torch import Tensor

PROMPT = "a photo of a cat"
BOTH = {"prior_num_inference_steps": 4, "num_inference_steps": STEPS, "output_type": "latent"}


@cache
def clip_image_encoder() -> Any:
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=16,
    )
    return made(lambda: transformers.CLIPVisionModelWithProjection(config))


def image_processor() -> Any:
    return transformers.CLIPImageProcessor(size=8, crop_size={"height": 8, "width": 8})


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
    from diffusion.recipes.stable import KANDINSKY_UNET

    return tiny("UNet2DConditionModel", **{**KANDINSKY_UNET, "addition_embed_type": "image_hint"}, in_channels=8)()


@cache
def _masked() -> Any:
    from diffusion.recipes.stable import KANDINSKY_UNET

    return tiny("UNet2DConditionModel", **KANDINSKY_UNET, in_channels=9)()


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
    "KandinskyV22ControlnetPipeline": Recipe({**KANDINSKY, "unet": _hinted}, {**TOLD, "hint": noise(10, 1, 3, 64, 64), "output_type": "pt"}),
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
