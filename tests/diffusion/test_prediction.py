"""Conversions between predictions: every pair, against the definitions, and at the ends of the schedules."""

import pytest
import torch
from diffusion.cases import PREDICTIONS, SCHEDULES, inner_times, normals
from hypothesis import given
from hypothesis import strategies as st

import diffusion_adapters as da

PAIRS = [(a, b) for a in PREDICTIONS for b in PREDICTIONS]


def by_definition(kind: str, x0, eps, alpha, sigma, alpha_dot, sigma_dot) -> torch.Tensor:
    return {
        "eps": lambda: eps,
        "x0": lambda: x0,
        "v": lambda: alpha * eps - sigma * x0,
        "score": lambda: -eps / sigma,
        "velocity": lambda: alpha_dot * x0 + sigma_dot * eps,
    }[kind]()


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.sweep(60)
def test_every_pair_agrees_with_the_definitions(name: str, source: str, target: str) -> None:
    schedule = SCHEDULES[name]
    t = inner_times(schedule)
    levels = [curve(t) for curve in (schedule.alpha, schedule.sigma, schedule.alpha_dot, schedule.sigma_dot)]
    x0, eps = normals(len(t), 3, seed=1), normals(len(t), 3, seed=2)
    columns = [level[:, None] for level in levels]
    x = columns[0] * x0 + columns[1] * eps
    got = da.convert(
        by_definition(source, x0, eps, *columns), x, *levels[:2],
        source=source, target=target, alpha_dot=levels[2], sigma_dot=levels[3],
    )  # fmt: skip
    expected = by_definition(target, x0, eps, *columns)
    # x0 is worked out from differences as large as x, and so is eps: that is what rounding can do.
    s = columns[1] / columns[0]
    slack = (1 + s + 1 / s) ** 2
    assert bool(((got - expected).abs() <= 1e-13 * slack * (1 + expected.abs())).all())


@given(
    angle=st.floats(0.05, 1.5),
    source=st.sampled_from(PREDICTIONS),
    target=st.sampled_from(PREDICTIONS),
    seed=st.integers(0, 2**16),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_there_and_back(angle: float, source: str, target: str, seed: int, dtype: torch.dtype) -> None:
    turn = torch.tensor([angle], dtype=torch.float64)
    levels = {"alpha": turn.cos(), "sigma": turn.sin(), "alpha_dot": -turn.sin(), "sigma_dot": turn.cos()}
    value, x = normals(2, 3, seed=seed, dtype=dtype), normals(2, 3, seed=seed + 1, dtype=dtype)
    there = da.convert(value, x, **levels, source=source, target=target)
    back = da.convert(there, x, **levels, source=target, target=source)
    assert there.dtype == dtype
    slack = 8 * (1 / turn.sin() + 1 / turn.cos()).item() ** 2
    size = max(value.abs().max().item(), x.abs().max().item(), there.abs().max().item())
    assert (back - value).abs().max().item() <= torch.finfo(dtype).eps * slack * size


@pytest.mark.parametrize("source", ["x0", "v", "velocity"])
@pytest.mark.parametrize("target", ["eps", "x0", "v", "velocity", "score"])
def test_finite_and_right_without_signal(source: str, target: str) -> None:
    at = {"alpha": 0.0, "sigma": 1.0, "alpha_dot": -1.0, "sigma_dot": 1.0}
    check_at_an_end(at, source, target)


# Of the noise nothing is known from a finite score where sigma = 0, but x0 is x.
@pytest.mark.parametrize(
    ("source", "target"),
    [("score", "x0"), *((a, b) for a in ("eps", "v", "velocity") for b in ("eps", "x0", "v", "velocity"))],
)
def test_finite_and_right_without_noise(source: str, target: str) -> None:
    check_at_an_end({"alpha": 1.0, "sigma": 0.0, "alpha_dot": -1.0, "sigma_dot": 1.0}, source, target)


def check_at_an_end(at: dict[str, float], source: str, target: str) -> None:
    x0, eps = normals(4, seed=1), normals(4, seed=2)
    levels = {name: torch.tensor([value], dtype=torch.float64) for name, value in at.items()}
    x = at["alpha"] * x0 + at["sigma"] * eps
    value = (
        normals(4, seed=3)
        if source == "score" and at["sigma"] == 0
        else by_definition(source, x0, eps, *levels.values())
    )
    got = da.convert(value[None], x[None], **levels, source=source, target=target)
    torch.testing.assert_close(got[0], by_definition(target, x0, eps, *levels.values()), rtol=1e-14, atol=1e-14)


def test_a_difference_of_near_numbers_is_exact_where_alpha_is_one() -> None:
    x0 = normals(1, 50, dtype=torch.float32)
    x = x0 + 0.001
    one, sigma = torch.ones(1, dtype=torch.float64), torch.full((1,), 0.0011, dtype=torch.float64)
    eps = da.convert(x0, x, one, sigma, source="x0", target="eps")
    assert torch.equal(eps, (x - x0) / torch.tensor(0.0011))


def test_the_same_prediction_is_passed_through_untouched() -> None:
    value = normals(2, 2)
    zero = torch.zeros(2, dtype=torch.float64)
    assert da.convert(value, value, zero, zero, source="eps", target="eps") is value


def test_unknown_predictions_are_refused() -> None:
    one = torch.ones(1, dtype=torch.float64)
    known = "expected one of 'eps', 'x0', 'v', 'score', 'velocity'"
    with pytest.raises(ValueError, match=f"source='noise' is unknown; {known}"):
        da.convert(one, one, one, one, source="noise", target="eps")
    with pytest.raises(ValueError, match=f"target='sample' is unknown; {known}"):
        da.convert(one, one, one, one, source="eps", target="sample")
    with pytest.raises(ValueError, match=r"alpha_dot=schedule\.alpha_dot"):
        da.convert(one, one, one, one, source="velocity", target="eps")
