"""Sampling: parallel equals serial, samples are independent, generators are honoured, mistakes are refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusion.cases import PREDICTIONS, SCHEDULES, mixture, normals, relative, silent
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor, nn

import diffusion_adapters as da
import parareal as pr

EPS = torch.finfo(torch.float64).eps
NAMES = ["cosine-to-1", "discrete", "edm", "flow", "ve", "vp"]


def model(name: str = "vp", prediction: str = "v") -> da.DiffusionModel:
    return mixture().model(SCHEDULES[name], prediction)


class Counting(nn.Module):
    """A network that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.rows = 0, 0

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        return x / (1 + t.reshape(-1, *[1] * (x.ndim - 1)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver", ["ddim", "heun"])
@pytest.mark.parametrize("coarse", ["gaussian", "same", "none"])
@pytest.mark.sweep(6)
def test_parallel_is_serial_when_run_to_the_end(name: str, solver: str, coarse: str) -> None:
    noise = normals(3, 4)
    serial = da.sample(model(name), noise, steps=12, solver=solver, parallel=False)
    exact = da.sample(
        model(name),
        noise,
        steps=12,
        solver=solver,
        coarse=coarse,
        stop=pr.Iterations(12),
        slices=12,
        executor=pr.Serial(),
    )
    # One row at a time, in the serial run as well: the same operations on the same numbers.
    alone = da.sample(model(name), noise, steps=12, solver=solver, parallel=False, slices=12, executor=pr.Serial())
    assert torch.equal(exact.samples, alone.samples)
    batched = da.sample(model(name), noise, steps=12, solver=solver, coarse=coarse, stop=pr.Iterations(12), slices=12)
    assert relative(batched.samples, serial.samples) < 1e6 * EPS
    assert batched.solution.status is pr.Status.FINAL


@given(
    name=st.sampled_from(NAMES),
    solver=st.sampled_from(["ddim", "heun"]),
    coarse=st.sampled_from(["same", "none"]),
    steps=st.integers(1, 40),
    rtol=st.sampled_from([1e-2, 1e-4, 1e-6]),
    seed=st.integers(0, 1000),
)
@examples(8)
def test_rtol_bounds_the_error_of_each_sample(
    name: str, solver: str, coarse: str, steps: int, rtol: float, seed: int
) -> None:
    noise = normals(4, 4, seed=seed)
    serial = da.sample(model(name), noise, steps=steps, solver=solver, parallel=False).samples
    parallel = da.sample(model(name), noise, steps=steps, solver=solver, coarse=coarse, rtol=rtol)
    error = (parallel.samples - serial).norm(dim=1) / serial.norm(dim=1)
    assert error.max().item() <= rtol
    assert parallel.solution.converged


@pytest.mark.parametrize(("coarse", "rtols"), [("same", (1e-1, 1e-3, 1e-6)), ("gaussian", (1e-2, 1e-6, 1e-10))])
def test_the_error_falls_with_rtol_and_rounds_rise(coarse: str, rtols: tuple[float, ...]) -> None:
    noise = normals(4, 4)
    serial = da.sample(model(), noise, steps=100, parallel=False)
    errors, rounds = [], []
    for rtol in rtols:
        out = da.sample(model(), noise, steps=100, rtol=rtol, coarse=coarse)
        errors.append(relative(out.samples, serial.samples))
        rounds.append(out.solution.stats.rounds)
    assert errors[0] > errors[1] > errors[2]
    assert rounds[0] < rounds[1] < rounds[2]
    assert serial.solution.stats.rounds == 100


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.sweep(5)
def test_all_predictions_of_a_schedule_give_the_same_samples(name: str) -> None:
    kinds = [kind for kind in PREDICTIONS if not (silent(SCHEDULES[name]) and kind in ("eps", "score"))]
    noise = normals(3, 4)
    reference, *others = [da.sample(model(name, kind), noise, steps=16, rtol=1e-10).samples for kind in kinds]
    for samples in others:
        # What separates them is rounding in x0 = (x - sigma eps)/alpha and eps = (x - alpha x0)/sigma.
        assert relative(samples, reference) < 1e-9


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.sweep(4)
def test_samples_follow_the_law_of_the_data(name: str) -> None:
    """Of one dimension: the samples' distribution function is that of the data, blurred by the noise that is left."""
    schedule = SCHEDULES[name]
    oracle = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.05, torch.tensor([0.3, 0.7]))
    levels = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    noise = math.sqrt(2) * torch.erfinv(2 * levels - 1)  # equally likely values: no statistical error
    model = oracle.model(schedule, "v")
    out = da.sample(model, noise[:, None], steps=100, solver="heun", width=25, rtol=1e-3).samples[:, 0]
    end = torch.tensor(schedule.t_min, dtype=torch.float64)
    alpha, sigma = schedule.alpha(end), schedule.sigma(end)
    normal = torch.distributions.Normal(alpha * oracle.means[:, 0], (alpha**2 * 0.05 + sigma**2).sqrt())
    points = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    expected = (normal.cdf(points) * oracle.weights).sum(1)
    below = (out[None, :] <= points).double().mean(1)
    # What remains: sampling starts without the mean 0.4 that the noisiest data have, 0.4/s of their deviation (the
    # density of a normal is at most 0.4), and 400 samples.
    s = schedule.s(torch.tensor(schedule.t_max, dtype=torch.float64)).item()
    assert (below - expected).abs().max().item() < 0.4 * 0.4 / s + 2 / 400


def test_serial_is_ddim_on_a_grid_of_ones_own() -> None:
    schedule, oracle, noise = SCHEDULES["discrete"], mixture(), normals(2, 4)
    times = torch.tensor([999, 700, 300, 20, 0])
    x = schedule.sigma(times[0].double()) * noise
    for t, t_next in zip(times[:-1].double(), times[1:].double(), strict=True):
        x0, eps = (oracle.network(schedule, kind)(x, t) for kind in ("x0", "eps"))
        x = schedule.alpha(t_next) * x0 + schedule.sigma(t_next) * eps
    for parallel in (True, False):
        out = da.sample(oracle.model(schedule), noise, spacing=times, slices=4, rtol=1e-12, parallel=parallel)
        assert relative(out.samples, x) < 1e-10


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    """With labels and a guidance scale for each sample, and each stopping when it is done."""
    label, scale = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1.0, 2.0, 3.0, 4.0, 1.5, 2.5])
    none, noise = torch.full((6,), -1), normals(6, 4)

    def draw(rows: list[int]) -> da.SampleResult:
        guided = da.guided(model(), scale[rows], {"label": label[rows]}, {"label": none[rows]})
        return da.sample(guided, noise[rows], steps=30, rtol=1e-3)

    together = draw([0, 1, 2, 3, 4, 5])
    assert len(set(together.solution.iterations.tolist())) > 1, "choose samples that stop at different iterations"
    for rows in ([2], [5, 0], [4, 3, 1]):
        apart = draw(rows)
        torch.testing.assert_close(apart.samples, together.samples[rows], rtol=1e-11, atol=1e-11)
        assert torch.equal(apart.solution.iterations, together.solution.iterations[rows])


def test_labels_decide_what_is_drawn() -> None:
    oracle = da.GaussianMixture(torch.tensor([[-3.0], [0.0], [3.0]]), 0.01)
    label = torch.tensor([2, 0, 1, 2])
    conditional = oracle.model(da.VP()).with_conditioning(label=label)
    out = da.sample(conditional, normals(4, 1), steps=40)
    assert (out.samples[:, 0] / 3).round().tolist() == [1, -1, 0, 1]
    guided = da.guided(oracle.model(da.VP()), 1.0, {"label": label}, {"label": torch.tensor([-1])})
    torch.testing.assert_close(da.sample(guided, normals(4, 1), steps=40).samples, out.samples, rtol=1e-2, atol=1e-2)
    shared = oracle.model(da.VP()).with_conditioning(label=torch.tensor([2]))
    assert (da.sample(shared, normals(4, 1), steps=40).samples[:, 0] / 3).round().tolist() == [1, 1, 1, 1]


def test_generators_are_honoured() -> None:
    def draw(generator: object, shape: tuple[int, ...] = (3, 4)) -> Tensor:
        return da.sample(model(), shape, steps=6, generator=generator).samples  # type: ignore[arg-type]

    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    assert torch.equal(draw(seeded(0)), draw(seeded(0)))
    assert not torch.equal(draw(seeded(0)), draw(seeded(1)))
    noise = torch.randn(3, 4, generator=seeded(0))
    assert torch.equal(draw(seeded(0)), da.sample(model(), noise, steps=6).samples)
    each = draw([seeded(0), seeded(1), seeded(2)])
    torch.testing.assert_close(each[1:2], draw([seeded(1)], (1, 4)), rtol=1e-5, atol=1e-5)
    state = torch.random.get_rng_state()
    draw(seeded(0))
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(ValueError, match="2 generators came for 3 samples"):
        draw([seeded(0), seeded(1)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("parallel", [True, False])
def test_samples_have_the_dtype_of_the_noise(dtype: torch.dtype, parallel: bool) -> None:
    noise = normals(2, 4).to(dtype)
    out = da.sample(model(), noise, steps=9, parallel=parallel)
    assert out.samples.dtype == dtype
    assert out.solution.u.dtype == torch.promote_types(dtype, torch.float32)
    exact = da.sample(model(), noise.double(), steps=9, parallel=False)
    assert relative(out.samples.double(), exact.samples) < 1e-3 + 2 * torch.finfo(dtype).eps


def test_half_precision_networks_are_sampled_in_float32() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4, dtype=torch.bfloat16)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            assert (x.dtype, t.dtype) == (torch.bfloat16, torch.float32)
            return self.linear(x)

    torch.manual_seed(0)
    out = da.sample(da.DiffusionModel(Half(), da.VP()), normals(2, 4, dtype=torch.float32), steps=9, parallel=False)
    assert out.samples.dtype == torch.float32
    assert not out.samples.requires_grad


def test_slices_and_cost() -> None:
    noise = normals(1, 4)
    assert len(da.sample(model(), noise, steps=100).solution.ts) == 101
    assert len(da.sample(model(), noise, steps=100, coarse="same").solution.ts) == 11
    assert len(da.sample(model(), noise, steps=100, coarse="none").solution.ts) == 101
    assert len(da.sample(model(), noise, steps=100, coarse=pr.Identity()).solution.ts) == 101
    assert len(da.sample(model(), noise, steps=100, coarse=pr.Heun()).solution.ts) == 11
    for coarse in ("gaussian", "same", "none"):
        assert len(da.sample(model(), noise, steps=100, slices=4, coarse=coarse).solution.ts) == 5
        network = Counting()
        counted = da.DiffusionModel(network, da.VP())
        out = da.sample(counted, normals(2, 4), steps=16, coarse=coarse, stop=pr.Iterations(1))
        assert network.calls == out.solution.stats.rounds
        assert network.rows == out.solution.stats.evaluations
        # One step of all slices at once, where guesses and corrections call no network.
        assert coarse == "same" or (network.calls, network.rows) == (1, 2 * 16)
    # 4 slices of 4 steps: 4 coarse rounds, 3 more fine ones (the first is shared), a coarse sweep over 3 slices, which
    # by default goes on while the fine slices on the right do.
    for schedule, rounds in ((pr.Barrier(), 4 + 3 + 3), (None, 4 + 3)):
        network = Counting()
        call: dict[str, Any] = {"steps": 16, "coarse": "same", "schedule": schedule, "stop": pr.Iterations(1)}
        da.sample(da.DiffusionModel(network, da.VP()), normals(2, 4), **call)
        assert network.calls == rounds


def test_an_empty_batch_calls_no_network() -> None:
    network = Counting()
    for parallel in (True, False):
        out = da.sample(da.DiffusionModel(network, da.VP()), (0, 3, 2), parallel=parallel)
        assert out.samples.shape == (0, 3, 2)
        assert out.solution.converged
    assert network.calls == 0


def test_options_reach_the_engine() -> None:
    noise, reports = normals(2, 4), []
    out = da.sample(model(), noise, steps=25, rtol=0.0, callback=reports.append, max_iterations=2, throw=False)
    assert out.solution.status is pr.Status.MAX_ITERATIONS
    assert [report.iteration for report in reports] == [1, 2]
    with pytest.raises(pr.SolveError, match="max_iterations"):
        da.sample(model(), noise, steps=25, rtol=0.0, max_iterations=2)
    stopped = da.sample(model(), noise, steps=25, rtol=0.0, callback=lambda report: True)
    assert stopped.solution.status is pr.Status.STOPPED
    chunks = da.sample(model(), noise, steps=25, executor=pr.Batched(max_lanes=3))
    assert chunks.solution.stats.calls > chunks.solution.stats.rounds
    scheduled = da.sample(model(), noise, steps=25, coarse="same", schedule=pr.Barrier())
    assert torch.equal(scheduled.samples, da.sample(model(), noise, steps=25, coarse="same").samples)
    for coarse in ("gaussian", "same", "none"):
        wide = da.sample(model(), noise, steps=25, slices=12, coarse=coarse, width=5).solution
        window = da.sample(model(), noise, steps=25, slices=12, coarse=coarse, schedule=pr.Windowed(5)).solution
        assert torch.equal(wide.us, window.us)
        assert wide.stats.rounds == window.stats.rounds
    free = da.sample(model(), noise, steps=120).solution
    assert free.stats.max_lanes <= 2 * 100  # of two samples
    assert torch.equal(free.us, da.sample(model(), noise, steps=120, width=100).solution.us)


def test_solvers_by_name_and_by_object() -> None:
    noise = normals(2, 4)

    def run(**options: object) -> Tensor:
        return da.sample(model(), noise, steps=9, parallel=False, **options).samples  # type: ignore[arg-type]

    assert torch.equal(run(solver="ddim"), run(solver="euler"))
    assert torch.equal(run(solver="ddim"), run(solver=pr.Euler()))
    assert torch.equal(run(solver="heun"), run(solver=pr.Heun()))
    assert not torch.equal(run(solver="heun"), run(solver="ddim"))
    many = da.sample(model(), noise, steps=9, solver=pr.RK4(steps=5), slices=3, coarse="same")
    assert many.solution.stats.coarse_evaluations < many.solution.stats.fine_evaluations


def test_x0_at_the_clean_end_is_refused_where_it_would_be_called() -> None:
    with pytest.raises(ValueError, match=r"sigma is 0 and x0 does not determine the noise; use solver=\"ddim\""):
        da.sample(model("flow", "x0"), normals(1, 4), solver=pr.Heun())
    assert bool(torch.isfinite(da.sample(model("flow", "x0"), normals(1, 4), solver="ddim").samples).all())
    assert bool(torch.isfinite(da.sample(model("flow", "v"), normals(1, 4), solver="heun").samples).all())


MISTAKES = [
    ({"steps": 0}, ValueError, "steps=0 is too small"),
    ({"steps": 10.0}, TypeError, "steps=10.0 is a float"),
    ({"steps": torch.tensor(2.5)}, TypeError, r"steps=tensor\(2\.5000\) is a Tensor; expected an int"),
    ({"steps": 5, "slices": 6}, ValueError, "slices=6 is more than the 5 steps"),
    ({"slices": 0}, ValueError, "slices=0 is too small"),
    ({"slices": 2.0}, TypeError, "slices=2.0 is a float"),
    ({"solver": "plms"}, ValueError, "solver='plms' is unknown; expected one of 'ddim', 'euler', 'heun', 'dpm2'"),
    ({"solver": pr.Euler}, TypeError, r"solver is the class Euler; expected one of 'ddim'.*solver=Euler\("),
    (
        {"coarse": "picard"},
        ValueError,
        "coarse='picard' is unknown; expected one of 'gaussian', 'same', 'none', or a corr",
    ),
    ({"coarse": None}, TypeError, 'coarse is None; expected one of.*coarse="none"'),
    ({"coarse": pr.Euler}, TypeError, "the class Euler; expected one of 'gaussian'"),
    ({"coarse": da.GaussianFlow}, TypeError, "the class GaussianFlow; expected one of 'gaussian'"),
    ({"width": 0}, ValueError, "width=0 is too small; expected at least 1"),
    ({"width": -3}, ValueError, "width=-3 is too small"),
    ({"width": True}, TypeError, "width=True is a bool; expected an int"),
    ({"width": 8.0}, TypeError, "width=8.0 is a float; expected an int"),
    ({"width": 8, "schedule": pr.Windowed(8)}, ValueError, r"width=8 came with schedule=Windowed\(.*stands for sch"),
    (
        {"width": 8, "schedule": pr.Barrier()},
        ValueError,
        r"width=8 came with schedule=Barrier\(\); expected one of them",
    ),
    ({"steps": 20, "schedule": pr.Windowed(21)}, ValueError, "width=21 is more than the 20 slices"),
    (
        {"coarse": da.GaussianFlow(variance=torch.ones(3))},
        ValueError,
        r"variance has shape \(3,\) and samples have shape",
    ),
    ({"spacing": "cubic"}, ValueError, "spacing='cubic' is unknown; expected one of 'logsnr', 'karras', 'uniform'"),
    ({"spacing": torch.tensor([0.1, 1.0])}, ValueError, "do not fall"),
    ({"rtol": -1.0}, ValueError, "rtol=-1.0"),
    ({"rtol": math.nan}, ValueError, "rtol=nan"),
    ({"rtol": "1e-3"}, TypeError, "rtol='1e-3' is a str"),
    ({"rtol": -1.0, "stop": pr.Iterations(2)}, ValueError, "rtol=-1.0"),
    ({"max_iterations": 0}, ValueError, "max_iterations=0"),
    ({"max_iterations": 2.0}, TypeError, "max_iterations=2.0 is a float"),
    ({"schedule": da.VP()}, TypeError, "schedule is a VP; expected a Schedule such as"),
    ({"callback": 3}, TypeError, "callback is an int; expected a function"),
    ({"executor": 3}, TypeError, "executor is an int"),
    ({"stop": 1e-3}, TypeError, "stop is a float"),
    ({"noise": torch.ones(2, 4, dtype=torch.int64)}, TypeError, r"noise is a tensor of torch\.int64"),
    ({"noise": torch.ones(2, dtype=torch.complex64)}, TypeError, r"noise is a tensor of torch\.complex64"),
    ({"noise": torch.tensor(1.0)}, ValueError, "noise has no axis"),
    ({"noise": torch.ones(2, 0)}, ValueError, "no empty axis"),
    ({"noise": torch.full((1, 2), math.nan)}, ValueError, "noise holds NaN"),
    ({"noise": (2.0, 4)}, TypeError, "expected a tensor of standard normals or a shape"),
    ({"noise": ()}, TypeError, "expected a tensor of standard normals or a shape"),
    ({"noise": 4}, TypeError, "expected a tensor of standard normals or a shape"),
    ({"noise": (-1, 4)}, ValueError, "expected positive sizes"),
    ({"noise": (2, 0)}, ValueError, "expected positive sizes"),
    ({"noise": (True, 4)}, TypeError, "expected a tensor of standard normals or a shape"),
    ({"noise": (2, torch.tensor(2.5))}, TypeError, "expected a tensor of standard normals or a shape"),
    ({"generator": torch.Generator()}, ValueError, r"nothing to draw; leave generator out, .*noise=\(2, 4\)"),
    ({"generator": [torch.Generator(), torch.Generator()]}, ValueError, "nothing to draw"),
    ({"generator": 0}, TypeError, r"generator=0 is an int; expected a torch\.Generator.*manual_seed"),
    ({"noise": (2, 4), "generator": 0}, TypeError, r"generator=0 is an int; expected a torch\.Generator"),
    ({"noise": (2, 4), "generator": "ab"}, TypeError, "generator='ab' is a str"),
    ({"noise": (2, 4), "generator": [torch.Generator(), 1]}, TypeError, r"generator\[1\]=1 is an int"),
    ({"noise": (2, 4), "generator": [torch.Generator()]}, ValueError, "1 generators came for 2 samples"),
]


@pytest.mark.parametrize(("options", "error", "message"), MISTAKES)
@pytest.mark.parametrize("parallel", [True, False])
def test_mistakes_are_refused_before_any_work(
    options: dict[str, object], error: type[Exception], message: str, parallel: bool
) -> None:
    network = Counting()
    call = {"noise": normals(2, 4), "parallel": parallel, **options}
    with pytest.raises(error, match=message):
        da.sample(da.DiffusionModel(network, da.VP()), **call)  # type: ignore[arg-type]
    assert network.calls == 0


def test_more_mistakes() -> None:
    with pytest.raises(TypeError, match="model is a VP"):
        da.sample(da.VP(), (1, 4))  # type: ignore[arg-type]
    labelled = model().with_conditioning(label=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="for 3 samples"):
        da.sample(labelled, (3, 4))
    step = pr.Propagator(lambda t0, t1, u: u)
    with pytest.raises(ValueError, match='coarse="same" takes one step of the solver a slice'):
        da.sample(model(), (3, 4), solver=step, coarse="same")
    for coarse in ("gaussian", "none"):
        assert da.sample(model(), (3, 4), solver=step, coarse=coarse).solution.converged


@pytest.mark.parametrize("parallel", [True, False])
def test_nan_from_the_network_ends_with_a_status(parallel: bool) -> None:
    broken = da.DiffusionModel(lambda x, t: x * float("nan"), da.VP())
    with pytest.raises(pr.SolveError, match="NaN or Inf") as caught:
        da.sample(broken, (2, 3), steps=9, parallel=parallel)
    assert caught.value.solution.status is pr.Status.NONFINITE
    out = da.sample(broken, (2, 3), steps=9, throw=False, parallel=parallel)
    assert out.solution.status is pr.Status.NONFINITE


def test_sizes_may_be_ints_of_numpy() -> None:
    def draw(shape: Any, **options: Any) -> da.SampleResult:
        return da.sample(model(), shape, generator=torch.Generator().manual_seed(0), **options)

    expected = draw((2, 4), steps=6, slices=3).samples
    for shape in (np.array([2, 4]).tolist(), tuple(np.array([2, 4])), torch.Size([2, 4])):
        assert torch.equal(draw(shape, steps=np.int64(6), slices=np.int32(3)).samples, expected)
    assert torch.equal(draw((2, 4), steps=6, width=np.int64(4)).samples, draw((2, 4), steps=6, width=4).samples)
