"""The probability-flow ODE as a semilinear equation, for the exponential integrators that are DPM-Solver and its kin.

With u = a x0 + b eps, a and b the shares of data and noise, and lambda = log(a/b), u/a solves d(u/a)/dlambda =
-u/a + x0, and u/b solves d(u/b)/dlambda = u/b - eps: linear parts of -1 and 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

import parareal as pr
from diffusion_adapters.equations._coordinates import Coordinates
from parareal import Split, Weights
from parareal.problem._semilinear import chosen

if TYPE_CHECKING:
    from diffusion_adapters.equations._probability_flow import DiffusionODE


def diffusion_split(problem: DiffusionODE, coordinates: Coordinates, prediction: pr.Prediction) -> Split:
    """The split of a diffusion ODE for a model whose x0 or eps is taken for smooth in lambda.

    A step that begins without signal says nothing of x0 in its state, and takes it from the model, whichever is
    smooth; one that begins without noise takes eps. Such steps are endless, of order 1, and the same in both.
    """
    data = prediction == "data"

    def takes_data(a: Tensor, b: Tensor) -> Tensor:
        return b != 0 if data else a == 0

    def rest(tau: Tensor, u: Tensor, slope: Tensor) -> Tensor:
        x0, eps = coordinates.split_lanes(tau, u, slope)
        return chosen(takes_data(*coordinates.shares(tau)), x0, eps)

    def weights(t0: Tensor, t1: Tensor, n: int) -> Weights:
        h = coordinates.level(t1) - coordinates.level(t0)
        (a0, b0), (a1, b1) = coordinates.shares(t0), coordinates.shares(t1)
        of_data = takes_data(a0, b0)
        keep = torch.where(of_data, b1 / b0, a1 / a0)
        scale = torch.where(of_data, a1, -b1)
        grown = torch.where(a1 == 0, -keep * a0, -a1 * torch.expm1(-h))
        first = torch.where(of_data, grown, b1 - keep * b0)
        phi = pr.scaled_phis(h, h.new_tensor(-1.0 if data else 1.0), n, scale, first)
        return Weights(h, (keep,), [(part,) for part in phi], phi[0], scale)

    return Split(problem.rhs, rest, coordinates.level, coordinates.at_level, weights, endless=True)
