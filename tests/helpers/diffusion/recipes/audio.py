"""Pipelines of sound and music: spectrograms in latents, or waves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusion.networks import SMALL, noise
from diffusion.recipes._parts import STEP, Part, Recipe, scheduler, text, tiny
from diffusion.recipes.stable import DDIM
from torch import Tensor, nn


class _Vocoder(Part):
    """Stands in for what makes a wave of a spectrogram."""

    def __init__(self) -> None:
        super().__init__(upsample_rates=[2], sampling_rate=64, model_in_dim=8)

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 1).mean(-1)


class _Text(Part):
    """Stands in for an encoder of text, which only says its precision."""

    @property
    def text_model(self) -> Any:
        return self


class _Spectra(Part):
    """Stands in for the decoder of spectrograms, of one channel."""

    def __init__(self) -> None:
        super().__init__(scaling_factor=0.5, block_out_channels=(4, 4), latent_channels=4)

    def decode(self, z: Tensor) -> Any:
        return SimpleNamespace(sample=nn.functional.interpolate(z[:, :1], scale_factor=2))


_AUDIO = {**STEP, "audio_length_in_s": 0.5, "guidance_scale": 2.5}
AUDIO: dict[str, Any] = {
    "vae": _Spectra,
    "vocoder": _Vocoder,
    "text_encoder": _Text,
    "scheduler": DDIM,
    "unet": tiny(
        "UNet2DConditionModel",
        sample_size=(8, 4),
        in_channels=4,
        out_channels=4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=16,
        class_embeddings_concat=True,
        **{**SMALL, "cross_attention_dim": (16, 32)},
    ),
}
_SEEN = {"cross_attention_dim": ([None, 16, 16], [None, 16, 16])}


class _Wave(Part):
    """Stands in for the coder of waves."""

    def __init__(self) -> None:
        super().__init__(sampling_rate=64, audio_channels=2)
        self.hop_length = 4

    def decode(self, z: Tensor) -> Any:
        return SimpleNamespace(sample=z[:, :2].repeat_interleave(4, -1))


RECIPES: dict[str, Recipe] = {
    "AudioLDMPipeline": Recipe(
        AUDIO, {**_AUDIO, "prompt_embeds": noise(1, 1, 16), "negative_prompt_embeds": noise(2, 1, 16)}
    ),
    "MusicLDMPipeline": Recipe(
        AUDIO, {**_AUDIO, "prompt_embeds": noise(1, 1, 16), "negative_prompt_embeds": noise(2, 1, 16)}
    ),
    "AudioLDM2Pipeline": Recipe(
        {
            **AUDIO,
            "text_encoder_2": lambda: Part(model_type="t5"),
            "projection_model": Part,
            "language_model": Part,
            "unet": tiny(
                "AudioLDM2UNet2DConditionModel",
                sample_size=8,
                in_channels=4,
                out_channels=4,
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                **{**SMALL, **_SEEN},
            ),
        },
        {
            **_AUDIO,
            **text(),
            "generated_prompt_embeds": noise(3, 1, 8, 16),
            "negative_generated_prompt_embeds": noise(4, 1, 8, 16),
            "attention_mask": torch.ones(1, 5, dtype=torch.long),
            "negative_attention_mask": torch.ones(1, 5, dtype=torch.long),
            "output_type": "latent",
        },
    ),
    "StableAudioPipeline": Recipe(
        {
            "vae": _Wave,
            "projection_model": tiny(
                "StableAudioProjectionModel", text_encoder_dim=16, conditioning_dim=16, min_value=0, max_value=32
            ),
            "transformer": tiny(
                "StableAudioDiTModel",
                sample_size=8,
                in_channels=3,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                num_key_value_attention_heads=2,
                out_channels=3,
                cross_attention_dim=16,
                time_proj_dim=8,
                global_states_input_dim=32,
                cross_attention_input_dim=16,
            ),
            "scheduler": scheduler("CosineDPMSolverMultistep", solver_order=2, prediction_type="v_prediction"),
        },
        {**text(), **STEP, "output_type": "latent", "guidance_scale": 4.0},
    ),
    "DanceDiffusionPipeline": Recipe(
        {
            "unet": tiny(
                "UNet1DModel",
                sample_size=64,
                sample_rate=64,
                in_channels=2,
                out_channels=2,
                block_out_channels=(32, 32),
                extra_in_channels=64,
                flip_sin_to_cos=True,
                use_timestep_embedding=False,
                time_embedding_type="fourier",
                mid_block_type="UNetMidBlock1D",
                down_block_types=("DownBlock1DNoSkip", "AttnDownBlock1D"),
                up_block_types=("AttnUpBlock1D", "UpBlock1DNoSkip"),
            ),
            "scheduler": scheduler("IPNDM"),
        },
        {**STEP, "audio_length_in_s": 1.0},
    ),
}
