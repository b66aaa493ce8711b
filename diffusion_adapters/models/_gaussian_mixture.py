"""Data whose diffusion is known exactly: a mixture of Gaussians stays one under noise; predictions are formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_adapters._validate import require
from diffusion_adapters.models._model import DiffusionModel
from diffusion_adapters.models._prediction import ROWS, Prediction, check_prediction, levels_at, per_row
from diffusion_adapters.noise_schedules._base import NoiseSchedule


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of isotropic Gaussians, as data with an exact denoiser: a test problem without a network.

    With noise the components become N(alpha mu_k, alpha^2 v_k + sigma^2), with posterior weights r_k(x), and
    E[x0 | x] = sum_k r_k (mu_k + alpha v_k/(alpha^2 v_k + sigma^2) (x - alpha mu_k)) and
    E[eps | x] = sum_k r_k sigma/(alpha^2 v_k + sigma^2) (x - alpha mu_k): finite also where alpha or sigma is 0.

    Args:
        means: Centres mu_k, floating point, shape ``(components, *rest)``; kept as float64.
        variances: Variance v_k of every coordinate, positive: a number, or shape ``(components,)``.
        weights: Probabilities of the components, positive, shape ``(components,)``, scaled to sum to one; ``None`` for
            equal ones.

    Raises:
        TypeError: ``means`` is not a floating-point tensor.
        ValueError: Shapes do not fit, or a number is not finite or not positive.

    Examples:
        >>> import torch, diffusion_adapters as da
        >>> mixture = da.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), variances=0.01)
        >>> out = da.sample(mixture.model(da.VP()), (4, 2), steps=20, generator=torch.Generator().manual_seed(0))
        >>> out.samples.round().abs().tolist()
        [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
    """

    means: Tensor
    variances: Tensor | float = 1.0
    weights: Tensor | None = None

    def __repr__(self) -> str:
        count, *rest = self.means.shape
        return f"GaussianMixture({count} components of shape {tuple(rest)})"

    def __post_init__(self) -> None:
        given: Any = self.means
        if not isinstance(given, Tensor) or not given.is_floating_point():
            came = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise TypeError(f"means is {came}; expected a floating-point tensor of shape (components, *rest)")
        means = self.means.detach().to(torch.float64)
        require(
            means.ndim >= 1 and means.shape[0] >= 1 and bool(torch.isfinite(means).all()),
            f"means has shape {tuple(means.shape)} or holds NaN or Inf; expected finite numbers, (components, *rest)",
        )
        variances = _positive(self.variances, means, "variances")
        weights = _positive(1.0 if self.weights is None else self.weights, means, "weights")
        object.__setattr__(self, "means", means)
        object.__setattr__(self, "variances", variances)
        object.__setattr__(self, "weights", weights / weights.sum())

    def network(self, noise_schedule: NoiseSchedule, prediction: Prediction = "eps") -> Callable[..., Tensor]:
        """The exact denoiser as a network for `DiffusionModel`.

        Args:
            noise_schedule: The schedule.
            prediction: What it returns.

        Returns:
            ``network(x, t, label=None)``: x of shape ``(B, *rest)``, t of shape ``(B,)`` or ``()``; ``label``, int64 of
            shape ``(B,)``, restricts the data of each sample to one component, -1 to none. It computes in float64 and
            returns the dtype of x.

        Raises:
            ValueError: ``prediction`` is unknown.
        """
        check_prediction(prediction)

        def network(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            t = t.to(device=x.device, dtype=torch.float64)
            at = levels_at(noise_schedule, t, velocity=prediction == "velocity")
            x0, eps = self.denoise(x.to(torch.float64), at.alpha, at.sigma, label)
            row = ROWS[prediction](at)
            value = (per_row(row.a, eps) * x0 + per_row(row.b, eps) * eps) / per_row(row.weight, eps)
            return value.to(x.dtype)

        return network

    def model(self, noise_schedule: NoiseSchedule, prediction: Prediction = "eps") -> DiffusionModel:
        """`network` as a `DiffusionModel`."""
        return DiffusionModel(self.network(noise_schedule, prediction), noise_schedule, prediction)

    def denoise(self, x: Tensor, alpha: Tensor, sigma: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """E[x0 | x] and E[eps | x].

        Args:
            x: Float64, shape ``(B, *rest)``.
            alpha: Float64, shape ``(B,)`` or ``()``.
            sigma: Likewise.
            label: A component for each sample, int64, shape ``(B,)``; -1 for none.

        Returns:
            Two tensors of the shape of x.
        """
        means = self.means.to(x.device).flatten(1) if self.means.ndim > 1 else self.means.to(x.device)[:, None]
        v, log_weights = torch.as_tensor(self.variances, device=x.device), self._log_weights(label, x)
        alpha, sigma = alpha.reshape(-1, 1, 1), sigma.reshape(-1, 1, 1)
        offset = x.reshape(x.shape[0], 1, -1) - alpha * means  # (B, K, D)
        total = alpha * alpha * v[:, None] + sigma * sigma  # (B or 1, components, 1)
        distance = (offset * offset / total).sum(-1)
        logits = log_weights - 0.5 * (distance + means.shape[1] * total[..., 0].log())
        r = torch.softmax(logits, dim=1)[..., None]
        x0 = (r * (means + alpha * v[:, None] / total * offset)).sum(1)
        eps = (r * (sigma / total) * offset).sum(1)
        return x0.reshape(x.shape), eps.reshape(x.shape)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Data: ``count`` independent samples, float64, shape ``(count, *rest)``."""
        device = self.means.device
        weights, variances = torch.as_tensor(self.weights), torch.as_tensor(self.variances)
        which = torch.multinomial(weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, *self.means.shape[1:], dtype=torch.float64, device=device, generator=generator)
        scale = variances[which].sqrt()
        return self.means[which] + scale.reshape(-1, *[1] * (self.means.ndim - 1)) * noise

    def _log_weights(self, label: Tensor | None, x: Tensor) -> Tensor:
        """Shape ``(components,)``, or ``(B, components)`` where labels leave one component to some samples."""
        log_weights = torch.as_tensor(self.weights, device=x.device).log()
        if label is None:
            return log_weights
        wrong = (label < -1) | (label >= len(log_weights))
        require(
            not bool(wrong.any()),
            f"label holds {sorted(set(label[wrong].tolist()))}; expected 0 ... {len(log_weights) - 1}, or -1 for none",
        )
        other = torch.arange(len(log_weights), device=x.device) != label[:, None]
        return log_weights.masked_fill(other & (label[:, None] >= 0), -math.inf)


def _positive(value: Any, means: Tensor, name: str) -> Tensor:
    """Positive numbers, float64, shape ``(components,)``."""
    numbers = torch.as_tensor(value, dtype=torch.float64, device=means.device).detach()
    require(
        numbers.shape in ((), means.shape[:1]),
        f"{name} has shape {tuple(numbers.shape)}; expected a number, or one for each of {means.shape[0]} components",
    )
    require(
        bool((torch.isfinite(numbers) & (numbers > 0)).all()),
        f"{name} holds {numbers.min().item()} ... {numbers.max().item()}; expected finite positive numbers",
    )
    return numbers.expand(means.shape[0]).clone()
