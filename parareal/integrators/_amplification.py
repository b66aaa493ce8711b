"""Stability functions of exponential methods: the factor of one step for u' = (c + d) u.

All take z = c h, of the linear part, and w = d h, of the rest, as complex numpy arrays.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

from parareal.problem._semilinear import scaled_phis

Complex: TypeAlias = np.ndarray[Any, np.dtype[np.complex128]]


def exponential_euler(z: Complex, w: Complex) -> Complex:
    """exp(z) + phi_1(z) w."""
    return np.exp(z) + _phis(z, 1)[0] * w


def etdrk2(z: Complex, w: Complex) -> Complex:
    """The factor of `parareal.ETDRK2`."""
    a = exponential_euler(z, w)
    return a + _phis(z, 2)[1] * w * (a - 1)


def etdrk4(z: Complex, w: Complex) -> Complex:
    """The factor of `parareal.ETDRK4`."""
    keep, gain = np.exp(z / 2), _phis(z / 2, 1)[0] * w / 2
    a = keep + gain
    b = keep + gain * a
    c = keep * a + gain * (2 * b - 1)
    one, two, three = _phis(z, 3)
    first, middle, last = one - 3 * two + 4 * three, 2 * two - 4 * three, 4 * three - two
    return np.exp(z) + w * (first + middle * (a + b) + last * c)


def _phis(z: Complex, n: int) -> list[Complex]:
    c = torch.from_numpy(np.ascontiguousarray(z))
    return [phi.numpy() for phi in scaled_phis(torch.ones_like(c), c, n)]
