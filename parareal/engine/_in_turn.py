"""One step after another: the lanes of a sequential run, all of which are at one point of the grid at any time.

They ask for the same values in the same order as in rounds with others, without what keeps account of lanes at
different points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.host import known
from parareal._core.multistep_state import Carried, without_history
from parareal._core.trees import State
from parareal.engine._lane_method import Method
from parareal.engine._rounds import Counters, called
from parareal.executors._base import Executor
from parareal.grid._mesh import Mesh
from parareal.integrators._base import check_request, check_stepped, started
from parareal.problem._ode import Stages


class InTurn:
    """L lanes that are always at the same point.

    Args:
        method: The propagator, one that `suits`.
        rows: Per-sample data of the lanes, or ``None``.
        lanes: L.
        executor: How they are evaluated.
        counters: Where their cost is added.

    Attributes:
        evaluations: Those of the right-hand side so far.
    """

    def __init__(self, method: Method, rows: State, lanes: int, executor: Executor, counters: Counters) -> None:
        self._method, self._lanes, self._rows = method, lanes, () if rows is None else (rows,)
        self._executor, self._counters, self._clock = executor, counters, _Clock(method.mesh, lanes)
        self._slices = list(zip(method.mesh.start.tolist(), method.mesh.count.tolist(), strict=True))
        self.evaluations = 0

    @staticmethod
    def suits(method: Method) -> bool:
        """Whether lanes at one point always ask for the same values."""
        return method.integrator.traits.evaluations is not None and not method.apart and method.paced is None

    def over_slice(self, n: int, u: State) -> State:
        """States at the end of slice ``n``, from those at its start, leaves ``(L, *state)``."""
        method, at = self._method, self._clock.at
        integrator, multistep = method.integrator, method.multistep
        if multistep is None:
            kept = integrator.begin_slice(method.problem, u)
            u, number = u if kept is None else Carried(u, kept), None
        else:
            u, number = method.entered(np.array([n]), u, None)
        (first, count), variant = self._slices[n], ()
        for i in range(first, first + count):
            if multistep is not None and number is not None:
                variant = (int(multistep.variants(number[:, 0] + (i - first), number[:, 1])[0]),)
            stages = started(integrator, method.problem, at(i), at(i + 1), u, *variant)
            try:
                new = self._played(stages)
            finally:
                stages.close()  # after an error
            check_stepped(integrator, new, u)
            u = new
        return u if method.carries_history else without_history(u)

    def _played(self, stages: Stages) -> State:
        """A step to its end."""
        counters, value = self._counters, None
        while True:
            try:
                request = stages.send(value)
            except StopIteration as end:
                return end.value
            check_request(self._method.integrator, request)
            fn, *args = request
            if getattr(fn, "free", False):
                value = fn(*args, *self._rows)
                continue
            value = called(fn, (*args, *self._rows), self._lanes, self._executor, counters)
            counters.max_lanes = self._lanes
            cost = getattr(fn, "cost", None)
            if cost is None:
                self.evaluations, counters.rounds = self.evaluations + self._lanes, counters.rounds + 1
            else:
                took = cost(value, self._lanes)
                self.evaluations, counters.rounds = self.evaluations + took.evaluations, counters.rounds + took.rounds


class _Clock:
    """The times of L lanes at a point of the mesh, made for many points at once."""

    def __init__(self, mesh: Mesh, lanes: int) -> None:
        self._mesh, self._lanes, self._first = mesh, lanes, 0
        self._times: Sequence[Tensor] = ()

    def at(self, i: int) -> Tensor:
        """The time at point ``i``, for each lane, ``(L,)``, known on the host."""
        if not 0 <= i - self._first < len(self._times):
            self._first, count = i, max(2, _AHEAD // self._lanes)
            self._times = self._part(self._mesh.points, count)
            if self._mesh.points.device.type != "cpu":
                hosts = self._part(self._mesh.on_host, count)
                self._times = [known(there, here) for there, here in zip(self._times, hosts, strict=True)]
        return self._times[i - self._first]

    def _part(self, points: Tensor, count: int) -> Sequence[Tensor]:
        return points[self._first : self._first + count].unsqueeze(1).expand(-1, self._lanes).contiguous().unbind(0)


_AHEAD = 1024
"""Times that are made at once, over all lanes. A choice."""


class Boundaries:
    """The states of M systems at N + 1 boundaries, one boundary after another; NaN where none has been added.

    Small ones are written many at a time, which takes fewer operations, and fewer nodes of a graph.
    """

    def __init__(self, like: State, boundaries: int) -> None:
        self._per, self._written = boundaries, 0
        self._tree = trees.map(lambda leaf: leaf.new_full((len(leaf), boundaries, *leaf.shape[1:]), float("nan")), like)
        leaves = trees.leaves(like)
        numbers = sum(leaf.numel() for leaf in leaves)
        self._most = _NUMBERS // max(1, numbers) if leaves[0].device.type == "cpu" else 1
        self._new: list[State] = []

    def add(self, u: State) -> None:
        """Adds the states at the next boundary, leaves ``(M, *state)``."""
        if self._most < 2:
            for leaf, new in zip(trees.leaves(self._tree), trees.leaves(u), strict=True):
                leaf[:, self._written] = new
            self._written += 1
            return
        self._new.append(trees.clone(u))  # a right-hand side may change it in place, and raise an error
        if len(self._new) >= self._most:
            self._write()

    def _write(self) -> None:
        begin, end = self._written, self._written + len(self._new)
        for leaf, *new in zip(trees.leaves(self._tree), *map(trees.leaves, self._new), strict=True):
            leaf[:, begin:end] = torch.stack(new, 1)
        self._written, self._new = end, []

    @property
    def states(self) -> State:
        """All of them, system by system, leaves ``(M * (N + 1), *state)``."""
        if self._new:
            self._write()
        return trees.join(self._tree)


_NUMBERS = 4096
"""States that together have no more numbers wait until they are written. A choice."""
