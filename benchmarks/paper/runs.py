"""What the experiments share: a run beside the sequential one, all counted by the engine."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rounds import RTOL, relative
from torch import Tensor

import diffusion_adapters as da
import parareal as pr
from diffusion_adapters.equations._reverse_sde import noisy
from paper.clock import CLOCK
from paper.networks import Network

VANILLA, PIPELINED = pr.Barrier(), pr.Wavefront()
SRDS: dict[str, Any] = {"coarse": "same"}


def generator(solver: str) -> torch.Generator | None:
    """Of the noise in every step, the same for each run; ``None`` for solvers without."""
    return torch.Generator().manual_seed(12345) if solver in ("ddpm", "sde-dpm++2m") else None


@dataclass(frozen=True)
class Timed:
    """A result, and the seconds it took."""

    out: da.SampleResult
    seconds: float


def timed(model: da.DiffusionModel, noise: Tensor, steps: int, **options: Any) -> Timed:
    """`diffusion_adapters.sample`, by the clock."""
    begun = CLOCK.now()
    out = da.sample(model, noise, steps, **options)
    return Timed(out, CLOCK.now() - begun)


@dataclass
class Kept:
    """What one method took, seed by seed."""

    rounds: list[int] = field(default_factory=list[int])
    iterations: list[int] = field(default_factory=list[int])
    evaluations: list[int] = field(default_factory=list[int])
    errors: list[float] = field(default_factory=list[float])
    ratios: list[float] = field(default_factory=list[float])
    slices: int = 0

    def add(self, timed: Timed, reference: Timed) -> None:
        out, stats = timed.out, timed.out.solution.stats
        self.rounds.append(stats.rounds)
        self.iterations.append(int(torch.as_tensor(out.solution.iterations).max()))
        self.evaluations.append(stats.evaluations)
        self.errors.append(relative(out.samples, reference.out.samples))
        self.ratios.append(reference.seconds / timed.seconds)
        self.slices = out.solution.us.shape[0] - 1

    @property
    def ratio(self) -> str:
        """The median ratio of times, and the smallest and the largest where there are several."""
        middle = f"{statistics.median(self.ratios):.2f}"
        return middle if len(self.ratios) == 1 else f"{middle} [{min(self.ratios):.2f} .. {max(self.ratios):.2f}]"


Methods = dict[str, dict[str, Any]]
"""Arguments of `diffusion_adapters.sample`, by name."""


def side_by_side(
    network: Network, methods: Methods, seeds: Sequence[int], steps: int, solver: str = "ddim", scale: float = 1.0
) -> dict[str, Kept]:
    """Every method on one sample at a time, each beside a sequential run of its own process."""
    found = {name: Kept() for name in methods}
    for seed in seeds:
        model, noise = network.given([seed], scale), network.noise([seed])
        if seed == seeds[0]:  # the first call sets things up
            da.sample(model, noise, 4, solver=solver, generator=generator(solver))
        serial = timed(model, noise, steps, solver=solver, parallel=False, generator=generator(solver))
        for name, options in methods.items():
            tolerance = {} if "stop" in options else {"rtol": RTOL}
            call = {"solver": solver, "generator": generator(solver), "throw": False, **tolerance, **options}
            found[name].add(timed(model, noise, steps, **call), serial)
    return found


def recorded(
    model: da.DiffusionModel,
    noise: Tensor,
    steps: int,
    iterations: int | None = None,
    solver: str = "ddim",
    coarse: Any = None,
    slices: int | None = None,
    spacing: Any = None,
    schedule: pr.Schedule = VANILLA,
) -> tuple[pr.Solution, pr.Solution, Callable[[Tensor], Tensor]]:
    """SRDS with every iterate kept, the sequential run in the same coordinates, and what makes samples of final states.

    Without ``iterations`` it goes on until the increments are within 1e-3.
    """
    from diffusion_adapters.sampling._options import SOLVERS

    fine, flow = SOLVERS[solver](), da.probability_flow(model)
    times = model.noise_schedule.times(steps, spacing)
    if generator(solver) is not None:
        flow = noisy(flow, generator(solver))
    grid = flow.grid(times, slices or round((len(times) - 1) ** 0.5))
    start = flow.from_x(grid.points[0], model.noise_schedule.sigma(times[0]).to(noise) * noise)
    stop = pr.Tolerance(RTOL, 0.0) if iterations is None else pr.Iterations(iterations)
    executor = pr.Batched(max_lanes=256)
    with torch.no_grad():
        serial = pr.serial(flow.problem, start, grid, fine=fine, samples=True, executor=executor)
        run = pr.solve(
            flow.problem,
            start,
            grid,
            fine=fine,
            coarse=fine if coarse is None else coarse,
            schedule=schedule,
            stop=stop,
            samples=True,
            keep="all",
            throw=False,
            executor=executor,
        )
    return run, serial, lambda u: flow.to_x(grid.points[-1], u).to(noise.dtype)


def apart(a: Tensor, b: Tensor) -> Tensor:
    """The relative distance of each sample, ``(B,)``."""
    return (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
