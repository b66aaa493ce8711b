"""The flow of Gaussian data in closed form, as a correction that costs no call of the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters._validate import kind_of, one_of, require
from diffusion_adapters.equations._probability_flow import DiffusionODE
from diffusion_adapters.sampling._bound_gaussian import BoundGaussian
from diffusion_adapters.sampling._gaussian_bases import Basis, Elements, Frequencies, Vectors

Transform: TypeAlias = Literal["dct", "fft"]
Fit: TypeAlias = Literal["scalar", "elementwise", "full", "dct", "fft"]

_MOST_ELEMENTS = 4096
"""Most elements of a state for a full covariance, whose eigenvectors then take 128 MiB. A choice."""


@dataclass(frozen=True, eq=False)
class GaussianFlow(pr.Whitened):
    """The probability flow of Gaussian data N(mean, C): a correction for diffusion ODEs, free of network calls.

    In coordinates u = a x0 + b eps it maps u to a' mean + ((a'^2 C + b'^2)/(a^2 C + b^2))^(1/2) (u - a mean).
    Between two iterates only the difference counts, so that the mean matters only for the first guess. With slices
    of one step it lies between Picard iteration (C infinite) and exponential Picard (C = 0). It works with every
    schedule, prediction and solver, inside of `parareal.Secant`, `parareal.Anderson` and `parareal.Damped`, and needs
    the problem of `probability_flow`.

    Args:
        variance: C as a positive number, or one for each element: a tensor of the shape of one sample, ``rest``.
        mean: A number, or a tensor of shape ``rest``; ``None`` for zero.
        covariance: C as a symmetric matrix ``(d, d)`` with no negative eigenvalue, over the d elements of a sample.
        spectrum: Variances for each frequency over the last two axes, or one where there is only one: shape ``(H, W)``,
            ``(C, H, W)``, ...; it is broadcast to ``rest``. Give one of the three.
        transform: The transform of the frequencies: ``"dct"``, the orthonormal cosine transform (type II), for images,
            or ``"fft"``, for periodic data, where the spectrum must be the same at opposite frequencies.

    Raises:
        TypeError: An argument is not a tensor or number.
        ValueError: Not exactly one of the three is given, a number is negative or not finite, or shapes do not fit.
            `parareal.solve` checks them against the state before any work is done.

    Source:
        The flow of a Gaussian: Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364),
        appendix B, applied to Gaussian data.

    Examples:
        >>> import torch, parareal as pr, diffusion_adapters as da
        >>> model = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())
        >>> noise = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))
        >>> flow = da.GaussianFlow(variance=0.5)
        >>> for coarse in (pr.Identity(), flow, pr.Secant(flow)):
        ...     print(da.sample(model, noise, 64, coarse=coarse).solution.stats.rounds)
        23
        8
        5
    """

    variance: float | Tensor | None = None
    mean: float | Tensor | None = None
    covariance: Tensor | None = None
    spectrum: Tensor | None = None
    transform: Transform = "dct"

    def __post_init__(self) -> None:
        given = [name for name in ("variance", "covariance", "spectrum") if getattr(self, name) is not None]
        require(
            len(given) == 1,
            f"{' and '.join(given) or 'none of variance, covariance and spectrum'} came; expected one of the three, "
            "for example GaussianFlow(variance=0.25)",
        )
        one_of(self.transform, get_args(Transform), "transform")
        name = given[0]
        c = _numbers(getattr(self, name), name)
        object.__setattr__(self, name, c)
        if self.mean is not None:
            object.__setattr__(self, "mean", _numbers(self.mean, "mean"))
        if name == "covariance":
            require(
                c.ndim == 2 and c.shape[0] == c.shape[1],
                f"covariance has shape {tuple(c.shape)}; expected a square matrix (d, d), d the elements of a sample",
            )
            require(
                c.shape[0] <= _MOST_ELEMENTS,
                f"covariance is {c.shape[0]} x {c.shape[0]}, too large to take apart; expected at most "
                f"{_MOST_ELEMENTS} elements: use variance=..., or spectrum=... for images",
            )
            require(
                bool(torch.allclose(c, c.T, rtol=1e-6, atol=1e-9 * float(c.abs().max()))),
                "covariance is not symmetric; expected C = C.T, as of torch.cov(data.flatten(1).T)",
            )
        else:
            require(bool((c >= 0).all()), f"{name} holds {c.min().item()}; expected no negative numbers")

    @classmethod
    def fit(cls, data: Tensor, kind: Fit = "scalar") -> GaussianFlow:
        """The Gaussian of some data.

        Args:
            data: Clean samples, shape ``(count, *rest)``, at least two.
            kind: ``"scalar"``: one variance, the mean of all elements' (nearly as good as more). ``"elementwise"``,
                ``"full"``, or for each frequency, ``"dct"`` or ``"fft"``.

        Returns:
            A `GaussianFlow` with the data's mean.

        Raises:
            TypeError: ``data`` is not a floating-point tensor, or ``kind`` is no string.
            ValueError: ``kind`` is unknown, or there are fewer than two samples, or NaN or Inf among them.

        Examples:
            >>> import torch, diffusion_adapters as da
            >>> data = 0.5 * torch.randn(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
            >>> round(float(da.GaussianFlow.fit(data).variance), 2)
            0.25
        """
        given: Any = data
        if not isinstance(given, Tensor) or not given.is_floating_point():
            came = given.dtype if isinstance(given, Tensor) else type(given).__name__
            raise TypeError(f"data is {came}; expected a floating-point tensor of shape (count, *rest)")
        one_of(kind, get_args(Fit), "kind")
        require(
            data.ndim >= 2 and data.shape[0] >= 2 and data.numel() > 0,
            f"data has shape {tuple(data.shape)}; expected at least two samples of shape rest: (count, *rest)",
        )
        require(bool(torch.isfinite(data).all()), "data holds NaN or Inf; expected finite numbers")
        x = data.detach().to(torch.float64)
        mean = x.mean(0)
        if kind == "scalar":
            return cls(variance=x.var(0).mean(), mean=mean)
        if kind == "elementwise":
            return cls(variance=x.var(0), mean=mean)
        if kind == "full":
            return cls(covariance=torch.atleast_2d(torch.cov(x.flatten(1).T)), mean=mean)
        basis = Frequencies(tuple(x.shape[1:]), kind, x.device)
        return cls(spectrum=(basis.to(x - mean) ** 2).sum(0) / (len(x) - 1), mean=mean, transform=kind)

    def bind(self, problem: Any, u0: Any, grid: Any, fine: Any) -> pr.Correction:
        """The flow in the problem's coordinates and for the state's shape."""
        if not isinstance(problem, DiffusionODE):
            raise TypeError(
                f"GaussianFlow came with a problem ({type(problem).__name__}) whose schedule it does not know; "
                "expected the problem of da.probability_flow(model)"
            )
        rest = tuple(u0.shape[1:])
        mean = torch.zeros(()) if self.mean is None else torch.as_tensor(self.mean)
        _check_fits(mean, rest, "mean")
        basis, variances = self._basis(rest, u0.device)
        eta = getattr(fine, "eta", 1.0) if problem.traits.stochastic else 0.0
        device, level = u0.device, float(variances.mean())
        edges = None if grid is None else grid.edges
        return BoundGaussian(problem.coordinates, basis, variances.to(device), mean.to(device), edges, level, eta)

    def _basis(self, rest: tuple[int, ...], device: torch.device) -> tuple[Basis, Tensor]:
        if self.covariance is not None:
            size = math.prod(rest)
            require(
                len(self.covariance) == size,
                f"covariance is over {len(self.covariance)} elements; expected {size}, those of samples {rest}",
            )
            values, vectors = torch.linalg.eigh(self.covariance)
            least = values.min().item()
            require(
                least >= -1e-9 * values.abs().max().item(),
                f"covariance has the eigenvalue {least}; expected none below 0",
            )
            return Vectors(vectors.to(device), rest), values.clamp_min(0.0).reshape(rest)
        if self.spectrum is not None:
            _check_fits(self.spectrum, rest, "spectrum")
            return Frequencies(rest, self.transform, device), self.spectrum
        variance = torch.as_tensor(self.variance)
        _check_fits(variance, rest, "variance")
        return Elements(), variance

    def whiten(self, t: Tensor, u: Any) -> Any:
        """Raises: the flow is not bound to a problem."""
        raise _unbound()

    def unwhiten(self, t: Tensor, w: Any) -> Any:
        """Raises: the flow is not bound to a problem."""
        raise _unbound()

    def dual(self, t: Tensor, b: Any) -> Any:
        """Raises: the flow is not bound to a problem."""
        raise _unbound()


# --- checks -----------------------------------------------------------------------------------------------------------


def _unbound() -> TypeError:
    return TypeError("GaussianFlow was used outside of parareal.solve; call its bind(problem, u0, grid, fine) first")


def _numbers(value: Any, name: str) -> Tensor:
    """Finite real numbers as float64."""
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor) or _wrong_dtype(value):
        came = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"{kind_of(value)}"
        raise TypeError(f"{name} is {came}; expected real numbers, a float or a floating-point tensor")
    numbers = torch.as_tensor(value, dtype=torch.float64).detach()
    require(bool(torch.isfinite(numbers).all()), f"{name} holds NaN or Inf; expected finite numbers")
    return numbers


def _wrong_dtype(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_complex() or value.dtype == torch.bool)


def _check_fits(numbers: Tensor, rest: tuple[int, ...], name: str) -> None:
    shape = tuple(numbers.shape)
    fits = len(shape) <= len(rest) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(rest), strict=False))
    require(fits, f"{name} has shape {shape} and samples have shape {rest}; expected a number, or that shape")
