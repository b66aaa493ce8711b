"""The runs of `cases.py` by the library: the equations once more, for tensors, and what the tests ask of a run."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from math import sqrt
from typing import Any

import numpy as np
import torch
from reference import cases
from reference import figures as theirs
from torch import Tensor

import parareal as pr

METHODS: dict[str, Callable[..., pr.Integrator]] = {
    "euler": pr.Euler,
    "midpoint": pr.Midpoint,
    "heun": pr.Heun,
    "kutta3": pr.Kutta3,
    "rk4": pr.RK4,
    "three_eighths": pr.ThreeEighths,
    "implicit_euler": pr.ImplicitEuler,
    "trapezoid": pr.Trapezoid,
    "sdirk2": pr.SDIRK2,
    "euler_maruyama": pr.EulerMaruyama,
    "milstein": pr.Milstein,
    "sra1": pr.SRA1,
}

# --- equations: t (L, 1), u (L, d) -----------------------------------------------------------------------------------


def heat(t: Tensor, u: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(u, (1, 1))
    return 256 * (padded[:, 2:] - 2 * u + padded[:, :-2])


def brusselator(t: Tensor, u: Tensor) -> Tensor:
    x, y = u.unbind(-1)
    reaction = x * x * y
    return torch.stack([1 + reaction - 4 * x, 3 * x - reaction], -1)


def fitzhugh_nagumo(t: Tensor, u: Tensor) -> Tensor:
    v, w = u.unbind(-1)
    return torch.stack([3 * (v - v**3 / 3 + w), (0.2 - v - 0.2 * w) / 3], -1)


def lorenz(t: Tensor, u: Tensor) -> Tensor:
    x, y, z = u.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


def kepler(t: Tensor, u: Tensor) -> Tensor:
    position, velocity = u[:, :2], u[:, 2:]
    return torch.cat([velocity, -position / torch.linalg.vector_norm(position, dim=1, keepdim=True) ** 3], 1)


def arenstorf(t: Tensor, u: Tensor) -> Tensor:
    mu, (x, y, vx, vy) = 0.012277471, u.unbind(-1)
    earth, moon = ((x + mu) ** 2 + y**2) ** -1.5, ((x + mu - 1) ** 2 + y**2) ** -1.5
    ax = x + 2 * vy - (1 - mu) * (x + mu) * earth - mu * (x + mu - 1) * moon
    ay = y - 2 * vx - (1 - mu) * y * earth - mu * y * moon
    return torch.stack([vx, vy, ax, ay], -1)


def double_pendulum(t: Tensor, u: Tensor) -> Tensor:
    """Lagrange's equations, solved for the accelerations: [[2, c], [c, 1]] a = r."""
    a, b, va, vb = u.unbind(-1)
    s, c = torch.sin(a - b), torch.cos(a - b)
    r1, r2 = -(vb**2) * s - 2 * 9.81 * torch.sin(a), va**2 * s - 9.81 * torch.sin(b)
    determinant = 2 - c**2
    return torch.stack([va, vb, (r1 - c * r2) / determinant, (2 * r2 - c * r1) / determinant], -1)


def van_der_pol(t: Tensor, u: Tensor) -> Tensor:
    x, v = u.unbind(-1)
    return torch.stack([v, 100 * (1 - x**2) * v - x], -1)


def robertson(t: Tensor, u: Tensor) -> Tensor:
    x, y, z = u.unbind(-1)
    forth, back, fast = 0.04 * x, 1e4 * y * z, 3e7 * y**2
    return torch.stack([back - forth, forth - back - fast, fast], -1)


RHS: dict[Callable[..., Any], Callable[[Tensor, Tensor], Tensor]] = {
    cases.decay: lambda t, u: -u,
    cases.oscillation: lambda t, u: torch.stack([u[:, 1], -u[:, 0]], -1),
    cases.turning: lambda t, u: 2j * u,
    cases.heat: heat,
    cases.upwind: lambda t, u: -16 * (u - u.roll(1, -1)),
    cases.centred: lambda t, u: -8 * (u.roll(-1, -1) - u.roll(1, -1)),
    cases.logistic: lambda t, u: u * (1 - u),
    cases.riccati: lambda t, u: -2 * t * u**2,
    cases.bernoulli: lambda t, u: 2 * u / (1 + t) - (t * u) ** 2,
    cases.lotka_volterra: lambda t, u: u * (u.flip(-1) - 1) * torch.tensor([-1.0, 1.0], dtype=u.dtype),
    cases.brusselator: brusselator,
    cases.fitzhugh_nagumo: fitzhugh_nagumo,
    cases.lorenz: lorenz,
    cases.kepler: kepler,
    cases.arenstorf: arenstorf,
    cases.double_pendulum: double_pendulum,
    cases.van_der_pol: van_der_pol,
    cases.robertson: robertson,
    cases.geometric: lambda t, u: u,
    cases.additive: lambda t, u: 0.5 / (1 + t).sqrt() - u / (2 * (1 + t)),
    cases.square_root: lambda t, u: torch.sqrt(u**2 + 2),
}
DIFFUSION: dict[Callable[..., Any], tuple[Any, Callable[[Tensor, Tensor], Tensor]]] = {
    cases.geometric: ("diagonal", lambda t, u: 0.5 * u),
    cases.additive: ("additive", lambda t, u: (0.25 / (1 + t).sqrt()).expand_as(u)),
}


# --- runs ------------------------------------------------------------------------------------------------------------


def tensor(numbers: list[Fraction]) -> Tensor:
    return torch.tensor([float(x) for x in numbers], dtype=torch.float64)


def native(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, u: f(t[:, None], u)


class Run:
    """A setting, as the library takes it."""

    def __init__(self, setting: cases.Setting) -> None:
        self.setting = setting
        rhs, points = native(RHS[setting.equation]), tensor(setting.points)
        if setting.noise is None:
            self.problem: pr.Problem = pr.ODE(rhs, batching="native")
        else:
            noise, diffusion = DIFFUSION[setting.equation]
            path = pr.FrozenPath(points, *(tensor(part)[:, None] for part in setting.noise))
            self.problem = pr.SDE(rhs, native(diffusion), noise=noise, batching="native", path=path)
        t0, t1 = (float(Fraction(t)) for t in setting.span)
        self.grid = (
            pr.TimeGrid.from_points(points, setting.slices)
            if setting.crowded
            else pr.TimeGrid.uniform(t0, t1, setting.slices, setting.fine[1])
        )
        self.u0 = tensor([Fraction(x) for x in setting.u0])
        if setting.equation is cases.turning:
            self.u0 = self.u0.to(torch.complex128)
        self.fine = METHODS[setting.fine[0]]() if setting.fine[0] in METHODS else exact_flow()
        self.coarse = pr.Coarse(METHODS[setting.coarse[0]](steps=setting.coarse[1]))

    def solve(self, **options: Any) -> pr.Solution:
        call = {"fine": self.fine, "coarse": self.coarse, "schedule": pr.Barrier(), **options}
        return pr.solve(self.problem, self.u0, self.grid, **call)

    def stopped(self, rule: str) -> pr.Solution:
        """Under a rule: ``"increment"``, ``"frozen"`` or ``"defect"``."""
        wanted = self.setting.rule
        assert wanted is not None
        kind: Any = "defect" if rule == "defect" else "increment"
        norm: Any = wanted.norm
        return self.solve(stop=pr.Tolerance(wanted.rtol, wanted.atol, norm, kind, freeze=rule == "frozen"))

    def serial(self) -> Tensor:
        return pr.serial(self.problem, self.u0, self.grid, fine=self.fine).us

    def iterates(self, k: int) -> Tensor:
        """All iterates 0 ... k, ``(k + 1, N + 1, d)``."""
        sol = self.solve(stop=pr.Iterations(k), keep="all")
        assert sol.iterates is not None
        return torch.stack([sol.iterates.after(min(i, len(sol.iterates.has_u) - 1)) for i in range(k + 1)])


def exact_flow() -> pr.Propagator:
    """Of u' = sqrt(u^2 + 2)."""
    return pr.Propagator(
        lambda t0, t1, u: sqrt(2) * torch.sinh((t1 - t0)[:, None] + torch.asinh(u / sqrt(2))), batching="native"
    )


@cache
def figures(name: str, k: int) -> dict[str, list[float]]:
    """Errors of iterations 0 ... k and increments of iterations 1 ... k: the largest of all edges and components."""
    run = Run((cases.INDEPENDENT | cases.PUBLISHED)[name])
    U, reference = run.iterates(k), run.serial()
    return {
        "errors": (U - reference).abs().flatten(1).amax(1).tolist(),
        "increments": U.diff(dim=0).abs().flatten(1).amax(1).tolist(),
        "end": reference[-1].tolist(),
    }


@cache
def stops(name: str) -> dict[str, Any]:
    """Iterations under each rule, and how far from the serial solution the frozen run ends."""
    run = Run((cases.INDEPENDENT | cases.PUBLISHED)[name])
    ends = {rule: run.stopped(rule) for rule in ("increment", "frozen", "defect")}
    off = float((ends["frozen"].u - run.serial()[-1]).abs().max())
    return {rule: sol.iterations for rule, sol in ends.items()} | {"frozen_error": off}


# --- strong orders of Parareal's iterations on a shared path ---------------------------------------------------------

STOCHASTIC: dict[
    str, Any
] = {  # dX = drift dt + diffusion dW, X(0) = 1; how far the paths are tilted, and groups of them
    "geometric Brownian motion": ("diagonal", lambda t, u: u, lambda t, u: 0.5 * u, 2.0, 10),
    "Ornstein-Uhlenbeck (additive)": ("additive", lambda t, u: -u, lambda t, u: torch.full_like(u, 0.5), 0.0, 6),
}
PATHS = 500


def squared_errors(equation: str, slices: int, dw: Tensor) -> Tensor:
    """Of iterations 0 ... 3 at time 1, against the serial solution on the same path: ``(4, paths)``."""
    noise, drift, diffusion, *_ = STOCHASTIC[equation]
    path = pr.FrozenPath(torch.linspace(0.0, 1.0, len(dw) + 1, dtype=torch.float64), dw)
    problem = pr.SDE(drift, diffusion, noise=noise, batching="native", path=path)
    grid, u0 = pr.TimeGrid.uniform(0.0, 1.0, slices, steps=16), torch.ones(dw.shape[1], dtype=torch.float64)
    method = pr.EulerMaruyama()
    call: dict[str, Any] = {"schedule": pr.Barrier(), "stop": pr.Iterations(3), "keep": "all"}
    sol = pr.solve(problem, u0, grid, fine=method, coarse=method, **call)
    assert sol.iterates is not None
    return (sol.iterates.u[:, slices] - pr.serial(problem, u0, grid, fine=method).u).square()


@cache
def strong_orders(equation: str) -> tuple[Any, Any]:
    """Orders after 0 ... 3 iterations, and how far chance moves them, estimated by leaving out groups of paths.

    The squares of products of many factors have heavy tails, which few plain paths reach. Paths are drawn with a drift,
    which reaches them more often, and weighted by how much less likely they are without.
    """
    (*_, tilt, groups), slices = STOCHASTIC[equation], (8, 16, 32, 64)
    generator = torch.Generator().manual_seed(0)
    means = np.empty((groups, 4, len(slices)))
    for group in means:
        dw = torch.randn(64 * 16, PATHS, generator=generator, dtype=torch.float64) / 32 + tilt / 1024
        weight = torch.exp(0.5 * tilt**2 - tilt * dw.sum(0))
        group[:] = np.stack([(squared_errors(equation, n, dw) * weight).mean(1).numpy() for n in slices], 1)

    def orders(of: Any) -> Any:
        return -np.polyfit(np.log(slices), 0.5 * np.log(of.mean(0)).T, 1)[0]

    without = np.stack([orders(np.delete(means, i, 0)) for i in range(groups)])
    return orders(means), np.sqrt((groups - 1) * without.var(0))


# --- one-step figures ------------------------------------------------------------------------------------------------

COARSE: dict[str, pr.Integrator] = {
    "implicit Euler": pr.ImplicitEuler(),
    "Radau IIA, 2 stages": pr.RadauIIA(2),
    "Radau IIA, 3 stages": pr.RadauIIA(3),
    "SDIRK2 gamma=1+1/sqrt2": pr.SDIRK2(gamma=1 + 1 / sqrt(2)),
    "Lobatto IIIC, 2 stages": pr.LobattoIIIC(2),
}


@cache
def convergence_factors(name: str) -> list[float]:
    """What an iteration leaves of an error: |e^z - R(z)| over a short time, the same / (1 - |R|) over a long one."""

    def factors(z: Tensor) -> Tensor:
        problem = pr.ODE(lambda t, u, z: z * u, per_sample=z)
        R = pr.serial(problem, torch.ones_like(z), pr.TimeGrid.uniform(0.0, 1.0, 1), fine=COARSE[name], samples=True).u
        gap = (torch.exp(z) - R).abs()
        return torch.stack([gap, gap / (1 - R.abs())])

    wide, found = -torch.logspace(-2, 4, 2000, dtype=torch.float64), []
    for row in range(2):
        best = int(factors(wide)[row].argmax())
        # Between its neighbours; the factor is flat there, so that 2000 points leave an error of some 1e-11.
        close = torch.linspace(float(wide[best - 1]), float(wide[best + 1]), 2000, dtype=torch.float64)
        found.append(float(factors(close)[row].max()))
    return found


STRONG: dict[str, tuple[Any, Any, Any]] = {
    "dX = X/2 dW": ("diagonal", torch.zeros_like, lambda u: 0.5 * u),
    "dX = (1 - e^X) dt + dW": ("additive", lambda u: 1 - u.exp(), torch.ones_like),
}


@cache
def ends(method: str, steps: int) -> Any:
    """As `reference.figures.ends`, by the library on the same paths."""
    noise, drift, diffusion = STRONG[theirs.ORDERS[method].title]
    dw, dz = (torch.from_numpy(part) for part in theirs.paths())
    path = pr.FrozenPath(torch.linspace(0.0, 1.0, len(dw) + 1, dtype=torch.float64), dw, dz)
    problem = pr.SDE(lambda t, u: drift(u), lambda t, u: diffusion(u), noise=noise, batching="native", path=path)
    u0 = torch.full((theirs.PATHS,), theirs.ORDERS[method].u0, dtype=torch.float64)
    return pr.serial(problem, u0, pr.TimeGrid.uniform(0.0, 1.0, 1, steps), fine=METHODS[method]()).u.numpy()
