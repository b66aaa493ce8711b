"""A scheduler as it was before a pipeline took its first step with it."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def fresh(scheduler: Any, on_cpu: bool = False) -> Any:
    """A copy of a scheduler before its first step, of the original class for a stand-in.

    Args:
        scheduler: The scheduler, after ``set_timesteps``.
        on_cpu: Whether its tensors are to be on the CPU.
    """
    kind, replaced = type(scheduler), "_conversation" in vars(scheduler)
    made: Any = object.__new__(kind.__bases__[1] if replaced else kind)
    state = {name: _copied(value, on_cpu) for name, value in vars(scheduler).items() if name != "_conversation"}
    if replaced:
        state["timesteps"] = state.pop("_own_timesteps")
    if "_step_index" in state:  # the scaling of an input has set it
        state["_step_index"] = None
    made.__dict__.update(state)
    return made


def timestep_of(scheduler: Any, t: Tensor, x: Tensor) -> Tensor:
    """A timestep as ``scheduler.step`` takes it: some want one for each sample."""
    each = any(kind.__name__ == "DDPMWuerstchenScheduler" for kind in type(scheduler).__mro__)
    return t.reshape(1).expand(len(x)) if each else t


def _copied(value: Any, on_cpu: bool) -> Any:
    if on_cpu and isinstance(value, Tensor):
        return value.detach().cpu()
    return value.copy() if type(value) in (list, dict) else value
