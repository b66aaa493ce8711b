"""Coordinates in which the probability-flow ODE is simple: a variable that replaces time, and a scaling of x.

In both, x0 and eps enter linearly and the schedule cancels, so that explicit Euler is DDIM whatever the schedule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from diffusion_adapters._validate import one_of
from diffusion_adapters.models._prediction import Levels, Row, per_row
from diffusion_adapters.noise_schedules._base import NoiseSchedule
from diffusion_adapters.noise_schedules._named import Flow
from parareal.extend import per_lane, sent, values_of

_SMALL_SIGNAL = 1e-3
"""Below this alpha at the noisy end, z = x/alpha would lose more than three of the seven digits of x0 in float32."""


@dataclass(frozen=True)
class Coordinates(ABC):
    """A change of variables (t, x) -> (tau, u) for one schedule. Every map is elementwise, in float64 for times.

    Attributes:
        noise_schedule: The schedule.
    """

    noise_schedule: NoiseSchedule

    @abstractmethod
    def tau(self, t: Tensor) -> Tensor:
        """The ODE's variable at the schedule's time ``t``."""

    @abstractmethod
    def time(self, tau: Tensor) -> Tensor:
        """The schedule's time at ``tau``."""

    @abstractmethod
    def levels(self, tau: Tensor, t: Tensor) -> Levels:
        """Alpha and sigma at a time that is known in both variables, in as few operations as possible."""

    @abstractmethod
    def scale(self, levels: Levels) -> Tensor:
        """The factor x/u."""

    @property
    @abstractmethod
    def rate(self) -> Row:
        """du/dtau as a row (a, b): a x0 + b eps."""

    @property
    @abstractmethod
    def same_as(self) -> str | None:
        """The prediction that equals du/dtau, if one does."""

    @abstractmethod
    def shares(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients of u = a x0 + b eps at ``tau``, both linear in ``tau``."""

    def level(self, tau: Tensor) -> Tensor:
        """Half the log-SNR, log(alpha/sigma), at ``tau``; infinite where there is no noise, or no signal."""
        a, b = self.shares(tau)
        return a.log() - b.log()

    @abstractmethod
    def at_level(self, level: Tensor) -> Tensor:
        """The inverse of `level`."""

    def split(self, tau: Tensor, u: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The x0 and eps of a state and du/dtau there, ``tau`` of shape ``(B,)`` or ``()``."""
        a, b = (per_row(share, u) for share in self._shares_beside(tau, u))
        rate = self.rate  # a b' - b a' is 1 in both coordinates
        return rate.b * u - b * slope, a * slope - rate.a * u

    def x0_lanes(self, tau: Tensor, u: Tensor, slope: Tensor) -> Tensor:
        """The x0 of `split_lanes` alone."""
        whole = u if self.rate.b == 1.0 else self.rate.b * u
        return whole - per_lane(tau, u) * slope  # the share of eps is tau itself in both coordinates

    def eps_lanes(self, tau: Tensor, u: Tensor, slope: Tensor) -> Tensor:
        """The eps of `split_lanes` alone."""
        a, _ = self._shares_beside(tau, u)
        return per_lane(a, u) * slope - self.rate.a * u

    def _shares_beside(self, tau: Tensor, u: Tensor) -> list[Tensor]:
        """`shares` where ``u`` lies; computed on the host where that knows ``tau``."""
        return sent(u.device, *self.shares(values_of(tau)))

    def split_lanes(self, tau: Tensor, u: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """`split` on lanes of batches: ``tau`` of shape ``(L,)``, the others ``(L, B, *rest)``."""
        rows = tau if u.shape[1] == 1 else tau.repeat_interleave(u.shape[1])
        x0, eps = self.split(rows, u.flatten(0, 1), slope.flatten(0, 1))
        return x0.reshape(u.shape), eps.reshape(u.shape)

    def to_x(self, tau: Tensor, u: Tensor) -> Tensor:
        """X from u at ``tau``; the two have one shape ``(B, *rest)``, ``tau`` has ``(B,)`` or ``()``."""
        return per_row(self._scale_at(tau), u) * u

    def from_x(self, tau: Tensor, x: Tensor) -> Tensor:
        """The inverse of `to_x`."""
        return x / per_row(self._scale_at(tau), x)

    def _scale_at(self, tau: Tensor) -> Tensor:
        return self.scale(self.levels(tau, self.time(tau)))


@dataclass(frozen=True)
class Ratio(Coordinates):
    """z = x/alpha and s = sigma/alpha: dz/ds = eps. Heun is that of EDM when alpha = 1."""

    def tau(self, t: Tensor) -> Tensor:
        """The ratio s = sigma/alpha."""
        return self.noise_schedule.s(t)

    def time(self, tau: Tensor) -> Tensor:
        """The inverse of `tau`."""
        return self.noise_schedule.time(tau)

    def at_level(self, level: Tensor) -> Tensor:
        """S is the exponential of minus the level."""
        return torch.exp(-level)

    def shares(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """One and s."""
        return torch.ones_like(tau), tau

    def levels(self, tau: Tensor, t: Tensor) -> Levels:
        """Sigma is s alpha."""
        alpha = self.noise_schedule.alpha(t)
        return Levels(alpha, tau * alpha)

    def scale(self, levels: Levels) -> Tensor:
        """The factor alpha."""
        return levels.alpha

    @property
    def rate(self) -> Row:
        """The noise."""
        return Row(0.0, 1.0)

    @property
    def same_as(self) -> str:
        """The noise."""
        return "eps"


@dataclass(frozen=True)
class Share(Coordinates):
    """u = x/(alpha + sigma) and r = sigma/(alpha + sigma): du/dr = eps - x0, bounded also where alpha or sigma is 0.

    For `Flow` u is x, r is t and du/dr is the velocity.
    """

    def tau(self, t: Tensor) -> Tensor:
        """The share of noise, r."""
        alpha, sigma = self.noise_schedule.alpha(t), self.noise_schedule.sigma(t)
        return sigma / (alpha + sigma)

    def time(self, tau: Tensor) -> Tensor:
        """The inverse of `tau`."""
        return tau if isinstance(self.noise_schedule, Flow) else self.noise_schedule.time(tau / (1 - tau))

    def at_level(self, level: Tensor) -> Tensor:
        """R is s/(1 + s)."""
        return torch.sigmoid(-level)

    def shares(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """1 - r and r."""
        return 1 - tau, tau

    def levels(self, tau: Tensor, t: Tensor) -> Levels:
        """Alpha and sigma of the schedule."""
        return Levels(self.noise_schedule.alpha(t), self.noise_schedule.sigma(t))

    def scale(self, levels: Levels) -> Tensor:
        """The factor alpha + sigma."""
        return levels.alpha + levels.sigma

    @property
    def rate(self) -> Row:
        """The noise less the data."""
        return Row(-1.0, 1.0)

    @property
    def same_as(self) -> str | None:
        """The velocity of `Flow`."""
        return "velocity" if isinstance(self.noise_schedule, Flow) else None


Name: TypeAlias = Literal["ratio", "share"]
COORDINATES: dict[str, Callable[[NoiseSchedule], Coordinates]] = {"ratio": Ratio, "share": Share}


def coordinates_for(schedule: NoiseSchedule, name: Name | None = None) -> Coordinates:
    """`Share` for `Flow`, and where alpha is nearly 0 at the noisy end; `Ratio` elsewhere; or by name."""
    if name is not None:
        return COORDINATES[one_of(name, COORDINATES, "coordinates")](schedule)
    return Share(schedule) if isinstance(schedule, Flow) or small_signal(schedule) else Ratio(schedule)


def small_signal(schedule: NoiseSchedule) -> bool:
    """Whether alpha is nearly 0 at the noisy end."""
    return schedule.alpha(torch.tensor(schedule.t_max, dtype=torch.float64)).item() < _SMALL_SIGNAL
