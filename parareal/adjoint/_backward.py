"""The backward pass: gradients of all that a run depends on, from gradients at its slice boundaries."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parareal._core import autocast, trees
from parareal._core.trees import State
from parareal.adjoint._recursion import Answer, Task, on_all, solve_recursion, with_starts
from parareal.adjoint._slices import Spent, Totals
from parareal.adjoint._transpose import Linearised, cost_rows
from parareal.grid._time_grid import TimeGrid
from parareal.results._adjoint_report import AdjointReport


class Wanted(NamedTuple):
    """What a backward pass has to return gradients for.

    Attributes:
        u0: Whether the initial state is among it.
        row_leaves: Numbers of leaves of the per-sample data.
        points: Whether the points of the grid are.
        params: Numbers of tensors that the right-hand side depends on.
    """

    u0: bool
    row_leaves: list[int]
    points: bool
    params: list[int]

    @property
    def beside(self) -> bool:
        """Whether anything but the initial state is among it."""
        return bool(self.row_leaves or self.points or self.params)


class Found(NamedTuple):
    """Gradients, ``None`` where none was wanted or nothing depends."""

    boundaries: State
    rows: dict[int, Tensor]
    points: Tensor | None
    params: dict[int, Tensor]


@dataclass(frozen=True, eq=False)
class BackwardPass:
    """The backward pass of one run.

    Attributes:
        task: The recursion, linearised at no states yet.
        params: The tensors that the right-hand side depends on.
        precision: The autocast that the run set aside.
        report: Takes the cost.
    """

    task: Task
    params: list[Tensor]
    precision: autocast.SetAside | None
    report: AdjointReport

    def gradients(self, at: Linearised, direct: State, wanted: Wanted) -> Found:
        """Gradients from those at the boundaries themselves, ``direct``, leaves ``(M, N + 1, *state)``."""
        started = time.perf_counter()
        with self._set_aside(), torch.no_grad():
            task, before = with_starts(replace(self.task, at=at))
            answer = solve_recursion(task, direct)
            adjoint, stats, found = answer.adjoint, answer.stats.after(before), Found(None, {}, None, {})
            if wanted.beside or answer.way == "parareal":
                found, more = self._through(task, answer, wanted)
                stats = more.after(stats)
            # What the slices themselves give at the left boundaries is one iteration better.
            first = trees.map(lambda leaf: leaf[:, 0], adjoint)
            if found.boundaries is not None:
                first = trees.add(
                    trees.map(lambda leaf: leaf[:, 0], found.boundaries), trees.map(lambda leaf: leaf[:, 0], direct)
                )
        report = self.report
        report.stats = replace(stats, wall_time=time.perf_counter() - started)
        report.iterations, report.status, report.way = answer.iterations, answer.status, answer.way
        report.passes += 1
        return found._replace(boundaries=first)

    def _through(self, task: Task, answer: Answer, wanted: Wanted) -> tuple[Found, Any]:
        right = trees.map(lambda leaf: leaf[:, 1:].flatten(0, 1), answer.adjoint)
        return self.through(task.at, right, None, wanted)

    def through(self, at: Linearised, right: State, inner: State, wanted: Wanted) -> tuple[Found, Any]:
        """Gradients through all slices side by side.

        Args:
            at: Where they are linearised.
            right: Gradients at their right boundaries, leaves ``(M * N, *state)``.
            inner: Gradients after each of their steps, leaves ``(M * N, S, *state)``, or ``None``.
            wanted: What gradients are wanted for.
        """
        task, totals = replace(self.task, at=at), None
        if wanted.beside:
            params = [self.params[i] for i in wanted.params]
            totals = Totals(params, at.rows, wanted.row_leaves, wanted.points)

        def pulled(system: Tensor, n: Tensor) -> tuple[Tensor, ...]:
            slices, mine = n.numpy(), Spent()
            u, data = at.at(system, slices)
            where = system * at.slices + n.to(system.device)
            # A call is filled up with its last lane, which must count once.
            again = torch.zeros(len(where), dtype=torch.bool, device=where.device)
            again[1:] = where[1:] == where[:-1]
            cotangent, within = (
                None if part is None else trees.map(lambda leaf: _chosen(leaf, where, again), part)
                for part in (right, inner)
            )
            starts = at.inside(system, slices)
            left = task.fine.pull(
                slices, u, cotangent, data, mine, within, totals, system, starts=starts, known=task.known
            )
            return *trees.leaves(left), *cost_rows(mine, len(slices))

        parts, stats = on_all(task, pulled, Spent())
        left = trees.rebuild([part.unflatten(0, (at.systems, at.slices)) for part in parts], at.states)
        if totals is None:
            return Found(left, {}, None, {}), stats
        sums = {i: one for i, one in zip(wanted.params, totals.param_sums, strict=True) if one is not None}
        points = None if totals.point_sum is None else of_grid(totals.point_sum, task.grid, task.fine.fine.steps)
        return Found(left, dict(zip(wanted.row_leaves, totals.row_sums, strict=True)), points, sums), stats

    def _set_aside(self) -> AbstractContextManager[object]:
        return nullcontext() if self.precision is None else autocast.as_set_aside(self.precision)


def of_grid(points: Tensor, grid: TimeGrid, steps: int | None) -> Tensor:
    """The gradient with respect to the points of a grid, from that with respect to the points of a mesh on it."""
    points = points.cpu()
    if steps is None:
        return points
    share = torch.arange(steps + 1, dtype=points.dtype) / steps
    each, out = points.reshape(grid.num_slices, steps + 1), torch.zeros_like(grid.points)
    bounds = torch.tensor(grid.bounds)
    out.index_add_(0, bounds[:-1], (each * (1 - share)).sum(1))
    return out.index_add_(0, bounds[1:], (each * share).sum(1))


def _chosen(leaf: Tensor, where: Tensor, again: Tensor) -> Tensor:
    part = leaf.index_select(0, where)
    return part.masked_fill(again.reshape(-1, *[1] * (part.ndim - 1)), 0)
