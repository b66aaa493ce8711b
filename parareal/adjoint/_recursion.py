"""Solves the adjoint recursion lambda_n = J_n^T lambda_{n+1} + d_n in parallel in time.

Small states: all J_n at once as matrices, and a scan, which is exact. Larger ones: Parareal backward in time, with the
transposed derivative of the coarse propagator as the coarse one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal._core.vectors import flat, unflat
from parareal._inputs import Inputs
from parareal._run import Method, Options, Run
from parareal.adjoint._slices import Slices, Spent
from parareal.adjoint._transpose import Backward, Linearised, Pull, Transposed, cost_rows
from parareal.corrections._base import Coarse, Correction
from parareal.corrections._linear import Identity
from parareal.corrections._scan import carried
from parareal.executors._base import Executor
from parareal.grid._time_grid import TimeGrid
from parareal.results._stats import Stats
from parareal.results._status import Status
from parareal.schedules._schedule import AHEAD, Barrier, Schedule, Wavefront
from parareal.schedules._windowed import Windowed
from parareal.stopping._tolerance import Tolerance

_SCANNED, _SCANNED_ELSEWHERE = {"cpu": 8}, 64
"""Largest states, in elements, whose derivatives are made as matrices. A product with a transposed derivative costs as
much as an evaluation or two, and Parareal takes a few of them: so about as many as that on a CPU, and more where they
run side by side. A choice."""


@dataclass(frozen=True, eq=False)
class Task:
    """A recursion to solve.

    Attributes:
        fine: The fine propagator.
        coarse: The coarse one, where there is one that can be differentiated.
        at: Where they are linearised.
        grid: The time grid.
        executor: How lanes are evaluated.
        schedule: The schedule of the forward run.
        rtol: Relative tolerance of the recursion.
        matrices: Whether derivatives as matrices are wanted whatever the size of the state.
        known: The tensors that the right-hand side depends on, if others are an error.
    """

    fine: Slices
    coarse: Slices | None
    at: Linearised
    grid: TimeGrid
    executor: Executor
    schedule: Schedule
    rtol: float
    matrices: bool
    known: list[Tensor] | None

    @property
    def most_lanes(self) -> int:
        """Most lanes at a time: those of a window, if there is one."""
        return self.at.systems * min(self.schedule.width or self.at.slices, self.at.slices)


@dataclass(frozen=True, eq=False)
class Answer:
    """Lambda at all boundaries, leaves ``(M, N + 1, *state)``, and what it took."""

    adjoint: State
    stats: Stats
    iterations: int
    status: Status
    way: Literal["scan", "parareal"]


def solve_recursion(task: Task, direct: State) -> Answer:
    """Solves it, for gradients ``direct`` at the boundaries, leaves ``(M, N + 1, *state)``."""
    leaves = trees.leaves(direct)
    size = sum(leaf[0, 0].numel() for leaf in leaves)
    real = not any(leaf.is_complex() for leaf in leaves)
    most = _SCANNED.get(leaves[0].device.type, _SCANNED_ELSEWHERE)
    if real and (size <= most or task.matrices):
        return _scanned(task, direct)
    return _by_parareal(task, direct)


def _scanned(task: Task, direct: State) -> Answer:
    at, spent = task.at, Spent()

    def matrices(system: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The image of each unit vector, ``(L, D, D)``, and what it took."""
        slices, mine = n.numpy(), Spent()
        u, data = at.at(system, slices)
        vector = flat(u, 1)
        unit = torch.eye(vector.shape[1], dtype=vector.dtype, device=vector.device)
        unit = unit[:, None].expand(-1, len(vector), -1)
        basis = unflat(unit, trees.map(lambda leaf: leaf.unsqueeze(0), u), 2)
        starts = at.inside(system, slices)
        image = task.fine.pull(slices, u, basis, data, mine, basis=True, starts=starts, known=task.known)
        return flat(image, 2).transpose(0, 1), *cost_rows(mine, len(slices))

    (factors,), stats = on_all(task, matrices, spent)
    order = torch.arange(at.slices - 1, -1, -1, device=factors.device)
    factors = factors.unflatten(0, (at.systems, at.slices)).index_select(1, order)
    vector = flat(direct, 2)
    gained = vector[:, :-1].index_select(1, order).to(factors.dtype)
    moved = carried(factors, vector[:, -1].to(factors.dtype), gained) + gained
    found = torch.cat([moved.index_select(1, order), vector[:, -1:].to(factors.dtype)], 1)
    status = Status.CONVERGED if bool(torch.isfinite(found).all()) else Status.NONFINITE
    return Answer(unflat(found, direct, 2), stats, 1, status, "scan")


def _by_parareal(task: Task, direct: State) -> Answer:
    at, grid = task.at, task.grid
    packed = at.packed(direct)
    reversed_grid = TimeGrid(grid.points.flip(0), tuple(grid.num_steps - bound for bound in reversed(grid.bounds)))
    fine = Transposed(Pull(task.fine, at, packed, grid, fine=True))
    correction: Correction = Identity()
    if task.coarse is not None:
        correction = Coarse(Transposed(Pull(task.coarse, at, packed, grid, fine=False)))
    device = trees.leaves(packed)[0].device
    problem = Backward(torch.arange(at.systems, device=device))
    last = trees.map(lambda leaf: leaf[:, -1], packed)
    systems = trees.map(lambda leaf: leaf.unsqueeze(1), last)
    rows = problem.per_sample.unsqueeze(1)
    inputs = Inputs(problem, last, reversed_grid, fine, systems, rows, at.systems)
    method = Method(correction, _schedule(task.schedule), Tolerance(task.rtol, 0.0), None)
    solution = Run(inputs, task.executor, Options()).parallel(method)
    found = trees.map(lambda leaf: leaf.flip(0).transpose(0, 1), solution.us)
    adjoint = at.unpacked(found, (at.systems, at.slices + 1), 2)
    made: Any = solution.iterations
    return Answer(adjoint, solution.stats, int(made.max()), solution.status, "parareal")


def _schedule(schedule: Schedule) -> Schedule:
    """That of the forward run, without its guesses of states; for one of the user's own the default."""
    if isinstance(schedule, Windowed):
        return Windowed(schedule.width)
    return schedule if isinstance(schedule, Barrier | Wavefront) else Wavefront(AHEAD)


def with_starts(task: Task) -> tuple[Task, Stats | None]:
    """The task with the states inside slices from which each pass begins its parts, where there are several parts."""
    at = task.at
    if len(task.fine.parts) < 3:
        return task, None

    def starts(system: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        mine, slices = Spent(), n.numpy()
        u, data = at.at(system, slices)
        found = task.fine.starts(slices, u, data, mine)
        like.append(found[0])
        return *[leaf for state in found for leaf in trees.leaves(state)], *cost_rows(mine, len(slices))

    like: list[State] = []
    parts, stats = on_all(task, starts, Spent())
    count = len(trees.leaves(like[0]))
    found = [trees.rebuild(parts[i : i + count], like[0]) for i in range(0, len(parts), count)]
    return replace(task, at=replace(at, starts=found)), stats


def on_all(task: Task, fn: Callable[..., tuple[Tensor, ...]], spent: Spent) -> tuple[tuple[Tensor, ...], Stats]:
    """``fn(system, n)`` on all lanes, as the executor does it, without the cost in its last two; and the cost.

    Where a window was asked for no more lanes are computed at a time than it has.
    """
    at, executor, calls, padded = task.at, task.executor, 0, 0
    device = trees.leaves(at.states)[0].device
    lanes, values = at.systems * at.slices, list[tuple[Tensor, ...]]()
    for begin in range(0, lanes, task.most_lanes):
        ids = torch.arange(begin, min(lanes, begin + task.most_lanes))
        value = executor.evaluate(fn, ((ids // at.slices).to(device), ids % at.slices), len(ids))
        spent.add(int(value[-2].max()), int(value[-1].sum()))
        calls, padded = calls + executor.calls(len(ids)), padded + executor.padded(len(ids))
        values.append(value)
    parts = tuple(torch.cat(part) for part in zip(*[value[:-2] for value in values], strict=True))
    stats = Stats(
        spent.rounds, spent.evaluations, spent.evaluations, 0, calls, min(lanes, task.most_lanes), 0.0, padded
    )
    return parts, stats
