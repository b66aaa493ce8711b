"""The flow of Gaussian data in closed form, as a correction that costs no call of the network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters._validate import kind_of, one_of, require
from diffusion_adapters.equations._coordinates import Coordinates
from diffusion_adapters.equations._probability_flow import DiffusionODE
from diffusion_adapters.sampling._gaussian_bases import Basis, Elements, Frequencies, Vectors
from parareal.extend import Ints, Slices, to_device

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
        return _Bound(problem.coordinates, basis, variances.to(device), mean.to(device), edges, level, eta)

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


@dataclass(frozen=True, eq=False)
class _Bound(pr.Whitened):
    """The flow for one problem and shape: whitened, a state is one of unit variance in the eigenvectors of C.

    Samplers that add noise contract more: with the noise of DDPM a difference in u/a changes as the variance does, not
    as the standard deviation; with a part eta of it, as the power (1 + eta^2)/2 of the variance.
    """

    coordinates: Coordinates
    basis: Basis
    variances: Tensor
    mean: Tensor
    edges: Tensor | None
    level: float
    eta: float = 0.0

    def divisor(self, t: Tensor) -> Tensor | None:
        """The standard deviation, where it is one for all elements."""
        if not isinstance(self.basis, Elements) or self.variances.numel() > 1:
            return None
        return self._deviation(t, t, self.variances.to(t.device).reshape(()))

    def whiten(self, t: Tensor, u: Tensor) -> Tensor:
        """The state in units of its standard deviations at ``t``."""
        w = self.basis.to(u)
        return w / self._deviation(t, w)

    def unwhiten(self, t: Tensor, w: Tensor) -> Tensor:
        """The inverse of `whiten`."""
        return self.basis.back(w * self._deviation(t, w))

    def dual(self, t: Tensor, b: Tensor) -> Tensor:
        """The state times the standard deviations."""
        w = self.basis.to(b)
        return w * self._deviation(t, w)

    def guess(self, at: Any, new: pr.Known) -> Tensor:
        """The whole flow, about the mean."""
        a0, a1 = (_like(self.coordinates.shares(t)[0], new.u) for t in (at.t0, at.t1))
        mean = self.mean.to(new.u.dtype)
        return a1 * mean + self.apply(at, new.u - a0 * mean)

    def guess_run(self, at: Any, u: Tensor, before: tuple[pr.Edge, ...]) -> Tensor:
        """All boundaries at once: the whole flow about the mean, or an extrapolation of the x0 of earlier boundaries.

        Along the flow of a Gaussian of any mean, x0 is linear in p = a/(a^2 v + b^2)^(1/2). So a line through the x0 of
        the last two slices gives those of the slices to come.
        """
        start, ends = at.t0[:, 0], at.t1
        if before and self.eta == 0.0:  # with noise put back, differences of states say little of x0
            if self.edges is not None and getattr(at, "n", None) is not None and len(before) == 2:
                return self._combined(self.edges, at.n, u, before)
            return self._continued(at, u, before)
        a0, a1 = self.coordinates.shares(start)[0], self.coordinates.shares(ends)[0]
        mean = self.basis.to(self.mean.to(u.dtype).expand(u.shape))
        w = (self.basis.to(u) - _like(a0, u) * mean) / self._deviation(start, u)
        return self.basis.back(w.unsqueeze(1) * self._deviation(ends, u.unsqueeze(1)) + _outer(a1, mean))

    def _combined(self, edges: Tensor, n: Ints, u: Tensor, before: tuple[pr.Edge, ...]) -> Tensor:
        """`_continued` in one product: it is linear in three states, with factors that depend on the grid alone.

        The factors are what it makes of unit states, on the host.
        """
        rows, length = n.shape
        units = torch.eye(3, dtype=torch.float64).unsqueeze(1).expand(3, rows, 3)
        nearest = (np.maximum(n[:, 0] - back, 0) for back in (1, 2))
        there = (pr.Edge(edges[torch.from_numpy(at)], unit) for at, unit in zip(nearest, units[1:], strict=True))
        factors = self._continued(Slices(edges, n), units[0], tuple(there))
        states = torch.stack([u, *(edge.u for edge in before)], 1)
        return (to_device(factors, u.device, u.dtype) @ states.flatten(2)).reshape(rows, length, *u.shape[1:])

    def _continued(self, at: Any, u: Tensor, before: tuple[pr.Edge, ...]) -> Tensor:
        start = at.t0[:, 0]
        edges = [pr.Edge(start, u), *before]
        x0: list[Tensor] = []
        for right, left in pairwise(edges):
            step = _like(right.t - left.t, u)
            slope = torch.where(step != 0, (right.u - left.u) / torch.where(step != 0, step, 1.0), 0.0)
            x0.append(self.coordinates.split(right.t, right.u, slope)[0])
        p = [self._rise(edge.t) for edge in edges]
        gap = _like(p[1] - p[2], u)
        rise = torch.where(gap != 0, (x0[0] - x0[1]) / torch.where(gap != 0, gap, 1.0), 0.0)
        # In y = u/b a slice adds x0 (a'/b' - a/b), so that all of them are two cumulative sums.
        (a0, b0), (a1, b1) = self.coordinates.shares(at.t0), self.coordinates.shares(at.t1)
        b0, b1 = b0.clamp_min(_LEAST), b1.clamp_min(_LEAST)
        weight = a1 / b1 - a0 / b0
        level, tilt = weight.cumsum(1), (weight * (self._rise(at.t0) - p[1][:, None])).cumsum(1)
        y = _like(1 / b0[:, 0], u) * u
        grown = y.unsqueeze(1) + _outer(level, x0[0]) + _outer(tilt, rise)
        return _like(b1, grown) * grown

    def _rise(self, t: Tensor) -> Tensor:
        a, b = self.coordinates.shares(t)
        return a / (a * a * self.level + b * b).clamp_min(_LEAST).sqrt()

    def clock(self, t: Tensor) -> Tensor:
        """The logarithm of the ratio of noise to signal."""
        a, b = self.coordinates.shares(t)
        return (b.clamp_min(_LEAST) / a.clamp_min(_LEAST)).log()

    def weight(self, at: Any) -> Tensor:
        """The part of x0 that enters in a slice."""
        (a0, b0), (a1, b1) = self.coordinates.shares(at.t0), self.coordinates.shares(at.t1)
        return a1 - a0 * b1 / b0

    def mismatch(self, at: Any) -> Tensor:
        """The part of x0 that enters in a slice, or leaves it where noise rises, times the part that may be missed.

        The more noise there is, the smaller the latter.
        """
        a, b = self.coordinates.shares(at.t0)
        return self.weight(at).abs() * _DOUBT * a * a / (_DOUBT * a * a + b * b)

    def _deviation(self, t: Tensor, like: Tensor, variances: Tensor | None = None) -> Tensor:
        """Standard deviations of u at ``t``, of shape ``(*t, *rest)`` or what broadcasts to it."""
        a, b = (share.reshape(*t.shape, *[1] * (like.ndim - t.ndim)) for share in self.coordinates.shares(t))
        deviation = (a * a * (self.variances if variances is None else variances) + b * b).clamp_min(_LEAST).sqrt()
        if self.eta > 0.0:
            deviation = deviation * (deviation / a.clamp_min(_LEAST)) ** (self.eta * self.eta)
        return deviation.to(like.dtype)


_LEAST = 1e-12
"""Lower limit of a variance of u, where neither noise nor data is left. A choice."""


_DOUBT = 30.0
"""The ratio of noise to signal, in variance, at which half of a change may be missed. It is larger than for most data,
since guided models react more strongly: see ``benchmarks/constants.py``."""


def _outer(weights: Tensor, leaf: Tensor) -> Tensor:
    """Numbers ``(R, L)`` times states ``(R, *rest)``: ``(R, L, *rest)``."""
    return _like(weights, leaf.unsqueeze(1)) * leaf.unsqueeze(1)


def _like(scalars: Tensor, leaf: Tensor) -> Tensor:
    """Numbers for the leading axes of ``leaf``, in its dtype."""
    return scalars.to(leaf.dtype).reshape(*scalars.shape, *[1] * (leaf.ndim - scalars.ndim))


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
