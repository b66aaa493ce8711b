"""Processes that are killed at any moment: the job, started again, ends with what it would have ended with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import faults

import parareal as pr

KILLS = 0


@pytest.fixture(scope="module")
def undisturbed() -> pr.Solution:
    with torch.no_grad():
        return pr.solve(**faults.work("alone"))


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize(("way", "size"), [("lanes", 2), ("blocks", 3)])
def test_a_killed_job_goes_on_where_it_was(
    way: str, size: int, seed: int, undisturbed: pr.Solution, tmp_path: Path
) -> None:
    # Four kills in each of 14 jobs: 56.
    killed, wrong = faults.killed_until_done(way, size, tmp_path, kills=4, seed=seed)
    assert not wrong
    assert killed == 4
    for rank in range(size):
        us, iterations, reports = torch.load(tmp_path / f"end-{rank}")
        # Lanes are stepped beside others than in one process: a few units of rounding.
        torch.testing.assert_close(us, undisturbed.us, rtol=1e-13, atol=0.0)
        assert iterations == reports == undisturbed.iterations == faults.SLICES
