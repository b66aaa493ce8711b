"""Signals at any moment of a run with a checkpoint: what was computed is there, and the same call does the rest."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from trials import Report

GRID = pr.TimeGrid.uniform(0.0, 2.0, 8, 2)
U0 = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
SCHEDULES: tuple[pr.Schedule, ...] = (pr.Barrier(), pr.Wavefront(), pr.Windowed(3))
COARSE: tuple[Any, ...] = (pr.Euler(), pr.Identity(), pr.Secant(pr.Euler()), pr.Anderson(pr.Identity()), pr.Jacobian())
FINE: tuple[pr.Integrator, ...] = (pr.RK4(), pr.AdamsBashforth(2, restart=False), pr.ImplicitEuler())


class TerminatedError(Exception):
    """Raised by the trial's own handler of SIGTERM."""


def _f(t: Tensor, u: Tensor) -> Tensor:
    return torch.sin(u.flip(-1)) - u**3 + torch.cos(3 * t)


def _terminated(number: int, frame: Any) -> None:
    raise TerminatedError


def signals(count: int, folder: Path, seed: int = 0) -> Report:
    """SIGINT, and SIGTERM with a handler that raises: the run ends, keeps its states, and is continued to its end."""
    report, former, hook = Report("signals"), signal.signal(signal.SIGTERM, _terminated), sys.unraisablehook

    def lost(what: Any) -> None:
        """Python drops what a handler raises in a callback of the garbage collector: then that run was not ended."""
        if not isinstance(what.exc_value, KeyboardInterrupt | TerminatedError):
            hook(what)

    sys.unraisablehook = lost
    try:
        for number in range(seed, seed + count):
            report.tried += 1
            if found := _one(random.Random(number), folder / f"run-{number}"):
                report.broken.append(f"seed {number}: {found}")
    finally:
        signal.signal(signal.SIGTERM, former)
        sys.unraisablehook = hook
    return report


def _one(chance: random.Random, path: Path) -> str:
    fine = chance.choice(FINE)
    coarse: Any = pr.Euler() if isinstance(fine, pr.AdamsBashforth) else chance.choice(COARSE)
    call: dict[str, Any] = {"fine": fine, "coarse": coarse, "schedule": chance.choice(SCHEDULES)}
    call |= {"executor": pr.Serial(), "stop": pr.Tolerance(1e-9, 1e-12)}
    kept = chance.random() < 0.7
    began = time.perf_counter()
    ref = pr.solve(pr.ODE(_f), U0, GRID, throw=False, **call)
    delay = chance.uniform(0.0, 1.1 * (time.perf_counter() - began))
    number = chance.choice((signal.SIGINT, signal.SIGTERM))
    timer = threading.Timer(delay, os.kill, (os.getpid(), number))
    started, partial, ended = False, None, False
    try:
        timer.start()
        started = True
        pr.solve(pr.ODE(_f), U0, GRID, throw=False, checkpoint=path if kept else None, **call)
        ended = True
        timer.join()
        time.sleep(0.05)  # a signal is handled by the main thread, a little after it was sent
    except (KeyboardInterrupt, TerminatedError) as error:
        partial = getattr(error, "solution", None)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    while started and timer.is_alive():
        time.sleep(0.001)
    if ended:
        return ""
    if not kept and partial is None:  # the signal came before the first round or after the last
        return ""
    try:
        again = {"checkpoint": path} if kept else {"resume": partial}
        rest = pr.solve(pr.ODE(_f), U0, GRID, throw=False, **again, **call)
    except Exception as error:
        return f"not continued: {type(error).__name__}: {str(error)[:150]}"
    off = float((rest.u - ref.u).abs().max())
    if not off <= 1e-8 or rest.status.failed != ref.status.failed:
        return f"continued to another end: {off:.2g} off, {rest.status.name} in place of {ref.status.name}"
    left = [name for name in os.listdir(path.parent) if name.endswith(".part")]
    return f"there is still {left[0]}" if left else ""
