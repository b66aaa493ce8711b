"""One call of a pipeline: its options, and the data that the pipeline prepares before its loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffusion_adapters.diffusers._problem import Setup

NETWORKS = ("unet", "transformer", "transformer_2", "controlnet", "prior", "decoder")
"""Components that a pipeline may call in its loop."""


@dataclass
class Inpainting:
    """Image, noise and mask of inpainting, shaped like the latents; the mask is 0 where the image is kept."""

    image: Tensor | None = None
    noise: Tensor | None = None
    mask: Tensor | None = None

    def blended(self, latents: Tensor) -> Tensor:
        """Latents with the image put in where the mask is 0."""
        if self.image is None or self.mask is None:
            raise ValueError("there is no image to put in; expected inpainting.complete")
        mask = self.mask[: len(latents)]
        return (1 - mask) * self.image + mask * latents

    @property
    def complete(self) -> bool:
        """Whether image, noise and mask are all known."""
        return self.image is not None and self.noise is not None and self.mask is not None


@dataclass(eq=False)
class Call:
    """One call of a pipeline.

    Attributes:
        setup: How to solve.
        name: The name of the pipeline, for errors.
        interrupted: Whether the user has interrupted the call.
        given: The arguments of the call, by name.
        scheduler: The stand-in for the scheduler, set when it is made.
        latents: The latents that the pipeline prepared, if known.
        inpainting: The image to keep, if any.
        preview: Whether each turn's ``step`` returns the best latents so far.
        bar: The pipeline's progress bar.
        stacked: Whether the pipeline receives outputs of its networks in the shape of its own batch.
        from_step: Whether latents that were not prepared are those of the first ``step``, and not the network's input.
    """

    setup: Setup
    name: str
    interrupted: Callable[[], bool]
    given: dict[str, Any]
    scheduler: Any = None
    latents: Tensor | None = None
    inpainting: Inpainting = field(default_factory=Inpainting)
    preview: bool = False
    bar: Any = None
    stacked: bool = False
    from_step: bool = False


class OtherRowsError(Exception):
    """The rows of the network's input are not what they were taken for: ``scheduler.step`` shows the samples."""


@dataclass(frozen=True, eq=False)
class Batch:
    """The latents that a run starts from.

    Attributes:
        latents: One row for each sample, ``(B, *rest)``.
        duplicated: Whether the pipeline keeps every sample twice, for guidance. A guess where the input of the network
            repeats itself: samples that start from equal latents look the same.
        from_input: Whether they were taken from the input of the network, and not from the prepared latents.
    """

    latents: Tensor
    duplicated: bool = False
    from_input: bool = False

    @classmethod
    def of_input(cls, value: Tensor, factor: float) -> Batch:
        """From the first input of the network: ``factor`` times the latents, or two copies of that for guidance."""
        latents = value / factor
        half = len(latents) // 2
        duplicated = len(latents) % 2 == 0 and bool(torch.equal(latents[:half], latents[half:]))
        return cls(latents[:half] if duplicated else latents, duplicated, from_input=True)

    def as_kept(self, latents: Tensor) -> Tensor:
        """Latents in the layout of the pipeline, from those of the samples."""
        return torch.cat([latents, latents]) if self.duplicated else latents

    def of_samples(self, kept: Tensor) -> Tensor:
        """The inverse of `as_kept`."""
        return kept[: len(kept) // 2] if self.duplicated else kept
