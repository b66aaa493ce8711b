"""Pipelines without a text: of images, of classes, of latents."""

from __future__ import annotations

from diffusion.networks import dit_transformer, unet_plain, vae
from diffusion.recipes._parts import IMAGE, STEP, Recipe, scheduler, tiny

UNET = {"unet": unet_plain}
PT = {**STEP, "output_type": "np"}
VQ = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 3,
}

RECIPES: dict[str, Recipe] = {
    "DDIMPipeline": Recipe({**UNET, "scheduler": scheduler("DDIM")}, {**PT, "batch_size": 2}),
    "DDPMPipeline": Recipe({**UNET, "scheduler": scheduler("DDPM")}, {**PT, "batch_size": 2}),
    "PNDMPipeline": Recipe({**UNET, "scheduler": scheduler("PNDM")}, {**PT, "batch_size": 2}),
    "LDMPipeline": Recipe(
        {"vqvae": tiny("VQModel", **VQ), **UNET, "scheduler": scheduler("DDIM", clip_sample=False)}, {**PT}
    ),
    "DiTPipeline": Recipe(
        {"transformer": dit_transformer, "vae": vae, "scheduler": scheduler("DDIM", clip_sample=False)},
        {**PT, "class_labels": [3, 900]},
    ),
    "ConsistencyModelPipeline": Recipe({**UNET, "scheduler": scheduler("CMStochasticIterative")}, {**PT}),
    "KarrasVePipeline": Recipe({**UNET, "scheduler": scheduler("KarrasVe")}, {**PT}),
    "ScoreSdeVePipeline": Recipe({**UNET, "scheduler": scheduler("ScoreSdeVe")}, {**PT}),
    "RePaintPipeline": Recipe(
        {**UNET, "scheduler": scheduler("RePaint")},
        {**PT, "image": IMAGE[..., :8, :8], "mask_image": (IMAGE[:, :1, :8, :8] > 0.5).float()},
    ),
    "LDMSuperResolutionPipeline": Recipe(
        {
            "vqvae": tiny("VQModel", **VQ),
            "unet": tiny(
                "UNet2DModel",
                sample_size=8,
                in_channels=6,
                out_channels=3,
                block_out_channels=(16, 16),
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                norm_num_groups=8,
                layers_per_block=1,
            ),
            "scheduler": scheduler("DDIM", clip_sample=False),
        },
        {**PT, "image": 2 * IMAGE - 1},
    ),
}
