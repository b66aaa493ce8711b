"""What `plan` predicts, beside what is measured afterwards, and its choice beside the best of its candidates.

Each candidate whose trial went to its end is solved again, three times; the serial run too. Where nothing beats it, the
serial run is the choice. Times are those of this machine, with one thread: run it while nothing else runs. Run it with
`python benchmarks/plan.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch

import diffusion_adapters as da
import parareal as pr


def least(call: Callable[[], Any], times: int = 3) -> float:
    """Seconds of the quickest of some calls."""
    taken: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def lorenz(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    x, y, z = u.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


def neuron(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    v, w = u.unbind(-1)
    return torch.stack([v - v**3 / 3 - w + 0.5, 0.08 * (v + 0.7 - 0.8 * w)], -1)


def kepler(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    position, velocity = u.split(2, -1)
    return torch.cat([velocity, -position / position.norm(dim=-1, keepdim=True) ** 3], -1)


def heat(points: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    off = torch.ones(points - 1, dtype=torch.float64)
    matrix = (torch.diag(off, 1) + torch.diag(off, -1) - 2 * torch.eye(points, dtype=torch.float64)) * (points + 1) ** 2
    return lambda t, u: u @ matrix


def network(size: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A costly right-hand side: a few layers on a state of many numbers."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(size, size, generator=generator) / math.sqrt(size) for _ in range(4)]

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        v = u
        for layer in layers:
            v = torch.tanh(v @ layer)
        return v - u

    return f


def problems() -> dict[str, dict[str, Any]]:
    """Names, and what `plan` is called with."""
    f64 = {"dtype": torch.float64}

    def of(f: Any, u0: torch.Tensor, span: tuple[float, float, int], **more: Any) -> dict[str, Any]:
        given = {"problem": pr.ODE(f, batching="native"), "u0": u0, "grid": span, "fine": pr.RK4()}
        return {**given, "stop": pr.Tolerance(rtol=1e-6, atol=1e-8), **more}

    noisy = pr.SDE(
        lambda t, u: 0.3 * u, lambda t, u: 0.5 * u, noise="diagonal", generator=torch.Generator().manual_seed(0)
    )
    return {
        "Lorenz": of(lorenz, torch.tensor([5.0, -5.0, 20.0], **f64), (0.0, 4.0, 1600)),
        "FitzHugh-Nagumo": of(
            neuron, torch.tensor([-1.0, 1.0], **f64), (0.0, 40.0, 1600), coarse=[pr.RK4(), pr.Heun()]
        ),
        "Kepler": of(kepler, torch.tensor([0.4, 0.0, 0.0, 2.0], **f64), (0.0, 12.0, 1200), coarse=[pr.RK4(steps=2)]),
        "heat, implicit": of(
            heat(63),
            torch.sin(math.pi * torch.arange(1, 64, **f64) / 64),
            (0.0, 0.4, 256),
            fine=pr.SDIRK2(),
            coarse=[pr.ImplicitEuler()],
            slices=[8, 16, 32],
        ),
        "GBM, 64 paths": {
            "problem": noisy,
            "u0": torch.ones(64, 1, **f64),
            "grid": (0.0, 1.0, 512),
            "fine": pr.Milstein(),
            "coarse": [pr.Milstein(), pr.Secant(pr.Identity())],
            "samples": True,
            "stop": pr.Tolerance(rtol=1e-5, atol=0.0),
        },
        "network of 256": of(network(256), torch.ones(256), (0.0, 4.0, 200), stop=pr.Tolerance(1e-4, 1e-6)),
    }


def row(name: str, found: pr.Plan, serial: float, measured: dict[str, float]) -> str:
    """A line of the table."""
    chosen = serial if found.best is None else measured[found.best.name]
    predicted = found.serial_seconds if found.best is None else found.best.seconds
    best = min([serial, *measured.values()])
    choice = "the serial run" if found.best is None else found.best.name
    return (
        f"{name:<17}{found.cost:>7.2f}{1e3 * predicted:>11.1f}{1e3 * chosen:>10.1f}{predicted / chosen:>7.2f}"
        f"{found.serial_seconds / serial:>8.2f}{chosen / best:>9.2f}{serial / chosen:>9.2f}  {choice}"
    )


def main() -> None:
    """Plans, measures, prints."""
    torch.set_num_threads(1)
    print(
        "cost of planning in s; time of the choice in ms, predicted and measured, and their ratio; that of the serial"
    )
    print("run; the choice's time over that of the best candidate, all measured; speed-up over the serial run")
    header = (
        f"{'':<17}{'cost':>7}{'predicted':>11}{'measured':>10}{'ratio':>7}{'serial':>8}{'to best':>9}{'speed-up':>9}"
    )
    print(f"{header}  choice")
    with torch.no_grad():
        for name, given in problems().items():
            found = pr.plan(**given)
            solve = {key: value for key, value in given.items() if key in ("fine", "stop", "samples")}
            grid = pr.TimeGrid.uniform(*given["grid"][:2], slices=1, steps=given["grid"][2])
            alone = {"fine": given["fine"], "samples": given.get("samples", False)}
            serial = least(lambda g=given, a=alone, t=grid: pr.serial(g["problem"], g["u0"], t, **a))
            measured = {
                one.name: least(lambda g=given, o=one, s=solve: pr.solve(g["problem"], g["u0"], **o.settings, **s))
                for one in found.candidates
                if one.finished
            }
            print(row(name, found, serial, measured), flush=True)
        model = da.load_digits()
        for count, solver, steps in ((1, "ddim", 100), (16, "ddim", 100), (1, "dpm++2m", 1000)):
            noise = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
            draw = {"steps": steps, "solver": solver}
            found = da.plan(model, noise, **draw)
            serial = least(lambda n=noise, d=draw: da.sample(model, n, **d, parallel=False))
            measured = {
                one.name: least(lambda n=noise, d=draw, o=one: da.sample(model, n, **d, **o.settings))
                for one in found.candidates
                if one.finished
            }
            print(row(f"{count} x {solver} {steps}", found, serial, measured), flush=True)


if __name__ == "__main__":
    main()
