"""The base of methods that wrap another one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import parareal as pr
from parareal.extend import Ints, Stages


@dataclass(frozen=True)
class WrappedMethod(pr.Multistep):
    """A method with the history, the stages and the order of another method, and a step of its own.

    Attributes:
        method: The other method, with a history or without.
    """

    method: pr.Integrator
    restart: bool = field(default=False, kw_only=True)
    steps: int | None = field(default=None, kw_only=True)

    @property
    def traits(self) -> pr.IntegratorTraits:
        """The traits of the method, with a history."""
        return replace(self.method.traits, multistep=True, tableau=None, stability=None)

    @property
    def group(self) -> int:
        """Calls the method."""
        return self.method.group if isinstance(self.method, pr.Multistep) else 1

    def first_function(self, problem: Any) -> Any:
        """Calls the method."""
        return self.method.first_function(problem)

    def begin(self, u: Any) -> pr.Memory:
        """Calls the method."""
        if isinstance(self.method, pr.Multistep):
            return self.method.begin(u)
        return pr.Memory((), (), torch.zeros(len(u), 1, dtype=torch.float64, device=u.device))

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """Calls the method."""
        return self.method.variants(step, steps) if isinstance(self.method, pr.Multistep) else np.zeros_like(step)

    @abstractmethod
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int = 0) -> Stages:
        """One step; see `parareal.Multistep.step`."""

    def first_order(self, problem: Any, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor] | None:
        """Calls the method."""
        return self.method.first_order(problem, t0, t1) if isinstance(self.method, pr.Multistep) else None

    def of_method(self, problem: Any, t0: Tensor, t1: Tensor, u: pr.Carried, variant: int) -> Stages:
        """One step of the method itself."""
        if isinstance(self.method, pr.Multistep):
            return (yield from self.method.step(problem, t0, t1, u, variant))
        return pr.Carried((yield from self.method.step(problem, t0, t1, u.u)), u.memory)
