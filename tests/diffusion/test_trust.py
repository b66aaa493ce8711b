"""Configurations that `benchmarks/trust.py` draws, in which the account of errors was once wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import trust


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(626, id="a correction that makes more of moves than fine solutions do"),
        pytest.param(849, id="a denoiser that switches within a narrow region"),
        pytest.param(2817, id="a slice whose growth differs much from move to move"),
        pytest.param(53, id="an end that moves after the decision"),
    ],
)
def test_what_converged_is_right_and_its_estimate_within_the_tolerance(number: int) -> None:
    out = trust.run(trust.draw(number))
    assert any(out.converged)
    for converged, error, estimate in zip(out.converged, out.errors, out.estimates, strict=True):
        assert not converged or error <= 2 * out.case.rtol
        assert not converged or estimate <= out.case.rtol
