"""SciPy's solvers as propagators."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.names import one_of
from parareal._core.trees import State
from parareal._core.vectors import flat, unflat
from parareal.integrators._base import Cost, Integrator
from parareal.integrators._traits import IntegratorTraits
from parareal.integrators.external._checks import check_one_dtype, check_options, check_tolerance, load
from parareal.integrators.external._coroutine import Rhs, lane_by_lane, nan_like
from parareal.problem._ode import Stages

_COMMON = ("first_step", "max_step")
_HINTS = {
    "dopri5": 'method="RK45"',
    "bosh3": 'method="RK23"',
    "dopri8": 'method="DOP853"',
    "lsode": 'method="LSODA"',
    "odeint": 'method="LSODA"',
    "vode": 'method="BDF"',
}
_OPTIONS = {
    "RK45": _COMMON,
    "RK23": _COMMON,
    "DOP853": _COMMON,
    "Radau": (*_COMMON, "jac", "jac_sparsity"),
    "BDF": (*_COMMON, "jac", "jac_sparsity"),
    "LSODA": (*_COMMON, "jac", "min_step", "lband", "uband"),
}
_IMPLICIT = ("Radau", "BDF", "LSODA")
_REAL = ("Radau", "LSODA")
_LEAST_RTOL = 100 * float(np.finfo(np.float64).eps)


class SciPy(Integrator):
    """A solver of ``scipy.integrate.solve_ivp``, which propagates a state over a slice.

    Each lane takes its own steps, chosen anew in each slice; the lanes' calls of the right-hand side are stacked,
    except for ``"LSODA"``, which can only run one at a time: its lanes are solved one after another. The state is one
    float64 (or complex128) vector inside, all tensors end to end, and the result has the dtype of the state. Where
    the solver fails the state becomes NaN.

    No gradient flows through it: states or right-hand sides that require one are refused.

    Args:
        method: ``"RK45"``, ``"RK23"``, ``"DOP853"``, ``"Radau"``, ``"BDF"`` or ``"LSODA"``. The last three are for
            stiff problems; they need a float64 state, or ``"BDF"`` a complex128 one.
        rtol: Relative tolerance, at least 2.3e-14.
        atol: Absolute tolerance.
        options: As in ``solve_ivp``: ``first_step``, ``max_step``; for the stiff ones ``jac``, ``jac_sparsity``; for
            LSODA ``min_step``, ``lband``, ``uband``.

    Raises:
        TypeError: An argument has the wrong type; or when a run begins, a state of mixed dtypes or of one that the
            method cannot take.
        ValueError: An unknown method or option, a tolerance that is not positive, or a state that requires a gradient.
        ImportError: When a run begins and SciPy is not installed.

    Source:
        P. Virtanen et al., SciPy 1.0, Nature Methods 17 (2020).

    Examples:
        >>> import torch, parareal as pr
        >>> stiff = pr.ODE(lambda t, u: -1000 * (u - torch.cos(t)))
        >>> grid = pr.TimeGrid.uniform(0.0, 2.0, slices=4)
        >>> u0 = torch.zeros(1, dtype=torch.float64)
        >>> sol = pr.solve(stiff, u0, grid, fine=SciPy("Radau"), coarse=SciPy("BDF", rtol=1e-2, atol=1e-4))
        >>> sol.iterations < 4
        True
    """

    steps: int | None = 1
    traits = IntegratorTraits(evaluations=None, apart=True)
    method: str
    rtol: float
    atol: float
    options: dict[str, Any]

    def __init__(self, method: str = "RK45", rtol: float = 1e-7, atol: float = 1e-9, **options: Any) -> None:
        one_of(method, _OPTIONS, "method", hints=_HINTS)
        check_tolerance(rtol, "rtol", _LEAST_RTOL)
        check_tolerance(atol, "atol")
        check_options(options, _OPTIONS[method], f"SciPy's {method!r}")
        vars(self).update(method=method, rtol=rtol, atol=atol, options=options)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} cannot be set: a method is a frozen object; make another SciPy(...)")

    def __repr__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"SciPy({self.method!r}, rtol={self.rtol!r}, atol={self.atol!r}{options})"

    def bind(self, problem: Any, u0: State, grid: Any) -> SciPy:
        """Returns itself if SciPy is installed and supports the state."""
        load("scipy.integrate", "scipy>=1.11")
        check_one_dtype(u0, "scipy")
        dtype = trees.leaves(u0)[0].dtype
        if self.method in _REAL and dtype.is_complex:
            takes = ", ".join(f'"{name}"' for name in _OPTIONS if name not in _REAL)
            raise TypeError(
                f'u0 is of {dtype}, and SciPy\'s "{self.method}" is for real states; expected one of the methods that '
                f'take complex ones: {takes}. Of these "BDF" is for stiff problems'
            )
        if self.method in _IMPLICIT and dtype not in (torch.float64, torch.complex128):
            exact, fix = ("complex128", "to(torch.complex128)") if dtype.is_complex else ("float64", "double()")
            raise TypeError(
                f"u0 is of {dtype}, in which the finite differences of {self.method!r} are lost; expected "
                f'torch.{exact}: u0.{fix} and a right-hand side in {exact}, or an explicit method such as "RK45"'
            )
        _check_no_grad(trees.leaves(u0), "u0 requires")
        return self

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """The whole slice, as many requests as the solver makes calls, one for LSODA; see `Integrator.step`."""
        _check_no_grad(trees.leaves(u), "the state requires")
        _check_no_grad([t0, t1], "the times require")
        if self.method != "LSODA":
            return (yield from lane_by_lane(problem, self._solve, t0, t1, u))
        u, _ = yield _OneAtATime(self, problem), t0, t1, u
        return u

    def solve_lane(self, f: Rhs, t0: Tensor, t1: Tensor, u: State) -> State:
        """One lane, from ``t0`` to ``t1``, NaN if that fails; ``f(t, u)`` is called as often as needed."""
        end = self._solve(f, t0, t1, u) if all(bool(torch.isfinite(leaf).all()) for leaf in trees.leaves(u)) else None
        return nan_like(u) if end is None else end

    def _solve(self, f: Rhs, t0: Tensor, t1: Tensor, u: State) -> State | None:
        """``scipy.integrate.solve_ivp`` from ``t0`` to ``t1``; ``None`` if it failed."""
        finite = True

        def fun(t: float, y: Any) -> Any:
            nonlocal finite
            vector = torch.as_tensor(np.array(y)).to(device=t0.device)
            slopes = flat(f(torch.as_tensor(t, dtype=t0.dtype, device=t0.device), unflat(vector, u, 0)), 0)
            _check_no_grad([slopes], "the right-hand side returned a tensor that requires")
            value = slopes.cpu().numpy().astype(y.dtype)
            finite = finite and bool(np.isfinite(value).all())
            return value

        solve_ivp = load("scipy.integrate", "scipy>=1.11").solve_ivp
        start = flat(u, 0).cpu().numpy()
        start = start.astype(np.complex128 if np.iscomplexobj(start) else np.float64)
        first = [fun(float(t0), start)]  # with a slope that is not finite some solvers of SciPy never end
        if not finite:
            return None

        def starting_with(t: float, y: Any) -> Any:
            return first.pop() if first else fun(t, y)

        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="lsoda:", category=UserWarning)  # the result has it as well
            try:
                span = (float(t0), float(t1))
                result = solve_ivp(
                    starting_with, span, start, self.method, rtol=self.rtol, atol=self.atol, **self.options
                )
            except (ValueError, ArithmeticError, np.linalg.LinAlgError):
                if finite:
                    raise
                return None
        if not result.success:
            return None
        return unflat(torch.as_tensor(np.ascontiguousarray(result.y[:, -1])).to(t0.device), u, 0)


@dataclass(frozen=True)
class _OneAtATime:
    """Whole solves, one lane after another; equal for the same solver and the same problem, whose lanes then join.

    Returns also the number of calls of each lane, which is its cost.
    """

    solver: SciPy
    problem: Any

    def __call__(self, t0: Tensor, t1: Tensor, u: State, rows: State = None) -> tuple[State, Tensor]:
        """States at ``t1``, leaves ``(L, *state)``, and calls, int64, shape ``(L,)``."""
        calls, ends = [0] * t0.shape[0], []
        for i in range(t0.shape[0]):
            row = () if rows is None else (trees.lanes(rows, slice(i, i + 1)),)

            def f(t: Tensor, u: State) -> State:
                calls[i] += 1  # noqa: B023
                value = self.problem.rhs(t.reshape(1), trees.map(lambda leaf: leaf.unsqueeze(0), u), *row)  # noqa: B023
                return trees.one(value, 0)

            ends.append(self.solver.solve_lane(f, t0[i], t1[i], trees.one(u, i)))
        return trees.stack(ends), torch.tensor(calls, device=t0.device)

    def cost(self, value: tuple[State, Tensor], lanes: int) -> Cost:
        """All calls are evaluations; those of the lane with most of them follow one another."""
        calls: list[int] = value[1].tolist()
        return Cost(sum(calls), max(calls, default=0))


def _check_no_grad(tensors: list[Tensor], what: str) -> None:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise ValueError(
            f"{what} a gradient, and none flows through SciPy's solvers; run under torch.no_grad(), or use "
            'pr.TorchDiffEq("dopri5"), through which it flows'
        )
