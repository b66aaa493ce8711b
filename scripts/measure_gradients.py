"""How far gradients of a run that stopped at a tolerance are from those of the sequential run; two tables for the docs.

python scripts/measure_gradients.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import parareal as pr

D = torch.float64


class Task(NamedTuple):
    """A right-hand side with a parameter, ``f(p)(t, u)``, and where it starts."""

    f: Callable[[Tensor], Callable[[Tensor, Tensor], Tensor]]
    u0: tuple[float, ...]
    p: float
    end: float


def _pendulum(p: Tensor) -> Any:
    return lambda t, u: torch.stack([u[1], -torch.sin(u[0]) - p * u[1] + 0.5 * torch.cos(t)])


def _predators(p: Tensor) -> Any:
    return lambda t, u: torch.stack([u[0] * (p - u[1]), u[1] * (u[0] - 1.0)])


def _logistic(p: Tensor) -> Any:
    return lambda t, u: p * u * (1 - u) + 0.1 * torch.sin(t)


TASKS = {
    "pendulum": Task(_pendulum, (1.0, 0.0), 0.1, 5.0),
    "predators": Task(_predators, (0.8, 0.7), 1.2, 5.0),
    "logistic": Task(_logistic, (0.1,), 1.5, 5.0),
}
SCHEDULES = {"Barrier": pr.Barrier(), "Windowed(4)": pr.Windowed(4)}
CORRECTIONS = {
    "Heun": pr.Coarse(pr.Heun()),
    "Identity": pr.Identity(),
    "Secant": pr.Secant(pr.Coarse(pr.Heun())),
    "Jacobian": pr.Jacobian(),
}
TOLERANCES = (1e-2, 1e-4, 1e-6)


def run(task: Task, solve: Callable[..., pr.Solution]) -> tuple[Tensor, Tensor]:
    """The final state, and the gradients of the sum of its elements: one vector."""
    u0 = torch.tensor(task.u0, dtype=D, requires_grad=True)
    p = torch.tensor(task.p, dtype=D, requires_grad=True)
    grid = pr.TimeGrid.uniform(0.0, task.end, slices=10, steps=4)
    u = solve(pr.ODE(task.f(p)), u0, grid, fine=pr.RK4()).u
    return u.detach(), torch.cat([x.reshape(-1) for x in torch.autograd.grad(u.sum(), (u0, p))])


def _oscillator(p: Tensor) -> Any:
    return lambda t, u: torch.stack([u[1], p * (1 - u[0] ** 2) * u[1] - u[0]])


def errors(
    task: Task, correction: pr.Correction, schedule: pr.Schedule, rtol: float, gradients: Any = "unroll"
) -> tuple[float, float]:
    """Of the final state and of the gradient, relative to the largest elements of the sequential ones."""
    stop = pr.Tolerance(rtol, 0.0)
    options: dict[str, Any] = {"coarse": correction, "schedule": schedule, "stop": stop, "gradients": gradients}
    found, expected = run(task, lambda *args, **more: pr.solve(*args, **options, **more)), run(task, pr.serial)
    off, grad = (float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
    return off, grad


def main() -> None:
    """Prints the worst over all problems for each correction, schedule and tolerance; then both kinds of gradients."""
    print("| correction | schedule | " + " | ".join(f"rtol {rtol:g}" for rtol in TOLERANCES) + " |")
    print("|---" * (2 + len(TOLERANCES)) + "|")
    for correction in CORRECTIONS:
        for schedule in SCHEDULES:
            cells: list[str] = []
            for rtol in TOLERANCES:
                each = [errors(task, CORRECTIONS[correction], SCHEDULES[schedule], rtol) for task in TASKS.values()]
                cells.append(f"{max(e for e, _ in each):.0e}, {max(g for _, g in each):.0e}")
            print(f"| `{correction}` | `{schedule}` | " + " | ".join(cells) + " |", flush=True)
    print("\n| equation | schedule | `unroll` | `adjoint` |\n|---|---|---|---|")
    for name, task in {**TASKS, "van der Pol": Task(_oscillator, (1.0, 0.0), 1.0, 5.0)}.items():
        for schedule in SCHEDULES:
            cells = []
            for gradients in ("unroll", "adjoint"):
                given = CORRECTIONS["Heun"], SCHEDULES[schedule]
                each = [errors(task, *given, rtol, gradients)[1] / rtol for rtol in TOLERANCES]
                cells.append(f"{max(each):.2g}")
            print(f"| {name} | `{schedule}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
