"""What the four networks share: how noise level and class enter, and what the networks are trained to return.

Each network is a `Denoiser` around a residual network F. With x = alpha x0 + sigma eps, data of mean mu and of variance
v = s^2 a number, c = 1/sqrt(alpha^2 v + sigma^2) and y = c (x - alpha mu), which has unit variance at every level,

    eps = c (sigma y + alpha s F(y))        x0 = mu + c s (alpha s y - sigma F(y)).

F = 0 is exact for Gaussian data of variance v, and the target of F, c (alpha s eps - sigma (x0 - mu) / s), has unit
variance at every level ("Elucidating the Design Space of Diffusion-Based Generative Models", arXiv 2206.00364).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_adapters import Flow, NoiseSchedule

REACH = 6.0
"""Where the log of the signal-to-noise ratio levels off before it enters a network: it is infinite at an end."""


class Denoiser(nn.Module):
    """A prediction for noisy data at times of a schedule: ``network(x, t, label)``.

    Args:
        residual: F, called as ``residual(y, level, label)`` with levels and labels of shape ``(B,)``.
        schedule: What the times mean.
        prediction: What is returned: ``"eps"``, ``"x0"``, ``"v"``, or ``"velocity"`` of a `Flow`.
        shape: Of one sample.
        classes: How many labels there are; the next one, ``classes``, means "any".
        cosines: For images of smooth parts: the formulas hold for the coefficients of the cosine transform, each with
            an s of its own. F = 0 is then exact for Gaussian data that are independent in these coefficients, which is
            near the law of small patches of photographs. The residual network still sees pixels and answers in pixels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        residual: nn.Module,
        schedule: NoiseSchedule,
        prediction: str,
        shape: tuple[int, ...],
        classes: int,
        cosines: bool = False,
    ) -> None:
        super().__init__()
        if prediction == "velocity" and not isinstance(schedule, Flow):
            raise ValueError(f"velocity on {schedule}; expected Flow, whose velocity is eps - x0")
        self.residual, self.schedule, self.prediction, self.classes = residual, schedule, prediction, classes
        self.cosines = cosines
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape if cosines else ()))
        for axis, size in enumerate(shape if cosines else ()):
            self.register_buffer(f"basis{axis}", cosine_basis(size), persistent=False)

    def fit_data(self, x: Tensor) -> None:
        """Set the mean and the spread of the data, ``(n, *shape)``."""
        self.mean.copy_(x.mean(0))
        squares = self._turn(x - self.mean).square()
        self.std.copy_((squares.mean(0) if self.cosines else squares.mean()).sqrt().clamp_min(1e-3))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The prediction at ``x``, ``(B, *shape)``, for times ``t`` and labels of shape ``(B,)`` or ``()``."""
        alpha, sigma, c, level = self._levels(t.expand(len(x)), x)
        centred = x - alpha * self.mean
        y = c * self._turn(centred)
        h = self._turn(self.residual(self._seen(centred, alpha, sigma), level, self._labels(label, x)))
        eps = self._back(c * (sigma * y + alpha * self.std * h))
        if self.prediction == "eps":
            return eps
        x0 = self.mean + self._back(c * self.std * (alpha * self.std * y - sigma * h))
        if self.prediction == "x0":
            return x0
        return alpha * eps - sigma * x0 if self.prediction == "v" else eps - x0

    def loss(self, x0: Tensor, t: Tensor, eps: Tensor, label: Tensor) -> Tensor:
        """Squared error of F, whose target has unit variance at every level; shape ``(B,)``.

        Coefficients weigh as much as they do in the error of x0, or of eps, which is the same at one level.
        """
        alpha, sigma, c, level = self._levels(t, x0)
        centred, noise = self._turn(x0 - self.mean), self._turn(eps)
        seen = self._seen(alpha * (x0 - self.mean) + sigma * eps, alpha, sigma)
        target = c * (alpha * self.std * noise - sigma * centred / self.std)
        wrong = self._turn(self.residual(seen, level, label)) - target
        weight = (c * self.std).square().expand_as(wrong)
        return (weight * wrong.square()).flatten(1).mean(1) / weight.flatten(1).mean(1)

    def _levels(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma and c shaped to multiply ``x``, and log(alpha s / sigma), ``(B,)``, leveled off smoothly."""
        t = t.to(torch.promote_types(t.dtype, torch.float32))
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        level = REACH * torch.tanh((alpha * self._variance.sqrt() / sigma).log() / REACH)
        alpha, sigma = (curve.view(-1, *[1] * (x.ndim - 1)) for curve in (alpha, sigma))
        c = torch.rsqrt((alpha * self.std) ** 2 + sigma**2)
        return alpha.to(x.dtype), sigma.to(x.dtype), c.to(x.dtype), level.to(x.dtype)

    @property
    def _variance(self) -> Tensor:
        """That of a number of the data, the mean over all places."""
        return self.std.square().mean() if self.cosines else self.std.square()

    def _seen(self, centred: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the residual network sees: noisy data less their mean, of unit variance in all."""
        return centred * torch.rsqrt(alpha**2 * self._variance + sigma**2).to(centred.dtype)

    def _labels(self, label: Tensor | None, x: Tensor) -> Tensor:
        if label is None:
            return torch.full((len(x),), self.classes, device=x.device)
        return label.expand(len(x))

    def _turn(self, x: Tensor) -> Tensor:
        """The cosine transform of images ``(B, C, H, W)``, an orthogonal map."""
        if not self.cosines:
            return x
        return torch.einsum("dc,bchw->bdhw", self.basis0, self.basis1 @ x @ self.basis2.T)

    def _back(self, x: Tensor) -> Tensor:
        """Its inverse."""
        if not self.cosines:
            return x
        return torch.einsum("cd,bchw->bdhw", self.basis0, self.basis1.T @ x @ self.basis2)


def cosine_basis(size: int) -> Tensor:
    """The orthogonal cosine transform, ``(size, size)``: a row a frequency."""
    place = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * place[:, None] * (place + 0.5)) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float()


class Condition(nn.Module):
    """The level and the label as one vector, ``(B, size)``: sines and cosines of the level, an embedding of the label.

    The lowest frequency has half a period over the levels that networks meet, about [-5, 5], so that a network is
    smooth in time.
    """

    omega: Tensor

    def __init__(self, size: int, classes: int, frequencies: int = 8) -> None:
        super().__init__()
        self.register_buffer("omega", math.pi / 10 * torch.arange(1, frequencies + 1), persistent=False)
        self.time, self.label = nn.Linear(2 * frequencies, size), nn.Embedding(classes + 1, size)
        nn.init.normal_(self.label.weight, std=0.5)

    def forward(self, level: Tensor, label: Tensor) -> Tensor:
        phase = level[:, None] * self.omega.to(level.dtype)
        return functional.silu(self.time(torch.cat((phase.sin(), phase.cos()), 1)) + self.label(label))


def zero(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> nn.Linear | nn.Conv1d | nn.Conv2d:
    """The layer, with weights of zero: what it adds starts at nothing."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Perceptron(nn.Module):
    """A residual perceptron, its normalised activations shifted and scaled by the condition: F of flat data.

    The architecture of the packaged digits network (`diffusion_adapters.load_digits`).
    """

    def __init__(
        self, numbers: int, classes: int, width: int, depth: int, condition: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        self.condition = Condition(condition, classes)
        self.modulation = zero(nn.Linear(condition, depth * 2 * width))
        self.enter, self.leave = nn.Linear(numbers, width), zero(nn.Linear(width, numbers))
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)

    def forward(self, y: Tensor, level: Tensor, label: Tensor) -> Tensor:
        changes = self.modulation(self.condition(level, label)).view(-1, self.depth, 2, self.width)
        h = self.enter(y.flatten(1))
        for k, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            normal = functional.layer_norm(h, (self.width,)) * (1 + changes[:, k, 0]) + changes[:, k, 1]
            h = h + down(self.dropout(functional.silu(up(normal))))
        return self.leave(h).view(y.shape)
