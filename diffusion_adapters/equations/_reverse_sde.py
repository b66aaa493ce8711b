"""Diffusion models as stochastic equations: the reverse SDE, and the noise of ancestral samplers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.equations._probability_flow import DiffusionODE, ProbabilityFlow, probability_flow
from diffusion_adapters.models._model import DiffusionModel
from parareal.extend import draw_seeds, fine_points, path_keys, per_lane

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True, eq=False)
class NoisyFlow(DiffusionODE):
    """The ODE of a diffusion model together with a path of noise, for samplers that add noise in every step.

    The path's clock is the signal-to-noise ratio (a/b)^2, in which the noise of DDPM's steps adds up: a step over
    several of the grid sees the sum of theirs.
    """

    seed: int | tuple[int, ...] = field(default=0, kw_only=True)
    path: pr.BrownianPath | None = field(default=None, kw_only=True)
    most: int = field(default=1, kw_only=True)

    @property
    def traits(self) -> pr.ProblemTraits:
        """Steps draw noise."""
        return replace(super().traits, plain=False, stochastic=True)

    def __reduce__(self) -> tuple[Any, ...]:
        remade = partial(NoisyFlow, coordinates=self.coordinates, seed=self.seed, path=self.path, most=self.most)
        return remade, (self.f, self.batching, self.per_sample)

    def rows(self, samples: int | None, device: torch.device) -> Any:
        """The keys of the path of each sample and, if given, ``per_sample``."""
        keys = path_keys(self.seed, samples).to(device)
        return (keys,) if self.per_sample is None else (keys, self.per_sample)

    def bind(self, u0: Any, grid: pr.TimeGrid, fine: pr.Integrator) -> NoisyFlow:
        """This problem with a path of one increment for each step of the fine propagator."""
        points = fine_points(grid, fine)
        bound, path = copy(self), pr.BrownianPath(points, self.seed, self._clock)
        object.__setattr__(bound, "path", path)
        # A step is one fine step or a whole slice: its atoms are known, so the host need not wait for the device.
        object.__setattr__(bound, "most", path.most_atoms(grid.edges[:-1], grid.edges[1:]))
        return bound

    def _clock(self, tau: Tensor) -> Tensor:
        a, b = self.coordinates.shares(tau)
        return (a / b) ** 2

    def rhs(self, t: Tensor, u: Any, rows: Any = None) -> Any:
        """See `parareal.ODE.rhs`."""
        return super().rhs(t, u, rows[1] if rows is not None and len(rows) > 1 else None)

    @property
    def normals(self) -> Normals:
        """The request for the noise of a step: ``yield problem.normals, t0, t1, u``, at no cost."""
        return Normals(self)


@dataclass(frozen=True)
class Normals:
    """A free request: standard normals like the state, those of the steps from ``t0`` to ``t1`` on L lanes."""

    problem: NoisyFlow
    free = True

    def __call__(self, t0: Tensor, t1: Tensor, u: Tensor, rows: Any = None) -> Any:
        path = self.problem.path
        if path is None:
            raise ValueError("the problem has no path yet; expected problem.bind(u0, grid, fine), which makes one")
        keys = None if rows is None else rows[0].squeeze(1)
        return path.normals(t0, t1, u, keys, None if t0.device.type == "cpu" else self.problem.most)


def noisy(flow: ProbabilityFlow, generator: Generators) -> ProbabilityFlow:
    """A flow with a path of noise, whose seed is drawn here."""
    old = flow.problem
    seed = draw_seeds(generator)
    problem = NoisyFlow(old.f, old.batching, old.per_sample, coordinates=old.coordinates, seed=seed)
    return ProbabilityFlow(problem, flow.coordinates)


@dataclass(frozen=True, eq=False)
class ReverseSDE:
    """The result of `reverse_sde`; it unpacks into ``problem, to_x, from_x``, as a `ProbabilityFlow` does.

    Attributes:
        problem: The SDE over s, for states z of shape ``(B, *rest)``.
        flow: The probability-flow ODE in the same coordinates, whose conversions and grids serve here too.
    """

    problem: pr.SDE
    flow: ProbabilityFlow

    def __iter__(self) -> Any:
        return iter((self.problem, self.flow.to_x, self.flow.from_x))

    def grid(self, times: Tensor, slices: int | None = None) -> pr.TimeGrid:
        """The grid of s at these times of the schedule, cut into slices."""
        return self.flow.grid(times, slices)


def reverse_sde(model: DiffusionModel, generator: Generators = None) -> ReverseSDE:
    """The reverse-time SDE of a model, whose solution from noise to data is a sample, for any SDE method.

    In z = x/alpha over s = sigma/alpha, where time falls, it is dz = 2 eps(z, s) ds + sqrt(2 s) dW, of additive noise.
    Samplers made for diffusion models, which take larger steps, are solvers of `sample`: ``"ancestral"``,
    ``"sde-dpm++2m"``.

    Args:
        model: The model.
        generator: Where the seed of the path is drawn from; see `parareal.SDE`.

    Returns:
        A `ReverseSDE`, which unpacks into ``problem, to_x, from_x``.

    Raises:
        TypeError: ``model`` is not a `DiffusionModel`, or ``generator`` is not a generator.
        ValueError: The model has no signal at the noisy end, where s is infinite.

    Source:
        Score-Based Generative Modeling through Stochastic Differential Equations (arXiv 2011.13456), equation 6.

    Examples:
        >>> import torch, parareal as pr, diffusion_adapters as da
        >>> model = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())
        >>> problem, to_x, from_x = sde = da.reverse_sde(model, torch.Generator().manual_seed(0))
        >>> grid = sde.grid(model.noise_schedule.times(200), slices=200)
        >>> z = from_x(grid.points[0], torch.tensor([[0.5], [-0.5]]))
        >>> sol = pr.solve(problem, z, grid, fine=pr.EulerMaruyama(), coarse=pr.Secant(pr.Identity()))
        >>> to_x(sol.ts[-1], sol.u).abs().round().flatten().tolist()
        [1.0, 1.0]
    """
    flow = probability_flow(model, "ratio")
    schedule = model.noise_schedule
    if schedule.alpha(torch.tensor(schedule.t_max, dtype=torch.float64)).item() == 0:
        raise ValueError(
            f"{schedule!r} has no signal at t_max={schedule.t_max}, where sigma/alpha is infinite; expected a schedule "
            'that ends before, or da.sample(..., solver="ancestral"), which can start there'
        )
    eps = flow.problem.f

    def drift(s: Tensor, z: Tensor, *rows: Any) -> Tensor:
        return 2 * eps(s, z, *rows)

    def diffusion(s: Tensor, z: Tensor, *rows: Any) -> Tensor:
        return per_lane((2 * s).sqrt(), z).expand_as(z)

    problem = pr.SDE(
        drift,
        diffusion,
        noise="additive",
        batching="fold",
        per_sample=flow.problem.per_sample,
        generator=generator,
    )
    return ReverseSDE(problem, flow)
