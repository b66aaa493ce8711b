"""Callbacks of a pipeline's call: they may read and interrupt the run, but must not change it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion_adapters.diffusers._numbers import plain

_FREE = frozenset({"_interrupt", "_progress_bar_config", "_num_timesteps", "_current_timestep", "progress_bar"})
"""Attributes of a pipeline that do not influence the samples."""


def watched(callback: Any, pipe: Any, turns: Callable[[], int]) -> Any:
    """``callback_on_step_end`` that receives the number of its turn, and must not change anything.

    Args:
        callback: The user's: a function, or an object of diffusers with ``tensor_inputs``.
        pipe: The pipeline, of which the callback is given a copy.
        turns: How many turns there have been.
    """
    for one in getattr(callback, "callbacks", [callback]):
        config = getattr(one, "config", None)
        if hasattr(config, "cutoff_step_ratio") or hasattr(config, "cutoff_step_index"):
            raise ValueError(
                f"callback_on_step_end={type(one).__name__} changes the run at a step, by its number; expected a "
                "callback that only looks, or sets pipe._interrupt: run the pipeline itself for such changes"
            )

    def call(given_pipe: Any, step: int, timestep: Any, given: dict[str, Any]) -> Any:
        before = [_attributes(one) for one in (given_pipe, pipe)]
        tensors, kept = dict(given), {name: _kept(value) for name, value in given.items()}
        out = dict(callback(given_pipe, turns() - 1, plain(timestep), given) or {})
        changed = [name for name, value in out.items() if value is not tensors.get(name, value)]
        changed += [name for name, value in tensors.items() if name not in changed and kept[name] != _kept(value)]
        for one, attributes in zip((given_pipe, pipe), before, strict=True):
            changed += [name.lstrip("_") for name in _differing(attributes, _attributes(one))]
        _refuse(list(dict.fromkeys(changed)), "callback_on_step_end")
        return out

    return _like(callback, call)


def watched_old(callback: Callable[..., Any]) -> Callable[..., Any]:
    """``callback``, as older pipelines call it: ``callback(step, timestep, latents)``."""

    def call(step: int, timestep: Any, latents: Any, *args: Any) -> Any:
        kept = _kept(latents)
        value = callback(step, plain(timestep), latents, *args)
        _refuse(["latents"] if _kept(latents) != kept else [], "callback")
        return value

    return call


def _refuse(changed: list[str], name: str) -> None:
    if changed:
        raise ValueError(
            f"{name} changed {', '.join(changed)} between two steps, which depends on their order; "
            "expected a callback that only reads, or sets pipe._interrupt: run the pipeline itself for such changes"
        )


def _like(callback: Any, call: Callable[..., Any]) -> Any:
    """A function in place of the callback; for a callback object, an object of its class, which pipelines inspect."""
    kind = type(callback)
    if not hasattr(callback, "tensor_inputs"):
        return call

    def called(self: Any, *args: Any) -> Any:
        return call(*args)

    made = object.__new__(type(kind.__name__, (kind,), {"__call__": called, "__module__": kind.__module__}))
    made.__dict__.update(vars(callback))
    return made


def _kept(value: Any) -> Any:
    """A value that changes when a tensor is written to."""
    if not isinstance(value, Tensor):
        return None
    if value.is_inference():
        return float(value.double().sum()), float(value.double().abs().sum())
    return value._version


def _attributes(pipe: Any) -> dict[str, Any]:
    """A pipeline's attributes, and the weights of its adapters."""
    found = {name: dict(v) if type(v) is dict else v for name, v in vars(pipe).items() if name not in _FREE}
    for name in ("unet", "transformer"):
        processors = getattr(vars(pipe).get(name), "attn_processors", None) or {}
        scales = [getattr(processor, "scale", None) for processor in processors.values()]
        found[f"adapter scales of {name}"] = [list(s) if isinstance(s, list) else s for s in scales]
    return found


def _differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in {**before, **after} if not _same(before.get(name), after.get(name))]


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b)
    try:
        return bool(a == b)
    except Exception:
        return False
