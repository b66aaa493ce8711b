"""What a tolerance for states means for gradients, where a coarse propagator corrects."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import parareal as pr
from parareal._core import finite

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


# --- coarse solutions that are not finite -----------------------------------------------------------------------------


def _singular(
    coarse: pr.Correction, stop: pr.StoppingRule, edges: list[float], fine: pr.Integrator, schedule: Any = None
) -> Any:
    """A run whose coarse step of length 1, backwards in time, solves a singular system."""
    u0 = torch.tensor([-0.9, 0.4], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    problem = pr.ODE(lambda t, u: rate * u + torch.sin(t).reshape(-1, *[1] * (u.ndim - 1)), "native")
    grid = pr.TimeGrid.from_edges(torch.tensor(edges, dtype=torch.float64))
    u = pr.solve(problem, u0, grid, fine=fine, coarse=coarse, stop=stop, schedule=schedule, throw=False).u
    expected = pr.serial(problem, u0, grid, fine=fine).u
    return u, expected, (u0, rate)


@pytest.mark.parametrize("edges", [[1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.5, 0.5, 0.2]])
@pytest.mark.parametrize(
    "coarse", [pr.ImplicitEuler(1), pr.Damped(pr.ImplicitEuler(1), 0.5), pr.Secant(pr.ImplicitEuler(1))]
)
def test_coarse_solutions_that_are_not_finite_do_not_spoil_the_gradients_of_a_final_run(
    coarse: pr.Correction, edges: list[float]
) -> None:
    u, expected, inputs = _singular(coarse, pr.Iterations(len(edges) - 1), edges, pr.RK4(2))
    assert torch.equal(u, expected)
    got, right = (torch.autograd.grad(value.sum(), inputs) for value in (u, expected))
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(got, right, strict=True))


@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront()])
def test_gradients_beside_a_coarse_solution_that_is_not_finite(schedule: pr.Schedule) -> None:
    edges, stop = [2.0, 1.5, 0.5, 0.2], pr.Iterations(1)
    u, _, (u0, _) = _singular(pr.ImplicitEuler(1), stop, edges, pr.RK4(2), schedule)
    (got,) = torch.autograd.grad(u.sum(), u0)
    assert torch.allclose(got, torch.full((2,), 2.699714599, dtype=torch.float64))  # by differences


def test_a_gradient_that_would_not_be_finite_is_refused() -> None:
    for value in (finite.watched, lambda x: finite.finite_or(x, torch.zeros(2))):
        x = torch.tensor([0.0, 1.0], requires_grad=True)
        with pytest.raises(RuntimeError, match=r"coarse solution of this run that was not finite.*gradients='adjoint'"):
            value(1 / x).sum().backward()
        assert value(1 / x)[0] >= 0
        (got,) = torch.autograd.grad(0.0 * value(1 / x)[1] + x.sum(), x)
        assert got.tolist() == [1.0, 1.0]


def test_forward_mode_in_another_thread_changes_no_gradient() -> None:
    def gradient() -> Tensor:
        x = torch.tensor([0.0, 1.0], requires_grad=True)
        return torch.autograd.grad(0.0 * finite.watched(1 / x)[1] + x.sum(), x)[0]

    # Torch counts the levels of forward mode for all threads together.
    with torch.autograd.forward_ad.dual_level(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(gradient).result().tolist() == [1.0, 1.0]


def test_a_coarse_solution_that_overflows_does_not_spoil_the_gradients_of_a_final_run() -> None:
    u0 = torch.tensor([30.0], dtype=torch.float32, requires_grad=True)
    problem = pr.ODE(lambda t, u: -(u**5))
    grid = pr.TimeGrid.from_edges(torch.tensor([0.0, 1e-6, 1.0, 2.0]))
    fine = pr.Propagator(lambda t0, t1, u: u * torch.exp(t0 - t1), differentiable=True)
    got = pr.solve(problem, u0, grid, fine=fine, coarse=pr.RK4(), stop=pr.Iterations(3), throw=False)
    expected = pr.serial(problem, u0, grid, fine=fine)
    assert torch.equal(got.u, expected.u)
    assert torch.equal(*(torch.autograd.grad(sol.u.sum(), u0)[0] for sol in (got, expected)))
