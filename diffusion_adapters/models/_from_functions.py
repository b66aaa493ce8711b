"""Models from functions: denoisers of a noise level, and velocities of flow matching."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffusion_adapters._validate import count, kind_of, require
from diffusion_adapters.models._model import DiffusionModel
from diffusion_adapters.noise_schedules._base import NoiseSchedule, Spacing, TimeIsNoise
from diffusion_adapters.noise_schedules._named import EDM, Flow


@dataclass(frozen=True)
class ToZero(TimeIsNoise):
    """Alpha = 1 and sigma = t as in `EDM`, whose grids end with one step more, from ``sigma_min`` to no noise at all.

    So k-diffusion appends a zero to its grids, and EDM ends its sampler.
    """

    inner: EDM
    t_min: float = field(default=0.0, init=False)
    t_max: float = field(init=False)
    rho: float = field(init=False)
    default_spacing: ClassVar[str] = "karras"

    def __post_init__(self) -> None:
        object.__setattr__(self, "t_max", self.inner.t_max)
        object.__setattr__(self, "rho", self.inner.rho)

    def times(self, steps: int, spacing: Spacing | None = None) -> Tensor:
        """A grid of ``steps`` steps, of which the last ends without noise; see `NoiseSchedule.times`."""
        if isinstance(spacing, Tensor):
            return super().times(steps, spacing)
        end = torch.zeros(1, dtype=torch.float64)
        if count(steps, "steps") == 1:
            return torch.cat([torch.tensor([self.t_max], dtype=torch.float64), end])
        return torch.cat([self.inner.times(steps - 1, spacing or "karras"), end])


class _Function(nn.Module):
    """A function as a network; a module if ``fn`` is one, so that its parameters are found."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def extra_repr(self) -> str:
        return "" if isinstance(self.fn, nn.Module) else repr(self.fn)


class _Denoiser(_Function):
    def forward(self, x: Tensor, t: Tensor, **conditioning: Any) -> Any:
        value = self.fn(x, t, **conditioning)
        mean = None if isinstance(value, Tensor) else getattr(value, "mean", None)
        return mean if isinstance(mean, Tensor) else value


class _Velocity(_Function):
    def __init__(self, fn: Callable[..., Any], noise_at: int, time_first: bool) -> None:
        super().__init__(fn)
        self._reversed, self._time_first = noise_at == 0, time_first

    def forward(self, x: Tensor, t: Tensor, **conditioning: Any) -> Any:
        t = 1 - t if self._reversed else t
        value = self.fn(t, x, **conditioning) if self._time_first else self.fn(x, t, **conditioning)
        return -value if self._reversed and isinstance(value, Tensor) else value


def from_denoiser(
    fn: Callable[..., Any],
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    *,
    to_zero: bool = True,
    noise_schedule: NoiseSchedule | None = None,
    conditioning: Mapping[str, Any] | None = None,
) -> DiffusionModel:
    """A model from ``fn(x, sigma, **conditioning) -> denoised``, with x = x0 + sigma eps: k-diffusion, EDM, azula.

    Args:
        fn: Takes x of shape ``(B, *rest)`` and sigma of shape ``(B,)``; returns the estimate of x0, of the shape of x,
            or an object whose attribute ``mean`` is that, as azula's denoisers do.
        sigma_min: The least noise level that ``fn`` is called at on a grid of `sample`'s own.
        sigma_max: The noise level where sampling starts.
        rho: Exponent of the grid's spacing ``"karras"``.
        to_zero: Grids have a last step from ``sigma_min`` to 0, as those of k-diffusion and EDM do; ``False`` ends them
            at ``sigma_min``. With ``solver="heun"`` that step is Euler's, as in Algorithm 1 of EDM. A grid of your own,
            ``sample(..., spacing=sigmas)``, is taken as it is.
        noise_schedule: In place of the levels above: then ``fn(x, t, **conditioning)`` is called with this schedule's
            times, and x = alpha(t) x0 + sigma(t) eps.
        conditioning: Further arguments; see `DiffusionModel`.

    Returns:
        A `DiffusionModel` that predicts x0.

    Raises:
        TypeError: ``fn`` is not callable, or ``noise_schedule`` not a schedule.
        ValueError: The levels are no range, or came with a ``noise_schedule``.

    Source:
        Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364).

    Examples:
        >>> import torch, diffusion_adapters as da
        >>> model = da.from_denoiser(lambda x, sigma: x / (1 + sigma[:, None] ** 2), sigma_max=10.0)
        >>> out = da.sample(model, (4, 2), steps=32, solver="dpm++2m", generator=torch.Generator().manual_seed(0))
        >>> bool(out.solution.converged), out.solution.stats.rounds < 32
        (True, True)
    """
    _check_callable(fn, "a denoiser", "fn(x, sigma) -> denoised")
    if noise_schedule is None:
        edm = EDM(sigma_min, sigma_max, rho)
        noise_schedule = ToZero(edm) if to_zero else edm
    else:
        require(
            (sigma_min, sigma_max, rho) == (0.002, 80.0, 7.0),
            f"sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho} came with noise_schedule={noise_schedule!r}; "
            "expected one or the other: the schedule has its own levels",
        )
    return DiffusionModel(_Denoiser(fn), noise_schedule, "x0", conditioning)


def from_velocity(
    fn: Callable[..., Any],
    *,
    noise_at: int = 1,
    time_first: bool = False,
    shift: float = 1.0,
    conditioning: Mapping[str, Any] | None = None,
) -> DiffusionModel:
    """A model from a velocity of flow matching, ``fn(x, t, **conditioning) -> dx/dt``, on lines from x0 to eps.

    Args:
        fn: Takes x of shape ``(B, *rest)`` and t of shape ``(B,)`` in [0, 1]; returns dx/dt in its own direction of
            time.
        noise_at: The time of noise: 1 where x = (1 - t) x0 + t eps, as in Stable Diffusion 3 and Flux; 0 where
            x = t x0 + (1 - t) eps, as in much code for flow matching.
        time_first: ``fn`` is called as ``fn(t, x)``, as functions for ODE solvers are.
        shift: Moves the grid's times; see `Flow`.
        conditioning: Further arguments; see `DiffusionModel`.

    Returns:
        A `DiffusionModel` over `Flow`, in which noise is at t = 1.

    Raises:
        TypeError: ``fn`` is not callable.
        ValueError: ``noise_at`` is neither 0 nor 1, or ``shift`` is not positive.

    Source:
        Flow Matching for Generative Modeling (arXiv 2210.02747).

    Examples:
        >>> import torch, diffusion_adapters as da
        >>> model = da.from_velocity(lambda x, t: 2 * t[:, None] - x, noise_at=0)
        >>> out = da.sample(model, (4, 2), steps=20, solver="heun", generator=torch.Generator().manual_seed(0))
        >>> bool(out.solution.converged)
        True
    """
    _check_callable(fn, "a velocity", "fn(x, t) -> dx/dt")
    if isinstance(noise_at, bool) or noise_at not in (0, 1):
        raise ValueError(f"noise_at={noise_at!r} is not an end of the path; expected 1, or 0 where data are at t = 1")
    return DiffusionModel(_Velocity(fn, int(noise_at), time_first), Flow(shift=shift), "velocity", conditioning)


def _check_callable(fn: Any, what: str, expected: str) -> None:
    if not callable(fn):
        raise TypeError(f"fn is {kind_of(fn)}; expected {what}, a function {expected}")
