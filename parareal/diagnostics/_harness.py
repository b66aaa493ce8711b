"""Runs a propagator on chosen slices, alone or side by side, as the engine would call it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.multistep_state import Carried, without_history
from parareal._core.trees import State
from parareal._core.vectors import flat
from parareal._inputs import Inputs
from parareal.engine._lanes import ActiveLanes
from parareal.engine._rounds import Counters, play_round
from parareal.executors._base import Executor
from parareal.executors._local import Batched
from parareal.grid._mesh import Mesh
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import Integrator, Multistep, Propagator
from parareal.problem._lane_calls import versions
from parareal.problem._ode import bound_problem

_FUNCTIONS = ("rhs", "nonlinear", "terms", "amplitudes")


class Landing(NamedTuple):
    """Lanes at the ends of their slices: states ``(L, *state)``, evaluations of all, rounds."""

    u: State
    evaluations: int
    rounds: int


class EndlessError(RuntimeError):
    """More calls than any run should need."""


class Bench:
    """A propagator bound to its problem.

    Args:
        inputs: Checked input.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.grid, self.systems, self._given = inputs.grid, inputs.systems, inputs.fine
        self.one = trees.one(inputs.systems, 0)
        self._rows = inputs.rows
        bound = bound_problem(inputs.problem, self.one, inputs.grid, inputs.fine)
        self.direct = 0
        """Evaluations that were not asked for, but made by calling the problem."""
        self._inside = False
        self.problem = self._watched(bound)
        self.fine = self._given.bind(self.problem, self.one, inputs.grid)
        self.evaluations = 0

    @property
    def device(self) -> torch.device:
        """The device of the states."""
        return trees.leaves(self.systems)[0].device

    @property
    def noisy(self) -> bool:
        """Whether the problem has a path of noise."""
        return self.problem.traits.stochastic

    @property
    def deterministic(self) -> bool:
        """Whether the problem is an equation with a right-hand side alone."""
        return self.problem.traits.plain

    @property
    def black_box(self) -> bool:
        """Whether the propagator never asks for the right-hand side."""
        return isinstance(self.fine, Propagator)

    @property
    def remembers(self) -> bool:
        """Whether a multistep history is carried over slice boundaries."""
        return isinstance(self.fine, Multistep) and not self.fine.restart

    def steps_of(self, n: int) -> int:
        """Fine steps in slice ``n``."""
        return self.grid.steps_per_slice[n] if self.fine.steps is None else self.fine.steps

    def points_of(self, n: int) -> Tensor:
        """The points that the propagator visits in slice ``n``."""
        mesh = Mesh.build(self.grid, self.fine.steps, torch.device("cpu"))
        return mesh.points[mesh.start[n] : mesh.start[n] + mesh.count[n] + 1]

    def rows(self, lanes: Sequence[int]) -> State:
        """The data of the samples that lanes belong to: lane i carries sample i, and begins again after the last."""
        if self._rows is None:
            return None
        count = trees.leaves(self.systems)[0].shape[0]
        return trees.lanes(self._rows, torch.tensor([i % count for i in lanes], device=self.device))

    def _samples(self, lanes: Sequence[int]) -> Ints:
        """The samples of these lanes."""
        return np.array(lanes, dtype=np.int64) % trees.leaves(self.systems)[0].shape[0]

    def fly(
        self,
        slices: Sequence[int],
        u: State,
        lanes: Sequence[int],
        grid: TimeGrid | None = None,
        fine: Integrator | None = None,
        limit: int | None = None,
        whole: bool = False,
    ) -> Landing:
        """The propagator from the left boundaries of ``slices`` on as many lanes, from states ``(L, *state)``.

        Args:
            slices: A slice for each lane.
            u: Their states.
            lanes: Their numbers, which select their samples.
            grid: Another grid.
            fine: Another propagator.
            limit: Most calls, after which `EndlessError` is raised.
            whole: Continue to the end of the grid, with the multistep history.
        """
        grid = self.grid if grid is None else grid
        direct = self.direct
        method = (self._given if fine is None else fine).bind(self.problem, self.one, grid)
        self.direct = direct
        remembers = isinstance(method, Multistep) and not method.restart
        mesh = Mesh.build(grid, method.steps, self.device)
        active = ActiveLanes(self.problem, method, mesh, carries_history=remembers, places=len(slices))
        at, ids, counters, executor = np.array(slices), np.arange(len(slices)), Counters(), _Watching(self, limit)
        state = trees.clone(u)
        given = state
        before = versions(given)
        if isinstance(method, Multistep) and remembers:
            state = Carried(state, method.begin(state))
        try:
            while True:
                active.launch(ids, at, state, self.rows(lanes), samples=self._samples(lanes))
                while play_round([active], executor, counters):
                    pass
                state = _in_order(active.take_arrived())
                at = at + 1
                if not whole or at[0] == grid.num_slices:
                    break
        finally:
            active.close()
            self.evaluations += active.evaluations
        if before != versions(given) or not equal(given, u):
            raise InPlaceError("the propagator changed the state that it was given in place")
        return Landing(trees.map(Tensor.detach, without_history(state)), active.evaluations, counters.rounds)

    def _watched(self, bound: Any) -> Any:
        """A copy of the problem that counts the calls of its functions."""
        watched = object.__new__(type(bound))  # a copy by pickle may lose what was bound
        vars(watched).update(vars(bound))
        for name in _FUNCTIONS:
            if (fn := getattr(watched, name, None)) is not None:
                object.__setattr__(watched, name, self._noting(fn))
        return watched

    def _noting(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def noting(t: Tensor, *args: Any) -> Any:
            if self._inside:
                return fn(t, *args)
            self.direct += 1
            self._inside = True  # one function may call another
            try:
                return fn(t, *args)
            finally:
                self._inside = False

        return noting

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        """A round's call."""
        self._inside = True
        try:
            return Batched().evaluate(fn, args, lanes)
        finally:
            self._inside = False


class InPlaceError(ValueError):
    """An argument was written to."""


class _Watching(Executor):
    """All lanes in one call, but not endlessly many calls."""

    def __init__(self, bench: Bench, limit: int | None) -> None:
        self._bench, self._left = bench, limit

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        if self._left is not None:
            if self._left == 0:
                raise EndlessError("it did not end")
            self._left -= 1
        return self._bench.evaluate(fn, args, lanes)

    def calls(self, lanes: int) -> int:
        return 1


def _in_order(arrived: list[tuple[Any, State]]) -> State:
    """Lanes in the order of their numbers."""
    if len(arrived) == 1 and (np.diff(arrived[0][0]) > 0).all():
        return arrived[0][1]
    order = torch.from_numpy(np.argsort(np.concatenate([ids for ids, _ in arrived])))
    u = trees.cat([u for _, u in arrived])
    return trees.lanes(u, order.to(trees.leaves(u)[0].device))


# --- comparisons -----------------------------------------------------------------------------------------------------


def equal(a: State, b: State) -> bool:
    """Bit for bit the same, NaN where the other is NaN."""
    pairs = zip(trees.leaves(a), trees.leaves(b), strict=True)
    return all(x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all()) for x, y in pairs)


def size(u: State) -> float:
    """Largest modulus of all elements; NaN where one is NaN."""
    return float(flat(trees.map(lambda leaf: leaf.detach().abs().double(), u), 0).max())


def distance(a: State, b: State) -> float:
    """Largest modulus of the difference; infinite where one is not finite and the other is another."""
    if equal(a, b):
        return 0.0
    far = size(trees.map(lambda x, y: x.to(_wide(x)) - y.to(_wide(y)), a, b))
    return far if far == far else float("inf")


def finite(u: State) -> bool:
    """Whether all elements are."""
    return all(bool(torch.isfinite(leaf).all()) for leaf in trees.leaves(u))


def eps_of(u: State) -> float:
    """The largest rounding unit of its dtypes."""
    return max(torch.finfo(leaf.dtype).eps for leaf in trees.leaves(u))


def _wide(x: Tensor) -> torch.dtype:
    return torch.complex128 if x.is_complex() else torch.float64


def widened(u: State) -> State:
    """The state in double precision."""
    return trees.map(lambda leaf: leaf.to(_wide(leaf)), u)


def unlike(got: State, u: State) -> str | None:
    """In what a state differs from another in kind."""
    if trees.structure(got) != trees.structure(u):
        return f"a pytree of {len(trees.leaves(u))} tensors comes back as another of {len(trees.leaves(got))}"
    for x, y in zip(trees.leaves(got), trees.leaves(u), strict=True):
        for what in ("shape", "dtype", "device"):
            if getattr(x, what) != getattr(y, what):
                now, then = (_shown(getattr(z, what)) for z in (x, y))
                return f"{what} {then} comes back as {now}"
    return None


def _shown(value: Any) -> str:
    return str(tuple(value[1:])) if isinstance(value, torch.Size) else str(value)
