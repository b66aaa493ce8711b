"""Heun's method for noise levels that end at zero, with the last step of Algorithm 1 of EDM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import parareal as pr
from parareal.extend import Ints, Stages, lincomb


@dataclass(frozen=True)
class HeunToZero(pr.Multistep):
    """Heun's method with an Euler step at the end, since a model of x0 does not determine the noise at sigma = 0.

    Args:
        blend: A request ``blend(t, u)`` that changes the state after the first stage, for inpainting, or ``None``.
    """

    blend: Any = None
    restart: bool = False
    steps: int | None = None

    traits = pr.IntegratorTraits(order=2, evaluations=2, shares_first_stage=True)  # one evaluation in the last step

    def begin(self, u: Any) -> pr.Memory:
        """The empty history."""
        return pr.Memory((), (), torch.zeros(len(u), 1, dtype=torch.float64, device=u.device))

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """Variant 1, Euler, for the last step, and 2, Heun, for the others."""
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
