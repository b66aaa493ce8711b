"""The trials of `benchmarks/reliability.py`, a few of each kind; and processes that are forked, and asyncio."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from profiles import PROFILE
from torch import Tensor

import parareal as pr
from parareal._core.forward_mode import differentiating

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from trials import Report, interrupts
from trials.calls import concurrent, random_calls
from trials.files import damaged_files, killed_writers
from trials.growth import many_solves
from trials.interrupts import signals

MORE = 1 if PROFILE == "ci" else 20
U0 = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
GRID = pr.TimeGrid.uniform(0.0, 1.0, 3, 2)


def implicit() -> Tensor:
    options: dict[str, Any] = {"fine": pr.ImplicitEuler(), "coarse": pr.Euler(), "stop": pr.Iterations(2)}
    return pr.solve(pr.ODE(lambda t, u: -(u**3)), U0, GRID, **options).us


@pytest.mark.parametrize(
    "trials",
    [
        lambda folder: random_calls(20 * MORE, seed=1000),
        lambda folder: concurrent(16 * MORE, threads=8),
        lambda folder: damaged_files(150 * MORE, folder),
        lambda folder: signals(6 * MORE, folder),
    ],
    ids=["calls", "threads", "files", "signals"],
)
def test_nothing_breaks(trials: Callable[[Path], Report], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = trials(tmp_path)
    assert report.tried
    assert not report.broken, report


def test_a_signal_that_python_drops_in_the_garbage_collector_breaks_no_trial(tmp_path: Path) -> None:
    dropped: list[int] = []

    def drop(phase: str, info: dict[str, int]) -> None:
        here = threading.current_thread() is threading.main_thread()  # else it is handled outside of this callback
        if not dropped and here and signal.getsignal(signal.SIGTERM) is interrupts._terminated:  # pyright: ignore
            dropped.append(1)
            os.kill(os.getpid(), signal.SIGTERM)

    gc.callbacks.append(drop)
    try:
        report = interrupts.signals(2, tmp_path)
    finally:
        gc.callbacks.remove(drop)
    assert dropped
    assert not report.broken, report


@pytest.mark.skipif(os.name != "posix", reason="processes are killed by signals")
def test_killed_writers_leave_a_whole_file_and_nothing_else(tmp_path: Path) -> None:
    report = killed_writers(2 * MORE, tmp_path, size=20_000)
    assert not report.broken, report


@pytest.mark.nightly  # what an allocator keeps varies, and shows in long runs alone
def test_the_same_solves_over_and_over_take_no_more_memory() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = many_solves(60 * MORE, kinds=12)
    assert not report.broken, report


def test_solves_in_a_loop_of_asyncio() -> None:
    alone = implicit()

    async def run() -> list[Tensor]:
        async def directly() -> Tensor:
            await asyncio.sleep(0)
            return implicit()

        return await asyncio.gather(*(asyncio.to_thread(implicit) for _ in range(4)), directly(), directly())

    assert all(torch.equal(us, alone) for us in asyncio.run(run()))


def in_a_fork(work: Callable[[], bool]) -> int:
    """The exit status of a forked process, 0 where ``work`` gives True; one that hangs is ended by the system."""
    process = os.fork()
    if process == 0:
        signal.alarm(60)
        try:
            os._exit(0 if work() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_forked_while_a_thread_takes_derivatives_may_take_some() -> None:
    """The thread is not in the forked process, so it cannot end its turn there."""
    alone, began, end = implicit(), threading.Event(), threading.Event()

    def hold() -> None:
        with differentiating():
            began.set()
            end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    began.wait()
    try:
        assert in_a_fork(lambda: torch.equal(implicit(), alone)) == 0
    finally:
        end.set()
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_right_hand_side_may_fork() -> None:
    alone, statuses = implicit(), list[int]()

    def f(t: Tensor, u: Tensor) -> Tensor:
        if not statuses:
            statuses.append(in_a_fork(lambda: torch.equal(implicit(), alone)))
        return -u

    pr.solve(pr.ODE(f, "native"), U0, GRID, fine=pr.RK4(), coarse=pr.Euler(), stop=pr.Iterations(1))
    assert statuses == [0]


@pytest.mark.parametrize("fine", [pr.ImplicitEuler(), pr.SDIRK2(krylov=True)], ids=["dense", "krylov"])
@pytest.mark.parametrize("coarse", [pr.Euler(), pr.Jacobian()], ids=repr)
@pytest.mark.parametrize("batching", ["vmap", "native"])
def test_a_solve_inside_of_what_is_differentiated_says_so(fine: Any, coarse: Any, batching: Any) -> None:
    fine = pr.Heun() if isinstance(coarse, pr.Jacobian) else fine

    def f(t: Tensor, u: Tensor) -> Tensor:
        options: dict[str, Any] = {"fine": pr.Heun(), "coarse": pr.Identity(), "stop": pr.Iterations(1)}
        return -u * pr.solve(pr.ODE(lambda t, v: -v), U0, GRID, **options).u.sum()

    with pytest.raises(TypeError, match=r"solve was called where torch\.func takes derivatives"):
        pr.solve(pr.ODE(f, batching), U0, GRID, fine=fine, coarse=coarse)
