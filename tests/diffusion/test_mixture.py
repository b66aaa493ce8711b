"""The mixture oracle against autograd of the log-density, finite differences, and what is known of its flow."""

import math

import pytest
import torch
from diffusion.cases import PREDICTIONS, SCHEDULES, inner_times, mixture, normals, relative
from torch import Tensor

import diffusion_adapters as da


def log_density(oracle: da.GaussianMixture, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Of the noisy data, from torch's own distributions; shapes ``(B, D)``, ``()``, ``()`` -> ``(B,)``."""
    scale = (alpha**2 * torch.as_tensor(oracle.variances) + sigma**2).sqrt()
    normal = torch.distributions.Normal(alpha * oracle.means, scale[:, None].expand_as(oracle.means))
    parts = torch.distributions.Independent(normal, 1)
    blobs = torch.distributions.Categorical(torch.as_tensor(oracle.weights))
    return torch.distributions.MixtureSameFamily(blobs, parts).log_prob(x)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_score_is_the_gradient_of_the_log_density(name: str) -> None:
    schedule, oracle = SCHEDULES[name], mixture()
    network = oracle.network(schedule, "score")
    for t in inner_times(schedule, 6):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        x = (alpha * normals(5, 4) + sigma * normals(5, 4, seed=1)).requires_grad_()
        (expected,) = torch.autograd.grad(log_density(oracle, x, alpha, sigma).sum(), x)
        torch.testing.assert_close(network(x.detach(), t.expand(5)), expected, rtol=1e-9, atol=1e-9)


def test_the_score_by_finite_differences() -> None:
    schedule, oracle = da.VP(), mixture(dims=2)
    t, x, h = torch.tensor(0.4, dtype=torch.float64), normals(3, 2), 1e-6
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    slopes = [
        (log_density(oracle, x + step, alpha, sigma) - log_density(oracle, x - step, alpha, sigma)) / (2 * h)
        for step in h * torch.eye(2, dtype=torch.float64)
    ]
    torch.testing.assert_close(oracle.network(schedule, "score")(x, t), torch.stack(slopes, 1), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.sweep(18)
def test_predictions_convert_into_each_other(name: str, prediction: str) -> None:
    schedule, oracle = SCHEDULES[name], mixture()
    t = inner_times(schedule, 7)
    x = schedule.sigma(t)[:, None] * normals(7, 4)
    levels = {
        "alpha": schedule.alpha(t), "sigma": schedule.sigma(t),
        "alpha_dot": schedule.alpha_dot(t), "sigma_dot": schedule.sigma_dot(t),
    }  # fmt: skip
    value = oracle.network(schedule, prediction)(x, t)
    for target in PREDICTIONS:
        got = da.convert(value, x, **levels, source=prediction, target=target)
        s = (levels["sigma"] / levels["alpha"])[:, None]
        expected = oracle.network(schedule, target)(x, t)
        assert bool(((got - expected).abs() <= 1e-13 * (1 + s + 1 / s) ** 2 * (1 + expected.abs())).all()), target


def test_x0_is_the_mean_of_the_posterior() -> None:
    """By quadrature over the data, in one dimension."""
    schedule, oracle = da.VP(), mixture(dims=1)
    t, x = torch.tensor(0.3, dtype=torch.float64), torch.tensor([[0.7]], dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    data = torch.linspace(-8, 8, 40001, dtype=torch.float64)
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    weight = torch.exp(log_density(oracle, data[:, None], one, zero) - (x[0] - alpha * data) ** 2 / (2 * sigma**2))
    expected = (weight * data).sum() / weight.sum()
    torch.testing.assert_close(oracle.network(schedule, "x0")(x, t)[0, 0], expected, rtol=1e-10, atol=0)


def test_finite_at_both_ends() -> None:
    oracle, x = mixture(), normals(2, 4)
    for prediction in ("eps", "x0", "v", "velocity"):
        value = oracle.network(da.Flow(), prediction)(x, torch.tensor([0.0, 1.0], dtype=torch.float64))
        assert bool(torch.isfinite(value).all())
    x0 = oracle.network(da.Flow(), "x0")(x, torch.tensor([0.0, 1.0], dtype=torch.float64))
    weights = torch.as_tensor(oracle.weights)
    torch.testing.assert_close(x0[0], x[0])
    torch.testing.assert_close(x0[1], (weights[:, None] * oracle.means).sum(0))


def test_labels_leave_one_component() -> None:
    schedule, oracle = da.VP(), mixture()
    t, x = torch.full((3,), 0.5, dtype=torch.float64), normals(3, 4)
    got = oracle.network(schedule, "x0")(x, t, label=torch.tensor([2, -1, 0]))
    for row, k in ((0, 2), (2, 0)):
        variance = torch.as_tensor(oracle.variances)[k].item()
        alone = da.GaussianMixture(oracle.means[k : k + 1], variance).network(schedule, "x0")(x, t)
        torch.testing.assert_close(got[row], alone[row], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(got[1], oracle.network(schedule, "x0")(x, t)[1], rtol=1e-13, atol=1e-13)
    with pytest.raises(ValueError, match=r"label holds \[3\]; expected 0 \.\.\. 2"):
        oracle.network(schedule)(x, t, label=torch.tensor([0, 1, 3]))


def test_any_shape_dtype_and_time() -> None:
    oracle = da.GaussianMixture(normals(3, 2, 2), torch.tensor([0.1, 0.2, 0.3]))
    network = oracle.network(da.VP())
    x = normals(5, 2, 2, dtype=torch.float32)
    value = network(x, torch.tensor(0.5))
    assert (value.shape, value.dtype) == ((5, 2, 2), torch.float32)
    flat = da.GaussianMixture(normals(3), 0.1).network(da.VP())(normals(5), torch.full((5,), 0.5))
    assert flat.shape == (5,)
    assert relative(value.double(), network(x.double(), torch.tensor(0.5))) < 4 * torch.finfo(torch.float32).eps


def test_draw_has_the_moments_of_the_mixture() -> None:
    oracle = mixture(dims=2)
    data = oracle.draw(20_000, torch.Generator().manual_seed(0))
    weights = torch.as_tensor(oracle.weights)
    mean = (weights[:, None] * oracle.means).sum(0)
    second = (weights[:, None] * (oracle.means**2 + torch.as_tensor(oracle.variances)[:, None])).sum(0)
    assert (data.shape, data.dtype) == ((20_000, 2), torch.float64)
    five_sigma = 5 * data.std(0) / math.sqrt(len(data))
    assert bool(((data.mean(0) - mean).abs() < five_sigma).all())
    assert bool((((data**2).mean(0) - second).abs() < 5 * (data**2).std(0) / math.sqrt(len(data))).all())


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((torch.ones(2, 2), 0.0), ValueError, "variances holds 0.0"),
        ((torch.ones(2, 2), torch.ones(3)), ValueError, r"variances has shape \(3,\)"),
        ((torch.ones(2, 2), 1.0, torch.tensor([1.0, -1.0])), ValueError, "weights holds -1.0"),
        ((torch.ones(2, 2), math.nan), ValueError, "variances holds nan"),
        ((torch.full((2, 2), math.nan), 1.0), ValueError, "means"),
        ((torch.ones(0, 2), 1.0), ValueError, "means"),
        ((torch.ones(2, 2, dtype=torch.int64), 1.0), TypeError, r"means is torch\.int64"),
        (([[1.0]], 1.0), TypeError, "means is list"),
    ],
)
def test_bad_mixtures_are_refused(args: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        da.GaussianMixture(*args)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'noise' is unknown"):
        mixture().network(da.VP(), "noise")  # type: ignore[arg-type]
