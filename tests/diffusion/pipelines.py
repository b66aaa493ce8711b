"""Tiny pipelines of diffusers with random weights, built without downloads, and the arguments that they run with."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
logging.getLogger("transformers").setLevel(logging.CRITICAL)  # of a package that is not needed here

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their own imports
    import diffusers
    import transformers
    from diffusers import (
        AutoencoderKL,
        AutoencoderKLWan,
        ControlNetModel,
        DiTTransformer2DModel,
        FluxTransformer2DModel,
        PixArtTransformer2DModel,
        SD3Transformer2DModel,
        UNet2DConditionModel,
        UNet2DModel,
        WanTransformer3DModel,
    )

diffusers.utils.logging.set_verbosity(logging.ERROR)

STABLE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
"""The noise schedule of Stable Diffusion."""


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(kind: Callable[..., Any], seed: int = 0, **config: Any) -> Any:
    """A network in which every parameter matters: some are zero when new. The global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: nn.Module = kind(**config).eval()
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
            parameter.requires_grad_(False)
    return network


SMALL: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
    "norm_num_groups": 8,
}


@cache
def unet(channels: int = 4, **more: Any) -> Any:
    up = ("UpBlock2D", "CrossAttnUpBlock2D")
    config = {"sample_size": 8, "in_channels": channels, "out_channels": 4, "up_block_types": up, **SMALL, **more}
    return made(UNet2DConditionModel, **config)


@cache
def vae(channels: int = 4, **more: Any) -> Any:
    return made(
        AutoencoderKL,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=channels,
        **more,
    )


def shifted(channels: int) -> Any:
    return vae(channels, shift_factor=0.1, scaling_factor=1.0)


@cache
def unet_xl() -> Any:
    return unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 16,
        transformer_layers_per_block=1,
        use_linear_projection=True,
    )


@cache
def controlnet() -> Any:
    return made(ControlNetModel, in_channels=4, conditioning_embedding_out_channels=(8, 16), **SMALL)


@cache
def sd3_transformer(channels: int) -> Any:
    return made(
        SD3Transformer2DModel,
        sample_size=8,
        patch_size=1,
        in_channels=channels,
        out_channels=channels,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
    )


@cache
def flux_transformer(guidance: bool) -> Any:
    return made(
        FluxTransformer2DModel,
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance,
    )


PATCHES: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 1,
    "sample_size": 8,
    "patch_size": 2,
    "norm_num_groups": 4,
}


@cache
def pixart_transformer() -> Any:
    return made(PixArtTransformer2DModel, cross_attention_dim=16, caption_channels=16, **PATCHES)


@cache
def dit_transformer() -> Any:
    return made(DiTTransformer2DModel, num_embeds_ada_norm=1000, **PATCHES)


@cache
def wan_parts() -> tuple[Any, Any]:
    decoder = made(
        AutoencoderKLWan,
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    transformer = made(
        WanTransformer3DModel,
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    return decoder, transformer


@cache
def unet_plain() -> Any:
    return made(
        UNet2DModel,
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        layers_per_block=1,
    )


# --- pipelines ------------------------------------------------------------------------------------------------------


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd(kind: str = "", scheduler: Any = None, network: Any = None, **more: Any) -> Any:
    """Stable Diffusion, of the ``kind`` ``""``, ``"Img2Img"``, ``"Inpaint"`` or ``"ControlNet"``."""
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
    return quiet(getattr(diffusers, f"StableDiffusion{kind}Pipeline")(**parts))


def sdxl(kind: str = "") -> Any:
    scheduler = diffusers.EulerDiscreteScheduler(**STABLE, timestep_spacing="leading")
    return quiet(
        getattr(diffusers, f"StableDiffusionXL{kind}Pipeline")(vae(), None, None, None, None, unet_xl(), scheduler)
    )


def sd3(kind: str = "", channels: int = 4) -> Any:
    nothing = dict.fromkeys([f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")])
    return quiet(
        getattr(diffusers, f"StableDiffusion3{kind}Pipeline")(
            transformer=sd3_transformer(channels),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=shifted(channels),
            **nothing,
        )
    )


def flux(kind: str = "", guidance: bool = False) -> Any:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    network = flux_transformer(guidance)
    return quiet(getattr(diffusers, f"Flux{kind}Pipeline")(scheduler, shifted(4), None, None, None, None, network))


def pixart() -> Any:
    scheduler = diffusers.DPMSolverMultistepScheduler()
    return quiet(diffusers.PixArtAlphaPipeline(None, None, vae(), pixart_transformer(), scheduler))


def dit(scheduler: Any = None) -> Any:
    scheduler = scheduler or diffusers.DDIMScheduler(clip_sample=False)
    return quiet(diffusers.DiTPipeline(dit_transformer(), vae(), scheduler))


def wan() -> Any:
    decoder, transformer = wan_parts()
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return quiet(diffusers.WanPipeline(None, None, decoder, diffusers.UniPCMultistepScheduler(**flow), transformer))


def ddim(**config: Any) -> Any:
    return quiet(diffusers.DDIMPipeline(unet_plain(), diffusers.DDIMScheduler(**config)))


def ddpm(**config: Any) -> Any:
    return quiet(diffusers.DDPMPipeline(unet_plain(), diffusers.DDPMScheduler(**config)))


def sd_with_text() -> Any:
    """Stable Diffusion that reads: of few words."""
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "cat</w>", "dog</w>", "photo</w>", "of</w>"]
    letters = [letter + end for letter in "acdfghoptu" for end in ("", "</w>")]
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("o", "f</w>")]
    vocabulary = {word: i for i, word in enumerate([*words, *letters, "ca", "do"])}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=8)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
    )
    encoder = made(lambda: transformers.CLIPTextModel(config))
    return sd(text_encoder=encoder, tokenizer=tokenizer)


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
