"""What is read from the source of the loops of diffusers' own pipelines: no pipeline is made."""

from __future__ import annotations

import ast
import inspect
import warnings

import diffusers
import pytest
from diffusion.pipelines import PIPELINES  # noqa: F401 - diffusers, imported quietly

from diffusion_adapters.diffusers._loop_source import LoopSource, Use, function_tree, read_tree


def loops(name: str) -> list[LoopSource]:
    """The innermost loops over timesteps of a pipeline of diffusers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = getattr(diffusers, name)
    function = inspect.unwrap(kind.__call__)
    tree = function_tree(function.__code__)
    assert tree is not None
    found = [n for n in ast.walk(tree) if isinstance(n, ast.For) and "timestep" in ast.unparse(n.iter)]
    found = [n for n in found if ".step(" in ast.unparse(n)]
    found = [n for n in found if not any(other is not n and other in found for other in ast.walk(n))]
    return [read_tree(tree, loop, function.__code__.co_filename, kind) for loop in found]


def uses(name: str) -> list[Use]:
    return [use for loop in loops(name) for use in loop.uses]


FREE = [
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusion3Img2ImgPipeline",
    "StableDiffusion3InpaintPipeline",
    "FluxPipeline",
    "FluxImg2ImgPipeline",
    "FluxInpaintPipeline",
    "PixArtAlphaPipeline",
    "DiTPipeline",
    "DDIMPipeline",
    "DDPMPipeline",
    "LDMTextToImagePipeline",
    "KandinskyV22Pipeline",
    "AnimateDiffPipeline",
    "StableDiffusionLDM3DPipeline",
    "StableDiffusionUpscalePipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "QwenImagePipeline",
    "QwenImageInpaintPipeline",
    "SanaPipeline",
    "MochiPipeline",
    "LTXPipeline",
    "ChromaPipeline",
    "AuraFlowPipeline",
    "HunyuanDiTPipeline",
    "StableAudioPipeline",
    "WanVideoToVideoPipeline",
    "LattePipeline",
    "CogView4Pipeline",
    "FluxKontextPipeline",
]
"""Whose loops use their number for progress, callbacks and the noise on a kept image."""


@pytest.mark.parametrize("name", FREE)
def test_loops_that_do_the_same_in_all_steps(name: str) -> None:
    assert loops(name)
    assert [(use.line, use.text, use.persists) for use in uses(name)] == []


SWITCHED: dict[str, dict[str, set[str]]] = {
    "StableDiffusionControlNetPipeline": {"controlnet_keep[i]": {"control_guidance_start", "control_guidance_end"}},
    "FluxControlNetPipeline": {"controlnet_keep[i]": {"control_guidance_start", "control_guidance_end"}},
    "StableDiffusionControlNetXSPipeline": {"i / len(timesteps)": {"control_guidance_start", "control_guidance_end"}},
    "Lumina2Pipeline": {"> cfg_trunc_ratio": {"cfg_trunc_ratio"}},
    "StableDiffusionXLAdapterPipeline": {"i < int(": {"adapter_conditioning_factor"}},
    "StableDiffusion3Pipeline": {"i > num_inference_steps": {"skip_guidance_layers", "skip_layer_guidance_stop"}},
    "WanPipeline": {"t >= boundary_timestep": set()},
    "ZImagePipeline": {"self._cfg_truncation": {"cfg_truncation"}},
    "KandinskyV22PriorPipeline": {"timesteps[i + 1]": set()},
    "CosmosVideoToWorldPipeline": {"self.scheduler.sigmas[i]": set()},
    "HunyuanVideo15Pipeline": {"guidance_in(": set()},
    "LTX2Pipeline": {"i": set()},
    "Ideogram4Pipeline": {"guidance_schedule[i]": {"guidance_schedule"}},
}
"""Whose loops compute something from their number for which steps can be grouped: part of the expression, arguments."""


@pytest.mark.parametrize("name", SWITCHED)
def test_loops_that_switch_by_their_number(name: str) -> None:
    for text, arguments in SWITCHED[name].items():
        matching = [use for use in uses(name) if text in use.text and use.value is not None]
        assert matching, [use.text for use in uses(name)]
        assert any(arguments <= set(use.arguments) for use in matching), [use.arguments for use in matching]


PERSISTING: dict[str, str] = {
    "StableDiffusionGLIGENPipeline": "calls self.enable_fuser",
    "SemanticStableDiffusionPipeline": "carries edit_momentum",
    "ChronoEditPipeline": "changes latents",
    "CycleDiffusionPipeline": "carries source_latents",
    "LEditsPPPipelineStableDiffusion": "writes self.sem_guidance[i]",
    "StableDiffusionPanoramaPipeline": "adds to self.scheduler.__dict__",
}


@pytest.mark.parametrize("name", PERSISTING)
def test_loops_whose_steps_leave_something_for_those_that_follow(name: str) -> None:
    assert any(PERSISTING[name] in (use.persists or "") for use in uses(name)), [use.persists for use in uses(name)]


def test_what_is_not_reached_is_guarded() -> None:
    """An argument that switches nothing on must not count: its tests stand beside the use."""
    (use,) = [use for use in uses("CogVideoXPipeline") if "timesteps[i - 1]" in use.text]
    assert use.guards
