"""What is simulated on many ranks: an equation with a large state, and samples of a diffusion model.

What a round costs is timed on this machine, or stated for a GPU; how many iterations, rounds and lanes it takes comes
from runs of the engine in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import diffusion_adapters as da
import parareal as pr
from network.measure import Timed
from network.model import Rounds

# --- neurons ----------------------------------------------------------------------------------------------------------

SPAN, FINE, COARSE, NEURONS = 100.0, 65_536, 512, 62_500
TOLERANCE = pr.Tolerance(rtol=1e-8, atol=1e-8)


def ring(t: Tensor, u: Tensor) -> Tensor:
    """FitzHugh-Nagumo neurons on a ring, each coupled to its neighbours: ``(..., 2, neurons)``."""
    v, w = u.unbind(-2)
    flow = 0.5 * (v.roll(1, -1) + v.roll(-1, -1) - 2 * v)
    return torch.stack([v - v**3 / 3 - w + 0.5 + flow, 0.08 * (v + 0.7 - 0.8 * w)], -2)


def start(neurons: int) -> Tensor:
    angle = torch.arange(neurons, dtype=torch.float64) * (2 * torch.pi / neurons)
    return torch.stack([2 * torch.sin(3 * angle) + 0.5 * torch.cos(7 * angle), torch.cos(angle)])


def coarse_steps(slices: int) -> int:
    """Steps of RK4 a slice, so that none is longer than it is stable."""
    return max(1, COARSE // slices)


def neuron_iterations(slices: int, fine: int = 2048) -> int:
    """Iterations to the tolerance on a ring of 64 neurons, with so many fine steps in all."""
    if slices == 1:
        return 1
    solution = pr.solve(
        pr.ODE(ring, batching="native"),
        start(64),
        pr.TimeGrid.uniform(0.0, SPAN, slices=slices, steps=fine // slices),
        fine=pr.RK4(),
        coarse=pr.RK4(steps=coarse_steps(slices)),
        schedule=pr.Wavefront(),
        stop=TOLERANCE,
    )
    return int(solution.iterations)


def powers(most: int) -> list[int]:
    """1, 2, 4 ... up to ``most``."""
    return [1 << i for i in range(most.bit_length())]


def neuron_rounds(repeats: int = 3) -> Rounds:
    """Times of a call and of the engine, for a small state and for one of 1 MB, the least of some runs."""
    found: list[tuple[float, float, float]] = []
    for neurons in (63, NEURONS):
        runs: list[tuple[float, float, float]] = []
        for _ in range(repeats + 1):
            timed = Timed(ring)
            solution = pr.solve(
                pr.ODE(timed, batching="native"),
                start(neurons),
                pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=8),
                fine=pr.RK4(),
                coarse=pr.RK4(),
                schedule=pr.Wavefront(),
                stop=pr.Iterations(3),
            )
            stats = solution.stats
            engine = (stats.wall_time - timed.seconds) / stats.rounds
            runs.append((timed.seconds / stats.rounds, engine, stats.evaluations / stats.rounds))
        found.append(min(runs[1:]))
    (call0, engine0, _), (call1, engine1, lanes) = found
    size = 16.0 * NEURONS
    return Rounds((call0, (call1 - call0) / lanes), (engine0, (engine1 - engine0) / lanes), size)


def passes(cost: Rounds) -> float:
    """What the engine does with a lane's values in a round, in copies of the state."""
    state, taken = torch.zeros(int(cost.size) // 8, dtype=torch.float64), []
    for _ in range(30):
        begun = time.perf_counter()
        state.clone()
        taken.append(time.perf_counter() - begun)
    return cost.engine[1] / sorted(taken)[len(taken) // 2]


def step_ratio() -> float:
    """Time of a coarse step over that of a fine one, both of RK4: slices of one step against one slice of many."""
    taken: list[float] = []
    for slices in (16, 1):
        grid = pr.TimeGrid.uniform(0.0, 1.0, slices=slices, steps=16 // slices)
        times: list[float] = []
        for _ in range(4):
            begun = time.perf_counter()
            pr.serial(pr.ODE(ring, batching="native"), start(NEURONS), grid, fine=pr.RK4())
            times.append(time.perf_counter() - begun)
        taken.append(min(times))
    return taken[0] / taken[1]


# --- diffusion --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording(pr.Executor):
    """Lanes side by side, whose numbers are noted round by round."""

    lanes: list[int]

    def evaluate(self, fn: Callable[..., Any], args: tuple[Any, ...], lanes: int) -> Any:
        self.lanes.append(lanes)
        return fn(*args)

    def calls(self, lanes: int) -> int:
        return 1


@dataclass(frozen=True)
class Sampled:
    """A run of `diffusion_adapters.sample` on the packaged network.

    Attributes:
        lanes: Of each round.
        iterations: How many.
        engine: Seconds that the engine took in each round, on this machine.
    """

    lanes: np.ndarray
    iterations: int
    engine: float


def sampled(steps: int, seed: int, **options: Any) -> Sampled:
    model = da.load_digits().with_conditioning(label=torch.tensor([seed % 10]))
    spent = [0.0]
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    recording = Recording([])
    evaluate = recording.evaluate

    def timed(fn: Callable[..., Any], args: tuple[Any, ...], lanes: int) -> Any:
        begun = time.perf_counter()
        value = evaluate(fn, args, lanes)
        spent[0] += time.perf_counter() - begun
        return value

    object.__setattr__(recording, "evaluate", timed)
    solution = da.sample(model, noise, steps, executor=recording, **options).solution
    engine = (solution.stats.wall_time - spent[0]) / max(1, len(recording.lanes))
    return Sampled(np.array(recording.lanes), int(solution.iterations.max()), engine)
