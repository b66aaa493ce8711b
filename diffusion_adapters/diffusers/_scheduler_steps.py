"""Steps of diffusers' schedulers that are no methods of their own: what clips, relabels, renoises or ends otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.equations._coordinates import Coordinates
from diffusion_adapters.equations._probability_flow import DiffusionODE
from diffusion_adapters.equations._reverse_sde import NoisyFlow
from diffusion_adapters.sampling._stochastic_steps import SDEDPMSolverPP
from parareal._core.arrays import Ints
from parareal.grid._mesh import Mesh
from parareal.integrators._adams import extrapolate
from parareal.problem._ode import Stages
from parareal.problem._semilinear import lincomb

Clean = Callable[[Tensor], Tensor]
"""What is done to an estimate of the clean data, ``(n, *rest)``: clipping, thresholding."""


@dataclass(frozen=True, eq=False)
class Posterior(pr.Integrator):
    """A step of DDIM or DDPM as their schedulers take it: from x0 and eps, with noise or without.

    Args:
        eta: How much of DDPM's noise is put back; 0 for none.
        clean: Clips the estimate of x0.
        rederive: Whether eps follows from the clipped x0, or stays what it was.
        large: Whether the noise has DDPM's larger variance, beta.
        renoise: Whether all noise is replaced by new.
        arrive: Times of the grid's points, falling, ``(n + 1,)``, and for each of them the time whose noise level a
            step to it ends at, where some are others.
    """

    eta: float = 0.0
    clean: Clean | None = None
    rederive: bool = True
    large: bool = False
    renoise: bool = False
    arrive: tuple[Tensor, Tensor] | None = None
    steps: int | None = None

    traits = pr.IntegratorTraits(order=None, evaluations=1, shares_first_stage=True)

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
    """Indices of the points, falling, that times are nearest to."""
    middles = -(points[1:] + points[:-1]) / 2
    return torch.bucketize(-t, middles)


@dataclass(frozen=True)
class HeunToZero(pr.Multistep):
    """Heun's method whose last step is one of Euler: at a noise level of zero, its end, the model says nothing.

    Args:
        blend: What is done to a state after each stage, as ``blend(t, u)`` through a request; see `Blended`.
    """

    blend: Any = None
    restart: bool = False
    steps: int | None = None

    traits = pr.IntegratorTraits(order=2, evaluations=2, shares_first_stage=True)  # one evaluation in the last step

    def begin(self, u: Any) -> pr.Memory:
        """An empty history: no step reads an earlier value."""
        return pr.Memory((), (), torch.zeros(len(u), 1, dtype=torch.float64, device=u.device))

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """One for the last step, and two for the others."""
        return np.where(step == steps - 1, 1, 2)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 2) -> Stages:
        """One step on L lanes; see `parareal.Multistep.step`."""
        first = yield problem.rhs, t0, u.u
        h, one = t1 - t0, torch.ones_like(t0)
        euler = lincomb([((one,), u.u), ((h,), first)])
        if variant == 1:
            return pr.Carried(euler, u.memory)
        if self.blend is not None:
            euler = yield self.blend, t1, euler
        second = yield problem.rhs, t1, euler
        return pr.Carried(lincomb([((one,), u.u), ((h / 2,), first), ((h / 2,), second)]), u.memory)


@dataclass(frozen=True)
class Ordered(pr.Multistep):
    """A multistep method whose order, or variant, is given for each step of the grid."""

    method: pr.Multistep
    orders: tuple[int, ...]
    restart: bool = False
    steps: int | None = None

    @property
    def traits(self) -> pr.IntegratorTraits:
        """Those of the method, with a history."""
        return replace(self.method.traits, multistep=True, shares_first_stage=True, tableau=None, stability=None)

    @property
    def group(self) -> int:
        """That of the method."""
        return self.method.group

    def first_function(self, problem: Any) -> Any:
        """That of the method."""
        return self.method.first_function(problem)

    def begin(self, u: Any) -> pr.Memory:
        """That of the method."""
        return self.method.begin(u)

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """As given."""
        return np.asarray(self.orders)[np.minimum(step, len(self.orders) - 1)]

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 1) -> Stages:
        """One step of the method."""
        return self.method.step(problem, t0, t1, u, variant)


@dataclass(frozen=True)
class SDEDPMSolver(SDEDPMSolverPP):
    """SDE-DPM-Solver: the reverse SDE with the noise that the model predicts taken for smooth in the log-SNR."""

    def first_function(self, problem: Any) -> Any:
        """What the split asks for."""
        return problem.split("noise").function

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 1) -> Stages:
        """One step on L lanes; see `parareal.Multistep.step`."""
        split = problem.split("noise")

        def weights(t0: Tensor, t1: Tensor, n: int) -> pr.Weights:
            """Those of the ODE, doubled but for what is kept of the state."""
            of = split.weights(t0, t1, n)
            twice = [tuple(2 * part for part in phi) for phi in of.phi]
            return of._replace(phi=twice)

        new = yield from extrapolate(split._replace(weights=weights), t0, t1, u, variant, self.moments)
        xi = yield problem.normals, t0, t1, u.u
        _, b1 = problem.coordinates.shares(t1)
        h = problem.coordinates.level(t1) - problem.coordinates.level(t0)
        return new._replace(u=lincomb([((torch.ones_like(b1),), new.u), ((b1 * torch.expm1(2 * h).sqrt(),), xi)]))


# --- noise that was drawn beforehand --------------------------------------------------------------------------------


class Drawn:
    """Noise that is drawn once it is known with what.

    Attributes:
        normals: Standard normals, ``(n, B, *rest)``, one for each step of the grid.
    """

    normals: Tensor


@dataclass(frozen=True, eq=False)
class _GivenPath(pr.BrownianPath):
    """A path whose atoms bring given normals."""

    given: Drawn = field(kw_only=True)

    def draw(self, index: Tensor, like: Any, keys: Tensor, area: bool) -> list[Tensor]:
        """Those of the atoms and samples asked for."""
        rows = self.given.normals[index, keys[:, 2].expand_as(index)]
        return [rows.to(torch.float64).reshape(*index.shape, *like.shape[1:])]


@dataclass(frozen=True, eq=False)
class DrawnFlow(NoisyFlow):
    """A diffusion ODE beside noise that a scheduler has drawn for each of its steps.

    Attributes:
        drawn: The noise.
    """

    drawn: Drawn = field(kw_only=True)

    def __reduce__(self) -> tuple[Any, ...]:
        remade = partial(DrawnFlow, coordinates=self.coordinates, drawn=self.drawn, path=self.path, most=self.most)
        return remade, (self.f, self.batching, self.per_sample)

    def bind(self, u0: Any, grid: pr.TimeGrid, fine: pr.Integrator) -> DrawnFlow:
        """This problem with the path of that noise, whose atoms are the steps."""
        bound = super().bind(u0, grid, fine)
        points = Mesh.build(grid, fine.steps, torch.device("cpu")).points.unique_consecutive()
        path = _GivenPath(points, 0, self._clock, given=self.drawn)
        object.__setattr__(bound, "path", path)
        assert isinstance(bound, DrawnFlow)
        return bound

    @classmethod
    def of(cls, problem: DiffusionODE, drawn: Drawn) -> DrawnFlow:
        """A flow with this noise beside it."""
        return cls(problem.f, problem.batching, problem.per_sample, coordinates=problem.coordinates, drawn=drawn)


# --- inpainting -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Blend:
    """A free request: outside of a mask, a state is the given image at its noise level.

    Args:
        coordinates: Those of the ODE.
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
        samples = (rows[1] if isinstance(rows, tuple) else rows)[0].flatten()  # there may be keys of a path before
        a, b = self.coordinates.shares(t)
        image, noise = (part[samples].reshape(u.shape).to(u.dtype) for part in (self.image, self.noise))
        mask = self.mask[samples].reshape(*u.shape[:2], *self.mask.shape[1:]).to(u.dtype)
        known = lincomb([((a,), image), ((b,), noise)])
        inside = (t == self.end).reshape(-1, *[1] * (u.ndim - 1))
        return torch.where(inside, u, known + mask * (u - known))


@dataclass(frozen=True)
class Blended(pr.Multistep):
    """A method after each of whose steps a state is blended with a given image."""

    method: pr.Integrator
    blend: Blend
    restart: bool = False
    steps: int | None = None

    @property
    def traits(self) -> pr.IntegratorTraits:
        """Those of the method, with a history."""
        return replace(self.method.traits, multistep=True, tableau=None, stability=None)

    @property
    def group(self) -> int:
        """That of the method."""
        return self.method.group if isinstance(self.method, pr.Multistep) else 1

    def first_function(self, problem: Any) -> Any:
        """That of the method."""
        return self.method.first_function(problem)

    def begin(self, u: Any) -> pr.Memory:
        """That of the method."""
        if isinstance(self.method, pr.Multistep):
            return self.method.begin(u)
        return pr.Memory((), (), torch.zeros(len(u), 1, dtype=torch.float64, device=u.device))

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """Those of the method."""
        return self.method.variants(step, steps) if isinstance(self.method, pr.Multistep) else np.zeros_like(step)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 0) -> Stages:
        """One step of the method, and the image at its end."""
        if isinstance(self.method, pr.Multistep):
            new = yield from self.method.step(problem, t0, t1, u, variant)
        else:
            new = pr.Carried((yield from self.method.step(problem, t0, t1, u.u)), u.memory)
        return new._replace(u=(yield self.blend, t1, new.u))
