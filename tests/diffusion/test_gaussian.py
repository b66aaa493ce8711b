"""The flow of Gaussian data in closed form, against the probability-flow ODE solved another way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusion.cases import SCHEDULES, mixture, normals, relative
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from scipy.integrate import solve_ivp
from torch import Tensor

import diffusion_adapters as da
import parareal as pr
from diffusion_adapters.equations._reverse_sde import NoisyFlow

EPS = torch.finfo(torch.float64).eps
REST = (2, 3, 4)
ELEMENTS = math.prod(REST)


@dataclass(frozen=True)
class At:
    """Slices by their ends."""

    t0: Tensor
    t1: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.t0.shape)

    def column(self, i: int) -> At:
        return At(self.t0[:, i], self.t1[:, i])


# --- kinds of covariance, each with its matrix computed another way ---------------------------------------------------


def random(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def columns(of: Callable[[Any], Any], rest: tuple[int, ...]) -> Tensor:
    """The matrix ``(d, d)`` of a linear function of one sample."""
    eye = np.eye(math.prod(rest)).reshape(-1, *rest)
    return torch.as_tensor(np.stack([np.real(of(e)).reshape(-1) for e in eye], axis=1))


def even(spectrum: Tensor) -> Tensor:
    """The same at opposite frequencies of the last two axes, as spectra of real stationary data are."""
    return (spectrum + torch.roll(spectrum.flip(-1, -2), (1, 1), (-1, -2))) / 2


def cases() -> dict[str, tuple[dict[str, Any], Tensor]]:
    """What `GaussianFlow` takes, and the covariance ``(d, d)`` that it stands for."""
    each, wide = 0.02 + random(*REST, seed=0), 0.02 + random(*REST, seed=1)
    one = wide[0]
    root = normals(ELEMENTS, ELEMENTS, seed=2) / 4
    full = root @ root.T
    line = 0.02 + random(4, seed=3)

    def filtered(spectrum: Tensor, kind: str) -> Tensor:
        numbers = np.broadcast_to(spectrum.numpy(), REST)
        if kind == "dct":
            return columns(
                lambda e: idctn(numbers * dctn(e, norm="ortho", axes=(-2, -1)), norm="ortho", axes=(-2, -1)), REST
            )
        return columns(lambda e: np.fft.ifft2(numbers * np.fft.fft2(e)), REST)

    return {
        "scalar": ({"variance": 0.3}, 0.3 * torch.eye(ELEMENTS, dtype=torch.float64)),
        "elements": ({"variance": each}, each.flatten().diag()),
        "row": ({"variance": line}, line.expand(REST).flatten().diag()),
        "full": ({"covariance": full}, full),
        "dct": ({"spectrum": one}, filtered(one, "dct")),
        "dct of each channel": ({"spectrum": wide}, filtered(wide, "dct")),
        "fft": ({"spectrum": even(one), "transform": "fft"}, filtered(even(one), "fft")),
        "fft of each channel": ({"spectrum": even(wide), "transform": "fft"}, filtered(even(wide), "fft")),
    }


CASES = cases()
MEAN = normals(*REST, seed=9)


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, covariance): its denoiser, and its probability-flow ODE in x, written out for each schedule."""

    mean: Tensor
    covariance: Tensor

    def x0(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x], one row at a time."""
        c, mean = self.covariance, self.mean.flatten()
        alpha, sigma = alpha.expand(len(x))[:, None, None], sigma.expand(len(x))[:, None, None]
        total = alpha**2 * c + sigma**2 * torch.eye(len(c), dtype=torch.float64)
        offset = x.flatten(1)[..., None] - alpha * mean[:, None]
        return (mean + (alpha * c @ torch.linalg.solve(total, offset))[..., 0]).reshape(x.shape)

    def model(self, schedule: da.NoiseSchedule) -> da.DiffusionModel:
        """Of v = alpha eps - sigma x0, which says all there is at every time."""

        def network(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = schedule.alpha(t.double()), schedule.sigma(t.double())
            c, mean = self.covariance, self.mean.flatten()
            a, s = (level.expand(len(x))[:, None, None] for level in (alpha, sigma))
            total = a**2 * c + s**2 * torch.eye(len(c), dtype=torch.float64)
            solved = torch.linalg.solve(total, x.double().flatten(1)[..., None] - a * mean[:, None])
            x0, eps = mean + (a * c @ solved)[..., 0], (s * solved)[..., 0]
            return (a[..., 0] * eps - s[..., 0] * x0).reshape(x.shape).to(x.dtype)

        return da.DiffusionModel(network, schedule, "v")

    def carry(self, name: str, x: Tensor, start: float, end: float) -> Tensor:
        """x of one sample from time ``start`` to time ``end``, by scipy."""
        c, mean = self.covariance.numpy(), self.mean.flatten().numpy()

        def levels(t: float) -> tuple[float, float, float, float]:
            """alpha, sigma and their derivatives."""
            if name == "flow":
                return 1 - t, t, -1.0, 1.0
            if name == "edm":
                return 1.0, t, 0.0, 1.0
            beta = 0.1 + 19.9 * t
            alpha = math.exp(-0.5 * (0.1 * t + 19.9 * t * t / 2))
            sigma = math.sqrt(1 - alpha * alpha)
            return alpha, sigma, -beta / 2 * alpha, beta / 2 * alpha * alpha / sigma

        def f(t: float, x: Any) -> Any:
            alpha, sigma, alpha_dot, sigma_dot = levels(t)
            solved = np.linalg.solve(alpha**2 * c + sigma**2 * np.eye(len(c)), x - alpha * mean)
            return alpha_dot * (mean + alpha * c @ solved) + sigma_dot * sigma * solved

        done = solve_ivp(f, (start, end), x.flatten().numpy(), method="DOP853", rtol=1e-11, atol=1e-12)
        assert done.success
        return torch.as_tensor(done.y[:, -1]).reshape(x.shape)


def bound(flow: da.GaussianFlow, problem: Any, like: Tensor) -> pr.Correction:
    grid = pr.TimeGrid.uniform(1.0, 0.5, slices=2)
    return flow.bind(problem, like, grid, pr.Euler())


SPANS = {"vp": (0.9, 0.05), "flow": (0.97, 0.02), "edm": (20.0, 0.05)}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize(
    ("name", "coordinates"), [("vp", "ratio"), ("vp", "share"), ("flow", "share"), ("flow", "ratio"), ("edm", None)]
)
@pytest.mark.sweep(15)
def test_the_flow_is_the_solution_of_the_ode(name: str, coordinates: Any, kind: str) -> None:
    """Its guess is the whole flow about the mean, and J carries the difference of two states."""
    options, covariance = CASES[kind]
    data = Gaussian(MEAN, covariance)
    problem, to_x, from_x = da.probability_flow(data.model(SCHEDULES[name]), coordinates)
    start, end = SPANS[name]
    tau0, tau1 = (problem.coordinates.tau(torch.tensor([t], dtype=torch.float64)) for t in (start, end))
    x = normals(2, *REST, seed=4) * SCHEDULES[name].sigma(torch.tensor(start)).item() + MEAN
    ends = torch.stack([data.carry(name, one, start, end) for one in x])
    u0, u1 = from_x(tau0, x), from_x(tau1, ends)

    flow = bound(da.GaussianFlow(mean=MEAN, **options), problem, u0[:1])
    at = At(tau0, tau1)
    guess = flow.guess(at, pr.Known(u0[None], None))
    torch.testing.assert_close(guess[0], u1, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(to_x(tau1, guess[0]), ends, rtol=1e-8, atol=1e-8)
    new, old = pr.Known(u0[None, :1], None), pr.Known(u0[None, 1:], None)
    torch.testing.assert_close(flow.difference(at, new, old)[0], u1[:1] - u1[1:], rtol=1e-8, atol=1e-8)
    # From the data to the noise as well.
    back = flow.guess(At(tau1, tau0), pr.Known(u1[None], None))
    torch.testing.assert_close(back[0], u0, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", CASES)
def test_single_precision_states(kind: str) -> None:
    options, covariance = CASES[kind]
    problem, *_ = da.probability_flow(Gaussian(MEAN, covariance).model(SCHEDULES["vp"]))
    at = At(*(problem.coordinates.tau(torch.tensor([t], dtype=torch.float64)) for t in (0.9, 0.05)))
    u = 30 * normals(1, *REST, seed=4)
    flow = bound(da.GaussianFlow(mean=MEAN, **options), problem, u)
    short = flow.guess(at, pr.Known(u[None].float(), None))
    assert short.dtype == torch.float32
    assert relative(short.double(), flow.guess(at, pr.Known(u[None], None))) < 1e-5


@pytest.mark.parametrize("name", ["vp", "flow"])
def test_agrees_with_the_exact_mixture_of_one(name: str) -> None:
    data = da.GaussianMixture(MEAN[None], 0.3)
    problem, *_ = da.probability_flow(data.model(SCHEDULES[name], "v"))
    start, end = SPANS[name]
    times = torch.linspace(start, end, 5, dtype=torch.float64)
    grid = pr.TimeGrid.from_points(problem.coordinates.tau(torch.linspace(start, end, 1001, dtype=torch.float64)), 4)
    u = normals(2, *REST, seed=1)
    exact = pr.serial(problem, u, grid, fine=pr.RK4()).us
    tau = problem.coordinates.tau(times)
    flow = bound(da.GaussianFlow(variance=0.3, mean=MEAN), problem, u[:1])
    guess = flow.guess_run(At(tau[None, :-1], tau[None, 1:]), u[None], ())
    torch.testing.assert_close(guess[0], exact[1:], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("name", ["vp", "edm"])
def test_a_sampler_with_noise_contracts_as_its_steps_do(name: str, eta: float) -> None:
    """On Gaussian data a step with noise is linear, and its factor known: the flow's is that of many small steps."""
    variance, old = 0.3, da.probability_flow(mixture().model(SCHEDULES[name], "v")).problem
    problem = NoisyFlow(old.f, old.batching, old.per_sample, coordinates=old.coordinates, seed=0)
    like = torch.ones(1, 4, dtype=torch.float64)
    flow = da.GaussianFlow(variance=variance).bind(problem, like, None, da.Ancestral(eta))
    start, end = SPANS[name]
    tau = problem.coordinates.tau(torch.linspace(start, end, 20_001, dtype=torch.float64))
    a, b = problem.coordinates.shares(tau)
    (a0, a1), (b0, b1) = (a[:-1], a[1:]), (b[:-1], b[1:])
    x0 = a0 * variance / (a0**2 * variance + b0**2)  # the mean of x0, of a difference of one
    put_back = eta**2 * (1 - (a0 * b1 / (a1 * b0)) ** 2)
    factor = (a1 * x0 + b1 * (1 - put_back).sqrt() * (1 - a0 * x0) / b0).prod()
    got = flow.apply(At(tau[:1], tau[-1:]), like)
    torch.testing.assert_close(got, factor * like, rtol=3e-3, atol=0.0)


# --- rows of slices ---------------------------------------------------------------------------------------------------


def row_of(kind: str, length: int = 5) -> tuple[Any, At, Tensor]:
    options, covariance = CASES[kind]
    problem, *_ = da.probability_flow(Gaussian(MEAN, covariance).model(SCHEDULES["vp"]))
    tau = problem.coordinates.tau(torch.linspace(0.9, 0.1, 2 + length, dtype=torch.float64))
    t = torch.stack([tau[:-1], tau[1:]])  # (2 rows, length + 1)
    at = At(t[:, :-1], t[:, 1:])
    u = 5 * normals(2, 1, *REST, seed=7)
    return bound(da.GaussianFlow(mean=MEAN, **options), problem, u[0]), at, u


@pytest.mark.parametrize("kind", CASES)
def test_rows_are_slice_after_slice(kind: str) -> None:
    flow, at, u = row_of(kind)
    guesses = flow.guess_run(at, u, ())
    one = u
    for i in range(at.shape[1]):
        one = flow.guess(at.column(i), pr.Known(one, None))
        torch.testing.assert_close(guesses[:, i], one, rtol=1e-11, atol=1e-11)
    defects = normals(*at.shape, 1, *REST, seed=8)
    carried = flow.difference_run(at, pr.Sweep(u, defects, None))
    moved = u
    for i in range(at.shape[1]):
        change = flow.apply(at.column(i), moved)
        torch.testing.assert_close(carried[:, i], change, rtol=1e-11, atol=1e-11)
        moved = change + defects[:, i]


@given(
    kind=st.sampled_from(sorted(CASES)),
    name=st.sampled_from(["vp", "flow", "edm", "cosine-to-1"]),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 100),
)
def test_whitening(kind: str, name: str, share: float, seed: int) -> None:
    """Invertible, the dual keeps inner products, and states of the data under noise become unit normals."""
    options, covariance = CASES[kind]
    schedule = SCHEDULES[name]
    problem, *_ = da.probability_flow(Gaussian(MEAN, covariance).model(schedule))
    t = torch.tensor([schedule.t_min + share * (schedule.t_max - schedule.t_min)], dtype=torch.float64)
    tau = problem.coordinates.tau(t)
    flow: Any = bound(da.GaussianFlow(mean=MEAN, **options), problem, normals(1, *REST))
    u, b = normals(1, 1, *REST, seed=seed), normals(1, 1, *REST, seed=seed + 1)
    torch.testing.assert_close(flow.unwhiten(tau, flow.whiten(tau, u)), u, rtol=1e-10, atol=1e-10)
    inner = (flow.dual(tau, b) * flow.whiten(tau, u)).sum()
    torch.testing.assert_close(inner, (b * u).sum(), rtol=1e-8, atol=1e-8)
    a, s = (level.item() for level in problem.coordinates.shares(tau))
    matrix = torch.stack(
        [flow.whiten(tau, e.reshape(1, 1, *REST)).flatten() for e in torch.eye(ELEMENTS, dtype=torch.float64)], 1
    )
    eye = torch.eye(ELEMENTS, dtype=torch.float64)
    unit = matrix @ (a**2 * covariance + s**2 * eye) @ matrix.T
    torch.testing.assert_close(unit, eye, rtol=1e-5, atol=1e-5)


def test_what_leads_on_is_the_last_x0() -> None:
    """Of data in one point, x0 is the same all along: the slices to come are then known exactly, Euler's at that."""
    point = da.GaussianMixture(MEAN[None], 1e-12)
    for name in ("vp", "flow", "edm"):
        model = point.model(SCHEDULES[name], "v")
        problem, *_ = da.probability_flow(model)
        tau = problem.coordinates.tau(model.noise_schedule.times(12))
        u = normals(1, *REST) * (1 + tau[0])
        us = pr.serial(problem, u, pr.TimeGrid.from_points(tau, len(tau) - 1), fine=pr.Euler()).us
        flow = bound(da.GaussianFlow(variance=0.7), problem, u)  # mean and variance play no part
        before = tuple(pr.Edge(tau[n : n + 1], us[n : n + 1]) for n in (3, 2))
        guess = flow.guess_run(At(tau[None, 4:-1], tau[None, 5:]), us[4:5], before)
        torch.testing.assert_close(guess[0], us[5:], rtol=1e-7, atol=1e-7)


def test_what_leads_on_follows_a_gaussian_of_any_mean() -> None:
    """Along its flow x0 is linear in a/(a^2 v + b^2)^(1/2): what is off is Euler's error, and falls with the steps."""
    data = Gaussian(MEAN, 0.3 * torch.eye(ELEMENTS, dtype=torch.float64))
    off = []
    for steps in (100, 200):
        problem, *_ = da.probability_flow(data.model(SCHEDULES["vp"]))
        tau = problem.coordinates.tau(SCHEDULES["vp"].times(steps))
        u = normals(1, *REST) * tau[0]
        us = pr.serial(problem, u, pr.TimeGrid.from_points(tau, len(tau) - 1), fine=pr.Euler()).us
        flow = bound(da.GaussianFlow(variance=0.3), problem, u)
        n = steps // 2
        before = tuple(pr.Edge(tau[i : i + 1], us[i : i + 1]) for i in (n - 1, n - 2))
        guess = flow.guess_run(At(tau[None, n:-1], tau[None, n + 1 :]), us[n : n + 1], before)
        off.append(relative(guess[0, -1], us[-1]))
        # Where there is but one edge in front, it comes twice.
        once = flow.guess_run(At(tau[None, n:-1], tau[None, n + 1 :]), us[n : n + 1], (before[0], before[0]))
        assert bool(torch.isfinite(once).all())
    assert off[1] < 0.6 * off[0] < 0.06


@pytest.mark.parametrize("name", ["vp", "flow", "edm"])
def test_weight_is_how_much_of_x0_enters_a_ddim_step(name: str) -> None:
    point = da.GaussianMixture(torch.ones(1, 1), 1e-14)
    model = point.model(SCHEDULES[name], "v")
    problem, *_ = da.probability_flow(model)
    tau = problem.coordinates.tau(model.noise_schedule.times(10))
    flow: Any = bound(da.GaussianFlow(variance=0.3), problem, torch.zeros(1, 1))
    u = torch.zeros(1, 1, dtype=torch.float64)
    for t0, t1 in pairwise(tau):
        step = pr.serial(problem, u, pr.TimeGrid.from_points(torch.stack([t0, t1])), fine=pr.Euler()).u
        torch.testing.assert_close(flow.weight(At(t0[None], t1[None])), step[0], rtol=1e-9, atol=1e-12)
    clock = flow.clock(tau)
    assert bool((clock.diff() < 0).all())
    assert bool(torch.isfinite(clock).all())


# --- iterations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("name", ["vp", "flow"])
@pytest.mark.sweep(6)
def test_the_right_covariance_needs_no_iterating(name: str, kind: str) -> None:
    options, covariance = CASES[kind]
    problem, *_ = da.probability_flow(Gaussian(MEAN, covariance).model(SCHEDULES[name]))
    points = problem.coordinates.tau(SCHEDULES[name].times(192))
    points = points[(points <= problem.coordinates.tau(torch.tensor(SPANS[name][0]))) & (points > 0.02)]
    grid = pr.TimeGrid.from_points(points, slices=8)
    u = normals(2, *REST) * (1 + points[0])
    ref = pr.serial(problem, u, grid, fine=pr.RK4(), samples=True).us
    sol = pr.solve(
        problem,
        u,
        grid,
        fine=pr.RK4(),
        coarse=da.GaussianFlow(mean=MEAN, **options),
        stop=pr.Tolerance(rtol=1e-4, atol=0.0),
        samples=True,
    )
    assert sol.iterations.max().item() <= 2
    assert relative(sol.us, ref) < 1e-6
    first = sol.history[0].increments.max().item() / u.square().mean().sqrt().item()
    assert first < 1e-3, "the guess was not the flow"


def flow_for_mixtures() -> da.GaussianFlow:
    return da.GaussianFlow(variance=0.3, mean=0.2)


WRAPPERS = {
    "plain": lambda: flow_for_mixtures(),
    "secant": lambda: pr.Secant(flow_for_mixtures()),
    "secant of neighbours": lambda: pr.Secant(flow_for_mixtures(), neighbours=(1, 2, 4)),
    "anderson": lambda: pr.Anderson(flow_for_mixtures()),
    "anderson of secant": lambda: pr.Anderson(pr.Secant(flow_for_mixtures()), memory=1),
    "damped": lambda: pr.Damped(flow_for_mixtures(), theta=0.8),
}
TIMES = [
    pr.Barrier(),
    pr.Wavefront(),
    pr.Windowed(3),
    pr.Windowed(8),
    pr.Windowed(3, initial="hold"),
    pr.Windowed(5, initial="extrapolate"),
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("schedule", TIMES, ids=str)
@pytest.mark.parametrize("name", ["vp", "flow", "cosine-to-1"])
@pytest.mark.sweep(12)
def test_every_schedule_and_wrapper_ends_in_the_serial_solution(name: str, schedule: pr.Schedule, wrapper: str) -> None:
    problem, *_ = da.probability_flow(mixture().model(SCHEDULES[name], "v"))
    grid = pr.TimeGrid.from_points(problem.coordinates.tau(SCHEDULES[name].times(16)), slices=8)
    u = normals(2, 4) * (1 + grid.points[0])
    ref = pr.serial(problem, u, grid, fine=pr.Euler(), samples=True)
    sol = pr.solve(
        problem,
        u,
        grid,
        fine=pr.Euler(),
        coarse=WRAPPERS[wrapper](),
        schedule=schedule,
        stop=pr.Tolerance(rtol=0.0, atol=0.0),
        samples=True,
    )
    assert relative(sol.us, ref.us) < 1e5 * EPS
    assert sol.converged
    assert sol.stats.rounds <= ref.stats.rounds
    assert sol.stats.coarse_evaluations == 0


@pytest.mark.parametrize("name", ["vp", "flow", "flow-shifted", "edm"])
@pytest.mark.parametrize("coarse", [flow_for_mixtures(), pr.Secant(flow_for_mixtures(), neighbours=(1, 2))])
def test_windows_are_accepted_for_good_reason_from_data_to_noise(name: str, coarse: pr.Correction) -> None:
    """A sample's noise, as for editing: there what slices miss leaves the state, and is an error all the same."""
    oracle = mixture()
    flow = da.probability_flow(oracle.model(SCHEDULES[name], "v"))
    grid = flow.grid(SCHEDULES[name].times(50).flip(0), 50)
    u = flow.from_x(grid.points[0], oracle.draw(64, torch.Generator().manual_seed(0)))
    ref = pr.serial(flow.problem, u, grid, fine=pr.Euler(), samples=True).u
    meant, covered = [], []
    for width in (10, 50):
        sol = pr.solve(
            flow.problem,
            u,
            grid,
            fine=pr.Euler(),
            coarse=coarse,
            schedule=pr.Windowed(width),
            stop=pr.Tolerance(rtol=1e-3, atol=0.0),
            samples=True,
        )
        error = (sol.u - ref).square().mean(1).sqrt()
        assert isinstance(sol.error_estimate, Tensor)
        meant += (error <= 1e-3 * ref.square().mean(1).sqrt()).tolist()
        covered += (error <= sol.error_estimate).tolist()
    assert sum(meant) >= 0.95 * len(meant)
    assert sum(covered) >= 0.95 * len(covered)


# --- fit --------------------------------------------------------------------------------------------------------------


def drawn(*rest: int, count: int = 40) -> Tensor:
    """Elements that depend on each other, float32."""
    size = math.prod(rest)
    white = normals(count, size, seed=5)
    return ((white + white.roll(1, 1)) @ (torch.eye(size, dtype=torch.float64) + 0.3) + 1).reshape(count, *rest).float()


@pytest.mark.parametrize("rest", [(5,), (3, 4), REST])
def test_fit_is_what_numpy_finds(rest: tuple[int, ...]) -> None:
    data = drawn(*rest)
    x = data.double().numpy()
    fits = {kind: da.GaussianFlow.fit(data, kind) for kind in ("scalar", "elementwise", "full", "dct", "fft")}
    for flow in fits.values():
        assert flow.mean is not None
        torch.testing.assert_close(flow.mean, torch.as_tensor(x.mean(0)))

    def same(got: Any, expected: Any) -> None:
        torch.testing.assert_close(got, torch.as_tensor(expected), rtol=1e-10, atol=1e-10)

    same(fits["scalar"].variance, x.var(0, ddof=1).mean())
    same(fits["elementwise"].variance, x.var(0, ddof=1))
    same(fits["full"].covariance, np.cov(x.reshape(len(x), -1).T))
    axes = tuple(range(-min(2, len(rest)), 0))
    same(fits["dct"].spectrum, dctn(x, norm="ortho", axes=axes).var(0, ddof=1))
    # Of opposite frequencies together, that of the Hartley transform is that of Fourier's.
    power = (np.abs(np.fft.fftn(x - x.mean(0), norm="ortho", axes=axes)) ** 2).sum(0) / (len(x) - 1)
    spectrum = fits["fft"].spectrum
    assert spectrum is not None
    opposite = torch.roll(spectrum.flip(axes), [1] * len(axes), axes)
    same((spectrum + opposite) / 2, power)
    assert (fits["dct"].transform, fits["fft"].transform) == ("dct", "fft")


@pytest.mark.parametrize(("kind", "case"), [("scalar", "scalar"), ("full", "full"), ("dct", "dct"), ("fft", "fft")])
def test_fit_recovers_the_law_that_data_were_drawn_from(kind: Any, case: str) -> None:
    options, covariance = CASES[case]
    root = torch.linalg.cholesky(covariance + 1e-12 * torch.eye(ELEMENTS, dtype=torch.float64))
    data = MEAN + (normals(20000, ELEMENTS, seed=6) @ root.T).reshape(-1, *REST)
    flow = da.GaussianFlow.fit(data, kind)
    assert flow.mean is not None
    torch.testing.assert_close(flow.mean, MEAN, rtol=0.05, atol=0.05)
    for name in ("variance", "covariance", "spectrum"):
        got, expected = getattr(flow, name), options.get(name)
        if expected is None:
            assert got is None
            continue
        expected = torch.as_tensor(expected, dtype=torch.float64).expand(got.shape)
        assert relative(got, expected) < 0.1


@pytest.mark.parametrize("kind", ["scalar", "elementwise", "full", "dct", "fft"])
def test_a_fit_can_be_used_and_pays(kind: Any) -> None:
    """Also of two samples alone, whose covariance has no inverse."""
    oracle, noise = mixture(), normals(3, 4)
    serial = da.sample(oracle.model(SCHEDULES["vp"], "v"), noise, steps=40, parallel=False)
    for count in (2, 500):
        flow = da.GaussianFlow.fit(oracle.draw(count, torch.Generator().manual_seed(1)), kind)
        out = da.sample(oracle.model(SCHEDULES["vp"], "v"), noise, steps=40, coarse=pr.Secant(flow), rtol=1e-4)
        assert relative(out.samples, serial.samples) < 1e-3
        assert count == 2 or out.solution.stats.rounds <= 10


# --- mistakes ---------------------------------------------------------------------------------------------------------

SQUARE = torch.eye(3)
MADE_WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({}, ValueError, "none of variance, covariance and spectrum came; expected one of the three"),
    ({"variance": 1.0, "spectrum": torch.ones(2)}, ValueError, "variance and spectrum came; expected one"),
    ({"variance": 1.0, "covariance": SQUARE}, ValueError, "variance and covariance came; expected one"),
    ({"variance": -0.1}, ValueError, r"variance holds -0\.1; expected no negative"),
    ({"variance": torch.tensor([0.5, -2.0])}, ValueError, r"variance holds -2\.0"),
    ({"spectrum": torch.tensor([0.5, -2.0])}, ValueError, r"spectrum holds -2\.0"),
    ({"variance": math.nan}, ValueError, "variance holds NaN or Inf"),
    ({"variance": math.inf}, ValueError, "variance holds NaN or Inf"),
    ({"spectrum": torch.tensor([0.5, math.nan])}, ValueError, "spectrum holds NaN or Inf"),
    ({"covariance": SQUARE * math.nan}, ValueError, "covariance holds NaN or Inf"),
    ({"variance": 1.0, "mean": math.nan}, ValueError, "mean holds NaN or Inf"),
    ({"variance": "0.1"}, TypeError, "variance is a str; expected real numbers"),
    ({"variance": True}, TypeError, "variance is a bool; expected real numbers"),
    ({"variance": 1j}, TypeError, "variance is a complex; expected real numbers"),
    ({"variance": [0.1, 0.2]}, TypeError, "variance is a list; expected real numbers"),
    ({"variance": torch.ones(2, dtype=torch.complex64)}, TypeError, r"variance is a tensor of torch\.complex64"),
    ({"covariance": SQUARE > 0}, TypeError, r"covariance is a tensor of torch\.bool"),
    ({"variance": 1.0, "mean": "0"}, TypeError, "mean is a str"),
    ({"covariance": torch.ones(3)}, ValueError, r"covariance has shape \(3,\); expected a square matrix"),
    ({"covariance": torch.ones(3, 4)}, ValueError, r"covariance has shape \(3, 4\); expected a square matrix"),
    ({"covariance": 0.5}, ValueError, r"covariance has shape \(\); expected a square matrix"),
    ({"covariance": SQUARE + torch.ones(3, 3).triu(1)}, ValueError, r"not symmetric; expected C = C\.T"),
    ({"covariance": torch.zeros(()).expand(4097, 4097)}, ValueError, "covariance is 4097 x 4097, too large"),
    ({"spectrum": torch.ones(2), "transform": "dst"}, ValueError, "transform='dst' is unknown; expected one of 'dct'"),
]


@pytest.mark.parametrize(("options", "error", "message"), MADE_WRONG)
def test_mistakes_in_the_making(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        da.GaussianFlow(**options)


DATA = torch.ones(4, 3)
FITTED_WRONG: list[tuple[Any, Any, type[Exception], str]] = [
    ([[1.0], [2.0]], "scalar", TypeError, "data is list; expected a floating-point tensor"),
    (DATA.int(), "scalar", TypeError, r"data is torch\.int32"),
    (DATA.to(torch.complex64), "scalar", TypeError, r"data is torch\.complex64"),
    (DATA[:1], "scalar", ValueError, r"data has shape \(1, 3\); expected at least two samples"),
    (DATA[:0], "scalar", ValueError, r"data has shape \(0, 3\); expected at least two samples"),
    (DATA[:, :0], "scalar", ValueError, r"data has shape \(4, 0\); expected at least two samples"),
    (DATA[:, 0], "scalar", ValueError, r"data has shape \(4,\); expected at least two samples"),
    (DATA, "diagonal", ValueError, "kind='diagonal' is unknown; expected one of 'scalar', 'elementwise', 'full'"),
    (DATA, None, TypeError, "kind is None; expected one of 'scalar', 'elementwise', 'full'"),
    *[
        (DATA * value, kind, ValueError, "data holds NaN or Inf")
        for kind in ("scalar", "full", "dct")
        for value in (math.nan, math.inf)
    ],
]


@pytest.mark.parametrize(("data", "kind", "error", "message"), FITTED_WRONG)
def test_mistakes_in_a_fit(data: Any, kind: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        da.GaussianFlow.fit(data, kind)


BOUND_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"variance": torch.ones(3)}, r"variance has shape \(3,\) and samples have shape \(2, 4\); expected a number"),
    ({"variance": torch.ones(1, 2, 4)}, r"variance has shape \(1, 2, 4\) and samples"),
    ({"variance": 1.0, "mean": torch.ones(4, 2)}, r"mean has shape \(4, 2\) and samples have shape \(2, 4\)"),
    ({"spectrum": torch.ones(2, 3)}, r"spectrum has shape \(2, 3\) and samples"),
    ({"covariance": torch.eye(7)}, r"covariance is over 7 elements; expected 8, those of samples \(2, 4\)"),
    ({"covariance": -torch.eye(8)}, r"covariance has the eigenvalue -1\.0; expected none below 0"),
]


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("wrap", [lambda flow: flow, pr.Secant, pr.Anderson, pr.Damped])
@pytest.mark.parametrize(("options", "message"), BOUND_WRONG)
def test_what_does_not_fit_the_samples_is_refused_before_any_call(
    options: dict[str, Any], message: str, wrap: Any, parallel: bool
) -> None:
    calls: list[Tensor] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return x

    coarse = wrap(da.GaussianFlow(**options))
    with pytest.raises(ValueError, match=message):
        da.sample(da.DiffusionModel(network, da.VP()), (3, 2, 4), coarse=coarse, parallel=parallel)
    assert calls == []


def test_only_for_diffusion() -> None:
    calls: list[Tensor] = []
    problem = pr.ODE(lambda t, u: calls.append(t) or -u)
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4)
    for coarse in (da.GaussianFlow(variance=1.0), pr.Secant(da.GaussianFlow(variance=1.0))):
        with pytest.raises(
            TypeError, match=r"GaussianFlow came with a problem \(ODE\) .*expected the problem of da\.probability_f"
        ):
            pr.solve(problem, torch.ones(2, 3), grid, fine=pr.Euler(), coarse=coarse)
    assert calls == []
    flow, t, u = da.GaussianFlow(variance=1.0), torch.ones(1), torch.ones(1, 2)
    for use in (flow.whiten, flow.unwhiten, flow.dual):
        with pytest.raises(TypeError, match=r"used outside of parareal\.solve; call its bind"):
            use(t, u)


def test_what_may_be_given_besides() -> None:
    """Numbers of NumPy, ints, no variance at all, and a spectrum for a sample of one axis."""
    model, noise = mixture().model(SCHEDULES["flow"], "v"), normals(2, 4)
    serial = da.sample(model, noise, steps=20, parallel=False).samples
    for options in (
        {"variance": 1},
        {"variance": np.float64(0.3), "mean": 0},
        {"variance": 0.0},
        {"variance": torch.tensor([0, 1, 0, 1])},
        {"spectrum": torch.ones(4)},
        {"spectrum": torch.tensor([1.0]), "transform": "fft"},
        {"covariance": torch.zeros(4, 4)},
    ):
        flow = da.GaussianFlow(**options)  # type: ignore[arg-type]
        for coarse in (flow, pr.Secant(flow)):
            out = da.sample(model, noise, steps=20, coarse=coarse, rtol=1e-6)
            assert relative(out.samples, serial) < 1e-5
