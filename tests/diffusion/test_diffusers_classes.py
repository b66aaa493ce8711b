"""Every pipeline class of diffusers that there is a recipe for: the same result as in sequence, or a refusal."""

from __future__ import annotations

import warnings

import diffusers
import pytest
import torch
from diffusion.recipes import RECIPES, call, make

import diffusion_adapters as da

pytestmark = pytest.mark.filterwarnings("ignore")  # those of diffusers; ours are looked at below


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.nightly) if name.startswith("HiDream") else name for name in RECIPES],
)
@pytest.mark.sweep(8)
def test_a_pipeline_gives_the_same_or_says_why_not(name: str) -> None:
    expected, refused = call(make(name), name), RECIPES[name].refused
    assert torch.isfinite(expected).all()
    assert expected.std() > 1e-3
    fast = da.diffusers.parallelize(make(name))
    if refused is not None:
        with pytest.raises(ValueError, match=refused):
            call(fast, name)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*in sequence", RuntimeWarning)  # no result of the pipeline itself
        warnings.filterwarnings("error", ".*made in sequence", RuntimeWarning)
        value = call(fast, name)
    assert (value - expected).norm() <= 1e-4 * expected.norm()
    assert fast.solution is not None
    assert fast.solution.stats.max_lanes > 1
    assert fast.check is None or fast.check.passed is not False


def test_there_are_recipes_for_many_classes() -> None:
    classes = {name.partition(",")[0] for name, recipe in RECIPES.items() if recipe.refused is None}
    assert all(hasattr(diffusers, name) for name in classes)
    assert len(classes) >= 120
