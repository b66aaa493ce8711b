"""States at all fine points of fixed-step methods, from those at slice boundaries: all slices at once."""

from __future__ import annotations

import torch

from parareal._core import trees
from parareal._core.multistep_state import Carried, without_history
from parareal._core.trees import State
from parareal.executors._base import Executor
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import Cost, Integrator
from parareal.problem._ode import Problem, Stages


def fill(problem: Problem, fine: Integrator, grid: TimeGrid, us: State, executor: Executor) -> tuple[State, int, int]:
    """States at all points of the grid, leaves ``(num_steps + 1, *state)``, from those at its boundaries.

    All slices are stepped at once, which takes the rounds of one slice. Returns also these rounds and the evaluations.
    """
    counts = torch.tensor(grid.steps_per_slice)
    if int(counts.max()) == 1:
        return us, 0, 0
    device = trees.leaves(us)[0].device
    start, points = torch.tensor(grid.bounds[:-1]), grid.points
    u = trees.map(lambda leaf: leaf[:-1], us)
    if (kept := fine.begin_slice(problem, u)) is not None:
        u = Carried(u, kept)
    found, where = [us], [torch.tensor(grid.bounds)]
    rounds = evaluations = 0
    for step in range(int(counts.max()) - 1):
        lanes = (counts > step + 1).nonzero()[:, 0]  # slices with a point of their own after this step
        at = start[lanes] + step
        u = trees.lanes(u, lanes.to(device))
        stages = fine.step(problem, points[at].to(device), points[at + 1].to(device), u)
        u, took = _play(stages, executor, len(lanes))
        rounds, evaluations = rounds + took.rounds, evaluations + took.evaluations
        found.append(without_history(u))
        where.append(at + 1)
        start, counts = start[lanes], counts[lanes]
    order = torch.cat(where).argsort().to(device)
    return trees.lanes(trees.cat(found), order), rounds, evaluations


def _play(stages: Stages, executor: Executor, lanes: int) -> tuple[State, Cost]:
    """A step to its end, its requests answered one by one, and what it cost."""
    rounds = evaluations = 0
    try:
        fn, *args = next(stages)
        while True:
            if getattr(fn, "free", False):
                value = fn(*args)
            else:
                value = executor.evaluate(fn, tuple(args), lanes)
                cost = getattr(fn, "cost", None)
                took = Cost(lanes) if cost is None else cost(value, lanes)
                rounds, evaluations = rounds + took.rounds, evaluations + took.evaluations
            fn, *args = stages.send(value)
    except StopIteration as end:
        return end.value, Cost(evaluations, rounds)
