"""The trained networks, by name: `load` gives a diffusion model that is ready for `diffusion_adapters.sample`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import diffusion_adapters as da

from .autoencoder import Autoencoder
from .layers import Denoiser, Perceptron
from .strokes import StrokeNetwork
from .transformer import Transformer
from .unet import UNet

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Spec:
    """What a network is before it is trained.

    Attributes:
        shape: Of one sample.
        classes: What the labels mean; one more label, ``len(classes)``, means "any".
        noise_schedule: That it is trained on.
        prediction: What it returns.
        residual: Makes the untrained network inside of the `Denoiser`.
        decoder: Whether samples are latents that an autoencoder decodes.
        cosines: See `Denoiser`.
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...]
    noise_schedule: da.NoiseSchedule
    prediction: str
    residual: Callable[[], nn.Module]
    decoder: bool = False
    cosines: bool = False

    def denoiser(self) -> Denoiser:
        """The untrained network."""
        classes = len(self.classes)
        return Denoiser(self.residual(), self.noise_schedule, self.prediction, self.shape, classes, self.cosines)


_CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

SPECS = {
    "fashion": Spec((1, 28, 28), _CLOTHES, da.VP(), "eps", lambda: UNet(channels=1, classes=10)),
    "photos": Spec(
        (3, 16, 16),
        ("china", "flower"),
        da.Flow(),
        "velocity",
        lambda: Transformer(channels=3, side=16, classes=2),
        cosines=True,
    ),
    "speech": Spec(
        (4, 8, 8),
        _DIGITS,
        da.EDM(),
        "x0",
        lambda: Perceptron(numbers=256, classes=10, width=256, depth=4, condition=96, dropout=0.1),
        decoder=True,
    ),
    "strokes": Spec((2, 8), _DIGITS, da.VP.cosine(), "v", lambda: StrokeNetwork(classes=10)),
}
NAMES = tuple(SPECS)
SMALLER = {
    "strokes-small": replace(
        SPECS["strokes"], residual=lambda: StrokeNetwork(10, channels=24, depth=2, condition=48, reach=3)
    ),
}
"""Smaller networks of the same data, schedule and prediction as those before the hyphen, for coarse propagators."""


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network and what is known of it.

    Attributes:
        name: One of `NAMES`, or of `SMALLER`.
        model: The model without a class; its network takes ``label=`` of shape ``(B,)``.
        shape: Of one sample of the model.
        classes: What the labels 0, 1, ... mean; the next one means "any".
        metadata: From the file: ``data``, ``licence``, ``training``.
    """

    name: str
    model: da.DiffusionModel
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    metadata: dict[str, str]
    autoencoder: Autoencoder | None = None

    def conditioned(self, labels: Tensor, guidance: float = 1.0) -> da.DiffusionModel:
        """The model for these labels, ``(samples,)`` or ``(1,)``, with classifier-free guidance where it is not 1."""
        if guidance == 1.0:
            return self.model.with_conditioning(label=labels)
        return da.guided(self.model, guidance, {"label": labels}, {"label": torch.full_like(labels, len(self.classes))})

    def labels(self, count: int) -> Tensor:
        """The classes in turn, ``count`` labels in all."""
        return torch.arange(count) % len(self.classes)

    def noise(self, count: int, seed: int = 0) -> Tensor:
        """Standard normals to start from, ``(count, *shape)``."""
        return torch.randn(count, *self.shape, generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor:
        """Samples as data: those of ``"speech"`` as spectrograms ``(B, 1, 32, 32)``, all others as they are."""
        return samples if self.autoencoder is None else self.autoencoder.decode(samples)


def load(
    name: str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None, folder: Path = FOLDER
) -> Network:
    """A trained network, in eval mode and without gradients.

    Args:
        name: One of `NAMES`, or of `SMALLER`.
        device: Where to put the weights; None is the CPU.
        dtype: Of the weights; None is float32. They are stored in half precision.
        folder: Where the files lie.
    """
    spec = {**SPECS, **SMALLER}.get(name)
    if spec is None:
        raise ValueError(f"name is {name!r}; expected one of {', '.join((*NAMES, *SMALLER))}")
    weights, metadata = read(folder / f"{name}.safetensors")
    denoiser = ready(spec.denoiser(), part(weights, "denoiser"))
    autoencoder = ready(Autoencoder(), part(weights, "autoencoder")) if spec.decoder else None
    if autoencoder is not None:
        autoencoder = autoencoder.to(device=device, dtype=dtype)
    prediction: Any = spec.prediction
    model = da.DiffusionModel(denoiser.to(device=device, dtype=dtype), spec.noise_schedule, prediction=prediction)
    return Network(name, model, spec.shape, spec.classes, metadata, autoencoder)


def ready(network: nn.Module, weights: dict[str, Tensor]) -> Any:
    """The network with these weights, in eval mode and without gradients."""
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def part(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The weights whose names begin with ``name`` and a dot, without those."""
    return {key.removeprefix(name + "."): value for key, value in weights.items() if key.startswith(name + ".")}


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file."""
    with safe_open(path, framework="pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata()  # noqa: SIM118


def write(path: Path, parts: dict[str, nn.Module], metadata: dict[str, Any]) -> None:
    """Writes modules by name in half precision, and metadata, of which what is no string becomes JSON."""
    tensors = {f"{name}.{key}": value.half() for name, one in parts.items() for key, value in one.state_dict().items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata=texts)
    path.chmod(0o644)
