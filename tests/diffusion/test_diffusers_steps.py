"""Pipelines whose loop depends on the number of the step, or that hold more than the usual: as in sequence, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import diffusers
import pytest
import torch
from diffusion.networks import controlnet, made, noise, sd3_transformer, shifted, unet, unet_plain, unet_xl, vae, wan_parts
from diffusion.pipelines import IMAGE, POOLED, SIZE, STABLE, TEXT, finished, prompts, sd, sd3
from torch import Tensor, nn

import diffusion_adapters as da

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*scheduler.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Passing:FutureWarning"),
]

D = diffusers


def ddim() -> Any:
    return D.DDIMScheduler(**STABLE, clip_sample=False)


@cache
def lumina_transformer() -> Any:
    return made(
        D.Lumina2Transformer2DModel,
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(64, 16, 16),
        cap_feat_dim=16,
        gains={"attn.to_out": 4.0},
    )


def lumina(scheduler: Any = None) -> Any:
    scheduler = scheduler or D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = D.Lumina2Pipeline(lumina_transformer(), scheduler, shifted(4), None, None)
    return finished(pipe)


LUMINA: dict[str, Any] = {
    **TEXT,
    **SIZE,
    "prompt_attention_mask": torch.ones(1, 5, dtype=torch.long),
    "negative_prompt_attention_mask": torch.ones(1, 5, dtype=torch.long),
    "guidance_scale": 3.0,
}


@cache
def adapter_network() -> Any:
    return made(
        D.T2IAdapter,
        in_channels=3,
        channels=[16, 32],
        num_res_blocks=1,
        downscale_factor=2,
        adapter_type="full_adapter_xl",
    )


def adapter(kind: str = "XL") -> Any:
    nothing = (None, None, None, None)
    return finished(
        D.StableDiffusionXLAdapterPipeline(
            vae(), *nothing, unet_xl(), adapter_network(), D.EulerDiscreteScheduler(**STABLE)
        )
    )


def wan_of_two(scheduler: Any = None) -> Any:
    decoder, transformer = wan_parts()
    other = made(D.WanTransformer3DModel, seed=5, **dict(transformer.config))
    scheduler = scheduler or D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return finished(D.WanPipeline(None, None, decoder, scheduler, transformer, other, boundary_ratio=0.7))


def controlled(scheduler: Any = None) -> Any:
    return sd("ControlNet", scheduler or ddim(), controlnet=controlnet())


CONTROL: dict[str, Any] = {**TEXT, **SIZE, "image": IMAGE, "controlnet_conditioning_scale": 2.0}


def two_controls() -> Any:
    return sd("ControlNet", ddim(), controlnet=[controlnet(), controlnet()])


def call(pipe: Any, given: dict[str, Any], steps: int = 16) -> Tensor:
    given = {"num_inference_steps": steps, "output_type": "latent", "return_dict": False, **given}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return torch.as_tensor(pipe(**{**given, "generator": torch.Generator().manual_seed(1)})[0])


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


SWITCHES: dict[str, tuple[Callable[[], Any], dict[str, Any], dict[str, Any]]] = {
    "a control that ends": (controlled, CONTROL, {"control_guidance_end": 0.5}),
    "a control that begins": (controlled, CONTROL, {"control_guidance_start": 0.3}),
    "a control in the middle": (controlled, CONTROL, {"control_guidance_start": 0.3, "control_guidance_end": 0.8}),
    "two controls": (
        two_controls,
        {**CONTROL, "image": [IMAGE, IMAGE.flip(-1)], "controlnet_conditioning_scale": [1.0, 2.0]},
        {"control_guidance_start": [0.0, 0.4], "control_guidance_end": [0.6, 1.0]},
    ),
    "guidance that ends": (lumina, LUMINA, {"cfg_trunc_ratio": 0.5}),
    "an adapter that ends": (adapter, {**POOLED, **SIZE, "image": IMAGE}, {"adapter_conditioning_factor": 0.5}),
    "layers that are skipped": (
        sd3,
        {**POOLED, **SIZE},
        {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.1, "skip_layer_guidance_stop": 0.6},
    ),
    "another network for low noise": (
        wan_of_two,
        {**TEXT, **SIZE, "num_frames": 5, "guidance_scale": 3.0},
        {"guidance_scale_2": 5.0},
    ),
}


@pytest.mark.parametrize("width", [None, 1, 4, 16])
@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_by_the_number_of_the_step_is_made_in_its_step(name: str, width: int | None) -> None:
    make, given, switch = SWITCHES[name]
    if width not in (None, 4) and name not in ("a control in the middle", "guidance that ends"):
        pytest.skip("one width will do")
    pipe = make()
    expected, without = call(pipe, {**given, **switch}), call(pipe, given)
    assert distance(without, expected) > 1e-3  # the switch matters
    parallel = da.diffusers.parallelize(pipe, width=width)
    assert distance(call(parallel, {**given, **switch}), expected) <= 1e-4
    assert parallel.solution.converged
    assert distance(call(parallel, given), without) <= 1e-4
