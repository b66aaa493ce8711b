"""A stopping rule that asks no more of late states than an early error leaves of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import parareal as pr


def lorenz(t: Tensor, u: Tensor) -> Tensor:
    x, y, z = u[..., 0], u[..., 1], u[..., 2]
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


LORENZ = pr.ODE(lorenz, batching="native")
ON_IT = torch.tensor([1.0, 1.0, 20.0], dtype=torch.float64)
GRID = pr.TimeGrid.uniform(0.0, 12.0, slices=24, steps=20)


def run(stop: pr.StoppingRule, **options: Any) -> pr.Solution:
    return pr.solve(LORENZ, ON_IT, GRID, fine=pr.RK4(), coarse=pr.RK4(steps=5), stop=stop, **options)


def jumps(sol: pr.Solution) -> Tensor:
    """Relative, from one call of the fine propagator on each slice."""
    far = []
    for n in range(GRID.num_slices):
        part = pr.TimeGrid.from_points(GRID.points[20 * n : 20 * n + 21], slices=1)
        end = pr.serial(LORENZ, sol.us[n], part, fine=pr.RK4()).u
        far.append((end - sol.us[n + 1]).norm() / end.norm())
    return torch.stack(far)


def test_it_promises_small_jumps_and_a_beginning_that_is_right() -> None:
    rule = pr.Proximity(0.906, GRID.edges, rtol=1e-6, atol=0.0)
    sol, ref = run(rule), pr.serial(LORENZ, ON_IT, GRID, fine=pr.RK4())
    strict = run(pr.Tolerance(1e-6, 0.0, rule="defect"))
    assert sol.status is pr.Status.CONVERGED
    assert sol.iterations < strict.iterations
    assert np.isnan(sol.error_estimate)
    allowed = torch.from_numpy(np.minimum(1e-6 * rule.factors, 1e-2))
    assert (jumps(sol) <= 1.05 * allowed).all()
    apart = (sol.us - ref.us).norm(dim=1) / ref.us.norm(dim=1)
    assert apart[: GRID.num_slices // 4].max() < 1e-6
    # Pointwise it is no better than an error of that size at the start has left.
    other = pr.serial(LORENZ, ON_IT * (1 + 1e-6), GRID, fine=pr.RK4())
    assert apart[-1] < 100 * (other.u - ref.u).norm() / ref.u.norm()


@pytest.mark.parametrize("exponent", [0.0, -2.0])
def test_without_growth_it_is_the_defect_rule(exponent: float) -> None:
    a = run(pr.Proximity(exponent, GRID.edges, rtol=1e-4, atol=1e-5))
    b = run(pr.Tolerance(1e-4, 1e-5, rule="defect"))
    assert a.iterations == b.iterations
    assert torch.equal(a.us, b.us)


def test_jumps_are_never_larger_than_the_most() -> None:
    sol = run(pr.Proximity(50.0, GRID.edges, rtol=1e-6, atol=0.0, most=1e-3))
    assert jumps(sol).max() <= 1e-3
    assert sol.iterations <= run(pr.Proximity(0.906, GRID.edges, rtol=1e-6, atol=0.0, most=1e-3)).iterations


def test_it_combines_verifies_and_takes_samples() -> None:
    rule = pr.Proximity(0.906, GRID.edges, rtol=1e-6, atol=0.0)
    assert run(rule | pr.Iterations(2)).iterations == 2
    plain, sure = run(rule), run(rule, verify=True)
    assert sure.status is pr.Status.VERIFIED
    assert sure.iterations >= plain.iterations
    many = pr.solve(
        LORENZ, torch.stack([ON_IT, ON_IT + 1]), GRID, fine=pr.RK4(), coarse=pr.RK4(steps=5), stop=rule, samples=True
    )
    assert int(many.iterations[0]) == plain.iterations
    assert run(rule, schedule=pr.Wavefront()).converged


def test_what_it_refuses() -> None:
    rule = pr.Proximity(0.906, GRID.edges)
    with pytest.raises(ValueError, match="Proximity came with Windowed"):
        run(rule, schedule=pr.Windowed(4))
    with pytest.raises(ValueError, match="times holds 5 slice boundaries and the grid has 25"):
        run(pr.Proximity(0.906, GRID.edges[:5]))
    for options, error, words in (
        ({"exponent": float("nan")}, ValueError, "exponent=nan is out of range"),
        ({"exponent": True}, TypeError, "exponent=True is a bool"),
        ({"rtol": -1.0}, ValueError, "rtol=-1.0"),
        ({"norm": "l2"}, ValueError, "norm='l2' is unknown"),
        ({"times": 3}, TypeError, "times is int; expected the slice boundaries"),
        ({"times": torch.zeros(2, 2)}, TypeError, "times is"),
    ):
        given: dict[str, Any] = {"exponent": 0.9, "times": GRID.edges, **options}
        with pytest.raises(error, match=words):
            pr.Proximity(**given)
