"""Pipelines of the diffusers library, sampled in parallel in time: `parallelize`."""

from diffusion_adapters.diffusers._check import Check
from diffusion_adapters.diffusers._combined import CombinedPipeline
from diffusion_adapters.diffusers._parallelize import parallelize
from diffusion_adapters.diffusers._pipeline import ParallelPipeline

__all__ = ["Check", "CombinedPipeline", "ParallelPipeline", "parallelize"]
