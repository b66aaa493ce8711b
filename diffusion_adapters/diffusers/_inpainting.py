"""Inpainting: after each step a state is blended with the known image at the noise level of the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.diffusers._wrapped_method import WrappedMethod
from diffusion_adapters.equations._coordinates import Coordinates
from parareal.extend import Stages, lincomb


@dataclass(frozen=True, eq=False)
class Blend:
    """A free request: where the mask is 0, a state becomes the image at its noise level.

    Args:
        coordinates: The coordinates of the ODE.
        image: Clean data outside of the mask, ``(B, *rest)``.
        noise: The noise on it, likewise.
        mask: 1 where samples are drawn and 0 where the image is kept, ``(B, *)`` or what broadcasts to it.
        end: The last point of the grid, where nothing is done: the pipeline itself puts the image in there.
    """

    coordinates: Coordinates
    image: Tensor
    noise: Tensor
    mask: Tensor
    end: float
    free = True

    def __call__(self, t: Tensor, u: Tensor, rows: Any) -> Tensor:
        """States ``(L, B, *rest)`` at ``t``."""
        samples = (rows[1] if isinstance(rows, tuple) else rows)[0].flatten()  # keys of a path may come before
        a, b = self.coordinates.shares(t)
        image, noise = (part[samples].reshape(u.shape).to(u.dtype) for part in (self.image, self.noise))
        mask = self.mask[samples].reshape(*u.shape[:2], *self.mask.shape[1:]).to(u.dtype)
        known = lincomb([((a,), image), ((b,), noise)])
        inside = (t == self.end).reshape(-1, *[1] * (u.ndim - 1))
        return torch.where(inside, u, known + mask * (u - known))


@dataclass(frozen=True)
class Blended(WrappedMethod):
    """A method that blends the state with the image after each step."""

    blend: Blend

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 0) -> Stages:
        """One step of the method; the image is put in at its end."""
        new = yield from self.of_method(problem, t0, t1, u, variant)
        return new._replace(u=(yield self.blend, t1, new.u))
