"""Pipelines of the diffusers library, sampled in parallel in time: `parallelize`."""

from diffusion_adapters.diffusers._check import Check
from diffusion_adapters.diffusers._pipeline import ParallelPipeline, parallelize

__all__ = ["Check", "ParallelPipeline", "parallelize"]
