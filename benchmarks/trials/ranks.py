"""Faults of ranks: the jobs of the tests, which are killed at any moment and started again."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import parareal as pr
from trials import Report

HELPERS = Path(__file__).resolve().parents[2] / "tests" / "helpers"


def killed_ranks(count: int, folder: Path, seed: int = 0) -> Report:
    """Jobs of two or three ranks of which one after another is killed: each job ends as an undisturbed run does."""
    if str(HELPERS) not in sys.path:
        sys.path.insert(0, str(HELPERS))
    from ranks import faults

    report, jobs = Report("kills of ranks"), (("lanes", 2), ("blocks", 3))
    with torch.no_grad():
        alone = pr.solve(**faults.work("alone"))
    for number in range(max(1, count // 4) if count else 0):
        way, size = jobs[number % 2]
        place = folder / f"ranks-{number}"
        place.mkdir()
        killed, wrong = faults.killed_until_done(way, size, place, kills=4, seed=seed + number)
        report.tried += killed
        report.broken += [f"{way}, seed {seed + number}: {line}" for line in wrong]
        for rank in range(size):
            us, iterations, _ = torch.load(place / f"end-{rank}")
            if iterations != alone.iterations or not torch.allclose(us, alone.us, rtol=1e-13, atol=0.0):
                report.broken.append(f"{way}, seed {seed + number}: rank {rank} ends with other states")
    return report
