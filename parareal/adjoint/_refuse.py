"""Results whose graph does not hold all that they depend on: a gradient of them would be wrong, so it is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal.corrections._base import Correction
from parareal.corrections._jacobian import Jacobian
from parareal.results._solution import Solution
from parareal.results._status import Status
from parareal.stopping._rules import Iterations, StoppingRule

_FROM_START = (
    "this solution began from start=..., and a tolerance decided when it ended: the graph of its iterates lacks part "
    "of the gradient; expected gradients='adjoint' in solve, whose gradient does not depend on the start, "
    "coarse=pr.Jacobian(), or a number of iterations that was found to suffice, stop=pr.Iterations(k)"
)
_FROM_RESUME = (
    "this solution resumed a run that kept no graph (it was loaded, or ran under torch.no_grad()), so the graph of its "
    "iterates lacks the part before; expected gradients='adjoint' in solve, or one solve without resume or checkpoint"
)


def without_gradients(
    solution: Solution, resumed: Solution | None, started: bool, correction: Correction, stop: StoppingRule
) -> Solution:
    """The solution, which raises in a backward pass if its graph is not whole.

    Args:
        solution: Of the run, with the graph of its iterates.
        resumed: The solution that it continued, if so.
        started: Whether it had ``start``. A slice that ended final was computed from the initial state alone, so a
            run that ended `FINAL` has a whole graph; a step of Newton's method from the solution has its derivative;
            and whoever asks for a number of iterations decides himself.
        correction: Of the run.
        stop: Its stopping rule.
    """
    ended = (solution.status,) if solution.sample_status is None else solution.sample_status
    if resumed is not None and not any(leaf.requires_grad for leaf in trees.leaves(resumed.us)):
        reason = _FROM_RESUME
    elif started and not (
        all(status is Status.FINAL for status in ended)
        or isinstance(stop, Iterations)
        or (isinstance(correction, Jacobian) and correction.kind == "full")
    ):
        reason = _FROM_START
    else:
        return solution
    leaves = trees.leaves(solution.us)
    if not any(leaf.requires_grad for leaf in leaves):
        return solution
    refusing: Any = _Refused.apply(reason, *leaves)
    return replace(solution, us=trees.rebuild(list(refusing), solution.us))


class _Refused(torch.autograd.Function):
    """The identity, which raises a RuntimeError where it is differentiated."""

    @staticmethod
    def forward(ctx: Any, reason: str, *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.reason = reason
        return tuple(leaf.view_as(leaf) for leaf in leaves)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(ctx.reason)
