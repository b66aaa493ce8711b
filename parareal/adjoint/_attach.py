"""Makes the states of a solution differentiable by the adjoint, without the graph of the run that computed them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import autocast, trees
from parareal._core.multistep_state import Carried
from parareal._core.trees import State
from parareal._inputs import Inputs
from parareal.adjoint._backward import BackwardPass, Wanted
from parareal.adjoint._dependencies import dependencies, now
from parareal.adjoint._recursion import Task
from parareal.adjoint._slices import Slices, Spent
from parareal.adjoint._transpose import Linearised
from parareal.corrections._base import Correction
from parareal.corrections._jacobian import Jacobian
from parareal.executors._base import Executor
from parareal.executors._local import Batched, Serial
from parareal.grid._mesh import Mesh
from parareal.integrators._base import Integrator, Multistep, bound_integrator
from parareal.integrators._paced import Paced
from parareal.results._adjoint_report import AdjointReport
from parareal.results._solution import Solution
from parareal.schedules._schedule import Schedule
from parareal.stopping._rules import StoppingRule

_SHARPER = 0.1
"""The recursion is solved to this part of the relative tolerance of the states. A choice."""


def check_adjoint(executor: Any, schedule: Schedule, dense: bool) -> None:
    """Raises unless a run with these settings can be differentiated by the adjoint."""
    if not dense:
        raise ValueError(
            "gradients='adjoint' came with dense=False, which keeps no states at slice boundaries; expected dense=True"
        )
    if not isinstance(executor, Serial | Batched) or getattr(executor, "devices", None) is not None:
        raise ValueError(
            f"gradients='adjoint' came with {executor!r}, and nothing is differentiated across processes or devices; "
            "expected pr.Batched() without devices, or pr.Serial()"
        )


def _check_paced(inputs: Inputs) -> None:
    """Raises for what a method that chooses its own steps cannot tell the adjoint."""
    fine = inputs.fine
    if not isinstance(fine, Paced):
        return
    if inputs.grid.given is not None:
        raise ValueError(
            f"gradients='adjoint' came with {fine!r} and times that need gradients; "
            "expected times without, or a method with fixed steps, or pr.odeint_adjoint"
        )
    if getattr(fine, "per_sample", False):
        raise ValueError(
            f"gradients='adjoint' came with {fine!r}, whose steps differ from sample to sample; expected "
            "per_sample=False, or gradients='unroll'"
        )


@dataclass(eq=False)
class Request:
    """How a run is to be differentiated.

    Attributes:
        params: The tensors that need gradients; ``None`` to find them.
        rtol: Relative tolerance of the recursion; ``None`` for a part of that of the states.
        made: The adjoint of the run, once that is done.
    """

    params: Iterable[Tensor] | None = None
    rtol: float | None = None
    made: Adjoint | None = None


@dataclass(frozen=True, eq=False)
class Adjoint:
    """The adjoint of one run, made before it.

    Attributes:
        inputs: The checked input.
        back: Its backward pass.
        saved: How many of the tensors it depends on must not be changed before the backward pass.
    """

    inputs: Inputs
    back: BackwardPass
    saved: int

    @classmethod
    def of_run(
        cls,
        inputs: Inputs,
        correction: Correction,
        schedule: Schedule,
        executor: Executor,
        stop: StoppingRule,
        request: Request,
    ) -> Adjoint | None:
        """The adjoint of a run; ``None`` where nothing needs a gradient.

        One step of the right-hand side is made here, which the counts of the run leave out: its graph says which
        tensors it uses.

        Args:
            inputs: The checked input.
            correction: The correction of the run.
            schedule: Its schedule.
            executor: Its executor.
            stop: Its stopping rule.
            request: What is asked for.
        """
        if not torch.is_grad_enabled() or inputs.batch == 0:
            return None
        _check_paced(inputs)
        one = trees.one(inputs.systems, 0)
        fine = _slices(inputs, inputs.fine, one, None)
        coarse = _coarse(inputs, correction, one)
        found, saved = _params(inputs, fine, request.params)
        rows = [] if inputs.rows is None else trees.leaves(inputs.rows)
        if not (found or inputs.grid.given is not None or _any(trees.leaves(inputs.u0)) or _any(rows)):
            return None
        dtypes = [leaf.dtype for leaf in trees.leaves(inputs.u0)]
        rounding = 16 * max(torch.finfo(dtype).eps for dtype in dtypes)
        rtol = _SHARPER * min(_tolerances(stop), default=0.0) if request.rtol is None else request.rtol
        rtol = max(rtol, rounding)
        nowhere = Linearised(None, None, len(trees.leaves(inputs.systems)[0]), inputs.grid.num_slices)
        matrices = isinstance(correction, Jacobian) and correction.kind == "full"
        known = found if request.params is None else None
        task = Task(fine, coarse, nowhere, inputs.grid, executor, schedule, rtol, matrices, known)
        back = BackwardPass(task, found, autocast.set_aside(), AdjointReport())
        request.made = cls(inputs, back, saved)
        return request.made

    def attached(self, solution: Solution) -> Solution:
        """The solution with states from which gradients flow."""
        inputs = self.inputs
        states = self._states(solution)
        rows = [] if inputs.rows is None else trees.leaves(inputs.rows)
        times = inputs.grid.points if inputs.grid.given is None else inputs.grid.given
        outputs: Any = _Function.apply(self, states, *trees.leaves(inputs.systems), *rows, times, *self.back.params)
        us = inputs.unstacked(trees.rebuild(list(outputs), inputs.systems))
        return replace(solution, us=us, adjoint=self.back.report)

    def _states(self, solution: Solution) -> State:
        """States at boundaries, leaves ``(M, N + 1, *state)``, with the history that crosses them."""
        systems, slices = self.back.task.at.systems, self.back.task.at.slices
        if self.back.task.fine.carries_history:
            assert solution.standing is not None
            return trees.map(lambda leaf: leaf.detach().unflatten(0, (systems, slices + 1)), solution.standing.u)
        if self.inputs.batch is None:
            return trees.map(lambda leaf: leaf.detach().unsqueeze(0), solution.us)
        return trees.map(lambda leaf: leaf.detach().transpose(0, 1).unsqueeze(2), solution.us)

    def gradients(self, states: list[Tensor], like: State, direct: list[Tensor], needed: list[bool]) -> list[Any]:
        """Gradients for the tensors that `attached` has named, from those at the boundaries.

        Args:
            states: Leaves of the states at boundaries.
            like: Their tree.
            direct: Gradients with respect to the leaves without history, ``(M * (N + 1), *state)``.
            needed: Which gradients are needed.
        """
        inputs, task = self.inputs, self.back.task
        count, rows = len(direct), 0 if inputs.rows is None else len(trees.leaves(inputs.rows))
        wanted = Wanted(
            any(needed[:count]),
            [i for i in range(rows) if needed[count + i]],
            needed[count + rows],
            [i for i, need in enumerate(needed[count + rows + 1 :]) if need],
        )
        data = None if inputs.rows is None else trees.map(Tensor.detach, inputs.rows)
        at = Linearised(trees.rebuild(states, like), data, task.at.systems, task.at.slices)
        full = [leaf.unflatten(0, (at.systems, at.slices + 1)) for leaf in direct]
        full += [torch.zeros_like(leaf) for leaf in states[count:]]
        found = self.back.gradients(at, trees.rebuild(full, like), wanted)
        first: State = found.boundaries
        if isinstance(first, Carried):
            first = trees.add(first.u, self._through_begin(first))
        out: list[Any] = [*trees.leaves(first), *[found.rows.get(i) for i in range(rows)]]
        return [*out, found.points, *[found.params.get(i) for i in range(len(self.back.params))]]

    def _through_begin(self, first: Carried) -> State:
        """The gradient through the history that the run begins with."""
        fine: Any = self.back.task.fine.fine
        with torch.enable_grad():
            u = trees.map(lambda leaf: leaf.detach().requires_grad_(), self.inputs.systems)
            memory = fine.begin(u)
        pairs = zip(trees.leaves(memory), trees.leaves(first.memory), strict=True)
        pairs = [(one, to) for one, to in pairs if one.requires_grad]
        if not pairs:
            return trees.map(torch.zeros_like, u)
        outputs, cotangents = [one for one, _ in pairs], [to for _, to in pairs]
        found = torch.autograd.grad(outputs, trees.leaves(u), cotangents, allow_unused=True, materialize_grads=True)
        return trees.rebuild(list(found), u)


class _Function(torch.autograd.Function):
    """From the initial state, per-sample data, times and parameters to the states at slice boundaries."""

    @staticmethod
    def forward(ctx: Any, adjoint: Adjoint, states: State, *inputs: Tensor) -> tuple[Tensor, ...]:
        leaves, count = trees.leaves(states), len(trees.leaves(adjoint.inputs.systems))
        ctx.adjoint, ctx.like, ctx.count = adjoint, trees.map(lambda leaf: leaf[:0, :0], states), len(leaves)
        ctx.save_for_backward(*leaves, *adjoint.back.params[: adjoint.saved])
        return tuple(leaf.flatten(0, 1) for leaf in leaves[:count])

    @staticmethod
    def backward(ctx: Any, *direct: Tensor) -> tuple[Any, ...]:
        states = list(ctx.saved_tensors[: ctx.count])
        with torch.no_grad():
            found = ctx.adjoint.gradients(states, ctx.like, list(direct), list(ctx.needs_input_grad[2:]))
        if torch.is_grad_enabled():
            found = once(found)
        return None, None, *found


class _Once(torch.autograd.Function):
    """Gradients that say, if they are differentiated, that they cannot be."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *found: Tensor) -> tuple[Tensor, ...]:
        return tuple(one.view_as(one) for one in found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(
            "a gradient by the adjoint was differentiated once more, and it has no graph; expected first derivatives "
            "alone, or gradients='unroll', whose gradients can be differentiated"
        )


def once(found: list[Any]) -> list[Any]:
    """Gradients of a backward pass whose graph somebody wants, which there is not: see `_Once`."""
    anchor, places = torch.zeros((), requires_grad=True), [i for i, one in enumerate(found) if one is not None]
    marked: Any = _Once.apply(anchor, *[found[i] for i in places])
    out = list(found)
    for i, one in zip(places, marked, strict=True):
        out[i] = one
    return out


def _slices(inputs: Inputs, method: Integrator, one: State, steps: int | None) -> Slices:
    """A propagator on all slices; ``steps`` in each where it has no number of its own."""
    problem = inputs.problem.bind(one, inputs.grid, inputs.fine)
    bound = bound_integrator(method, problem, one, inputs.grid)
    mesh = Mesh.build(inputs.grid, bound.steps or steps, trees.leaves(one)[0].device)
    return Slices(problem, bound, mesh, isinstance(bound, Multistep) and not bound.restart and steps is None)


def _coarse(inputs: Inputs, correction: Correction, one: State) -> Slices | None:
    """The coarse propagator on all slices, if there is one that torch can differentiate."""
    method = correction.traits.propagator
    if method is None:
        return None
    slices = _slices(inputs, method, one, 1)
    with suppress(Exception), torch.enable_grad():  # then the identity takes its place, which is always right
        u = trees.map(lambda leaf: leaf.detach().unsqueeze(0).requires_grad_(), one)
        if any(leaf.requires_grad for leaf in trees.leaves(_one_step(slices, u, inputs))):
            return slices
    return None


def _one_step(slices: Slices, u: State, inputs: Inputs) -> State:
    """One step of the first system's first slice."""
    rows = None if inputs.rows is None else trees.map(lambda leaf: leaf[:1].detach(), inputs.rows)
    if slices.carries_history:
        u = Carried(u, slices.fine.begin(u))  # pyright: ignore[reportAttributeAccessIssue]
    return slices.through(np.zeros(1, dtype=np.int64), slices.opened(u), rows, 0, 1, Spent())


def _params(inputs: Inputs, fine: Slices, params: Iterable[Tensor] | None) -> tuple[list[Tensor], int]:
    """The tensors that need gradients, and how many of them the run certainly uses."""
    if params is not None:
        given = list(params)
        return given, len(given)
    u = trees.map(lambda leaf: leaf[:1].detach(), inputs.systems)
    with torch.enable_grad():
        mark = now(fine.threads)
        stepped = trees.leaves(_one_step(fine, u, inputs))
    apart = [] if inputs.problem.per_sample is None else trees.leaves(inputs.problem.per_sample)
    used, others = dependencies([inputs.problem, inputs.fine], stepped, mark, apart)
    return [*used, *others], len(used)


def _tolerances(stop: Any) -> list[float]:
    """The relative tolerances of a rule, and of those that it is made of."""
    own = [stop.rtol] if isinstance(getattr(stop, "rtol", None), float | int) else []
    parts = [part for part in getattr(stop, "__dict__", {}).values() if isinstance(part, StoppingRule)]
    return own + [rtol for part in parts for rtol in _tolerances(part)]


def _any(tensors: list[Tensor]) -> bool:
    return any(one.requires_grad for one in tensors)
