"""Short descriptions of values: shapes and dtypes in place of the numbers of whole tensors."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from torch import Tensor

LONG = 72
"""Characters of a value beyond which it is cut short."""


def brief(value: Any) -> str:
    """One value in at most a line: a tensor as its shape and dtype, long sequences by their ends."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        where = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{kind} tensor of shape {tuple(value.shape)}{where}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"  # pyright: ignore[reportUnknownMemberType]
    if isinstance(value, dict):
        inside: list[str] = [f"{key!r}: {brief(one)}" for key, one in value.items()]  # pyright: ignore
        return _within("{", inside, "}")
    if type(value) in (tuple, list):
        left, right = "()" if isinstance(value, tuple) else "[]"
        return _within(left, [brief(one) for one in value], right)
    text = repr(value)
    return text if len(text) <= LONG else f"{text[: LONG - 4]} ..."


def brief_fields(value: Any, leave_out: tuple[str, ...] = ()) -> str:
    """A dataclass with `brief` values, a line each."""
    names = [field.name for field in fields(value) if field.name not in leave_out]
    return "\n".join([f"{type(value).__name__}:", *(f"    {name}: {brief(getattr(value, name))}" for name in names)])


def ends(values: list[Any], most: int = 8) -> str:
    """A list by its first and last entries."""
    if len(values) <= most:
        return repr(values)
    first, last = (", ".join(map(repr, part)) for part in (values[: most // 2], values[-(most // 2) :]))
    return f"[{first}, ..., {last}] ({len(values)} in all)"


def _within(left: str, parts: list[str], right: str) -> str:
    text = ", ".join(parts)
    if len(text) <= 4 * LONG:
        return f"{left}{text}{right}"
    return f"{left}{parts[0]}, ... {right} ({len(parts)} in all)"
