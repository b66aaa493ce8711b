"""Stochastic equations: measured strong orders, other people's methods on the same path, and the laws of Parareal."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import exp, sqrt
from typing import Any

import numpy as np
import pytest
import torch
import torchsde
from hypothesis import given
from hypothesis import strategies as st
from stochastic import FUNCTION, Case, seeded, stochastic
from strategies import distance, equal, make_state, on_leaves, part, size
from torch import Tensor
from torch.utils import _pytree as pytree

import parareal as pr

EPS = float(torch.finfo(torch.float64).eps)


# --- strong orders ---------------------------------------------------------------------------------------------------

MEAN, SIGMA = 0.5, 0.6
PATHS = 1000


@dataclass(frozen=True)
class Solved:
    """dU = sign drift dt + diffusion dW, U(0) = 1 in direction ``sign`` up to elapsed time 1, and its solution.

    ``exact(w)`` is the solution of W at that time; for additive noise, of dW and dZ over all atoms.
    """

    noise: str
    calculus: str
    drift: FUNCTION
    diffusion: FUNCTION
    exact: Callable[..., Tensor] | None
    channels: int | None = None
    atoms: int = 128


def columns(u: Tensor) -> Tensor:
    return torch.stack([SIGMA * u, 0.5 * SIGMA * u], -1)


def damped(dw: Tensor, dz: Tensor) -> Tensor:
    """dX = -X ds + SIGMA dW: the noise of an atom that begins at s decays from there on, exact to order h^2."""
    h = 1 / len(dw)
    decay = torch.exp(-1 + h * torch.arange(len(dw), dtype=torch.float64))[:, None]
    return exp(-1) + SIGMA * (decay * (dw + h * dw - dz)).sum(0)


SOLVED = {
    "geometric, Ito": Solved(
        "diagonal",
        "ito",
        lambda s, u: MEAN * u,
        lambda s, u: SIGMA * u,
        lambda w: torch.exp(MEAN - SIGMA**2 / 2 + SIGMA * w),
    ),
    "geometric, Stratonovich": Solved(
        "diagonal", "stratonovich", lambda s, u: MEAN * u, lambda s, u: SIGMA * u, lambda w: torch.exp(MEAN + SIGMA * w)
    ),
    "geometric, scalar": Solved(
        "scalar",
        "ito",
        lambda s, u: MEAN * u,
        lambda s, u: SIGMA * u,
        lambda w: torch.exp(MEAN - SIGMA**2 / 2 + SIGMA * w),
    ),
    "arctan, Ito": Solved(
        "diagonal",
        "ito",
        lambda s, u: -torch.sin(u) * torch.cos(u) ** 3,
        lambda s, u: torch.cos(u) ** 2,
        lambda w: torch.atan(w + np.tan(1.0)),
    ),
    "arctan, Stratonovich": Solved(
        "diagonal",
        "stratonovich",
        lambda s, u: torch.zeros_like(u),
        lambda s, u: torch.cos(u) ** 2,
        lambda w: torch.atan(w + np.tan(1.0)),
    ),
    "two channels, Ito": Solved(
        "general",
        "ito",
        lambda s, u: MEAN * u,
        lambda s, u: columns(u),
        lambda w: torch.exp(MEAN - SIGMA**2 * 1.25 / 2 + SIGMA * (w @ torch.tensor([1.0, 0.5]).double())),
        channels=2,
    ),
    "two channels, Stratonovich": Solved(
        "general",
        "stratonovich",
        lambda s, u: MEAN * u,
        lambda s, u: columns(u),
        lambda w: torch.exp(MEAN + SIGMA * (w @ torch.tensor([1.0, 0.5]).double())),
        channels=2,
    ),
    "Ornstein-Uhlenbeck": Solved(
        "additive", "ito", lambda s, u: -u, lambda s, u: torch.full_like(u, SIGMA), damped, atoms=512
    ),
    "curved drift": Solved(  # no closed form: the finest solution stands for it
        "additive",
        "ito",
        lambda s, u: torch.sin(3 * u) - u,
        lambda s, u: torch.full_like(u, 1.0),
        None,
        atoms=1024,
    ),
    "root of time": Solved(  # X(s) = (1 + s + 0.5 W) / sqrt(1 + s), from 1
        "additive",
        "ito",
        lambda s, u: 1 / torch.sqrt(1 + s) - u / (2 * (1 + s)),
        lambda s, u: 0.5 / torch.sqrt(1 + s) * torch.ones_like(u),
        lambda dw, dz: (2 + 0.5 * dw.sum(0)) / sqrt(2),
    ),
    "root of time, channels": Solved(
        "additive",
        "stratonovich",
        lambda s, u: 1 / torch.sqrt(1 + s) - u / (2 * (1 + s)),
        lambda s, u: (torch.tensor([0.3, 0.4]).double() / torch.sqrt(1 + s)[..., None]).expand(*u.shape, 2),
        lambda dw, dz: (2 + dw.sum(0) @ torch.tensor([0.3, 0.4]).double()) / sqrt(2),
        channels=2,
    ),
}

ORDERS = [
    ("geometric, Ito", pr.EulerMaruyama, 0.5),
    ("geometric, scalar", pr.EulerMaruyama, 0.5),
    ("arctan, Ito", pr.EulerMaruyama, 0.5),
    ("two channels, Ito", pr.EulerMaruyama, 0.5),
    ("Ornstein-Uhlenbeck", pr.EulerMaruyama, 1.0),
    ("root of time", pr.EulerMaruyama, 1.0),
    ("geometric, Ito", pr.Milstein, 1.0),
    ("geometric, scalar", pr.Milstein, 1.0),
    ("arctan, Ito", pr.Milstein, 1.0),
    ("geometric, Stratonovich", pr.Milstein, 1.0),
    ("arctan, Stratonovich", pr.Milstein, 1.0),
    ("Ornstein-Uhlenbeck", pr.Milstein, 1.0),
    ("geometric, Stratonovich", pr.Heun, 1.0),
    ("arctan, Stratonovich", pr.Heun, 1.0),
    ("two channels, Stratonovich", pr.Heun, 1.0),  # the two columns commute
    ("curved drift", pr.EulerMaruyama, 1.0),
    ("curved drift", pr.Heun, 1.0),
    ("curved drift", pr.SRA1, 1.5),
    # What limits these orders are second derivatives of the drift: where it is linear they are higher by a half or one.
    ("root of time", pr.Heun, 2.0),
    ("Ornstein-Uhlenbeck", pr.SRA1, 2.0),
    ("root of time", pr.SRA1, 2.0),
    ("root of time, channels", pr.SRA1, 2.0),
]


FINEST: dict[float, Tensor] = {}


def strong_errors(case: Solved, method: Callable[..., pr.Integrator], sign: float, steps: list[int]) -> list[float]:
    """Root mean square errors over as many samples, each with a path of its own, on which all step sizes run."""
    points = sign * torch.linspace(0.0, 1.0, case.atoms + 1, dtype=torch.float64)
    path = pr.BrownianPath(points, seed=17)
    problem = pr.SDE(
        lambda t, u: sign * case.drift((sign * t).reshape(-1, 1, 1), u),
        lambda t, u: case.diffusion((sign * t).reshape(-1, 1, 1), u),
        noise=case.noise,  # type: ignore[arg-type]
        calculus=case.calculus,  # type: ignore[arg-type]
        channels=case.channels,
        path=path,
        batching="native",
    )
    shape = (PATHS,) if case.channels is None else (PATHS, case.channels)
    keys, like = path.keys(PATHS), torch.zeros(shape, dtype=torch.float64)
    u0 = torch.ones(PATHS, 1, dtype=torch.float64)
    if case.exact is None:
        exact = FINEST.get(sign)
        if exact is None:
            grid = pr.TimeGrid.uniform(0.0, sign, case.atoms)
            exact = FINEST[sign] = pr.serial(problem, u0, grid, fine=pr.SRA1(), samples=True).u[:, 0]
    elif case.noise == "additive":
        atoms = [path.increments(a.expand(PATHS), b.expand(PATHS), like, keys, area=True) for a, b in pairwise(points)]
        dw, dz = (torch.stack(list(parts)) for parts in zip(*atoms, strict=True))
        exact = case.exact(dw, sign * dz)
    else:
        exact = case.exact(path.increments(points[:1].expand(PATHS), points[-1:].expand(PATHS), like, keys))
    errors = []
    for n in steps:
        grid = pr.TimeGrid.uniform(0.0, sign, n)
        u = pr.serial(problem, u0, grid, fine=method(), samples=True).u
        errors.append(float((u[:, 0] - exact).square().mean().sqrt()))
    return errors


def measured_order(name: str, method: Callable[..., pr.Integrator], sign: float) -> float:
    steps = [8, 16, 32, 64] if SOLVED[name].atoms == 512 else [16, 32, 64, 128]
    return -np.polyfit(np.log(steps), np.log(strong_errors(SOLVED[name], method, sign, steps)), 1)[0]


@pytest.mark.parametrize(("name", "method", "order"), ORDERS, ids=[f"{m.__name__}: {n}" for n, m, _ in ORDERS])
@pytest.mark.sweep(3)
def test_measured_strong_order(name: str, method: Callable[..., pr.Integrator], order: float) -> None:
    assert measured_order(name, method, 1.0) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("name", "method", "order"),
    [
        ("arctan, Ito", pr.EulerMaruyama, 0.5),
        ("arctan, Ito", pr.Milstein, 1.0),
        ("arctan, Stratonovich", pr.Milstein, 1.0),
        ("arctan, Stratonovich", pr.Heun, 1.0),
        ("Ornstein-Uhlenbeck", pr.SRA1, 2.0),
    ],
)
@pytest.mark.sweep(2)
def test_measured_strong_order_where_time_falls(name: str, method: Callable[..., pr.Integrator], order: float) -> None:
    assert measured_order(name, method, -1.0) == pytest.approx(order, abs=0.1)


def test_declared_orders_and_evaluations() -> None:
    declared = [(method().order, method().evaluations) for method in (pr.EulerMaruyama, pr.Milstein, pr.SRA1)]
    assert declared == [(0.5, 1), (1.0, 2), (1.5, 3)]
    problem = pr.SDE(lambda t, u: u, lambda t, u: u, calculus="stratonovich")
    heun = pr.Heun(steps=3).bind(problem, torch.ones(1), None)
    assert (heun.order, heun.evaluations, heun.steps) == (1.0, 2, 3)
    assert pr.Heun().bind(pr.ODE(lambda t, u: u), torch.ones(1), None) == pr.Heun()


# --- torchsde on the same path ---------------------------------------------------------------------------------------


class Shared(torchsde.BaseBrownian):  # type: ignore[misc]
    """Our path in torchsde's interface."""

    dtype, device, levy_area_approximation = torch.float64, torch.device("cpu"), "space-time"
    shape: Any = None

    def __init__(self, path: pr.BrownianPath, shape: tuple[int, int]) -> None:
        self.path, self.shape = path, shape

    def __repr__(self) -> str:
        return "Shared"

    def __call__(self, ta: Any, tb: Any = None, return_U: bool = False, return_A: bool = False) -> Any:
        batch = self.shape[0]
        t0, t1 = (torch.as_tensor(t, dtype=torch.float64).expand(batch) for t in (ta, tb))
        like = torch.zeros(self.shape, dtype=torch.float64)
        return self.path.increments(t0, t1, like, self.path.keys(batch), area=return_U)


WAVES = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)


def wavy_drift(t: Any, u: Tensor) -> Tensor:
    return torch.sin(WAVES * u) - 0.5 * u + torch.cos(torch.as_tensor(t, dtype=torch.float64))


def wavy(kind: str, t: Any, u: Tensor) -> Tensor:
    """Diffusions of a state ``(..., 3)``."""
    if kind == "additive":
        mixing = torch.tensor([[0.5, 0.1], [0.0, 0.3], [-0.2, 0.4]], dtype=torch.float64)
        return mixing * (1 + torch.as_tensor(t, dtype=torch.float64)) * torch.ones_like(u).unsqueeze(-1)
    if kind == "general":
        return torch.stack([0.3 * torch.cos(u), 0.2 * u.flip(-1)], -1)
    return 0.3 + 0.2 * torch.sin(WAVES * u)


@pytest.mark.parametrize(
    ("kind", "calculus", "method", "theirs", "options"),
    [
        ("diagonal", "ito", pr.EulerMaruyama(), "euler", {}),
        ("scalar", "ito", pr.EulerMaruyama(), "euler", {}),
        ("additive", "ito", pr.EulerMaruyama(), "euler", {}),
        ("general", "ito", pr.EulerMaruyama(), "euler", {}),
        ("diagonal", "ito", pr.Milstein(), "milstein", {"grad_free": True}),
        ("scalar", "ito", pr.Milstein(), "milstein", {"grad_free": True}),
        ("additive", "ito", pr.Milstein(), "milstein", {}),
        ("additive", "ito", pr.SRA1(), "srk", {}),
        ("diagonal", "stratonovich", pr.Heun(), "heun", {}),
        ("scalar", "stratonovich", pr.Heun(), "heun", {}),
        ("additive", "stratonovich", pr.Heun(), "heun", {}),
        ("general", "stratonovich", pr.Heun(), "heun", {}),
    ],
)
def test_torchsde_steps_the_same(kind: str, calculus: str, method: Any, theirs: str, options: dict[str, Any]) -> None:
    class Equation(torch.nn.Module):
        noise_type, sde_type = kind, calculus

        def f(self, t: Tensor, u: Tensor) -> Tensor:
            return wavy_drift(t, u)

        def g(self, t: Tensor, u: Tensor) -> Tensor:
            return wavy(kind, t, u).unsqueeze(-1) if kind == "scalar" else wavy(kind, t, u)

    channels = 2 if kind in ("additive", "general") else None
    width = {"diagonal": 3, "scalar": 1}.get(kind, 2)
    grid = pr.TimeGrid.uniform(0.0, 2.0, slices=4, steps=8)
    path = pr.BrownianPath(grid.points, seed=5)
    u0 = make_state("matrix", torch.float64, 1)
    problem = pr.SDE(
        wavy_drift,
        lambda t, u: wavy(kind, t, u),
        noise=kind,  # type: ignore[arg-type]
        calculus=calculus,  # type: ignore[arg-type]
        channels=channels,
        path=path,
    )
    ours = pr.serial(problem, u0, grid, fine=method, samples=True).us
    with torch.no_grad():
        expected = torchsde.sdeint(
            Equation(), u0, grid.edges, bm=Shared(path, (2, width)), method=theirs, dt=1 / 16, options=options
        )
    # At most three stages of some twenty operations in each of 32 steps, of a system that hardly enlarges errors.
    assert distance(ours, expected) <= 64 * 32 * EPS


# --- moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", [1.0, -1.0], ids=["rising", "falling"])
def test_moments_of_euler_maruyama(span: float) -> None:
    """Mean and mean square are known exactly for a step of each size: (1 + a h), (1 + a h)^2 + b^2 |h|."""
    paths, n, a, b = 20_000, 16, 0.5 * span, 0.4
    grid, u0 = pr.TimeGrid.uniform(0.0, span, 4, 4), torch.ones(paths, dtype=torch.float64)
    h = span / n
    geometric = pr.SDE(lambda t, u: a * u, lambda t, u: b * u, generator=seeded(4))
    u = pr.serial(geometric, u0, grid, fine=pr.EulerMaruyama()).u
    mean, square = (1 + a * h) ** n, ((1 + a * h) ** 2 + b**2 * abs(h)) ** n
    assert abs(float(u.mean()) - mean) <= 4 * sqrt((square - mean**2) / paths)
    assert abs(float(u.square().mean()) - square) <= 4 * float(u.square().std()) / sqrt(paths)
    relaxing = pr.SDE(lambda t, u: -a * u, lambda t, u: torch.full_like(u, b), noise="additive", generator=seeded(4))
    u = pr.serial(relaxing, u0, grid, fine=pr.EulerMaruyama()).u
    factor = (1 - a * h) ** 2
    mean, variance = (1 - a * h) ** n, b**2 * abs(h) * (1 - factor**n) / (1 - factor)
    assert abs(float(u.mean()) - mean) <= 4 * sqrt(variance / paths)
    assert abs(float(u.var()) - variance) <= 4 * variance * sqrt(2 / paths)


# --- laws of Parareal ------------------------------------------------------------------------------------------------


NEVER = pr.Tolerance(rtol=0.0, atol=0.0)
SCHEDULES = st.sampled_from((pr.Barrier(), pr.Wavefront(), pr.Windowed(1), pr.Windowed(2)))


def solve(case: Case, **options: Any) -> pr.Solution:
    if isinstance(options.get("schedule"), pr.Windowed):  # no wider than the grid
        options["schedule"] = pr.Windowed(min(options["schedule"].width, case.grid.num_slices))
    return pr.solve(
        case.problem,
        case.u0,
        case.grid,
        fine=case.fine,
        samples=case.samples,
        **{"coarse": case.coarse, "stop": NEVER, **options},
    )


@given(stochastic(), SCHEDULES)
def test_finite_termination_is_bit_for_bit(case: Case, schedule: pr.Schedule) -> None:
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine, samples=case.samples, executor=pr.Serial())
    sol = solve(case, schedule=schedule, executor=pr.Serial())
    assert equal(sol.us, ref.us)
    assert equal(part(ref.us, 0), case.u0)
    assert size(ref.u) > 0.0


@given(stochastic(min_slices=2), st.integers(1, 4), st.sampled_from((pr.Barrier(), pr.Wavefront())))
def test_after_k_iterations_k_slices_are_final(case: Case, k: int, schedule: pr.Schedule) -> None:
    k = min(k, case.grid.num_slices)
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine, samples=case.samples, executor=pr.Serial())
    sol = solve(case, schedule=schedule, executor=pr.Serial(), stop=pr.Iterations(k))
    assert equal(part(sol.us, slice(k + 1)), part(ref.us, slice(k + 1)))


@given(
    stochastic(), SCHEDULES, st.sampled_from((pr.Identity(), pr.Zero(), pr.LinearFlow(0.9), pr.Secant(pr.Identity())))
)
def test_other_corrections_end_in_the_same_path(case: Case, schedule: pr.Schedule, coarse: pr.Correction) -> None:
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine, samples=case.samples, executor=pr.Serial())
    assert equal(solve(case, schedule=schedule, executor=pr.Serial(), coarse=coarse).us, ref.us)


@given(stochastic(), SCHEDULES, st.sampled_from((None, 1, 2)))
def test_batches_see_the_same_noise(case: Case, schedule: pr.Schedule, lanes: int | None) -> None:
    ref = pr.serial(case.problem, case.u0, case.grid, fine=case.fine, samples=case.samples, executor=pr.Serial())
    sol = solve(case, schedule=schedule, executor=pr.Batched(lanes))
    eps = torch.finfo(pytree.tree_leaves(case.u0)[0].dtype).eps
    steps = case.grid.num_slices * (case.fine.steps or 5)
    # Rounding in the stages of each step, enlarged by at most exp of the Lipschitz constant, 4, and noise over 1.
    assert distance(sol.us, ref.us) <= 32 * steps * eps * exp(6) * (1 + size(ref.us))


@given(stochastic(), st.permutations(range(3)))
def test_samples_do_not_see_each_other(case: Case, order: list[int]) -> None:
    """Each has a generator of its own: what it gets does not depend on who is solved beside it, nor where."""
    u0 = case.u0 if case.samples else on_leaves(lambda leaf: torch.stack([leaf, 0.5 * leaf, -leaf]), case.u0)

    def run(chosen: list[int]) -> Any:
        problem = pr.SDE(
            case.problem.drift,
            case.problem.diffusion,
            case.problem.noise,
            case.problem.calculus,
            channels=case.problem.channels,
            generator=[seeded(i) for i in chosen],
        )
        chosen_u0 = on_leaves(lambda leaf: leaf[chosen], u0)
        return pr.solve(
            problem,
            chosen_u0,
            case.grid,
            fine=case.fine,
            coarse=case.coarse,
            samples=True,
            executor=pr.Serial(),
            stop=pr.Tolerance(1e-6, 1e-8, freeze=True),
            schedule=pr.Windowed(min(2, case.grid.num_slices)),
        ).us

    together = run([0, 1, 2])
    shuffled, alone = run(order), run(order[:1])
    assert equal(shuffled, on_leaves(lambda leaf: leaf[:, order], together))
    assert equal(alone, on_leaves(lambda leaf: leaf[:, order[:1]], together))


def test_one_generator_for_all_samples_numbers_them() -> None:
    u0, grid = torch.ones(4, 2, dtype=torch.float64), pr.TimeGrid.uniform(0.0, 1.0, 3, 2)

    def run(u0: Tensor, **options: Any) -> Tensor:
        problem = pr.SDE(lambda t, u: -u, lambda t, u: 0.3 * u, generator=seeded(1))
        return pr.serial(problem, u0, grid, fine=pr.Milstein(), executor=pr.Serial(), **options).u

    four = run(u0, samples=True)
    assert torch.equal(run(u0[:2], samples=True), four[:2])
    assert torch.equal(run(u0[0]), four[0])  # one system is sample 0
    assert len(torch.unique(four)) == 8


# --- what is counted -------------------------------------------------------------------------------------------------

N, S = 6, 5
GRID = pr.TimeGrid.uniform(0.0, 1.0, N, S)
U0 = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)


@pytest.mark.parametrize("k", range(1, N + 1))
def test_rounds_of_euler_maruyama(k: int) -> None:
    """The first evaluation of a slice is shared, and noise is free."""
    for schedule, rounds in ((pr.Barrier(), N + k * (N + S - 1) - k * (k + 1) // 2), (pr.Wavefront(), k * S + N - k)):
        sol = pr.solve(
            pr.SDE(lambda t, u: -u, lambda t, u: 0.3 * u),
            U0,
            GRID,
            fine=pr.EulerMaruyama(),
            coarse=pr.EulerMaruyama(),
            schedule=schedule,
            stop=pr.Iterations(k),
        )
        assert sol.stats.rounds == rounds


@pytest.mark.parametrize(
    ("method", "noise", "drifts", "diffusions"),
    [
        (pr.EulerMaruyama(), "diagonal", 1, 1),
        (pr.Milstein(), "diagonal", 1, 2),
        (pr.Milstein(), "additive", 1, 1),  # nothing to correct
        (pr.SRA1(), "additive", 2, 2),
        (pr.Heun(), "additive", 2, 2),
    ],
)
def test_evaluations_are_as_declared(method: pr.Integrator, noise: Any, drifts: int, diffusions: int) -> None:
    calls = {"drift": 0, "diffusion": 0}

    def count(name: str) -> FUNCTION:
        def f(t: Tensor, u: Tensor) -> Tensor:
            calls[name] += 1
            return torch.full_like(u, 0.2)

        return f

    problem = pr.SDE(count("drift"), count("diffusion"), noise, batching="loop")
    sol = pr.serial(problem, U0, GRID, fine=method)
    assert calls == {"drift": drifts * N * S, "diffusion": diffusions * N * S}
    bound = method.bind(problem.bind(U0, GRID, method), U0, GRID)
    assert sol.stats.evaluations == sol.stats.rounds == N * S * bound.evaluations


# --- problems --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [None, 2])
def test_batchings_agree(channels: int | None) -> None:
    """With data of each sample, which both functions are given, and a path of its own for each."""
    rates, u0 = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64), make_state("matrix", torch.float64, 2, (3,))[:, 0]

    def drift(t: Tensor, u: Tensor, rows: Tensor) -> Tensor:
        return -rows[..., None] * u * torch.cos(t).reshape(-1, *[1] * (u.ndim - 1) if t.ndim else ())

    def diffusion(t: Tensor, u: Tensor, rows: Tensor) -> Tensor:
        g = rows[..., None] * (0.1 + 0.2 * u)
        return g if channels is None else torch.stack([g, 0.5 * g.flip(-1)], -1)

    runs = []
    for batching in ("vmap", "native", "fold", "loop"):
        problem = pr.SDE(
            drift,
            diffusion,
            "diagonal" if channels is None else "general",
            batching=batching,  # type: ignore[arg-type]
            per_sample=rates,
            channels=channels,
            generator=seeded(6),
        )
        options = {"fine": pr.EulerMaruyama(), "coarse": pr.EulerMaruyama(), "samples": True, "stop": pr.Iterations(2)}
        runs.append(pr.solve(problem, u0, GRID, **options).us)
        assert distance(runs[-1], runs[0]) <= 64 * N * S * EPS
    assert distance(runs[0][-1], u0) > 0.05


def test_a_problem_keeps_its_path() -> None:
    problem = pr.SDE(lambda t, u: -u, lambda t, u: 0.3 * u)
    state = torch.get_rng_state()
    first = pr.serial(problem, U0, GRID, fine=pr.Milstein())
    assert equal(first.us, pr.serial(problem, U0, GRID, fine=pr.Milstein()).us)
    assert torch.equal(torch.get_rng_state(), state), "a solve draws nothing"
    assert problem.path is None
    assert not equal(
        first.us, pr.serial(pr.SDE(lambda t, u: -u, lambda t, u: 0.3 * u), U0, GRID, fine=pr.Milstein()).us
    )


def test_seeds_come_from_the_generator_or_from_torch() -> None:
    def end(**options: Any) -> Tensor:
        return pr.serial(pr.SDE(lambda t, u: -u, lambda t, u: 0.3 * u, **options), U0, GRID, fine=pr.Milstein()).u

    with torch.random.fork_rng():
        torch.manual_seed(3)
        ends = [end(), end()]
        torch.manual_seed(3)
        assert torch.equal(end(), ends[0])
        assert not torch.equal(ends[0], ends[1])
    assert torch.equal(end(generator=seeded(3)), end(generator=[seeded(3)]))
    assert not torch.equal(end(generator=seeded(3)), end(generator=seeded(4)))


def falls(t: Tensor, u: Tensor) -> Tensor:
    return -u


def test_problems_travel_with_their_path() -> None:
    problem = pr.SDE(falls, falls, generator=seeded(0))
    twin = pickle.loads(pickle.dumps(problem))
    assert equal(*(pr.serial(p, U0, GRID, fine=pr.Milstein()).us for p in (problem, twin)))


def test_a_step_by_hand() -> None:
    """The steps of the public protocol, answered one by one."""
    problem = pr.SDE(lambda t, u: -u, lambda t, u: 0.3 * u, generator=seeded(9)).bind(U0, GRID, pr.EulerMaruyama())
    stages = pr.EulerMaruyama().step(problem, GRID.points[:1], GRID.points[1:2], U0[None])
    noise, *where = next(stages)
    assert noise.free
    dw = noise(*where)
    terms, *where = stages.send(dw)
    with pytest.raises(StopIteration) as end:
        stages.send(terms(*where))
    h = float(GRID.points[1])
    assert distance(end.value.value[0], U0 - h * U0 + 0.3 * U0 * dw[0]) <= 4 * EPS
    assert torch.equal(
        end.value.value[0], pr.serial(problem, U0, pr.TimeGrid.from_edges(GRID.points[:2]), fine=pr.EulerMaruyama()).u
    )


@given(stochastic(), st.sampled_from((None, 1, 2, 3)))
def test_how_many_atoms_a_step_has_is_known_in_advance(case: Case, steps: int | None) -> None:
    """On a device nobody counts: what is reckoned from the grid must do for fine steps and for coarse ones."""
    problem = case.problem.bind(case.u0, case.grid, case.fine)
    most, path = problem.most_atoms(steps), problem.path
    assert path is not None
    assert most is not None
    edges, slices = case.grid.edges, case.grid.num_slices
    left, right = edges[:-1, None], edges[1:, None]
    uniform = left + (right - left) * (torch.arange((steps or 1) + 1, dtype=torch.float64) / (steps or 1))
    meshes = [(uniform[:, :-1].flatten(), uniform[:, 1:].flatten().clone())]
    meshes[0][1].reshape(slices, -1)[:, -1] = edges[1:]
    meshes += [(case.grid.points[:-1], case.grid.points[1:])] if steps is None else []
    for t0, t1 in meshes:
        like = torch.zeros(len(t0), 2, dtype=torch.float64)
        assert equal(path.increments(t0, t1, like, most=most), path.increments(t0, t1, like))
    assert most <= max(case.grid.steps_per_slice) * 3 + 2


def test_a_finer_path_is_shared_by_step_sizes() -> None:
    """Refining the steps converges to one limit; a path of each step size's own would not."""
    path = pr.BrownianPath(torch.linspace(0.0, 1.0, 257, dtype=torch.float64), seed=1)
    problem = pr.SDE(lambda t, u: -u, lambda t, u: 0.5 * u, path=path)
    ends = [
        pr.serial(problem, U0, pr.TimeGrid.uniform(0.0, 1.0, n), fine=pr.Milstein()).u for n in (16, 32, 64, 128, 256)
    ]
    gaps = [distance(u, ends[-1]) for u in ends[:-1]]
    assert gaps[0] > 3 * gaps[2]
    assert gaps[0] < 0.05


# --- what is wrong is said -------------------------------------------------------------------------------------------


def plain(t: Tensor, u: Any) -> Any:
    return on_leaves(lambda x: 0.5 * x, u)


def sde(noise: Any = "diagonal", diffusion: Any = plain, **options: Any) -> pr.SDE:
    return pr.SDE(options.pop("drift", plain), diffusion, noise, **options)


def run(problem: Any, method: Any = None, **options: Any) -> Any:
    return pr.serial(problem, U0, GRID, fine=method or pr.EulerMaruyama(), **options)


def parallel(problem: Any, coarse: Any) -> Any:
    return pr.solve(problem, U0, GRID, fine=pr.Milstein(), coarse=coarse)


def frozen(size: int, **options: Any) -> pr.FrozenPath:
    return pr.FrozenPath(GRID.points, torch.ones(N * S, size), **options)


CLOCKED = pr.BrownianPath(GRID.points, clock=lambda t: 2 * t)


def wide(t: Tensor, u: Tensor) -> Tensor:
    return u.unsqueeze(-1).expand(*u.shape, 2)


BAD: list[tuple[Callable[[], Any], type[Exception], list[str]]] = [
    (lambda: pr.SDE(1, plain), TypeError, ["drift is an int", "drift(t, u)"]),
    (lambda: pr.SDE(plain, None), TypeError, ["diffusion is None", "diffusion(t, u)"]),
    (lambda: sde("white"), ValueError, ["noise='white'", "'diagonal', 'scalar', 'additive', 'general'"]),
    (lambda: sde(calculus="Ito"), ValueError, ["calculus='Ito'", "'ito', 'stratonovich'"]),
    (lambda: sde(batching="none"), ValueError, ["batching='none'"]),
    (lambda: sde("general"), ValueError, ["without channels", "channels=2"]),
    (lambda: sde("general", channels=0), ValueError, ["channels=0", "at least 1"]),
    (lambda: sde("general", channels=1.5), TypeError, ["channels=1.5"]),
    (lambda: sde(channels=2), ValueError, ["channels=2", "noise='diagonal'", 'noise="general"']),
    (lambda: sde("scalar", channels=2), ValueError, ["noise='scalar'", "the whole state"]),
    (lambda: sde(per_sample=[1.0]), TypeError, ["per_sample holds a float"]),
    (lambda: sde(generator=3), TypeError, ["generator is an int", "manual_seed"]),
    (lambda: sde(generator=[seeded(0), 3]), TypeError, ["generator is an int"]),
    (lambda: sde(path=GRID.points), TypeError, ["path is a Tensor", "pr.BrownianPath"]),
    (lambda: sde(path=pr.BrownianPath(GRID.points), generator=seeded(0)), ValueError, ["generator came with path"]),
    (lambda: run(sde(generator=[seeded(0)] * 2)), ValueError, ["2 seeds or generators", "samples=True"]),
    (lambda: run(sde(generator=[seeded(0)] * 2), samples=True), ValueError, ["2 seeds or generators for 3 samples"]),
    (lambda: run(sde(path=pr.BrownianPath(GRID.points * 0.5))), ValueError, ["do not lie on the path", "grid.points"]),
    (lambda: run(sde(path=pr.BrownianPath(GRID.points.flip(0)))), ValueError, ["in its direction"]),
    (lambda: run(sde(path=frozen(2))), ValueError, ["(2,)", "(3,)"]),
    (lambda: run(sde(path=frozen(2, samples=True)), samples=True), ValueError, ["2 samples", "3 samples"]),
    (lambda: run(sde(drift=lambda t, u: u[:2])), ValueError, ["drift(t, u) returned shape (2,)"]),
    (lambda: run(sde(drift=lambda t, u: u.float())), TypeError, ["drift(t, u)", "float32"]),
    (lambda: run(sde(drift=lambda t, u: 1.0, batching="loop")), TypeError, ["drift(t, u) returned a float"]),
    (lambda: run(sde(diffusion=wide)), ValueError, ["diffusion(t, u) returned shape (3, 2)", "noise='diagonal'"]),
    (lambda: run(sde("scalar", wide)), ValueError, ["noise='scalar'", 'noise="general" with channels=2']),
    (lambda: run(sde("additive", wide)), ValueError, ['noise="additive" with channels=2']),
    (lambda: run(sde("general", wide, channels=3)), ValueError, ["expected (3, 3)", "3 channels"]),
    (lambda: run(sde("general", plain, channels=3)), ValueError, ["returned shape (3,)", "expected (3, 3)"]),
    (lambda: run(sde(diffusion=lambda t, u: torch.ones((), dtype=u.dtype))), ValueError, ["shape ()", "full_like"]),
    (lambda: run(sde(diffusion=lambda t, u: u.float())), TypeError, ["diffusion(t, u)", "float32"]),
    (lambda: run(sde(diffusion=lambda t, u: (u, u))), TypeError, ["diffusion(t, u) returned a tuple of 2"]),
    (lambda: run(sde(drift=lambda t, u: u.neg_())), ValueError, ["drift or diffusion changed the state"]),
    (lambda: run(sde(), pr.RK4()), ValueError, ["RK4", "the problem is an SDE", "pr.EulerMaruyama()", "pr.Heun()"]),
    (lambda: run(pr.ODE(plain), pr.Milstein()), ValueError, ["for an SDE", "the problem is an ODE", "pr.RK4()"]),
    (lambda: parallel(sde(), pr.Euler()), ValueError, ["coarse", "Euler", "an SDE"]),
    (lambda: parallel(sde(), pr.Jacobian()), ValueError, ["Jacobian", "SDE"]),
    (lambda: run(sde(calculus="stratonovich")), ValueError, ["EulerMaruyama", "Stratonovich", "pr.Heun()", "dg/du"]),
    (lambda: run(sde(), pr.Heun()), ValueError, ["Heun(steps=None)", "Ito", "pr.Milstein()", "dg/du"]),
    (lambda: run(sde("general", wide, channels=2), pr.Milstein()), ValueError, ["general noise", "pr.EulerMaruyama()"]),
    (lambda: run(sde(), pr.SRA1()), ValueError, ["additive noise", "noise='diagonal'", "pr.Milstein()"]),
    (lambda: run(sde("additive", path=frozen(3)), pr.SRA1()), ValueError, ["no areas"]),
    (lambda: run(sde("additive", path=CLOCKED), pr.SRA1()), ValueError, ["clock=None"]),
    (lambda: sde().increments()(GRID.points[:1], GRID.points[1:2], U0[None]), ValueError, ["no path yet", "bind"]),
    (lambda: pr.Milstein(steps=0), ValueError, ["steps=0"]),
    (lambda: pr.SRA1(steps=2.0), TypeError, ["steps=2.0"]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "words"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_what_is_wrong_is_said(make: Callable[[], Any], error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)
