"""Names for numpy arrays of integers, booleans and floats."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


Bools: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def relaxing(number: Ints, relaxations: int) -> Bools:
    """Which iterates are made without a correction, where ``relaxations`` such precede each one that has it."""
    return number % (relaxations + 1) != 0
