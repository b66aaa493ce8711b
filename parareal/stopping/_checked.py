"""Calls of stopping rules that a user may have written: what they return is checked before the engine uses it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from parareal._core.checks import described
from parareal.stopping._increments import Change
from parareal.stopping._observations import Seen, Start
from parareal.stopping._rules import StoppingRule, StoppingState, Verdict
from parareal.stopping._traits import StoppingTraits


def begun(rule: StoppingRule, start: Start) -> StoppingState:
    """The stopping state of a rule in a new run."""
    traits: Any = rule.traits
    if not isinstance(traits, StoppingTraits):
        raise TypeError(f"traits of {rule!r} is {described(traits)}; expected a pr.StoppingTraits(...)")
    state: Any = rule.begin(start)
    if not callable(getattr(state, "decide", None)) or not isinstance(getattr(state, "rule", None), StoppingRule):
        raise TypeError(
            f"begin of {rule!r} returned {described(state)}; expected an object with the attribute rule and the method "
            "decide(seen), which returns a pr.Verdict"
        )
    return state


def measured_by(rule: StoppingRule, change: Change, like: Tensor) -> list[Tensor]:
    """The figures of a rule: ``traits.width`` tensors, of the shape and dtype of ``like``."""
    figures: Any = rule.measure(change)
    width = rule.traits.width
    if not isinstance(figures, list | tuple) or len(figures) != width:  # pyright: ignore[reportUnknownArgumentType]
        count = f" of {len(figures)}" if isinstance(figures, list | tuple) else ""  # pyright: ignore
        raise TypeError(
            f"measure of {rule!r} returned {described(figures)}{count}; expected a list of width={width} tensors, one "
            "for each figure, such as [change.norm('increment', 'rms')]"
        )
    parts: list[Any] = [*figures]
    for part in parts:
        if not isinstance(part, Tensor) or part.shape != like.shape or part.dtype != like.dtype:
            came = (
                f"a tensor of {part.dtype}, shape {tuple(part.shape)}" if isinstance(part, Tensor) else described(part)
            )
            raise TypeError(
                f"measure of {rule!r} returned {came}; expected tensors of {like.dtype}, shape {tuple(like.shape)}: "
                "one number for each boundary that has moved, as change.norm(...) gives them"
            )
    return parts


def decided(state: StoppingState, seen: Seen) -> Verdict:
    """The decision after an iteration."""
    decision: Any = state.decide(seen)
    systems, slices = seen.figures.shape[:2]
    if not isinstance(decision, Verdict):
        raise TypeError(
            f"decide of {state.rule!r} returned {described(decision)}; expected pr.Verdict(stop, converged, accepted), "
            "arrays with one entry for each system"
        )
    for name, dtype in (("stop", "bool"), ("converged", "bool"), ("accepted", "int64")):
        value: Any = getattr(decision, name)
        if not isinstance(value, np.ndarray) or value.shape != (systems,) or value.dtype.kind != dtype[0]:
            shape = f" of {value.dtype}, shape {value.shape}" if isinstance(value, np.ndarray) else ""
            raise TypeError(
                f"decide of {state.rule!r} returned {described(value)}{shape} as {name} of its pr.Verdict; expected a "
                f"numpy array of {dtype}, shape ({systems},): one entry for each system, as figures[:, -1, 0] has"
            )
    if (decision.accepted > slices).any():
        raise ValueError(
            f"decide of {state.rule!r} accepted {decision.accepted.max()} of {slices} slices; expected {slices} at most"
        )
    return decision
