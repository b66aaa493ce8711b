"""torchsde's solvers as propagators, on the path of the problem's own noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.names import one_of
from parareal._core.trees import State
from parareal._core.vectors import flat, unflat
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._traits import IntegratorTraits
from parareal.integrators.external._checks import check_one_dtype, load
from parareal.integrators.external._coroutine import Coroutine, side_by_side
from parareal.problem._ode import Stages
from parareal.problem._sde import SDE

METHODS = {
    "euler": ("ito",),
    "milstein": ("ito", "stratonovich"),
    "srk": ("ito",),
    "euler_heun": ("stratonovich",),
    "heun": ("stratonovich",),
    "midpoint": ("stratonovich",),
}
"""The calculus that each is for."""


@dataclass(frozen=True, eq=False)
class TorchSDE(Integrator):
    """A method of torchsde, which makes one of its steps in each interval of the mesh.

    The noise is the problem's own path, so that it goes with any other method as its coarse or fine counterpart. Each
    lane is a call of ``torchsde.sdeint``, whose checks ask once for drift and diffusion; lanes do not depend on each
    other. Milstein's method is the one without derivatives. Gradients flow through the steps.

    Args:
        method: For Ito SDEs ``"euler"``, ``"milstein"`` or ``"srk"``; for Stratonovich ones ``"milstein"``,
            ``"euler_heun"``, ``"heun"`` or ``"midpoint"``.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse).

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An unknown method; when a run begins, an SDE that it is not for, or time that falls.
        ImportError: When a run begins and torchsde is not installed: ``pip install 'torch-parareal[torchsde]'``.

    Source:
        X. Li, T.-K. L. Wong, R. T. Q. Chen, D. Duvenaud, Scalable Gradients for Stochastic Differential Equations
        (arXiv 2001.01328).

    Examples:
        >>> method = TorchSDE("srk", steps=4)
    """

    method: str = "euler"
    steps: int | None = None
    traits = IntegratorTraits(evaluations=None, solves=(SDE,))  # order and evaluations depend on the noise

    def __post_init__(self) -> None:
        one_of(self.method, METHODS, "method", hints={"eulermaruyama": 'method="euler"'})
        check_steps(self.steps)

    def bind(self, problem: Any, u0: State, grid: Any) -> TorchSDE:
        """Returns itself once torchsde is installed and the problem is one that it can take."""
        load("torchsde", "torch-parareal[torchsde]")
        check_one_dtype(u0, "torchsde")
        if problem.calculus not in METHODS[self.method]:
            known = [name for name, kinds in METHODS.items() if problem.calculus in kinds]
            raise ValueError(
                f"{self.method!r} is for {METHODS[self.method][0]} SDEs, and the problem has calculus="
                f"{problem.calculus!r}; expected one of {', '.join(map(repr, known))}"
            )
        if problem.noise == "general" and self.method in ("milstein", "srk"):
            raise ValueError(
                f"{self.method!r} came with general noise; expected noise that is diagonal, scalar or additive, or "
                '"euler" or "heun"'
            )
        if grid.edges[-1] < grid.edges[0]:
            raise ValueError("time falls, and torchsde solves forwards alone; expected another method, or s = -t")
        if trees.leaves(u0)[0].is_complex():
            raise TypeError("u0 is complex, and torchsde is for real states; expected pr.EulerMaruyama() or another")
        return self

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step of each lane; see `Integrator.step`."""
        lanes = [Coroutine(self._of_lane(problem, t0[i], t1[i], trees.one(u, i)), t0) for i in range(t0.shape[0])]
        ends = yield from side_by_side(problem, lanes, [()] * len(lanes))
        return trees.stack(ends)

    def _of_lane(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Callable[..., State]:
        def run(ask: Callable[..., Any]) -> State:
            sdeint = load("torchsde", "torch-parareal[torchsde]").sdeint
            options = {"grad_free": True} if self.method == "milstein" else {}
            equation, noise = _Equation(problem, ask, u), _Noise(problem, ask, u, self.steps)
            ts, y0 = torch.stack([t0, t1]), flat(u, 0).unsqueeze(0)
            ys = sdeint(equation, y0, ts, noise, self.method, t1 - t0, options=options)
            return unflat(ys[-1, 0], u, 0)

        return run


class _Equation:
    """Drift and diffusion as torchsde calls them: states ``(1, D)``, asked for on one lane."""

    def __init__(self, problem: SDE, ask: Callable[..., Any], u: State) -> None:
        self._problem, self._ask, self._u = problem, ask, u
        self.sde_type = problem.calculus
        self._columns = problem.channels is not None
        self._scalar = problem.noise == "scalar"
        # Additive noise with a motion of its own for each element is diagonal to torchsde.
        self.noise_type = problem.noise if self._columns or self._scalar else "diagonal"

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return flat(self._ask(self._problem.rhs, t, unflat(y[0], self._u, 0)), 0).unsqueeze(0)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return self._diffusion(self._ask(self._problem.amplitudes, t, unflat(y[0], self._u, 0)))

    def f_and_g(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        f, g = self._ask(self._problem.terms, t, unflat(y[0], self._u, 0))
        return flat(f, 0).unsqueeze(0), self._diffusion(g)

    def _diffusion(self, g: State) -> Tensor:
        if self._columns:  # leaves (*state, channels)
            return torch.cat([leaf.reshape(-1, leaf.shape[-1]) for leaf in trees.leaves(g)]).unsqueeze(0)
        column = flat(g, 0).unsqueeze(0)
        return column.unsqueeze(-1) if self._scalar else column


class _Noise:
    """The problem's path, on one lane, with the calls of a Brownian motion of torchsde."""

    levy_area_approximation = "space-time"

    def __init__(self, problem: SDE, ask: Callable[..., Any], u: State, steps: int | None) -> None:
        self._problem, self._ask, self._u, self._steps = problem, ask, u, steps
        motions = problem.channels or (1 if problem.noise == "scalar" else flat(u, 0).numel())
        self.shape = (1, motions)

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Any:
        """Increments ``(1, m)``, and with ``return_U`` the integrals of W(s) - W(ta) ds."""
        request = self._problem.increments(self._steps, area=return_U)
        found = self._ask(request, ta, tb, self._u)
        rows = [self._row(part) for part in (found if return_U else (found,))]
        return tuple(rows) if return_U else rows[0]

    def _row(self, dw: State) -> Tensor:
        return flat(dw, 0).reshape(self.shape).to(trees.leaves(self._u)[0].dtype)
