"""What the engine itself costs: overhead beside the right-hand side, memory, and the digits sampler's wall time.

Prints three tables; every figure is the median of several runs, with the smallest and the largest beside it, and
everything that is compared runs in the same process. Run it with `python benchmarks/engine.py`.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import parareal as pr


class Timed:
    """A problem's right-hand side with a stopwatch around every call of it."""

    def __init__(self, f: Callable[..., torch.Tensor], batching: str) -> None:
        self.seconds, self.calls = 0.0, 0
        self.problem = pr.ODE(f, batching)  # type: ignore[arg-type]
        inner = pr.ODE.rhs.__get__(self.problem)

        def rhs(*args: torch.Tensor) -> torch.Tensor:
            start = time.perf_counter()
            value = inner(*args)
            self.seconds += time.perf_counter() - start
            self.calls += 1
            return value

        object.__setattr__(self.problem, "rhs", rhs)


def spread(values: list[float], form: str = "{:.3g}") -> str:
    """Median and range."""
    low, high = min(values), max(values)
    return f"{form.format(statistics.median(values))} [{form.format(low)} .. {form.format(high)}]"


def overhead(runs: int) -> None:
    """32 slices of 32 steps, 4 iterations, Batched: time of the run over the summed time of its calls."""
    print("Engine overhead: solve, Batched, 32 slices of 32 Euler steps, k = 4")
    print(f"{'right-hand side':<34}{'rounds':>7}  {'wall / calls':<26}{'overhead per round, microseconds'}")

    def busy(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        end = time.perf_counter() + 5e-3
        while time.perf_counter() < end:
            pass
        return -u

    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=32, steps=32)
    cases: list[tuple[str, Callable[..., torch.Tensor], str, int, pr.Schedule]] = [
        ("5 ms a call, state of 1,000", busy, "native", 1000, pr.Wavefront()),
        ("trivial, native, state of 3", lambda t, u: -u, "native", 3, pr.Wavefront()),
        ("trivial, vmap, state of 3", lambda t, u: -u, "vmap", 3, pr.Wavefront()),
        ("trivial, native, state of 1,000", lambda t, u: -u, "native", 1000, pr.Wavefront()),
        ("the same, Barrier", lambda t, u: -u, "native", 1000, pr.Barrier()),
        ("5 ms a call, Barrier", busy, "native", 1000, pr.Barrier()),
    ]
    for name, f, batching, size, schedule in cases:
        u0 = torch.ones(size, dtype=torch.float64)
        ratios, each = [], []
        for i in range(runs + 1):
            timed = Timed(f, batching)
            options: dict[str, Any] = {"fine": pr.Euler(), "coarse": pr.Euler(), "stop": pr.Iterations(4)}
            sol = pr.solve(timed.problem, u0, grid, schedule=schedule, **options)
            if i:  # the first run warms up
                ratios.append(sol.stats.wall_time / timed.seconds)
                each.append((sol.stats.wall_time - timed.seconds) / sol.stats.rounds * 1e6)
        print(f"{name:<34}{sol.stats.rounds:>7}  {spread(ratios, '{:.4g}'):<26}{spread(each)}")


def peak(steps: int, edges: int = 10, size: int = 50_000) -> float:
    """Peak memory of one solve, in states, beyond what was there before it."""
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=edges, steps=steps // edges)
    problem = pr.ODE(lambda t, u: -u, "native")
    u0 = torch.ones(size, dtype=torch.float64)
    small = pr.TimeGrid.uniform(0.0, 1.0, slices=2, steps=2)
    pr.solve(problem, u0[:10], small, fine=pr.Euler(), coarse=pr.Euler(), stop=pr.Iterations(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pr.solve(problem, u0, grid, fine=pr.Euler(), coarse=pr.Euler(), stop=pr.Iterations(1))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (size * 8)


def memory(runs: int) -> None:
    """Peak resident memory against the number of fine steps, each in a process of its own."""
    print("\nPeak memory of solve, 10 slices, state of 50,000 float64 (0.4 MB), in states")
    print(f"{'fine steps':>12}  peak")
    for steps in (1_000, 10_000, 100_000):
        command = [sys.executable, __file__, "--peak", str(steps)]
        values = [
            float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(runs)
        ]
        print(f"{steps:>12,}  {spread(values)}")


def digits(runs: int) -> None:
    """The packaged network, one sample, DDIM: the parallel run's wall time against the serial one's."""
    import diffusion_adapters as da

    print("\nDigits network, one sample, DDIM, SRDS (about sqrt(N) slices, one coarse step each), rtol = 1e-3")
    print(f"threads: {torch.get_num_threads()}")
    print(f"{'N':>6} {'order':<10}{'iterations':>12}{'rounds':>8}{'evaluations':>13}  ", end="")
    print(f"{'serial s':<10}{'parallel s':<12}{'serial / parallel':<24}error")
    model = da.load_digits()
    runs_of = [(n, schedule) for n in (25, 100, 1024) for schedule in (pr.Barrier(), pr.Wavefront())]
    for steps, schedule in runs_of:
        ratios, walls = [], []
        for seed in range(runs + 1):
            noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
            ref = da.sample(model, noise, steps=steps, parallel=False)
            out = da.sample(model, noise, steps=steps, coarse="same", schedule=schedule)
            if seed:
                stats = out.solution.stats
                ratios.append(ref.solution.stats.wall_time / stats.wall_time)
                walls.append((ref.solution.stats.wall_time, stats.wall_time))
        error = ((out.samples - ref.samples).norm() / ref.samples.norm()).item()
        serial, parallel = (statistics.median(w[i] for w in walls) for i in (0, 1))
        print(
            f"{steps:>6} {type(schedule).__name__.lower():<10}{int(out.solution.iterations.max()):>12}"
            f"{stats.rounds:>8}{stats.evaluations:>13}  "
            f"{serial:<10.3f}{parallel:<12.3f}{spread(ratios):<24}{error:.1e}"
        )


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(peak(args.peak))
        return
    overhead(args.runs)
    memory(min(args.runs, 3))
    digits(args.runs)


if __name__ == "__main__":
    main()
