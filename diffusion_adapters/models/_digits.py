"""A small denoiser of real images, in the package: 8x8 digits, trained by ``scripts/train_digits.py``.

The network is launch-bound: it has so few parameters that the time of a call is that of launching its
operations, not of their arithmetic; a batch of 32 lanes then costs little more than a batch of one, which is
what sampling in parallel in time needs to win wall time on a CPU. It is also smooth in time and state (SiLU, low
frequencies of the log-SNR, no convolution, no batch statistics), and treats the rows of a batch independently.
"""

import importlib.resources
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion_adapters._validate import kind_of

if TYPE_CHECKING:
    from diffusion_adapters.models._model import DiffusionModel

__all__ = ["NO_LABEL", "DigitsNetwork", "load_digits", "read_network"]

NO_LABEL = 10
"""The label that stands for "any digit": the unconditional branch of classifier-free guidance."""

_SIDE = 8
_PIXELS = _SIDE * _SIDE
_WEIGHTS = "digits.safetensors"


class DigitsNetwork(nn.Module):
    """Predicts the noise in noisy 8x8 digits: eps(x_t, t, label), with x_t = alpha_t x_0 + sigma_t eps.

    The time is that of the variance-preserving schedule with linear beta ("Score-Based Generative Modeling through
    Stochastic Differential Equations", arXiv 2011.13456): alpha_t = exp(-1/2 int_0^t beta), sigma_t^2 = 1 - alpha_t^2,
    for t in [1e-3, 1].

    With y = (x - alpha mu) / sqrt(alpha^2 v + sigma^2), which has unit variance at every t (mu: mean image, v: mean
    variance of a pixel), the answer is (sigma y + alpha sqrt(v) F(y)) / sqrt(alpha^2 v + sigma^2). The first term alone
    is exact for Gaussian data of variance v; the residual network F has a target of unit variance ("Elucidating the
    Design Space of Diffusion-Based Generative Models", arXiv 2206.00364, written for noise prediction).

    F is a residual perceptron on the 64 pixels. Sines and cosines of the log-SNR and an embedding of the label scale
    and shift the normalised activations of each block ("Scalable Diffusion Models with Transformers", arXiv
    2212.09748). Label 10 means "no label" ("Classifier-Free Diffusion Guidance", arXiv 2207.12598).

    Args:
        width: size of the residual stream.
        hidden: size of the hidden layer of each block.
        depth: number of residual blocks.
        condition: size of the joint embedding of time and label.
        frequencies: number of frequencies of the log-SNR, each with a sine and a cosine.
        beta_min: beta at t = 0 of the schedule that ``t`` refers to.
        beta_max: beta at t = 1.
        dropout: share of each block's hidden units dropped in training mode; nothing in eval mode.
    """

    mean: Tensor
    std: Tensor
    omega: Tensor

    def __init__(
        self,
        *,
        width: int = 192,
        hidden: int = 192,
        depth: int = 4,
        condition: int = 96,
        frequencies: int = 8,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        self.beta_min, self.beta_max = beta_min, beta_max
        self.register_buffer("mean", torch.zeros(_PIXELS))
        self.register_buffer("std", torch.ones(()))
        # log(alpha/sigma) lies in about [-5, 5]: half a period of the lowest frequency, 20/frequencies is the shortest.
        self.register_buffer("omega", math.pi / 10 * torch.arange(1, frequencies + 1))
        self.time = nn.Linear(2 * frequencies, condition)
        self.label = nn.Embedding(NO_LABEL + 1, condition)
        self.modulation = nn.Linear(condition, depth * 2 * width)  # (shift, scale) of every block in one product
        self.enter = nn.Linear(_PIXELS, width)
        self.up = nn.ModuleList(nn.Linear(width, hidden) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(hidden, width) for _ in range(depth))
        self.leave = nn.Linear(width, _PIXELS)
        self.dropout = nn.Dropout(dropout)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Start at the exact answer for Gaussian data (F = 0), every block at shift 0 and scale 1."""
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        nn.init.normal_(self.modulation.weight, std=0.02)
        self.modulation.bias.view(self.depth, 2, self.width).copy_(torch.tensor([0.0, 1.0])[:, None])

    def forward(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """Predict the noise.

        Args:
            x: noisy images, float, shape (B, 1, 8, 8), of the dtype of the parameters.
            t: time of each image, shape (B,), or one for all, shape (); any float dtype.
            label: digit of each image, integers in 0..9, or 10 for "no label"; shape (B,), or one for all, shape ();
                None is 10 for all.

        Returns:
            The predicted noise, shape and dtype of ``x``.
        """
        self._check_images(x)
        batch = x.shape[0]
        alpha, sigma, log_snr, scale = self._levels(self._times(t, x))
        phase = log_snr * self.omega
        time = self.time(torch.cat((phase.sin(), phase.cos()), dim=-1).to(x.dtype))
        alpha, sigma, scale = alpha.to(x.dtype), sigma.to(x.dtype), scale.to(x.dtype)
        y = (x.reshape(batch, _PIXELS) - alpha * self.mean) * scale
        condition = functional.silu(time + self._embed(label, batch, x.device))
        shift, gain = self.modulation(condition).view(-1, self.depth, 2, self.width).unbind(2)  # (B or 1, depth, width)
        h = self.enter(y)
        for k, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            normal = functional.layer_norm(h, (self.width,))
            inner = functional.silu(up(torch.addcmul(shift[:, k], normal, gain[:, k])))
            h = h + down(self.dropout(inner))
        return (torch.addcmul(sigma * y, alpha * self.std, self.leave(h)) * scale).view(x.shape)

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha, sigma, log(alpha/sigma) and 1/sqrt(alpha^2 v + sigma^2), each the shape and dtype of ``t``."""
        log_alpha = (-0.5 * self.beta_min) * t - (0.25 * (self.beta_max - self.beta_min)) * t * t
        variance = -torch.expm1(2 * log_alpha)
        alpha = log_alpha.exp()
        spread = alpha * self.std
        return alpha, variance.sqrt(), log_alpha - 0.5 * variance.log(), torch.rsqrt(variance + spread * spread)

    def _check_images(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"x is {kind_of(x)}; expected a float tensor of shape (B, 1, 8, 8): torch.as_tensor(x)")
        if x.ndim != 4 or tuple(x.shape[1:]) != (1, _SIDE, _SIDE):
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (B, 1, 8, 8): x.reshape(-1, 1, 8, 8)")
        if x.dtype != self.mean.dtype:
            raise TypeError(
                f"x is {x.dtype} and the parameters are {self.mean.dtype}; expected one dtype: "
                f"x.to({self.mean.dtype}), or load_digits(dtype={x.dtype})"
            )

    def _times(self, t: Tensor | float, x: Tensor) -> Tensor:
        """``t`` as a column, (B, 1) or (1, 1), in the parameters' dtype, or float32 where that is shorter."""
        if isinstance(t, (int, float)):
            t = torch.as_tensor(t, dtype=torch.float64)
        expected = f"expected a real time in [1e-3, 1] for each of the {x.shape[0]} images, or one for all"
        if not isinstance(t, Tensor) or t.is_complex():
            came = t.dtype if isinstance(t, Tensor) else type(t).__name__
            raise TypeError(f"t is {came}; {expected}: torch.as_tensor(t, dtype=torch.float32)")
        if t.shape not in ((), x.shape[:1]):
            raise ValueError(f"t has shape {tuple(t.shape)}; {expected}: torch.full(({x.shape[0]},), 0.5)")
        t = t.to(x.device)
        return t.to(torch.promote_types(x.dtype, torch.float32)).reshape(-1, 1)

    def _embed(self, label: Tensor | None, batch: int, device: torch.device) -> Tensor:
        """Embedding of the labels, (B, condition) or (1, condition)."""
        if label is None:
            return self.label.weight[NO_LABEL:]
        if (
            not isinstance(label, Tensor)
            or label.is_floating_point()
            or label.is_complex()
            or label.dtype == torch.bool
        ):
            came = label.dtype if isinstance(label, Tensor) else type(label).__name__
            raise TypeError(f"label is {came}; expected an integer tensor: torch.as_tensor(label, dtype=torch.long)")
        if label.shape not in ((), (batch,)):
            raise ValueError(
                f"label has shape {tuple(label.shape)}; expected one for each of the {batch} images or one for all: "
                f"torch.full(({batch},), 3)"
            )
        fault = f"expected 0..9, or {NO_LABEL} (or label=None) for no label: label.clamp(0, {NO_LABEL})"
        if device.type != "cpu" and bool(((label < 0) | (label > NO_LABEL)).any()):
            raise ValueError(f"label holds {sorted(set(label.reshape(-1).tolist()))}; {fault}")
        try:  # on the CPU the lookup itself checks the range, at no cost
            return self.label(label.reshape(-1).long())
        except IndexError:
            raise ValueError(f"label holds {sorted(set(label.reshape(-1).tolist()))}; {fault}") from None


def load_digits(*, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "DiffusionModel":
    """The pretrained 8x8 digit model, ready for ``sample``.

    The network was trained by ``scripts/train_digits.py`` on 1,437 of the 1,797 scans of scikit-learn's ``load_digits``
    ("Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, CC BY 4.0), with the pixel values
    0..16 mapped to [-1, 1]. It takes ``label=`` (integers 0..9, or 10 for none), so that it can be guided.

    Args:
        device: where to put the parameters; None is the CPU.
        dtype: dtype of the parameters and so of the images; None is float32, as stored.

    Returns:
        A ``DiffusionModel`` of noise prediction on the schedule ``VP()``, in eval mode and without gradients.

    Raises:
        ImportError: where safetensors is not installed.
        TypeError: where ``dtype`` is not a real floating dtype.
    """
    given: Any = dtype
    if given is not None and not (isinstance(given, torch.dtype) and given.is_floating_point):
        raise TypeError(f"dtype is {given!r}; expected a real floating dtype: load_digits(dtype=torch.float32)")
    resource = importlib.resources.files("diffusion_adapters").joinpath("data", _WEIGHTS)
    with importlib.resources.as_file(resource) as path:
        network = read_network(path)
    from diffusion_adapters.models._model import DiffusionModel
    from diffusion_adapters.noise_schedules._named import VP

    noise_schedule = VP(beta_min=network.beta_min, beta_max=network.beta_max)
    return DiffusionModel(network.to(device=device, dtype=dtype), noise_schedule, prediction="eps")


def read_network(path: Path) -> DigitsNetwork:
    """The network stored in a safetensors file, on the CPU in float32, in eval mode and without gradients.

    The file's own metadata hold the hyper-parameters, as JSON under ``architecture``.
    """
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(
            "load_digits reads its weights with safetensors, which is not installed: "
            "pip install 'torch-parareal[diffusion]'"
        ) from error
    with safe_open(path, framework="pt") as stored:
        architecture: dict[str, Any] = json.loads(stored.metadata()["architecture"])
        weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    network = DigitsNetwork(**architecture)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)
