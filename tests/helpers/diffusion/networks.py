"""Tiny networks of diffusers and text encoders of transformers, with random weights and without downloads."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import diffusion_adapters as da

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
logging.getLogger("transformers").setLevel(logging.CRITICAL)  # it misses packages that are not needed here

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
    from diffusers.configuration_utils import register_to_config
    from diffusers.models.unets.unet_2d import UNet2DOutput

diffusers.utils.logging.set_verbosity(logging.ERROR)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(kind: Callable[..., Any], seed: int = 0, gains: dict[str, float] | None = None, **config: Any) -> Any:
    """A network in which every parameter matters: some are zero when new. The global generator is left alone.

    ``gains`` multiply the weights whose names contain the key: where a prompt would hardly matter otherwise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = kind(**config).eval()
        for name, parameter in network.named_parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
            for part, gain in (gains or {}).items():
                parameter.data *= gain if part in name else 1.0
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
    config = {"in_channels": 4, "conditioning_embedding_out_channels": (8, 16), **SMALL}
    return made(ControlNetModel, gains={"cond_embedding": 2.0, "controlnet_": 2.0}, **config)


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
        gains={"attn.add_": 4.0, "attn.to_out": 4.0},
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
        gains={"attn.add_": 2.0, "attn.to_out": 2.0},
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


@cache
def digits_model() -> Any:
    with torch.random.fork_rng(devices=[]):  # loading draws weights before it reads them
        return da.load_digits()


class Digits(diffusers.ModelMixin, diffusers.ConfigMixin):
    """The packaged network of digits as a U-Net of diffusers. Timestep i of 1000 is the time (i + 1)/1000 of its VP."""

    @register_to_config
    def __init__(self, sample_size: int = 8, in_channels: int = 1) -> None:
        super().__init__()
        self.network = digits_model().network

    def forward(
        self, sample: Tensor, timestep: Any, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> Any:
        time = (torch.as_tensor(timestep, dtype=torch.float32, device=sample.device) + 1) / 1000
        noise = self.network(sample, time, class_labels)
        return UNet2DOutput(noise) if return_dict else (noise,)


def digits_betas() -> list[float]:
    """The betas with which a scheduler has exactly the levels of the packaged network's VP at those times."""
    kept = digits_model().noise_schedule.alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000) ** 2
    return (1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])).tolist()


# --- text ---------------------------------------------------------------------------------------------------------


@cache
def clip_tokenizer() -> Any:
    """It knows five words, and spells the others as far as it has the letters."""
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "cat</w>", "dog</w>", "photo</w>", "of</w>"]
    letters = [letter + end for letter in "acdfghoptu" for end in ("", "</w>")]
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("o", "f</w>")]
    merges += [("p", "h"), ("o", "t"), ("ph", "ot"), ("phot", "o</w>")]
    vocabulary = {word: i for i, word in enumerate([*words, *letters, "ca", "do", "ph", "ot", "phot"])}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=8)


@cache
def clip_encoder(width: int = 16, projection: int | None = None) -> Any:
    """States of the given width; with ``projection``, pooled ones of that width too."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(clip_tokenizer()),
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        **({"projection_dim": projection} if projection else {}),
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return made(lambda: kind(config))


@cache
def t5_tokenizer() -> Any:
    pieces = ["<pad>", "</s>", "<unk>", "▁a", "▁cat", "▁dog", "▁photo", "▁of", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    return transformers.T5Tokenizer(vocab=[(piece, -float(i)) for i, piece in enumerate(pieces)], extra_ids=0)


@cache
def t5_encoder(width: int = 16) -> Any:
    config = transformers.T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        tie_word_embeddings=True,
    )
    return made(lambda: transformers.T5EncoderModel(config))
