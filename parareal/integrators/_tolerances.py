"""Tolerances of adaptive methods: a number, one for each element of the state, or one for each sample."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Floats
from parareal._core.checks import described
from parareal._core.host import index_to
from parareal._core.norms import at_least_single, modulus
from parareal._core.trees import State
from parareal.integrators.external._checks import check_tolerance


@dataclass(frozen=True, eq=False)
class Tolerances:
    """``atol + rtol |u|`` on lanes.

    Attributes:
        rtol: Checked by `checked_tolerance`.
        atol: Likewise.
        per_sample: Whether tensors among them hold one number for each sample.
    """

    rtol: Any
    atol: Any
    per_sample: bool

    def scale(self, u: State, new: State | None, samples: Floats) -> State:
        """``atol + rtol max(|u|, |new|)``, leaves ``(L, *state)``, at least float32; ``new=None`` for ``u`` alone."""
        size = trees.map(lambda leaf: at_least_single(modulus(leaf)), u)
        if new is not None:
            size = trees.map(lambda one, leaf: torch.maximum(one, modulus(leaf).to(one.dtype)), size, new)
        leaves = trees.leaves(size)
        scaled: list[Tensor] = []
        for i, leaf in enumerate(leaves):
            rtol, atol = (_of(tol, i, leaf, samples, self.per_sample) for tol in (self.rtol, self.atol))
            scaled.append(leaf * rtol + atol)
        return trees.rebuild(scaled, size)

    def check(self, u0: State) -> None:
        """Raises unless they fit a state."""
        leaves = trees.leaves(u0)
        for name, tol in (("rtol", self.rtol), ("atol", self.atol)):
            if isinstance(tol, tuple) and len(tol) != len(leaves):  # pyright: ignore[reportUnknownArgumentType]
                raise ValueError(
                    f"{name} is a tuple of {len(tol)} for a state of {len(leaves)} tensors; "  # pyright: ignore
                    "expected one for each"
                )
            for i, leaf in enumerate(leaves):
                part = tol[i] if isinstance(tol, tuple) else tol  # pyright: ignore[reportUnknownVariableType]
                if isinstance(part, Tensor) and not self.per_sample:
                    try:
                        fits = torch.broadcast_shapes(part.shape, leaf.shape) == leaf.shape
                    except RuntimeError:
                        fits = False
                    if not fits:
                        raise ValueError(
                            f"{name} has shape {tuple(part.shape)} for a state of shape {tuple(leaf.shape)}; expected "
                            "one that broadcasts against it; per_sample=True for one number for each sample"
                        )


def _of(tol: Any, i: int, leaf: Tensor, samples: Floats, per_sample: bool) -> Any:
    """The tolerance of leaf ``i``, as it multiplies leaves of that shape."""
    tol = tol[i] if isinstance(tol, tuple) else tol  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(tol, Tensor):
        return tol  # pyright: ignore[reportUnknownVariableType]
    tol = tol.to(leaf.device, leaf.dtype)
    if per_sample and tol.ndim:
        return trees.per_lane(tol[index_to(leaf.device, samples.astype(np.int64))], leaf)
    return tol


def checked_tolerance(value: Any, name: str, per_sample: bool) -> Any:
    """A tolerance: a number, a tensor, or a tuple of these; raises TypeError, ValueError."""
    if isinstance(value, tuple | list):
        return tuple(checked_tolerance(part, name, per_sample) for part in value)  # pyright: ignore
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(value)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, Tensor) and value.ndim == 0 and not value.requires_grad:
        value = value.item()
    if isinstance(value, Real):
        check_tolerance(value, name)
        return float(value)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}={value!r} is {described(value)}; expected a number above 0, or a tensor of such")
    if value.requires_grad:
        raise ValueError(f"{name} requires a gradient, and there is none with respect to it; expected {name}.detach()")
    if not bool(((value > 0) & torch.isfinite(value)).all()):
        raise ValueError(f"{name} holds numbers that are no tolerance; expected finite numbers above 0")
    if per_sample and value.ndim != 1:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)} with per_sample=True; expected one number for each sample, (B,)"
        )
    return value
