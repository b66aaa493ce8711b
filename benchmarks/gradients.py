"""Gradients by the adjoint, beside torchdiffeq: accuracy, what is kept for the backward pass, rounds, and time.

python benchmarks/gradients.py

The right-hand side is a network on a batch of states, as in a neural ODE. Bytes are those of all tensors that autograd
keeps between the forward and the backward pass, each storage once, and the parameters among them. Rounds count one
call of the network, or of its transposed derivative, on all lanes that could advance together: with as many steps one
after another, the serial run takes one for each stage of each step, forward, and as many backward.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torchdiffeq
from torch import Tensor, nn

import parareal as pr

D = torch.float64
SLICES, STAGES = 16, 4
STEPS = (64, 256, 1024)
RTOL, END = 1e-12, 4.0


class Net(nn.Module):
    """The right-hand side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2)).to(D)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layers(y**3)


class Outcome(NamedTuple):
    """One forward and one backward pass."""

    gradient: Tensor
    kept: int
    seconds: float
    solution: Any


def measured(net: Net, call: Callable[[Tensor], Any]) -> Outcome:
    """Both passes of ``call(y0)``, which returns the final state, or that and the solution."""
    y0 = torch.randn(32, 2, generator=torch.Generator().manual_seed(1), dtype=D).requires_grad_()
    sizes: dict[int, int] = {}

    def pack(one: Tensor) -> Tensor:
        sizes[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        return one

    net.zero_grad()
    began = time.process_time()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        end, solution = call(y0)
    end.sin().sum().backward()
    seconds = time.process_time() - began
    gradient = torch.cat([y0.grad.reshape(-1), *[p.grad.reshape(-1) for p in net.parameters()]])  # type: ignore[union-attr]
    return Outcome(gradient, sum(sizes.values()), seconds, solution)


def theirs(net: Net, steps: int, call: Any) -> Outcome:
    t, options = torch.tensor([0.0, END], dtype=D), {"step_size": END / steps}
    return measured(net, lambda y0: (call(net, y0, t, method="rk4", options=options)[-1], None))


def ours(net: Net, steps: int, rtol: float = RTOL) -> Outcome:
    grid = pr.TimeGrid.uniform(0.0, END, slices=SLICES, steps=steps // SLICES)
    problem, stop = pr.ODE(net, batching="native"), pr.Tolerance(rtol, 0.0)
    options: dict[str, Any] = {"coarse": pr.RK4(), "stop": stop, "gradients": "adjoint"}

    def call(y0: Tensor) -> Any:
        solution = pr.solve(problem, y0, grid, fine=pr.ThreeEighths(), **options)
        return solution.u, solution

    return measured(net, call)


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max())


def fixed_steps(net: Net) -> None:
    print(f"\nFixed steps (3/8 rule), {SLICES} slices, coarse RK4 with one step a slice, rtol {RTOL:g}; float64\n")
    print("| steps | difference | kept here | kept by odeint | part | rounds here | rounds serially | iterations |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    kept = []
    for steps in STEPS:
        backprop, found = theirs(net, steps, torchdiffeq.odeint), ours(net, steps)
        kept.append(found.kept)
        adjoint, forward = found.solution.adjoint, found.solution.stats.rounds
        print(
            f"| {steps} | {apart(found.gradient, backprop.gradient):.1e} | {found.kept:,} | {backprop.kept:,} | "
            f"{found.kept / backprop.kept:.4f} | {forward} + {adjoint.stats.rounds} | {2 * STAGES * steps} | "
            f"{found.solution.iterations} + {adjoint.iterations} |"
        )
    print(f"\nkept at {STEPS} steps: largest / smallest = {max(kept) / min(kept):.3f} (at most 1.2 is wanted)")


def beside_the_adjoint(net: Net, steps: int = 256) -> None:
    print(f"\nBeside torchdiffeq.odeint_adjoint, {steps} steps; the difference is that from backpropagation\n")
    print("| | difference | kept, bytes | CPU seconds, both passes |")
    print("|---|---:|---:|---:|")
    backprop = theirs(net, steps, torchdiffeq.odeint)
    rows = {
        "torchdiffeq.odeint": backprop,
        "torchdiffeq.odeint_adjoint": theirs(net, steps, torchdiffeq.odeint_adjoint),
        "adjoint, rtol 1e-12": ours(net, steps),
        "adjoint, rtol 1e-6": ours(net, steps, 1e-6),
        "adjoint, rtol 1e-3": ours(net, steps, 1e-3),
    }
    for name, row in rows.items():
        print(f"| {name} | {apart(row.gradient, backprop.gradient):.1e} | {row.kept:,} | {row.seconds:.2f} |")


def tolerances(net: Net) -> None:
    print("\nAdaptive steps, the same tolerance: the difference is that from backpropagation with rtol 1e-12\n")
    print("| rtol | torchdiffeq.odeint | torchdiffeq.odeint_adjoint | pr.odeint_adjoint |")
    print("|---:|---:|---:|---:|")
    t = torch.tensor([0.0, END], dtype=D)

    def of(call: Any, rtol: float, **options: Any) -> Tensor:
        return measured(net, lambda y0: (call(net, y0, t, rtol=rtol, atol=1e-2 * rtol, **options)[-1], None)).gradient

    exact = of(torchdiffeq.odeint, 1e-12)
    for rtol in (1e-3, 1e-5, 1e-7):
        row = [of(call, rtol) for call in (torchdiffeq.odeint, torchdiffeq.odeint_adjoint)]
        row.append(of(pr.odeint_adjoint, rtol, slices=4, batching="loop"))
        print(f"| {rtol:g} | " + " | ".join(f"{apart(one, exact):.1e}" for one in row) + " |")


if __name__ == "__main__":
    network = Net()
    measured(network, lambda y0: (ours(network, 32).solution.u.detach() + y0, None))  # loads what is loaded once
    fixed_steps(network)
    beside_the_adjoint(network)
    tolerances(network)
