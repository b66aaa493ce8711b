"""The experiments of the SRDS paper, and those that it left open, on trained networks: tables and pictures in a folder.

Self-Refining Diffusion Samplers, arXiv 2412.08292. All rounds and evaluations are counted by the engine; wall times are
ratios of runs in one process. The experiments, each of which can be named to run it alone:

    orders           (a) iterations, rounds, evaluations and time by steps and solver
    refinements      (b) quality after 0, 1, 2, ... iterations, of at least 1,000 samples
    propagators      (c) numbers of slices, and coarse propagators
    synchronisation  (d) what waiting for each other costs
    long             (e) 1,000 to 10,000 steps
    failures         (f) what makes it diverge, or take all its iterations
    methods          (g) beside Picard, the default, Newton, warm starts and others
    launch_bound     the gain where a call takes a fixed time
    domains          the default on every network, and its constants: `benchmarks/domains.py`

`python benchmarks/srds.py --quick` takes less than 10 minutes on 2 idle cores, without it less than 3 hours. GPU: none
of these needs one; `benchmarks/gpu.py` has the wall times of large networks.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import domains
import matplotlib as mpl
import torch
from paper import failures, launch_bound, methods, networks, orders, propagators, refinements, synchronisation
from paper.clock import CLOCK
from paper.report import Report


def _orders(report: Report, names: list[str]) -> None:
    orders.orders(report, names[:1] if report.quick else names, 1 if report.quick else 4)


def _refinements(report: Report, names: list[str]) -> None:
    chosen = names[:1] if report.quick else names
    scales = (1.0,) if report.quick else (1.0, 2.0, 7.5)
    refinements.refinements(
        *(report, chosen, report.samples, report.steps or (25, 100), report.guidance or scales),
        default=report.default,
    )


def _propagators(report: Report, names: list[str]) -> None:
    seeds = 1 if report.quick else 4
    propagators.slices(report, names[0], seeds)
    propagators.coarse(report, propagators.compared(names), seeds)


def _synchronisation(report: Report, names: list[str]) -> None:
    synchronisation.in_one_process(report, names[0], 3 if report.quick else 5)
    synchronisation.on_workers(report)
    synchronisation.on_processes(report)


def _long(report: Report, names: list[str]) -> None:
    orders.long(report, names[:1], 1 if report.quick else 4)


def _failures(report: Report, names: list[str]) -> None:
    failures.failures(report, names[0])


def _methods(report: Report, names: list[str]) -> None:
    methods.methods(
        report,
        names[:1] if report.quick else names,
        1 if report.quick else 4,
        (25, 100) if report.quick else (25, 50, 100),
    )


def _launch_bound(report: Report, names: list[str]) -> None:
    if not launch_bound.launch_bound(report, 1 if report.quick else 3):
        print("launch_bound: a target is missed", file=sys.stderr)


def _domains(report: Report, names: list[str]) -> None:
    if report.quick:
        small = [name for name in names if name in ("digits", "strokes", "speech")]
        domains.everywhere(report, names, 1, (25, 100, 1000), small[:1])
        domains.constants(report, small, 2, 50)
    else:
        domains.everywhere(report, names, 100)
        domains.constants(report, names, 16)


EXPERIMENTS: dict[str, Callable[[Report, list[str]], None]] = {
    "orders": _orders,
    "refinements": _refinements,
    "propagators": _propagators,
    "synchronisation": _synchronisation,
    "long": _long,
    "failures": _failures,
    "methods": _methods,
    "launch_bound": _launch_bound,
    "domains": _domains,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="default: all")
    parser.add_argument("--quick", action="store_true", help="few samples, most experiments on digits alone")
    parser.add_argument("--networks", nargs="*", default=None, help=f"default: all of {', '.join(networks.names())}")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("PARAREAL_OUT", "out")) / "srds")
    parser.add_argument("--samples", type=int, default=1000, help="of which the quality is measured (default 1000)")
    parser.add_argument("--steps", type=int, nargs="*", help="of refinements (default 25 100)")
    parser.add_argument("--guidance", type=float, nargs="*", help="of refinements (default 1 2 7.5; quick 1)")
    parser.add_argument("--srds-alone", action="store_true", help="refinements without the default's rows")
    parser.add_argument("--clock", choices=("wall", "process"), default="wall", help="process: on a machine in use")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    given = parser.parse_args()
    for kind, asked, known in (
        ("experiments", given.experiments, list(EXPERIMENTS)),
        ("networks", given.networks or [], networks.names()),
    ):
        if unknown := [name for name in asked if name not in known]:
            parser.error(f"{kind} {', '.join(unknown)} are unknown; expected some of {', '.join(known)}")
    if given.clock == "process" and given.threads != 1:
        parser.error(f"--clock process came with --threads {given.threads}, whose times add up; expected one thread")
    torch.set_num_threads(given.threads)
    CLOCK.wall = given.clock == "wall"
    mpl.use("Agg")
    report = Report(given.out, given.quick, given.samples, given.steps, given.guidance, not given.srds_alone)
    for name in given.experiments or EXPERIMENTS:
        begun, used = time.monotonic(), time.process_time()
        EXPERIMENTS[name](report, given.networks or networks.names())
        took, used = time.monotonic() - begun, time.process_time() - used
        print(f"\n{name}: {took:.0f} s, {used:.0f} s of processor time; ratios are of {CLOCK.name}", flush=True)


if __name__ == "__main__":
    main()
