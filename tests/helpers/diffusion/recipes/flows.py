"""Pipelines of images with transformers: most of their networks predict a flow."""

from __future__ import annotations

from typing import Any

import torch
from diffusion.networks import flux_transformer, noise, pixart_transformer, sd3_transformer, shifted
from diffusion.recipes._parts import (
    IMAGE,
    LATENT,
    MASK,
    POOLED,
    SIZE,
    STEP,
    Recipe,
    coder,
    guider,
    scheduler,
    text,
    tiny,
)

FLOW = scheduler("FlowMatchEulerDiscrete", shift=3.0)
DYNAMIC = scheduler("FlowMatchEulerDiscrete", use_dynamic_shifting=True)
FROM = {"image": IMAGE, "strength": 0.8}
KEPT = {"image": IMAGE, "mask_image": MASK, "strength": 0.8}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1}
SINGLE = {**HEADS, "num_single_layers": 1}
ROPE = (4, 4, 8)
GAINS = {"gains": {"attn.add_": 2.0, "attn.to_out": 2.0}}
PLAIN = {**text(), **LATENT, **SIZE}
MASKED = {**text(mask=True), **LATENT, **SIZE}

# --- Stable Diffusion 3 ---
SD3: dict[str, Any] = {"transformer": lambda: sd3_transformer(4), "scheduler": FLOW, "vae": lambda: shifted(4)}
SD3_16 = {**SD3, "transformer": lambda: sd3_transformer(16), "vae": lambda: shifted(16)}
BOTH = {**POOLED, **LATENT, **SIZE}
_sd3_control = {
    "sample_size": 8,
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 16,
    "out_channels": 4,
    "gains": {"controlnet_blocks": 3.0, "pos_embed_input": 3.0},
}
SD3_CONTROL = tiny("SD3ControlNetModel", **_sd3_control)
SD3_CONTROL_MASK = tiny("SD3ControlNetModel", **{**_sd3_control, "extra_conditioning_channels": 1})

# --- Flux ---
FLUX: dict[str, Any] = {"scheduler": DYNAMIC, "vae": lambda: shifted(4), "transformer": lambda: flux_transformer(False)}
FLUX_TEXT = {**text(negative=False, pooled_prompt_embeds=16), **LATENT, **SIZE}
_flux = {
    "patch_size": 1,
    "in_channels": 16,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "axes_dims_rope": ROPE,
    **SINGLE,
}
FLUX_WIDE = tiny("FluxTransformer2DModel", **{**_flux, "in_channels": 32}, out_channels=16, **GAINS)
FLUX_FILL = tiny("FluxTransformer2DModel", **{**_flux, "in_channels": 48}, out_channels=16, **GAINS)
FLUX_CONTROL = tiny("FluxControlNetModel", **_flux, gains={"controlnet_": 2.0})
_klein = {"scheduler": DYNAMIC, "vae": coder(4, 2, patch_size=(2, 2), batch_norm_eps=1e-4)}
FLUX2 = tiny(
    "Flux2Transformer2DModel",
    in_channels=16,
    joint_attention_dim=16,
    timestep_guidance_channels=16,
    axes_dims_rope=(4, 4, 4, 4),
    **SINGLE,
)
KLEIN = tiny(
    "Flux2Transformer2DModel",
    in_channels=16,
    joint_attention_dim=16,
    timestep_guidance_channels=16,
    axes_dims_rope=(4, 4, 4, 4),
    guidance_embeds=False,
    **SINGLE,
)


def _guided(make: Any) -> Any:
    """Adds an entry to the network's config that this pipeline asks for and its network has not."""

    def guided() -> Any:
        network = make()
        network.register_to_config(guidance_embeds=False)
        return network

    return guided


CHROMA: dict[str, Any] = {
    "scheduler": FLOW,
    "vae": lambda: shifted(4),
    "transformer": tiny(
        "ChromaTransformer2DModel",
        patch_size=1,
        in_channels=16,
        joint_attention_dim=16,
        axes_dims_rope=ROPE,
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
        **SINGLE,
    ),
}
CHROMA_GUIDED = {**CHROMA, "transformer": _guided(CHROMA["transformer"])}
BOOL = {f"{part}prompt_attention_mask": torch.ones(1, 5, dtype=torch.bool) for part in ("", "negative_")}

# --- Qwen ---
QWEN_CODER = coder(4, 2, 1, temperal_downsample=(True,))
_qwen = {"patch_size": 2, "in_channels": 16, "out_channels": 4, "joint_attention_dim": 16, "axes_dims_rope": ROPE}
QWEN: dict[str, Any] = {
    "scheduler": DYNAMIC,
    "vae": QWEN_CODER,
    "transformer": tiny("QwenImageTransformer2DModel", **_qwen, **HEADS, **GAINS),
}
QWEN_CONTROL = tiny("QwenImageControlNetModel", **_qwen, **HEADS, gains={"controlnet_": 2.0})
QWEN_CONTROL_MASK = tiny(
    "QwenImageControlNetModel", **_qwen, **HEADS, extra_condition_channels=4, gains={"controlnet_": 2.0}
)
_qwen_text = text()
QWEN_TEXT = {
    **_qwen_text,
    "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long),
    "negative_prompt_embeds_mask": torch.ones(1, 5, dtype=torch.long),
    **STEP,
    "output_type": "latent",
    "true_cfg_scale": 4.0,
}

# --- Z-Image ---
ZIMAGE: dict[str, Any] = {
    "scheduler": FLOW,
    "vae": coder(4, 2),
    "transformer": tiny(
        "ZImageTransformer2DModel",
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 4, 8],
        axes_lens=[64, 32, 32],
    ),
}
ZIMAGE_TEXT = {
    "prompt_embeds": [noise(1, 5, 16)],
    "negative_prompt_embeds": [noise(2, 5, 16)],
    **LATENT,
    **SIZE,
}
# --- others ---
_sana = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 1,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 8,
    "cross_attention_dim": 16,
    "caption_channels": 16,
    "sample_size": 8,
}
SANA: dict[str, Any] = {
    "scheduler": FLOW,
    "vae": coder(4, 2, encoder_block_out_channels=(4, 4)),
    "transformer": tiny("SanaTransformer2DModel", **_sana),
}
SPRINT = tiny("SanaTransformer2DModel", **_sana, guidance_embeds=True)
SANA_TEXT = {**MASKED, "negative_prompt": None, "height": 32, "width": 32, "use_resolution_binning": False}
SANA_CONTROL = tiny("SanaControlNetModel", **_sana)
PIXART = {"scheduler": scheduler("DPMSolverMultistep"), "vae": coder(4, 2), "transformer": pixart_transformer}
PIXART_TEXT = {**MASKED, "negative_prompt": None, "use_resolution_binning": False}
_hunyuan = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "hidden_size": 32,
    "cross_attention_dim": 16,
    "cross_attention_dim_t5": 16,
    "pooled_projection_dim": 8,
    "text_len": 5,
    "text_len_t5": 5,
}
HUNYUAN: dict[str, Any] = {
    "scheduler": scheduler("DDPM", prediction_type="v_prediction", clip_sample=False),
    "vae": coder(4, 2),
    "transformer": tiny("HunyuanDiT2DModel", **_hunyuan, num_layers=2),
    "requires_safety_checker": False,
}
_ones = torch.ones(1, 5, dtype=torch.long)
HUNYUAN_TEXT = {
    **MASKED,
    "prompt_embeds_2": noise(51, 1, 5, 16),
    "negative_prompt_embeds_2": noise(52, 1, 5, 16),
    "prompt_attention_mask_2": _ones,
    "negative_prompt_attention_mask_2": _ones,
    "use_resolution_binning": False,
}
COGVIEW = {
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "text_embed_dim": 16,
    "time_embed_dim": 16,
    "condition_dim": 8,
    "sample_size": 8,
    **HEADS,
}

RECIPES: dict[str, Recipe] = {
    "StableDiffusion3Pipeline": Recipe(SD3, BOTH),
    "StableDiffusion3Pipeline, layers skipped": Recipe(SD3, {**BOTH, "skip_guidance_layers": [0]}),
    "StableDiffusion3Img2ImgPipeline": Recipe(SD3, {**BOTH, **FROM}),
    "StableDiffusion3InpaintPipeline": Recipe(SD3_16, {**BOTH, **KEPT}),
    "StableDiffusion3PAGPipeline": Recipe({**SD3, "pag_applied_layers": ["transformer_blocks.0"]}, BOTH),
    "StableDiffusion3PAGImg2ImgPipeline": Recipe(
        {**SD3, "pag_applied_layers": ["transformer_blocks.0"]}, {**BOTH, **FROM}
    ),
    "StableDiffusion3ControlNetPipeline": Recipe({**SD3, "controlnet": SD3_CONTROL}, {**BOTH, "control_image": IMAGE}),
    "StableDiffusion3ControlNetInpaintingPipeline": Recipe(
        {**SD3, "controlnet": SD3_CONTROL_MASK}, {**BOTH, "control_image": IMAGE, "control_mask": MASK}
    ),
    "FluxPipeline": Recipe(FLUX, FLUX_TEXT),
    "FluxPipeline, guidance of its own": Recipe({**FLUX, "transformer": lambda: flux_transformer(True)}, FLUX_TEXT),
    "FluxImg2ImgPipeline": Recipe(FLUX, {**FLUX_TEXT, **FROM}),
    "FluxInpaintPipeline": Recipe(FLUX, {**FLUX_TEXT, **KEPT}),
    "FluxFillPipeline": Recipe({**FLUX, "transformer": FLUX_FILL}, {**FLUX_TEXT, "image": IMAGE, "mask_image": MASK}),
    "FluxControlPipeline": Recipe({**FLUX, "transformer": FLUX_WIDE}, {**FLUX_TEXT, "control_image": IMAGE}),
    "FluxControlImg2ImgPipeline": Recipe(
        {**FLUX, "transformer": FLUX_WIDE}, {**FLUX_TEXT, **FROM, "control_image": IMAGE}
    ),
    "FluxControlInpaintPipeline": Recipe(
        {**FLUX, "transformer": FLUX_WIDE}, {**FLUX_TEXT, **KEPT, "control_image": IMAGE}
    ),
    "FluxControlNetPipeline": Recipe({**FLUX, "controlnet": FLUX_CONTROL}, {**FLUX_TEXT, "control_image": IMAGE}),
    "FluxControlNetPipeline, in part": Recipe(
        {**FLUX, "controlnet": FLUX_CONTROL}, {**FLUX_TEXT, "control_image": IMAGE, "control_guidance_end": 0.5}
    ),
    "FluxControlNetImg2ImgPipeline": Recipe(
        {**FLUX, "controlnet": FLUX_CONTROL}, {**FLUX_TEXT, **FROM, "control_image": IMAGE}
    ),
    "FluxControlNetInpaintPipeline": Recipe(
        {**FLUX, "controlnet": FLUX_CONTROL}, {**FLUX_TEXT, **KEPT, "control_image": IMAGE}
    ),
    "FluxKontextPipeline": Recipe(FLUX, {**FLUX_TEXT, "image": IMAGE, "max_area": 256, "_auto_resize": False}),
    "FluxKontextInpaintPipeline": Recipe(FLUX, {**FLUX_TEXT, **KEPT, "max_area": 256, "_auto_resize": False}),
    "Flux2Pipeline": Recipe({**_klein, "transformer": FLUX2}, {**text(negative=False), **LATENT, **SIZE}),
    "Flux2KleinPipeline": Recipe({**_klein, "transformer": KLEIN}, PLAIN),
    "Flux2KleinInpaintPipeline": Recipe({**_klein, "transformer": KLEIN}, {**PLAIN, **KEPT}),
    "ChromaPipeline": Recipe(CHROMA, {**MASKED, **BOOL}),
    "ChromaImg2ImgPipeline": Recipe(CHROMA, {**MASKED, **BOOL, **FROM}),
    "ChromaInpaintPipeline": Recipe(CHROMA_GUIDED, {**MASKED, **BOOL, **KEPT}),
    "QwenImagePipeline": Recipe(QWEN, {**QWEN_TEXT, **SIZE}),
    "QwenImageImg2ImgPipeline": Recipe(QWEN, {**QWEN_TEXT, **SIZE, **FROM}),
    "QwenImageInpaintPipeline": Recipe(QWEN, {**QWEN_TEXT, **SIZE, **KEPT}),
    "QwenImageControlNetPipeline": Recipe(
        {**QWEN, "controlnet": QWEN_CONTROL}, {**QWEN_TEXT, **SIZE, "control_image": IMAGE}
    ),
    "QwenImageControlNetInpaintPipeline": Recipe(
        {**QWEN, "controlnet": QWEN_CONTROL_MASK}, {**QWEN_TEXT, **SIZE, "control_image": IMAGE, "control_mask": MASK}
    ),
    "ZImagePipeline": Recipe(ZIMAGE, ZIMAGE_TEXT),
    "ZImageImg2ImgPipeline": Recipe(ZIMAGE, {**ZIMAGE_TEXT, **FROM}),
    "ZImageInpaintPipeline": Recipe(ZIMAGE, {**ZIMAGE_TEXT, **KEPT}),
    "SanaPipeline": Recipe(SANA, SANA_TEXT),
    "SanaPAGPipeline": Recipe({**SANA, "pag_applied_layers": ["blocks.0"]}, SANA_TEXT),
    "SanaControlNetPipeline": Recipe({**SANA, "controlnet": SANA_CONTROL}, {**SANA_TEXT, "control_image": IMAGE}),
    "SanaSprintPipeline": Recipe(
        {**SANA, "transformer": SPRINT, "scheduler": scheduler("SCM")},
        {
            **text(negative=False, mask=True),
            **LATENT,
            "height": 32,
            "width": 32,
            "num_inference_steps": 2,
            "use_resolution_binning": False,
        },
    ),
    "PixArtAlphaPipeline": Recipe(PIXART, PIXART_TEXT),
    "PixArtSigmaPipeline": Recipe(PIXART, PIXART_TEXT),
    "PixArtSigmaPAGPipeline": Recipe({**PIXART, "pag_applied_layers": ["blocks.0"]}, PIXART_TEXT),
    "HunyuanDiTPipeline": Recipe(HUNYUAN, HUNYUAN_TEXT),
    "HunyuanDiTPAGPipeline": Recipe({**HUNYUAN, "pag_applied_layers": ["blocks.1"]}, HUNYUAN_TEXT),
    "HunyuanDiTControlNetPipeline": Recipe(
        {**HUNYUAN, "controlnet": tiny("HunyuanDiT2DControlNetModel", **_hunyuan, transformer_num_layers=2)},
        {**HUNYUAN_TEXT, "control_image": IMAGE},
    ),
    "AuraFlowPipeline": Recipe(
        {
            "scheduler": FLOW,
            "vae": coder(4, 2),
            "transformer": tiny(
                "AuraFlowTransformer2DModel",
                sample_size=8,
                patch_size=2,
                in_channels=4,
                num_mmdit_layers=1,
                num_single_dit_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=16,
                caption_projection_dim=16,
                out_channels=4,
                pos_embed_max_size=16,
            ),
        },
        MASKED,
    ),
    "CogView3PlusPipeline": Recipe(
        {
            "scheduler": scheduler("CogVideoXDDIM", prediction_type="v_prediction", clip_sample=False),
            "vae": coder(4, 2),
            "transformer": tiny("CogView3PlusTransformer2DModel", **COGVIEW, pos_embed_max_size=8),
        },
        PLAIN,
    ),
    "CogView4Pipeline": Recipe(
        {
            "scheduler": DYNAMIC,
            "vae": coder(4, 2),
            "transformer": tiny("CogView4Transformer2DModel", **COGVIEW, rope_axes_dim=(8, 8)),
        },
        PLAIN,
    ),
    "CogView4ControlPipeline": Recipe(
        {
            "scheduler": DYNAMIC,
            "vae": coder(4, 2),
            "transformer": tiny("CogView4Transformer2DModel", **{**COGVIEW, "in_channels": 8}, rope_axes_dim=(8, 8)),
        },
        {**PLAIN, "control_image": IMAGE},
    ),
    "LuminaPipeline": Recipe(
        {
            "scheduler": FLOW,
            "vae": coder(4, 2),
            "transformer": tiny(
                "LuminaNextDiT2DModel",
                sample_size=8,
                patch_size=2,
                in_channels=4,
                hidden_size=24,
                num_layers=1,
                num_attention_heads=3,
                num_kv_heads=1,
                multiple_of=8,
                cross_attention_dim=16,
            ),
        },
        MASKED,
    ),
    "Lumina2Pipeline": Recipe(
        {
            "scheduler": FLOW,
            "vae": coder(4, 2),
            "transformer": tiny(
                "Lumina2Transformer2DModel",
                sample_size=8,
                patch_size=2,
                in_channels=4,
                hidden_size=24,
                num_layers=1,
                num_refiner_layers=1,
                num_attention_heads=3,
                num_kv_heads=1,
                multiple_of=2,
                axes_dim_rope=(4, 2, 2),
                axes_lens=(64, 16, 16),
                cap_feat_dim=16,
            ),
        },
        {**MASKED, "cfg_trunc_ratio": 0.5},
    ),
    "HiDreamImagePipeline": Recipe(
        {
            "scheduler": DYNAMIC,
            "vae": coder(4, 2),
            "transformer": tiny(
                "HiDreamImageTransformer2DModel",
                patch_size=2,
                in_channels=4,
                out_channels=4,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                caption_channels=[16, 16],
                text_emb_dim=16,
                num_routed_experts=2,
                num_activated_experts=2,
                axes_dims_rope=(4, 2, 2),
                max_resolution=(8, 8),
                llama_layers=[0, 1],
                force_inference_output=True,
            ),
        },
        {
            "prompt_embeds_t5": noise(1, 1, 5, 16),
            "negative_prompt_embeds_t5": noise(2, 1, 5, 16),
            "prompt_embeds_llama3": noise(3, 2, 1, 5, 16),
            "negative_prompt_embeds_llama3": noise(4, 2, 1, 5, 16),
            "pooled_prompt_embeds": noise(5, 1, 16),
            "negative_pooled_prompt_embeds": noise(6, 1, 16),
            **LATENT,
            **SIZE,
        },
    ),
    "BriaPipeline": Recipe(
        {
            "scheduler": DYNAMIC,
            "vae": coder(4, 2),
            "transformer": tiny(
                "BriaTransformer2DModel",
                patch_size=1,
                in_channels=16,
                joint_attention_dim=16,
                pooled_projection_dim=None,
                axes_dims_rope=ROPE,
                guidance_embeds=False,
                **SINGLE,
            ),
        },
        PLAIN,
    ),
    "OvisImagePipeline": Recipe(
        {
            "scheduler": DYNAMIC,
            "vae": coder(4, 2),
            "transformer": tiny(
                "OvisImageTransformer2DModel",
                patch_size=1,
                in_channels=16,
                out_channels=16,
                joint_attention_dim=16,
                axes_dims_rope=ROPE,
                **SINGLE,
            ),
        },
        {**PLAIN, "negative_prompt": None},
    ),
    "PRXPipeline": Recipe(
        {
            "scheduler": FLOW,
            "vae": coder(4, 2),
            "transformer": tiny(
                "PRXTransformer2DModel",
                in_channels=4,
                patch_size=2,
                context_in_dim=16,
                hidden_size=16,
                num_heads=2,
                depth=1,
                axes_dim=[4, 4],
            ),
        },
        {**MASKED, "use_resolution_binning": False},
    ),
    "ErnieImagePipeline": Recipe(
        {
            "scheduler": FLOW,
            "vae": coder(4, 2),
            "transformer": tiny(
                "ErnieImageTransformer2DModel",
                hidden_size=32,
                num_attention_heads=2,
                num_layers=1,
                ffn_hidden_size=32,
                in_channels=16,
                out_channels=16,
                text_in_dim=16,
                rope_axes_dim=ROPE,
            ),
        },
        {
            "prompt_embeds": [noise(1, 5, 16)],
            "negative_prompt_embeds": [noise(2, 5, 16)],
            **LATENT,
            **SIZE,
            "use_pe": False,
        },
    ),
    "Krea2Pipeline": Recipe(
        {
            "scheduler": DYNAMIC,
            "vae": QWEN_CODER,
            "transformer": tiny(
                "Krea2Transformer2DModel",
                in_channels=16,
                num_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                num_key_value_heads=1,
                intermediate_size=32,
                timestep_embed_dim=16,
                text_hidden_dim=16,
                num_text_layers=2,
                text_num_attention_heads=2,
                text_num_key_value_heads=2,
                text_intermediate_size=16,
                num_layerwise_text_blocks=1,
                num_refiner_text_blocks=1,
                axes_dims_rope=ROPE,
            ),
        },
        {
            "prompt_embeds": noise(1, 1, 5, 2, 16),
            "negative_prompt_embeds": noise(2, 1, 5, 2, 16),
            "prompt_embeds_mask": torch.ones(1, 5, dtype=torch.bool),
            "negative_prompt_embeds_mask": torch.ones(1, 5, dtype=torch.bool),
            **LATENT,
            **SIZE,
        },
    ),
    "GlmImagePipeline": Recipe(
        {
            "scheduler": DYNAMIC,
            "vae": coder(4, 2),
            "transformer": tiny(
                "GlmImageTransformer2DModel",
                patch_size=2,
                in_channels=4,
                out_channels=4,
                text_embed_dim=16,
                time_embed_dim=16,
                condition_dim=8,
                prior_vq_quantizer_codebook_size=16,
                **HEADS,
            ),
        },
        {**PLAIN, "prior_token_ids": torch.arange(16)[None]},
    ),
    "HunyuanImagePipeline": Recipe(
        {
            "guider": guider(),
            "ocr_guider": guider(),
            "scheduler": FLOW,
            "vae": coder(4, 2),
            "transformer": tiny(
                "HunyuanImageTransformer2DModel",
                in_channels=4,
                out_channels=4,
                num_refiner_layers=1,
                text_embed_dim=16,
                text_embed_2_dim=16,
                rope_axes_dim=(8, 8),
                **SINGLE,
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
            "output_type": "latent",
        },
    ),
    "NucleusMoEImagePipeline": Recipe(
        {
            "scheduler": DYNAMIC,
            "vae": QWEN_CODER,
            "transformer": tiny(
                "NucleusMoEImageTransformer2DModel",
                in_channels=16,
                out_channels=4,
                joint_attention_dim=16,
                axes_dims_rope=ROPE,
                num_experts=2,
                moe_intermediate_dim=16,
                moe_enabled=False,
                **HEADS,
            ),
        },
        {**text(), "prompt_embeds_mask": _ones, "negative_prompt_embeds_mask": _ones, **LATENT, **SIZE},
    ),
}
