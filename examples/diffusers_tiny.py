"""Pipelines of diffusers, sampled in parallel in time, checked against themselves. Nothing is downloaded.

A tiny Stable Diffusion with random weights, guided, and the packaged network of 8x8 digits as a DDIM pipeline are
called as they are and then by `diffusion_adapters.diffusers.parallelize`. A table shows rounds (calls of the network
one after another), evaluations (its rows, guidance counted once) and the error to the pipeline's own result. With
matplotlib there is a picture of the digits, diffusers_tiny.png. Exits with 1 if the results disagree.

Run it with `python examples/diffusers_tiny.py`; it needs diffusers and transformers, whose pipelines import it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # of its parts, no image processor is needed here

import diffusers
import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

import diffusion_adapters as da

RTOL = 1e-3
STABLE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STABLE["steps_offset"] = 1
SCHEDULERS = {
    "DDIM": diffusers.DDIMScheduler(**STABLE, clip_sample=False),
    "DPM-Solver++(2M)": diffusers.DPMSolverMultistepScheduler(**STABLE),
    "Euler ancestral": diffusers.EulerAncestralDiscreteScheduler(**STABLE),
}


def stable_diffusion() -> Any:
    """A Stable Diffusion pipeline with all its parts but the text encoder, each as small as it may be."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    nothing = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    scheduler = SCHEDULERS["DDIM"]
    return diffusers.StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=scheduler, requires_safety_checker=False, **nothing
    )


class Digits(diffusers.ModelMixin, diffusers.ConfigMixin):
    """The packaged network as a U-Net of diffusers: it takes timesteps, and puts out an object with a sample."""

    @register_to_config
    def __init__(self, sample_size: int = 8, in_channels: int = 1) -> None:
        super().__init__()
        model, kept = da.load_digits(), diffusers.DDIMScheduler().alphas_cumprod.double()
        self.network = model.network
        # The network's own time has the noise level that the scheduler has at a timestep.
        self.register_buffer("times", model.noise_schedule.time(((1 - kept) / kept).sqrt()).float())

    def forward(self, x: Tensor, timestep: Tensor) -> Any:
        return SimpleNamespace(sample=self.network(x, self.times[timestep.long()]))


def digits() -> Any:
    """The packaged network's DDIM pipeline."""
    return diffusers.DDIMPipeline(Digits(), diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing"))


def compare(name: str, pipe: Any, steps: int, **given: Any) -> tuple[Any, Any, bool]:
    """Runs a pipeline as it is and in parallel in time, and prints a line; whether they agree comes last."""
    pipe.set_progress_bar_config(disable=True)
    parallel = da.diffusers.parallelize(pipe, rtol=RTOL)
    with torch.no_grad():
        serial = pipe(num_inference_steps=steps, generator=torch.Generator().manual_seed(1), **given).images
        out = parallel(num_inference_steps=steps, generator=torch.Generator().manual_seed(1), **given).images
    stats = parallel.solution.stats
    a, b = torch.as_tensor(serial).flatten(1), torch.as_tensor(out).flatten(1)
    error = ((b - a).norm(dim=1) / a.norm(dim=1)).max().item()
    samples = len(a)
    print(f"{name:34}{steps:7}{stats.rounds:9}{steps * samples:9}{stats.evaluations:10}{error:10.1e}")
    return serial, out, error <= RTOL


def draw(path: Path, rows: list[Any]) -> None:
    """Both rows of digits, one above the other."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 1, figsize=(8, 2.4), layout="constrained")
    for axis, images, label in zip(axes, rows, ("pipeline", "parallel"), strict=True):
        axis.imshow(torch.cat([torch.as_tensor(image)[..., 0] for image in images], dim=1), cmap="gray_r")
        axis.set(xticks=[], yticks=[], ylabel=label)
    fig.savefig(path, dpi=110)


def main() -> int:
    """Samples, compares, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("PARAREAL_OUT", "out")))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # networks as small as these gain nothing from more

    print(f"rtol = {RTOL:g}{'rounds':>40}{'evaluations':>19}{'error':>10}")
    print(f"{'':34}{'serial':>7}{'parallel':>9}{'serial':>9}{'parallel':>10}")
    pipe, given = stable_diffusion(), {"guidance_scale": 3.0, "height": 16, "width": 16, "output_type": "latent"}
    words = {"prompt_embeds": torch.randn(2, 5, 16), "negative_prompt_embeds": torch.randn(2, 5, 16)}
    agreed: list[bool] = []
    for name, scheduler in SCHEDULERS.items():
        pipe.scheduler = scheduler
        serial, out, same = compare(f"Stable Diffusion, {name}", pipe, args.steps, **words, **given)
        agreed.append(same)
        with torch.no_grad():  # what the pipelines do with their latents
            decoded = [pipe.image_processor.postprocess(pipe.vae.decode(z).sample, "pt") for z in (serial, out)]
        levels = (decoded[0] * 255 - decoded[1] * 255).abs().max().item()
        print(f"{'':34}largest difference of a decoded pixel: {levels:.2f} of 255")
        agreed.append(levels < 1)
    serial, out, same = compare("digits, DDIM", digits(), args.steps, batch_size=10, output_type="np")
    agreed.append(same)
    try:
        draw(args.out / "diffusers_tiny.png", [serial, out])
        print(f"picture: {args.out / 'diffusers_tiny.png'}")
    except ImportError:
        print("no picture: matplotlib is not installed")
    good = all(agreed)
    print("the images are the pipelines' own" if good else "the images disagree", file=None if good else sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
