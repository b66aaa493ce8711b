"""The adjoint recursion as an initial value problem that runs backward in time, for the engine that solves it.

At slice boundaries it is lambda_n = J_n^T lambda_{n+1} + d_n, with J_n the derivative of the fine propagator at the
boundary state, and d_n the gradient that the caller's function has there itself. One slice is one step of a method,
`Transposed`, whose fine propagator has the derivative of the fine method, and whose coarse one that of the coarse
method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.host import index_to, values_of
from parareal._core.multistep_state import Carried
from parareal._core.trees import State
from parareal.adjoint._slices import Slices, Spent
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._base import Cost, Integrator
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import Problem, Stages


@dataclass(frozen=True, eq=False)
class Linearised:
    """The states at which slices are linearised, M systems of N slices.

    Attributes:
        states: At the boundaries, leaves ``(M, N + 1, *state)``; with the history of a multistep method if it crosses
            them.
        rows: Per-sample data, leaves ``(M, ...)``, or ``None``.
        systems: M.
        slices: N.
        starts: States inside slices, where the fine propagator's parts begin, leaves ``(M * N, *state)`` each.
    """

    states: State
    rows: State
    systems: int
    slices: int
    starts: list[State] | None = None

    def at(self, system: Tensor, n: Ints) -> tuple[State, State]:
        """States at the left boundaries of slices ``n`` of systems ``system``, and their data, on L lanes."""
        where = system * (self.slices + 1) + index_to(system.device, n)
        u = trees.map(lambda leaf: leaf.flatten(0, 1).index_select(0, where), self.states)
        return u, None if self.rows is None else trees.lanes(self.rows, system)

    def inside(self, system: Tensor, n: Ints) -> list[State] | None:
        """States inside these slices, if they are known."""
        if self.starts is None:
            return None
        where = system * self.slices + index_to(system.device, n)
        return [trees.lanes(start, where) for start in self.starts]

    def packed(self, tree: State) -> State:
        """A tree as the engine carries it: a tuple of its leaves that have elements, or a single one."""
        parts = [leaf for leaf in trees.leaves(tree) if leaf[0].numel()]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def unpacked(self, packed: State, lead: tuple[int, ...], behind: int) -> State:
        """The inverse of `packed`: leaves ``(*lead, *state)``, where the states have ``behind`` axes before these."""
        given = iter(trees.leaves(packed))
        parts = [
            next(given) if leaf[0].numel() else leaf.new_zeros(*lead, *leaf.shape[behind:])
            for leaf in trees.leaves(self.states)
        ]
        return trees.rebuild(parts, self.states)


@dataclass(frozen=True, eq=False)
class Backward(Problem):
    """The problem that the engine sees: nothing but the systems, whose numbers follow the lanes."""

    per_sample: State = None
    batching: Any = "native"

    def bind(self, u0: State, grid: Any, fine: Any) -> Backward:
        """Returns itself."""
        return self

    def rhs(self, t: Tensor, u: State, rows: State = None) -> State:
        """Not used: methods ask for whole slices."""
        raise NotImplementedError


class Pull:
    """The request of a `Transposed` step: lambda at the left boundaries of slices, from lambda at the right ones.

    Args:
        slices: The propagator.
        at: Where it is linearised.
        direct: Gradients at the boundaries themselves, packed, leaves ``(M, N + 1, *state)``.
        grid: The time grid of the run, not reversed.
        fine: Whether it is the fine propagator. A coarse one has no history.
    """

    def __init__(self, slices: Slices, at: Linearised, direct: State, grid: TimeGrid, fine: bool) -> None:
        self._slices, self._at, self._direct, self._fine = slices, at, direct, fine
        edges = grid.edges
        self._sign = 1.0 if edges[-1] > edges[0] else -1.0
        self._edges = self._sign * edges

    def __call__(self, t0: Tensor, t1: Tensor, packed: State, rows: Tensor) -> tuple[State, Tensor, Tensor]:
        """Lambda at the left boundaries, which are at ``t1``, and what it took."""
        system, at = rows[:, 0], self._at
        n = torch.searchsorted(self._edges, self._sign * values_of(t1).cpu()).numpy()
        u, data = at.at(system, n)
        spent = Spent()
        cotangent = at.unpacked(trees.map(lambda leaf: leaf.squeeze(1), packed), (len(n),), 2)
        if self._fine or not isinstance(u, Carried):
            starts = at.inside(system, n) if self._fine else None
            pulled = self._slices.pull(n, u, cotangent, data, spent, starts=starts)
        else:  # its derivative is that of the state alone
            new = self._slices.pull(n, u.u, cotangent.u, data, spent)
            pulled = type(u)(new, trees.map(torch.zeros_like, u.memory))
        where = system * (at.slices + 1) + index_to(system.device, n)
        direct = trees.map(lambda leaf: leaf.flatten(0, 1).index_select(0, where), self._direct)
        out = trees.map(lambda leaf: leaf.unsqueeze(1), trees.add(at.packed(pulled), direct))
        return out, *cost_rows(spent, len(n))

    def cost(self, value: Any, lanes: int) -> Cost:
        """See `parareal.Integrator.step`."""
        return Cost(int(value[2].sum()), max(1, int(value[1].max())) if lanes else 1)


def cost_rows(spent: Spent, lanes: int) -> tuple[Tensor, Tensor]:
    """Rounds of each lane, and evaluations, of which the first lane has all, so that they can be cut and stacked."""
    evaluations = np.zeros(lanes, dtype=np.int64)
    evaluations[:1] = spent.evaluations
    return torch.full((lanes,), spent.rounds), torch.from_numpy(evaluations)


@dataclass(frozen=True, eq=False)
class Transposed(Integrator):
    """One step through one slice, backward; see above."""

    pull: Pull

    traits = IntegratorTraits(evaluations=None, solves=(Problem,))
    steps = 1

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """The whole slice in one request; see `Integrator.step`."""
        return (yield self.pull, t0, t1, u)[0]
