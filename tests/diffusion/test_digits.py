"""The shipped digit network: it loads, refuses bad input, and denoises and samples real digits well."""

import builtins
import sys
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits as scans
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from torch import Tensor

import diffusion_adapters as da
from diffusion_adapters.models._digits import NO_LABEL, DigitsNetwork


@pytest.fixture(scope="module")
def model() -> da.DiffusionModel:
    return da.load_digits()


@pytest.fixture(scope="module")
def network(model: da.DiffusionModel) -> DigitsNetwork:
    return model.network


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and held-out images (n, 64) in [-1, 1] and labels, split as in scripts/train_digits.py."""
    pixels, digits = scans(return_X_y=True)
    x, x_held, y, y_held = train_test_split(pixels, digits, test_size=0.2, stratify=digits, random_state=0)
    images = [(torch.as_tensor(part).float() / 8 - 1).reshape(-1, 64) for part in (x, x_held)]
    return images[0], torch.as_tensor(y).long(), images[1], torch.as_tensor(y_held).long()


def noisy(batch: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    t = 1e-3 + 0.999 * torch.rand(batch, generator=generator, dtype=torch.float64)
    return x, t, torch.randint(0, NO_LABEL + 1, (batch,), generator=generator)


def test_loads_ready_to_use(model: da.DiffusionModel, network: DigitsNetwork):
    assert isinstance(model, da.DiffusionModel)
    assert model.prediction == "eps"
    assert isinstance(model.noise_schedule, da.VP)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert sum(p.numel() * p.element_size() for p in network.parameters()) < 2e6


def test_schedule_inside_is_that_of_the_model():
    model = da.load_digits(dtype=torch.float64)
    network = model.network
    assert (network.beta_min, network.beta_max) == (model.noise_schedule.beta_min, model.noise_schedule.beta_max)
    t = torch.tensor([1e-3, 0.3, 1.0], dtype=torch.float64)
    alpha, sigma, log_snr, _ = network._levels(t[:, None])
    torch.testing.assert_close(alpha[:, 0], model.noise_schedule.alpha(t))
    torch.testing.assert_close(sigma[:, 0], model.noise_schedule.sigma(t))
    torch.testing.assert_close(log_snr[:, 0], (alpha / sigma).log()[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype(network: DigitsNetwork, dtype: torch.dtype):
    converted = da.load_digits(dtype=dtype, device="cpu").network
    x, t, label = noisy(16, dtype)
    eps = converted(x, t, label)
    assert eps.dtype == dtype
    assert eps.shape == x.shape
    expected = network(x.float(), t, label)
    tolerance = 0.1 if dtype == torch.bfloat16 else 2e-5
    torch.testing.assert_close(eps.float(), expected, rtol=tolerance, atol=tolerance)


def test_rows_are_independent(network: DigitsNetwork):
    x, t, label = noisy(33)
    together = network(x, t, label)
    alone = torch.cat([network(x[n : n + 1], t[n : n + 1], label[n : n + 1]) for n in range(33)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    spoilt = x.clone()
    spoilt[1:] = torch.nan
    torch.testing.assert_close(network(spoilt, t, label)[:1], together[:1], rtol=1e-5, atol=1e-5)


def test_scalar_time_and_label_stand_for_all(network: DigitsNetwork):
    x, _, _ = noisy(5)
    each = network(x, torch.full((5,), 0.25), torch.full((5,), 3))
    for t, label in [(0.25, torch.tensor(3)), (torch.tensor(0.25, dtype=torch.float16), torch.tensor(3).byte())]:
        torch.testing.assert_close(network(x, t, label), each, rtol=1e-5, atol=1e-5)


def test_no_label_is_label_ten(network: DigitsNetwork):
    x, t, _ = noisy(7)
    without = network(x, t)
    torch.testing.assert_close(without, network(x, t, torch.full((7,), NO_LABEL)), rtol=1e-5, atol=1e-5)
    assert (without - network(x, t, torch.full((7,), 3))).abs().max() > 0.01


def test_empty_batch(network: DigitsNetwork):
    x, t, label = noisy(0)
    assert network(x, t, label).shape == (0, 1, 8, 8)


def test_vmap_over_images(network: DigitsNetwork):
    x, t, _ = noisy(6)
    mapped = torch.func.vmap(lambda x, t: network(x[None], t)[0])(x, t)
    torch.testing.assert_close(mapped, network(x, t), rtol=1e-5, atol=1e-5)


BAD = {
    "shape of x": (lambda x, t, y: (x[:, 0], t, y), ValueError, r"\(4, 8, 8\).*\(B, 1, 8, 8\)"),
    "dtype of x": (lambda x, t, y: (x.double(), t, y), TypeError, r"float64.*float32.*load_digits\(dtype="),
    "list for x": (lambda x, t, y: (x.tolist(), t, y), TypeError, r"list.*torch\.as_tensor"),
    "shape of t": (lambda x, t, y: (x, t[:3], y), ValueError, r"\(3,\).*4 images"),
    "complex t": (lambda x, t, y: (x, t.to(torch.complex64), y), TypeError, r"complex64.*real time"),
    "list for t": (lambda x, t, y: (x, t.tolist(), y), TypeError, r"list.*torch\.as_tensor"),
    "shape of label": (lambda x, t, y: (x, t, y[:2]), ValueError, r"\(2,\).*4 images"),
    "float label": (lambda x, t, y: (x, t, y.float()), TypeError, r"float32.*torch\.long"),
    "bool label": (lambda x, t, y: (x, t, y > 3), TypeError, r"bool.*torch\.long"),
    "list for label": (lambda x, t, y: (x, t, y.tolist()), TypeError, r"list.*torch\.long"),
    "label 11": (lambda x, t, y: (x, t, y.fill_(11)), ValueError, r"\[11\].*0\.\.9.*10"),
    "label -1": (lambda x, t, y: (x, t, y.fill_(-1)), ValueError, r"\[-1\].*0\.\.9.*10"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(network: DigitsNetwork, case: str):
    change, error, message = BAD[case]
    with pytest.raises(error, match=message):
        network(*change(*noisy(4)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, "float32", float])
def test_bad_dtype(dtype: Any):
    with pytest.raises(TypeError, match=r"dtype is (torch\.|'float32'|<class).*dtype=torch.float32"):
        da.load_digits(dtype=dtype)


def test_missing_safetensors_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    plain = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "safetensors":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'torch-parareal\[diffusion\]'"):
        da.load_digits()


def test_loading_needs_no_sklearn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert da.load_digits() is not None


@pytest.mark.parametrize(
    ("t", "labelled", "share"),
    [
        *[(0.02, True, 0.85), (0.1, True, 0.65), (0.2, True, 0.62), (0.3, True, 0.63), (0.5, True, 0.67)],
        *[(0.02, False, 0.85), (0.1, False, 0.7), (0.2, False, 0.76), (0.3, False, 0.9)],
    ],
)
def test_beats_the_best_linear_denoiser(
    model: da.DiffusionModel, data: tuple[Tensor, Tensor, Tensor, Tensor], t: float, labelled: bool, share: float
):
    """Error of the clean image on held-out digits, over that of E[x0|x] for Gaussian data (mean, covariance)."""
    train, _, x, y = data
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = model.noise_schedule.alpha(time).item(), model.noise_schedule.sigma(time).item()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    seen = alpha * x + sigma * noise
    covariance = torch.cov(train.T)
    gain = torch.linalg.solve(alpha**2 * covariance + sigma**2 * torch.eye(64), alpha * covariance)
    linear = train.mean(0) + (seen - alpha * train.mean(0)) @ gain
    given = model.with_conditioning(label=y) if labelled else model
    clean = given.predict(seen.view(-1, 1, 8, 8), time, "x0").flatten(1)
    assert (clean - x).square().mean() < share * (linear - x).square().mean()


def test_classifier_recognises_samples(model: da.DiffusionModel, data: tuple[Tensor, Tensor, Tensor, Tensor]):
    """50 DDIM steps, conditional on the label; a classifier of real digits reads what was asked for."""
    train, digits, held, held_digits = data
    judge = SVC(C=10).fit(train.double().numpy(), digits.numpy())
    assert judge.score(held.double().numpy(), held_digits.numpy()) > 0.97
    label = torch.arange(10).repeat(30)
    x = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    times = torch.linspace(1.0, 1e-3, 51, dtype=torch.float64)
    alphas, sigmas = model.noise_schedule.alpha(times), model.noise_schedule.sigma(times)
    for n in range(50):
        eps = model.network(x, times[n], label)
        x = (alphas[n + 1] * (x - sigmas[n] * eps) / alphas[n] + sigmas[n + 1] * eps).float()
    assert judge.score(x.flatten(1).double().numpy(), label.numpy()) >= 0.95
    spread = torch.stack([x.flatten(1)[label == k].std(dim=0).mean() for k in range(10)])
    real = torch.stack([train[digits == k].std(dim=0).mean() for k in range(10)])
    assert (spread > 0.7 * real).all()  # not ten pictures over and over


@pytest.mark.parametrize(("solver", "most"), [("dpm++2m", 24), ("dpm++3m", 32), ("deis", 38), ("sde-dpm++2m", 34)])
def test_multistep_methods_take_few_rounds_in_a_window(model: da.DiffusionModel, solver: str, most: int):
    """50 steps in the default window, to the tolerance that pipelines are sampled to by default."""
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def sample(**options: Any) -> da.SampleResult:
        generator = torch.Generator().manual_seed(2) if solver.startswith("sde") else None
        labelled = model.with_conditioning(label=torch.tensor([1]))
        return da.sample(labelled, noise, steps=50, solver=solver, generator=generator, **options)

    out, serial = sample(width=16, rtol=2e-5), sample(parallel=False)
    assert float((out.samples - serial.samples).norm() / serial.samples.norm()) <= 2e-5
    assert out.solution.stats.rounds <= most
