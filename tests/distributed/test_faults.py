"""Processes that are killed at any moment: the job, started again, ends with what it would have ended with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from ranks import faults, pace

import parareal as pr

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "distributed_ode.py"


@pytest.fixture(scope="module")
def undisturbed() -> pr.Solution:
    with torch.no_grad():
        return pr.solve(**faults.work("alone"))


@pytest.mark.sweep(2)
@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize(("way", "size"), [("lanes", 2), ("blocks", 3)])
def test_a_killed_job_goes_on_where_it_was(
    way: str, size: int, seed: int, undisturbed: pr.Solution, tmp_path: Path
) -> None:
    # Four kills in each of 14 jobs, 56, of which every test run makes some.
    killed, wrong = faults.killed_until_done(way, size, tmp_path, kills=4, seed=seed)
    assert not wrong
    assert killed == 4
    for rank in range(size):
        us, iterations, reports = torch.load(tmp_path / f"end-{rank}")
        # Lanes are stepped beside others than in one process: a few units of rounding.
        torch.testing.assert_close(us, undisturbed.us, rtol=1e-13, atol=0.0)
        assert iterations == reports == undisturbed.iterations == faults.SLICES


@pytest.mark.nightly
def test_torchrun_starts_a_killed_job_again(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=2"]
    script = [str(EXAMPLE), "--checkpoint", str(tmp_path / "run.file"), "--fail-at", "3"]
    environ = {**os.environ, "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")}
    done = pace.run([*torchrun, *script], environ, limits=4.0)
    assert done.returncode == 0, done.stderr[-3000:]
    # It died once in each way, and what had been solved before was not solved again.
    assert done.stdout.count("the sequential run takes") == 3
    assert done.stdout.count("blocks of slices: 6 iterations") == 1
