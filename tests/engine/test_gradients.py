"""What a tolerance for states means for gradients, where a coarse propagator corrects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import parareal as pr

FACTOR = {"unroll": 20.0, "adjoint": 2.0}
"""Of the tolerance; scripts/measure_gradients.py found 4.5 and 0.4 at most, on other problems."""

PROBLEMS: dict[str, Callable[[Tensor], Any]] = {
    "relaxation": lambda p: lambda t, u: -p * u + torch.cos(2 * t),
    "duffing": lambda p: lambda t, u: torch.stack([u[1], -u[0] - p * u[0] ** 3 - 0.2 * u[1]]),
}


@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Windowed(8)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("way", FACTOR)
def test_with_a_coarse_propagator_gradients_are_within_a_multiple_of_the_tolerance(
    problem: str, schedule: pr.Schedule, way: Any
) -> None:
    grid = pr.TimeGrid.uniform(0.0, 5.0, slices=16, steps=2)

    def gradient(solve: Callable[..., pr.Solution], **options: Any) -> Tensor:
        u0 = torch.tensor([1.0, -0.3], dtype=torch.float64, requires_grad=True)
        p = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        u = solve(pr.ODE(PROBLEMS[problem](p)), u0, grid, fine=pr.RK4(), **options).u
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(u.sum(), (u0, p))])

    expected = gradient(pr.serial)
    for rtol in (1e-2, 1e-4):
        stop = pr.Tolerance(rtol, 0.0)
        found = gradient(pr.solve, coarse=pr.Heun(), schedule=schedule, stop=stop, gradients=way)
        assert float((found - expected).abs().max() / expected.abs().max()) <= FACTOR[way] * rtol
