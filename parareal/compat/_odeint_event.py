"""``torchdiffeq.odeint_event``: the time of an event, with its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import check_flag, described
from parareal._core.trees import State
from parareal.compat._odeint import odeint


def odeint_event(
    func: Callable[[Tensor, Any], Any],
    y0: State,
    t0: Tensor,
    *,
    event_fn: Callable[[Tensor, Any], Tensor],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[Tensor, State]:
    """Solves dy/dt = func(t, y), y(t0) = y0, up to the first event, as ``torchdiffeq.odeint_event`` does.

    The time of the event and the state there have derivatives of first order with respect to all that ``y0``, ``t0``,
    ``func`` and ``event_fn`` depend on, by the implicit function theorem.

    Args:
        func: See `odeint`.
        y0: State at ``t0``.
        t0: The start, a tensor with one number.
        event_fn: ``event_fn(t, y)``: its sign changes at the event; of several numbers, the first to change counts.
        reverse_time: Whether the event lies before ``t0``.
        odeint_interface: What solves, such as `odeint` or ``torchdiffeq.odeint_adjoint``.
        **kwargs: Its other arguments.

    Returns:
        The time of the event, of the dtype of ``t0``, and the states at ``t0`` and there, leaves ``(2, *state)``.

    Raises:
        SolveError: No event came; see `odeint`.
        TypeError, ValueError: An argument is wrong.

    Examples:
        >>> import torch, parareal as pr
        >>> fall = lambda t, y: torch.stack([y[1], torch.full_like(y[1], -9.81)])
        >>> y0, t0 = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
        >>> t, y = pr.odeint_event(fall, y0, t0, event_fn=lambda t, y: y[0])
        >>> round(t.item(), 4)
        0.4515
    """
    check_flag(reverse_time, "reverse_time")
    if not isinstance(t0, Tensor) or t0.numel() != 1 or not t0.is_floating_point():
        came = f"a tensor of {t0.dtype} of shape {tuple(t0.shape)}" if isinstance(t0, Tensor) else described(t0)
        raise TypeError(f"t0 is {came}; expected a tensor with one floating point number: torch.tensor(0.0)")
    if not callable(odeint_interface):
        raise TypeError(f"odeint_interface is {described(odeint_interface)}; expected a function such as pr.odeint")
    start = t0.reshape(-1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    event_t, states = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    last = trees.map(lambda leaf: leaf[-1], states)
    if not torch.is_grad_enabled():
        return event_t, states
    event_t, last = _with_derivatives(func, event_fn, event_t.detach(), last, y0, t[0].detach())
    return event_t, trees.map(lambda leaf, end: torch.cat([leaf[:-1], end[None]]), states, last)


def _with_derivatives(func: Any, event_fn: Any, t: Tensor, y: State, y0: State, t0: Tensor) -> tuple[Tensor, State]:
    """The time of an event and the state there, whose derivatives at a fixed time ``y`` has."""
    leaves = trees.leaves(y)
    at = t.to(leaves[0].device)
    with torch.no_grad():
        signs = torch.sign(event_fn(t0.to(at.device), y0))
        slope = func(at.to(leaves[0].real.dtype), trees.map(Tensor.detach, y))
        slopes = [torch.as_tensor(part).to(leaf.dtype) for part, leaf in zip(_parts(slope), leaves, strict=True)]

    def value(t: Tensor, y: State) -> Tensor:
        return (event_fn(t, y) * signs).min()

    free_t, free = at.clone().requires_grad_(), [leaf.detach().clone().requires_grad_() for leaf in leaves]
    here = value(free_t, trees.rebuild(free, y))
    found: Any = torch.autograd.grad(here, [free_t, *free], allow_unused=True)
    along_t, *along = found
    rate = torch.zeros((), dtype=torch.float64, device=at.device) if along_t is None else along_t.to(torch.float64)
    for part, k in zip(along, slopes, strict=True):
        if part is not None:
            rate = rate + (part.conj() * k).real.sum()
    rate = torch.where(rate == 0, 1e-12, rate)
    moved = value(at, y)  # zero, with the derivatives of the event function at a fixed time
    late = (-(moved - moved.detach()) / rate).to(torch.float64)
    ends = [leaf + k * late.to(leaf.real.dtype) for leaf, k in zip(leaves, slopes, strict=True)]
    return t + late.to(t), trees.rebuild(ends, y)


def _parts(slope: Any) -> list[Tensor]:
    return list(slope) if isinstance(slope, tuple | list) else trees.leaves(slope)  # pyright: ignore
