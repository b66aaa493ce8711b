"""The traits of a problem: one frozen record of what methods and checks must know beside its right-hand side."""

from __future__ import annotations

from dataclasses import dataclass

from parareal._core.checks import check_flag


@dataclass(frozen=True, kw_only=True)
class ProblemTraits:
    """The declarations of a problem, the ``traits`` of a `Problem`.

    Attributes:
        plain: Whether `Problem.rhs` is all of the equation: du/dt = rhs(t, u). Reference solutions, measured orders and
            `Jacobian` need it.
        stochastic: Whether its steps draw noise from a path.
        differentiable: Whether torch.func can differentiate `Problem.rhs`.

    Raises:
        TypeError: A trait is not a bool.
        ValueError: ``plain`` came with ``stochastic``.

    Examples:
        >>> import parareal as pr
        >>> pr.ODE(lambda t, u: -u, batching="loop").traits
        ProblemTraits(plain=True, stochastic=False, differentiable=False)
    """

    plain: bool = False
    stochastic: bool = False
    differentiable: bool = True

    def __post_init__(self) -> None:
        for name in ("plain", "stochastic", "differentiable"):
            check_flag(getattr(self, name), name)
        if self.plain and self.stochastic:
            raise ValueError("plain=True came with stochastic=True, and noise is no part of the right-hand side")
