"""Tiny parts that the recipes share: networks by their few numbers, and stand-ins for what a loop does not call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as fn
from diffusion.networks import diffusers, made, noise, transformers
from torch import Tensor, nn

STEPS = 8
"""Steps of every recipe."""


class Recipe(NamedTuple):
    """How to make a pipeline and call it.

    Attributes:
        parts: For some of the arguments of its class what makes them, or their value. Others that are required are
            ``None``.
        given: Arguments of a call.
        prepare: Is called with the pipeline, before anything else.
        result: The attribute of the pipeline's output, or its number in a tuple, that holds the sample.
        refused: A regular expression for why it is refused; ``None`` where it is not.
    """

    parts: dict[str, Any]
    given: dict[str, Any]
    prepare: Callable[[Any], Any] | None = None
    result: int | str = 0
    refused: str | None = None


def tiny(name: str, **config: Any) -> Callable[[], Any]:
    """Makes a network of diffusers, once."""
    return cache(lambda: made(getattr(diffusers, name), **config))


def scheduler(name: str, **config: Any) -> Callable[[], Any]:
    """Makes a scheduler, anew each time."""
    return partial(getattr(diffusers, f"{name}Scheduler"), **config)


def guider(**config: Any) -> Callable[[], Any]:
    """Makes classifier-free guidance as an object."""
    from diffusers import ClassifierFreeGuidance

    return partial(ClassifierFreeGuidance, guidance_scale=4.0, **config)


class Part(nn.Module):
    """A part of a pipeline that holds next to nothing."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)
        self.config = _Config(**config)

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.weight.device


class Coder(Part):
    """Stands in for the coder of images, or of videos: it averages over patches, and repeats channels.

    Args:
        channels: Of the latents.
        space: By how much it shrinks height and width.
        time: By how much it shrinks frames; ``None`` for images.
        config: What pipelines ask it for.
    """

    def __init__(self, channels: int = 4, space: int = 2, time: int | None = None, **config: Any) -> None:
        super().__init__()
        self.channels, self.space, self.time = channels, space, time
        basic = {
            "scaling_factor": 0.5,
            "shift_factor": 0.1,
            "latent_channels": channels,
            "z_dim": channels,
            "in_channels": 3,
            "block_out_channels": (4,) * (space.bit_length()),
            "latents_mean": [0.1] * channels,
            "latents_std": [1.5] * channels,
            "force_upcast": False,
            "sample_size": 16,
            "scale_factor_spatial": space,
            "scale_factor_temporal": time or 1,
            "temporal_compression_ratio": time or 1,
            "spatial_compression_ratio": space,
            "patch_size": 1,
            "patch_size_t": 1,
            "use_quant_conv": False,
            "timestep_conditioning": False,
            "invert_scale_latents": False,
            "temperal_downsample": (True,) * ((time or 1).bit_length() - 1),
        }
        config = {**basic, **config}
        self.config = _Config(**config)
        self.spatial_compression_ratio, self.temporal_compression_ratio = space, time or 1
        self.temperal_downsample = config["temperal_downsample"]
        self.latent_channels = channels
        self.latents_mean, self.latents_std = torch.full((channels,), 0.1), torch.full((channels,), 1.5)
        self.bn = SimpleNamespace(running_mean=torch.zeros(4 * channels), running_var=torch.ones(4 * channels))
        self.use_slicing = self.use_tiling = False

    def encode(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.time is None or x.ndim == 4:
            small = fn.avg_pool2d(x, self.space)
        else:
            at = list(range(0, x.shape[2], self.time))
            small = fn.avg_pool3d(x[:, :, at], (1, self.space, self.space))
        repeats = -(-self.channels // small.shape[1])
        latents = torch.cat([small] * repeats, 1)[:, : self.channels]
        spread = _Spread(latents)
        return _Output(latent_dist=spread, latents=latents, latent=latents)

    def decode(self, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        at = (z[:, :3] if z.shape[1] >= 3 else z[:, :1].expand(-1, 3, *z.shape[2:])).float()
        if self.time is None:
            big = fn.interpolate(at, scale_factor=self.space)
        else:
            frames = (at.shape[2] - 1) * self.time + 1
            big = fn.interpolate(at, size=(frames, at.shape[3] * self.space, at.shape[4] * self.space))
        return _Output(sample=big) if kwargs.get("return_dict", True) else (big,)


class _Config(SimpleNamespace):
    """Read by attribute, by name and with ``get``."""

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __contains__(self, name: str) -> bool:
        return hasattr(self, name)


class _Output(SimpleNamespace):
    """Read by attribute, by name and by number."""

    def __getitem__(self, name: Any) -> Any:
        return list(vars(self).values())[name] if isinstance(name, int) else getattr(self, name)


class _Spread:
    """The distribution of latents for an image."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = self.parameters = mean

    def sample(self, generator: Any = None) -> Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        return self.mean + 0.1 * randn_tensor(self.mean.shape, generator=generator, dtype=self.mean.dtype)

    def mode(self) -> Tensor:
        return self.mean


def coder(*args: Any, **kwargs: Any) -> Callable[[], Any]:
    """Makes a `Coder`."""
    return cache(lambda: Coder(*args, **kwargs).eval())


# --- images -----------------------------------------------------------------------------------------------------------


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


def to_picture(image: Tensor) -> Any:
    """One image as a picture of PIL."""
    from diffusers.image_processor import VaeImageProcessor

    return VaeImageProcessor.numpy_to_pil(image.permute(0, 2, 3, 1).numpy())[0]


# --- what calls are given --------------------------------------------------------------------------------------------

SIZE: dict[str, Any] = {"height": 16, "width": 16}
STEP: dict[str, Any] = {"num_inference_steps": STEPS}
LATENT: dict[str, Any] = {**STEP, "output_type": "latent", "guidance_scale": 4.0}
IMAGE = (0.5 + 0.2 * noise(3, 1, 3, 16, 16)).clamp(0, 1)
MASK = (noise(4, 1, 1, 16, 16) > 0).float()
WORDS = 5


def text(width: int = 16, negative: bool = True, mask: bool = False, **more: int) -> dict[str, Any]:
    """Embeddings of a prompt; ``more`` are the widths of others, by the names of their arguments."""
    given: dict[str, Any] = {"prompt_embeds": noise(1, 1, WORDS, width)}
    for i, (name, wide) in enumerate(more.items()):
        given[name] = noise(20 + i, 1, wide)
    if mask:
        given["prompt_attention_mask"] = torch.ones(1, WORDS, dtype=torch.long)
    if negative:
        other = {f"negative_{name}": noise(40 + i, *value.shape) for i, (name, value) in enumerate(given.items())}
        if mask:
            other["negative_prompt_attention_mask"] = torch.ones(1, WORDS, dtype=torch.long)
        given |= other
    return given


POOLED: dict[str, Any] = text(pooled_prompt_embeds=16)
