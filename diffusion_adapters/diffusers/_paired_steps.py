"""Methods of diffusers' schedulers that look back: PNDM, and the midpoint steps of KDPM2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import parareal as pr
from parareal.extend import Ints, Stages, lincomb, select

_BASHFORTH = ((1.0, 0.0, 0.0, 0.0), (1.5, -0.5, 0.0, 0.0), (23 / 12, -16 / 12, 5 / 12, 0.0))
_WEIGHTS = (*_BASHFORTH, (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Of the newest slope and those before, by how many there are: Adams-Bashforth for even steps, of orders 1 ... 4."""


@dataclass(frozen=True)
class PseudoAdams(pr.Multistep):
    """PNDM without Runge-Kutta steps: one step of Heun, then Adams-Bashforth with the weights of even steps.

    The steps are even in the timestep, and not in the noise level over the signal, in which they are taken.

    Source:
        Pseudo Numerical Methods for Diffusion Models on Manifolds (arXiv 2202.09778).
    """

    restart: bool = False
    steps: int | None = None

    traits = pr.IntegratorTraits(order=1, evaluations=1, shares_first_stage=True)

    def begin(self, u: Tensor) -> pr.Memory:
        """No earlier slopes."""
        return pr.Memory((torch.zeros_like(u),) * 3, (), torch.zeros(len(u), 4, dtype=torch.float64))

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """Variant 0, Heun, for the first step, and 1 for the others."""
        return np.minimum(step, 1)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 1) -> Stages:
        """One step on L lanes; see `parareal.Multistep.step`. Slopes are kept times the length of their step."""
        slope, h, one = (yield problem.rhs, t0, u.u), t1 - t0, torch.ones_like(t0)
        clock = u.memory.clock.to(h.device)
        known, lengths = clock[:, 0], [h, *clock[:, 1:].unbind(1)]
        if variant == 0:
            second = yield problem.rhs, t1, lincomb([((one,), u.u), ((h,), slope)])
            new = lincomb([((one,), u.u), ((h / 2,), slope), ((h / 2,), second)])
        else:
            weights = torch.tensor(_WEIGHTS, dtype=torch.float64, device=h.device)[known.long().clamp(0, 3)]
            terms = [((one,), u.u), ((h * weights[:, 0],), slope)]
            for j, value in enumerate(u.memory.values):
                length = lengths[j + 1]
                factor = torch.where(length == 0, 0.0, h / torch.where(length == 0, 1.0, length))
                terms.append(((factor * weights[:, j + 1],), value))
            new = lincomb(terms)
        kept = (lincomb([((h,), slope)]), *u.memory.values[:2])
        clock = torch.stack([(known + 1).clamp(max=3.0), *lengths[:3]], 1)
        return pr.Carried(new, pr.Memory(kept, (), clock))


@dataclass(frozen=True)
class Midpoints(pr.Multistep):
    """The midpoint rule over two steps of the grid: Euler to the first point, and from the same start to the second.

    Source:
        Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364), as k-diffusion has it.
    """

    restart: bool = False
    steps: int | None = None

    traits = pr.IntegratorTraits(order=None, evaluations=1, shares_first_stage=True)

    @property
    def group(self) -> int:
        """Two steps."""
        return 2

    def begin(self, u: Tensor) -> pr.Memory:
        """No beginning of a pair."""
        return pr.Memory((), (torch.zeros_like(u),), torch.zeros(len(u), 2, dtype=torch.float64))

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """The place of the step in its pair."""
        return step % 2

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 0) -> Stages:
        """One step on L lanes; see `parareal.Multistep.step`."""
        slope, one = (yield problem.rhs, t0, u.u), torch.ones_like(t0)
        if variant == 0:
            new = lincomb([((one,), u.u), ((t1 - t0,), slope)])
            return pr.Carried(new, pr.Memory((), (u.u,), torch.stack([one, t0], 1)))
        clock = u.memory.clock.to(t0.device)
        whole = clock[:, 0] == 1  # a lane without the beginning of its pair takes a step of Euler
        base, since = select(whole, u.memory.states[0], u.u), torch.where(whole, clock[:, 1], t0)
        new = lincomb([((one,), base), ((t1 - since,), slope)])
        return pr.Carried(new, pr.Memory((), (base,), torch.zeros_like(clock)))


@dataclass(frozen=True)
class AncestralMidpoint(pr.Multistep):
    """The midpoint rule to a lower noise level, and noise up to that of the grid.

    In the logarithm the middle between a level and the lower one is the next level of the grid. A step to 0 is one of
    Euler.
    """

    restart: bool = False
    steps: int | None = None

    traits = pr.IntegratorTraits(order=None, evaluations=2, shares_first_stage=True)
    noisy: ClassVar[bool] = True

    def begin(self, u: Tensor) -> pr.Memory:
        """The empty history."""
        return pr.Memory((), (), torch.zeros(len(u), 1, dtype=torch.float64, device=u.device))

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """Variant 1, Euler, for the last step, and 2 for the others."""
        return np.where(step == steps - 1, 1, 2)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 2) -> Stages:
        """One step on L lanes; see `parareal.Multistep.step`."""
        slope, one = (yield problem.rhs, t0, u.u), torch.ones_like(t0)
        middle = lincomb([((one,), u.u), ((t1 - t0,), slope)])
        if variant == 1:
            return pr.Carried(middle, u.memory)
        slope = yield problem.rhs, t1, middle
        xi = yield problem.normals, t0, t1, u.u
        down = t1**2 / t0
        terms = [((one,), u.u), ((down - t0,), slope), (((t1**2 - down**2).clamp_min(0).sqrt(),), xi)]
        return pr.Carried(lincomb(terms), u.memory)
