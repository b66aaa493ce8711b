"""`pr.odeint` beside ``torchdiffeq.odeint``: CPU time, and evaluations of a single slice.

Run as ``python benchmarks/odeint.py``; it takes about a minute on two cores. CPU time is that of this process, the
least of several runs, which other work on the machine does not change much.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torchdiffeq
from torch import Tensor

import parareal as pr


class Network(torch.nn.Module):
    """A small network, and the number of its calls."""

    def __init__(self, width: int = 50) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, 2))
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.layers(y**3)


class Slow(torch.nn.Module):
    """A right-hand side that computes for about 5 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        end = time.process_time() + 5e-3
        while time.process_time() < end:
            pass
        return torch.stack([y[..., 1], -torch.sin(y[..., 0])], -1)


def cpu_time(run: Callable[[], Any], repeats: int) -> float:
    """The least CPU time of several runs, in seconds."""
    run()
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return min(found)


def compare(what: str, f: Any, y0: Tensor, t: Tensor, repeats: int, **given: Any) -> None:
    """A line of figures."""
    theirs = cpu_time(lambda: torchdiffeq.odeint(f, y0, t, **given), repeats)
    ours = cpu_time(lambda: pr.odeint(f, y0, t, **given), repeats)
    print(f"{what:44} {1e3 * theirs:9.1f} {1e3 * ours:9.1f} {ours / theirs:7.2f}")


def evaluations(method: str, rtol: float, t: Tensor) -> None:
    """A line of numbers."""
    f, y0 = Network().double(), torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    given = {"method": method, "rtol": rtol, "atol": rtol / 100}
    with torch.no_grad():
        expected = torchdiffeq.odeint(f, y0, t, **given)
        theirs, f.calls = f.calls, 0
        found = pr.odeint(f, y0, t, slices=1, **given)
    print(f"{method:14} {rtol:8.0e} {theirs:9} {f.calls:9} {(found - expected).abs().max():12.1e}")


def main() -> None:
    """Prints all tables."""
    torch.set_num_threads(1)
    y0, t = torch.tensor([[2.0, 0.0]]), torch.linspace(0.0, 10.0, 20)
    print(f"{'CPU time':44} {'torchdiffeq':>9} {'odeint':>7} {'ratio':>7}\n{'':44} {'ms':>9} {'ms':>9}")
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            name = "with gradients" if grad else "without"
            compare(f"network of 50, defaults, {name}", Network(), y0, t, 5)
            compare(f"network of 50, batch of 100, {name}", Network(), torch.randn(100, 2), t, 5)
            compare(
                f"network of 50, rk4 in 200 steps, {name}",
                Network(),
                y0,
                t,
                2,
                method="rk4",
                options={"step_size": 0.05},
            )
    compare("5 ms of work, defaults", Slow(), y0, torch.tensor([0.0, 5.0]), 1)
    print(f"\n{'one slice':14} {'rtol':>8} {'torchdiffeq':>9} {'odeint':>7} {'difference':>12}")
    for method, rtols in {"dopri5": (1e-3, 1e-7), "bosh3": (1e-3, 1e-5), "dopri8": (1e-5, 1e-9)}.items():
        for rtol in rtols:
            evaluations(method, rtol, torch.linspace(0.0, 10.0, 20, dtype=torch.float64))
    for method in ("fehlberg2", "adaptive_heun"):
        evaluations(method, 1e-3, torch.linspace(0.0, 10.0, 20, dtype=torch.float64))


if __name__ == "__main__":
    main()
