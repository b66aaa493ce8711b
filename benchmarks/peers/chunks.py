"""pyzag's implicit Euler, where that package is installed: Newton's method on chunks of steps, one after another."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import torch
from torch import Tensor

from peers.deer import Slope, with_jacobian


def found() -> Any:
    """The package's modules, or ``None``."""
    try:
        return tuple(importlib.import_module(f"pyzag.{name}") for name in ("chunktime", "nonlinear", "ode"))
    except ImportError:
        return None


def implicit_euler(f: Slope, u0: Tensor, points: Tensor, chunk: int, rtol: float, scan: bool) -> tuple[Tensor, int]:
    """States at the points, and how often the residual was evaluated, in all chunks together.

    Args:
        f: The right-hand side of one state.
        u0: The initial state.
        points: The points of the grid.
        chunk: Steps that are solved together.
        rtol: On the residual of each step, relative to that of the first guess; absolute 1e-12.
        scan: Solve the linear systems by parallel cyclic reduction in place of substitution.
    """
    chunktime, nonlinear, ode = found()
    both, calls = with_jacobian(f), 0

    class Equation(torch.nn.Module):
        def forward(self, t: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += 1
            value, jacobian = both(t.flatten(), u.flatten(0, 1))
            return value.reshape(u.shape), jacobian.reshape(*u.shape, u.shape[-1])

    direct = chunktime.BidiagonalPCRFactorization if scan else chunktime.BidiagonalThomasFactorization
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solver = nonlinear.RecursiveNonlinearEquationSolver(
            ode.BackwardEulerODE(Equation()),
            step_generator=nonlinear.StepGenerator(chunk),
            predictor=nonlinear.LastStepPredictor(),
            direct_solve_operator=direct,
            nonlinear_solver=chunktime.ChunkNewtonRaphson(rtol=rtol, atol=1e-12),
        )
        with torch.no_grad():
            states = nonlinear.solve(solver, u0[None], len(points), points[:, None, None])
    return states[:, 0], calls
