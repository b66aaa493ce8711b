"""Rounds, work, time and error of the schedules and corrections, side by side, all counted by the engine.

Sampling from diffusion models against Picard windows (ParaDiGMS) and SRDS at equal width; what limits strong guidance;
the time that one sample of 1000 steps takes; other equations. Seeds run one by one. Every error is relative to the
sequential run's final state, in the root mean square, and every method is asked for 1e-3. Run it with `python
benchmarks/rounds.py`; `--seeds 2` is quick.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

RTOL = 1e-3
ROWS = ((25, 25), (50, 50), (100, 100), (1000, 100), (100, 10), (25, 5))
TARGETS = {(25, 25): 7, (50, 50): 8, (100, 100): 9, (1000, 100): 20, (100, 10): 15, (25, 5): 11}


@dataclass
class Tally:
    """What one method took, seed by seed."""

    name: str
    rounds: list[int]
    evaluations: list[int]
    errors: list[float]
    speedups: list[float]

    @classmethod
    def named(cls, name: str) -> Tally:
        return cls(name, [], [], [], [])

    def add(self, solution: pr.Solution, error: float, serial: float) -> None:
        self.rounds.append(solution.stats.rounds)
        self.evaluations.append(solution.stats.evaluations)
        self.errors.append(error)
        self.speedups.append(serial / solution.stats.wall_time)

    @property
    def mean(self) -> float:
        return statistics.mean(self.rounds)

    @property
    def within(self) -> float:
        return sum(error <= RTOL for error in self.errors) / len(self.errors)

    def __str__(self) -> str:
        worst = sorted(self.errors)[max(0, round(0.95 * len(self.errors)) - 1)]
        return (
            f"{self.mean:7.1f} {max(self.rounds):4d} {statistics.mean(self.evaluations):8.0f}"
            f" {worst:9.1e} {self.within:6.0%} {statistics.median(self.speedups):6.2f}"
        )


HEADER = f"{'rounds':>7} {'max':>4} {'evals':>8} {'error 95%':>9} {'<=1e-3':>6} {'time':>6}"


def relative(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


# --- diffusion models ------------------------------------------------------------------------------------------------


def digits(scale: float, seed: int) -> tuple[da.DiffusionModel, Tensor]:
    """The packaged network for the digit ``seed % 10``, and noise."""
    model, label, none = da.load_digits(), torch.tensor([seed % 10]), torch.tensor([10])
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    if scale == 1.0:
        return model.with_conditioning(label=label), noise
    return da.guided(model, scale, {"label": label}, {"label": none}), noise


def mixture(scale: float, seed: int) -> tuple[da.DiffusionModel, Tensor]:
    """Six Gaussians in 16 dimensions, for the component ``seed % 6``, and noise."""
    means = torch.randn(6, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = da.GaussianMixture(means, 0.05).model(da.VP())
    label, none = torch.tensor([seed % 6]), torch.tensor([-1])
    noise = torch.randn(1, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if scale == 1.0:
        return model.with_conditioning(label=label), noise
    return da.guided(model, scale, {"label": label}, {"label": none}), noise


def picard(
    model: da.DiffusionModel, noise: Tensor, steps: int, width: int, coarse: pr.Correction | None = None
) -> tuple[Tensor, pr.Solution]:
    """A window of Picard iteration, or of another correction, in coordinates where Picard iteration is at its best."""
    flow = da.probability_flow(model, coordinates="share")
    times = model.noise_schedule.times(steps)
    grid = flow.grid(times, steps)
    start = flow.from_x(grid.points[0], model.noise_schedule.sigma(times[0]).to(noise) * noise)
    with torch.no_grad():
        solution = pr.solve(
            flow.problem,
            start,
            grid,
            fine=pr.Euler(),
            coarse=coarse or pr.Identity(),
            schedule=pr.Windowed(width),
            stop=pr.Tolerance(RTOL, 0.0),
            samples=True,
        )
    return flow.to_x(grid.points[-1], solution.u), solution


def srds(schedule: pr.Schedule) -> Callable[..., tuple[Tensor, pr.Solution]]:
    """Parareal with the solver's own step as coarse propagator, at most ``width`` slices at work."""

    def run(model: da.DiffusionModel, noise: Tensor, steps: int, width: int) -> tuple[Tensor, pr.Solution]:
        slices = min(round(steps**0.5), width)
        out = da.sample(model, noise, steps, coarse="same", slices=slices, schedule=schedule, rtol=RTOL)
        return out.samples, out.solution

    return run


def gaussian(model: da.DiffusionModel, noise: Tensor, steps: int, width: int) -> tuple[Tensor, pr.Solution]:
    """What `diffusion_adapters.sample` does by default."""
    out = da.sample(model, noise, steps, width=width, rtol=RTOL)
    return out.samples, out.solution


METHODS = {
    "Picard window": picard,
    "SRDS": srds(pr.Barrier()),
    "SRDS, wavefront": srds(pr.Wavefront()),
    "Gaussian + secant": gaussian,
}


def diffusion(seeds: int) -> None:
    """All methods, problem by problem and row by row, and how the default compares."""
    print(f"Diffusion models, DDIM, VP, {seeds} seeds, rtol = {RTOL:g}; time = serial / parallel, one sample\n")
    reached = compared = better = 0
    summary: list[str] = []
    for name, make in (("digits", digits), ("mixture", mixture)):
        for scale in (1.0, 7.5):
            for steps, width in ROWS:
                tallies = [Tally.named(method) for method in METHODS]
                for seed in range(seeds):
                    model, noise = make(scale, seed)
                    serial = da.sample(model, noise, steps, parallel=False)
                    for tally, run in zip(tallies, METHODS.values(), strict=True):
                        samples, solution = run(model, noise, steps, width)
                        tally.add(solution, relative(samples, serial.samples), serial.solution.stats.wall_time)
                print(f"{name}, guidance {scale:g}, {steps} steps, width {width}\n{'':20}{HEADER}")
                for tally in tallies:
                    print(f"{tally.name:20}{tally}")
                ours, rivals = tallies[-1].mean, min(tally.mean for tally in tallies[:-1])
                target = TARGETS[steps, width]
                reached += ours <= target
                compared += 1
                better += ours <= rivals * 2 / 3
                verdict = "reached" if ours <= target else "missed"
                print(f"{'':20}target {target}: {verdict}; {ours / rivals:.2f} of the rounds of the best other\n")
                means = "".join(f"{tally.mean:10.1f}" for tally in tallies)
                summary.append(
                    f"{name:8}{scale:9g}{steps:7d}{width:7d}{means}{target:8d}{ours / rivals:8.2f}"
                    f"{tallies[-1].within:9.0%}{statistics.median(tallies[-1].speedups):8.2f}"
                )
    print("Mean rounds of all seeds; ours = Gaussian + secant; ratio = ours / best other; time = serial / ours")
    print(
        f"{'':8}{'guidance':>9}{'steps':>7}{'width':>7}{'Picard':>10}{'SRDS':>10}{'SRDS wave':>10}{'ours':>10}", end=""
    )
    print(f"{'target':>8}{'ratio':>8}{'<=1e-3':>9}{'time':>8}")
    print("\n".join(summary))
    print(f"targets reached in {reached} of {compared} rows; at most 2/3 of the best other in {better} of {compared}\n")


def verification(seeds: int) -> None:
    """What ``verify=True`` costs: rounds and evaluations beside those of the default, and the errors of both."""
    print("The price of verify=True, digits, DDIM; mean rounds and evaluations, largest error of all seeds")
    print(f"{'guidance':>8} {'steps':>6} {'width':>6} {'rounds':>15} {'evaluations':>15} {'error':>19}")
    for scale in (1.0, 7.5):
        for steps, width in ((25, 25), (100, 100), (100, 10), (25, 5)):
            plain, checked = Tally.named("default"), Tally.named("verified")
            for seed in range(seeds):
                model, noise = digits(scale, seed)
                serial = da.sample(model, noise, steps, parallel=False)
                for tally, verify in ((plain, False), (checked, True)):
                    out = da.sample(model, noise, steps, width=width, rtol=RTOL, verify=verify)
                    error = relative(out.samples, serial.samples)
                    tally.add(out.solution, error, serial.solution.stats.wall_time)
            tallies = (plain, checked)
            rounds = " ".join(f"{tally.mean:7.1f}" for tally in tallies)
            work = " ".join(f"{statistics.mean(tally.evaluations):7.0f}" for tally in tallies)
            errors = " ".join(f"{max(tally.errors):9.1e}" for tally in tallies)
            print(f"{scale:8g} {steps:6d} {width:6d} {rounds} {work} {errors}")
    print()


def pairs(seeds: int) -> None:
    """Rounds with one and with two pairs of memory of each slice, by the scale of guidance."""
    print("One or two pairs of memory, digits, DDIM, all slices at once; mean rounds, largest error of all seeds")
    print(f"{'guidance':>8} {'steps':>6} {'one pair':>9} {'two pairs':>9} {'error':>19}")
    for scale in (1.0, 2.0, 4.0, 7.5):
        for steps in (25, 50, 100):
            tallies = (Tally.named("one"), Tally.named("two"))
            for seed in range(seeds):
                model, noise = digits(scale, seed)
                serial = da.sample(model, noise, steps, parallel=False)
                for tally, memory in zip(tallies, (1, 2), strict=True):
                    coarse = pr.Secant(da.GaussianFlow(variance=0.1), memory, (1, 2, 4))
                    out = da.sample(model, noise, steps, coarse=coarse, width=steps, rtol=RTOL)
                    error = relative(out.samples, serial.samples)
                    tally.add(out.solution, error, serial.solution.stats.wall_time)
            errors = " ".join(f"{max(tally.errors):9.1e}" for tally in tallies)
            print(f"{scale:8g} {steps:6d} {tallies[0].mean:9.1f} {tallies[1].mean:9.1f} {errors}")
    print()


def newton(seeds: int) -> None:
    """What the exact derivative of the network can do where guidance is strong, from the same first guesses."""
    print(
        "What limits guidance: Newton with the exact Jacobian of every step, all slices at once, first iterates on the"
    )
    print("Gaussian flow (65 evaluations a step, for comparison only)")
    print(f"{'':28}{HEADER}")
    for scale in (1.0, 7.5):
        for steps in (25, 50):
            exact, ours = Tally.named("Newton"), Tally.named("Gaussian + secant")
            for seed in range(seeds):
                model, noise = digits(scale, seed)
                serial = da.sample(model, noise, steps, parallel=False)
                options: dict[str, Any] = {"rtol": RTOL, "throw": False}

                def shrink(s0: Tensor, s1: Tensor, z: Tensor) -> Tensor:
                    return z * ((s1**2 + 0.1) / (s0**2 + 0.1)).sqrt().to(z).reshape(-1, *[1] * (z.ndim - 1))

                window = pr.Windowed(steps, shrink)
                out = da.sample(model, noise, steps, coarse=pr.Jacobian(), schedule=window, slices=steps, **options)
                for tally, result in (
                    (exact, out),
                    (ours, da.sample(model, noise, steps, width=steps, **options)),
                ):
                    tally.add(
                        result.solution,
                        relative(result.samples, serial.samples),
                        serial.solution.stats.wall_time,
                    )
            for tally in (exact, ours):
                print(f"{f'{tally.name}, w {scale:g}, N {steps}':28}{tally}")
    print()


def wall(runs: int) -> None:
    """Seconds that one sample of 1000 steps takes, serial and parallel, in one process."""
    print(f"One sample of the digits network, DDIM, N = 1000, {torch.get_num_threads()} threads, {runs} runs, median")
    print(f"{'':34}{'rounds':>7} {'evals':>7} {'serial s':>9} {'parallel s':>10} {'ratio':>6} {'error':>8}")
    model, noise = digits(1.0, 3)
    free = da.GaussianFlow(variance=0.1)
    settings: dict[str, dict[str, Any]] = {
        "SRDS": {"coarse": "same"},
        "SRDS, wavefront": {"coarse": "same", "schedule": pr.Wavefront()},
        "Gaussian + secant (default)": {},
        "Gaussian + plain secant": {"coarse": pr.Secant(free), "width": 100},
        "Gaussian + plain secant, width 200": {"coarse": pr.Secant(free), "width": 200},
        "Gaussian": {"coarse": free, "width": 100},
    }
    for name, options in settings.items():
        serial, parallel = [], []
        for _ in range(runs + 1):  # the first is not counted
            reference = da.sample(model, noise, 1000, parallel=False)
            out = da.sample(model, noise, 1000, **options)
            serial.append(reference.solution.stats.wall_time)
            parallel.append(out.solution.stats.wall_time)
        a, b = statistics.median(serial[1:]), statistics.median(parallel[1:])
        error = relative(out.samples, reference.samples)
        stats = out.solution.stats
        print(f"{name:34}{stats.rounds:7d} {stats.evaluations:7d} {a:9.3f} {b:10.3f} {a / b:6.2f} {error:8.1e}")
    print()


# --- other equations -------------------------------------------------------------------------------------------------


def advection_diffusion() -> tuple[pr.ODE, Tensor, pr.TimeGrid, pr.Integrator, pr.Correction]:
    """u_t + u_x = 0.02 u_xx + 0.1 sin(u) on a periodic grid of 64 points; the linear part is a known flow."""
    n = 64
    x = torch.arange(n, dtype=torch.float64) / n * 2 * torch.pi
    eye, dx = torch.eye(n, dtype=torch.float64), 2 * torch.pi / n
    right, left = eye.roll(-1, 0), eye.roll(1, 0)
    matrix = -(right - left).T / (2 * dx) + 0.02 * (right + left - 2 * eye) / dx**2
    grid = pr.TimeGrid.uniform(0.0, 4.0, slices=50, steps=8)
    factor = torch.linalg.matrix_exp(matrix * float(grid.edges[1]))
    problem = pr.ODE(lambda t, u: u @ matrix.T + 0.1 * torch.sin(u), batching="native")
    return problem, torch.exp(torch.cos(x)), grid, pr.RK4(), pr.LinearFlow(factor)


def oscillator_chain() -> tuple[pr.ODE, Tensor, pr.TimeGrid, pr.Integrator, pr.Correction]:
    """Sixteen masses between springs, nearly linear: x'' = -K x - 0.05 x^3."""
    n = 16
    stiffness = 2 * torch.eye(n, dtype=torch.float64) - torch.eye(n, dtype=torch.float64).roll(1, 0).tril()
    stiffness = stiffness - torch.eye(n, dtype=torch.float64).roll(-1, 0).triu()
    matrix = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    matrix[:n, n:], matrix[n:, :n] = torch.eye(n), -stiffness
    grid = pr.TimeGrid.uniform(0.0, 10.0, slices=50, steps=8)
    factor = torch.linalg.matrix_exp(matrix * float(grid.edges[1]))
    cubic = torch.cat([torch.zeros(n), torch.full((n,), 0.05)]).double()

    def f(t: Tensor, u: Tensor) -> Tensor:
        return u @ matrix.T - cubic * u.roll(n, -1) ** 3

    u0 = torch.cat([torch.sin(torch.arange(n, dtype=torch.float64)), torch.zeros(n, dtype=torch.float64)])
    return pr.ODE(f, batching="native"), u0, grid, pr.RK4(), pr.LinearFlow(factor)


def fitzhugh_nagumo() -> tuple[pr.ODE, Tensor, pr.TimeGrid, pr.Integrator, pr.Correction]:
    """The FitzHugh-Nagumo neuron, V' = 3 (V - V^3/3 + R), R' = -(V - 0.2 + 0.2 R)/3: no linear flow to speak of."""

    def f(t: Tensor, u: Tensor) -> Tensor:
        v, r = u[..., 0], u[..., 1]
        return torch.stack([3 * (v - v**3 / 3 + r), -(v - 0.2 + 0.2 * r) / 3], dim=-1)

    grid = pr.TimeGrid.uniform(0.0, 20.0, slices=50, steps=40)
    return pr.ODE(f, "native"), torch.tensor([-1.0, 1.0], dtype=torch.float64), grid, pr.RK4(), pr.LinearFlow(1.0)


EQUATIONS = {
    "advection-diffusion": advection_diffusion,
    "oscillator chain": oscillator_chain,
    "FitzHugh-Nagumo": fitzhugh_nagumo,
}


def equations() -> None:
    """Every correction with every schedule."""
    print("Other equations: RK4, 50 slices; rounds / evaluations / error, serial in the first line; - where it failed")
    for name, make in EQUATIONS.items():
        problem, u0, grid, fine, flow = make()
        serial = pr.serial(problem, u0, grid, fine=fine)
        print(f"\n{name}: {serial.stats.rounds} rounds\n{'':28}{'Barrier':>22}{'Wavefront':>22}{'Windowed(50)':>22}")
        corrections: dict[str, pr.Integrator | pr.Correction] = {
            "Coarse(RK4)": pr.RK4(),
            "Coarse(Heun(steps=2))": pr.Heun(steps=2),
            "Secant(Coarse(RK4))": pr.Secant(pr.Coarse(pr.RK4())),
            "Identity": pr.Identity(),
            "Secant(Identity)": pr.Secant(pr.Identity()),
            "Anderson(Identity, 3)": pr.Anderson(pr.Identity(), 3),
            "LinearFlow": flow,
            "Secant(LinearFlow)": pr.Secant(flow),
            "Jacobian": pr.Jacobian(),
        }
        for label, correction in corrections.items():
            cells = []
            for schedule in (pr.Barrier(), pr.Wavefront(), pr.Windowed(50)):
                sol = pr.solve(
                    problem,
                    u0,
                    grid,
                    fine=fine,
                    coarse=correction,
                    schedule=schedule,
                    stop=pr.Tolerance(RTOL, 0.0),
                    throw=False,
                )
                error = relative(sol.u, serial.u)
                cells.append(f"{sol.stats.rounds}/{sol.stats.evaluations}/{error:.0e}" if sol.converged else "-")
            print(f"{label:28}" + "".join(f"{cell:>22}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=32, help="noise seeds for each problem (default 32)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    diffusion(arguments.seeds)
    verification(min(arguments.seeds, 8))
    pairs(arguments.seeds)
    newton(min(arguments.seeds, 8))
    wall(7)
    equations()


if __name__ == "__main__":
    main()
