"""torchdiffeq's solvers as propagators."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.names import METHOD_HINTS, one_of
from parareal._core.trees import State
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._traits import IntegratorTraits
from parareal.integrators.external._checks import check_one_dtype, check_options, check_tolerance, load
from parareal.integrators.external._coroutine import Rhs, as_stages, finite_lanes, lane_by_lane
from parareal.problem._ode import Stages

ADAPTIVE = {"dopri8": 8, "dopri5": 5, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 2}
FIXED = {"euler": (1, 1), "midpoint": (2, 2), "heun2": (2, 2), "heun3": (3, 3), "rk4": (4, 4)}
"""Order and evaluations a step of the fixed-step methods."""
ADAMS = ("explicit_adams", "implicit_adams")

_IN_TIME = ("first_step", "min_step", "max_step", "step_t", "jump_t")
_ABSOLUTE = ("step_t", "jump_t", "grid_constructor")
"""Options that hold times, and not lengths of time."""
_ADAPTIVE_OPTIONS = ("norm", "dtype", "safety", "ifactor", "dfactor", "max_num_steps", *_IN_TIME)
_FIXED_OPTIONS = ("step_size", "grid_constructor", "interp", "perturb")
_ADAMS_OPTIONS = (*_FIXED_OPTIONS, "max_order", "max_iters")


@dataclass(frozen=True, eq=False)
class TorchDiffEq(Integrator):
    """A solver of torchdiffeq, which propagates a state over a slice.

    Adaptive methods choose their steps in each slice anew and for each lane apart, as if it were solved alone, while
    the lanes' calls of the right-hand side are stacked like those of any method. ``together=True`` lets all lanes of a
    step share one sequence of steps instead, in time normalised to [0, 1]: less overhead, but a lane then depends, to
    within the tolerances, on the lanes beside it. Fixed-step methods make one step in each interval of the mesh, all
    lanes at once, and lanes never depend on each other.

    Where the solver fails (its step underflows, ``max_num_steps``) the state becomes NaN. Gradients flow through
    the steps.

    Args:
        method: ``"dopri5"``, ``"dopri8"``, ``"bosh3"``, ``"fehlberg2"``, ``"adaptive_heun"``; ``"euler"``,
            ``"midpoint"``, ``"heun2"``, ``"heun3"``, ``"rk4"`` (the 3/8 rule); or ``"explicit_adams"``,
            ``"implicit_adams"``, with ``options={"step_size": ...}``.
        rtol: Relative tolerance of adaptive methods.
        atol: Absolute tolerance of adaptive methods.
        options: As in torchdiffeq, for each slice.
        steps: Intervals in each slice; the solver restarts in each. 1 is the whole slice; ``None`` takes
            the grid's own points (fine) or one (coarse).
        together: See above; for adaptive methods.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An unknown method or option, or a tolerance that is not positive.
        ImportError: When a run begins and torchdiffeq is not installed.

    Source:
        R. T. Q. Chen, torchdiffeq, https://github.com/rtqichen/torchdiffeq.

    Examples:
        >>> import torch, parareal as pr
        >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4)
        >>> ref = pr.serial(pr.ODE(lambda t, u: -u), torch.ones(1), grid, fine=TorchDiffEq("dopri5", rtol=1e-5))
        >>> round(ref.u.item(), 4)
        0.3679
    """

    method: str = "dopri5"
    rtol: float = 1e-7
    atol: float = 1e-9
    options: dict[str, Any] | None = None
    steps: int | None = field(default=1, kw_only=True)
    together: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        hints = METHOD_HINTS | {"scipysolver": "pr.SciPy", "tsit5": 'pr.Adaptive("tsit5")'}
        one_of(self.method, (*ADAPTIVE, *FIXED, *ADAMS), "method", hints=hints)
        check_tolerance(self.rtol, "rtol")
        check_tolerance(self.atol, "atol")
        check_steps(self.steps)
        if not isinstance(self.together, bool):
            raise TypeError(f"together={self.together!r} is {described(self.together)}; expected True or False")
        options = {} if self.options is None else self.options
        known = (
            _ADAPTIVE_OPTIONS if self.method in ADAPTIVE else _FIXED_OPTIONS if self.method in FIXED else _ADAMS_OPTIONS
        )
        check_options(options, known, f"torchdiffeq's {self.method!r}")
        object.__setattr__(self, "options", dict(options))
        if self.method in ADAMS and not {"step_size", "grid_constructor"} & options.keys():
            raise ValueError(
                f"{self.method!r} needs several steps in a slice for its history, and has one; expected "
                'options={"step_size": ...}, or a method such as "rk4"'
            )
        for key in _IN_TIME if self.together else ():
            if key in options:
                raise ValueError(
                    f"option {key!r} is in units of time, and together=True solves in time normalised to [0, 1]; "
                    f"leave out {key!r} or together=True"
                )
        if self.together and self.method not in ADAPTIVE:
            raise ValueError(
                f"together=True is for adaptive methods, {', '.join(map(repr, ADAPTIVE))}, and the method is "
                f"{self.method!r}; leave it out"
            )

    @property
    def traits(self) -> IntegratorTraits:
        """Order and evaluations of fixed-step methods. Tolerances set the accuracy of adaptive ones, lane by lane."""
        order, evaluations = FIXED.get(self.method, (None, None))
        return IntegratorTraits(
            order=order,
            evaluations=None if self.options else evaluations,
            apart=not (self._all_at_once or self.together),
        )

    def bind(self, problem: Any, u0: State, grid: Any) -> TorchDiffEq:
        """Returns itself if torchdiffeq is installed and the state is of one dtype."""
        load("torchdiffeq", "torchdiffeq>=0.2.4")
        check_one_dtype(u0, "torchdiffeq")
        return self

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """The whole interval, as many requests as the solver makes calls; see `Integrator.step`."""
        if self._all_at_once or (self.together and bool(finite_lanes(u).all())):
            end = yield from as_stages(problem, lambda f: self._normalised(f, t0, t1, u), u)
            if end is not None:
                return end
            # One lane has made the steps of all too small; solved apart, only this lane fails.
        return (yield from lane_by_lane(problem, self._solve, t0, t1, u))

    @property
    def _all_at_once(self) -> bool:
        """Steps of a fixed number: lanes do not depend on each other even where they are one system."""
        return self.method in FIXED and not self.options

    def _normalised(self, f: Rhs, t0: Tensor, t1: Tensor, u: State) -> State | None:
        """All lanes as one system du/dtheta = h f(t0 + theta h, u), theta in [0, 1]; None if the solver failed."""
        h = t1 - t0

        def g(theta: Tensor, u: State) -> State:
            return trees.map(lambda k: trees.per_lane(h, k) * k, f(t0 + theta.to(h.dtype) * h, u))

        return self._integrate(g, torch.zeros((), dtype=h.dtype, device=h.device), torch.ones_like(h[0]), u)

    def _solve(self, f: Rhs, t0: Tensor, t1: Tensor, u: State) -> State | None:
        narrow = any(torch.finfo(leaf.dtype).eps > torch.finfo(t0.dtype).eps for leaf in trees.leaves(u))
        if not narrow or any(key in _ABSOLUTE for key in self.options or ()):
            return self._integrate(lambda t, u: f(t.to(t0.dtype), u), t0, t1, u)
        # Torchdiffeq gives functions the time in the dtype of the state, which has few digits left far from zero.
        return self._integrate(lambda s, u: f(t0 + s.to(t0.dtype), u), torch.zeros_like(t0), t1 - t0, u)

    def _integrate(self, f: Rhs, t0: Tensor, t1: Tensor, u: State) -> State | None:
        """``torchdiffeq.odeint`` from ``t0`` to ``t1``; ``None`` if it failed."""
        # A tensor without axes would get the dtype of time in sums.
        shaped = trees.map(lambda leaf: leaf.reshape(1) if leaf.ndim == 0 else leaf, u)
        y0 = shaped if isinstance(u, Tensor) else tuple(trees.leaves(shaped))

        def func(t: Tensor, y: Any) -> Any:
            given = [y] if isinstance(u, Tensor) else y
            given = [x.reshape(like.shape) for x, like in zip(given, trees.leaves(u), strict=True)]
            slopes = trees.leaves(f(t, trees.rebuild(given, u)))
            slopes = [k.reshape(like.shape) for k, like in zip(slopes, trees.leaves(shaped), strict=True)]
            return slopes[0] if isinstance(u, Tensor) else tuple(slopes)

        odeint = load("torchdiffeq", "torchdiffeq>=0.2.4").odeint
        tolerances = {"rtol": self.rtol, "atol": self.atol}
        options = dict(self.options) if self.options else None
        if options is not None and "norm" in options and any(leaf.ndim == 0 for leaf in trees.leaves(u)):
            options["norm"] = partial(_norm_as_given, options["norm"], u)
        if options is not None and options.get("step_size") is not None and (t0.requires_grad or t1.requires_grad):
            options["grid_constructor"] = partial(_whole_steps, options.pop("step_size"))
        try:
            ys = odeint(func, y0, torch.stack([t0, t1]), method=self.method, options=options, **tolerances)
        except AssertionError:  # the error of torchdiffeq for a step that underflows, or too many steps
            return None
        ends = [ys[-1]] if isinstance(u, Tensor) else [y[-1] for y in ys]
        return trees.rebuild([y.reshape(like.shape) for y, like in zip(ends, trees.leaves(u), strict=True)], u)


def _whole_steps(size: Any, f: Any, y0: Any, t: Tensor) -> Tensor:
    """Torchdiffeq's points for a step size, but for a last step within rounding of zero.

    torchdiffeq has the state before such a step, which does not move with the end: its derivative is lost.
    """
    span = (t[-1] - t[0]).detach()
    count = max(math.ceil(float(span.abs() / size) - _ROUNDED), 1)
    inside = t[0] + torch.sign(span) * size * torch.arange(count, dtype=t.dtype, device=t.device)
    return torch.cat([inside, t[-1:]])


_ROUNDED = 1e-9
"""Part of a step that counts as none: well above the rounding of times, well below any step that is meant."""


def _norm_as_given(norm: Any, like: State, y: Any) -> Tensor:
    """The norm of a state whose tensors have the axes of the user's: those without any were given one."""
    if isinstance(y, Tensor):
        return norm(y.reshape(trees.leaves(like)[0].shape))
    return norm(tuple(x.reshape(leaf.shape) for x, leaf in zip(y, trees.leaves(like), strict=True)))
