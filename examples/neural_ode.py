"""A neural ODE learns a spiral: training through a solve in parallel in time, with gradients by the adjoint.

The data are points on the spiral du/dt = A u^3, and a small network is fitted to pieces of it. The gradient of the
first batch is held to torchdiffeq's by backpropagation through the same steps. Run it with `python
examples/neural_ode.py`; it writes neural_ode.png and exits with 1 if the gradients differ or the fit is poor.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

import parareal as pr

D = torch.float64
TRUE = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=D)
PIECE, BATCH, STEPS = 1.0, 32, 100
GRID = pr.TimeGrid.uniform(0.0, PIECE, slices=8, steps=4)


def spiral(t: Tensor, u: Tensor) -> Tensor:
    return u**3 @ TRUE


class Net(nn.Module):
    """The right-hand side: it takes states in rows, which is why `batching="fold"` fits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2)).to(D)

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        return self.layers(u**3)


def solved(f: Any, u0: Tensor, **options: Any) -> pr.Solution:
    """A batch of initial states in rows, each a sample of its own: they stop when each is accurate enough."""
    problem, stop = pr.ODE(f, batching="fold"), pr.Tolerance(rtol=1e-4)
    return pr.solve(problem, u0, GRID, fine=pr.ThreeEighths(), coarse=pr.Heun(), stop=stop, samples=True, **options)


def difference(net: Net, u0: Tensor, target: Tensor) -> float:
    """How far the gradient is from that of torchdiffeq, whose "rk4" is the 3/8 rule, relative to its largest entry."""

    def gradient(us: Tensor) -> Tensor:
        found = torch.autograd.grad((us - target).abs().mean(), [*net.parameters()])
        return torch.cat([part.reshape(-1) for part in found])

    theirs = gradient(torchdiffeq.odeint(net, u0, GRID.points, method="rk4")[:: GRID.steps_per_slice[0]])
    ours = gradient(solved(net, u0, gradients="adjoint").us)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def draw(path: Path, net: Net) -> None:
    import matplotlib.pyplot as plt

    t, u0 = torch.linspace(0.0, 25.0, 1000, dtype=D), torch.tensor([[2.0, 0.0]], dtype=D)
    fig, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    with torch.no_grad():
        for f, style, name in ((spiral, "-", "spiral"), (net, "--", "network")):
            x = torchdiffeq.odeint(f, u0, t, method="rk4")[:, 0]
            axes.plot(x[:, 0], x[:, 1], style, lw=1, label=name)
    axes.legend()
    fig.savefig(path, dpi=120)


def main() -> int:
    """Trains, compares, prints, draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("PARAREAL_OUT", "out")))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    net, generator = Net(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        t = torch.linspace(0.0, 25.0, 1000, dtype=D)
        points = torchdiffeq.odeint(spiral, torch.tensor([[2.0, 0.0]], dtype=D), t, method="rk4")[:, 0]

    def batch() -> tuple[Tensor, Tensor]:
        """States on the spiral, and where they go."""
        u0 = points[torch.randint(len(points), (BATCH,), generator=generator)]
        with torch.no_grad():
            return u0, solved(spiral, u0).us

    apart = difference(net, *batch())
    print(f"a neural ODE, {BATCH} pieces at a time, {GRID.num_slices} slices of {GRID.steps_per_slice[0]} steps")
    print(f"gradient of the first batch, difference to torchdiffeq.odeint: {apart:.1e}")
    optimiser, began, losses = torch.optim.Adam(net.parameters(), lr=1e-2), time.perf_counter(), list[float]()
    for step in range(1, STEPS + 1):
        u0, target = batch()
        solution = solved(net, u0, gradients="adjoint")
        loss = (solution.us - target).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if step == 1 or step % 25 == 0:
            assert solution.adjoint is not None
            print(f"step {step:3d}   loss {losses[-1]:.4f}")
    serial = pr.serial(pr.ODE(net, batching="fold"), u0, GRID, fine=pr.ThreeEighths(), samples=True)
    assert solution.adjoint is not None
    assert solution.adjoint.stats is not None
    forward, backward = solution.stats.rounds, solution.adjoint.stats.rounds
    print(f"rounds of the last step: {forward} forward, {backward} backward; {serial.stats.rounds} each in sequence")
    print(f"trained in {time.perf_counter() - began:.1f} s")
    draw(out / "neural_ode.png", net)
    print(f"picture: {out / 'neural_ode.png'}")
    good = apart < 1e-4 and sum(losses[-10:]) < 0.25 * sum(losses[:10])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
