"""Kinds of problems and methods that the random ones of the laws do not cover, each over ranks as in one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import parareal as pr

U0 = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)


def f(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(t) * u - 0.3 * u**3


def sde(noise: Any = "diagonal") -> pr.SDE:
    seed = torch.Generator().manual_seed(3)
    return pr.SDE(f, lambda t, u: 0.1 * torch.ones_like(u), noise=noise, generator=seed)


def semilinear() -> pr.SemilinearODE:
    return pr.SemilinearODE(-2.0, lambda t, u: torch.sin(t) * torch.tanh(u))


class Unhashable:
    """A right-hand side that cannot be looked up."""

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __call__(self, t: Tensor, u: Tensor) -> Tensor:
        return f(t, u)


KINDS: dict[str, dict[str, Any]] = {
    "adaptive": {"fine": pr.TorchDiffEq("dopri5", rtol=1e-6, atol=1e-8)},
    "scipy": {"fine": pr.SciPy("RK45", rtol=1e-6, atol=1e-8), "problem": lambda: pr.ODE(f, batching="loop")},
    "black box": {"fine": pr.Propagator(lambda t0, t1, u: u + (t1 - t0) * f(t0, u))},
    "implicit": {"fine": pr.SDIRK2(), "coarse": pr.ImplicitEuler()},
    "exponential": {"fine": pr.ETDRK4(), "coarse": pr.ExponentialEuler(), "problem": semilinear},
    "noise": {"fine": pr.EulerMaruyama(), "coarse": pr.EulerMaruyama(), "problem": sde},
    "multistep": {"fine": pr.AdamsBashforth(3)},
    "tangents": {"coarse": pr.Jacobian()},
    "complex": {"u0": torch.complex(U0, -U0), "problem": lambda: pr.ODE(lambda t, u: 1j * u)},
    "nested": {
        "u0": {"a": U0, "b": [U0.reshape(2, 2).float(), (U0[:1],)]},
        "problem": lambda: pr.ODE(lambda t, u: {"a": -u["a"], "b": [u["b"][0] * 0.1, (u["a"][:1],)]}),
    },
    "unhashable": {"problem": lambda: pr.ODE(Unhashable(), batching="loop")},
    "scalar": {"u0": U0[0]},
    "half": {"u0": U0.to(torch.bfloat16)},
    "empty batch": {"u0": torch.empty(0, 3), "samples": True},
    "one slice": {"grid": pr.TimeGrid.uniform(0.0, 1.0, slices=1, steps=9)},
    "not finite": {"problem": lambda: pr.ODE(lambda t, u: u / (t < 2.0)), "throw": False},
    "falling": {"grid": pr.TimeGrid.uniform(1.0, 0.0, slices=5, steps=4)},
    "shared per-sample data": {
        "u0": torch.stack([U0, -U0]),
        "samples": True,
        "problem": lambda: pr.ODE(lambda t, u, k: -k * u, per_sample=torch.tensor([0.5, 2.0])),
    },
}


def runs(group: Any, kind: str) -> list[tuple[float, bool, str, int]]:
    """For the sequential run and both ways: the largest difference from one process, and whether all else is alike."""
    options = {
        "u0": U0,
        "grid": pr.TimeGrid.uniform(0.0, 3.0, slices=7, steps=4),
        "fine": pr.RK4(),
        "coarse": pr.Heun(),
        "stop": pr.Iterations(4),
        **KINDS[kind],
    }
    make = options.pop("problem", lambda: pr.ODE(f))
    found: list[tuple[float, bool, str, int]] = []
    with torch.no_grad():
        for schedule, way in (
            (None, {"executor": pr.Distributed(group)}),
            (pr.Barrier(), {"schedule": pr.RankPipeline(group)}),
        ):
            one = pr.solve(make(), **options, schedule=schedule)
            many = pr.solve(make(), **options, **way)
            same = many.status is one.status and torch.equal(
                torch.as_tensor(many.iterations), torch.as_tensor(one.iterations)
            )
            found.append((_difference(many.us, one.us), same, many.status.name, len(many.history)))
        few = {name: options[name] for name in ("u0", "grid", "fine", "samples") if name in options}
        serial = pr.serial(make(), **few)
        again = pr.serial(make(), **few, executor=pr.Distributed(group))
        found.append((_difference(again.us, serial.us), True, again.status.name, 0))
    dist.barrier(group)
    return found


def _difference(a: Any, b: Any) -> float:
    pairs = zip(torch.utils._pytree.tree_leaves(a), torch.utils._pytree.tree_leaves(b), strict=True)
    same = [(x - y).abs().masked_fill((x == y) | (x.isnan() & y.isnan()), 0.0) for x, y in pairs]
    return max(float(part.max()) if part.numel() else 0.0 for part in same)
