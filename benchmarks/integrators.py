"""Every method of the library: what accuracy costs, and how long a step takes.

Prints work-precision tables on ordinary, stiff and stochastic equations with known solutions, draws them to
out/integrators.png (with matplotlib), and times one step on 64 lanes beside the fixed-step solvers of torchdiffeq, in
turn and in the same process. Run it with `python benchmarks/integrators.py`; `--quick` takes fewer repetitions.
"""

from __future__ import annotations

import argparse
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torchdiffeq
from torch import Tensor

import parareal as pr

SLICES = 4
COUNTS = (16, 64, 256)
Row = tuple[str, str, list[tuple[int, int, float]]]

EXPLICIT = (
    pr.Euler(),
    pr.Midpoint(),
    pr.Heun(),
    pr.Ralston(),
    pr.Heun3(),
    pr.Kutta3(),
    pr.SSPRK33(),
    pr.BogackiShampine(),
    pr.RK4(),
    pr.ThreeEighths(),
    pr.DormandPrince(),
    pr.CashKarp(),
)
IMPLICIT = (
    pr.ImplicitEuler(),
    pr.Trapezoid(),
    pr.ImplicitMidpoint(),
    pr.SDIRK2(),
    pr.GaussLegendre(2),
    pr.LobattoIIIC(2),
    pr.RadauIIA(2),
    pr.RadauIIA(3),
)
MULTISTEP = tuple(pr.AdamsBashforth(order) for order in (2, 3, 4))
EXPONENTIAL = (
    pr.ExponentialEuler(),
    pr.ETDRK2(),
    pr.ETDRK4(),
    pr.DEIS(2),
    pr.DEIS(3),
    pr.DPMSolver(2),
    pr.DPMSolver(3),
    pr.DPMSolverPP(2, "multistep"),
    pr.DPMSolverPP(3, "multistep"),
    pr.UniPC(2, lower_order_final=False),
    pr.UniPC(3, lower_order_final=False),
)
FAMILIES = {"explicit": EXPLICIT, "multistep": MULTISTEP, "implicit": IMPLICIT, "exponential": EXPONENTIAL}


def name_of(method: Any) -> str:
    """As it is written, without defaults."""
    kind = type(method).__name__
    parts = [str(getattr(method, key)) for key in ("stages", "order", "kind") if key in vars(method)]
    return f"{kind}({', '.join(parts)})" if parts else kind


# --- problems with known solutions ------------------------------------------------------------------------------------


def spiral(t: Tensor, u: Tensor) -> Tensor:
    """The part of u' = u + spiral that is not linear: |u|^2 grows as a logistic curve, the angle as 2 t."""
    turned = torch.stack([-u[..., 1], u[..., 0]], -1)
    return 2 * turned - (u * u).sum(-1, keepdim=True) * u


def spiral_at(t: float) -> Tensor:
    """Its solution from (1/2, 0)."""
    radius = 1 / math.sqrt(1 + 3 * math.exp(-2 * t))
    return radius * torch.tensor([math.cos(2 * t), math.sin(2 * t)], dtype=torch.float64)


RATE = 1000.0


def relaxation(t: Tensor, u: Tensor) -> Tensor:
    """The part of u' = -1000 u + relaxation that is not linear; the solution is sin t (Prothero and Robinson)."""
    t = t.reshape(-1, *[1] * (u.ndim - 1))
    return (RATE * torch.sin(t) + torch.cos(t)).expand_as(u)


PROBLEMS: dict[str, tuple[pr.SemilinearODE, Tensor, float, Callable[[float], Tensor]]] = {
    "spiral: u' = u + 2 Ju - |u|^2 u, t = 0 ... 4": (
        pr.SemilinearODE(1.0, spiral, "native"),
        spiral_at(0.0),
        4.0,
        spiral_at,
    ),
    "stiff: u' = -1000 (u - sin t) + cos t, t = 0 ... 2": (
        pr.SemilinearODE(-RATE, relaxation, "native"),
        torch.zeros(1, dtype=torch.float64),
        2.0,
        lambda t: torch.tensor([math.sin(t)], dtype=torch.float64),
    ),
}


def measure(problem: pr.Problem, u0: Tensor, end: float, exact: Tensor, method: pr.Integrator, steps: int) -> Any:
    """Rounds, evaluations and the relative error of the sequential run."""
    sol = pr.serial(problem, u0, pr.TimeGrid.uniform(0.0, end, SLICES, steps // SLICES), fine=method)
    return sol.stats.rounds, sol.stats.evaluations, float((sol.u - exact).norm() / exact.norm())


def libraries() -> dict[str, Callable[[float], pr.Integrator]]:
    """Solvers of other libraries, by their tolerance."""
    return {
        'TorchDiffEq("dopri5")': lambda tol: pr.TorchDiffEq("dopri5", rtol=tol, atol=tol),
        'TorchODE("dopri5")': lambda tol: pr.TorchODE("dopri5", rtol=tol, atol=tol),
        'SciPy("RK45")': lambda tol: pr.SciPy("RK45", rtol=tol, atol=tol),
        'SciPy("Radau")': lambda tol: pr.SciPy("Radau", rtol=tol, atol=tol),
    }


def work_precision(name: str) -> list[Row]:
    problem, u0, end, solution = PROBLEMS[name]
    exact = solution(end)
    rows: list[Row] = []
    for family, methods in FAMILIES.items():
        for method in methods:
            rows.append((family, name_of(method), [measure(problem, u0, end, exact, method, n) for n in COUNTS]))
    for label, make in libraries().items():
        points = []
        for tol in (1e-3, 1e-6, 1e-9):
            if "stiff" in name and label == 'TorchODE("dopri5")' and tol < 1e-6:
                continue  # thousands of steps that say nothing new
            points.append(measure(problem, u0, end, exact, make(tol), SLICES))
        rows.append(("other libraries", label, points))
    return rows


def print_rows(title: str, rows: list[Row]) -> None:
    print(f"\n{title}\n{'':18}{'':28}" + "".join(f"{'rounds':>8}{'evals':>8}{'error':>9}" for _ in COUNTS))
    for family, name, points in rows:
        cells = (f"{rounds:>8}{evals:>8}{error:>9.0e}" for rounds, evals, error in points)
        print(f"{family:18}{name:28}" + "".join(cells))


# --- stochastic equations ---------------------------------------------------------------------------------------------

PATHS = 400


def strong_errors() -> list[Row]:
    """Root mean square errors on shared paths, where the solution is a function of the path."""
    finest = torch.linspace(0.0, 1.0, max(COUNTS) + 1, dtype=torch.float64)
    path = pr.BrownianPath(finest, seed=0)
    u0 = torch.ones(PATHS, dtype=torch.float64)
    w = path.increments(finest[:1], finest[-1:], u0.unsqueeze(0))[0]
    rows: list[Row] = []
    for calculus, methods in (
        ("ito", (pr.EulerMaruyama(), pr.Milstein())),
        ("stratonovich", (pr.Heun(), pr.Milstein())),
    ):
        drift = 0.5 if calculus == "ito" else 0.375
        problem = pr.SDE(lambda t, u, a=drift: a * u, lambda t, u: 0.5 * u, calculus=calculus, path=path)
        exact = torch.exp(0.375 * 1.0 + 0.5 * w)  # 0.5 - 0.5^2 / 2 is the drift of the logarithm
        for method in methods:
            rows.append((f"geometric, {calculus[:5]}", name_of(method), strong(problem, u0, exact, method)))
    # The solution is an integral over the path; the finest steps of order 1.5 stand in for it.
    problem = pr.SDE(lambda t, u: -u, lambda t, u: 0.5 * torch.cos(t) * torch.ones_like(u), "additive", path=path)
    fine = pr.serial(problem, u0, pr.TimeGrid.from_points(finest, 1), fine=pr.SRA1()).u
    for method in (pr.EulerMaruyama(), pr.SRA1()):
        points = strong(problem, u0, fine, method)[: len(COUNTS) - (isinstance(method, pr.SRA1))]
        rows.append(("additive", name_of(method), points))
    return rows


def strong(problem: pr.SDE, u0: Tensor, exact: Tensor, method: pr.Integrator) -> list[tuple[int, int, float]]:
    points = []
    for steps in COUNTS:
        sol = pr.serial(problem, u0, pr.TimeGrid.uniform(0.0, 1.0, SLICES, steps // SLICES), fine=method)
        points.append((sol.stats.rounds, sol.stats.evaluations, float((sol.u - exact).square().mean().sqrt())))
    return points


# --- time -------------------------------------------------------------------------------------------------------------

LANES, STEPS = 64, 100
THEIRS = {
    "Euler": "euler",
    "Midpoint": "midpoint",
    "Heun": "heun2",
    "Heun3": "heun3",
    "ThreeEighths": "rk4",
    "RK4": "rk4",
    "AdamsBashforth(4)": "explicit_adams",
}


def lorenz(t: Tensor, u: Tensor) -> Tensor:
    x, y, z = u.unbind(-1)
    return torch.stack((10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z), -1)


def seconds(run: Callable[[], Any], times: int) -> float:
    """The least of several, in which other processes of the machine had no part."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


@torch.no_grad()
def step_times(repetitions: int) -> None:
    """Time of one step on 64 lanes of Lorenz' equations, divided by 64; torchdiffeq with 64 stacked, and with one."""
    t = torch.linspace(0.0, 0.1, STEPS + 1, dtype=torch.float64)
    u0 = torch.randn(LANES, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = pr.TimeGrid.from_points(t, slices=1)
    plain, split = pr.ODE(lorenz, "native"), pr.SemilinearODE(-1.0, lambda t, u: lorenz(t, u) + u, "native")
    print(f"\nMicroseconds per step and lane, {LANES} lanes of Lorenz' equations, float64, one thread")
    print("ratios: ours on 64 lanes over torchdiffeq's solver of the same kind, (a) on one lane, (b) on 64 stacked")
    print(f"{'':28}{'ours':>8}{'one':>8}{'stacked':>9}{'ratio a':>9}{'ratio b':>9}")
    for methods in FAMILIES.values():
        for method in methods:
            problem = split if pr.Semilinear in method.solves else plain

            def ours(problem: pr.ODE = problem, method: pr.Integrator = method) -> None:
                pr.serial(problem, u0, grid, fine=method, samples=True)

            name, scale = name_of(method), 1e6 / (STEPS * LANES)
            line = f"{name:28}"
            few = max(2, repetitions // 4) if method.implicit else repetitions
            if (theirs := THEIRS.get(name)) is None:
                print(f"{line}{seconds(ours, few) * scale:>8.2f}")
                continue

            def stacked(theirs: str = theirs, u0: Tensor = u0) -> None:
                torchdiffeq.odeint(lorenz, u0, t, method=theirs)

            mine = their = alone = math.inf
            for _ in range(few):  # in turn, so that what else the machine does meets both
                mine, their = min(mine, seconds(ours, 1)), min(their, seconds(stacked, 1))
                alone = min(alone, seconds(lambda: stacked(u0=u0[0]), 1))
            one = alone * 1e6 / STEPS
            times = f"{mine * scale:>8.2f}{one:>8.2f}{their * scale:>9.2f}"
            print(f"{line}{times}{mine * scale / one:>9.2f}{mine / their:>9.2f}")


# --- picture ----------------------------------------------------------------------------------------------------------


def draw(tables: dict[str, list[Row]], path: Path) -> None:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: pip install 'torch-parareal[plot]'")
        return
    families = (*FAMILIES, "other libraries")
    figure, axes = plt.subplots(
        len(tables), len(families), figsize=(4 * len(families), 3.6 * len(tables)), sharey=True, layout="constrained"
    )
    for (title, rows), line in zip(tables.items(), axes, strict=True):
        for family, axis in zip(families, line, strict=True):
            for other, name, points in rows:
                shown = [(evals, error) for _, evals, error in points if 0 < error < 10]
                mine = other == family
                style: dict[str, Any] = {"marker": "o", "ms": 4, "label": name}
                if shown:
                    axis.loglog(*zip(*shown, strict=True), **(style if mine else {"color": "0.88", "zorder": 0}))
            axis.set(title=family, xlim=(0.5, 2e4), ylim=(1e-13, 10), xlabel="evaluations of the right-hand side")
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=6, loc="lower left")
            else:
                axis.text(0.5, 0.9, "all diverge", ha="center", transform=axis.transAxes)
            axis.grid(alpha=0.2)
        line[0].set_ylabel(f"{title.split(':')[0]} equation, relative error")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"\npicture: {path}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    quick = parser.parse_args(arguments).quick
    warnings.simplefilter("ignore")  # SciPy's and torchode's, of the stiff equation
    torch.set_num_threads(1)
    tables = {name: work_precision(name) for name in PROBLEMS}
    for name, rows in tables.items():
        print_rows(
            f"{name}: {', '.join(map(str, COUNTS))} steps (tolerances 1e-3, 1e-6, 1e-9 for other libraries)", rows
        )
    print_rows(f"strong errors at t = 1 over {PATHS} paths, {', '.join(map(str, COUNTS))} steps", strong_errors())
    step_times(3 if quick else 20)
    draw(tables, Path(os.environ.get("PARAREAL_OUT", "out")) / "integrators.png")


if __name__ == "__main__":
    main()
