"""Calls drift and diffusion on many lanes, and checks their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.trees import State
from parareal.problem._lane_calls import Batching, OnLanes, check_like


class Terms:
    """Drift and diffusion on lanes, together and each alone; see `parareal.SDE`."""

    def __init__(
        self,
        drift: Callable[..., Any],
        diffusion: Callable[..., Any],
        noise: str,
        channels: int | None,
        batching: Batching,
    ) -> None:
        for name, f in (("drift", drift), ("diffusion", diffusion)):
            if not callable(f):
                raise TypeError(f"{name} is {described(f)}; expected a callable {name}(t, u)")

        def check_drift(value: State, u: State) -> State:
            return check_like(value, u, "drift(t, u)")

        def check_diffusion(value: State, u: State) -> State:
            return _check_diffusion(value, u, noise, channels)

        def check_both(value: Any, u: State) -> State:
            return check_drift(value[0], u), check_diffusion(value[1], u)

        def both(*args: Any) -> Any:
            return drift(*args), diffusion(*args)

        self.drift = OnLanes(drift, batching, "drift", check_drift)
        self.diffusion = OnLanes(diffusion, batching, "diffusion", check_diffusion)
        self.both = OnLanes(both, batching, "drift or diffusion", check_both)


def _check_diffusion(value: State, u: State, noise: str, channels: int | None) -> State:
    """Raises unless noise shapes fit; returns the value, dicts in order."""
    like = u if channels is None else trees.map(lambda leaf: leaf.unsqueeze(-1).expand(*leaf.shape, channels), u)
    leaves, expected = trees.leaves(value), trees.leaves(like)
    if len(leaves) == len(expected) and all(isinstance(leaf, Tensor) for leaf in leaves):
        value = trees.in_order_of(value, like)
        for got, leaf, state in zip(trees.leaves(value), expected, trees.leaves(u), strict=True):
            if got.shape != leaf.shape:
                fix = _shape_fix(got, state, noise, channels)
                raise ValueError(
                    f"diffusion(t, u) returned shape {tuple(got.shape)} for a state of shape {tuple(state.shape)} and "
                    f"noise={noise!r}; expected {tuple(leaf.shape)}{fix}"
                )
    return check_like(value, like, "diffusion(t, u)")


def _shape_fix(got: Tensor, state: Tensor, noise: str, channels: int | None) -> str:
    if channels is not None:
        return f", a column for each of the {channels} channels"
    if got.ndim == state.ndim + 1 and got.shape[:-1] == state.shape:
        kind = "additive" if noise == "additive" else "general"
        return f', or noise="{kind}" with channels={got.shape[-1]}'
    return ", that of the state: write torch.full_like(u, sigma) for a constant"
