"""Noise schedules: the formulas of the papers, inverse maps, derivatives, grids, and what is refused."""

import math

import pytest
import torch
from diffusion.cases import SCHEDULES, alphas_cumprod, inner_times
from hypothesis import assume, given
from hypothesis import strategies as st

import diffusion_adapters as da

NAMES = sorted(SCHEDULES)
PRESERVING = [name for name in NAMES if name.startswith(("vp", "cosine", "discrete"))]


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
@given(share=st.floats(0.0, 1.0))
def test_time_inverts_s(name: str, share: float) -> None:
    schedule = SCHEDULES[name]
    t = f64(schedule.t_min + (schedule.t_max - schedule.t_min) * share)
    assume(not name.startswith("discrete") or min(t.item() % 1, -t.item() % 1) > 1e-6 or t.item() % 1 == 0)
    span = schedule.t_max - schedule.t_min
    # How much a rounding error in s moves t: small where s changes fast.
    s = schedule.s(t)
    condition = 1.0
    if math.isfinite(s.item()) and s.item() > 0:
        near = schedule.time(s * (1 + 1e-6))
        condition = max(1.0, ((near - schedule.time(s)).abs() / 1e-6 / span).item())
    assert abs(schedule.time(s).item() - t.item()) <= 1e-12 * span * condition


@pytest.mark.parametrize("name", NAMES)
def test_noise_rises_with_time_and_keeps_shape(name: str) -> None:
    schedule = SCHEDULES[name]
    t = torch.linspace(schedule.t_min, schedule.t_max, 101, dtype=torch.float64)
    assert bool((schedule.s(t).diff() > 0).all())
    assert bool((schedule.alpha(t) >= 0).all())
    grid = inner_times(schedule, 12).reshape(3, 4)
    for curve in (schedule.alpha, schedule.sigma, schedule.s, schedule.log_snr, schedule.alpha_dot, schedule.sigma_dot):
        assert curve(grid).shape == grid.shape
        assert curve(grid).dtype == torch.float64
        assert bool(torch.isfinite(curve(grid)).all())
    torch.testing.assert_close(schedule.log_snr(grid), -2 * schedule.s(grid).log(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PRESERVING)
def test_variance_is_preserved(name: str) -> None:
    schedule = SCHEDULES[name]
    t = torch.linspace(schedule.t_min, schedule.t_max, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, torch.ones_like(t), rtol=0, atol=4e-15)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_central_differences(name: str) -> None:
    schedule = SCHEDULES[name]
    t = inner_times(schedule)
    h = 1e-6 * (schedule.t_max - schedule.t_min)
    for curve, slope in ((schedule.alpha, schedule.alpha_dot), (schedule.sigma, schedule.sigma_dot)):
        measured = (curve(t + h) - curve(t - h)) / (2 * h)
        torch.testing.assert_close(slope(t), measured, rtol=1e-5, atol=1e-7 / (schedule.t_max - schedule.t_min))


def test_derivatives_need_no_gradients() -> None:
    with torch.no_grad():
        assert da.Flow().alpha_dot(f64(0.3)).item() == -1.0
    with torch.inference_mode():
        assert da.Flow().sigma_dot(f64(0.3)).item() == 1.0


def test_vp_is_the_published_formula() -> None:
    t = inner_times(da.VP())
    integral = 0.1 * t + 0.5 * (20.0 - 0.1) * t**2
    torch.testing.assert_close(da.VP().alpha(t), torch.exp(-integral / 2), rtol=1e-14, atol=0)
    torch.testing.assert_close(da.VP().sigma(t), torch.sqrt(1 - torch.exp(-integral)), rtol=1e-13, atol=0)
    near_zero = f64(1e-12)
    assert da.VP(t_min=1e-14).sigma(near_zero).item() == pytest.approx(math.sqrt(1e-13), rel=1e-9)


def test_vp_inverts_at_extreme_levels_of_noise() -> None:
    little = da.VP(t_min=1e-9)
    t = torch.logspace(-9, -4, 6, dtype=torch.float64)
    torch.testing.assert_close(little.time(little.s(t)), t, rtol=1e-14, atol=0)
    much = da.VP(beta_max=1399.0)  # s is 1e152
    t = f64(0.9, 1.0)
    torch.testing.assert_close(much.time(much.s(t)), t, rtol=1e-14, atol=0)
    assert da.VP(beta_min=0.0).time(f64(0.0)).item() == 0.0


def test_cosine_is_the_published_formula() -> None:
    t = inner_times(da.VP.cosine(t_max=1.0))

    def f(time: torch.Tensor) -> torch.Tensor:
        return torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    torch.testing.assert_close(da.VP.cosine().alpha(t) ** 2, f(t) / f(f64(0.0)), rtol=1e-12, atol=1e-15)
    assert da.VP.cosine(t_max=1.0).alpha(f64(1.0)).item() == 0.0
    assert isinstance(da.VP.cosine(), da.CosineVP)


def test_ve_edm_and_flow_are_the_published_formulas() -> None:
    t = inner_times(da.VE(0.02, 30.0))
    torch.testing.assert_close(da.VE(0.02, 30.0).sigma(t), 0.02 * (30.0 / 0.02) ** t, rtol=1e-14, atol=0)
    assert torch.equal(da.VE().alpha(t), torch.ones_like(t))
    edm = inner_times(da.EDM())
    assert torch.equal(da.EDM().sigma(edm), edm)
    assert (da.EDM(0.1, 7.0).t_min, da.EDM(0.1, 7.0).t_max) == (0.1, 7.0)
    assert torch.equal(da.Flow().alpha(t) + da.Flow().sigma(t), torch.ones_like(t))
    assert da.Flow().time(f64(0.0, 1.0, math.inf)).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("zero_terminal", [False, True])
def test_discrete_is_exact_at_the_timesteps_and_linear_in_log_snr_between(zero_terminal: bool) -> None:
    table = alphas_cumprod(zero_terminal=zero_terminal)
    schedule = da.Discrete(table)
    whole = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(schedule.alpha(whole) ** 2, table, rtol=1e-12, atol=0)
    assert schedule.alpha(whole[-1]).item() == pytest.approx(math.sqrt(table[-1].item()), rel=1e-15, abs=0)
    torch.testing.assert_close(schedule.sigma(whole) ** 2, 1 - table, rtol=1e-12, atol=0)
    between = whole[:-2] + 0.25
    expected = 0.75 * torch.logit(table[:-2]) + 0.25 * torch.logit(table[1:-1])
    torch.testing.assert_close(schedule.log_snr(between), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(schedule.time(schedule.s(whole)), whole), "timesteps must come back as integers"


def test_discrete_is_continuous_next_to_its_ends() -> None:
    schedule = SCHEDULES["discrete-both-ends"]
    for knot in (1.0, 98.0):
        around = f64(knot - 1e-9, knot + 1e-9)
        assert schedule.alpha(around).diff().abs().item() < 1e-8
    assert schedule.s(f64(0.0, 99.0)).tolist() == [0.0, math.inf]
    assert schedule.alpha(f64(0.0, 99.0)).tolist() == [1.0, 0.0]
    assert schedule.sigma(f64(0.0, 99.0)).tolist() == [0.0, 1.0]
    assert bool(torch.isfinite(schedule.alpha_dot(f64(0.0, 99.0))).all())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spacing", ["logsnr", "karras", "uniform", None])
@pytest.mark.parametrize("steps", [1, 2, 50, 1024])
@pytest.mark.sweep(50)
def test_grids_fall_from_end_to_end(name: str, spacing: str | None, steps: int) -> None:
    schedule = SCHEDULES[name]
    ends = schedule.s(f64(schedule.t_max, schedule.t_min))
    if (spacing in ("logsnr", "karras") and math.isinf(ends[0])) or (spacing == "logsnr" and ends[1] == 0):
        with pytest.raises(ValueError, match=rf'spacing="{spacing}" is not defined.*spacing="uniform"'):
            schedule.times(steps, spacing)
        return
    times = schedule.times(steps, spacing)
    assert times.shape == (steps + 1,)
    assert times.dtype == torch.float64
    assert bool((times.diff() < 0).all())
    assert (times[0].item(), times[-1].item()) == (schedule.t_max, schedule.t_min)


def test_spacings_are_what_they_say() -> None:
    schedule = da.VP()
    log_snr = schedule.log_snr(schedule.times(10, "logsnr"))
    torch.testing.assert_close(log_snr.diff(), log_snr.diff().mean().expand(10), rtol=1e-9, atol=0)
    root = schedule.s(schedule.times(10, "karras")) ** (1 / 7)
    torch.testing.assert_close(root.diff(), root.diff().mean().expand(10), rtol=1e-9, atol=0)
    flat = schedule.times(10, "uniform")
    torch.testing.assert_close(flat.diff(), flat.diff().mean().expand(10), rtol=1e-12, atol=0)
    i = torch.arange(11, dtype=torch.float64)
    edm = (80 ** (1 / 5) + i / 10 * (0.002 ** (1 / 5) - 80 ** (1 / 5))) ** 5  # arXiv 2206.00364, eq. 5
    torch.testing.assert_close(da.EDM(rho=5.0).times(10), edm, rtol=1e-13, atol=0)


def test_flow_shift_moves_the_uniform_grid_and_nothing_else() -> None:
    i = torch.linspace(1, 0, 9, dtype=torch.float64)
    torch.testing.assert_close(da.Flow(shift=3.0).times(8), 3 * i / (1 + 2 * i), rtol=1e-14, atol=0)
    torch.testing.assert_close(da.Flow().times(8), i, rtol=0, atol=0)
    t = inner_times(da.Flow())
    assert torch.equal(da.Flow(shift=3.0).sigma(t), da.Flow().sigma(t))


def test_defaults() -> None:
    assert torch.equal(da.VP().times(7), da.VP().times(7, "logsnr"))
    assert torch.equal(da.EDM().times(7), da.EDM().times(7, "karras"))
    assert torch.equal(da.Flow().times(7), da.Flow().times(7, "uniform"))
    assert torch.equal(SCHEDULES["discrete"].times(7), SCHEDULES["discrete"].times(7, "logsnr"))
    assert torch.equal(SCHEDULES["discrete-zero-snr"].times(7), SCHEDULES["discrete-zero-snr"].times(7, "uniform"))


def test_times_of_ones_own() -> None:
    times = torch.tensor([999, 500, 20, 0])
    assert SCHEDULES["discrete"].times(1, times).tolist() == [999.0, 500.0, 20.0, 0.0]
    # 0.002 in float32 is a little more than in float64, 0.01 a little less: both are the end that was meant.
    rounded = torch.tensor([80.0, 1.0, 0.002], dtype=torch.float32)
    assert da.EDM().times(2, rounded)[-1].item() == pytest.approx(0.002, rel=1e-7)
    assert da.EDM(sigma_min=0.01).times(2, torch.tensor([80.0, 0.01]))[-1].item() == 0.01


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (torch.tensor([1.0, 0.5, 0.5, 0.1]), "do not fall: 0.5 is followed by 0.5"),
        (torch.tensor([0.1, 0.5]), "do not fall"),
        (torch.tensor([1.1, 0.5]), r"1\.1.* is outside \[0\.001, 1\.0\]"),
        (torch.tensor([1.0, 0.0]), "is outside"),
        (torch.tensor([1.0, math.nan, 0.1]), "NaN"),
        (torch.tensor([1.0]), "at least 2"),
        (torch.ones(2, 2), "row of at least 2"),
    ],
)
def test_bad_times_are_refused(times: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        da.VP().times(3, times)


def test_bad_steps_and_spacings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps=0 is too small"):
        da.VP().times(0)
    with pytest.raises(TypeError, match=r"steps=2\.5 is a float"):
        da.VP().times(2.5)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="'cubic' is unknown; expected one of 'logsnr', 'karras', 'uniform', or a tensor"
    ):
        da.VP().times(3, "cubic")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: da.VP(beta_min=20.0, beta_max=0.1), "0 <= beta_min <= beta_max"),
        (lambda: da.VP(beta_min=-1.0), "0 <= beta_min"),
        (lambda: da.VP(beta_max=math.nan), "beta_max=nan is not finite"),
        (lambda: da.VP(beta_max=1600.0), "an integral of beta below 700"),
        (lambda: da.VP(t_min=0.0), "0 < t_min < t_max"),
        (lambda: da.VP(t_min=1.0, t_max=0.5), "0 < t_min < t_max"),
        (lambda: da.VP.cosine(t_max=1.1), "t_max <= 1"),
        (lambda: da.VP.cosine(s=-0.1), "s=-0.1 is negative"),
        (lambda: da.VE(50.0, 0.01), "0 < sigma_min < sigma_max"),
        (lambda: da.VE(0.0, 1.0), "0 < sigma_min < sigma_max"),
        (lambda: da.EDM(sigma_min=-1.0), "0 < sigma_min < sigma_max"),
        (lambda: da.EDM(rho=0.0), "rho=0.0 is not positive"),
        (lambda: da.Flow(shift=0.0), "shift=0.0 is not positive"),
        (lambda: da.Flow(t_max=1.5), "0 <= t_min < t_max <= 1"),
        (lambda: da.Discrete(torch.tensor([0.9, 0.5, 0.5])), r"alphas_cumprod\[1\]=0.5 is followed by 0.5"),
        (lambda: da.Discrete(torch.linspace(0.1, 0.9, 5)), "strictly falling"),
        (lambda: da.Discrete(torch.tensor([1.2, 0.5])), r"expected numbers in \(0, 1\]"),
        (lambda: da.Discrete(torch.tensor([0.9, -0.1])), r"expected numbers in \(0, 1\]"),
        (lambda: da.Discrete(torch.tensor([0.9, math.nan])), "NaN"),
        (lambda: da.Discrete(torch.tensor([0.9])), "T >= 2"),
        (lambda: da.Discrete(torch.rand(3, 3)), "expected \\(T,\\)"),
    ],
)
def test_bad_schedules_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_wrong_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match="beta_min='a' is a str"):
        da.VP(beta_min="a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="alphas_cumprod is list"):
        da.Discrete([0.9, 0.1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"alphas_cumprod is torch\.int64"):
        da.Discrete(torch.tensor([1, 0]))


def test_schedules_are_values() -> None:
    assert da.VP() == da.VP(0.1, 20)
    assert repr(da.Discrete(alphas_cumprod())).startswith("Discrete(T=1000")
    with pytest.raises(AttributeError):
        da.VP().beta_min = 1.0  # type: ignore[misc]
