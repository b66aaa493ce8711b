"""CPU time of implicit Euler on 256 points, as a ratio to what a user would write by hand, in one thread.

By hand means: for the heat equation one `torch.linalg.lu_factor` for the run and one `lu_solve` a step; for Burgers'
equation simplified Newton with an exact Jacobian, made anew where corrections shrink by less than half. Both sides are
timed in turn, and the quickest of several runs counts.

    python benchmarks/implicit.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

import parareal as pr

POINTS, STEPS, LENGTH, REPEATS = 256, 100, 1e-3, 15
X = torch.linspace(0, 1, POINTS + 2, dtype=torch.float64)[1:-1]
WIDTH = 1 / (POINTS + 1)
SECOND = (torch.eye(POINTS).roll(1, 0).tril() + torch.eye(POINTS).roll(-1, 0).triu()).double()
SECOND = (SECOND - 2 * torch.eye(POINTS, dtype=torch.float64)) / WIDTH**2


def heat(t: Tensor, u: Tensor) -> Tensor:
    """u_t = u_xx, fixed ends."""
    padded = pad(u, (1, 1))
    return (padded[2:] - 2 * u + padded[:-2]) / WIDTH**2


def burgers(t: Tensor, u: Tensor) -> Tensor:
    """u_t = u_xx / 100 - u u_x."""
    padded = pad(u, (1, 1))
    return 0.01 * (padded[2:] - 2 * u + padded[:-2]) / WIDTH**2 - u * (padded[2:] - padded[:-2]) / (2 * WIDTH)


def burgers_matrix(t: Tensor, u: Tensor) -> Tensor:
    """Its derivative."""
    padded, first = pad(u, (1, 1)), (SECOND.triu(1) - SECOND.tril(-1)) * WIDTH / 2
    return 0.01 * SECOND - torch.diag((padded[2:] - padded[:-2]) / (2 * WIDTH)) - u[:, None] * first


def heat_by_hand(u: Tensor) -> Tensor:
    """One factorisation, kept."""
    lu, pivots = torch.linalg.lu_factor(torch.eye(POINTS, dtype=torch.float64) - LENGTH * SECOND)
    for _ in range(STEPS):
        u = torch.linalg.lu_solve(lu, pivots, u[:, None])[:, 0]
    return u


def burgers_by_hand(u: Tensor) -> Tensor:
    """Simplified Newton, to rounding."""
    factors, t = None, torch.zeros(())
    for _ in range(STEPS):
        new, before = u, float("inf")
        for _ in range(50):
            if factors is None:
                matrix = torch.eye(POINTS, dtype=torch.float64) - LENGTH * burgers_matrix(t, new)
                factors = torch.linalg.lu_factor(matrix)
            delta = torch.linalg.lu_solve(*factors, (u + LENGTH * burgers(t, new) - new)[:, None])[:, 0]
            new, size = new + delta, float(delta.abs().max())
            rate = size / before
            if 0 < rate < 1 and size * rate / (1 - rate) <= 1e-16:
                break
            factors, before = (None if rate > 0.5 and size < before < float("inf") else factors), size
        u = new
    return u


def seconds(call: Callable[[], Any]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def ratio(name: str, problem: pr.ODE, by_hand: Callable[[Tensor], Tensor], u0: Tensor, slices: int = 1) -> float:
    """Prints how many times as long `pr.serial` takes."""
    grid = pr.TimeGrid.uniform(0.0, STEPS * LENGTH, slices=slices, steps=STEPS // slices)
    run = lambda: pr.serial(problem, u0, grid, fine=pr.ImplicitEuler())  # noqa: E731
    solution = run()
    off = float((solution.u - by_hand(u0)).abs().max())
    assert off <= 1e-11, off
    ours, theirs = (
        min(times)
        for times in zip(*((seconds(run), seconds(lambda: by_hand(u0))) for _ in range(REPEATS)), strict=True)
    )
    found = ours / theirs
    stats = solution.stats
    print(f"{name:44}{found:8.1f} x {1e3 * ours:9.1f} ms {stats.rounds:6} rounds {stats.evaluations:8} evaluations")
    return found


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    band, matrix = pr.Banded(lower=1, upper=1), lambda t, u: SECOND
    smooth, wave = torch.sin(torch.pi * X) + torch.sin(5 * torch.pi * X), torch.sin(2 * torch.pi * X)
    print(f"{POINTS} points, {STEPS} steps of implicit Euler, one thread, CPU time; by hand = 1\n")
    ratio("heat, linear=True", pr.ODE(heat, linear=True), heat_by_hand, smooth)
    ratio("heat, linear=True, structure=Banded", pr.ODE(heat, linear=True, structure=band), heat_by_hand, smooth)
    ratio("heat, linear=True, jacobian=", pr.ODE(heat, linear=True, jacobian=matrix), heat_by_hand, smooth)
    ratio("heat", pr.ODE(heat), heat_by_hand, smooth)
    ratio("heat, 10 slices", pr.ODE(heat), heat_by_hand, smooth, slices=10)
    ratio("heat, jacobian=", pr.ODE(heat, jacobian=matrix), heat_by_hand, smooth)
    ratio("heat, structure=Banded", pr.ODE(heat, structure=band), heat_by_hand, smooth)
    ratio("Burgers", pr.ODE(burgers), burgers_by_hand, wave)
    ratio("Burgers, 10 slices", pr.ODE(burgers), burgers_by_hand, wave, slices=10)
    ratio("Burgers, jacobian=", pr.ODE(burgers, jacobian=burgers_matrix), burgers_by_hand, wave)
    ratio("Burgers, structure=Banded", pr.ODE(burgers, structure=band), burgers_by_hand, wave)


if __name__ == "__main__":
    main()
