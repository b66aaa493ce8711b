"""What people type first: names of other libraries, arguments of other functions, schedules of their own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import diffusion_adapters as da
import parareal as pr

MODEL = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dpmpp_2m", '"dpm++2m"'),
        ("dpm++", '"dpm++2m"'),
        ("DPM-Solver++", '"dpm++2m"'),
        ("DPM++ 2M Karras", '"dpm++2m"'),
        ("dpmpp_2s", '"dpm++2s"'),
        ("dpmpp_3m", '"dpm++3m"'),
        ("dpmpp_2m_sde", '"sde-dpm++2m"'),
        ("dpmpp_sde", '"sde-dpm++"'),
        ("dpmsolver", '"dpm2"'),
        ("euler_a", '"ancestral"'),
        ("k_euler_ancestral", '"ancestral"'),
        ("EulerAncestralDiscreteScheduler", '"ancestral"'),
        ("EulerDiscreteScheduler", '"euler"'),
        ("FlowMatchEulerDiscreteScheduler", '"euler"'),
        ("edm", '"heun"'),
        ("uni_pc", '"unipc"'),
        ("UniPCMultistepScheduler", '"unipc"'),
        ("DDIM", '"ddim"'),
        ("DDPMScheduler", '"ddpm"'),
        ("rk4", "pr.RK4()"),
    ],
)
def test_solvers_of_other_libraries(name: str, meant: str) -> None:
    for call in (lambda: da.sample(MODEL, (2, 1), solver=name), lambda: da.plan(MODEL, (2, 1), solver=name)):
        with pytest.raises(ValueError, match="is unknown; expected one of 'ddim'") as info:
            call()
        assert str(info.value).endswith(f"Did you mean solver={meant}?")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("epsilon", "eps"),
        ("noise", "eps"),
        ("v_prediction", "v"),
        ("v-prediction", "v"),
        ("vpred", "v"),
        ("sample", "x0"),
        ("original_sample", "x0"),
        ("x_0", "x0"),
        ("x_start", "x0"),
        ("flow_prediction", "velocity"),
        ("Velocity", "velocity"),
    ],
)
def test_predictions_of_other_libraries(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf'prediction={name!r} is unknown; .*Did you mean prediction="{meant}"\?'):
        da.DiffusionModel(lambda x, t: x, da.VP(), name)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "meant"), [("linear", "uniform"), ("log_snr", "logsnr"), ("exponential", "logsnr"), ("Karras", "karras")]
)
def test_spacings_of_other_libraries(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf'spacing={name!r} is unknown; .*Did you mean spacing="{meant}"\?'):
        da.VP().times(4, name)  # pyright: ignore[reportArgumentType]


@given(st.text(max_size=12), st.sampled_from(["solver", "coarse", "spacing"]))
def test_any_other_name_lists_the_known_ones(name: str, argument: str) -> None:
    known = {
        "solver": ("ddim", "dpm++2m", "sde-dpm++2m"),
        "coarse": ("gaussian", "same", "none"),
        "spacing": ("logsnr", "karras", "uniform"),
    }[argument]
    if name in known or (argument == "solver" and name in ("euler", "heun", "dpm2", "dpm3", "unipc", "deis")):
        return
    with pytest.raises(ValueError, match="is unknown; expected one of") as info:
        da.sample(MODEL, (1, 1), steps=4, **{argument: name})
    assert all(repr(one) in str(info.value) for one in known)


@pytest.mark.parametrize(
    ("given_coarse", "message"),
    [
        (None, r'coarse is None; .*coarse="none".*leave coarse out'),
        (lambda t0, t1, u: u, r"coarse is a function; .*coarse=pr\.Propagator\(fn"),
        (nn.Linear(1, 1), r"coarse is a Linear; .*coarse=pr\.Propagator\(fn"),
        (pr.Euler, r"coarse is the class Euler; .*coarse=Euler\(\.\.\.\)"),
        (3, "coarse is an int; expected one of"),
        ([pr.Euler()], "coarse is a list; expected one of"),
    ],
)
def test_coarse_that_is_something_else(given_coarse: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        da.sample(MODEL, (2, 1), coarse=given_coarse)


@pytest.mark.parametrize(
    ("call", "keyword", "message"),
    [
        (da.sample, "seed", r"sample has no argument seed; expected generator=torch\.Generator\(\)\.manual_seed\(0\)"),
        (da.sample, "num_inference_steps", r"expected steps=\.\.\."),
        (da.sample, "sampler", r"expected solver=\.\.\."),
        (da.sample, "slice", r"expected slices=\.\.\."),
        (da.sample, "guidance_scale", r"da\.guided\(model"),
        (da.plan, "seed", r"plan has no argument seed; expected generator="),
        (da.plan, "width", r"expected widths=\[\.\.\.\]"),
        (da.diffusers.parallelize, "num_inference_steps", r"pipe\(\.\.\., num_inference_steps=\.\.\.\)"),
    ],
)
def test_arguments_of_other_functions(call: Callable[..., Any], keyword: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call(MODEL, (2, 1), **{keyword: 0})


@pytest.mark.parametrize(("steps", "more"), [(10, {}), (9, {"coarse": "same"}), (12, {"slices": 5}), (1, {})])
def test_a_width_of_more_than_all_slices_means_all(steps: int, more: dict[str, Any]) -> None:
    noise = torch.randn(2, 1, generator=torch.Generator().manual_seed(0))
    slices = len(da.sample(MODEL, noise, steps, **more).solution.ts) - 1
    wide, exact = (da.sample(MODEL, noise, steps, width=width, **more) for width in (slices + 16, slices))
    assert torch.equal(wide.samples, exact.samples)
    assert wide.solution.stats.rounds == exact.solution.stats.rounds
    with pytest.raises(ValueError, match="is more than the"):
        da.sample(MODEL, noise, steps, schedule=pr.Windowed(slices + 16), **more)


# --- noise schedules of one's own -----------------------------------------------------------------------------------


class Line(da.NoiseSchedule):
    """A straight path, as in flow matching."""

    t_min = 1e-3
    t_max = 0.99

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time(self, s: Tensor) -> Tensor:
        return s / (1 + s)


class WithoutEnd(da.NoiseSchedule):
    t_min = 1e-3
    alpha, sigma, time = Line.alpha, Line.sigma, Line.time


class WordEnd(Line):
    t_min = "0.1"  # pyright: ignore


class Empty(Line):
    t_min = 0.99


class WrongInverse(Line):
    def time(self, s: Tensor) -> Tensor:
        return s


class SquaredInverse(Line):
    def time(self, s: Tensor) -> Tensor:
        return s**2 / (1 + s**2)


class SnrInverse(Line):
    def time(self, s: Tensor) -> Tensor:
        return (1 / s) / (1 + 1 / s)


class Constant(Line):
    def alpha(self, t: Tensor) -> Tensor:
        return 1.0  # pyright: ignore


class Backwards(Line):
    alpha, sigma = Line.sigma, Line.alpha

    def time(self, s: Tensor) -> Tensor:
        return 1 / (1 + s)


class Negative(Line):
    def sigma(self, t: Tensor) -> Tensor:
        return t - 0.5


class Squeezed(Line):
    def sigma(self, t: Tensor) -> Tensor:
        return t.mean()


class Rule(Line):
    default_spacing = "lambda"


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        (WithoutEnd(), TypeError, r"WithoutEnd has no t_max; expected a number"),
        (WordEnd(), TypeError, "t_min of WordEnd is a str"),
        (Empty(), ValueError, "t_min=0.99 and t_max=0.99 of Empty"),
        (WrongInverse(), ValueError, r"time of WrongInverse is not the inverse of sigma/alpha: at t=.*expected"),
        (SquaredInverse(), ValueError, r"time of SquaredInverse is not the inverse"),
        (SnrInverse(), ValueError, r"time of SnrInverse is not the inverse"),
        (Constant(), TypeError, r"alpha of Constant returned a float; expected a tensor"),
        (Backwards(), ValueError, r"sigma/alpha of Backwards does not rise"),
        (Negative(), ValueError, r"sigma of Negative is -0\.499"),
        (Squeezed(), ValueError, r"sigma of Squeezed returned a tensor of shape \(\)"),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, da.NoiseSchedule) else "",
)
def test_own_schedules_that_do_not_fit_together(
    schedule: da.NoiseSchedule, error: type[Exception], message: str
) -> None:
    model = da.DiffusionModel(lambda x, t: 0 * x, schedule, "x0")
    times = torch.tensor([0.9, 0.5, 0.1])
    calls: list[Callable[[], Any]] = [
        lambda: schedule.times(10),
        lambda: schedule.times(10, "uniform"),
        lambda: schedule.times(2, times),
        lambda: da.sample(model, (2, 1), steps=10),
        lambda: da.sample(model, (2, 1), spacing=times),
        lambda: da.probability_flow(model),
        lambda: da.reverse_sde(model),
        lambda: da.plan(model, (2, 1), steps=10),
    ]
    for call in calls:
        with pytest.raises(error, match=message):
            call()


def test_an_own_schedule_that_fits_is_that_of_the_library() -> None:
    with pytest.raises(ValueError, match="default_spacing of Rule='lambda' is unknown"):
        Rule().times(4)
    own, ours = Line(), da.Flow(t_min=1e-3, t_max=0.99)
    assert torch.equal(own.times(10, "uniform"), ours.times(10, "uniform"))
    assert torch.allclose(own.times(10, "karras"), ours.times(10, "karras"), rtol=1e-12)


# --- Heun into no noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"coarse": "same"}, {"coarse": "none"}, {"width": 3}, {"parallel": False}])
@pytest.mark.parametrize("own_grid", [True, False])
def test_heun_of_a_denoiser_is_algorithm_1_of_edm(more: dict[str, Any], own_grid: bool) -> None:
    """Written out from the paper: Heun's steps, and in the last one, to sigma = 0, that of Euler alone."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.sin(x) / (1 + sigma[:, None] ** 2).sqrt()

    calls = 0

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal calls
        calls += len(x)
        assert bool((sigma > 0).all())
        return denoise(x, sigma)

    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    n, low, high = 12, 0.02, 20.0
    root = torch.linspace(high ** (1 / 7), low ** (1 / 7), n, dtype=torch.float64)
    sigmas = torch.cat([root**7, torch.zeros(1, dtype=torch.float64)])
    x = sigmas[0] * noise
    for now, then in pairwise(sigmas):
        slope = (x - denoise(x, now.expand(3))) / now
        new = x + (then - now) * slope
        if then > 0:
            end = (new - denoise(new, then.expand(3))) / then
            new = x + (then - now) * (slope + end) / 2
        x = new
    model = da.from_denoiser(counted, low, high)
    grid = {"spacing": sigmas} if own_grid else {"steps": n}
    out = da.sample(model, noise, solver="heun", rtol=1e-9, **grid, **more)
    assert out.solution.converged or not more.get("parallel", True)
    assert float((out.samples - x).norm() / x.norm()) < 1e-7
    if not more.get("parallel", True):
        assert calls == (2 * n - 1) * 3


def test_methods_that_need_the_noise_at_its_end_say_what_to_write() -> None:
    model = da.from_denoiser(lambda x, sigma: 0 * x)
    with pytest.raises(ValueError, match=r'solver=Heun\(.*or "heun".*to_zero=False'):
        da.sample(model, (2, 1), solver=pr.Heun())
    with pytest.raises(ValueError, match=r"coarse=RK4\(.*use coarse=pr\.Euler\(\).*to_zero=False"):
        da.sample(model, (2, 1), coarse=pr.RK4())
    flow = da.DiffusionModel(lambda x, t: 0 * x, da.Flow(), "x0")
    assert bool(da.sample(flow, (2, 1), steps=8, solver="heun").samples.isfinite().all())
    with pytest.raises(ValueError, match="Flow with a larger t_min"):
        da.sample(flow, (2, 1), solver=pr.RK4())


# --- one check for three functions ----------------------------------------------------------------------------------


class Pipe:
    """As much of a pipeline as `parallelize` looks at before a call."""

    def __init__(self) -> None:
        self.scheduler = SimpleNamespace(set_timesteps=len)
        self.unet = nn.Linear(1, 1)

    def __call__(self) -> None:
        """Not reached."""


BAD = st.one_of(
    st.fixed_dictionaries({"solver": st.sampled_from(["plms", "dpmpp_2m", 3, pr.Euler])}),
    st.fixed_dictionaries({"coarse": st.sampled_from([None, "picard", 3, pr.Euler, len])}),
    st.fixed_dictionaries({"slices": st.sampled_from([0, -1, 2.0, True, "4"])}),
    st.fixed_dictionaries({"width": st.sampled_from([0, -1, 2.0, True, "4"])}),
    st.fixed_dictionaries({"schedule": st.sampled_from([3, "wavefront", pr.Wavefront])}),
    st.fixed_dictionaries({"stop": st.sampled_from([1e-3, "never", pr.Iterations])}),
    st.fixed_dictionaries({"max_iterations": st.sampled_from([0, 2.0, "4"])}),
    st.fixed_dictionaries({"verify": st.sampled_from([1, "yes", None])}),
    st.fixed_dictionaries({"rtol": st.sampled_from([-1.0, float("nan"), "1e-3"])}),
    st.just({"width": 4, "schedule": pr.Wavefront()}),
    st.just({"rtol": 1e-3, "stop": pr.Iterations(2)}),
)


@given(BAD)
def test_sample_and_parallelize_say_the_same(bad: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as ours:
        da.sample(MODEL, (1, 1), steps=4, **bad)
    with pytest.raises(type(ours.value)) as theirs:
        da.diffusers.parallelize(Pipe(), **bad)
    assert str(ours.value) == str(theirs.value)
    assert "expected" in str(ours.value)
    with pytest.raises(type(ours.value)) as serial:
        da.sample(MODEL, (1, 1), steps=4, parallel=False, **bad)
    assert str(serial.value) == str(ours.value)
