"""Memory that must not grow: with the length of a grid in a narrow window, and with the number of solves."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

import parareal as pr
from trials import Report
from trials.calls import answer, draw

MIB = 2**20


def resident() -> float:
    """MiB of this process that are in memory now; of systems without ``/proc`` the most there ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def settled() -> float:
    """`resident`, when what is free has gone back to the system: the allocator keeps some of it for each thread."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)
    return resident()


class Watch:
    """The most memory in use while it is open, measured all the time."""

    def __init__(self) -> None:
        self.most, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, resident())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self.most = max(self.most, resident())


def _decay(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(t)[:, None] - u


def grid_of(slices: int) -> pr.TimeGrid:
    """A long grid of short slices."""
    return pr.TimeGrid.from_edges(torch.linspace(0.0, slices * 1e-2, slices + 1, dtype=torch.float64))


def in_a_window(grid: pr.TimeGrid, most: int | None = None) -> pr.Solution:
    """A run in a window of 64 that keeps its two ends alone."""
    options = {"schedule": pr.Windowed(64), "stop": pr.Tolerance(1e-2, 1e-2), "max_iterations": most}
    with torch.no_grad():
        return pr.solve(
            pr.ODE(_decay, "native"),
            torch.ones(2, dtype=torch.float64),
            grid,
            fine=pr.Euler(1),
            coarse=pr.Identity(),
            dense=False,
            throw=False,
            **options,
        )


def long_window(slices: int, allowed: float = 50.0) -> Report:
    """A long grid in a narrow window: MiB more than before the run, at most those allowed, and the right end."""
    report, grid = Report(f"a window of 64 on {slices:,} slices", 1), grid_of(slices)
    in_a_window(grid_of(5000))  # what is loaded and kept once
    before, began = settled(), time.perf_counter()
    with Watch() as watch:
        sol = in_a_window(grid)
    more = watch.most - before
    report.name += f": {more:.1f} MiB more, {sol.iterations:,} iterations, {time.perf_counter() - began:.0f} s"
    t = float(grid.points[-1])
    right = (torch.tensor(t).cos() + torch.tensor(t).sin()) / 2  # once the start is forgotten
    if more > allowed:
        report.broken.append(f"{more:.1f} MiB more; {allowed} are allowed")
    if not float((sol.u - right).abs().max()) < 0.02:
        report.broken.append(f"{sol.u.tolist()} at the end; expected about {float(right):.4f}")
    return report


def many_solves(count: int, kinds: int = 40, allowed: float = 8.0) -> Report:
    """The same few solves over and over: neither objects nor memory grow."""
    report = Report("solves in one process")
    for number in range(2 * kinds):  # what is loaded and kept once
        answer(draw(random.Random(number % kinds)))
    before, objects = settled(), len(gc.get_objects())
    while report.tried < count:
        answer(draw(random.Random(report.tried % kinds)))
        report.tried += 1
    more, new = settled() - before, len(gc.get_objects()) - objects
    report.name += f" ({new} objects and {more:.1f} MiB more)"
    if new > 300:  # a few are made late, and stay
        report.broken.append(f"{new} objects more")
    if more > allowed:
        report.broken.append(f"{more:.1f} MiB more; {allowed} are allowed")
    return report
