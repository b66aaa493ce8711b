"""Stochastic samplers of diffusion models: a step towards the data, then some new noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters._validate import kind_of
from diffusion_adapters.equations._coordinates import Coordinates
from diffusion_adapters.equations._reverse_sde import NoisyFlow
from parareal.extend import (
    Factors,
    Ints,
    Stages,
    check_order,
    check_steps,
    exact_moments,
    extrapolate,
    first_order,
    lincomb,
    midpoint_moments,
    no_history,
)


@dataclass(frozen=True)
class Ancestral(pr.Integrator):
    """DDIM with noise: ``eta`` of 1 is DDPM's ancestral sampling, and 0 is DDIM.

    u1 = a1 x0 + b1 (sqrt(1 - v) eps + sqrt(v) xi), with v = eta^2 (1 - (s1/s0)^2), u = a x0 + b eps and s = b/a.

    Args:
        eta: Part of the noise of DDPM that is added, 0 ... 1.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Raises:
        TypeError: ``eta`` is not a number, or ``steps`` not an int.
        ValueError: ``eta`` is not in 0 ... 1.

    Source:
        Denoising Diffusion Implicit Models (arXiv 2010.02502), equations 12 and 16; Denoising Diffusion Probabilistic
        Models (arXiv 2006.11239).

    Examples:
        >>> import torch, diffusion_adapters as da
        >>> model = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())
        >>> out = da.sample(model, (4, 1), solver=da.Ancestral(0.5), generator=torch.Generator().manual_seed(0))
        >>> bool(out.solution.converged)
        True
    """

    eta: float = 1.0
    steps: int | None = None

    traits = pr.IntegratorTraits(order=None, evaluations=1, shares_first_stage=True, solves=(NoisyFlow,))

    def __post_init__(self) -> None:
        if isinstance(self.eta, bool) or not isinstance(self.eta, Real):
            raise TypeError(f"eta={self.eta!r} is {kind_of(self.eta)}; expected a float in 0 ... 1")
        if not 0 <= self.eta <= 1 or math.isnan(self.eta):
            raise ValueError(f"eta={self.eta} is out of range; expected 0 (DDIM) ... 1 (DDPM)")
        check_steps(self.steps)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Stages:
        """One step on L lanes; see `parareal.Integrator.step`."""
        slope = yield problem.rhs, t0, u
        xi = yield problem.normals, t0, t1, u
        coordinates: Coordinates = problem.coordinates
        x0, eps = coordinates.split_lanes(t0, u, slope)
        (a0, b0), (a1, b1) = coordinates.shares(t0), coordinates.shares(t1)
        kept = (a0 * b1 / (a1 * b0)) ** 2
        variance = self.eta**2 * (1 - kept)
        return lincomb([((a1,), x0), ((b1 * (1 - variance).sqrt(),), eps), ((b1 * variance.sqrt(),), xi)])


@dataclass(frozen=True)
class SDEDPMSolverPP(pr.Multistep):
    """SDE-DPM-Solver++: the reverse SDE, where the predicted clean data is assumed to be smooth in the log-SNR.

    One evaluation a step. Order 1 is DDPM's ancestral sampling; order 2, called (2M), extrapolates from the last step.

    Args:
        order: 1 or 2.
        rule: How the derivative is taken from a difference: ``"midpoint"`` or ``"heun"``.
        lower_order_final: Take order 1 in the last step. Into a noise level of zero it is taken in any case.
        restart: Restart in every slice, without history.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Raises:
        TypeError: ``order`` or ``steps`` is not an int.
        ValueError: An argument is out of range or unknown.

    Source:
        DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (arXiv 2211.01095), section 5.

    Examples:
        >>> SDEDPMSolverPP(2).evaluations
        1
    """

    order: int = 2
    rule: str = "midpoint"
    lower_order_final: bool = False
    restart: bool = False
    steps: int | None = None

    def __post_init__(self) -> None:
        check_order(self.order, 2)
        if self.rule not in ("midpoint", "heun"):
            raise ValueError(f"rule={self.rule!r} is unknown; expected 'midpoint' or 'heun'")
        check_steps(self.steps)

    @property
    def traits(self) -> pr.IntegratorTraits:
        """One evaluation a step."""
        return pr.IntegratorTraits(
            order=self.order, evaluations=1, shares_first_stage=True, solves=(NoisyFlow,), multistep=True
        )

    def begin(self, u: Tensor) -> pr.Memory:
        """No earlier values."""
        return no_history(u, self.order - 1)

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """The order of the step, as far as its place in the grid decides."""
        return np.minimum(self.order, steps - step) if self.lower_order_final else np.full(len(step), self.order)

    def mean(self, problem: NoisyFlow) -> pr.Split:
        """The split of the mean of the reverse SDE."""
        return _towards_data(problem)

    def first_order(self, problem: NoisyFlow, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor] | None:
        """The mean of ancestral sampling."""
        return first_order(self.mean(problem), t0, t1, self.order)

    def moments(self, weights: pr.Weights, m: int) -> list[Factors]:
        """How the difference counts."""
        return midpoint_moments(weights, m) if self.rule == "midpoint" else exact_moments(weights, m)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 1) -> Stages:
        """One step on L lanes; see `parareal.Multistep.step`."""
        new = yield from extrapolate(self.mean(problem), t0, t1, u, variant, self.moments)
        xi = yield problem.normals, t0, t1, u.u
        _, b1 = problem.coordinates.shares(t1)
        h = problem.coordinates.level(t1) - problem.coordinates.level(t0)
        noise: Factors = (b1 * torch.sqrt(-torch.expm1(-2 * h)),)
        return new._replace(u=lincomb([((torch.ones_like(b1),), new.u), (noise, xi)]))


def _towards_data(problem: NoisyFlow) -> pr.Split:
    """The split of the reverse SDE's mean: d(u/a)/dlambda = 2 (x0 - u/a), a linear part of -2."""
    coordinates, split = problem.coordinates, problem.split("data")

    def weights(t0: Tensor, t1: Tensor, n: int) -> pr.Weights:
        h = coordinates.level(t1) - coordinates.level(t0)
        (a0, b0), (a1, b1) = coordinates.shares(t0), coordinates.shares(t1)
        keep = (b1 / b0) * (a0 * b1 / (a1 * b0))
        phi = pr.scaled_phis(h, h.new_tensor(-2.0), n, 2 * a1, -a1 * torch.expm1(-2 * h))
        return pr.Weights(h, (keep,), [(part,) for part in phi], phi[0], 2 * a1)

    return split._replace(weights=weights)
