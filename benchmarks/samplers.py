"""Published samplers that are parallel in time, side by side: rounds, evaluations, and distance from the serial sample.

The packaged digits network at 25, 50 and 100 steps, guidance 1 and 7.5. All run in this process, from the same noise;
all that can be asked for a tolerance are asked for 1e-3, and every error is measured, against the sequential sampler's
result, relative, in the root mean square. CHORDS has no tolerance: an oracle takes the first of its outputs that
is within 1e-3. Those written from their papers are in `benchmarks/peers`. Run it with `python benchmarks/samplers.py`;
`--seeds 8` for more.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from peers.autospeculation import autospeculative
from peers.chords import allocation, chords
from rounds import RTOL, digits, picard, relative, srds
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

WIDTH = 8
"""Lanes of the narrow window, and cores of CHORDS."""
SAME, LAW, NEAR = "same sample", "same law", "approximate"


@dataclass
class Row:
    """What one method took, seed by seed; an error of ``None`` is another sample of the same law."""

    promise: str
    rounds: list[int] = field(default_factory=list[int])
    evaluations: list[int] = field(default_factory=list[int])
    errors: list[float] = field(default_factory=list[float])

    def add(self, rounds: int, evaluations: int, error: float | None) -> None:
        self.rounds.append(rounds)
        self.evaluations.append(evaluations)
        if error is not None:
            self.errors.append(error)

    def __str__(self) -> str:
        error = f"{max(self.errors):.1e}" if self.errors else "another"
        within = f"{sum(e <= RTOL for e in self.errors)}/{len(self.errors)}" if self.errors else "-"
        return (
            f"{statistics.mean(self.rounds):7.1f} {statistics.mean(self.evaluations):8.0f} {error:>9} {within:>7}"
            f"  {self.promise}"
        )


Run = Callable[[da.DiffusionModel, Tensor, int, Tensor], tuple[int, int, float | None]]
"""Rounds, evaluations and error of a method, of a model, noise, steps and the sequential run's samples."""


def counted(samples: Tensor, solution: pr.Solution, reference: Tensor) -> tuple[int, int, float | None]:
    return solution.stats.rounds, solution.stats.evaluations, relative(samples, reference)


def ours(width: int | None) -> Run:
    """The default of `diffusion_adapters.sample`, all steps at once or in a window."""

    def run(model: da.DiffusionModel, noise: Tensor, steps: int, reference: Tensor) -> tuple[int, int, float | None]:
        out = da.sample(model, noise, steps, width=width or steps, rtol=RTOL)
        return counted(out.samples, out.solution, reference)

    return run


def picard_window(width: int | None) -> Run:
    def run(model: da.DiffusionModel, noise: Tensor, steps: int, reference: Tensor) -> tuple[int, int, float | None]:
        return counted(*picard(model, noise, steps, width or steps), reference)

    return run


def refining(model: da.DiffusionModel, noise: Tensor, steps: int, reference: Tensor) -> tuple[int, int, float | None]:
    """SRDS, pipelined: about sqrt(steps) slices."""
    return counted(*srds(pr.Wavefront())(model, noise, steps, steps), reference)


def anderson(memory: int) -> Run:
    """ParaTAA: triangular Anderson mixing of Picard iterates over all steps."""

    def run(model: da.DiffusionModel, noise: Tensor, steps: int, reference: Tensor) -> tuple[int, int, float | None]:
        return counted(*picard(model, noise, steps, steps, pr.Anderson(pr.Identity(), memory)), reference)

    return run


def cores(model: da.DiffusionModel, noise: Tensor, steps: int, reference: Tensor) -> tuple[int, int, float | None]:
    """CHORDS with 8 cores; an oracle, which knows the sequential sample, says which output is the first good one."""
    flow = da.probability_flow(model, "share")
    times = model.noise_schedule.times(steps)
    taus = flow.grid(times, steps).points
    start = flow.from_x(taus[0], model.noise_schedule.sigma(times[0]).to(noise) * noise)
    with torch.no_grad():
        outputs = chords(flow.problem.rhs, start, taus, allocation(steps))
    for output in outputs:
        error = relative(flow.to_x(taus[-1], output.state), reference)
        if error <= RTOL:
            break
    return output.rounds, output.evaluations, error


ODE: dict[str, tuple[str, Run]] = {
    "default, all steps at once": (SAME, ours(None)),
    f"default, width {WIDTH}": (SAME, ours(WIDTH)),
    "ParaTAA, 3 iterates": (SAME, anderson(3)),
    "ParaDiGMS, all steps at once": (SAME, picard_window(None)),
    f"ParaDiGMS, width {WIDTH}": (SAME, picard_window(WIDTH)),
    "SRDS, pipelined": (SAME, refining),
    f"CHORDS, {WIDTH} cores, oracle": (NEAR, cores),
}


def noisy(coarse: str, width: int | None) -> Run:
    """DDPM in parallel, with the noise of the sequential run."""

    def run(model: da.DiffusionModel, noise: Tensor, steps: int, reference: Tensor) -> tuple[int, int, float | None]:
        lanes = {} if coarse == "same" else {"width": width or steps}
        out = da.sample(model, noise, steps, solver="ddpm", coarse=coarse, generator=_path(), rtol=RTOL, **lanes)
        return counted(out.samples, out.solution, reference)

    return run


def speculative(reuse: bool) -> Run:
    """Autospeculative decoding; the window is all steps that are left."""

    def run(model: da.DiffusionModel, noise: Tensor, steps: int, reference: Tensor) -> tuple[int, int, float | None]:
        flow = da.probability_flow(model, "ratio")
        times = model.noise_schedule.times(steps)
        s = flow.grid(times, steps).points
        t = s**-2
        z = flow.from_x(s[0], model.noise_schedule.sigma(times[0]).to(noise) * noise).double()

        def mean(at: Tensor, y: Tensor) -> Tensor:
            tau, u = at**-0.5, (y / at[:, None]).to(noise).reshape(len(y), *noise.shape)
            x0, _ = flow.coordinates.split_lanes(tau, u, flow.problem.rhs(tau, u))
            return x0.flatten(1).double()

        with torch.no_grad():
            _, rounds, evaluations = autospeculative(mean, t, (t[0] * z).flatten(1), _path(), reuse)
        return rounds, evaluations, None

    return run


def _path() -> torch.Generator:
    return torch.Generator().manual_seed(12345)


SDE: dict[str, tuple[str, Run]] = {
    "default, all steps at once": (SAME, noisy("gaussian", None)),
    f"default, width {WIDTH}": (SAME, noisy("gaussian", WIDTH)),
    "Picard, all steps at once": (SAME, noisy("none", None)),
    "SRDS": (SAME, noisy("same", None)),
    "autospeculative": (LAW, speculative(False)),
    "autospeculative, reused": (LAW, speculative(True)),
}


def table(name: str, methods: dict[str, tuple[str, Run]], solver: str, scale: float, steps: int, seeds: int) -> None:
    rows = {method: Row(promise) for method, (promise, _) in methods.items()}
    for seed in range(seeds):
        model, noise = digits(scale, seed)
        reference = da.sample(model, noise, steps, solver=solver, generator=_noise(solver), parallel=False).samples
        for method, (_, run) in methods.items():
            rows[method].add(*run(model, noise, steps, reference))
    print(f"{name}, {steps} steps, guidance {scale:g}\n{'':30}{'rounds':>7} {'evals':>8} {'error':>9} {'<=1e-3':>7}")
    for method, row in rows.items():
        print(f"{method:30}{row}")
    print(flush=True)


def _noise(solver: str) -> torch.Generator | None:
    return _path() if solver == "ddpm" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="noise seeds (default 2)")
    parser.add_argument("--steps", type=int, nargs="*", default=[25, 50, 100])
    parser.add_argument("--scales", type=float, nargs="*", default=[1.0, 7.5])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Packaged digits, {arguments.seeds} seeds, rtol = {RTOL:g}; mean rounds and evaluations, largest error\n")
    for name, methods, solver in (("DDIM", ODE, "ddim"), ("DDPM", SDE, "ddpm")):
        for scale in arguments.scales:
            for steps in arguments.steps:
                table(name, methods, solver, scale, steps, arguments.seeds)


if __name__ == "__main__":
    main()
