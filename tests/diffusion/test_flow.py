"""The probability-flow ODE against the published samplers and against flows known in closed form."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusion.cases import PREDICTIONS, SCHEDULES, inner_times, mixture, normals, relative, silent
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

CASES = [
    (name, prediction)
    for name in sorted(SCHEDULES)
    for prediction in PREDICTIONS
    if not (silent(SCHEDULES[name]) and prediction in ("eps", "score"))
]


def solve(model: da.DiffusionModel, times: Tensor, x: Tensor, fine: pr.Integrator) -> Tensor:
    """The sequential run from x at ``times[0]`` to x at ``times[-1]``."""
    flow = da.probability_flow(model)
    problem, to_x, from_x = flow
    grid = flow.grid(times, slices=1)
    sol = pr.serial(problem, from_x(grid.points[0], x), grid, fine=fine)
    return to_x(grid.points[-1], sol.u)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_coordinates_are_inverted_and_are_what_they_say(name: str) -> None:
    schedule = SCHEDULES[name]
    flow = da.probability_flow(mixture().model(schedule, "v"))
    times = inner_times(schedule)
    tau = flow.coordinates.tau(times)
    torch.testing.assert_close(flow.coordinates.time(tau), times, rtol=1e-11, atol=1e-11)
    x = normals(len(times), 4)
    u = flow.from_x(tau, x)
    alpha, sigma = schedule.alpha(times)[:, None], schedule.sigma(times)[:, None]
    if name.startswith("flow") or silent(schedule):
        torch.testing.assert_close(u, x / (alpha + sigma), rtol=1e-9, atol=0)
        torch.testing.assert_close(tau, (sigma / (alpha + sigma))[:, 0], rtol=1e-12, atol=0)
    else:
        torch.testing.assert_close(u, x / alpha, rtol=1e-9, atol=0)
        torch.testing.assert_close(tau, (sigma / alpha)[:, 0], rtol=1e-12, atol=0)
    torch.testing.assert_close(flow.to_x(tau, u), x, rtol=1e-14, atol=0)
    assert flow.to_x(tau[0], u.float()).dtype == torch.float32


def test_flow_matching_is_solved_as_it_stands() -> None:
    seen = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t))
        return x.cos()

    flow = da.probability_flow(da.DiffusionModel(network, da.Flow(shift=2.0), "velocity"))
    u, t = normals(3, 2, dtype=torch.float32), torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64)
    assert torch.equal(flow.problem.f(t, u), u.cos())
    assert torch.equal(seen[0][0], u)
    assert torch.equal(seen[0][1], t.float())
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert torch.equal(flow.coordinates.time(times), times)
    assert torch.equal(flow.coordinates.tau(times), times)
    assert torch.equal(flow.problem.f(times, normals(101, 2)), normals(101, 2).cos())


@pytest.mark.parametrize(("name", "prediction"), CASES)
@pytest.mark.sweep(16)
def test_euler_is_ddim(name: str, prediction: str) -> None:
    """x' = alpha' x0 + sigma' eps (arXiv 2010.02502, eq. 12 with no noise added), for every schedule and prediction."""
    schedule, oracle = SCHEDULES[name], mixture()
    times = schedule.times(12)
    start = schedule.sigma(times[0]) * normals(3, 4)
    x = start
    for t, t_next in pairwise(times):
        x0, eps = (oracle.network(schedule, kind)(x, t.expand(3)) for kind in ("x0", "eps"))
        x = schedule.alpha(t_next) * x0 + schedule.sigma(t_next) * eps
    got = solve(oracle.model(schedule, prediction), times, start, pr.Euler())
    # Near data the noise is worked out from x - alpha x0, near noise x0 from x - sigma eps: s tells what rounding does.
    ends = schedule.s(times[[1, -2]])
    assert relative(got, x) < 1e-13 * max(ends[0].item(), 1 / ends[1].item()) ** 2


def test_heun_is_that_of_edm() -> None:
    """Algorithm 1 of arXiv 2206.00364 without its last step to sigma = 0."""
    oracle, schedule = mixture(), da.EDM()
    denoiser = oracle.network(schedule, "x0")
    sigmas = schedule.times(9)
    start = x = sigmas[0] * normals(3, 4)
    for sigma, sigma_next in pairwise(sigmas):
        d = (x - denoiser(x, sigma.expand(3))) / sigma
        x_euler = x + (sigma_next - sigma) * d
        d_next = (x_euler - denoiser(x_euler, sigma_next.expand(3))) / sigma_next
        x = x + (sigma_next - sigma) * (d + d_next) / 2
    for prediction in PREDICTIONS:
        assert relative(solve(oracle.model(schedule, prediction), sigmas, start, pr.Heun()), x) < 1e-9


def test_heun_for_flow_matching_is_heun_of_the_velocity() -> None:
    oracle, schedule = mixture(), da.Flow(shift=3.0)
    velocity = oracle.network(schedule, "velocity")
    times = schedule.times(9)
    start = x = normals(3, 4)
    for t, t_next in pairwise(times):
        k = velocity(x, t.expand(3))
        x = x + (t_next - t) * (k + velocity(x + (t_next - t) * k, t_next.expand(3))) / 2
    for prediction in ("velocity", "v", "eps"):
        model = oracle.model(da.Flow(shift=3.0, t_max=0.9999 if prediction == "eps" else 1.0), prediction)
        if prediction == "eps":
            assert bool(torch.isfinite(solve(model, model.noise_schedule.times(9), start, pr.Heun())).all())
        else:
            assert relative(solve(model, times, start, pr.Heun()), x) < 1e-13


def exact_flow(mean: Tensor, variance: float) -> Callable[[Tensor, float, float], Tensor]:
    """The flow of one Gaussian in z = x/alpha and s = sigma/alpha; affine in z."""

    def flow(z: Tensor, s: float, s_next: float) -> Tensor:
        if math.isinf(s):  # z/s is the noise
            return mean + math.sqrt(s_next**2 + variance) * z
        return mean + math.sqrt((s_next**2 + variance) / (s**2 + variance)) * (z - mean)

    return flow


@pytest.mark.parametrize("name", ["vp", "cosine", "cosine-to-1", "ve", "edm", "flow", "discrete-zero-snr"])
@pytest.mark.parametrize(("fine", "order"), [(pr.Euler(), 1), (pr.Heun(), 2)])
@pytest.mark.sweep(6)
def test_the_flow_of_one_gaussian_with_the_order_of_the_method(name: str, fine: pr.Integrator, order: int) -> None:
    schedule, mean, variance = SCHEDULES[name], normals(1, 3), 0.3
    model = da.GaussianMixture(mean, variance).model(schedule, "v")
    # Uniform steps in the ODE's own variable, between two levels of noise that no schedule leaves out.
    s_first, s_last = 4.0, 0.05
    ends = schedule.time(torch.tensor([s_first, s_last], dtype=torch.float64))
    flow = da.probability_flow(model)
    first, last = flow.coordinates.tau(ends)
    z = s_first * normals(5, 3, seed=1)
    exact = exact_flow(mean, variance)(z, s_first, s_last)
    sizes, errors = np.array([64, 128, 256]), []
    for steps in sizes:
        grid = pr.TimeGrid.uniform(first.item(), last.item(), slices=1, steps=int(steps))
        sol = pr.serial(flow.problem, flow.from_x(first, schedule.alpha(ends[0]) * z), grid, fine=fine)
        errors.append((flow.to_x(last, sol.u) / schedule.alpha(ends[1]) - exact).abs().max().item())
    measured = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert abs(measured - order) < 0.15, errors


@pytest.mark.parametrize("name", ["cosine-to-1", "flow", "discrete-zero-snr"])
@pytest.mark.sweep(1)
def test_a_start_without_signal_is_finite_and_right(name: str) -> None:
    schedule, mean, variance = SCHEDULES[name], normals(1, 3), 0.3
    noise = normals(5, 3, seed=1)
    times = schedule.times(300, "uniform")
    times = times[schedule.s(times) > 0.05]
    s_last = schedule.s(times[-1]).item()
    exact = exact_flow(mean, variance)(noise, math.inf, s_last)
    for prediction in ("x0", "v", "velocity"):
        model = da.GaussianMixture(mean, variance).model(schedule, prediction)
        got = solve(model, times, noise, pr.Heun()) / schedule.alpha(times[-1])
        assert relative(got, exact) < 1e-3


@pytest.mark.parametrize(("name", "prediction"), CASES)
@pytest.mark.sweep(16)
def test_all_schedules_and_predictions_are_one_ode(name: str, prediction: str) -> None:
    """On the same levels of noise s, DDIM gives the same data whatever the schedule, for any denoiser."""
    oracle, noise = mixture(), normals(3, 4)
    s = torch.logspace(0.9, -1.2, 15, dtype=torch.float64)

    def data(schedule: da.NoiseSchedule, kind: str) -> Tensor:
        times = schedule.time(s)
        x = solve(oracle.model(schedule, kind), times, schedule.sigma(times[0]) * noise, pr.Euler())
        return x / schedule.alpha(times[-1])

    assert relative(data(SCHEDULES[name], prediction), data(da.EDM(), "eps")) < 1e-10


def test_rows_of_conditioning_follow_their_sample() -> None:
    """Rows of a round are any pairs of slice and sample: each must meet its own label and the shared tensor."""

    def network(x: Tensor, t: Tensor, label: Tensor, shared: Tensor, gain: float) -> Tensor:
        assert label.shape == (len(x),)
        assert shared.shape == (len(x), 2)
        assert bool((shared == 1).all())
        return gain * label[:, None] * x + 0 * t[:, None]

    label = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    conditioning = {"label": label, "shared": torch.ones(1, 2), "gain": 2.0}
    flow = da.probability_flow(da.DiffusionModel(network, da.EDM(0.1, 1.0), conditioning=conditioning))
    grid = flow.grid(da.EDM(0.1, 1.0).times(200), slices=10)
    z = torch.ones(3, 2, dtype=torch.float64)
    expected = torch.exp(2 * label * (0.1 - 1.0))[:, None].expand(3, 2)
    run = {"fine": pr.RK4(), "samples": True}
    for sol in (
        pr.serial(flow.problem, z, grid, **run),
        pr.solve(flow.problem, z, grid, coarse=pr.Euler(), executor=pr.Batched(max_lanes=7), **run),
        pr.solve(flow.problem, z, grid, coarse=pr.Identity(), **run),
        pr.serial(flow.problem, z, grid, fine=pr.RK4()),
    ):
        torch.testing.assert_close(sol.u, expected, rtol=1e-6, atol=0)


def test_the_whole_path_in_x() -> None:
    schedule = da.Flow()
    flow = da.probability_flow(mixture().model(schedule, "velocity"))
    grid = flow.grid(schedule.times(8), slices=4)
    sol = pr.serial(flow.problem, normals(2, 4), grid, fine=pr.Euler())
    path = flow.to_x(sol.ts, sol.us)
    assert path.shape == (5, 2, 4)
    assert torch.equal(path, sol.us)


@pytest.mark.parametrize("prediction", ["eps", "score"])
@pytest.mark.parametrize("name", [name for name in sorted(SCHEDULES) if silent(SCHEDULES[name])])
def test_noise_predictions_are_refused_where_they_say_nothing(name: str, prediction: str) -> None:
    with pytest.raises(ValueError, match="does not determine the data where alpha is 0"):
        da.probability_flow(mixture().model(SCHEDULES[name], prediction))


def test_wrong_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match="model is a VP; expected a DiffusionModel"):
        da.probability_flow(da.VP())  # type: ignore[arg-type]


# --- where there is no signal, or no noise ---------------------------------------------------------------------------

ENDLESS = (
    pr.ExponentialEuler(),
    pr.ETDRK2(),
    pr.ETDRK4(),
    pr.DEIS(3),
    pr.DEIS(3, lower_order_start=False),
    pr.DPMSolver(2),
    pr.DPMSolver(3, "multistep"),
    pr.DPMSolverPP(2),
    pr.DPMSolverPP(2, "multistep"),
    pr.UniPC(2),
    pr.UniPC(3, "noise"),
    pr.UniPC(2, "noise", "bh1"),
)


@pytest.mark.parametrize("towards", ["data", "noise"])
@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [(da.Flow(), "velocity"), (SCHEDULES["discrete-both-ends"], "v")],
    ids=["flow", "discrete-both-ends"],
)
@pytest.mark.parametrize("method", ENDLESS, ids=repr)
@pytest.mark.sweep(4)
def test_endless_steps_at_either_end_are_ddim(
    method: pr.Integrator, schedule: da.NoiseSchedule, prediction: str, towards: str
) -> None:
    """lambda is infinite at both ends of these grids, whichever of them comes first; inside all methods are better."""
    flow = da.probability_flow(mixture().model(schedule, prediction))

    def grid(steps: int) -> pr.TimeGrid:
        times = schedule.times(steps, "uniform")
        return flow.grid(times if towards == "data" else times.flip(0), slices=steps)

    def run(steps: int, fine: pr.Integrator) -> torch.Tensor:
        u = normals(3, 4) if towards == "noise" else 0.3 * normals(3, 4)
        return pr.serial(flow.problem, u, grid(steps), fine=fine).us

    first, last = (grid(20).points[:2], grid(20).points[-2:])
    assert not bool(torch.isfinite(flow.coordinates.level(torch.stack([first[0], last[1]]))).any())
    ours, ddim = run(20, method), run(20, pr.Euler())
    assert torch.isfinite(ours).all()
    assert relative(ours[1], ddim[1]) <= 16 * torch.finfo(torch.float64).eps
    if not isinstance(method, pr.UniPC):  # which corrects the state once more where the last step begins
        step = flow.problem.rhs(last[:1], ours[-2][None])[0] * (last[1] - last[0])
        assert relative(ours[-1], ours[-2] + step) <= 64 * torch.finfo(torch.float64).eps
    # The first step is all there is of the error on some grids; the others must not add to it.
    exact = run(200, pr.Heun())[-1]
    assert relative(ours[-1], exact) <= 1.25 * relative(ddim[-1], exact)


# --- grids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([1.0, 0.5, 0.5, 0.1], ["times stand still", "times[1]=0.5", "times[2]=0.5"]),
        ([1.0, 1.0, 0.1], ["times stand still", "times[0]=1.0", "times[1]=1.0"]),
        ([1.0, 0.25, 0.5, 0.1], ["times turn back", "times[1]=0.25", "times[2]=0.5"]),
        ([0.1, 0.5, 0.25], ["times turn back", "times[1]=0.5", "times[2]=0.25"]),
        ([1.0, float("nan"), 0.1], ["times are not all finite", "times[1]=nan"]),
    ],
)
def test_times_that_repeat_or_turn_back_are_refused_by_their_names(times: list[float], words: list[str]) -> None:
    flow = da.probability_flow(mixture().model(da.VP()))
    with pytest.raises(ValueError, match=r"model\.noise_schedule\.times") as caught:
        flow.grid(torch.tensor(times, dtype=torch.float64))
    assert all(word in str(caught.value) for word in [*words, "only fall"]), str(caught.value)


class Bump(da.NoiseSchedule):
    """Noise that rises to t = 1 and falls again; between 1 and 1.5 it stands still."""

    t_min, t_max = 0.1, 2.0

    def __repr__(self) -> str:
        return "Bump()"

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(t)

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        return torch.where(t < 1.5, t.clamp(max=1.0), 2.5 - t)

    def time(self, s: torch.Tensor) -> torch.Tensor:
        return s


def test_noise_levels_that_repeat_or_turn_back_are_refused_with_their_times() -> None:
    flow = da.probability_flow(da.DiffusionModel(lambda x, t: x, Bump()), "ratio")
    with pytest.raises(
        ValueError, match=r"noise levels of Bump\(\) stand still from times\[1\]=1.25 to times\[2\]=1.0"
    ):
        flow.grid(torch.tensor([1.6, 1.25, 1.0, 0.5], dtype=torch.float64))
    with pytest.raises(ValueError, match=r"noise levels of Bump\(\) turn back from times\[1\]=1.0 to times\[2\]=0.5"):
        flow.grid(torch.tensor([1.75, 1.0, 0.5], dtype=torch.float64))
    assert flow.grid(torch.tensor([1.0, 0.5, 0.25]), slices=2).points.tolist() == [1.0, 0.5, 0.25]


def test_times_may_be_integers_and_nothing_else_but_numbers() -> None:
    flow = da.probability_flow(mixture().model(SCHEDULES["discrete"]))
    whole = flow.grid(torch.tensor([999, 500, 0]), slices=2)
    assert torch.equal(whole.points, flow.grid(torch.tensor([999.0, 500.0, 0.0]), slices=2).points)
    for times, came in (([1.0, 0.5], "a list"), (torch.ones(2, dtype=torch.complex64), "complex64")):
        with pytest.raises(TypeError, match=came):
            flow.grid(times)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2"):
        flow.grid(torch.tensor([1.0]))
