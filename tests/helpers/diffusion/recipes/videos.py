"""Pipelines of videos."""

from __future__ import annotations

from typing import Any

import torch
from diffusion.networks import clip_encoder, clip_tokenizer, controlnet, noise, unet, unet_xl, vae
from diffusion.recipes._parts import (
    IMAGE,
    LATENT,
    SIZE,
    STEP,
    Recipe,
    clip_image_encoder,
    coder,
    guider,
    image_processor,
    scheduler,
    text,
    tiny,
    to_picture,
)
from diffusion.recipes.stable import BETAS

FRAMES = {"num_frames": 5}
VIDEO = [IMAGE[0]] * 5
FLOW = scheduler("FlowMatchEulerDiscrete", shift=3.0)
UNIPC = scheduler("UniPCMultistep", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
PLAIN = {**text(), **LATENT, **SIZE}
MASKED = {**text(mask=True), **LATENT, **SIZE}
CODER = coder(4, 2, 4)
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1}
_ones = torch.ones(1, 5, dtype=torch.long)

# --- AnimateDiff ---
MOTION = tiny(
    "MotionAdapter",
    block_out_channels=(16, 32),
    motion_layers_per_block=1,
    motion_norm_num_groups=8,
    motion_num_attention_heads=2,
)
ANIMATE: dict[str, Any] = {
    "vae": vae,
    "unet": unet,
    "motion_adapter": MOTION,
    "scheduler": scheduler("DDIM", beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False),
}
_animate = {**PLAIN, "num_frames": 3}
SPARSE = tiny(
    "SparseControlNetModel",
    block_out_channels=(16, 32),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
    cross_attention_dim=16,
    attention_head_dim=8,
    norm_num_groups=8,
    conditioning_embedding_out_channels=(8, 16),
    conditioning_channels=4,
    motion_num_attention_heads=2,
    use_simplified_condition_embedding=True,
    gains={"controlnet_": 2.0},
)
UNET3D: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
}
TEXT_TO_VIDEO = {
    "vae": vae,
    "unet": tiny("UNet3DConditionModel", **UNET3D),
    "scheduler": scheduler("DDIM", **BETAS, clip_sample=False),
}

# --- Wan and its kin ---
_wan = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 1,
    "cross_attn_norm": True,
    "rope_max_seq_len": 32,
}
_wan_qk = {**_wan, "qk_norm": "rms_norm_across_heads"}
WAN: dict[str, Any] = {"vae": CODER, "scheduler": UNIPC, "transformer": tiny("WanTransformer3DModel", **_wan_qk)}
WAN_TEXT = {**PLAIN, **FRAMES}
WAN_IMAGE = tiny("WanTransformer3DModel", **{**_wan_qk, "in_channels": 12})
SKYREELS = tiny("SkyReelsV2Transformer3DModel", **_wan_qk)

# --- LTX ---
LTX: dict[str, Any] = {
    "vae": coder(4, 2, 4),
    "scheduler": scheduler("FlowMatchEulerDiscrete", use_dynamic_shifting=True),
    "transformer": tiny(
        "LTXVideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        cross_attention_dim=32,
        caption_channels=16,
        **HEADS,
    ),
}
LTX_TEXT = {**MASKED, "num_frames": 5, "height": 32, "width": 32}

# --- HunyuanVideo ---
_hunyuan = {
    "in_channels": 4,
    "out_channels": 4,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "text_embed_dim": 16,
    "pooled_projection_dim": 16,
    "rope_axes_dim": (4, 4, 8),
    **HEADS,
}
HUNYUAN: dict[str, Any] = {
    "vae": CODER,
    "scheduler": FLOW,
    "transformer": tiny("HunyuanVideoTransformer3DModel", **_hunyuan),
}
HUNYUAN_TEXT = {**text(negative=False, mask=True, pooled_prompt_embeds=16), **LATENT, **SIZE, **FRAMES}

# --- CogVideoX ---
_cog = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 8,
    "text_embed_dim": 16,
    "num_layers": 1,
    "sample_width": 8,
    "sample_height": 8,
    "sample_frames": 5,
    "patch_size": 2,
    "temporal_compression_ratio": 4,
    "max_text_seq_length": 5,
}
COG: dict[str, Any] = {
    "vae": CODER,
    "scheduler": scheduler("CogVideoXDPM", prediction_type="v_prediction", clip_sample=False),
    "transformer": tiny("CogVideoXTransformer3DModel", **_cog),
}
COG_DDIM = {**COG, "scheduler": scheduler("CogVideoXDDIM", prediction_type="v_prediction", clip_sample=False)}
COG_WIDE = tiny("CogVideoXTransformer3DModel", **{**_cog, "in_channels": 8})
COG_TEXT = {**PLAIN, **FRAMES, "max_sequence_length": 5}

# --- others ---

EASY: dict[str, Any] = {
    "vae": CODER,
    "scheduler": FLOW,
    "transformer": tiny(
        "EasyAnimateTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=1,
        mmdit_layers=1,
        sample_width=8,
        sample_height=8,
        patch_size=2,
    ),
}

KANDINSKY_5 = tiny(
    "Kandinsky5Transformer3DModel",
    in_visual_dim=4,
    in_text_dim=16,
    in_text_dim2=16,
    time_dim=16,
    out_visual_dim=4,
    model_dim=32,
    ff_dim=32,
    num_text_blocks=1,
    num_visual_blocks=1,
    axes_dims=(4, 4, 8),
)
_kandinsky_5 = {
    "prompt_embeds_qwen": noise(1, 1, 5, 16),
    "prompt_embeds_clip": noise(2, 1, 16),
    "negative_prompt_embeds_qwen": noise(3, 1, 5, 16),
    "negative_prompt_embeds_clip": noise(4, 1, 16),
    "prompt_cu_seqlens": torch.tensor([0, 5], dtype=torch.int32),
    "negative_prompt_cu_seqlens": torch.tensor([0, 5], dtype=torch.int32),
}

RECIPES: dict[str, Recipe] = {
    "AnimateDiffPipeline": Recipe(ANIMATE, _animate),
    "AnimateDiffPAGPipeline": Recipe({**ANIMATE, "pag_applied_layers": "mid"}, _animate),
    "AnimateDiffVideoToVideoPipeline": Recipe(
        ANIMATE, {**text(), **LATENT, **SIZE, "video": VIDEO[:3], "strength": 0.8}
    ),
    "AnimateDiffControlNetPipeline": Recipe(
        {**ANIMATE, "controlnet": controlnet}, {**_animate, "conditioning_frames": VIDEO[:3]}
    ),
    "AnimateDiffVideoToVideoControlNetPipeline": Recipe(
        {**ANIMATE, "controlnet": controlnet},
        {**text(), **LATENT, **SIZE, "video": VIDEO[:3], "conditioning_frames": VIDEO[:3], "strength": 0.8},
    ),
    "AnimateDiffSparseControlNetPipeline": Recipe(
        {**ANIMATE, "controlnet": SPARSE}, {**_animate, "conditioning_frames": [IMAGE]}
    ),
    "AnimateDiffSDXLPipeline": Recipe(
        {**ANIMATE, "unet": unet_xl},
        {**text(pooled_prompt_embeds=16), **LATENT, **SIZE, "num_frames": 3},
    ),
    "PIAPipeline": Recipe({**ANIMATE, "unet": lambda: unet(9)}, {**_animate, "image": IMAGE}),
    "TextToVideoSDPipeline": Recipe(TEXT_TO_VIDEO, {**PLAIN, "num_frames": 3}),
    "VideoToVideoSDPipeline": Recipe(
        TEXT_TO_VIDEO, {**text(), **LATENT, "video": [frame.permute(1, 2, 0).numpy() for frame in VIDEO[:3]]}
    ),
    "WanPipeline": Recipe(WAN, WAN_TEXT),
    "WanPipeline, two networks": Recipe(
        {**WAN, "transformer_2": tiny("WanTransformer3DModel", seed=1, **_wan_qk), "boundary_ratio": 0.8}, WAN_TEXT
    ),
    "WanImageToVideoPipeline": Recipe(
        {**WAN, "transformer": WAN_IMAGE, "boundary_ratio": 0.5, "transformer_2": WAN_IMAGE},
        {**WAN_TEXT, "image": IMAGE},
    ),
    "WanVideoToVideoPipeline": Recipe({**WAN, "vae": coder(4, 4, 4)}, {**PLAIN, "video": VIDEO, "strength": 0.8}),
    "LucyEditPipeline": Recipe(
        {**WAN, "transformer": tiny("WanTransformer3DModel", **{**_wan_qk, "in_channels": 8})},
        {**WAN_TEXT, "video": VIDEO},
    ),
    "SkyReelsV2Pipeline": Recipe({**WAN, "transformer": SKYREELS}, WAN_TEXT),
    "SkyReelsV2DiffusionForcingPipeline": Recipe({**WAN, "transformer": SKYREELS}, {**WAN_TEXT, "prompt": None}),
    "AnyFlowPipeline": Recipe(
        {**WAN, "scheduler": FLOW, "transformer": tiny("AnyFlowTransformer3DModel", **_wan)}, WAN_TEXT
    ),
    "LTXPipeline": Recipe(LTX, LTX_TEXT),
    "LTXImageToVideoPipeline": Recipe(LTX, {**LTX_TEXT, "image": IMAGE.repeat(1, 1, 2, 2)}),
    "LTXConditionPipeline": Recipe({**LTX, "scheduler": FLOW}, {**LTX_TEXT, "image": IMAGE.repeat(1, 1, 2, 2)}),
    "HunyuanVideoPipeline": Recipe(HUNYUAN, HUNYUAN_TEXT),
    "HunyuanSkyreelsImageToVideoPipeline": Recipe(
        {**HUNYUAN, "transformer": tiny("HunyuanVideoTransformer3DModel", **{**_hunyuan, "in_channels": 8})},
        {**HUNYUAN_TEXT, "image": IMAGE, "true_cfg_scale": 1.0},
    ),
    "HunyuanVideoImageToVideoPipeline": Recipe(
        {
            **HUNYUAN,
            "transformer": tiny(
                "HunyuanVideoTransformer3DModel", **{**_hunyuan, "in_channels": 9}, image_condition_type="latent_concat"
            ),
        },
        {**HUNYUAN_TEXT, "image": IMAGE},
    ),
    "CogVideoXPipeline": Recipe(COG, COG_TEXT),
    "CogVideoXPipeline, DDIM": Recipe(COG_DDIM, COG_TEXT),
    "CogVideoXImageToVideoPipeline": Recipe({**COG_DDIM, "transformer": COG_WIDE}, {**COG_TEXT, "image": IMAGE}),
    "CogVideoXVideoToVideoPipeline": Recipe(COG_DDIM, {**PLAIN, "video": VIDEO, "max_sequence_length": 5}),
    "MochiPipeline": Recipe(
        {
            "vae": coder(4, 2, 4),
            "scheduler": scheduler("FlowMatchEulerDiscrete", invert_sigmas=True),
            "transformer": tiny(
                "MochiTransformer3DModel",
                pooled_projection_dim=16,
                in_channels=4,
                text_embed_dim=16,
                time_embed_dim=8,
                max_sequence_length=5,
                **HEADS,
            ),
        },
        {**MASKED, "num_frames": 7},
    ),
    "AllegroPipeline": Recipe(
        {
            "vae": CODER,
            "scheduler": scheduler("EulerAncestralDiscrete"),
            "transformer": tiny(
                "AllegroTransformer3DModel",
                in_channels=4,
                out_channels=4,
                cross_attention_dim=24,
                caption_channels=16,
                sample_width=8,
                sample_height=8,
                sample_frames=2,
                num_attention_heads=2,
                attention_head_dim=12,
                num_layers=1,
            ),
        },
        {**MASKED, "num_frames": 8, "negative_prompt": None},
    ),
    "LattePipeline": Recipe(
        {
            "vae": vae,
            "scheduler": scheduler("DDIM", clip_sample=False),
            "transformer": tiny(
                "LatteTransformer3DModel",
                sample_size=8,
                num_layers=1,
                patch_size=2,
                attention_head_dim=8,
                num_attention_heads=2,
                caption_channels=16,
                in_channels=4,
                cross_attention_dim=16,
                out_channels=8,
                attention_bias=True,
                activation_fn="gelu-approximate",
                num_embeds_ada_norm=1000,
                norm_type="ada_norm_single",
                norm_elementwise_affine=False,
                norm_eps=1e-6,
                video_length=2,
            ),
        },
        {**PLAIN, "video_length": 2, "negative_prompt": None},
    ),
    "EasyAnimatePipeline": Recipe(EASY, {**MASKED, **FRAMES}),
    "Kandinsky5T2VPipeline": Recipe(
        {
            "scheduler": FLOW,
            "vae": CODER,
            "transformer": KANDINSKY_5,
        },
        {
            **_kandinsky_5,
            **LATENT,
            **SIZE,
            **FRAMES,
        },
    ),
    "Kandinsky5T2IPipeline": Recipe(
        {"scheduler": FLOW, "vae": coder(4, 2), "transformer": KANDINSKY_5},
        {**_kandinsky_5, **LATENT, **SIZE},
        prepare=lambda pipe: setattr(pipe, "resolutions", [(16, 16)]),
        result="image",
    ),
    "StableVideoDiffusionPipeline": Recipe(
        {
            "vae": coder(4, 2),
            "image_encoder": clip_image_encoder,
            "feature_extractor": image_processor,
            "scheduler": scheduler("EulerDiscrete", prediction_type="v_prediction", use_karras_sigmas=True),
            "unet": tiny(
                "UNetSpatioTemporalConditionModel",
                sample_size=8,
                block_out_channels=(32, 64),
                down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
                up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
                cross_attention_dim=16,
                num_attention_heads=2,
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=24,
                layers_per_block=1,
                num_frames=3,
            ),
        },
        {**STEP, **SIZE, "image": noise(7, 1, 3, 8, 8), "num_frames": 3, "output_type": "latent"},
    ),
    "I2VGenXLPipeline": Recipe(
        {
            "vae": vae,
            "text_encoder": clip_encoder,
            "tokenizer": clip_tokenizer,
            "image_encoder": clip_image_encoder,
            "feature_extractor": image_processor,
            "scheduler": scheduler("DDIM", clip_sample=False),
            "unet": tiny(
                "I2VGenXLUNet",
                sample_size=8,
                block_out_channels=(16, 32),
                down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
                cross_attention_dim=16,
                attention_head_dim=4,
                norm_num_groups=8,
                layers_per_block=1,
            ),
        },
        {**PLAIN, "image": to_picture(IMAGE), "num_frames": 3},
    ),
    "SanaVideoPipeline": Recipe(
        {
            "scheduler": FLOW,
            "vae": CODER,
            "transformer": tiny(
                "SanaVideoTransformer3DModel",
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=12,
                num_layers=1,
                num_cross_attention_heads=2,
                cross_attention_head_dim=12,
                cross_attention_dim=24,
                caption_channels=16,
                sample_size=8,
                patch_size=(1, 2, 2),
                rope_max_seq_len=32,
            ),
        },
        {
            **text(mask=True),
            **LATENT,
            "negative_prompt": None,
            "height": 32,
            "width": 32,
            "frames": 5,
            "use_resolution_binning": False,
        },
    ),
    "MotifVideoPipeline": Recipe(
        {
            "guider": guider(),
            "scheduler": FLOW,
            "vae": CODER,
            "transformer": tiny(
                "MotifVideoTransformer3DModel",
                in_channels=9,
                out_channels=4,
                num_single_layers=1,
                text_embed_dim=16,
                rope_axes_dim=(4, 4, 8),
                **HEADS,
            ),
        },
        {**text(mask=True), **STEP, **SIZE, **FRAMES, "output_type": "latent"},
    ),
    "HunyuanVideo15Pipeline": Recipe(
        {
            "guider": guider(),
            "scheduler": FLOW,
            "vae": CODER,
            "transformer": tiny(
                "HunyuanVideo15Transformer3DModel",
                in_channels=9,
                out_channels=4,
                num_refiner_layers=1,
                text_embed_dim=16,
                text_embed_2_dim=16,
                image_embed_dim=16,
                rope_axes_dim=(4, 4, 8),
                task_type="t2v",
                **HEADS,
            ),
        },
        {
            **text(),
            "prompt_embeds_mask": _ones,
            "negative_prompt_embeds_mask": _ones,
            "prompt_embeds_2": noise(51, 1, 5, 16),
            "negative_prompt_embeds_2": noise(52, 1, 5, 16),
            "prompt_embeds_mask_2": _ones,
            "negative_prompt_embeds_mask_2": _ones,
            **STEP,
            **SIZE,
            **FRAMES,
            "output_type": "latent",
        },
    ),
}
