"""Runs with tangents beside the state go on bit for bit: rules and mixing look back to what was before the break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor

import parareal as pr

CORRECTIONS = (
    pr.Jacobian(),
    pr.Jacobian("diagonal", probes=2),
    pr.Damped(pr.Jacobian(), 0.8),
    pr.TrustRegion(pr.Jacobian()),
    pr.Relaxed(pr.Jacobian()),
    pr.Secant(pr.Jacobian()),
    pr.Anderson(pr.Jacobian()),
)
RULES = (pr.Tolerance(1e-6, rule="error", freeze=True), pr.Tolerance(1e-9, rule="error"), pr.Tolerance(1e-9))
GRID = pr.TimeGrid.uniform(0.0, 6.0, slices=6, steps=1)


def f(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(t) * u - u / (1 + u * u)


@examples(3)
@given(
    st.sampled_from(CORRECTIONS),
    st.sampled_from(RULES),
    st.sampled_from((pr.RK4(), pr.Heun())),
    st.booleans(),
    st.integers(1, 5),
    st.integers(0, 1000),
)
@example(pr.Jacobian(), RULES[0], pr.RK4(), True, 1, 5)
@example(pr.Jacobian(), RULES[0], pr.RK4(), False, 3, 5)
@example(pr.Anderson(pr.Jacobian()), RULES[2], pr.RK4(), False, 3, 5)
def test_a_run_with_a_barrier_goes_on_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, coarse: Any, stop: Any, fine: Any, samples: bool, k: int, seed: int
) -> None:
    u0 = torch.rand(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5
    u0 = u0 if samples else u0[0]
    call: dict[str, Any] = {"fine": fine, "coarse": coarse, "stop": stop, "samples": samples, "throw": False}
    call |= {"schedule": pr.Barrier(), "executor": pr.Serial()}
    whole = pr.solve(pr.ODE(f), u0, GRID, **call)
    first = pr.solve(pr.ODE(f), u0, GRID, callback=lambda report: report.iteration == k, **call)
    path: Path = tmp_path_factory.mktemp("runs") / "run"
    first.save(path)
    resume = pr.Solution.load(path) if seed % 2 else first
    sol = pr.solve(pr.ODE(f), u0, GRID, resume=resume, **call)
    assert torch.equal(sol.us, whole.us)
    assert torch.equal(torch.as_tensor(sol.iterations), torch.as_tensor(whole.iterations))
    assert len(sol.history) == len(whole.history)
    assert sol.status is whole.status
