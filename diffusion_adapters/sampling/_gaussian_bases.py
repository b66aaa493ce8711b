"""Bases in which the covariance of Gaussian data is diagonal."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Basis(ABC):
    """An orthonormal basis of samples; states have any number of axes in front."""

    @abstractmethod
    def to(self, u: Tensor) -> Tensor: ...

    @abstractmethod
    def back(self, w: Tensor) -> Tensor: ...


class Elements(Basis):
    def to(self, u: Tensor) -> Tensor:
        return u

    def back(self, w: Tensor) -> Tensor:
        return w


class Vectors(Basis):
    def __init__(self, vectors: Tensor, rest: tuple[int, ...]) -> None:
        self._vectors, self._axes = vectors, len(rest)

    def to(self, u: Tensor) -> Tensor:
        return self._times(u, self._vectors)

    def back(self, w: Tensor) -> Tensor:
        return self._times(w, self._vectors.T)

    def _times(self, u: Tensor, matrix: Tensor) -> Tensor:
        return (u.flatten(u.ndim - self._axes) @ matrix.to(u.dtype)).reshape(u.shape)


class Frequencies(Basis):
    """Over the last two axes of a sample, or over its only one.

    For ``"fft"`` it is the Hartley transform, the real part of the Fourier transform less the imaginary one: real,
    orthonormal, its own inverse, and with the same eigenvalues.
    """

    def __init__(self, rest: tuple[int, ...], transform: str, device: torch.device) -> None:
        sizes = rest[-2:]
        self._axes = tuple(range(-len(sizes), 0))
        self._cosines = [_cosines(size).to(device) for size in sizes] if transform == "dct" else None

    def to(self, u: Tensor) -> Tensor:
        if self._cosines is None:
            image = torch.fft.fftn(u, dim=self._axes, norm="ortho")
            return image.real - image.imag
        return self._along(u, [matrix.T for matrix in self._cosines])

    def back(self, w: Tensor) -> Tensor:
        return self.to(w) if self._cosines is None else self._along(w, self._cosines)

    def _along(self, u: Tensor, matrices: list[Tensor]) -> Tensor:
        u = u @ matrices[-1].to(u.dtype)
        return u if len(matrices) == 1 else matrices[0].T.to(u.dtype) @ u


def _cosines(size: int) -> Tensor:
    """Rows: the orthonormal cosine transform of type II, float64."""
    n = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (n + 0.5) * n[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix
