"""First iterates from elsewhere, ``solve(..., start=...)``: checked, and laid out as the engine takes them.

They are guesses and no more: what a run promises rests on what it evaluates itself. So they are brought onto the slice
boundaries without care for accuracy, and whatever is not finite among them is left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.multistep_state import Carried
from parareal._core.trees import State
from parareal._inputs import Inputs
from parareal.engine._first import First
from parareal.grid._time_grid import TimeGrid
from parareal.results._run_identity import describe
from parareal.results._snapshot import SecantPairs
from parareal.results._solution import Solution
from parareal.schedules._windowed import carried

StartGuess: TypeAlias = Solution | State | Callable[[Tensor, Tensor, State], State]
"""What ``start`` may be: a solution, states at the slice boundaries, or a function ``fn(t0, t1, u) -> guess``."""

_SAME_SPAN = 1e-6
"""Two spans are the same where their ends differ by no more than this part of their length."""


def first_iterates(start: StartGuess, inputs: Inputs) -> First:
    """What ``start`` comes to for a run.

    Raises:
        TypeError, ValueError: It is none of what it may be, or does not fit the initial state or the grid.
    """
    given: Any = start
    if isinstance(given, Solution):
        _check_solution(given, inputs.grid)
        states = _checked(given.us, len(given.ts), inputs, "the states of the solution")
        states = at_boundaries(states, given.ts, inputs.grid.edges)
        states = _laid_out(states, inputs)
        return First(states=_with_history(states, given, inputs), pairs=_pairs(given, inputs))
    if callable(given) and not isinstance(given, Tensor | type):
        _check_arguments(given)
        return First(guess=partial(carried, given, "start(t0, t1, u)"))
    states = _checked(given, inputs.grid.num_slices + 1, inputs, "the states in start")
    return First(states=_laid_out(states, inputs))


def _check_arguments(fn: Callable[..., Any]) -> None:
    """Raises unless a function takes three arguments; what has no signature is called as it is."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, None, None)
    except TypeError as wrong:
        raise TypeError(
            f"start is a function of {signature} ({wrong}); expected fn(t0, t1, u) -> guess, of the times where slices "
            "begin, the times where they end, and the states where they begin"
        ) from None


def _check_solution(start: Solution, grid: TimeGrid) -> None:
    """Raises unless it has states inside, and spans the time of the grid."""
    if start.standing is None and start.history and len(start.ts) == 2:
        raise ValueError(
            "start is a solution with dense=False, which keeps no states between its first and its last; expected one "
            "of pr.solve(..., dense=True), or states at the slice boundaries"
        )
    begin, end = grid.points[0].item(), grid.points[-1].item()
    first, last = start.ts[0].item(), start.ts[-1].item()
    if max(abs(first - begin), abs(last - end)) > _SAME_SPAN * abs(end - begin):
        raise ValueError(
            f"start is a solution from {first:g} to {last:g}, and the grid goes from {begin:g} to {end:g}; expected "
            "the same span. For another one pass states at the slice boundaries, leaves "
            f"({grid.num_slices + 1}, *state), or a function fn(t0, t1, u) -> guess"
        )


def _checked(states: State, count: int, inputs: Inputs, what: str) -> State:
    """States ``(count, *state)`` of the structure, shapes and dtypes of the initial state, on its device.

    One sample stands for all of a batch.
    """
    like, prefix = inputs.u0, (count,)
    _check_leaves(states, inputs)
    states = trees.in_order_of(states, like)
    if trees.structure(states) != trees.structure(like):
        raise ValueError(
            f"{what} are {describe(states)}, and the initial state is {describe(like)}; expected the same nest of "
            "tuples, lists and dicts, with a leading axis for the slice boundaries"
        )

    def leaf(came: Tensor, one: Tensor) -> Tensor:
        if came.layout != torch.strided or came.is_meta:
            how = "on the meta device, without values" if came.is_meta else f"of layout {came.layout}"
            fix = "tensors with values" if came.is_meta else "ordinary tensors: start=states.to_dense()"
            raise TypeError(f"{what} are {how}; expected {fix}")
        shape = (*prefix, *one.shape)
        broadcast = inputs.samples and tuple(came.shape) == (*prefix, 1, *one.shape[1:])
        if tuple(came.shape) != shape and not broadcast:
            more = f", or {(*prefix, 1, *one.shape[1:])}, one sample for all" if inputs.samples else ""
            raise ValueError(
                f"{what} have shape {tuple(came.shape)}; expected {shape}{more}: {count} boundaries of states of shape "
                f"{tuple(one.shape)}. {_fix(came, one, count, inputs)}"
            )
        if came.dtype != one.dtype:
            raise TypeError(
                f"{what} are {came.dtype}, and the initial state is {one.dtype}; expected the same dtype: "
                f"start=states.to({one.dtype}), for a solution with states = solution.us"
            )
        return came.detach().to(one.device).expand(shape)

    return trees.map(leaf, states, like)


def _check_leaves(states: Any, inputs: Inputs) -> None:
    """Raises unless there are tensors, and nothing else."""
    leaves, count = trees.leaves(states), inputs.grid.num_slices + 1
    if leaves and all(isinstance(leaf, Tensor) for leaf in leaves):
        if isinstance(states, list | tuple) and len(states) == count and isinstance(inputs.u0, Tensor):
            raise ValueError(
                f"start is {described(states)} of {count} states, and the initial state is one tensor; expected one "
                f"tensor as well, ({count}, *state): start=torch.stack(states)"
            )
        return
    odd = next((leaf for leaf in leaves if not isinstance(leaf, Tensor)), states)
    inside = "" if odd is states else f" that holds {described(odd)}"
    fix = ". Use torch.from_numpy(array)" if type(odd).__module__ == "numpy" else ""
    raise TypeError(
        f"start is {described(states)}{inside}; expected a Solution, states at the slice boundaries (leaves "
        f"({count}, *state), tensors), or a function fn(t0, t1, u) -> guess{fix}"
    )


def _fix(came: Tensor, one: Tensor, count: int, inputs: Inputs) -> str:
    """What to do about states of another shape."""
    if came.ndim and came.shape[0] != count and tuple(came.shape[1:]) == tuple(one.shape):
        return "Pass the Solution itself, which is interpolated in time, or a function fn(t0, t1, u) -> guess"
    if inputs.samples and tuple(came.shape[1:]) == tuple(one.shape[1:]):
        return "Add the axis of samples: states.unsqueeze(1)"
    return "Leave start out where the state has another size"


def at_boundaries(states: State, ts: Tensor, edges: Tensor) -> State:
    """States at times ``ts``, leaves ``(K, *state)``, interpolated linearly at ``edges``, ``(N + 1,)``, or clamped."""
    if torch.equal(ts, edges):
        return states
    states = trees.map(finite_from_left, states)
    sign = 1.0 if ts[-1] > ts[0] else -1.0
    right = torch.searchsorted(sign * ts, sign * edges).clamp(1, len(ts) - 1)
    left = right - 1
    share = ((edges - ts[left]) / (ts[right] - ts[left])).clamp(0.0, 1.0)

    def leaf(x: Tensor) -> Tensor:
        before, after = (x.index_select(0, index.to(x.device)) for index in (left, right))
        return before + trees.per_lane(share.to(x.device), before) * (after - before)

    return trees.map(leaf, states)


def finite_from_left(x: Tensor) -> Tensor:
    """Whatever is not finite along the leading axis takes the last finite value before it, if there is one."""
    finite = torch.isfinite(x)
    if bool(finite.all()):
        return x
    places = torch.arange(len(x), device=x.device).reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape)
    return x.gather(0, torch.where(finite, places, 0).cummax(0).values)


def _laid_out(states: State, inputs: Inputs) -> State:
    """States ``(N + 1, *state)``, or ``(N + 1, B, *rest)``, as systems: leaves ``(M * (N + 1), *state)``."""

    def leaf(x: Tensor, u0: Tensor) -> Tensor:
        x = torch.cat([torch.where(torch.isfinite(x[:1]), x[:1], u0.detach()), x[1:]])
        x = finite_from_left(x)
        return x.transpose(0, 1).flatten(0, 1).unsqueeze(1) if inputs.samples else x

    return trees.map(leaf, states, inputs.u0)


def _pairs(start: Solution, inputs: Inputs) -> SecantPairs | None:
    """Its secant pairs, where it has the same slices and samples."""
    pairs = None if start.standing is None else start.standing.pairs
    if pairs is None or not torch.equal(start.ts, inputs.grid.edges):
        return None
    like, moves = trees.leaves(inputs.systems)[0], trees.leaves(pairs.moves)[0]
    if len(moves) != len(like) * inputs.grid.num_slices:
        return None
    return SecantPairs(*(trees.map(lambda leaf: leaf.to(like.device), part) for part in (pairs.moves, pairs.changes)))


def _with_history(states: State, start: Solution, inputs: Inputs) -> State:
    """With the histories of a multistep method, where the solution is one of the same method on the same grid."""
    at, grid = start.standing, inputs.grid
    if at is None or not isinstance(at.u, Carried):
        return states
    then, now = at.identity, inputs.identity
    alike = then.fine == now.fine and then.state == now.state and then.samples == now.samples
    if not (alike and then.bounds == now.bounds and torch.equal(then.points, grid.points)):
        return states
    history = trees.map(lambda leaf: leaf.detach().to(trees.leaves(inputs.u0)[0].device), at.u.memory)
    finite = all(bool(torch.isfinite(leaf).all()) for leaf in trees.leaves((at.u.u, history)))
    return Carried(states, history) if finite else states
