"""The identity of a run, as far as it can be compared, so that it is not resumed as another one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State


@dataclass(frozen=True, eq=False)
class Identity:
    """The identity of a run: problem, propagator, state, grid and data, as far as they can be compared.

    Attributes:
        problem: Kind of the problem: its function cannot be compared.
        fine: The fine propagator, by `exactly`.
        state: Structure, shapes and dtypes of the initial state.
        samples: Whether it was a batch of samples.
        points: The grid's points, float64.
        bounds: Which of them are slice boundaries.
        data: Per-sample data and keys of noise, as systems, or their digest.
        compared: What `Problem.compared` says of the problem; ``None`` from a file that does not hold it.
    """

    problem: str
    fine: str
    state: str
    samples: bool
    points: Tensor
    bounds: tuple[int, ...]
    data: State = field(repr=False)
    compared: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """A digest of per-sample data and the keys of noise."""
        return self.data if isinstance(self.data, str) else digest(trees.leaves(self.data))

    @cached_property
    def texts(self) -> dict[str, str] | None:
        """What `Problem.compared` returns, as texts that differ where it does."""
        return None if self.compared is None else {name: exactly(part) for name, part in self.compared.items()}

    def check(self, other: Identity) -> None:
        """Raises unless a run of ``other`` can resume this one."""
        for name, what, fix in _COMPARED:
            then, now = getattr(self, name), getattr(other, name)
            if then != now:
                fix += _older(str(then))
                raise ValueError(f"resume is a solution with {what} {then}, and this call has {now}; expected {fix}")
        self._check_problem(other)
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

    def _check_problem(self, other: Identity) -> None:
        now = other.texts or {}
        if self.texts is None and now:
            raise ValueError(
                f"resume is a solution from a file of an older version, which does not say what {_listed(now)} it had "
                f"in its {self.problem}, so that it cannot be compared with this call; expected a file of this "
                "version: begin a new run without resume, in a new file, or finish it with the version that wrote it"
            )
        then = now if self.texts is None else self.texts
        for name in sorted({*then, *now}):
            if then.get(name) != now.get(name):
                raise ValueError(
                    f"resume is a solution of a problem with {name} = {then.get(name)}, and this call has "
                    f"{now.get(name)}; expected the same problem: for an SDE the very same noise, on the same path"
                )


_COMPARED = (
    ("state", "a state of", "an initial state of the same structure, shapes and dtypes"),
    ("samples", "samples =", "the same samples= as in that run"),
    ("problem", "a problem of the kind", "the same problem"),
    ("fine", "the fine propagator", "the same one, whose solution is wanted"),
)


def _listed(names: dict[str, str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _older(text: str) -> str:
    """What is to be said of the text of a file that has only some digits of tensors, which is never the same."""
    if "tensor(" not in text and "array(" not in text:
        return ""
    return (
        ". The file is of an older version, which kept four digits of tensors: they cannot be compared, so begin a new "
        "run without resume"
    )


def _grid(identity: Identity) -> str:
    points, slices = identity.points, len(identity.bounds) - 1
    return f"{slices} slices of {len(points) - 1} steps from {points[0].item():g} to {points[-1].item():g}"


def nameless(text: str) -> str:
    """A repr without the addresses of functions, which differ between processes."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


class Text(str):
    """A text from a file that `exactly` has made."""

    __slots__ = ()
    __repr__ = str.__str__


def exactly(value: Any) -> str:
    """A repr without addresses, in which tensors and arrays show all of their digits, or a digest.

    That of torch has four digits and leaves out the middle of long tensors; it says the device, which may be another
    where a run is resumed.
    """
    if not _holds_numbers(value):
        return nameless(repr(value))
    if isinstance(value, np.ndarray):
        value = np.array(value, order="C")  # pyright: ignore[reportUnknownVariableType]
        if value.dtype.kind not in "biufc":
            return nameless(repr(value.tolist()))
        what, of = f"{value.dtype}{list(value.shape)}", hashlib.sha256(value.tobytes()).hexdigest()
        return f"{what} {value.tolist() if value.size <= _FEW else f'of digest {of[:16]}'}"
    if isinstance(value, Tensor):
        leaf = value.detach() if value.layout == torch.strided else value.detach().to_dense()
        return f"{describe(leaf)} {leaf.tolist() if leaf.numel() <= _FEW else f'of digest {digest([leaf])[:16]}'}"
    if isinstance(value, dict | tuple | list):
        return _in_brackets(value, exactly)  # pyright: ignore[reportUnknownArgumentType]
    named = ", ".join(f"{name}={exactly(part)}" for name, part in _inside(value).items())
    return f"{type(value).__name__}({named})"


def _holds_numbers(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) or any(_holds_numbers(part) for part in _inside(value).values())


def _inside(value: Any) -> dict[Any, Any]:
    """What a value was made of, as far as it is plain data: not what a function or a network holds."""
    if isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, tuple | list):
        return dict(enumerate(value))  # pyright: ignore
    if isinstance(value, partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}  # pyright: ignore
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in fields(value) if one.init and hasattr(value, one.name)}
    if hasattr(value, "traits") and type(value).__repr__ is not object.__repr__:  # a method that is no dataclass
        return {name: part for name, part in vars(value).items() if not name.startswith("_")}
    return {}


_FEW = 4
"""Most numbers of a tensor that are shown, and not digested. A choice: an error has to be read."""


def describe(state: State) -> str:
    """Structure, shapes and dtypes, in words."""
    if isinstance(state, Tensor):
        return f"{str(state.dtype).removeprefix('torch.')}{list(state.shape)}"
    if isinstance(state, dict | tuple | list):
        return _in_brackets(state, describe)  # pyright: ignore[reportUnknownArgumentType]
    return str(trees.structure(state))


def _in_brackets(parts: dict[Any, Any] | tuple[Any, ...] | list[Any], show: Callable[[Any], str]) -> str:
    if isinstance(parts, dict):
        return "{" + ", ".join(f"{key!r}: {show(part)}" for key, part in parts.items()) + "}"
    inside = ", ".join(show(part) for part in parts)
    return f"({inside})" if isinstance(parts, tuple) else f"[{inside}]"


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
