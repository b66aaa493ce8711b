"""The trained networks that the experiments run on: the packaged digits, and those of `benchmarks/networks`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
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
        quality: Measures of samples, which take a while to set up the first time.
    """

    name: str
    model: da.DiffusionModel
    shape: tuple[int, ...]
    classes: int
    strong: float
    quality: Quality

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
    folder = importlib.import_module("networks")
    found = folder.load(name)
    return Network(
        name,
        found.model,
        tuple(found.shape),
        found.classes,
        7.5,
        lambda samples, labels: folder.quality(name, samples, labels),
    )


def names() -> list[str]:
    """Digits first."""
    try:
        return ["digits", *importlib.import_module("networks").NAMES]
    except (ImportError, AttributeError):
        return ["digits"]


def load(name: str) -> Network:
    return digits() if name == "digits" else trained(name)
