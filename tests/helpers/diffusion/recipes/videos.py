"""Pipelines of videos."""

from __future__ import annotations

from diffusion.recipes._parts import Recipe

RECIPES: dict[str, Recipe] = {}
