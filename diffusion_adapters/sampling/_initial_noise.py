"""The noise that sampling starts from: a given tensor, or standard normals of a given shape."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_adapters._validate import kind_of
from diffusion_adapters.models._model import DiffusionModel

Generators = torch.Generator | Sequence[torch.Generator] | None


def start_noise(noise: Any, generator: Any, model: DiffusionModel) -> Tensor:
    """The given noise, checked, or standard normals of the given shape, on the device of the network.

    Raises:
        TypeError: ``noise`` is neither a real floating-point tensor nor a shape, or ``generator`` is of another kind.
        ValueError: ``noise`` has no samples axis, an empty axis, NaN or Inf; ``generator`` came with a noise tensor, or
            the generators are not one for each sample.
    """
    generators = _checked_generators(generator)
    if isinstance(noise, Tensor):
        if generators is not None:
            raise ValueError(
                "noise is a tensor, so that generator has nothing to draw; leave generator out, or pass the shape: "
                f"noise={tuple(noise.shape)}"
            )
        _check_noise(noise)
        return noise
    drawn = _draw(_shape(noise), generators)
    if isinstance(model.network, nn.Module):
        drawn = drawn.to(next((p.device for p in model.network.parameters()), drawn.device))
    return drawn


def _check_noise(noise: Tensor) -> None:
    if not noise.is_floating_point():
        raise TypeError(f"noise is a tensor of {noise.dtype}; expected real floating point: torch.randn(shape)")
    if noise.ndim == 0:
        raise ValueError("noise has no axis; expected shape (B, *rest), one entry for each sample: noise[None]")
    if noise[:1].numel() == 0 and noise.shape[0] > 0:
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}; expected (B, *rest) with no empty axis after the first"
        )
    if not bool(torch.isfinite(noise).all()):
        raise ValueError("noise holds NaN or Inf; expected standard normals: torch.randn(shape)")


def _shape(noise: Any) -> tuple[int, ...]:
    sizes = tuple(map(_size, noise)) if isinstance(noise, tuple | list) else ()
    shape = tuple(size for size in sizes if size is not None)
    if not shape or len(shape) < len(sizes):
        raise TypeError(
            f"noise is {noise!r}; expected a tensor of standard normals or a shape such as (16, 1, 8, 8), the number "
            "of samples first"
        )
    if shape[0] < 0 or any(size < 1 for size in shape[1:]):
        raise ValueError(f"noise is the shape {shape}; expected positive sizes, of which the first may be 0")
    return shape


def _size(value: Any) -> int | None:
    """An int of any kind, NumPy's included, as Python's; ``None`` for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _checked_generators(generator: Any) -> Generators:
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    expected = "expected a torch.Generator, or a list of one for each sample: torch.Generator().manual_seed(0)"
    if not isinstance(generator, list | tuple):
        raise TypeError(f"generator={generator!r} is {kind_of(generator)}; {expected}")
    for i, one in enumerate(generator):
        if not isinstance(one, torch.Generator):
            raise TypeError(f"generator[{i}]={one!r} is {kind_of(one)}; {expected}")
    return generator


def _draw(shape: tuple[int, ...], generator: Generators) -> Tensor:
    if generator is None or isinstance(generator, torch.Generator):
        device = None if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=device)
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators came for {shape[0]} samples; expected one, or one for each")
    rows = [torch.randn(shape[1:], generator=one, device=one.device) for one in generator]
    return torch.stack(rows) if rows else torch.randn(shape)
