"""Arguments, hooks and pipelines that depend on the order of the steps: refused by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from diffusion_adapters.diffusers._call import NETWORKS
from diffusion_adapters.models._held_networks import networks_of
from diffusion_adapters.models._training_mode import check_modules

_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "guess_mode": ((False, None), "guess_mode=False"),
    "pag_adaptive_scale": ((0.0, 0, None), "pag_adaptive_scale=0.0"),
}
"""Arguments that may not work for several steps at once, with the values that switch them off."""

_CACHES = ("cache", "fbc_", "broadcast")
"""Parts of the names of hooks that cache a network's results for the next step."""


def refuse(pipe: Any, given: dict[str, Any]) -> None:
    """Raises where a call's arguments, or hooks on the networks, depend on the order of steps.

    Networks in training mode are refused as well, and warned about where their own code asks for the mode.
    """
    for name, (neutral, fix) in _NEUTRAL.items():
        value = given.get(name)
        values = value if isinstance(value, list | tuple) else (value,)
        if any(one not in neutral for one in values):
            raise ValueError(
                f"{name}={value!r} makes the guidance of a step, or the rows of a network's input, in a way that is "
                f"not known for many steps together; expected {fix}, or the pipeline itself"
            )
    for name in NETWORKS:
        module = getattr(pipe, name, None)
        if isinstance(module, nn.Module):
            _refuse_caches(name, module)
            for found in networks_of(module):
                check_modules(found, f"pipe.{name}", f"pipe.{name}", stacklevel=4)


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
