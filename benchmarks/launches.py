"""Launches and synchronisations of the engine in a round, outside the network, counted on a pretend device.

Run it with `python benchmarks/launches.py`; `--causes` lists the functions that cause them.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pretend_device
import torch
from pretend_device import DEVICE, counting, paused
from torch import Tensor

import diffusion_adapters as da
import parareal as pr
from parareal._core import host

SHAPE = (4, 8, 8)


def network(x: Tensor, t: Tensor) -> Tensor:
    """Stands for a network: row by row, and none of its operations counts."""
    with paused():
        scale = (1 + t.double()).reciprocal().to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return torch.tanh(x) * scale + 0.1 * x.flip(-1)


@dataclass(frozen=True)
class Row:
    """Figures of one run, per round."""

    name: str
    rounds: int
    launches: float
    uploads: float
    waits: float
    most_launches: int
    causes: dict[str, Counter[str]]


def measure(name: str, batch: int = 1, **options: Any) -> Row:
    """Counts of a run per round, in its middle: the first rounds and the last are left out."""
    host._SENT.clear()  # indices that other runs have sent
    model = da.DiffusionModel(network, da.VP(), prediction="eps")
    marks: list[tuple[int, int, int]] = []

    class Noting(pr.Executor):
        def evaluate(self, fn: Callable[..., Any], args: tuple[Any, ...], lanes: int) -> Any:
            marks.append(pretend_device.counts.totals)
            return fn(*args)

        def calls(self, lanes: int) -> int:
            return 1

    with counting() as counts:
        noise = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        da.sample(model, noise, executor=Noting(), **options)
    steps = [tuple(b - a for a, b in zip(one, two, strict=True)) for one, two in itertools.pairwise(marks)]
    middle = steps[2:-1] or steps
    mean = [sum(step[i] for step in middle) / len(middle) for i in range(3)]
    causes = {"launches": counts.launches, "uploads": counts.uploads, "waits": counts.waits}
    return Row(name, len(marks), *mean, max(step[0] for step in middle), causes)


CASES: dict[str, dict[str, Any]] = {
    "default, DDIM": {"steps": 50, "width": 16},
    "default, DDIM, batch of 4": {"steps": 50, "width": 16, "batch": 4},
    "default, DPM++(2M)": {"steps": 50, "width": 16, "solver": "dpm++2m"},
    "default, Heun": {"steps": 50, "width": 16, "solver": "heun"},
    "Picard": {"steps": 50, "width": 16, "coarse": "none"},
    "SRDS": {"steps": 49, "coarse": "same"},
    "serial": {"steps": 50, "parallel": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--causes", type=int, default=0, metavar="N", help="list the N functions that cause the most")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':28}{'rounds':>8}{'launches':>10}{'most':>7}{'uploads':>9}{'syncs':>7}   a round, outside the network")
    for name, options in CASES.items():
        if args.only not in name:
            continue
        row = measure(name, **options)
        print(f"{name:28}{row.rounds:8d}{row.launches:10.1f}{row.most_launches:7d}{row.uploads:9.1f}{row.waits:7.1f}")
        for kind, found in row.causes.items() if args.causes else ():
            print(f"  {kind}")
            for cause, count in found.most_common(args.causes):
                print(f"    {count / row.rounds:8.1f}  {cause}")


if __name__ == "__main__":
    main()
