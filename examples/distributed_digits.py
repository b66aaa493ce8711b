"""Digits from a diffusion model, the network's calls dealt out to several processes.

Every rank holds the network that ships with the package. In each round it gets its share of the window's steps, and all
get the results. Start it on one machine with

    torchrun --nproc-per-node=2 examples/distributed_digits.py

It compares with the sequential sampler, rank 0 writes distributed_digits.png, and it exits with 1 if the samples
disagree. With a GPU for each rank it is the same script but for the two lines that say so.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

import diffusion_adapters as da
import parareal as pr

STEPS, RTOL = 100, 1e-3


def draw(path: Path, serial: torch.Tensor, parallel: torch.Tensor) -> None:
    """The samples of both runs, one above the other."""
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, len(serial), figsize=(len(serial), 2.4), layout="constrained")
    for row, (name, images) in enumerate({"sequential": serial, "over ranks": parallel}.items()):
        for ax, image in zip(axes[row], images, strict=True):
            ax.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
            ax.set_axis_off()
        axes[row][0].set_title(name, loc="left", fontsize=9)
    fig.savefig(path, dpi=120)
    plt.close(fig)


def join() -> None:
    """Joins the processes of the job, those of every start of it by themselves.

    What torchrun keeps from the start before would lead gloo to addresses at which nobody listens any more.
    """
    store, rank, size = next(dist.rendezvous("env://"))
    start = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    # With GPUs: torch.cuda.set_device(int(os.environ["LOCAL_RANK"])), and "cpu:gloo,cuda:nccl".
    dist.init_process_group("gloo", store=start, rank=rank, world_size=size, timeout=timedelta(seconds=60))


def main() -> int:
    """Samples in both ways, compares, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("PARAREAL_OUT", "out")))
    out: Path = parser.parse_args().out
    if not dist.is_torchelastic_launched():
        sys.exit("start it with: torchrun --nproc-per-node=2 examples/distributed_digits.py")
    join()
    model = da.load_digits()  # with GPUs: device="cuda"
    noise = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))  # the same on every rank
    with torch.no_grad():
        serial = da.sample(model, noise, steps=STEPS, solver="ddim", parallel=False)
        ranks = da.sample(model, noise, steps=STEPS, solver="ddim", rtol=RTOL, executor=pr.Distributed())
    error = ((ranks.samples - serial.samples).flatten(1).norm(dim=1) / serial.samples.flatten(1).norm(dim=1)).max()
    if dist.get_rank() == 0:
        print(f"{STEPS} steps of DDIM, {dist.get_world_size()} ranks")
        print(f"sequential: {serial.solution.stats.rounds} rounds")
        print(f"over ranks: {ranks.solution.stats.rounds} rounds, relative error of the samples {error:.1e}")
        out.mkdir(parents=True, exist_ok=True)
        draw(out / "distributed_digits.png", serial.samples, ranks.samples)
    dist.destroy_process_group()
    return int(error > RTOL)


if __name__ == "__main__":
    sys.exit(main())
