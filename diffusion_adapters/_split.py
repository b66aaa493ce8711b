"""The probability-flow ODE as a semilinear equation, for the exponential integrators that are DPM-Solver and its kin.

With u = a x0 + b eps, a and b the shares of data and noise, and lambda = log(a/b), u/a solves d(u/a)/dlambda =
-u/a + x0, and u/b solves d(u/b)/dlambda = u/b - eps: linear parts of -1 and 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters._coordinates import Coordinates
from parareal import Split, Weights

if TYPE_CHECKING:
    from diffusion_adapters._flow import DiffusionODE


def diffusion_split(problem: DiffusionODE, coordinates: Coordinates, prediction: pr.Prediction) -> Split:
    """The split of a diffusion ODE for a model whose x0 or eps is taken for smooth in lambda."""
    data = prediction == "data"

    def rest(tau: Tensor, u: Tensor, slope: Tensor) -> Tensor:
        return coordinates.split_lanes(tau, u, slope)[0 if data else 1]

    def weights(t0: Tensor, t1: Tensor, n: int) -> Weights:
        h = coordinates.level(t1) - coordinates.level(t0)
        (a0, b0), (a1, b1) = coordinates.shares(t0), coordinates.shares(t1)
        if data:
            keep, scale, first = b1 / b0, a1, -a1 * torch.expm1(-h)
            phi = pr.scaled_phis(h, h.new_tensor(-1.0), n, scale, first)
        else:
            keep, scale = a1 / a0, -b1
            first = b1 - keep * b0
            phi = pr.scaled_phis(h, h.new_tensor(1.0), n, scale, first)
        return Weights(h, (keep,), [(part,) for part in phi], phi[0], scale)

    return Split(problem.rhs, rest, coordinates.level, coordinates.at_level, weights, endless=True)
