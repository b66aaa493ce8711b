"""What depends on the order of steps, and so cannot be done in parallel in time: refused by name."""

from __future__ import annotations

from typing import Any

from torch import nn

_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "guess_mode": ((False, None), "guess_mode=False"),
    "pag_adaptive_scale": ((0.0, 0, None), "pag_adaptive_scale=0.0"),
}
"""Arguments of pipelines that act on some steps only, with the values that act on all."""

_CACHES = ("cache", "fbc_", "broadcast")
"""Parts of the names of hooks that keep what a network computed for the next step."""


def refuse(pipe: Any, given: dict[str, Any]) -> None:
    """Raises where a call's arguments, or hooks on the networks, depend on the order of steps."""
    for name, (neutral, fix) in _NEUTRAL.items():
        value = given.get(name)
        values = value if isinstance(value, list | tuple) else (value,)
        if any(one not in neutral for one in values):
            raise ValueError(
                f"{name}={value!r} treats some steps unlike others by their number, which is not known in parallel in "
                f"time; expected {fix}, or the pipeline itself"
            )
    for name in ("unet", "transformer", "transformer_2"):
        module = getattr(pipe, name, None)
        if isinstance(module, nn.Module):
            _refuse_caches(name, module)


def _refuse_caches(name: str, module: nn.Module) -> None:
    enabled = bool(getattr(module, "is_cache_enabled", False))
    for part in module.modules():
        registry = part.__dict__.get("_diffusers_hook")
        hooks = list(getattr(registry, "hooks", {}))
        enabled = enabled or any(word in hook.lower() for hook in hooks for word in _CACHES)
    if enabled:
        raise ValueError(
            f"pipe.{name} has a cache, which reuses what the step before has computed; expected none, since steps are "
            f"computed together: pipe.{name}.disable_cache()"
        )
