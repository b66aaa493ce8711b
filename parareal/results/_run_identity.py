"""The identity of a run, as far as it can be compared, so that it is not resumed as another one."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State


@dataclass(frozen=True, eq=False)
class Identity:
    """The identity of a run: problem, propagator, state, grid and data, as far as they can be compared.

    Attributes:
        problem: Kind of the problem: its function cannot be compared.
        fine: The fine propagator.
        state: Structure, shapes and dtypes of the initial state.
        samples: Whether it was a batch of samples.
        points: The grid's points, float64.
        bounds: Which of them are slice boundaries.
        data: Per-sample data and noise, as systems, or their digest.
    """

    problem: str
    fine: str
    state: str
    samples: bool
    points: Tensor
    bounds: tuple[int, ...]
    data: State = field(repr=False)

    @property
    def digest(self) -> str:
        """A digest of per-sample data and noise."""
        return self.data if isinstance(self.data, str) else digest(trees.leaves(self.data))

    def check(self, other: Identity) -> None:
        """Raises unless a run of ``other`` can resume this one."""
        for name, what, fix in _COMPARED:
            then, now = getattr(self, name), getattr(other, name)
            if then != now:
                raise ValueError(f"resume is a solution with {what} {then}, and this call has {now}; expected {fix}")
        same = self.bounds == other.bounds and torch.equal(self.points, other.points)
        if not same:
            raise ValueError(
                f"resume is a solution on {_grid(self)}, and this call has {_grid(other)}; expected the very same "
                "points and slice boundaries: resume on the grid of that run, or begin a new one without resume"
            )
        if self.digest != other.digest:
            raise ValueError(
                "resume is a solution with other per-sample data or other noise; expected those of that run: for an "
                "SDE the same path=, or generator=torch.Generator().manual_seed(...) with the same seed"
            )


_COMPARED = (
    ("state", "a state of", "an initial state of the same structure, shapes and dtypes"),
    ("samples", "samples =", "the same samples= as in that run"),
    ("problem", "a problem of the kind", "the same problem"),
    ("fine", "the fine propagator", "the same one, whose solution is wanted"),
)


def _grid(identity: Identity) -> str:
    points, slices = identity.points, len(identity.bounds) - 1
    return f"{slices} slices of {len(points) - 1} steps from {points[0].item():g} to {points[-1].item():g}"


def nameless(text: str) -> str:
    """A repr without the addresses of functions, which differ between processes."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def describe(state: State) -> str:
    """Structure, shapes and dtypes, in words."""
    if isinstance(state, Tensor):
        return f"{str(state.dtype).removeprefix('torch.')}{list(state.shape)}"
    if isinstance(state, dict):
        return "{" + ", ".join(f"{key!r}: {describe(part)}" for key, part in state.items()) + "}"  # pyright: ignore
    if isinstance(state, tuple | list):
        parts = ", ".join(describe(part) for part in state)  # pyright: ignore
        return f"({parts})" if isinstance(state, tuple) else f"[{parts}]"
    return str(trees.structure(state))


def digest(leaves: list[Tensor]) -> str:
    """SHA-256 of dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for leaf in leaves:
        total.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
        total.update(raw(leaf).numpy().data)
    return total.hexdigest()


def raw(leaf: Tensor) -> Tensor:
    """The bytes of a tensor, uint8, in one dimension."""
    flat = leaf.detach().cpu().resolve_conj().resolve_neg().reshape(-1)
    # An axis of one element is contiguous whatever its stride, but bytes can be viewed at a stride of 1 alone.
    return (flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format)).view(torch.uint8)
