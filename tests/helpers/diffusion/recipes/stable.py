"""Stable Diffusion and its kin: U-Nets on latents, told a text."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusion.networks import SMALL, clip_encoder, clip_tokenizer, controlnet, noise, unet, unet_xl, vae
from diffusion.recipes._parts import (
    IMAGE,
    LATENT,
    MASK,
    POOLED,
    SIZE,
    Part,
    Recipe,
    clip_image_encoder,
    coder,
    image_processor,
    scheduler,
    text,
    tiny,
)
from torch import Tensor

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DPM = scheduler("DPMSolverMultistep", **BETAS)
DDIM = scheduler("DDIM", **BETAS, clip_sample=False, steps_offset=1)
EULER = scheduler("EulerDiscrete", **BETAS, steps_offset=1)
SD: dict[str, Any] = {"vae": vae, "unet": unet, "scheduler": DPM, "requires_safety_checker": False}
FEW = {key: part for key, part in SD.items() if key != "requires_safety_checker"}
READS = {"text_encoder": clip_encoder, "tokenizer": clip_tokenizer}
XL: dict[str, Any] = {"vae": vae, "unet": unet_xl, "scheduler": EULER}
TEXT = {**text(), **LATENT}
CLIP = {"prompt": "a photo of a cat", **LATENT}
BOTH = {**POOLED, **LATENT}
FROM = {"image": IMAGE, "strength": 0.8}
KEPT = {"image": IMAGE, "mask_image": MASK, **SIZE}


SIX = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "in_channels": 6,
    "out_channels": 6,
}


@cache
def unet_of(channels: int, **more: Any) -> Any:
    return lambda: unet(channels, **more)


CONTROL_XL = tiny(
    "ControlNetModel",
    in_channels=4,
    conditioning_embedding_out_channels=(8, 16),
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=8 * 6 + 16,
    transformer_layers_per_block=1,
    use_linear_projection=True,
    gains={"cond_embedding": 2.0, "controlnet_": 2.0},
    **SMALL,
)
UNION = tiny(
    "ControlNetUnionModel",
    in_channels=4,
    conditioning_embedding_out_channels=(8, 16),
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=8 * 6 + 16,
    transformer_layers_per_block=1,
    use_linear_projection=True,
    num_trans_channel=16,
    num_trans_head=2,
    num_trans_layer=1,
    num_proj_channel=16,
    num_control_type=6,
    gains={"cond_embedding": 2.0, "controlnet_": 2.0},
    **SMALL,
)
ADAPTER = tiny("T2IAdapter", in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=2)
ADAPTER_XL = ADAPTER

# --- pixels: DeepFloyd IF ---
_if = {
    "sample_size": 8,
    "out_channels": 6,
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "encoder_hid_dim": 16,
    **SMALL,
}
IF: dict[str, Any] = {
    "unet": tiny("UNet2DConditionModel", **_if, in_channels=3),
    "scheduler": scheduler("DDPM", beta_schedule="squaredcos_cap_v2", clip_sample=False, thresholding=True),
    "requires_safety_checker": False,
}
IF_LARGE = {
    **IF,
    "unet": tiny("UNet2DConditionModel", **_if, in_channels=6, num_class_embeds=1000),
    "image_noising_scheduler": scheduler("DDPM", beta_schedule="squaredcos_cap_v2"),
}
PIXELS = {**text(), **LATENT, "output_type": "np"}
SMALL_IMAGE = 2 * IMAGE[..., :8, :8] - 1
IF_FROM = {"image": 2 * IMAGE - 1, "strength": 0.8}

# --- Kandinsky ---
KANDINSKY_UNET = {
    "sample_size": 8,
    "out_channels": 8,
    "addition_embed_type": "image",
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "encoder_hid_dim": 16,
    "encoder_hid_dim_type": "image_proj",
    "cross_attention_dim": 16,
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "scale_shift",
    "class_embed_type": None,
    "norm_num_groups": 8,
}
KANDINSKY: dict[str, Any] = {
    "unet": tiny("UNet2DConditionModel", **KANDINSKY_UNET, in_channels=4),
    "scheduler": scheduler("DDIM", **BETAS, clip_sample=False, steps_offset=1, prediction_type="epsilon"),
    "movq": coder(4, 2),
}
EMBEDDED = {
    "image_embeds": noise(8, 1, 16),
    "negative_image_embeds": noise(9, 1, 16),
    **LATENT,
    "height": 64,
    "width": 64,
}
LARGE = {"image": (2 * IMAGE - 1).repeat(1, 1, 4, 4)}


class Words(Part):
    """Stands in for an encoder of text."""

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        return (torch.sin(ids[:, :5, None] * torch.arange(1, 17) + 1.0),)


RECIPES: dict[str, Recipe] = {
    "IFPipeline": Recipe(IF, {**PIXELS, "height": 8, "width": 8}),
    "IFImg2ImgPipeline": Recipe(IF, {**PIXELS, **IF_FROM}),
    "IFInpaintingPipeline": Recipe(IF, {**PIXELS, **IF_FROM, "mask_image": MASK}),
    "IFSuperResolutionPipeline": Recipe(IF_LARGE, {**PIXELS, "image": SMALL_IMAGE, **SIZE}),
    "IFImg2ImgSuperResolutionPipeline": Recipe(
        IF_LARGE, {**PIXELS, "image": SMALL_IMAGE, "original_image": 2 * IMAGE - 1, "strength": 0.8}
    ),
    "IFInpaintingSuperResolutionPipeline": Recipe(
        IF_LARGE,
        {**PIXELS, "image": SMALL_IMAGE, "original_image": 2 * IMAGE - 1, "mask_image": MASK, "strength": 0.8},
    ),
    "KandinskyV22Pipeline": Recipe(KANDINSKY, EMBEDDED),
    "KandinskyV22Img2ImgPipeline": Recipe(KANDINSKY, {**EMBEDDED, **LARGE, "strength": 0.8}),
    "StableDiffusionPipeline": Recipe(SD, {**TEXT, **SIZE}),
    "StableDiffusionPipeline, text": Recipe({**SD, **READS}, {**CLIP, **SIZE}),
    "StableDiffusionImg2ImgPipeline": Recipe(SD, {**TEXT, **FROM}),
    "StableDiffusionInpaintPipeline": Recipe(SD, {**TEXT, **KEPT}),
    "StableDiffusionInpaintPipeline, 9 channels": Recipe({**SD, "unet": unet_of(9)}, {**TEXT, **KEPT, "strength": 1.0}),
    "StableDiffusionInpaintPipelineLegacy": Recipe(SD, {**TEXT, "image": IMAGE, "mask_image": MASK}),
    "StableDiffusionControlNetPipeline": Recipe({**SD, "controlnet": controlnet}, {**TEXT, "image": IMAGE, **SIZE}),
    "StableDiffusionControlNetPipeline, in part": Recipe(
        {**SD, "controlnet": controlnet}, {**TEXT, "image": IMAGE, **SIZE, "control_guidance_end": 0.5}
    ),
    "StableDiffusionControlNetImg2ImgPipeline": Recipe(
        {**SD, "controlnet": controlnet}, {**TEXT, **FROM, "control_image": IMAGE}
    ),
    "StableDiffusionControlNetInpaintPipeline": Recipe(
        {**SD, "controlnet": controlnet}, {**TEXT, **KEPT, "control_image": IMAGE, "strength": 0.8}
    ),
    "StableDiffusionDepth2ImgPipeline": Recipe(
        {**FEW, "unet": unet_of(5)}, {**TEXT, **FROM, "depth_map": noise(5, 1, 16, 16)}
    ),
    "StableDiffusionInstructPix2PixPipeline": Recipe(
        {**SD, "unet": unet_of(8)}, {**TEXT, "image": IMAGE, "image_guidance_scale": 1.5}
    ),
    "StableDiffusionImageVariationPipeline": Recipe(
        {**SD, "image_encoder": clip_image_encoder, "feature_extractor": image_processor},
        {**LATENT, **SIZE, "image": noise(7, 1, 3, 8, 8)},
    ),
    "StableDiffusionGLIGENPipeline": Recipe(
        {**SD, **READS, "unet": unet_of(4, attention_type="gated")},
        {**CLIP, **SIZE, "gligen_phrases": ["a cat"], "gligen_boxes": [[0.1, 0.2, 0.7, 0.8]]},
    ),
    "LDMTextToImagePipeline": Recipe(
        {
            "vqvae": vae,
            "unet": unet,
            "scheduler": DDIM,
            "bert": lambda: Words(),
            "tokenizer": clip_tokenizer,
        },
        {**SIZE, "prompt": "a cat", "num_inference_steps": 8, "guidance_scale": 4.0, "output_type": "np"},
    ),
    "StableDiffusionLDM3DPipeline": Recipe(
        {**SD, "vae": tiny("AutoencoderKL", **SIX)}, {**TEXT, **SIZE, "output_type": "np"}, result="depth"
    ),
    "StableDiffusionModelEditingPipeline": Recipe({**FEW, **READS}, {**CLIP, **SIZE}),
    "StableDiffusionPAGPipeline": Recipe({**FEW, "pag_applied_layers": "mid"}, {**TEXT, **SIZE}),
    "StableDiffusionPAGImg2ImgPipeline": Recipe({**FEW, "pag_applied_layers": "mid"}, {**TEXT, **FROM}),
    "StableDiffusionPAGInpaintPipeline": Recipe({**FEW, "pag_applied_layers": "mid"}, {**TEXT, **KEPT}),
    "StableDiffusionControlNetPAGPipeline": Recipe(
        {**FEW, "controlnet": controlnet, "pag_applied_layers": "mid"}, {**TEXT, "image": IMAGE, **SIZE}
    ),
    "StableDiffusionControlNetPAGInpaintPipeline": Recipe(
        {**FEW, "controlnet": controlnet, "pag_applied_layers": "mid"},
        {**TEXT, **KEPT, "control_image": IMAGE, "strength": 0.8},
    ),
    "StableDiffusionPanoramaPipeline": Recipe(
        {**SD, "scheduler": DDIM}, {**TEXT, "height": 16, "width": 32, "view_batch_size": 1}
    ),
    "StableDiffusionPipelineSafe": Recipe({**SD, **READS}, {**CLIP, **SIZE}),
    "StableDiffusionSAGPipeline": Recipe({**SD, "scheduler": DDIM}, {**TEXT, **SIZE, "sag_scale": 0.7}),
    "StableDiffusionUpscalePipeline": Recipe(
        {
            **FEW,
            "unet": tiny(
                "UNet2DConditionModel",
                sample_size=8,
                in_channels=7,
                out_channels=4,
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                class_embed_type=None,
                num_class_embeds=1000,
                **SMALL,
            ),
            "low_res_scheduler": scheduler("DDPM"),
            "scheduler": scheduler("DDIM", prediction_type="v_prediction", clip_sample=False),
        },
        {**TEXT, "image": IMAGE, "noise_level": 20},
    ),
    "StableDiffusionAdapterPipeline": Recipe({**SD, "adapter": ADAPTER}, {**TEXT, "image": IMAGE, **SIZE}),
    "StableDiffusionDiffEditPipeline": Recipe(
        {**SD, "scheduler": DDIM, "inverse_scheduler": scheduler("DDIMInverse")},
        {**TEXT, "mask_image": (noise(5, 1, 8, 8) > 0).float(), "image_latents": noise(6, 1, 6, 4, 8, 8)},
    ),
    "SemanticStableDiffusionPipeline": Recipe(
        {**SD, **READS}, {**CLIP, **SIZE, "editing_prompt": ["a dog"], "edit_guidance_scale": 3.0}
    ),
    "LatentConsistencyModelPipeline": Recipe(
        {**SD, "scheduler": scheduler("LCM", **BETAS), "unet": unet_of(4, time_cond_proj_dim=16)}, {**TEXT, **SIZE}
    ),
    "LatentConsistencyModelImg2ImgPipeline": Recipe(
        {**SD, "scheduler": scheduler("LCM", **BETAS), "unet": unet_of(4, time_cond_proj_dim=16)}, {**TEXT, **FROM}
    ),
    "StableDiffusionXLPipeline": Recipe(XL, {**BOTH, **SIZE}),
    "StableDiffusionXLPipeline, to a half": Recipe(XL, {**BOTH, **SIZE, "denoising_end": 0.5}),
    "StableDiffusionXLImg2ImgPipeline": Recipe(XL, {**BOTH, **FROM}),
    "StableDiffusionXLInpaintPipeline": Recipe(XL, {**BOTH, **KEPT, "strength": 0.8}),
    "StableDiffusionXLInstructPix2PixPipeline": Recipe(
        {
            **XL,
            "unet": unet_of(
                8,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=8 * 6 + 16,
                transformer_layers_per_block=1,
                use_linear_projection=True,
            ),
        },
        {**BOTH, "image": IMAGE, **SIZE},
    ),
    "StableDiffusionXLControlNetPipeline": Recipe({**XL, "controlnet": CONTROL_XL}, {**BOTH, "image": IMAGE, **SIZE}),
    "StableDiffusionXLControlNetImg2ImgPipeline": Recipe(
        {**XL, "controlnet": CONTROL_XL}, {**BOTH, **FROM, "control_image": IMAGE}
    ),
    "StableDiffusionXLControlNetInpaintPipeline": Recipe(
        {**XL, "controlnet": CONTROL_XL}, {**BOTH, **KEPT, "control_image": IMAGE, "strength": 0.8}
    ),
    "StableDiffusionXLControlNetUnionPipeline": Recipe(
        {**XL, "controlnet": UNION}, {**BOTH, "control_image": IMAGE, "control_mode": 3, **SIZE}
    ),
    "StableDiffusionXLControlNetUnionImg2ImgPipeline": Recipe(
        {**XL, "controlnet": UNION}, {**BOTH, **FROM, "control_image": IMAGE, "control_mode": 3}
    ),
    "StableDiffusionXLControlNetUnionInpaintPipeline": Recipe(
        {**XL, "controlnet": UNION}, {**BOTH, **KEPT, "control_image": IMAGE, "control_mode": 3, "strength": 0.8}
    ),
    "StableDiffusionXLAdapterPipeline": Recipe({**XL, "adapter": ADAPTER_XL}, {**BOTH, "image": IMAGE, **SIZE}),
    "StableDiffusionXLPAGPipeline": Recipe({**XL, "pag_applied_layers": "mid"}, {**BOTH, **SIZE}),
    "StableDiffusionXLPAGImg2ImgPipeline": Recipe({**XL, "pag_applied_layers": "mid"}, {**BOTH, **FROM}),
    "StableDiffusionXLPAGInpaintPipeline": Recipe(
        {**XL, "pag_applied_layers": "mid"}, {**BOTH, **KEPT, "strength": 0.8}
    ),
    "StableDiffusionXLControlNetPAGPipeline": Recipe(
        {**XL, "controlnet": CONTROL_XL, "pag_applied_layers": "mid"}, {**BOTH, "image": IMAGE, **SIZE}
    ),
    "StableDiffusionXLControlNetPAGImg2ImgPipeline": Recipe(
        {**XL, "controlnet": CONTROL_XL, "pag_applied_layers": "mid"}, {**BOTH, **FROM, "control_image": IMAGE}
    ),
}
