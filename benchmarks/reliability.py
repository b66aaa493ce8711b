"""What was tried to break this library, and what broke: a line for each kind of trial.

Run it with `python benchmarks/reliability.py`: a share of each kind, a few minutes. With `--nightly` everything is
tried, which takes hours; `--share 0.2` tries a fifth of that, and `--only files,signals` some kinds. `--seed` draws
other trials. It ends with status 1 if anything broke.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from trials import Report
from trials.calls import concurrent, random_calls
from trials.files import damaged_files, killed_writers
from trials.growth import long_window, many_solves
from trials.interrupts import signals
from trials.ranks import faulty_ranks

Section = Callable[[int, Path, int], Report]
SECTIONS: dict[str, tuple[int, Section]] = {
    "calls": (10_000, lambda count, folder, seed: random_calls(count, seed)),
    "threads": (500, lambda count, folder, seed: concurrent(count, seed=seed)),
    "files": (5_000, damaged_files),
    "writers": (200, lambda count, folder, seed: killed_writers(count, folder, seed=seed)),
    "signals": (300, signals),
    "ranks": (960, faulty_ranks),
    "solves": (5_000, lambda count, folder, seed: many_solves(count)),
    "window": (1_000_000, lambda count, folder, seed: long_window(count)),
}
"""Each kind of trial: how many with `--nightly`, and the function that makes them."""
QUICK = 0.01


def run(share: float, only: list[str], seed: int) -> list[Report]:
    """Makes the trials and prints a line for each kind."""
    reports: list[Report] = []
    for name in only:
        count, section = SECTIONS[name]
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            report = section(max(4, round(share * count)), Path(folder), seed)
        print(report, flush=True)
        reports.append(report)
    return reports


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nightly", action="store_true", help="everything: hours")
    parser.add_argument("--share", type=float, help=f"share of everything; {QUICK} by default")
    parser.add_argument("--only", default=",".join(SECTIONS), help="kinds of trials, with commas between them")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    only = given.only.split(",")
    if unknown := [name for name in only if name not in SECTIONS]:
        parser.error(f"--only {unknown[0]} is unknown; expected some of {', '.join(SECTIONS)}")
    share = given.share if given.share is not None else 1.0 if given.nightly else QUICK
    reports = run(share, only, given.seed)
    broken = sum(len(report.broken) for report in reports)
    print(f"{sum(report.tried for report in reports)} trials, {broken} broke")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
