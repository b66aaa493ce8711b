"""Recipes for the pipelines of diffusers: each of few parts, with random weights, without downloads."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from diffusion.networks import diffusers
from diffusion.recipes import audio, combined, flows, stable, unconditional, videos
from diffusion.recipes._parts import Recipe
from torch import Tensor

_REFUSED: dict[str, str] = {
    "scheduler .* is not supported": "ConsistencyModel RePaint SanaSprint CogVideoX DanceDiffusion",
    "has no step": "ScoreSdeVe",
    "skip_prk_steps": "PNDM",
    "converts the timestep to a Python number": "KarrasVe",
    "does different things in different steps": (
        "StableDiffusionPanorama StableDiffusionDiffEdit SemanticStableDiffusion AnyFlow LTXImageToVideo "
        "StableDiffusionGLIGEN"
    ),
    "changes the latents between two steps": (
        "StableDiffusionInpaintPipelineLegacy FluxKontextInpaint Flux2KleinInpaint IFInpainting "
        "IFInpaintingSuperResolution KandinskyV22Inpaint KandinskyV22InpaintCombined"
    ),
    "were not found in the arguments": (
        "StableDiffusionSAG FluxControlInpaint AnimateDiffControlNet AnimateDiffVideoToVideoControlNet"
    ),
    "per_token_timesteps": "LTXCondition",
    "before its network": "SkyReelsV2DiffusionForcing",
}
"""Why pipelines are refused, and which."""


def _all() -> dict[str, Recipe]:
    recipes = {**unconditional.RECIPES, **stable.RECIPES, **flows.RECIPES, **videos.RECIPES}
    recipes |= {**combined.RECIPES, **audio.RECIPES}
    for why, names in _REFUSED.items():
        for name in names.split():
            full = name if "Pipeline" in name else f"{name}Pipeline"
            recipes[full] = recipes[full]._replace(refused=why)
    full = "StableDiffusionPipelineSafe"
    recipes[full] = recipes[full]._replace(refused="does different things in different steps")
    return recipes


RECIPES: dict[str, Recipe] = _all()
"""By the name of the class; after a comma, what is special about it."""


def make(name: str) -> Any:
    """The pipeline of a recipe."""
    recipe = RECIPES[name]
    kind = getattr(diffusers, name.partition(",")[0])
    needed = [
        key
        for key, part in inspect.signature(kind.__init__).parameters.items()
        if part.default is part.empty and part.kind is part.POSITIONAL_OR_KEYWORD and key != "self"
    ]
    parts = {key: part() if callable(part) else part for key, part in recipe.parts.items()}
    with torch.random.fork_rng(devices=[]):  # some make parts of their own
        torch.manual_seed(0)
        pipe = kind(**{**dict.fromkeys(needed), **parts})
    pipe.set_progress_bar_config(disable=True)
    if recipe.prepare is not None:
        recipe.prepare(pipe)
    return pipe


def call(pipe: Any, name: str, seed: int = 0) -> Tensor:
    """The sample of a recipe's call of its pipeline, or of one like it, as numbers."""
    recipe = RECIPES[name]
    known = inspect.signature(getattr(pipe, "pipe", pipe).__call__).parameters
    given = dict(recipe.given)
    if "generator" in known:
        given["generator"] = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    with torch.compiler.set_stance("force_eager"):  # some compile a line or two of theirs
        out = pipe(**given)
    value = getattr(out, recipe.result) if isinstance(recipe.result, str) else out[recipe.result]
    return torch.cat([part.double().flatten() for part in _numbers(value)])


def _numbers(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [part for item in value for part in _numbers(item)]
    return [torch.as_tensor(np.array(value))]
