"""Steps of diffusers' schedulers that differ from the library's methods: clipped, renoised, or with given orders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.diffusers._translation import Clean
from diffusion_adapters.diffusers._wrapped_method import WrappedMethod
from diffusion_adapters.equations._coordinates import Coordinates
from diffusion_adapters.equations._reverse_sde import NoisyFlow
from diffusion_adapters.sampling._stochastic_steps import SDEDPMSolverPP
from parareal.extend import Ints, Stages, extrapolate, lincomb


@dataclass(frozen=True, eq=False)
class Posterior(pr.Integrator):
    """A step of DDIM or DDPM as their schedulers take it: from x0 and eps, with or without noise.

    Args:
        eta: Part of the noise of DDPM that is added again; 0 for none.
        clean: Clips the estimate of x0.
        rederive: Whether eps follows from the clipped x0, or stays what it was.
        large: Whether the noise has DDPM's larger variance, beta.
        renoise: Whether all noise is replaced by new noise.
        arrive: Times of the grid's points, falling, ``(n + 1,)``, and for each of them the time whose noise level a
            step to it ends at, where some are others.
        boundary: Times of the grid's points, falling, and for each of them how x and x0 count in the clean data, as
            consistency models have it; ``None`` for x0 alone.
    """

    eta: float = 0.0
    clean: Clean | None = None
    rederive: bool = True
    large: bool = False
    renoise: bool = False
    arrive: tuple[Tensor, Tensor] | None = None
    boundary: tuple[Tensor, Tensor, Tensor] | None = None
    steps: int | None = None

    traits = pr.IntegratorTraits(order=None, evaluations=1, shares_first_stage=True)  # clipping may lower the order

    @property
    def noisy(self) -> bool:
        """Whether a step takes noise."""
        return self.eta > 0 or self.renoise

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Stages:
        """One step on L lanes; see `parareal.Integrator.step`."""
        slope = yield problem.rhs, t0, u
        coordinates: Coordinates = problem.coordinates
        x0, eps = coordinates.split_lanes(t0, u, slope)
        end = t1 if self.arrive is None else coordinates.tau(_nearest(coordinates.time(t1), *self.arrive))
        (a0, b0), (a1, b1) = coordinates.shares(t0), coordinates.shares(end)
        if self.clean is not None:
            x0 = self.clean(x0.flatten(0, 1)).reshape(x0.shape)
            if self.rederive:
                eps = lincomb([((1 / b0,), u), ((-a0 / b0,), x0)])
        if self.boundary is not None:
            points, of_x, of_x0 = self.boundary
            at = coordinates.time(t0)
            x0 = lincomb(
                [((_nearest(at, points, of_x0),), x0), ((_nearest(at, points, of_x) * _scale(coordinates, t0),), u)]
            )
        eta = 1.0 if self.renoise else self.eta
        part = torch.ones_like(a0) if self.renoise else eta**2 * (1 - (a0 * b1 / (a1 * b0)) ** 2)
        factor = 1.0 if self.arrive is None else _scale(coordinates, end) / _scale(coordinates, t1)
        terms = [((factor * a1,), x0), ((factor * b1 * (1 - part).clamp_min(0.0).sqrt(),), eps)]
        if self.noisy:
            xi = yield problem.normals, t0, t1, u
            deviation = b1 * part.sqrt()
            if self.large:  # that of the forward step, and not of its posterior
                s0, s1 = _scale(coordinates, t0), _scale(coordinates, end)
                deviation = (1 - (a0 * s0 / (a1 * s1)) ** 2).clamp_min(0.0).sqrt() / s1
            terms.append(((factor * deviation,), xi))
        return lincomb(terms)


def _scale(coordinates: Coordinates, tau: Tensor) -> Tensor:
    """The factor x/u."""
    return coordinates.scale(coordinates.levels(tau, coordinates.time(tau)))


def _nearest(t: Tensor, points: Tensor, values: Tensor) -> Tensor:
    points, values = points.to(t.device), values.to(t.device)
    return values[nearest(t, points)]


def nearest(t: Tensor, points: Tensor) -> Tensor:
    """The indices of the points nearest to some times; the points fall."""
    middles = -(points[1:] + points[:-1]) / 2
    return torch.bucketize(-t, middles)


@dataclass(frozen=True)
class Ordered(WrappedMethod):
    """A multistep method with a given order, or variant, for each step of the grid."""

    orders: tuple[int, ...]

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """The given orders."""
        return np.asarray(self.orders)[np.minimum(step, len(self.orders) - 1)]

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 1) -> Stages:
        """One step of the method."""
        return self.of_method(problem, t0, t1, u, variant)


@dataclass(frozen=True)
class SDEDPMSolver(SDEDPMSolverPP):
    """SDE-DPM-Solver: the reverse SDE, with the predicted noise interpolated in the log-SNR."""

    def first_function(self, problem: Any) -> Any:
        """The function of the split."""
        return problem.split("noise").function

    def mean(self, problem: NoisyFlow) -> pr.Split:
        """The split of the mean of the reverse SDE."""
        split = problem.split("noise")

        def weights(t0: Tensor, t1: Tensor, n: int) -> pr.Weights:
            """The weights of the ODE, doubled except for the factor of the state."""
            of = split.weights(t0, t1, n)
            twice = [tuple(2 * part for part in phi) for phi in of.phi]
            return of._replace(phi=twice)

        return split._replace(weights=weights)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 1) -> Stages:
        """One step on L lanes; see `parareal.Multistep.step`."""
        new = yield from extrapolate(self.mean(problem), t0, t1, u, variant, self.moments)
        xi = yield problem.normals, t0, t1, u.u
        _, b1 = problem.coordinates.shares(t1)
        h = problem.coordinates.level(t1) - problem.coordinates.level(t0)
        return new._replace(u=lincomb([((torch.ones_like(b1),), new.u), ((b1 * torch.expm1(2 * h).sqrt(),), xi)]))
