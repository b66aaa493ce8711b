"""A latent ODE on batches of series: an encoder, an ODE whose rates differ from series to series, and a decoder.

Damped oscillations of unknown frequency are seen for a while and then predicted. The encoder makes a latent state and a
context of the part that is seen; the context is `per_sample` data of the problem, and gets gradients like a parameter.
Slice boundaries are the times of the series, so the states that the loss asks for are those that the run keeps. Run it
with `python examples/latent_training.py`; it exits with 1 if the prediction is poor.
"""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import parareal as pr

TIMES, SEEN, EPOCHS = 16, 8, 4
GRID = pr.TimeGrid.uniform(0.0, 3.0, slices=TIMES - 1, steps=2)


class Latent(nn.Module):
    """The three networks; `forward` is the right-hand side, for states and contexts in rows."""

    def __init__(self, size: int = 3, context: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(SEEN, 32), nn.Tanh(), nn.Linear(32, size + context))
        self.field = nn.Sequential(nn.Linear(size + context, 32), nn.Tanh(), nn.Linear(32, size))
        self.decoder = nn.Linear(size, 1)
        self.size = size

    def forward(self, t: Tensor, z: Tensor, context: Tensor) -> Tensor:
        return self.field(torch.cat([z, context], -1))

    def predict(self, seen: Tensor, gradients: str = "adjoint") -> tuple[Tensor, pr.Solution]:
        """The series at all times, (B, TIMES), from the part that is seen."""
        z0, context = self.encoder(seen).tensor_split([self.size], 1)
        problem = pr.ODE(self, batching="fold", per_sample=context)
        stop = pr.Tolerance(rtol=1e-3, atol=1e-4)
        options = {"stop": stop, "samples": True, "gradients": gradients}
        solution = pr.solve(problem, z0, GRID, fine=pr.RK4(), coarse=pr.Euler(), **options)  # type: ignore[arg-type]
        return self.decoder(solution.us).squeeze(-1).transpose(0, 1), solution


def series(count: int, seed: int) -> Tensor:
    """Damped oscillations, (count, TIMES)."""
    generator = torch.Generator().manual_seed(seed)
    frequency, phase = (torch.rand(count, 1, generator=generator) for _ in range(2))
    t = GRID.edges.float()
    return torch.exp(-0.2 * t) * torch.cos((2.0 + 0.8 * frequency) * t + 2 * torch.pi * phase)


def main() -> int:
    """Trains, and compares predictions on new series."""
    torch.manual_seed(0)
    model, new = Latent(), series(64, seed=1)
    loader = DataLoader(TensorDataset(series(512, seed=0)), batch_size=32, shuffle=True)
    optimiser, began, step = torch.optim.Adam(model.parameters(), lr=2e-2), time.perf_counter(), 0

    def error() -> float:
        """On the part of new series that is not seen, relative to their size."""
        with torch.no_grad():
            ahead = (model.predict(new[:, :SEEN])[0] - new)[:, SEEN:]
        return float(ahead.norm() / new[:, SEEN:].norm())

    first = error()
    print(f"{len(loader)} batches of 32 series an epoch, {GRID.num_slices} slices; error ahead {first:.2f}")
    for epoch in range(1, EPOCHS + 1):
        for (batch,) in loader:
            predicted, _ = model.predict(batch[:, :SEEN])
            loss = (predicted - batch).square().mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1
        print(f"epoch {epoch}   loss {loss.item():.4f}   error ahead {error():.2f}")
    print(f"{step} steps in {time.perf_counter() - began:.1f} s")
    return 0 if error() < 0.6 * first else 1


if __name__ == "__main__":
    sys.exit(main())
