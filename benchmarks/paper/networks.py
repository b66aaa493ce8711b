"""The trained networks that the experiments run on: the packaged digits, and those of `benchmarks/networks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import networks
import torch
from networks import quality as measured
from networks.load import FOLDER
from torch import Tensor

import diffusion_adapters as da

Quality = Callable[[Tensor, Tensor], dict[str, float]]
"""Measures of samples, from samples and their labels."""


@dataclass(frozen=True)
class Network:
    """A network and what is known of its data.

    Attributes:
        name: Short.
        model: Without conditioning; it takes ``label``.
        shape: Of one sample.
        classes: Number of labels; the next one means "any".
        strong: A scale of guidance that people would call strong.
        quality: Measures of samples, at least 100 of them: ``frechet``, ``accuracy`` and ``p`` of a two-sample test.
        decode: Samples as data.
    """

    name: str
    model: da.DiffusionModel
    shape: tuple[int, ...]
    classes: int
    strong: float
    quality: Quality
    decode: Callable[[Tensor], Tensor] = lambda samples: samples

    def labels(self, seeds: Sequence[int]) -> Tensor:
        """Seeds take the labels in turn."""
        return torch.tensor([seed % self.classes for seed in seeds])

    def given(self, seeds: Sequence[int], scale: float = 1.0) -> da.DiffusionModel:
        """The model for the labels of these seeds."""
        label = {"label": self.labels(seeds)}
        if scale == 1.0:
            return self.model.with_conditioning(**label)
        return da.guided(self.model, scale, label, {"label": torch.full((len(seeds),), self.classes)})

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """One noise a seed, whatever stands beside it."""
        return torch.stack([torch.randn(self.shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def digits() -> Network:
    from paper.digits_quality import quality

    return Network("digits", da.load_digits(), (1, 8, 8), 10, 7.5, quality)


def trained(name: str) -> Network:
    """One of `benchmarks/networks`."""
    found = networks.load(name)

    def quality(samples: Tensor, labels: Tensor) -> dict[str, float]:
        measures = measured.quality(name, samples, labels)
        return {"frechet": measures["frechet"], "accuracy": measures["accuracy"], "p": measures["p_value"]}

    return Network(name, found.model, tuple(found.shape), len(found.classes), 7.5, quality, found.decode)


def names() -> list[str]:
    """Digits first; of the others those whose weights are there."""
    return ["digits", *(name for name in networks.NAMES if (FOLDER / f"{name}.safetensors").exists())]


def load(name: str) -> Network:
    return digits() if name == "digits" else trained(name)
