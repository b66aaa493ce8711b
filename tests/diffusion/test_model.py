"""Models: what the network is handed, what comes back, conditioning that follows its sample, guidance."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusion.cases import PREDICTIONS, SCHEDULES, mixture, normals
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import diffusion_adapters as da


class Recorder(nn.Module):
    """Keeps what it is called with."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = None if dtype is None else nn.Parameter(torch.ones((), dtype=dtype))
        self.calls: list[tuple[Tensor, Tensor, dict[str, object]]] = []

    def forward(self, x: Tensor, t: Tensor, **conditioning: object) -> Tensor:
        self.calls.append((x, t, conditioning))
        return x if self.weight is None else x * self.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("network_dtype", [None, torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_of_the_network_are_met_and_undone(dtype: torch.dtype, network_dtype: torch.dtype | None) -> None:
    network = Recorder(network_dtype)
    model = da.DiffusionModel(network, da.VP())
    for given_model in (model, da.guided(model, 2.0, {}, {})):
        value = given_model.predict(normals(3, 2, dtype=dtype), torch.tensor(0.5))
        x, t, _ = network.calls[-1]
        assert value.dtype == dtype
        assert x.dtype == (network_dtype or dtype)
        assert t.dtype == torch.promote_types(network_dtype or dtype, torch.float32)
        assert t.shape == x.shape[:1]


def test_times_are_the_schedules_own() -> None:
    network = Recorder()
    model = da.DiffusionModel(network, SCHEDULES["discrete"])
    model.predict(normals(3, 2), torch.tensor([999.0, 10.5, 0.0]))
    assert network.calls[-1][1].tolist() == [999.0, 10.5, 0.0]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("target", PREDICTIONS)
def test_predict_converts(prediction: str, target: str) -> None:
    schedule, oracle = da.VP.cosine(), mixture()
    x, t = normals(4, 4), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    got = oracle.model(schedule, prediction).predict(x, t, target)
    torch.testing.assert_close(got, oracle.network(schedule, target)(x, t), rtol=1e-9, atol=1e-9)


def test_conditioning_reaches_the_network_with_a_row_for_each_sample() -> None:
    network = Recorder()
    own, shared = torch.arange(3), torch.ones(1, 5)
    model = da.DiffusionModel(
        network, da.VP(), conditioning={"label": own, "extra": {"text": shared, "parts": [own, "tag"]}, "flag": True}
    )
    model.predict(normals(3, 2), torch.tensor(0.5))
    seen = network.calls[-1][2]
    assert seen["label"].tolist() == [0, 1, 2]
    assert seen["extra"]["text"].shape == (3, 5)
    assert (seen["extra"]["parts"][0].tolist(), seen["extra"]["parts"][1], seen["flag"]) == ([0, 1, 2], "tag", True)
    changed = model.with_conditioning(label=own + 1, scale=2.0)
    changed.predict(normals(3, 2), torch.tensor(0.5))
    assert network.calls[-1][2]["label"].tolist() == [1, 2, 3]
    assert network.calls[-1][2]["scale"] == 2.0
    assert model.conditioning["label"] is own


def test_guidance_is_one_call_unconditional_first() -> None:
    network = Recorder()
    model = da.guided(
        da.DiffusionModel(network, da.VP(), conditioning={"size": torch.tensor([7])}),
        3.0, {"label": torch.tensor([1, 2])}, {"label": torch.tensor([0])},
    )  # fmt: skip
    x = normals(2, 3)
    model.predict(x, torch.tensor([0.3, 0.6]))
    assert len(network.calls) == 1
    seen_x, seen_t, conditioning = network.calls[0]
    assert torch.equal(seen_x, torch.cat([x, x]))
    torch.testing.assert_close(seen_t, torch.tensor([0.3, 0.6, 0.3, 0.6], dtype=torch.float64), rtol=1e-7, atol=0)
    assert conditioning["label"].tolist() == [0, 0, 1, 2]
    assert conditioning["size"].tolist() == [7, 7, 7, 7]


@given(scale=st.floats(-2.0, 10.0), prediction=st.sampled_from(PREDICTIONS))
def test_guidance_is_the_same_for_every_prediction(scale: float, prediction: str) -> None:
    schedule, oracle = da.VP(), mixture()
    x, t = normals(3, 4), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    label, none = torch.tensor([0, 1, 2]), torch.tensor([-1, -1, -1])
    network = oracle.network(schedule, "eps")
    given_eps, free_eps = network(x, t, label), network(x, t, none)
    expected = free_eps + scale * (given_eps - free_eps)
    model = da.guided(oracle.model(schedule, prediction), scale, {"label": label}, {"label": none})
    torch.testing.assert_close(model.predict(x, t, "eps"), expected, rtol=1e-10, atol=1e-10)


def test_a_scale_for_each_sample() -> None:
    schedule, oracle = da.VP(), mixture()
    x, t = normals(2, 4), torch.tensor(0.5, dtype=torch.float64)
    label, none = torch.tensor([0, 1]), torch.tensor([-1])
    scales = torch.tensor([1.5, 4.0])
    together = da.guided(oracle.model(schedule), scales, {"label": label}, {"label": none}).predict(x, t)
    for i in range(2):
        alone = da.guided(oracle.model(schedule), scales[i].item(), {"label": label}, {"label": none}).predict(x, t)
        torch.testing.assert_close(together[i], alone[i], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("cond", "uncond", "message"),
    [
        ({"label": torch.zeros(2)}, {}, r"uncond; expected the same names"),
        ({"label": torch.zeros(2)}, {"label": None}, "in cond and None in uncond"),
        ({"text": torch.zeros(2, 7)}, {"text": torch.zeros(2, 5)}, "pad the shorter"),
        ({"mode": "a"}, {"mode": "b"}, "'b' in uncond"),
        ({"label": torch.tensor(3)}, {"label": torch.tensor(3)}, r"tensor\[None\]"),
    ],
)
def test_branches_that_do_not_fit_are_refused(cond: dict, uncond: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        da.guided(da.DiffusionModel(Recorder(), da.VP()), 2.0, cond, uncond)


def plain() -> da.DiffusionModel:
    return da.DiffusionModel(Recorder(), da.VP())


def twofold() -> da.DiffusionModel:
    return da.guided(plain(), 2.0, {"label": torch.zeros(1)}, {"label": torch.ones(1)})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: da.DiffusionModel(3, da.VP()), TypeError, "network is an int"),
        (lambda: da.DiffusionModel(Recorder(), da.VP), TypeError, "noise_schedule is the class VP"),
        (lambda: da.DiffusionModel(Recorder(), "vp"), TypeError, "noise_schedule is a str"),
        (
            lambda: da.DiffusionModel(Recorder(), da.VP(), "epsilon"),
            ValueError,
            "'epsilon' is unknown.*'eps', 'x0', 'v'",
        ),
        (lambda: da.DiffusionModel(Recorder(), da.VP(), conditioning=[1]), TypeError, "conditioning is a list"),
        (
            lambda: da.DiffusionModel(Recorder(), da.VP(), conditioning={"a": torch.tensor(1)}),
            ValueError,
            "leading axis",
        ),
        (lambda: da.guided(Recorder(), 2.0, {}, {}), TypeError, "model is a Recorder"),
        (lambda: da.guided(da.DiffusionModel(Recorder(), da.VP()), math.nan, {}, {}), ValueError, "scale=nan"),
        (lambda: da.guided(da.DiffusionModel(Recorder(), da.VP()), "3", {}, {}), TypeError, "scale='3' is a str"),
        (lambda: da.guided(da.DiffusionModel(Recorder(), da.VP()), torch.ones(2, 2), {}, {}), ValueError, "scale is"),
        (lambda: da.guided(plain(), torch.tensor([True]), {}, {}), ValueError, r"scale is .* torch\.bool"),
        (lambda: da.guided(plain(), torch.tensor([1.0, math.inf]), {}, {}), ValueError, "scale holds NaN or Inf"),
        (lambda: da.guided(twofold(), 2.0, {}, {}), ValueError, r"guided already.*da\.guided\(model, scale"),
        (lambda: twofold().with_conditioning(label=torch.ones(1)), ValueError, r"with_conditioning\(label\).*before"),
        (lambda: twofold().with_conditioning(scale=3.0), ValueError, r"with_conditioning\(scale\).*before"),
    ],
)
def test_bad_models_are_refused(make: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()  # type: ignore[operator]


def test_bad_calls_are_refused() -> None:
    x, t = normals(3, 4), torch.tensor(0.5)
    model = da.DiffusionModel(Recorder(), da.VP(), conditioning={"label": torch.zeros(2)})
    with pytest.raises(ValueError, match="for 3 samples; expected a leading axis of 3"):
        model.predict(x, t)
    with pytest.raises(ValueError, match="target='image' is unknown"):
        model.predict(x, t, "image")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="first half of its channels"):
        da.DiffusionModel(lambda x, t: torch.cat([x, x], 1), da.VP()).predict(x, t)
    with pytest.raises(TypeError, match=r"returned a tuple.*\.sample"):
        da.DiffusionModel(lambda x, t: (x,), da.VP()).predict(x, t)
    guided = da.guided(da.DiffusionModel(lambda x, t: (x,), da.VP()), 2.0, {}, {})
    with pytest.raises(TypeError, match="returned a tuple"):
        guided.predict(x, t)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("parallel", [True, False])
def test_networks_that_return_no_real_numbers_are_refused(dtype: torch.dtype, parallel: bool) -> None:
    """Their rounding, or their imaginary part, would be lost without a word."""
    model = da.DiffusionModel(lambda x, t: torch.zeros(x.shape, dtype=dtype), da.VP())
    message = rf"returned a tensor of {dtype} for x of torch.float64; expected real floating point"
    for one in (model, da.guided(model, 2.0, {}, {})):
        with pytest.raises(TypeError, match=message):
            one.predict(normals(3, 4), 0.5)
        with pytest.raises(TypeError, match=message):
            da.sample(one, normals(3, 4), steps=4, parallel=parallel)


@pytest.mark.parametrize("x", [torch.ones(3, 4, dtype=torch.int64), torch.ones(3, 4, dtype=torch.complex64), [[1.0]]])
def test_samples_that_are_no_real_numbers_are_refused(x: Any) -> None:
    """Scalars are cast to the dtype of x: whole numbers would make zeros of them."""
    oracle = mixture().model(da.VP())
    flow, half = da.probability_flow(oracle), torch.tensor(0.5, dtype=torch.float64)
    calls = [
        lambda: oracle.predict(x, half),
        lambda: oracle.evaluate(x, half, {}, None),
        lambda: flow.to_x(0.5, x),
        lambda: flow.from_x(0.5, x),
        lambda: da.convert(x, normals(3, 4), half, half, source="eps", target="x0"),
        lambda: da.convert(normals(3, 4), x, half, half, source="eps", target="x0"),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"^\w+ is (torch\.\w+|a list); expected a real floating-point tensor"):
            call()


@pytest.mark.parametrize("t", [0.5, 1, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([1])])
def test_times_are_numbers_or_tensors(t: Any) -> None:
    oracle, x = mixture().model(da.VP()), normals(3, 4)
    expected = oracle.predict(x, torch.full((3,), float(t), dtype=torch.float64))
    assert torch.equal(oracle.predict(x, t), expected)
    if not isinstance(t, Tensor):
        assert torch.equal(oracle.evaluate(x, t, {}, None), expected)


@pytest.mark.parametrize(
    ("t", "error", "message"),
    [
        (None, TypeError, r"t is None; expected a real time for each of the 3 samples.*torch\.as_tensor"),
        ([0.1, 0.2, 0.3], TypeError, "t is a list"),
        (True, TypeError, "t is a bool"),
        (torch.tensor(0.5j), TypeError, r"t is torch\.complex64"),
        (torch.tensor(True), TypeError, r"t is torch\.bool"),
        (torch.ones(2), ValueError, r"t has shape \(2,\); expected a real time for each of the 3 samples"),
        (torch.ones(3, 1), ValueError, r"t has shape \(3, 1\)"),
    ],
)
def test_times_that_do_not_fit_are_refused(t: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mixture().model(da.VP()).predict(normals(3, 4), t)


def test_a_sample_without_an_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x has no axis; .*x\[None\]"):
        plain().predict(torch.tensor(1.0), 0.5)
