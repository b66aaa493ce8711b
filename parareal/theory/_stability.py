"""Stability functions: a one-step method turns u' = lambda u into multiplication by a function of z = lambda h."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from parareal._core.checks import check_count
from parareal.corrections._base import Coarse, Correction
from parareal.integrators._base import Integrator
from parareal.integrators._tableau import ButcherTableau
from parareal.integrators._traits import IntegratorTraits

Complex: TypeAlias = np.ndarray[Any, np.dtype[np.complex128]]
OneStep: TypeAlias = Callable[[Complex, Complex], Complex]


@dataclass(frozen=True)
class StabilityFunction:
    """R with u1 = R(z) u0 for one slice of u' = lambda u, where z is lambda times the length of the slice.

    Attributes:
        method: The propagator.
        steps: Steps in the slice.
    """

    method: Integrator | Correction
    steps: int

    def __call__(self, z: Any, rest: Any = 0.0) -> Any:
        """R(z).

        Args:
            z: A number, a numpy array or a tensor, real or complex, of any shape.
            rest: For u' = (c + d) u with the linear part c, which exponential methods solve exactly: d times the length
                of the slice, z then being c times it. Other methods see the sum alone.

        Returns:
            A number, an array or a tensor, like ``z``, complex128. Infinite at poles.
        """
        tensor = next((x for x in (z, rest) if isinstance(x, Tensor)), None)
        z, rest = np.broadcast_arrays(_array(z), _array(rest))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            value = _one_step(self.method)(z / self.steps, rest / self.steps) ** self.steps
        if tensor is not None:
            return torch.from_numpy(value).to(tensor.device)
        return value if value.ndim else complex(value)


def stability_function(method: Integrator | Correction, steps: int | None = None) -> StabilityFunction:
    """The stability function of a propagator over a slice.

    Of a Runge-Kutta method with the table A, b it is R(z) = det(I - z A + z 1 b^T) / det(I - z A); of m steps it is
    R(z / m)^m. An exponential method gives exp(z) where all of the equation is its linear part. `Identity` is 1 and
    `Zero` is 0, so that bounds for Picard iteration and for Jacobi iteration come from the same formulas.

    Args:
        method: A Runge-Kutta or exponential Runge-Kutta method, `Coarse` around one, `Identity`, `Zero`, `Damped`
            around one of these two, or a method or correction of your own whose traits have a ``tableau`` or
            ``stability``.
        steps: Steps in the slice, where the method does not name them itself; ``None`` for one.

    Raises:
        TypeError: ``method`` is not a propagator, or its traits have no stability function: it has a history, is for
            SDEs, chooses its steps, or is a black box.
        ValueError: ``steps`` is below 1.

    Source:
        E. Hairer, G. Wanner, Solving Ordinary Differential Equations II (Springer, 1996), section IV.3; for exponential
        methods S. M. Cox, P. C. Matthews, J. Comput. Phys. 176 (2002).

    Examples:
        >>> import parareal as pr
        >>> stability_function(pr.Euler())(-0.5)
        (0.5+0j)
        >>> stability_function(pr.ImplicitEuler(steps=2))(-2.0)
        (0.25+0j)
    """
    if steps is not None:
        check_count(steps, "steps")
    if isinstance(method, Coarse):
        return stability_function(method.propagator, steps)
    _one_step(method)  # raises if there is none
    own = method.steps if isinstance(method, Integrator) else 1  # a correction covers the whole slice
    return StabilityFunction(method, own or steps or 1)


def _array(x: Any) -> Complex:
    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    return np.asarray(x, dtype=np.complex128)


def _one_step(method: Any) -> OneStep:
    """R(z, w) of one step of a method, or of a correction over a slice."""
    if not isinstance(method, Integrator | Correction):
        raise _no_function(method, "is not a propagator")
    traits = method.traits
    if traits.stability is not None:
        return traits.stability
    if isinstance(traits, IntegratorTraits):
        if traits.tableau is not None:
            return _of_table(traits.tableau)
        if traits.multistep:
            raise _no_function(method, "has a history, so that its step is not one number times the state")
    raise _no_function(method, "declares neither a tableau nor a stability function in its traits")


def _no_function(method: Any, why: str) -> TypeError:
    name = f"the class {method.__name__}" if isinstance(method, type) else repr(method)
    return TypeError(
        f"method is {name}, which {why}; expected a Runge-Kutta method such as pr.RK4() or pr.RadauIIA(), an "
        "exponential one such as pr.ETDRK4(), pr.Identity() or pr.Zero(), or a class of your own with traits = "
        "pr.IntegratorTraits(..., tableau=pr.ButcherTableau(...)) or stability=R"
    )


def _of_table(table: ButcherTableau) -> OneStep:
    stages = len(table.b)
    a = np.array([(*row, *[0.0] * (stages - len(row))) for row in table.a], dtype=np.float64)
    b = np.array(table.b)

    def function(z: Complex, w: Complex) -> Complex:
        z = np.asarray(z + w)[..., None, None]
        over, under = np.linalg.det(np.eye(stages) - z * (a - b)), np.linalg.det(np.eye(stages) - z * a)
        return np.where(under == 0, np.inf, over / np.where(under == 0, 1.0, under))

    return function
