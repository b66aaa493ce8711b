"""Samplers that are parallel in time, side by side: rounds, evaluations, and distance from the serial sample.

The packaged digits network, or one of `benchmarks/networks` (`--network`), at 25, 50 and 100 steps, guidance 1 and 7.5.
All run in this process, from the same noise; all that can be asked for a tolerance are asked for 1e-3, and every error
is measured, against the sequential sampler's result, relative, in the root mean square. CHORDS has no tolerance: an
oracle takes the first of its outputs that is within 1e-3. Newton's method is the engine's, with the exact derivative of
every step, which costs as many further evaluations as a sample has numbers; it runs on small samples only. Warm starts
begin with an earlier run, whose cost they leave out: of 12 steps, or from other noise. Samplers written from their
papers are in `benchmarks/peers`. Run it with `python benchmarks/samplers.py`; `--seeds 8` for more.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from paper import networks
from peers.autospeculation import autospeculative
from peers.chords import allocation, chords
from rounds import RTOL, picard, relative, srds
from torch import Tensor
from warm import nearby

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

    @property
    def mean_rounds(self) -> float:
        return statistics.mean(self.rounds)

    @property
    def mean_evaluations(self) -> float:
        return statistics.mean(self.evaluations)

    @property
    def within(self) -> int:
        """How many are within the tolerance."""
        return sum(error <= RTOL for error in self.errors)

    def __str__(self) -> str:
        error = f"{max(self.errors):.1e}" if self.errors else "another"
        within = f"{self.within}/{len(self.errors)}" if self.errors else "-"
        return f"{self.mean_rounds:7.1f} {self.mean_evaluations:8.0f} {error:>9} {within:>7}  {self.promise}"


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


def refining(schedule: pr.Schedule) -> Run:
    """SRDS: about sqrt(steps) slices."""

    def run(model: da.DiffusionModel, noise: Tensor, steps: int, reference: Tensor) -> tuple[int, int, float | None]:
        return counted(*srds(schedule)(model, noise, steps, steps), reference)

    return run


LARGEST = 64
"""Most numbers of a sample for which Newton's method is tried."""


def newton(model: da.DiffusionModel, noise: Tensor, steps: int, reference: Tensor) -> tuple[int, int, float | None]:
    """Newton with the exact derivative of every step, all steps at once, first iterates on the Gaussian flow."""

    def shrink(s0: Tensor, s1: Tensor, z: Tensor) -> Tensor:
        return z * ((s1**2 + 0.1) / (s0**2 + 0.1)).sqrt().to(z).reshape(-1, *[1] * (z.ndim - 1))

    window = pr.Windowed(steps, shrink)
    out = da.sample(model, noise, steps, coarse=pr.Jacobian(), schedule=window, slices=steps, rtol=RTOL, throw=False)
    return counted(out.samples, out.solution, reference)


def warm(preview: bool, solver: str = "ddim") -> Run:
    """The default with all steps at once, begun with a run of 12 steps, or with one whose noise is off by 5%."""

    def run(model: da.DiffusionModel, noise: Tensor, steps: int, reference: Tensor) -> tuple[int, int, float | None]:
        begin = noise if preview else nearby(noise, 0, 0.05)
        made = {"solver": solver, "generator": _noise(solver)}
        earlier = da.sample(model, begin, 12 if preview else steps, **made).solution
        made["generator"] = _noise(solver)
        out = da.sample(model, noise, steps, width=steps, rtol=RTOL, start=earlier, **made)
        return counted(out.samples, out.solution, reference)

    return run


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
    "SRDS, vanilla": (SAME, refining(pr.Barrier())),
    "SRDS, pipelined": (SAME, refining(pr.Wavefront())),
    "Newton, exact derivatives": (SAME, newton),
    f"CHORDS, {WIDTH} cores, oracle": (NEAR, cores),
    "default, after 12 steps": (SAME, warm(True)),
    "default, after other noise": (SAME, warm(False)),
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


def compare(
    methods: dict[str, tuple[str, Run]], solver: str, scale: float, steps: int, seeds: int, name: str = "digits"
) -> dict[str, Row]:
    """Every method that the network allows, seed by seed."""
    network = networks.load(name)
    if math.prod(network.shape) > LARGEST:
        methods = {method: way for method, way in methods.items() if way[1] is not newton}
    rows = {method: Row(promise) for method, (promise, _) in methods.items()}
    for seed in range(seeds):
        model, noise = network.given([seed], scale), network.noise([seed])
        reference = da.sample(model, noise, steps, solver=solver, generator=_noise(solver), parallel=False).samples
        for method, (_, run) in methods.items():
            rows[method].add(*run(model, noise, steps, reference))
    return rows


def table(title: str, rows: dict[str, Row], scale: float, steps: int) -> None:
    print(f"{title}, {steps} steps, guidance {scale:g}\n{'':30}{'rounds':>7} {'evals':>8} {'error':>9} {'<=1e-3':>7}")
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
    parser.add_argument("--network", choices=networks.names(), default="digits")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{arguments.network}, {arguments.seeds} seeds, rtol = {RTOL:g}; mean rounds and evaluations, largest error\n"
    )
    for title, methods, solver in (("DDIM", ODE, "ddim"), ("DDPM", SDE, "ddpm")):
        for scale in arguments.scales:
            for steps in arguments.steps:
                table(title, compare(methods, solver, scale, steps, arguments.seeds, arguments.network), scale, steps)


if __name__ == "__main__":
    main()
