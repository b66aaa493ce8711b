"""Samplers with noise in every step, and the reverse SDE.

Witnesses: the schedulers of diffusers, fed the same normals; the exact distribution of Gaussian data; the formulas of
arXiv 2011.13456.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from diffusion.cases import alphas_cumprod, mixture, normals, relative
from scipy import stats
from torch import Tensor

import diffusion_adapters as da
import parareal as pr
from diffusion_adapters.equations._reverse_sde import NoisyFlow, noisy

EPS = float(torch.finfo(torch.float64).eps)
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # those of Stable Diffusion
NOISE = normals(2, 3, 4)
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "velocity"}
DTYPES = [torch.float32, torch.float64]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tolerance(dtype: torch.dtype) -> float:
    """Their noise levels are float32 whatever the sample is."""
    return 1e-5 if dtype == torch.float32 else 5e-6


def network(x: Tensor, t: Tensor) -> Tensor:
    """Nonlinear in x and smooth in t."""
    phase = t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype) / 200
    return 0.7 * x + 0.3 * torch.sin(3 * x) + 0.2 * torch.cos(phase) * x.flip(-1)


# --- the schedulers of diffusers -------------------------------------------------------------------------------------

diffusers = pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.algorithm_type.*dpmsolver:FutureWarning"),
]


def noisy_flow(scheduler: Any, levels: Tensor) -> tuple[da.ProbabilityFlow, pr.TimeGrid]:
    """A model called with the timesteps of the scheduler, on the grid of its noise levels, with a path beside it."""
    prediction = PREDICTIONS[scheduler.config.prediction_type]
    flow = prediction == "velocity"
    schedule: da.NoiseSchedule = da.Flow() if flow else da.Discrete(scheduler.alphas_cumprod.double())

    def at_their_timesteps(x: Tensor, t: Tensor) -> Tensor:
        level = t.double() if flow else schedule.s(t.double())
        return network(x, scheduler.timesteps[(level[:, None] - levels[None, :-1]).abs().argmin(1)])

    model = da.DiffusionModel(at_their_timesteps, schedule, prediction=prediction)
    return noisy(da.probability_flow(model), seeded(3)), pr.TimeGrid.from_points(levels, slices=len(levels) - 1)


def ours(flow: da.ProbabilityFlow, grid: pr.TimeGrid, method: pr.Integrator, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The sample, and the normals of all steps."""
    u = flow.from_x(grid.points[0], x)
    bound = flow.problem.bind(u, grid, method)
    edges = zip(grid.points[:-1], grid.points[1:], strict=True)
    drawn = [bound.normals(t0.reshape(1), t1.reshape(1), u[None])[0] for t0, t1 in edges]
    return flow.to_x(grid.points[-1], pr.serial(flow.problem, u, grid, fine=method).u), drawn


def assert_agree(a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    assert a.dtype == b.dtype == dtype
    assert torch.isfinite(b).all()
    assert float((a - b).norm() / b.norm()) <= tolerance(dtype)


def ratios(scheduler: Any) -> Tensor:
    """sigma/alpha at the timesteps, and without noise at last."""
    kept = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    return torch.cat([((1 - kept) / kept).sqrt(), torch.zeros(1, dtype=torch.float64)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eta", [0, 0.3, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.sweep(9)
def test_ancestral_is_ddim_with_noise(prediction: str, eta: float, dtype: torch.dtype) -> None:
    scheduler = diffusers.DDIMScheduler(trained_betas=BETAS.numpy(), prediction_type=prediction, clip_sample=False)
    scheduler.set_timesteps(20)
    x = NOISE.to(dtype)
    result, drawn = ours(*noisy_flow(scheduler, ratios(scheduler)), da.Ancestral(eta), x)
    for t, xi in zip(scheduler.timesteps, drawn, strict=True):
        noise = {"variance_noise": xi} if eta else {}
        x = scheduler.step(network(x, t.expand(len(x))), t, x, eta=eta, **noise).prev_sample
    assert_agree(result, x, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("method", [da.Ancestral(), da.SDEDPMSolverPP(1)], ids=repr)
def test_ancestral_is_ddpm(
    method: pr.Integrator, prediction: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = diffusers.DDPMScheduler(
        trained_betas=BETAS.numpy(), prediction_type=prediction, clip_sample=False, variance_type="fixed_small"
    )
    scheduler.set_timesteps(50)
    x = NOISE.to(dtype)
    result, drawn = ours(*noisy_flow(scheduler, ratios(scheduler)), method, x)
    for t, xi in zip(scheduler.timesteps, drawn, strict=True):
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, xi=xi, **k: xi)
        x = scheduler.step(network(x, t.expand(len(x))), int(t), x).prev_sample
    assert_agree(result, x, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ancestral_is_euler_ancestral(prediction: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(trained_betas=BETAS.numpy(), prediction_type=prediction)
    scheduler.set_timesteps(20)
    levels = scheduler.sigmas.double()
    flow, grid = noisy_flow(scheduler, levels)
    result, drawn = ours(flow, grid, da.Ancestral(), flow.to_x(grid.points[0], NOISE.to(dtype)))
    z = NOISE.to(dtype)
    for t, xi in zip(scheduler.timesteps, drawn, strict=True):
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor", lambda *a, xi=xi, **k: xi
        )
        value = network(scheduler.scale_model_input(z, t), t.expand(len(z)))
        z = scheduler.step(value, t, z).prev_sample
    assert_agree(result, z, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("prediction", "grid", "final"),  # where a grid has its last level twice, it must end at zero: a step has no length
    [
        *((p, "uniform", final) for p in ("epsilon", "v_prediction") for final in ("zero", "sigma_min")),
        *((p, "karras", "zero") for p in ("epsilon", "v_prediction")),
        ("flow_prediction", "flow", "zero"),
    ],
)
@pytest.mark.parametrize(("order", "rule"), [(1, "midpoint"), (2, "midpoint"), (2, "heun")])
@pytest.mark.parametrize("steps", [12, 20])  # below and above the 15 steps up to which they lower the final order
@pytest.mark.sweep(10)
def test_sde_dpm_solver(
    steps: int, order: int, rule: str, prediction: str, grid: str, final: str, dtype: torch.dtype
) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=BETAS.numpy(),
        prediction_type=prediction,
        algorithm_type="sde-dpmsolver++",
        solver_order=order,
        solver_type=rule,
        final_sigmas_type=final,
        **{"uniform": {}, "karras": {"use_karras_sigmas": True}, "flow": {"use_flow_sigmas": True}}[grid],
    )
    scheduler.set_timesteps(steps)
    x = NOISE.to(dtype)
    method = da.SDEDPMSolverPP(order, rule, lower_order_final=steps < 15)
    result, drawn = ours(*noisy_flow(scheduler, scheduler.sigmas.double()), method, x)
    for t, xi in zip(scheduler.timesteps, drawn, strict=True):
        x = scheduler.step(network(x, t.expand(len(x))), t, x, variance_noise=xi).prev_sample
    assert_agree(result, x, dtype)


# --- sampling --------------------------------------------------------------------------------------------------------

SOLVERS = {
    "ancestral": da.Ancestral(),
    "ancestral 0.4": da.Ancestral(0.4),
    "sde-dpm++": da.SDEDPMSolverPP(1),
    "sde-dpm++2m": da.SDEDPMSolverPP(2),
    "heun": da.SDEDPMSolverPP(2, "heun", lower_order_final=True),
    "restart": da.SDEDPMSolverPP(2, restart=True),
}
MODEL = mixture().model(da.VP())
SHAPE = (5, 4)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.sweep(2)
def test_the_samples_are_the_same_however_they_are_drawn(name: str) -> None:
    solver, options = SOLVERS[name], {"steps": 24, "slices": 6, "rtol": 1e-7}
    noise = normals(*SHAPE)
    ref = da.sample(MODEL, noise, solver=solver, generator=seeded(), parallel=False, **options).samples
    ways: list[dict[str, Any]] = [
        {},
        {"width": 3},
        {"schedule": pr.Wavefront()},
        {"executor": pr.Batched(max_lanes=4)},
        {"executor": pr.Serial()},
        {"coarse": "same"},
        {"coarse": "none"},
        {"coarse": "gaussian", "schedule": pr.Barrier()},
    ]
    for way in ways:
        out = da.sample(MODEL, noise, solver=solver, generator=seeded(), **{**options, **way})
        assert out.solution.converged
        assert relative(out.samples, ref) <= 1e-6, way
    other = da.sample(MODEL, noise, solver=solver, generator=seeded(1), parallel=False, **options).samples
    assert relative(other, ref) > 1e-2


@pytest.mark.parametrize("name", SOLVERS)
def test_with_no_tolerance_it_is_the_serial_sampler_bit_for_bit(name: str) -> None:
    options: dict[str, Any] = {"steps": 12, "slices": 4, "solver": SOLVERS[name], "executor": pr.Serial()}
    ref = da.sample(MODEL, SHAPE, generator=seeded(), parallel=False, **options).samples
    assert torch.isfinite(ref).all()
    for coarse in ("gaussian", "same", "none"):
        out = da.sample(MODEL, SHAPE, generator=seeded(), coarse=coarse, rtol=0.0, **options)
        assert torch.equal(out.samples, ref)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_sample_with_a_generator_of_its_own_is_the_same_alone(name: str, parallel: bool) -> None:
    options: dict[str, Any] = {"steps": 16, "solver": SOLVERS[name], "parallel": parallel, "rtol": 1e-6, "slices": 4}
    together = da.sample(MODEL, SHAPE, generator=[seeded(i) for i in range(5)], **options).samples
    for i in (0, 3):
        alone = da.sample(MODEL, (1, 4), generator=[seeded(i)], **options).samples
        assert relative(alone, together[i : i + 1]) <= 64 * torch.finfo(torch.float32).eps
    assert relative(together[1], together[2]) > 1e-2
    noise = normals(*SHAPE)
    given = da.sample(MODEL, noise, generator=[seeded(i) for i in range(5)], **options).samples
    last = da.sample(MODEL, noise[4:], generator=[seeded(4)], **options).samples
    assert relative(last, given[4:]) <= 1e-12


def test_noise_and_a_generator_go_together_for_noisy_solvers_alone() -> None:
    noise = normals(*SHAPE)
    for solver in ("ancestral", "ddpm", "sde-dpm++", "sde-dpm++2m"):
        a, b = (da.sample(MODEL, noise, 8, solver=solver, generator=seeded(7), parallel=False) for _ in range(2))
        assert torch.equal(a.samples, b.samples)
    for solver in ("ddim", "heun", "dpm++2m", pr.ExponentialEuler()):
        with pytest.raises(ValueError, match="noise is a tensor, so that generator has nothing to draw"):
            da.sample(MODEL, noise, 8, solver=solver, generator=seeded())
    with pytest.raises(ValueError, match="4 seeds or generators for 5 samples"):
        da.sample(MODEL, noise, 8, solver="ancestral", generator=[seeded(i) for i in range(4)])
    with pytest.raises(TypeError, match="generator"):
        da.sample(MODEL, noise, 8, solver="ancestral", generator=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: da.Ancestral(1.5), ValueError, ["eta=1.5", "0 (DDIM)", "1 (DDPM)"]),
        (lambda: da.Ancestral(-0.1), ValueError, ["eta=-0.1"]),
        (lambda: da.Ancestral(float("nan")), ValueError, ["eta=nan"]),
        (lambda: da.Ancestral("1"), TypeError, ["eta='1'", "str"]),
        (lambda: da.Ancestral(True), TypeError, ["eta=True", "bool"]),
        (lambda: da.Ancestral(steps=0), ValueError, ["steps=0"]),
        (lambda: da.SDEDPMSolverPP(3), ValueError, ["order=3", "1 ... 2"]),
        (lambda: da.SDEDPMSolverPP(0), ValueError, ["order=0"]),
        (lambda: da.SDEDPMSolverPP(2, "euler"), ValueError, ["rule='euler'", "'midpoint'", "'heun'"]),
    ],
)
def test_what_is_wrong_with_a_method_is_said(make: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("name", SOLVERS)
def test_methods_and_problems_are_plain_values(name: str) -> None:
    method = SOLVERS[name]
    assert pickle.loads(pickle.dumps(method)) == method
    flow = noisy(da.probability_flow(da.DiffusionModel(network, da.VP())), seeded(5))
    again = pickle.loads(pickle.dumps(flow.problem))
    assert isinstance(again, NoisyFlow)
    grid = flow.grid(da.VP().times(8), slices=4)
    a, b = (pr.serial(problem, NOISE, grid, fine=method, samples=True).u for problem in (flow.problem, again))
    assert torch.equal(a, b)
    bound = flow.problem.bind(NOISE, grid, method)
    kept, t0, t1 = pickle.loads(pickle.dumps(bound)), grid.points[:2], grid.points[4:6]
    lanes = torch.stack([NOISE, NOISE])
    assert torch.equal(kept.normals(t0, t1, lanes), bound.normals(t0, t1, lanes))
    assert kept.most == bound.most == 2


# --- noise adds up ---------------------------------------------------------------------------------------------------


def drive(method: Any, problem: NoisyFlow, t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
    """One step, every request answered."""
    memory = isinstance(method, pr.Multistep)
    lanes = u[None]
    state = pr.Carried(lanes, method.begin(lanes)) if memory else lanes
    stages = method.step(problem, t0.reshape(1), t1.reshape(1), state, *([1] if memory else []))
    request = next(stages)
    while True:
        try:
            request = stages.send(request[0](*request[1:]))
        except StopIteration as end:
            return (end.value.u if memory else end.value)[0]


@pytest.mark.parametrize("schedule", [da.VP(), da.EDM(), da.Flow(t_max=0.99), da.Flow()], ids=repr)
@pytest.mark.parametrize("method", [da.Ancestral(), da.SDEDPMSolverPP(1)], ids=repr)
def test_one_step_over_a_slice_is_its_fine_steps_where_the_data_are_known(
    method: pr.Integrator, schedule: da.NoiseSchedule
) -> None:
    x0 = torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64)
    model = da.DiffusionModel(lambda x, t: x0.expand_as(x), schedule, prediction="x0")
    flow = noisy(da.probability_flow(model), seeded(2))
    times = schedule.times(12)[:-1]  # not into clean data, which are x0 whatever the noise
    grid = flow.grid(times, slices=11)
    u = normals(2, 3)
    fine = pr.serial(flow.problem, u, grid, fine=method).us
    bound = flow.problem.bind(u, grid, method)
    for a, b in ((0, 11), (2, 9), (5, 6)):
        coarse = drive(method, bound, grid.points[a], grid.points[b], fine[a])
        size = float(fine[a : b + 1].abs().max())
        assert float((coarse - fine[b]).abs().max()) <= 32 * 11 * EPS * size
    sol = pr.solve(
        flow.problem, u, flow.grid(times, slices=3), fine=method, coarse=method, stop=pr.Tolerance(1e-9, 0.0)
    )
    assert sol.iterations == 1


def test_with_less_noise_they_are_near() -> None:
    """Of an eta below 1 only the noise adds up, not what is kept: coarse steps are approximations."""
    model = da.DiffusionModel(lambda x, t: torch.zeros_like(x), da.VP(), prediction="x0")
    flow = noisy(da.probability_flow(model), seeded(2))
    grid = flow.grid(da.VP().times(12)[:-1], slices=11)
    u, method = normals(2, 3), da.Ancestral(0.5)
    fine = pr.serial(flow.problem, u, grid, fine=method).us
    coarse = drive(method, flow.problem.bind(u, grid, method), grid.points[2], grid.points[9], fine[2])
    assert 1e-6 < relative(coarse, fine[9]) < 1


# --- the distribution of the samples ---------------------------------------------------------------------------------

COUNT = 8_000
ONE = da.GaussianMixture(torch.tensor([[1.5]], dtype=torch.float64), 0.3)
TWO = da.GaussianMixture(
    torch.tensor([[-1.0], [1.0]], dtype=torch.float64), torch.tensor([0.04, 0.25]).double(), torch.tensor([1.0, 3.0])
)


def cdf(data: str, x: Any) -> Any:
    if data == "one":
        return stats.norm.cdf(x, 1.5, 0.3**0.5)
    return 0.25 * stats.norm.cdf(x, -1.0, 0.2) + 0.75 * stats.norm.cdf(x, 1.0, 0.5)


def assert_distributed(x: Tensor, data: str) -> None:
    """A test of Kolmogorov and Smirnov, and mean and variance within five standard errors."""
    values = x.flatten().numpy()
    assert stats.kstest(values, lambda at: cdf(data, at)).pvalue > 1e-3
    mean, variance = (1.5, 0.3) if data == "one" else (0.5, 0.25 * 0.04 + 0.75 * 0.25 + 0.75)
    assert abs(values.mean() - mean) <= 5 * (variance / COUNT) ** 0.5
    fourth = ((values - mean) ** 4).mean()
    assert abs(values.var() - variance) <= 5 * ((fourth - variance**2) / COUNT) ** 0.5


@pytest.mark.parametrize(("data", "mixed"), [("one", ONE), ("two", TWO)])
@pytest.mark.parametrize(
    ("solver", "steps"),
    [(da.Ancestral(), 400), (da.Ancestral(0.5), 300), (da.SDEDPMSolverPP(2), 80)],
    ids=["ancestral", "half", "sde-dpm++2m"],
)
def test_samples_are_distributed_like_the_data(
    solver: pr.Integrator, steps: int, data: str, mixed: da.GaussianMixture
) -> None:
    out = da.sample(
        mixed.model(da.VP()), normals(COUNT, 1, seed=4), steps, solver=solver, generator=seeded(9), parallel=False
    )
    assert_distributed(out.samples, data)


@pytest.mark.parametrize(("data", "mixed"), [("one", ONE), ("two", TWO)])
def test_samples_of_the_reverse_sde_too(data: str, mixed: da.GaussianMixture) -> None:
    model = mixed.model(da.VP())
    problem, to_x, from_x = sde = da.reverse_sde(model, seeded(1))
    grid = sde.grid(model.noise_schedule.times(400), slices=1)
    z = from_x(grid.points[0], normals(COUNT, 1, seed=4))
    sol = pr.serial(problem, z, grid, fine=pr.EulerMaruyama(), samples=True)
    assert_distributed(to_x(grid.points[-1], sol.u), data)


# --- the reverse SDE -------------------------------------------------------------------------------------------------


def test_drift_and_diffusion_are_those_of_the_reverse_sde() -> None:
    """dx = (-beta x / 2 - beta score) dt + sqrt(beta) dW, for z = x/alpha over s = sigma/alpha."""
    schedule, data = da.VP(), mixture()
    problem = da.reverse_sde(data.model(schedule)).problem
    t = torch.tensor([0.1, 0.35, 0.8], dtype=torch.float64, requires_grad=True)
    s = schedule.s(t)
    (rate,) = torch.autograd.grad(s.sum(), t)
    alpha, sigma = schedule.alpha(t.detach())[:, None], schedule.sigma(t.detach())[:, None]
    beta = (schedule.beta_min + (schedule.beta_max - schedule.beta_min) * t.detach())[:, None]
    x = normals(3, 4).requires_grad_(True)
    # log density of the noisy mixture, from its definition
    means, variances = data.means * alpha[:, None], data.variances * alpha**2 + sigma**2
    weights = data.weights / data.weights.sum()
    gap = ((x[:, None] - means) ** 2).sum(-1)
    density = (weights.log() - gap / (2 * variances) - 2 * (2 * torch.pi * variances).log()).logsumexp(1)
    (score,) = torch.autograd.grad(density.sum(), x)
    x, s = x.detach(), s.detach()
    z = x / alpha
    # of dz the terms in x cancel: d(1/alpha)/dt = beta / (2 alpha)
    drift = -beta * score / alpha
    diffusion = beta.sqrt() / alpha
    assert relative(problem.drift(s, z) * rate[:, None], drift) <= 1e-12
    assert relative(problem.diffusion(s, z) * rate[:, None].sqrt(), diffusion.expand_as(z)) <= 1e-12
    assert problem.noise == "additive"


@pytest.mark.parametrize(
    "model",
    [
        mixture().model(da.Flow(), "velocity"),
        mixture().model(da.VP.cosine(t_max=1.0), "v"),
        mixture().model(da.Discrete(alphas_cumprod(zero_terminal=True)), "v"),
    ],
    ids=["flow", "cosine", "discrete"],
)
def test_a_schedule_without_signal_has_no_reverse_sde(model: da.DiffusionModel) -> None:
    with pytest.raises(ValueError, match=r"no signal at t_max.*solver=\"ancestral\""):
        da.reverse_sde(model)
    out = da.sample(model, normals(3, 4), 12, solver="ancestral", generator=seeded())  # what it recommends
    assert torch.isfinite(out.samples).all()


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match="model is a function; expected a DiffusionModel"):
        da.reverse_sde(network)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="generator"):
        da.reverse_sde(MODEL, 3)  # type: ignore[arg-type]


def test_the_solvers_of_noise_are_for_noisy_flows() -> None:
    flow = da.probability_flow(MODEL)
    grid = flow.grid(da.VP().times(8), slices=2)
    with pytest.raises(ValueError, match="Ancestral"):
        pr.serial(flow.problem, normals(2, 4), grid, fine=da.Ancestral())
    problem = noisy(flow, seeded()).problem
    t0, t1 = grid.points[:1], grid.points[1:2]
    with pytest.raises(ValueError, match=r"no path yet.*problem\.bind\(u0, grid, fine\)"):
        problem.normals(t0, t1, normals(1, 2, 4))
    assert np.isfinite(float(pr.serial(problem, normals(2, 4), grid, fine=pr.DPMSolverPP(2)).u.sum()))
