"""The largest Lyapunov exponent, where it is known, and where it is reported."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import parareal as pr

ONES = torch.ones(3, dtype=torch.float64)
GRID = pr.TimeGrid.uniform(0.0, 8.0, slices=32, steps=4)


def lorenz(t: Tensor, u: Tensor) -> Tensor:
    x, y, z = u[..., 0], u[..., 1], u[..., 2]
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


LORENZ = pr.ODE(lorenz, batching="native")
ON_IT = torch.tensor([1.0, 1.0, 20.0], dtype=torch.float64)


def test_lorenz() -> None:
    """0.906 in the literature, with its error over this time."""
    found = pr.lyapunov_exponent(LORENZ, ON_IT, pr.TimeGrid.uniform(0.0, 60.0, slices=120, steps=20), fine=pr.RK4())
    assert found.exponent == pytest.approx(0.906, abs=0.1)
    assert abs(found.exponent - 0.906) < 3 * found.error
    assert found.evaluations == 2 * 4 * 2400
    assert "errors grow by 23 decades" in str(found)


MATRIX = torch.tensor([[0.3, 2.0, 0.0], [-2.0, 0.3, 0.0], [1.0, 0.0, -1.5]], dtype=torch.float64)


@pytest.mark.parametrize("grid", [GRID, pr.TimeGrid.uniform(8.0, 0.0, slices=32, steps=4)], ids=["rising", "falling"])
@pytest.mark.parametrize("samples", [False, True], ids=["one", "samples"])
def test_linear_problems_have_the_largest_real_part_of_their_eigenvalues(grid: pr.TimeGrid, samples: bool) -> None:
    sign = 1.0 if grid.edges[-1] > 0 else -1.0
    problem = pr.ODE(lambda t, u: sign * u @ MATRIX.T)
    u0 = ONES.expand(4, 3) if samples else ONES
    found = pr.lyapunov_exponent(problem, u0, grid, fine=pr.RK4(), samples=samples)
    # A rotation of speed 2 beside it: what it adds to the mean over whole slices is bounded by the time.
    assert found.exponent == pytest.approx(0.3, abs=0.02)
    assert found.growth == pytest.approx(math.exp(found.exponent * 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize("rate", [-3.0, 0.0, 1.0])
def test_one_number_has_its_rate(rate: float, dtype: torch.dtype) -> None:
    problem = pr.ODE(lambda t, u: (rate * u[0], rate * u[1]))
    u0 = torch.ones((), dtype=dtype), torch.ones(2, dtype=dtype)
    found = pr.lyapunov_exponent(problem, u0, GRID, fine=pr.RK4())
    assert found.exponent == pytest.approx(rate, abs=2e-3)


def test_a_contraction_is_negative_and_a_discrete_solution_may_differ_from_its_equation() -> None:
    problem = pr.ODE(lambda t, u: -u - u**3 + torch.cos(t))
    found = pr.lyapunov_exponent(problem, ONES, GRID, fine=pr.RK4())
    assert -3.5 < found.exponent < -1.0
    assert "differences do not grow" in found.verdict
    unstable = pr.lyapunov_exponent(pr.ODE(lambda t, u: -30.0 * u), ONES, GRID, fine=pr.Euler())
    assert unstable.exponent == pytest.approx(math.log(abs(1 - 30 / 16)) * 16, abs=0.05)


def test_states_at_rest_and_states_that_overflow() -> None:
    rest = pr.lyapunov_exponent(pr.ODE(lambda t, u: torch.zeros_like(u)), 0 * ONES, GRID, fine=pr.Euler())
    assert rest.exponent == 0.0
    lost = pr.lyapunov_exponent(pr.ODE(lambda t, u: u**3), 10 * ONES, GRID, fine=pr.Euler())
    assert not math.isfinite(lost.exponent)
    assert "no estimate" in str(lost)


@pytest.mark.parametrize(
    "fine",
    [pr.ImplicitEuler(), pr.AdamsBashforth(2), pr.Propagator(lambda t0, t1, u: u * torch.exp(0.5 * (t1 - t0)))],
    ids=["implicit", "multistep", "propagator"],
)
def test_any_method_will_do(fine: pr.Integrator) -> None:
    grid = pr.TimeGrid.uniform(0.0, 2.0, slices=4, steps=8)
    found = pr.lyapunov_exponent(pr.ODE(lambda t, u: 0.5 * u), ONES, grid, fine=fine)
    assert found.exponent == pytest.approx(0.5, abs=0.02)


def test_both_of_a_pair_see_the_same_noise() -> None:
    """dU = a U dt + b U dW, in the sense of Ito: a - b^2 / 2 and the mean of the noise itself."""
    problem = pr.SDE(lambda t, u: 0.5 * u, lambda t, u: u, noise="scalar", generator=torch.Generator().manual_seed(0))
    grid = pr.TimeGrid.uniform(0.0, 4.0, slices=16, steps=8)
    u = pr.serial(problem, ONES, grid, fine=pr.EulerMaruyama()).us
    found = pr.lyapunov_exponent(problem, ONES, grid, fine=pr.EulerMaruyama())
    assert found.exponent == pytest.approx(float(torch.log(u[-1] / u[4])[0]) / 3, abs=1e-4)


def test_plan_and_check_propagator_report_it() -> None:
    swing = pr.ODE(lambda t, u: torch.stack([u[1], u[0]]))  # e^t
    u0 = torch.tensor([1.0, 0.2], dtype=torch.float64)
    found = pr.plan(swing, u0, (0.0, 6.0, 24), fine=pr.RK4(), coarse=pr.Euler(), slices=[4], budget=5.0)
    assert found.lyapunov is not None
    assert found.lyapunov.exponent == pytest.approx(1.0, abs=0.1)
    assert str(found.lyapunov) in str(found)
    report = pr.check_propagator(pr.RK4(), swing, u0, pr.TimeGrid.uniform(0.0, 6.0, slices=6, steps=8), slices=6)
    assert report.lyapunov is not None
    assert report.lyapunov.exponent == pytest.approx(1.0, abs=0.1)
    assert "Largest Lyapunov exponent" in str(report)
    broken = pr.Propagator(lambda t0, t1, u: torch.rand_like(u))
    assert pr.check_propagator(broken, swing, u0, GRID).lyapunov is None


def test_it_checks_its_arguments_as_solve_does() -> None:
    bad: Any = None
    with pytest.raises(TypeError, match="fine is None"):
        pr.lyapunov_exponent(LORENZ, ON_IT, GRID, fine=bad)
