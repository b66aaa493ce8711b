"""Networks of fixed batches in `da.sample`, `da.plan` and `parallelize`: compiled, captured, exported."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from diffusion.networks import diffusers as D
from diffusion.networks import made, wan_parts
from diffusion.pipelines import POOLED, SIZE, STABLE, TEXT, ddim, finished, prompts, sd, sdxl, unet
from graphs import Traced
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import diffusion_adapters as da
import parareal as pr
from parareal.executors import _captured

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*scheduler.*:FutureWarning"),
]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def digits(network: Any) -> da.DiffusionModel:
    model = da.load_digits()
    return da.DiffusionModel(network, model.noise_schedule, model.prediction)


# --- sample -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad_to", [16, (4, 16)])
def test_a_compiled_network_has_a_graph_for_each_size(pad_to: Any) -> None:
    torch._dynamo.reset()
    counter, model = CompileCounter(), da.load_digits()
    compiled = digits(torch.compile(model.network, backend=counter, dynamic=False))
    sizes = [pad_to] if isinstance(pad_to, int) else pad_to
    for seed in range(8):
        x = noise(seed, 1 + seed % 2, 1, 8, 8)
        out = da.sample(compiled, x, steps=16, executor=pr.Batched(pad_to=pad_to))
        torch.testing.assert_close(out.samples, da.sample(model, x, steps=16).samples, rtol=1e-4, atol=1e-4)
    assert 1 <= counter.frame_count <= len(sizes)
    torch._dynamo.reset()


def test_a_callable_that_was_exported_for_one_batch() -> None:
    model = da.load_digits()
    example = (torch.zeros(8, 1, 8, 8), torch.full((8,), 0.5))
    exported = torch.export.export(model.network, example).module()
    with pytest.raises(Exception, match=r"8|[Gg]uard|shape"):
        exported(torch.zeros(3, 1, 8, 8), torch.full((3,), 0.5))
    fixed = digits(lambda x, t: exported(x, t))
    for seed, parallel in ((0, True), (1, True), (2, False)):
        x = noise(seed, 2, 1, 8, 8)
        out = da.sample(fixed, x, steps=12, executor=pr.Batched(pad_to=8), parallel=parallel)
        ref = da.sample(model, x, steps=12, parallel=parallel)
        torch.testing.assert_close(out.samples, ref.samples, rtol=1e-4, atol=1e-4)
        assert out.solution.stats.padded_lanes > 0


@settings(max_examples=15)
@given(data=st.data())
def test_samples_are_the_same_with_any_sizes(data: st.DataObject) -> None:
    sizes = data.draw(st.sets(st.integers(1, 24), min_size=1, max_size=3).map(sorted))
    solver = data.draw(st.sampled_from(["ddim", "heun", "dpm++2m", "unipc", "ancestral", "sde-dpm++2m"]))
    coarse = data.draw(st.sampled_from(["gaussian", "same", "none"]))
    batch, guided = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    seen: set[int] = set()
    mixture = da.GaussianMixture(torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.05)
    inner = mixture.network(da.VP())

    def network(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        seen.add(len(x))
        return inner(x, t, label)

    model = da.DiffusionModel(network, da.VP())
    if guided:
        labels = torch.arange(batch) % 2
        model = da.guided(model, 2.0, {"label": labels}, {"label": torch.full_like(labels, -1)})
    options: dict[str, Any] = {"steps": 9, "solver": solver, "coarse": coarse, "throw": False}

    def draw(executor: pr.Executor | None) -> da.SampleResult:
        generator = torch.Generator().manual_seed(1)
        return da.sample(model, (batch, 2), generator=generator, executor=executor, **options)

    ref = draw(None)
    seen.clear()
    out = draw(pr.Batched(pad_to=tuple(sizes)))
    assert seen <= {size * (1 + guided) for size in sizes}
    torch.testing.assert_close(out.samples, ref.samples, rtol=1e-5, atol=1e-5)
    assert out.solution.stats.rounds == ref.solution.stats.rounds


def test_plan_times_calls_of_the_padded_sizes() -> None:
    seen: set[int] = set()
    inner = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).network(da.VP())

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.add(len(x))
        return inner(x, t)

    model, executor = da.DiffusionModel(network, da.VP()), pr.Batched(pad_to=(3, 12))
    found = da.plan(model, (2, 1), steps=12, widths=[4, 8], executor=executor, budget=5.0)
    assert seen == {3, 12}
    assert found.round_times.lanes == (3, 12, 24)  # of 1 and 2, of 4 and 8, and of 16 lanes
    with pytest.raises(TypeError, match="executor is a str"):
        da.plan(model, (2, 1), steps=12, executor="fast")  # type: ignore[arg-type]


# --- pipelines --------------------------------------------------------------------------------------------------------


def watching(module: nn.Module, seen: list[int]) -> nn.Module:
    """A copy that notes the rows of its calls."""
    made = deepcopy(module)
    forward = made.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
        seen.append(len(first))
        return forward(*args, **kwargs)

    made.forward = watched  # type: ignore[method-assign]
    return made


def call(pipe: Any, given: dict[str, Any], steps: int = 12) -> Tensor:
    given = {"num_inference_steps": steps, "output_type": "latent", "return_dict": False, **given}
    return torch.as_tensor(pipe(**{**given, "generator": torch.Generator().manual_seed(1)})[0])


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


CASES: dict[str, tuple[Callable[[], Any], str, dict[str, Any], int]] = {
    "sd": (lambda: sd(scheduler=D.DDIMScheduler(**STABLE, clip_sample=False)), "unet", {**TEXT, **SIZE}, 2),
    "sd, two images, no guidance": (
        sd,
        "unet",
        {**prompts(negative=False), **SIZE, "guidance_scale": 1.0, "num_images_per_prompt": 2},
        1,
    ),
    "sdxl": (sdxl, "unet", {**POOLED, **SIZE, "num_images_per_prompt": 2}, 2),
    "ddim": (lambda: ddim(clip_sample=False), "unet", {"batch_size": 2, "output_type": "pt"}, 1),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("pad_to", [8, (3, 16)])
def test_a_pipeline_calls_its_network_with_these_sizes(name: str, pad_to: Any) -> None:
    make, network, given_, rows = CASES[name]
    pipe, seen = make(), list[int]()
    expected = call(pipe, given_)
    setattr(pipe, network, watching(getattr(pipe, network), seen))
    fast = da.diffusers.parallelize(pipe, executor=pr.Batched(pad_to=pad_to), check=True)
    assert distance(call(fast, given_), expected) < 1e-3
    assert {*seen} <= {rows * size for size in ([pad_to] if isinstance(pad_to, int) else pad_to)}
    assert fast.solution is not None
    stats = fast.solution.stats
    assert len(seen) == stats.calls
    assert sum(seen) == rows * (stats.evaluations + stats.padded_lanes)
    assert fast.check is not None
    assert fast.check.passed


def test_steps_that_differ_are_padded_each_for_themselves() -> None:
    """Two networks, each for a part of the steps: a round that needs both is two calls, of known sizes."""
    decoder, transformer = wan_parts()
    other = made(D.WanTransformer3DModel, seed=5, **dict(transformer.config))
    seen = list[int]()
    scheduler = D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = (watching(transformer, seen), watching(other, seen))
    pipe = finished(D.WanPipeline(None, None, decoder, scheduler, *parts, boundary_ratio=0.7))
    given_ = {**TEXT, **SIZE, "num_frames": 5}
    expected = call(pipe, given_)
    seen.clear()
    fast = da.diffusers.parallelize(pipe, executor=pr.Batched(pad_to=(4, 12)))
    assert distance(call(fast, given_), expected) < 1e-3
    assert {*seen} <= {4, 12}  # guidance makes two calls there
    assert fast.solution is not None
    stats = fast.solution.stats
    assert len(seen) == 2 * stats.calls
    assert sum(seen) == 2 * (stats.evaluations + stats.padded_lanes)


@pytest.mark.parametrize("most", [1, 5])
def test_the_batch_of_a_pipeline_can_be_bounded(most: int) -> None:
    pipe, seen = sd(scheduler=D.DDIMScheduler(**STABLE, clip_sample=False)), list[int]()
    expected = call(pipe, {**TEXT, **SIZE}, 8)
    pipe.unet = watching(pipe.unet, seen)
    fast = da.diffusers.parallelize(pipe, executor=pr.Batched(max_lanes=most))
    assert distance(call(fast, {**TEXT, **SIZE}, 8), expected) < 1e-3
    assert max(seen) <= 2 * most


def test_a_pipeline_with_a_compiled_network() -> None:
    class Small(nn.Module):
        """Calls a network of its own in place of the pipeline's."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.tanh(self.layer(x)) / (1 + 0.001 * t.reshape(-1, 1, 1, 1))

    torch._dynamo.reset()
    counter = CompileCounter()
    torch.manual_seed(0)
    compiled = torch.compile(Small().requires_grad_(False), backend=counter, dynamic=False)
    network = deepcopy(unet())

    def forward(sample: Tensor, timestep: Tensor, *_: Any, **__: Any) -> Any:
        return (compiled(sample, timestep.expand(len(sample)).float()),)

    network.forward = forward
    pipe = sd(scheduler=D.DDIMScheduler(**STABLE, clip_sample=False), network=network)
    fast = da.diffusers.parallelize(pipe, executor=pr.Batched(pad_to=16))
    for steps in (10, 12, 16):
        call(fast, {**TEXT, **SIZE}, steps)
    assert counter.frame_count == 1
    torch._dynamo.reset()


def test_a_pipeline_with_a_captured_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_captured, "RECORDER", lambda: Traced([]))
    pipe = sd(scheduler=D.DDIMScheduler(**STABLE, clip_sample=False))
    expected = call(pipe, {**TEXT, **SIZE}, 8)
    pipe.unet = deepcopy(pipe.unet).requires_grad_(False)
    captured = pr.Captured(pipe.unet.forward)
    pipe.unet.forward = captured
    fast = da.diffusers.parallelize(pipe, executor=pr.Batched(pad_to=8))
    assert distance(call(fast, {**TEXT, **SIZE}, 8), expected) < 1e-3
    assert captured.graphs == 1


@pytest.mark.parametrize(
    ("executor", "error", "words"),
    [
        ("fast", TypeError, "executor is a str"),
        (pr.Batched, TypeError, "executor"),
        (pr.Batched(devices=["cpu", "cpu"]), ValueError, "a pipeline has one"),
    ],
)
def test_bad_executors(executor: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        da.diffusers.parallelize(sd(), executor=executor)
