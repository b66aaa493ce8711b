"""Exponential integrators as fine solvers agree with the schedulers of diffusers, run sequentially.

The schedulers keep their noise levels in float32, whatever the dtype of the sample: that bounds the agreement. The
network is called with the timesteps that the scheduler passes on, which are rounded on some grids.
"""

from __future__ import annotations

import logging
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity(logging.ERROR)

# Their own calls of numpy, and what they mean to remove.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.algorithm_type.*dpmsolver:FutureWarning"),
]

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # those of Stable Diffusion
NOISE = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
GRIDS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "velocity"}


def network(x: Tensor, t: Tensor) -> Tensor:
    """Nonlinear in x and smooth in t."""
    phase = t.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype) / 200
    return 0.7 * x + 0.3 * torch.sin(3 * x) + 0.2 * torch.cos(phase) * x.flip(-1)


def theirs(scheduler: Any, steps: int, dtype: torch.dtype) -> Tensor:
    scheduler.set_timesteps(steps)
    x = NOISE.to(dtype) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(len(x))), t, x).prev_sample
    return x


def flow_of(scheduler: Any) -> tuple[da.ProbabilityFlow, pr.TimeGrid]:
    """The same ODE on the same grid; a step of no length, which some grids end with, is left out."""
    levels = scheduler.sigmas.double()
    levels = levels[torch.cat([torch.tensor([True]), levels.diff() != 0])]
    prediction = PREDICTIONS[scheduler.config.prediction_type]
    schedule: da.NoiseSchedule = (
        da.Flow() if prediction == "velocity" else da.Discrete(scheduler.alphas_cumprod.double())
    )

    def at_their_timesteps(x: Tensor, t: Tensor) -> Tensor:
        level = t.double() if prediction == "velocity" else schedule.s(t.double())
        nearest = (level[:, None] - levels[None, : len(scheduler.timesteps)]).abs().argmin(1)
        return network(x, scheduler.timesteps[nearest])

    flow = da.probability_flow(da.DiffusionModel(at_their_timesteps, schedule, prediction=prediction))
    return flow, pr.TimeGrid.from_points(levels, slices=len(levels) - 1)


def ours(scheduler: Any, method: pr.Integrator, dtype: torch.dtype) -> Tensor:
    flow, grid = flow_of(scheduler)
    u = flow.from_x(grid.points[0], NOISE.to(dtype))
    return flow.to_x(grid.points[-1], pr.serial(flow.problem, u, grid, fine=method).u)


def assert_agree(
    scheduler: Any, method: pr.Integrator, steps: int, dtype: torch.dtype, tolerance: float | None = None
) -> None:
    expected = theirs(scheduler, steps, dtype)
    error = (ours(scheduler, method, dtype) - expected).norm() / expected.norm()
    assert torch.isfinite(expected).all()
    assert error <= (tolerance or (1e-5 if dtype == torch.float32 else 5e-6)), f"{method!r}: {error:.1e}"


def settings(prediction: str, grid: str, **more: Any) -> dict[str, Any]:
    flow = {"use_flow_sigmas": True} if prediction == "flow_prediction" else GRIDS[grid]
    return {"trained_betas": BETAS.numpy(), "prediction_type": prediction, **flow, **more}


def ends_twice(prediction: str, grid: str) -> bool:
    """Whether a scheduler's grid has its last noise level twice, where it does not end at zero."""
    return grid in ("karras", "exponential") or prediction == "flow_prediction"


CASES = [
    *[(prediction, grid) for prediction in ("epsilon", "v_prediction", "sample") for grid in GRIDS],
    ("flow_prediction", "uniform"),
]
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("prediction", "grid"), CASES)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [12, 20])  # below and above the 15 steps up to which they lower the final order
@pytest.mark.sweep(12)
def test_dpm_solver_multistep(prediction: str, grid: str, order: int, steps: int, dtype: torch.dtype) -> None:
    for final, algorithm, rule in (
        ("zero", "dpmsolver++", "midpoint"),
        ("zero", "dpmsolver++", "heun"),
        ("sigma_min", "dpmsolver++", "midpoint"),
        ("sigma_min", "dpmsolver", "midpoint"),
        ("sigma_min", "dpmsolver", "heun"),
    ):
        scheduler = diffusers.DPMSolverMultistepScheduler(
            **settings(prediction, grid, final_sigmas_type=final),
            solver_order=order,
            algorithm_type=algorithm,
            solver_type=rule,
        )
        make = pr.DPMSolverPP if algorithm == "dpmsolver++" else pr.DPMSolver
        if final == "sigma_min" and ends_twice(prediction, grid):
            continue  # their last step has no length, and gives NaN
        assert_agree(scheduler, make(order, "multistep", rule, lower_order_final=steps < 15), steps, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("prediction", "grid"), [case for case in CASES if case[1] != "trailing"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [12, 19])
@pytest.mark.sweep(8)
def test_dpm_solver_singlestep(prediction: str, grid: str, order: int, steps: int, dtype: torch.dtype) -> None:
    for final, algorithm, rule in (
        ("zero", "dpmsolver++", "midpoint"),
        ("zero", "dpmsolver++", "heun"),
        ("sigma_min", "dpmsolver", "midpoint"),
        ("sigma_min", "dpmsolver", "heun"),
    ):
        scheduler = diffusers.DPMSolverSinglestepScheduler(
            **settings(prediction, grid, final_sigmas_type=final),
            solver_order=order,
            algorithm_type=algorithm,
            solver_type=rule,
        )
        make = pr.DPMSolverPP if algorithm == "dpmsolver++" else pr.DPMSolver
        if final == "sigma_min" and ends_twice(prediction, grid):
            continue  # a group of theirs ends with a step of no length
        lower = final == "zero" or bool(steps % order) or scheduler.config.lower_order_final
        assert_agree(scheduler, make(order, "singlestep", rule, lower_order_final=lower), steps, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("prediction", "grid"), CASES)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.sweep(8)
def test_unipc(prediction: str, grid: str, order: int, dtype: torch.dtype) -> None:
    for final, predicts, variant in (  # with bh1 theirs is NaN where the last noise level is zero
        ("zero", "data", "bh2"),
        ("sigma_min", "data", "bh1"),
        ("sigma_min", "noise", "bh1"),
        ("sigma_min", "noise", "bh2"),
    ):
        if final == "sigma_min" and ends_twice(prediction, grid):
            continue  # their last step has no length, and corrects the state once more
        scheduler = diffusers.UniPCMultistepScheduler(
            **settings(prediction, grid, final_sigmas_type=final),
            solver_order=order,
            predict_x0=predicts == "data",
            solver_type=variant,
        )
        assert_agree(scheduler, pr.UniPC(order, predicts, variant), 12, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("prediction", "grid"), CASES)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [12, 20])
@pytest.mark.sweep(10)
def test_deis(prediction: str, grid: str, order: int, steps: int, dtype: torch.dtype) -> None:
    if ends_twice(prediction, grid) and steps < 15:
        return  # their last step, of order 1, has no length
    scheduler = diffusers.DEISMultistepScheduler(**settings(prediction, grid), solver_order=order)
    # Their weights are differences of numbers that nearly cancel, in float32 whatever the dtype of the sample; ours are
    # checked against the integrals themselves below.
    assert_agree(scheduler, pr.DEIS(order, lower_order_final=steps < 15), steps, dtype, tolerance=1e-4)


def lagrange(s: Any, j: int, nodes: list[Any]) -> Any:
    """The polynomial in log s that is 1 at the j-th node and 0 at the others."""
    value = mpmath.mpf(1)
    for k, node in enumerate(nodes):
        if k != j:
            value *= mpmath.log(s / node) / mpmath.log(nodes[j] / node)
    return value


@pytest.mark.parametrize("schedule", [da.VP(), da.Flow(t_min=1e-3, t_max=0.999), da.EDM()], ids=repr)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_deis_weights_are_the_integrals(order: int, schedule: da.NoiseSchedule) -> None:
    """z = x/alpha grows over a step by the integral over s = sigma/alpha of a polynomial in log s through the noise.

    A model that predicts 1 at a single time shows in each step with what weight that one counts.
    """
    x = torch.linspace(0.0, 1.0, 7, dtype=torch.float64)
    times = schedule.t_max + (schedule.t_min - schedule.t_max) * (0.7 * x + 0.3 * x**2)
    s = [mpmath.mpf(value) for value in schedule.s(times).tolist()]
    for j in range(6):

        def impulse(x: Tensor, t: Tensor, j: int = j) -> Tensor:
            index = (t[:, None] - times[None, :]).abs().argmin(1)
            return (index == j).to(x.dtype)[:, None].expand_as(x)

        flow = da.probability_flow(da.DiffusionModel(impulse, schedule, prediction="eps"))
        grid = flow.grid(times, slices=6)
        sol = pr.serial(flow.problem, torch.zeros(1, 1, dtype=torch.float64), grid, fine=pr.DEIS(order))
        z = flow.to_x(sol.ts, sol.us.flatten(1)).flatten() / schedule.alpha(times)
        for n, weight in enumerate(z.diff().tolist()):
            nodes = [s[n - k] for k in range(min(order, n + 1))]
            used = 0 <= n - j < len(nodes)
            exact = (
                mpmath.quad(lambda at, nodes=nodes, k=n - j: lagrange(at, k, nodes), [s[n], s[n + 1]]) if used else 0
            )
            rounding = 4 * torch.finfo(torch.float64).eps * float(z[n : n + 2].abs().max())
            assert abs(weight - float(exact)) <= 1e-12 * float(abs(s[n + 1] - s[n])) + rounding


@pytest.mark.parametrize(
    ("scheduler", "method"),
    [
        (diffusers.DPMSolverMultistepScheduler(trained_betas=BETAS.numpy()), pr.DPMSolverPP(2, "multistep")),
        (diffusers.DPMSolverSinglestepScheduler(trained_betas=BETAS.numpy(), solver_order=3), pr.DPMSolverPP(3)),
        (diffusers.UniPCMultistepScheduler(trained_betas=BETAS.numpy()), pr.UniPC(2)),
    ],
    ids=["multistep", "singlestep", "unipc"],
)
@pytest.mark.sweep(1)
def test_in_parallel_they_are_the_same_samples(scheduler: Any, method: pr.Integrator) -> None:
    expected = theirs(scheduler, 40, torch.float64)
    flow, grid = flow_of(scheduler)
    u = flow.from_x(grid.points[0], NOISE)
    for coarse in (pr.Euler(), pr.Secant(da.GaussianFlow(0.5))):
        sol = pr.solve(flow.problem, u, grid, fine=method, coarse=coarse, stop=pr.Tolerance(1e-7, 0.0))
        assert (flow.to_x(grid.points[-1], sol.u) - expected).norm() <= 5e-6 * expected.norm()
        assert sol.iterations < 35
