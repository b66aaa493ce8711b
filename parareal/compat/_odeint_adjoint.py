"""The call of torchdiffeq for gradients without the graph of the solver."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.trees import State
from parareal.adjoint._attach import Request
from parareal.compat._by_adjoint import Scope, by_adjoint
from parareal.compat._methods import FIXED, SLICES
from parareal.compat._odeint import odeint
from parareal.integrators import Adaptive
from parareal.stopping._tolerance import Tolerance


def odeint_adjoint(
    f: Callable[[Tensor, Any], Any] | None = None,
    y0: State = None,
    t: Tensor | None = None,
    *,
    func: Callable[[Tensor, Any], Any] | None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: Any = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
    **options: Any,
) -> Any:
    """`odeint` with gradients by the adjoint: the call and the result of ``torchdiffeq.odeint_adjoint``.

    What is kept for the backward pass are the states at slice boundaries and the result. Unlike torchdiffeq's, which
    solves the adjoint equation with steps of its own, the gradient is that of the method itself on the same steps,
    linearised at the states that were found: with the same fixed steps it is that of ``torchdiffeq.odeint`` by
    backpropagation. Its error is a multiple of the tolerance of the solution, see ``docs/training.md``.

    Args:
        f: As in `odeint`.
        y0: As in `odeint`.
        t: As in `odeint`. It may need gradients: where a fixed-step method steps from each time to the next they are
            those of the steps; otherwise those of the solution, f(t, y) times the gradient of the state there.
        func: torchdiffeq's name of ``f``.
        adjoint_rtol: Relative tolerance to which the adjoint recursion is solved; a tenth of ``rtol`` by default.
        adjoint_atol: Accepted and checked, without effect: gradients have no scale of their own.
        adjoint_method: Accepted without effect: the method is the transposed one of the solution.
        adjoint_options: Accepted without effect, likewise.
        adjoint_params: Tensors that need gradients, instead of those that ``f`` refers to: leaves and others in
            closures, attributes and modules. ``f`` need not be a `torch.nn.Module`.
        options: All other arguments of `odeint`, by name.

    Returns:
        As `odeint`.

    Raises:
        SolveError, TypeError, ValueError: As in `odeint`; one of ``adjoint_params`` is no tensor, or needs no gradient.

    Source:
        R. T. Q. Chen, torchdiffeq, https://github.com/rtqichen/torchdiffeq, for the interface.

    Examples:
        >>> import torch, parareal as pr
        >>> rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        >>> t = torch.linspace(0.0, 2.0, 5, dtype=torch.float64)
        >>> y = pr.odeint_adjoint(lambda t, y: -rate * y, torch.ones(1, dtype=torch.float64), t)
        >>> y[-1].sum().backward()
        >>> torch.allclose(rate.grad, -2 * torch.exp(torch.tensor(-1.0, dtype=torch.float64)))
        True
    """
    Tolerance(1e-3 if adjoint_rtol is None else adjoint_rtol, 0.0 if adjoint_atol is None else adjoint_atol)
    if adjoint_options is not None and not isinstance(adjoint_options, dict):
        raise TypeError(f"adjoint_options is {described(adjoint_options)}; expected a dict, or None")
    params = None if adjoint_params is None else _checked(adjoint_params)
    found = Scope(Request(params, adjoint_rtol))
    if not _asked(options) and isinstance(t, Tensor) and t.ndim == 1:
        options["slices"] = max(SLICES, len(t) - 1)  # a run in one lane has no boundaries to keep
    if not (isinstance(t, Tensor) and t.requires_grad and torch.is_grad_enabled()):
        with by_adjoint(found):
            return odeint(f, y0, t, func=func, **options)
    if _steps_between(options.get("method"), options.get("options")):
        found.times = t
        with by_adjoint(found):
            return odeint(f, y0, t.detach(), func=func, **options)
    right: Any = f if func is None else func
    if not callable(right) or y0 is None:
        return odeint(f, y0, t.detach(), func=func, **options)  # which says what is wrong
    moved = _moved(right, y0, t[0], -1.0)  # a later start is an earlier state
    with by_adjoint(found):
        result = odeint(f, moved, t.detach(), func=func, **options)
    if options.get("dense"):  # its boundaries have no graph: what moves is the start, and the time it is called with
        return result
    states, *rest = result if options.get("return_solution") else (result,)
    event, at = options.get("event_fn") is not None, None
    if event:  # the state at the event moves with the start alone
        at, states = states
    ends = [trees.one(states, i) for i in range(1, len(t))]
    each = [y0, *(ends if event else [_moved(right, end, t[i], 1.0) for i, end in enumerate(ends, 1)])]
    states = trees.stack([trees.map(lambda leaf, like: leaf.to(like.dtype), one, trees.one(states, 0)) for one in each])
    states = (at, states) if event else states
    return (states, *rest) if rest else states


def _asked(options: dict[str, Any]) -> bool:
    """Whether a call asks for slices, or has a method that is solved in slices anyway."""
    method = options.get("method")
    fixed = method in FIXED if isinstance(method, str) else method is not None and not isinstance(method, Adaptive)
    return fixed or any(options.get(name) is not None for name in ("slices", "coarse", "schedule", "max_iterations"))


def _steps_between(method: Any, options: Any) -> bool:
    """Whether a method steps from each of the times to the next."""
    return isinstance(method, str) and method in FIXED and not {"step_size", "grid_constructor"} & {*(options or {})}


def _moved(f: Callable[[Tensor, Any], Any], y: State, at: Tensor, sign: float) -> State:
    """The state as it is, with the slope there, times ``sign``, as its gradient with respect to the time ``at``."""
    far = sign * (at - at.detach())
    dtype = reduce(torch.promote_types, [leaf.dtype.to_real() for leaf in trees.leaves(y)])
    with torch.no_grad():
        slope = f(at.detach().to(dtype), trees.map(Tensor.detach, y))
    slopes = trees.leaves(tuple(slope) if isinstance(y, tuple) and isinstance(slope, list) else slope)
    parts = [leaf + slope * far.to(slope) for leaf, slope in zip(trees.leaves(y), slopes, strict=True)]
    return trees.rebuild([part.to(leaf.dtype) for part, leaf in zip(parts, trees.leaves(y), strict=True)], y)


def _checked(params: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(params, Tensor) or not isinstance(params, Iterable):  # pyright: ignore
        raise TypeError(
            f"adjoint_params is {described(params)}; expected tensors: adjoint_params=tuple(module.parameters())"
        )
    given: list[Any] = list(params)
    for i, one in enumerate(given):
        if not isinstance(one, Tensor):
            raise TypeError(f"adjoint_params[{i}] is {described(one)}; expected a tensor that needs a gradient")
        if not one.requires_grad:
            raise ValueError(
                f"adjoint_params[{i}], of shape {tuple(one.shape)}, does not require a gradient; expected tensors that "
                "do: leave it out, or call requires_grad_() on it. Without adjoint_params they are found"
            )
    return given
