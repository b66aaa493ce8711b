"""A job of several processes that can be killed and started again, as torchrun does with --max-restarts."""

from __future__ import annotations

import os
import random
import signal
import time
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks import pace
from ranks.pool import context
from torch import Tensor

import parareal as pr

SLICES, PAUSE = 10, 0.0015
MAY_END = "may-end"
"""A file before which a job does not come to its end: on a busy machine who kills it may be slower than the job."""


def work(way: str, timeout: float = 60.0) -> dict[str, Any]:
    """A run of ten iterations of about 20 ms each."""

    def f(t: Tensor, u: Tensor) -> Tensor:
        time.sleep(PAUSE)
        return torch.cos(t)[:, None] * u - 0.3 * u**3

    return {
        "problem": pr.ODE(f, batching="native"),
        "u0": torch.linspace(0.5, 1.5, 6, dtype=torch.float64),
        "grid": pr.TimeGrid.uniform(0.0, 3.0, slices=SLICES, steps=4),
        "fine": pr.Heun(),
        "coarse": pr.Euler(),
        "stop": pr.Tolerance(0.0, 0.0, rule="defect"),
        **({"executor": pr.Distributed(timeout=timeout)} if way == "lanes" else {}),
        **({"schedule": pr.RankPipeline(timeout=timeout)} if way == "blocks" else {}),
    }


def rank_of_job(way: str, size: int, folder: Path, attempt: int, line: Connection, limit: float, rank: int) -> None:
    """One process: it notes each iteration, and what it ends with."""
    os.setpgrp()  # Ctrl-C in a terminal is for the tests, which end their processes themselves
    pace.ends_with(line)
    torch.set_num_threads(1)
    os.dup2(os.open(folder / f"output-{attempt}-{rank}", os.O_WRONLY | os.O_CREAT), 2)
    store = f"file://{folder / f'store-{attempt}'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=limit))
    log = (folder / f"log-{attempt}-{rank}").open("w", buffering=1)
    log.write("begun\n")

    def note(report: pr.IterationReport) -> None:
        log.write(f"{report.iteration}\n")
        while report.iteration >= SLICES - 1 and not (folder / MAY_END).exists():
            time.sleep(0.005)

    with torch.no_grad():
        solution = pr.solve(**work(way, limit), checkpoint=folder / "run.safetensors", callback=note)
    torch.save((solution.us, solution.iterations, len(solution.history)), folder / f"end-{rank}")
    dist.destroy_process_group()


def started(way: str, size: int, folder: Path, attempt: int) -> list[BaseProcess]:
    """The processes of the job."""
    make = context()
    target = partial(rank_of_job, way, size, folder, attempt, pace.lifeline(), pace.limit())
    processes: list[BaseProcess] = [make.Process(target=target, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def noted(folder: Path, attempt: int) -> list[int]:
    """Iterations that the first process has reported."""
    path = folder / f"log-{attempt}-0"
    lines = path.read_text().split("\n")[1:-1] if path.exists() else []
    return [int(line) for line in lines]


def killed_until_done(way: str, size: int, folder: Path, kills: int, seed: int) -> tuple[int, list[str]]:
    """Runs the job, and kills one process at a random moment until it has been killed so often, or is done.

    Returns:
        How often a process was killed before it was done, and what was wrong with any start after a kill.
    """
    chance, wrong, killed, last = random.Random(seed), [], 0, 0
    for attempt in range(10 * kills):
        if killed == kills:
            (folder / MAY_END).touch()
        processes = started(way, size, folder, attempt)
        try:
            if killed < kills:
                killed += _kills_one(processes, folder / f"log-{attempt}-0", chance)
            deadline = pace.Deadline(2.0)
            while any(process.exitcode is None for process in processes) and deadline.left:
                wait([process.sentinel for process in processes if process.exitcode is None], deadline.left)
            if any(process.exitcode is None for process in processes):
                wrong.append(f"attempt {attempt}: a process hangs")
        finally:
            for process in processes:
                process.kill()
                process.join()
        made = noted(folder, attempt)
        if made and made[0] < last:  # reported, but killed before it was saved, is an iteration in flight
            wrong.append(f"attempt {attempt}: went on from iteration {made[0]} although {last} was reported")
        last = made[-1] if made else last
        if all(process.exitcode == 0 for process in processes):
            return killed, wrong
    return killed, [*wrong, "the job was never done"]


def _kills_one(processes: list[BaseProcess], log: Path, chance: random.Random) -> bool:
    """Kills any process at a random moment after they have begun; returns whether it was still there."""
    deadline = pace.Deadline()
    while not log.exists() and all(process.exitcode is None for process in processes) and deadline.left:
        time.sleep(0.005)
    victim = chance.choice(processes)
    victim.join(chance.uniform(0.0, 0.12))
    if victim.exitcode is not None:
        return False
    os.kill(victim.pid or 0, signal.SIGKILL)
    return True
