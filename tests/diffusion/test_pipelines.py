"""The tiny pipelines with which the adapter of diffusers is tested are worth testing with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusion.pipelines import PIPELINES, Tiny
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # their own calls of numpy


def run(pipe: Any, inputs: dict[str, Any], seed: int = 0) -> Tensor:
    return torch.as_tensor(pipe(**inputs, generator=torch.Generator().manual_seed(seed), return_dict=False)[0])


def distance(a: Tensor, b: Tensor) -> float:
    """Relative, over all samples."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("tiny", PIPELINES.values(), ids=PIPELINES)
@pytest.mark.sweep(5)
def test_a_pipeline_runs_repeats_itself_and_heeds_what_it_is_given(tiny: Tiny) -> None:
    before = torch.get_rng_state()
    out = run(tiny.make(), tiny.inputs)
    assert torch.isfinite(out).all()
    assert out.std() > 0.05
    # Where noise is predicted, latents grow by 1/alpha, which is 157 at most (pixart's levels); none is at 8 sigma.
    assert out.abs().max() < 8 * 157
    pipe = tiny.make()  # built anew from the same networks
    assert torch.equal(run(pipe, tiny.inputs), out)
    assert distance(run(pipe, tiny.inputs, seed=1), out) > 1e-2
    for other in tiny.others:
        assert distance(run(pipe, {**tiny.inputs, **other}), out) > 1e-2, list(other)
    assert torch.equal(torch.get_rng_state(), before)
