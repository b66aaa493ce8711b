"""torchode's solvers as propagators."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import check_count, described
from parareal._core.names import METHOD_HINTS, one_of
from parareal._core.trees import State
from parareal._core.vectors import flat, unflat
from parareal.integrators._base import Integrator
from parareal.integrators._traits import IntegratorTraits
from parareal.integrators.external._checks import check_one_dtype, check_tolerance, load
from parareal.integrators.external._coroutine import Rhs, as_stages, finite_lanes, nan_like, scattered
from parareal.problem._ode import Stages

METHODS = {"tsit5": "Tsit5", "dopri5": "Dopri5", "heun": "Heun"}
_HINTS = {"rk4": "pr.RK4()", "euler": "pr.Euler()", "midpoint": "pr.Midpoint()"}


@dataclass(frozen=True, eq=False)
class TorchODE(Integrator):
    """A solver of torchode, which carries states over slices: all lanes in one batch, each with its own steps.

    Lanes do not depend on each other, except by the rounding of batched arithmetic. A lane that has arrived is still
    evaluated until the last one has, and counted. Complex states are solved as their real and imaginary parts. Where
    the solver fails (an error estimate that is not finite, ``max_steps``) the state becomes NaN. Gradients flow
    through the steps, whose sizes count as constants.

    Args:
        method: ``"tsit5"``, ``"dopri5"`` or ``"heun"``.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        max_steps: Most steps in a slice, so that a lane that diverges ends.
        pcoeff: Proportional coefficient of the PID controller of the step size.
        icoeff: Integral coefficient.
        dcoeff: Derivative coefficient.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An unknown method, or a tolerance that is not positive.
        ImportError: When a run begins and torchode is not installed: ``pip install 'torch-parareal[torchode]'``.

    Source:
        M. Lienen and S. Günnemann, torchode: A Parallel ODE Solver for PyTorch (arXiv 2210.12375).

    Examples:
        >>> method = TorchODE("dopri5", rtol=1e-6, atol=1e-8)
    """

    method: str = "tsit5"
    rtol: float = 1e-7
    atol: float = 1e-9
    max_steps: int = field(default=10_000, kw_only=True)
    pcoeff: float = field(default=0.2, kw_only=True)
    icoeff: float = field(default=0.5, kw_only=True)
    dcoeff: float = field(default=0.0, kw_only=True)
    steps: int | None = field(default=1, init=False)
    traits = IntegratorTraits(evaluations=None)

    def __post_init__(self) -> None:
        one_of(self.method, METHODS, "method", hints=METHOD_HINTS | _HINTS)
        check_tolerance(self.rtol, "rtol")
        check_tolerance(self.atol, "atol")
        check_count(self.max_steps, "max_steps")
        for name in ("pcoeff", "icoeff", "dcoeff"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}={value!r} is {described(value)}; expected a float")

    def bind(self, problem: Any, u0: State, grid: Any) -> TorchODE:
        """Returns itself if torchode is installed and the state is of one dtype."""
        load("torchode", "torch-parareal[torchode]")
        check_one_dtype(u0, "torchode")
        return self

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """The whole slice, as many requests as the solver makes calls; see `Integrator.step`.

        torchode stops all lanes when one fails. That one becomes NaN, and the others are solved again.
        """
        good, nothing = finite_lanes(u), nan_like(u)
        while bool(good.any()):
            index = good.nonzero()[:, 0]
            solve = partial(self._solve, t0=t0[index], t1=t1[index], u=trees.lanes(u, index))
            end, ok = yield from as_stages(problem, solve, u, good)
            if bool(ok.all()):
                return scattered(nothing, index, end)
            good = good.index_copy(0, index, ok)
        return nothing

    def _solve(self, f: Rhs, *, t0: Tensor, t1: Tensor, u: State) -> tuple[State, Tensor]:
        """States at ``t1`` and which lanes did not fail."""
        ode = load("torchode", "torch-parareal[torchode]")
        term = ode.ODETerm(lambda t, y: _as_real(f(t, _from_real(y, u))), with_stats=False)
        coefficients = {"pcoeff": self.pcoeff, "icoeff": self.icoeff, "dcoeff": self.dcoeff}
        controller = ode.PIDController(self.atol, self.rtol, term=term, **coefficients)
        solver = ode.AutoDiffAdjoint(
            getattr(ode, METHODS[self.method])(term=term),
            controller,
            max_steps=self.max_steps,
            backprop_through_step_size_control=False,
        ).to(t0.device)
        solution = solver.solve(ode.InitialValueProblem(_as_real(u), t0, t1), term)
        return _from_real(solution.ys[:, -1], u), solution.status == 0


def _as_real(u: State) -> Tensor:
    """Leaves ``(L, *state)`` as one real ``(L, D)``; complex numbers as two."""
    vector = flat(u, 1)
    return torch.view_as_real(vector).flatten(1) if vector.is_complex() else vector


def _from_real(y: Tensor, like: State) -> State:
    if trees.leaves(like)[0].is_complex():
        y = torch.view_as_complex(y.unflatten(1, (-1, 2)).contiguous())
    return unflat(y, like, 1)
