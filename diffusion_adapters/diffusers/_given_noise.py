"""Noise that a scheduler draws for each of its steps, as the path of a diffusion problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.equations._probability_flow import DiffusionODE
from diffusion_adapters.equations._reverse_sde import NoisyFlow
from parareal.extend import fine_points


class Drawn:
    """Noise that is drawn in the first step, when the generator and the dtype are known.

    Attributes:
        normals: Standard normals, ``(n, B, *rest)``, one for each step of the grid.
    """

    normals: Tensor


@dataclass(frozen=True, eq=False)
class _GivenPath(pr.BrownianPath):
    """A Brownian path whose increments over the steps are given."""

    given: Drawn = field(kw_only=True)

    def draw(self, index: Tensor, like: Any, keys: Tensor, area: bool) -> list[Tensor]:
        """The normals of the requested steps and samples."""
        rows = self.given.normals[index, keys[:, 2].expand_as(index)]
        return [rows.to(torch.float64).reshape(*index.shape, *like.shape[1:])]


@dataclass(frozen=True, eq=False)
class DrawnFlow(NoisyFlow):
    """A diffusion ODE together with the noise that a scheduler has drawn for each of its steps.

    Attributes:
        drawn: The noise.
    """

    drawn: Drawn = field(kw_only=True)

    def __reduce__(self) -> tuple[Any, ...]:
        remade = partial(DrawnFlow, coordinates=self.coordinates, drawn=self.drawn, path=self.path, most=self.most)
        return remade, (self.f, self.batching, self.per_sample)

    def bind(self, u0: Any, grid: pr.TimeGrid, fine: pr.Integrator) -> DrawnFlow:
        """This problem with the path of that noise, one increment for each step."""
        bound = super().bind(u0, grid, fine)
        points = fine_points(grid, fine)
        path = _GivenPath(points, 0, self._clock, given=self.drawn)
        object.__setattr__(bound, "path", path)
        assert isinstance(bound, DrawnFlow)
        return bound

    @classmethod
    def of(cls, problem: DiffusionODE, drawn: Drawn) -> DrawnFlow:
        """The problem with this noise."""
        return cls(problem.f, problem.batching, problem.per_sample, coordinates=problem.coordinates, drawn=drawn)
