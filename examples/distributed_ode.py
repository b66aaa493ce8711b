"""An ordinary differential equation over several processes, in both ways, checked against the sequential run.

Lorenz's model of the atmosphere from 1996, 20,000 variables on a circle. Start it on one machine with

    torchrun --nproc-per-node=2 examples/distributed_ode.py

The first way deals the lanes of every round out to the ranks; the second gives every rank a block of slices, and hands
states from one to the next. With `--checkpoint run.safetensors` each iteration is saved: started again after a crash,
or by `torchrun --max-restarts=3`, the job goes on from there. `--fail-at 3` lets rank 1 die after the third iteration,
the first time, to show it. Exits with 1 if the results disagree.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import parareal as pr

VARIABLES, FORCING, SPAN = 20_000, 8.0, (0.0, 1.6)


def lorenz96(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """du_i/dt = (u_{i+1} - u_{i-2}) u_{i-1} - u_i + F, for many lanes: u of shape (L, variables)."""
    return (u.roll(-1, -1) - u.roll(2, -1)) * u.roll(1, -1) - u + FORCING


def setup() -> dict[str, Any]:
    """What is solved: the same on every rank, as every rank must make the same call."""
    start = torch.full((VARIABLES,), FORCING, dtype=torch.float64)
    start += torch.sin(0.7 * torch.arange(VARIABLES, dtype=torch.float64))
    return {
        "problem": pr.ODE(lorenz96, batching="native"),
        "u0": start,
        "grid": pr.TimeGrid.uniform(*SPAN, slices=16, steps=20),
        "fine": pr.RK4(),
        "coarse": pr.RK4(steps=2),
        "stop": pr.Tolerance(rtol=1e-8, atol=1e-8),
    }


def dying(iteration: int | None, checkpoint: Path | None) -> Callable[[pr.IterationReport], None] | None:
    """A callback that kills rank 1 once, where there is no checkpoint to go on from yet."""
    if iteration is None or (checkpoint is not None and checkpoint.exists()):
        return None

    def callback(report: pr.IterationReport) -> None:
        if report.iteration == iteration and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    return callback


def join() -> None:
    """Joins the processes of the job, those of every start of it by themselves.

    What torchrun keeps from the start before would lead gloo to addresses at which nobody listens any more.
    """
    store, rank, size = next(dist.rendezvous("env://"))
    start = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    # With GPUs: torch.cuda.set_device(int(os.environ["LOCAL_RANK"])), and "cpu:gloo,cuda:nccl".
    dist.init_process_group("gloo", store=start, rank=rank, world_size=size, timeout=timedelta(seconds=60))


def main() -> int:
    """Solves in both ways, compares, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--fail-at", type=int, metavar="ITERATION")
    options = parser.parse_args()
    if not dist.is_torchelastic_launched():
        sys.exit("start it with: torchrun --nproc-per-node=2 examples/distributed_ode.py")
    join()
    first, size = dist.get_rank() == 0, dist.get_world_size()
    work, worst = setup(), 0.0
    with torch.no_grad():
        serial = pr.serial(work["problem"], work["u0"], work["grid"], fine=work["fine"])
        if first:
            print(f"{size} ranks; the sequential run takes {serial.stats.rounds} rounds")
        ways: dict[str, dict[str, Any]] = {
            "lanes dealt out": {"executor": pr.Distributed()},
            "blocks of slices": {"schedule": pr.RankPipeline()},
        }
        for name, way in ways.items():
            path = None if options.checkpoint is None else options.checkpoint.with_suffix(f".{name.split()[0]}")
            sol = pr.solve(**work, **way, checkpoint=path, callback=dying(options.fail_at, path))
            error = float((sol.us - serial.us).abs().max())
            worst = max(worst, error)
            if first:
                rounds = f"{sol.iterations} iterations, {sol.stats.rounds} rounds"
                print(f"{name:>16}: {rounds}, largest difference from the sequential run {error:.1e}")
    dist.destroy_process_group()
    return int(worst > 1e-5)  # what a tolerance of 1e-8 comes to after 1.6 units of time, with room


if __name__ == "__main__":
    sys.exit(main())
