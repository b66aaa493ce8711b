"""The trained networks in `benchmarks/networks`: they load, predict, sample in parallel, and are measured rightly."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from networks import NAMES, Network, load
from networks.classifiers import CLASSIFIERS
from networks.data import SIDE, _places
from networks.layers import Denoiser
from networks.load import FOLDER, SMALLER, SPECS
from networks.quality import energy_test, frechet, held_out, quality
from networks.training import Recipe, draw_times, fit

import diffusion_adapters as da

ROOT = Path(__file__).parents[2]
PREDICTIONS = {"eps": da.VP(), "x0": da.EDM(), "v": da.VP.cosine(), "velocity": da.Flow()}


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> Network:
    return load(request.param)


def test_files_are_small_and_not_in_the_wheel():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert packages == {"packages": ["parareal", "diffusion_adapters"]}
    for name in (*NAMES, *SMALLER):
        for path in FOLDER.glob(f"{name}*.safetensors"):
            assert path.stat().st_size < 4e6
            assert path.parent == ROOT / "benchmarks" / "networks"


def test_loads_ready_to_use(network: Network):
    inner = network.model.network
    assert isinstance(inner, Denoiser)
    assert not inner.training
    assert not any(p.requires_grad for p in inner.parameters())
    assert {p.dtype for p in inner.parameters()} == {torch.float32}
    assert {"data", "licence", "training"} <= network.metadata.keys()
    assert (inner.std > 0).all()
    assert inner.prediction == network.model.prediction


def test_one_of_each_kind():
    assert {spec.prediction for spec in SPECS.values()} == {"eps", "x0", "v", "velocity"}
    assert len({type(spec.noise_schedule) for spec in SPECS.values()}) == 4
    assert [name for name in NAMES if load(name).autoencoder is not None] == ["speech"]


def test_unknown_name():
    with pytest.raises(ValueError, match=r"'digits'.*fashion, photos, speech, strokes, strokes-small"):
        load("digits")


@pytest.mark.parametrize("name", SMALLER)
def test_smaller_networks_predict_what_the_others_do(name: str):
    """Noise of a known size in real-looking samples: the smaller network finds nearly as much of it."""
    small, large = load(name), load(name.removesuffix("-small"))
    sizes = [sum(p.numel() for p in network.model.network.parameters()) for network in (small, large)]
    assert 5 * sizes[0] < sizes[1]
    labels, t = large.labels(20), torch.full((20,), 0.5)
    x = da.sample(large.conditioned(labels), large.noise(20), 12, parallel=False).samples
    noisy = large.model.noise_schedule.alpha(t[:1]) * x + large.model.noise_schedule.sigma(t[:1]) * large.noise(20, 1)
    found, wanted = (network.conditioned(labels).predict(noisy, t) for network in (small, large))
    assert (found - wanted).norm() < 0.3 * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_predictions(network: Network, dtype: torch.dtype):
    model = load(network.name, dtype=dtype).model
    x = network.noise(6, seed=1).to(dtype)
    schedule = network.model.noise_schedule
    t = schedule.times(5, "logsnr" if network.name != "photos" else "uniform")
    x = schedule.sigma(t).to(dtype).view(6, *[1] * (x.ndim - 1)) * x
    value = model.with_conditioning(label=network.labels(6)).predict(x, t)
    assert value.shape == x.shape
    assert value.dtype == dtype
    assert torch.isfinite(value).all()


def test_rows_are_independent(network: Network):
    x, labels, t = network.noise(7, seed=2), network.labels(7), torch.linspace(0.1, 0.9, 7)
    together = network.model.network(x, t, labels)
    alone = torch.cat([network.model.network(x[n : n + 1], t[n : n + 1], labels[n : n + 1]) for n in range(7)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_classes_and_guidance(network: Network):
    x, t = network.noise(4, seed=3), torch.tensor(0.5)
    labels = network.labels(4)
    with_class = network.conditioned(labels).predict(x, t)
    without = network.model.predict(x, t)
    anything = network.conditioned(torch.full((4,), len(network.classes))).predict(x, t)
    torch.testing.assert_close(without, anything)
    assert (with_class - without).abs().max() > 1e-3
    guided = network.conditioned(labels, 3.0).predict(x, t)
    torch.testing.assert_close(guided, without + 3 * (with_class - without), rtol=1e-4, atol=1e-4)


def test_default_sampler_gives_the_serial_sample(network: Network):
    model, noise = network.conditioned(network.labels(2)), network.noise(2, seed=4)
    serial = da.sample(model, noise, steps=25, parallel=False).samples
    found = da.sample(model, noise, steps=25, rtol=1e-3)
    distance = (found.samples - serial).flatten(1).norm(dim=1) / serial.flatten(1).norm(dim=1)
    assert distance.max() < 1e-3
    assert found.solution.stats.rounds < 25


def test_decoder():
    speech = load("speech")
    assert speech.decode(speech.noise(3)).shape == (3, 1, 32, 32)
    x = load("strokes").noise(3)
    assert load("strokes").decode(x) is x


# --- what the networks are trained on ---------------------------------------------------------------------------------


class Answer(nn.Module):
    """A residual network that knows the answer."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target

    def forward(self, y: Tensor, level: Tensor, label: Tensor) -> Tensor:
        assert level.shape == label.shape == y.shape[:1]
        assert torch.isfinite(level).all()
        return self.target


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_target_of_the_residual_network(prediction: str):
    """With the target for an answer the loss is 0 and every prediction is right; the target has unit variance."""
    schedule, generator = PREDICTIONS[prediction], torch.Generator().manual_seed(0)
    count = 4000
    x0 = 3 + 0.4 * torch.randn(count, 5, generator=generator, dtype=torch.float64)
    eps = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    t = draw_times(schedule, count, generator).double()
    s, alpha, sigma = 0.4, schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    target = (alpha * s * eps - sigma * (x0 - 3) / s) / (alpha**2 * s**2 + sigma**2).sqrt()
    torch.testing.assert_close(target.std(), torch.ones((), dtype=torch.float64), rtol=0.03, atol=0)
    denoiser = Denoiser(Answer(target), schedule, prediction, (5,), 10).double()
    denoiser.mean.fill_(3.0)
    denoiser.std.fill_(s)
    label = torch.zeros(count, dtype=torch.long)
    assert denoiser.loss(x0, t, eps, label).max() < 1e-20
    wanted = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "velocity": eps - x0}[prediction]
    torch.testing.assert_close(denoiser(alpha * x0 + sigma * eps, t, label), wanted, rtol=1e-8, atol=1e-8)


def test_cosines_turn_and_leave_each_coefficient_its_spread():
    """Data that are independent in the coefficients: F has unit variance in each, and nothing to learn."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(3, 4, 4, generator=generator) + 0.1
    denoiser = Denoiser(Answer(torch.zeros(1, 3, 4, 4)), da.Flow(), "velocity", (3, 4, 4), 2, cosines=True)
    drawn = spread * torch.randn(20_000, 3, 4, 4, generator=generator)
    x0 = denoiser._back(drawn) + 1
    torch.testing.assert_close(denoiser._turn(x0 - 1), drawn, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x0[0].sub(1).norm(), drawn[0].norm())
    denoiser.fit_data(x0)
    torch.testing.assert_close(denoiser.std, spread, rtol=0.05, atol=0)
    eps, t = torch.randn(x0.shape, generator=generator), draw_times(da.Flow(), len(x0), generator)
    loss = denoiser.loss(x0, t, eps, torch.zeros(len(x0), dtype=torch.long))
    assert loss.mean() == pytest.approx(1, abs=0.02)
    x, a, s = (1 - 0.3) * x0 + 0.3 * eps, 0.7, 0.3
    best = 1 + denoiser._back(a * spread**2 / (a**2 * spread**2 + s**2) * denoiser._turn(x - a))
    found = x - s * denoiser(x, torch.tensor(s))
    torch.testing.assert_close(found, best, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_finite_at_both_ends(prediction: str):
    schedule = PREDICTIONS[prediction]
    denoiser = Denoiser(Answer(torch.ones(2, 3)), schedule, prediction, (3,), 10)
    assert torch.isfinite(denoiser(torch.ones(2, 3), torch.tensor([schedule.t_min, schedule.t_max]))).all()


def test_velocity_is_that_of_a_flow():
    with pytest.raises(ValueError, match=r"VP.*expected Flow"):
        Denoiser(nn.Identity(), da.VP(), "velocity", (1,), 2)


@pytest.mark.parametrize("schedule", PREDICTIONS.values(), ids=PREDICTIONS)
def test_times_cover_the_schedule(schedule: da.NoiseSchedule):
    t = draw_times(schedule, 2000, torch.Generator().manual_seed(0)).double()
    assert t.min() >= schedule.t_min - 1e-6
    assert t.max() <= schedule.t_max + 1e-6
    level = schedule.s(t.clamp(schedule.t_min, schedule.t_max)).log()
    assert level.quantile(0.02) < -3.5
    assert level.quantile(0.98) > 2.5


def test_fit_averages_the_weights():
    torch.manual_seed(0)
    layer = nn.Linear(2, 1)
    x = torch.randn(64, 2)
    before = (layer(x) - x.sum(1, keepdim=True)).square().mean().item()

    def loss() -> Tensor:
        return (layer(x) - x.sum(1, keepdim=True)).square().mean()

    average = fit(layer, loss, Recipe(steps=200, lr=0.02, warm=1, decay=0.0))
    assert (average(x) - x.sum(1, keepdim=True)).square().mean() < 0.1 * before
    assert not average.training
    assert layer.training


def test_held_out_patches_share_no_pixel_with_training():
    size = torch.Size([100, 150])
    places = _places(size, np.random.default_rng(0))
    covered = []
    for allowed in places:
        pixels = np.zeros(size, bool)
        for top, left in zip(*np.nonzero(allowed), strict=True):
            pixels[top : top + SIDE, left : left + SIDE] = True
        assert pixels.any()
        covered.append(pixels)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not (covered[one] & covered[other]).any()


# --- measures ---------------------------------------------------------------------------------------------------------


def test_frechet_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(500, 6, generator=generator, dtype=torch.float64)
    b = 0.5 + torch.randn(400, 6, generator=generator, dtype=torch.float64) @ torch.randn(
        6, 6, generator=generator, dtype=torch.float64
    )
    cov_a, cov_b = (np.cov(one.numpy().T) for one in (a, b))
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    wanted = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(cov_a + cov_b - 2 * root)
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)


def test_energy_test_tells_laws_apart():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 200, 4, generator=generator)
    same, p_same = energy_test(a, b)
    other, p_other = energy_test(a, b + 0.5)
    assert p_same > 0.02
    assert p_other == pytest.approx(1 / 200)
    assert abs(same) < 0.01 < other
    ps = [energy_test(*torch.randn(2, 50, 3, generator=generator), permutations=39)[1] for _ in range(120)]
    assert 0.02 < np.mean(np.array(ps) <= 0.1) < 0.2  # a level of 10% is one


def test_samples_are_better_than_noise_and_near_real_data(network: Network):
    real = held_out(network.name)
    assert set(real) == {"count", "frechet", "energy", "p_value", "confidence", "accuracy"}
    assert real["accuracy"] > 0.85
    labels = network.labels(100)
    samples = da.sample(network.conditioned(labels), network.noise(100), 12, parallel=False).samples
    good = quality(network.name, samples, labels)
    noise = quality(network.name, network.noise(100), labels)
    assert good["frechet"] < 0.5 * noise["frechet"]
    assert good["energy"] < 0.5 * noise["energy"]
    assert good["accuracy"] > 0.75
    assert "accuracy" not in quality(network.name, network.noise(100))


def test_quality_refuses_what_it_cannot_measure():
    bad = torch.full((100, 2, 8), torch.nan)
    with pytest.raises(ValueError, match="all finite"):
        quality("strokes", bad)
    with pytest.raises(ValueError, match="at least 100"):
        quality("strokes", torch.zeros(99, 2, 8))


def test_classifiers_fit_their_data():
    for name, make in CLASSIFIERS.items():
        spec = SPECS[name]
        shape = (1, 32, 32) if spec.decoder else spec.shape
        assert make()(torch.zeros(3, *shape)).shape == (3, len(spec.classes))
