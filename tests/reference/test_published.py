"""Published Parareal runs, reproduced: iteration counts exactly, increments and errors to the digits printed.

The figures and their sources are in ``published.json``. Two correct implementations add in different orders, and what
they round differently the dynamics enlarges. How far that can move each figure is measured, not guessed: the textbook
implementation is run again with every propagated state shifted by about as much as rounding shifts it, in eight
different ways, and a figure may differ by twice the widest spread.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from math import asinh, factorial, prod, sinh, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import textbook
from torch import Tensor

import parareal as pr

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())
CASES = {case["name"]: case for case in PUBLISHED["cases"]}
OTHER = {case["name"]: case for case in PUBLISHED["other"]}
METHODS = {"RK1": pr.Euler, "RK2": pr.Midpoint, "RK4": pr.RK4}
TEXTBOOK = {"RK1": textbook.euler, "RK2": textbook.midpoint, "RK4": textbook.rk4}
EPS = float(torch.finfo(torch.float64).eps)

# Not runs of the engine: exact statements that tests/test_laws.py holds it to.
ELSEWHERE = {"counting_algebra", "closed_form_linear"}


# Right-hand sides on arrays or tensors whose last axis is the state.


def stacked(*parts: Any) -> Any:
    return torch.stack(parts, -1) if isinstance(parts[0], Tensor) else np.stack(parts, -1)


def fitzhugh_nagumo(t: Any, u: Any) -> Any:
    a, b, c = 0.2, 0.2, 3.0
    x, y = u[..., 0], u[..., 1]
    return stacked(c * (x - x**3 / 3 + y), -(x - a + b * y) / c)


def lorenz(t: Any, u: Any) -> Any:
    x, y, z = u[..., 0], u[..., 1], u[..., 2]
    return stacked(10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z)


def brusselator(t: Any, u: Any) -> Any:
    x, y = u[..., 0], u[..., 1]
    return stacked(1 + x**2 * y - 4 * x, 3 * x - x**2 * y)


def bernoulli(t: Any, u: Any) -> Any:
    return 2 * u / (1 + t) - (t * u) ** 2


@dataclass(frozen=True)
class Setting:
    """A published run: an equation, slices, and explicit methods with a number of steps in each slice."""

    rhs: Callable[[Any, Any], Any]
    t_span: tuple[float, float]
    u0: tuple[float, ...]
    slices: int
    coarse: str
    coarse_steps: int
    fine: str
    fine_steps: int

    @property
    def grid(self) -> pr.TimeGrid:
        return pr.TimeGrid.uniform(*self.t_span, slices=self.slices, steps=self.fine_steps)

    def solve(self, **options: Any) -> pr.Solution:
        coarse = pr.Coarse(METHODS[self.coarse](steps=self.coarse_steps))
        return pr.solve(
            pr.ODE(lambda t, u: self.rhs(t[:, None], u), batching="native"),
            torch.tensor(self.u0, dtype=torch.float64),
            self.grid,
            fine=METHODS[self.fine](),
            **{"coarse": coarse, **options},
        )

    def serial(self) -> pr.Solution:
        problem = pr.ODE(lambda t, u: self.rhs(t[:, None], u), batching="native")
        return pr.serial(problem, torch.tensor(self.u0, dtype=torch.float64), self.grid, fine=METHODS[self.fine]())


def setting(case: dict[str, Any], rhs: Callable[[Any, Any], Any]) -> Setting:
    coarse, fine = case["coarse"], case["fine"]
    return Setting(
        rhs,
        tuple(case["t_span"]),
        tuple(case["u0"]),
        case["slices"],
        coarse["method"],
        coarse["steps_per_slice"],
        fine["method"],
        fine["steps_per_slice"],
    )


RHS = {"fhn_1600": fitzhugh_nagumo, "lorenz_py": lorenz, "brus_gh": brusselator, "bernoulli": bernoulli}
SETTINGS = {name: setting(case, RHS[name]) for name, case in CASES.items()}
SETTINGS["lorenz_euler"] = Setting(lorenz, (0.0, 5.0), (20.0, 5.0, -5.0), 500, "RK1", 1, "RK1", 10)


@dataclass(frozen=True, eq=False)
class Recorded(pr.Correction):
    """A correction that keeps every iterate that it takes part in: ``iterates[n]`` lists those of edge n."""

    inner: pr.Coarse
    edges: Tensor
    iterates: dict[int, list[Tensor]] = field(default_factory=dict)
    uses_input = False

    @property
    def propagator(self) -> pr.Integrator:  # type: ignore[override]
        return self.inner.propagator

    def keep(self, at: Any, values: Tensor) -> None:
        for time, value in zip(at.t1.tolist(), values, strict=True):
            edge = int((self.edges == time).nonzero())
            self.iterates.setdefault(edge, []).append(value.clone())

    def guess(self, at: Any, new: pr.Known) -> Tensor:
        self.keep(at, new.g)
        return self.inner.guess(at, new)

    def difference(self, at: Any, new: pr.Known, old: pr.Known) -> Tensor:
        change = self.inner.difference(at, new, old)
        self.keep(at, old.f + change)
        return change

    def errors(self, reference: Tensor) -> list[float]:
        """Largest error at the edges that are not final, for each iteration from 0 on."""
        far = [torch.stack(values) - reference[edge] for edge, values in sorted(self.iterates.items())]
        longest = max(map(len, far))
        return [max(float(e[k].abs().max()) for e in far if len(e) > k) for k in range(longest)]


def recorded_errors(
    grid: pr.TimeGrid, coarse: pr.Integrator, reference: Tensor, run: Callable[..., Any]
) -> list[float]:
    recorder = Recorded(pr.Coarse(coarse), grid.edges)
    sol = run(coarse=recorder)
    last = {edge: values[-1] for edge, values in recorder.iterates.items() if len(values) > sol.iterations}
    assert all(torch.equal(sol.us[edge], value) for edge, value in last.items()), "the recorder misses something"
    return recorder.errors(reference)


@cache
def textbook_figures(name: str, iterations: int) -> tuple[Any, Any, Any, Any]:
    """Increments and errors by iteration from the textbook implementation, and how far rounding may move each.

    Replica 0 is computed as it is, the others with every propagated state shifted by a pseudo-random amount that, as
    rounding does, depends on nothing but the state: a unit in the last place for each step, as they add up at random.
    """
    case = SETTINGS[name]
    replicas = np.arange(9.0)[:, None]
    t = np.linspace(*case.t_span, case.slices + 1)
    H = t[1] - t[0]

    def rounded(u: Any, steps: int) -> Any:
        scale = np.abs(u).max(axis=-1, keepdims=True)
        return u + np.where(replicas > 0, EPS * sqrt(steps) * scale, 0.0) * np.sin(1e15 * u + replicas)

    def propagate(method: str, steps: int, start: Any, u: Any) -> Any:
        h = H / steps
        for m in range(steps):
            u = TEXTBOOK[method](case.rhs, start + m * h, h, u)
        return rounded(u, steps)

    def fine(us: Any) -> Any:
        return propagate(case.fine, case.fine_steps, t[: len(us), None, None], us)

    def coarse(n: int, u: Any) -> Any:
        return propagate(case.coarse, case.coarse_steps, t[n], u)

    u0 = np.tile(np.array(case.u0), (len(replicas), 1))
    serial = [u0]
    for n in range(case.slices):
        serial.append(propagate(case.fine, case.fine_steps, t[n], serial[-1]))
    U = textbook.parareal(fine, coarse, u0, case.slices, iterations)
    increments = np.abs(np.diff(U, axis=0)).max(axis=(1, 3))
    errors = np.abs(U - np.stack(serial)).max(axis=(1, 3))
    spreads = [2 * np.abs(figures[:, 1:] - figures[:, :1]).max(axis=1) for figures in (increments, errors)]
    return increments[:, 0], errors[:, 0], *spreads


@pytest.mark.parametrize("name", CASES)
def test_iterations_and_increments(name: str) -> None:
    case, run = CASES[name], SETTINGS[name].solve
    sol = run(stop=pr.Tolerance(rtol=0.0, atol=case["tolerance"], norm="max"))
    assert sol.iterations == case["iterations_increment_rule"]
    frozen = run(stop=pr.Tolerance(rtol=0.0, atol=case["tolerance"], norm="max", freeze=True))
    assert frozen.iterations == case["iterations_prefix_frozen_right_node"]
    published = np.array(case["max_increment_by_iteration"])
    increments = np.array([float(report.increments.max()) for report in sol.history])
    _, _, spread, _ = textbook_figures(name, len(case["max_error_by_iteration_from_0"]) - 1)
    assert (np.abs(increments - published) <= spread[: len(published)]).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_errors_by_iteration(name: str) -> None:
    published = np.array((CASES | OTHER)[name]["max_error_by_iteration_from_0"])
    case, k = SETTINGS[name], len(published) - 1
    reference = case.serial()
    errors = recorded_errors(
        case.grid,
        METHODS[case.coarse](steps=case.coarse_steps),
        reference.us,
        lambda coarse: case.solve(coarse=coarse, stop=pr.Iterations(k)),
    )
    _, plain, _, spread = textbook_figures(name, k)
    digits = 5e-7 * published if name in OTHER else 0.0  # what printing cut off
    assert (np.abs(plain - published) <= spread + digits).all()
    assert (np.abs(errors - published) <= spread + digits).all()
    if name in CASES:
        end = torch.tensor(CASES[name]["u_fine_end"], dtype=torch.float64)
        assert float((reference.u - end).abs().max()) <= spread.max()


# Runs whose propagators are closed forms.


def errors_of(
    grid: pr.TimeGrid,
    fine: pr.Integrator,
    coarse: pr.Integrator,
    u0: Tensor,
    k: int,
    f: Callable[[Tensor, Tensor], Tensor] = lambda t, u: torch.sqrt(u**2 + 2),
) -> list[float]:
    """Errors of iterations 0 ... k, from propagators alone or an equation, u' = sqrt(u^2 + 2) unless it is given."""
    problem = pr.ODE(f)
    reference = pr.serial(problem, u0, grid, fine=fine)
    stop = pr.Iterations(k)
    return recorded_errors(
        grid, coarse, reference.us, lambda coarse: pr.solve(problem, u0, grid, fine=fine, coarse=coarse, stop=stop)
    )


def assert_printed(errors: list[float], published: list[float], slices: int, largest: float, digits: float) -> None:
    """Agreement to the digits printed, and to three roundings of the largest state at each edge."""
    rounding = 3 * slices * EPS * largest
    errors = errors + [0.0] * (len(published) - len(errors))  # all edges final: no error left to record
    for got, expected in zip(errors, published, strict=True):
        assert abs(got - expected) <= digits * expected + rounding


@pytest.mark.parametrize(
    ("name", "rate", "end", "digits"),
    [("dahlquist_be", -1.0, 1.0, 5e-12), ("oscillator_be", 2j, 1.0, 5e-7), ("oscillator_be_long", 2j, 10.0, 5e-7)],
)
def test_implicit_euler_on_linear_problems(name: str, rate: complex, end: float, digits: float) -> None:
    published, N = OTHER[name]["max_error_by_iteration_from_0"], OTHER[name]["slices"]
    grid = pr.TimeGrid.from_edges(torch.linspace(0.0, end, N + 1, dtype=torch.float64))
    u0 = torch.ones((), dtype=torch.complex128 if isinstance(rate, complex) else torch.float64)
    fine, coarse = pr.ImplicitEuler(steps=20), pr.ImplicitEuler(steps=1)
    errors = errors_of(grid, fine, coarse, u0, min(len(published) - 1, N), lambda t, u: rate * u)
    assert_printed(errors, published, N, 1.0, digits)


def test_convergence_bounds() -> None:
    case = OTHER["dahlquist_be"]
    N, error = case["slices"], case["max_error_by_iteration_from_0"]
    G = 1 / 1.1
    alpha = abs(np.exp(-0.1) - G)
    superlinear = [error[0] * alpha**k / factorial(k) * prod(N - j for j in range(1, k + 1)) for k in range(7)]
    linear = [error[0] * (alpha / (1 - G)) ** k for k in range(7)]
    np.testing.assert_allclose(superlinear, case["superlinear_bound"], rtol=5e-7)
    np.testing.assert_allclose(linear, case["linear_bound"], rtol=5e-7)
    grid = pr.TimeGrid.from_edges(torch.linspace(0.0, 1.0, N + 1, dtype=torch.float64))
    u0 = torch.ones((), dtype=torch.float64)
    measured = errors_of(grid, pr.ImplicitEuler(steps=20), pr.ImplicitEuler(steps=1), u0, 6, lambda t, u: -u)
    assert all(e <= bound * (1 + 1e-6) + 10 * EPS for e, bound in zip(measured, superlinear, strict=True))
    assert all(e <= bound * (1 + 1e-6) + 10 * EPS for e, bound in zip(measured, linear, strict=True))


COARSE = {
    "implicit Euler": pr.ImplicitEuler(),
    "Radau IIA, 2 stages": pr.RadauIIA(2),
    "Radau IIA, 3 stages": pr.RadauIIA(3),
    "SDIRK2 gamma=1+1/sqrt2": pr.SDIRK2(gamma=1 + 1 / sqrt(2)),
    "Lobatto IIIC, 2 stages": pr.LobattoIIIC(2),
}


@pytest.mark.parametrize("name", OTHER["convergence_factors"]["table"])
def test_convergence_factors(name: str) -> None:
    """What an iteration leaves of an error: |e^z - R(z)| over a short time, the same / (1 - |R|) over a long one."""

    def factors(z: Tensor) -> Tensor:
        problem = pr.ODE(lambda t, u, z: z * u, per_sample=z)
        R = pr.serial(problem, torch.ones_like(z), pr.TimeGrid.uniform(0.0, 1.0, 1), fine=COARSE[name], samples=True).u
        gap = (torch.exp(z) - R).abs()
        return torch.stack([gap, gap / (1 - R.abs())])

    coarse = -torch.logspace(-2, 4, 2000, dtype=torch.float64)
    for row, published in enumerate(OTHER["convergence_factors"]["table"][name]):
        best = int(factors(coarse)[row].argmax())
        # Between its neighbours; the factor is flat there, so that 2000 points leave an error of some 1e-11.
        close = torch.linspace(float(coarse[best - 1]), float(coarse[best + 1]), 2000, dtype=torch.float64)
        assert float(factors(close)[row].max()) == pytest.approx(
            published, abs=6e-8 if len(str(published)) < 11 else 6e-11
        )


def test_square_root_with_the_exact_flow() -> None:
    case = OTHER["sqrt_exact_fine"]
    published, N = case["max_error_by_iteration_from_0"], case["slices"]
    grid = pr.TimeGrid.from_edges(torch.linspace(-1.0, 1.0, N + 1, dtype=torch.float64))
    flow = pr.Propagator(lambda t0, t1, u: sqrt(2) * torch.sinh(t1 - t0 + torch.asinh(u / sqrt(2))), batching="native")
    u0 = torch.tensor(5.0, dtype=torch.float64)
    end = pr.serial(pr.ODE(lambda t, u: u), u0, grid, fine=flow).u
    assert abs(float(end) - sqrt(2) * sinh(2 + asinh(5 / sqrt(2)))) <= 8 * N * EPS * case["u_end"]
    assert float(end) == pytest.approx(case["u_end"], rel=8 * N * EPS)
    errors = errors_of(grid, flow, pr.Euler(), u0, len(published) - 1)
    assert_printed(errors, published, N, case["u_end"], 5e-7)


def test_geometric_brownian_motion_with_frozen_noise() -> None:
    case = OTHER["gbm_frozen_noise"]
    published, N, S = case["max_error_by_iteration_from_0"], case["slices"], 16
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, sqrt(1 / 128), (N, S)))
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=N, steps=S)
    problem = pr.SDE(lambda t, u: u, lambda t, u: 0.5 * u, path=pr.FrozenPath(grid.points, noise.reshape(-1)))
    u0 = torch.ones((), dtype=torch.float64)
    reference = pr.serial(problem, u0, grid, fine=pr.EulerMaruyama())
    stop = pr.Iterations(N)
    errors = recorded_errors(
        grid,
        pr.EulerMaruyama(),
        reference.us,
        lambda coarse: pr.solve(problem, u0, grid, fine=pr.EulerMaruyama(), coarse=coarse, stop=stop),
    )
    assert_printed(errors, published, N, float(reference.us.max()), 1e-6)


STOCHASTIC = {  # dX = drift dt + diffusion dW, X(0) = 1
    "geometric Brownian motion": ("diagonal", lambda t, u: u, lambda t, u: 0.5 * u),
    "Ornstein-Uhlenbeck (additive)": ("additive", lambda t, u: -u, lambda t, u: torch.full_like(u, 0.5)),
}


def squared_errors(equation: str, slices: int, dw: Tensor) -> Tensor:
    """Of iterations 0 ... 3 at time 1, against the serial solution on the same path: ``(4, paths)``."""
    noise, drift, diffusion = STOCHASTIC[equation]
    path = pr.FrozenPath(torch.linspace(0.0, 1.0, len(dw) + 1, dtype=torch.float64), dw)
    problem = pr.SDE(drift, diffusion, noise=noise, batching="native", path=path)
    grid, u0 = pr.TimeGrid.uniform(0.0, 1.0, slices, steps=16), torch.ones(dw.shape[1], dtype=torch.float64)
    recorder = Recorded(pr.Coarse(pr.EulerMaruyama()), grid.edges)
    pr.solve(problem, u0, grid, fine=pr.EulerMaruyama(), coarse=recorder, stop=pr.Iterations(3))
    return (torch.stack(recorder.iterates[slices]) - pr.serial(problem, u0, grid, fine=pr.EulerMaruyama()).u).square()


@pytest.mark.parametrize(
    (
        "equation",
        "groups",
        "paths",
    ),  # products of many factors have heavy tails, and take as many paths as the table has
    [("geometric Brownian motion", 10, 4000), ("Ornstein-Uhlenbeck (additive)", 4, 1000)],
)
def test_strong_orders_of_iterations(equation: str, groups: int, paths: int) -> None:
    """Of Parareal on a shared path; how far chance moves an order is estimated by leaving out groups of paths."""
    slices, published = (8, 16, 32, 64), np.array(OTHER["sde_strong_order"]["table"][equation])
    generator = torch.Generator().manual_seed(0)
    means = np.empty((groups, 4, len(slices)))
    for group in means:
        dw = torch.randn(64 * 16, paths, generator=generator, dtype=torch.float64) / 32
        group[:] = np.stack([squared_errors(equation, n, dw).mean(1).numpy() for n in slices], 1)

    def orders(of: Any) -> Any:
        return -np.polyfit(np.log(slices), 0.5 * np.log(of.mean(0)).T, 1)[0]

    without = np.stack([orders(np.delete(means, i, 0)) for i in range(groups)])
    deviation = np.sqrt((groups - 1) * without.var(0))
    assert (deviation < 0.15).all()  # an order is told from the next half
    # The table is made of 40,000 other paths; half a unit of its last digit is what printing cut off.
    assert (np.abs(orders(means) - published) <= 3 * deviation * sqrt(1 + groups * paths / 40000) + 0.005).all()


def test_every_published_case_is_reproduced_or_named() -> None:
    here = {"dahlquist_be", "oscillator_be", "oscillator_be_long", "sqrt_exact_fine"}
    here |= {"gbm_frozen_noise", "sde_strong_order", "convergence_factors"}
    assert set(CASES) | set(OTHER) == set(SETTINGS) | here | ELSEWHERE
