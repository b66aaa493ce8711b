"""The sequential run: the fine propagator, slice after slice, on all systems together."""

from __future__ import annotations

import time

import numpy as np
import torch

from parareal._assemble import attach, cost, no_solution
from parareal._core import trees
from parareal._core.multistep_state import Carried, without_history
from parareal._inputs import Inputs
from parareal.engine._in_turn import Boundaries, InTurn
from parareal.engine._lanes import ActiveLanes
from parareal.engine._rounds import Counters, play_round
from parareal.executors._base import Executor
from parareal.grid._mesh import Mesh
from parareal.integrators._base import Multistep, bound_integrator
from parareal.problem._ode import bound_problem
from parareal.results._history import History
from parareal.results._solution import Solution
from parareal.results._status import Status


def sequential(inputs: Inputs, executor: Executor) -> Solution:
    """The solution that every run in parallel reproduces: one slice at a time, one lane for each system."""
    counters, started = Counters(), time.perf_counter()
    if inputs.batch == 0:
        return no_solution(inputs, True, cost(counters, 0, 0, started))
    slices, device = inputs.grid.num_slices, trees.leaves(inputs.systems)[0].device
    count = trees.leaves(inputs.systems)[0].shape[0]
    one = trees.one(inputs.systems, 0)
    problem = bound_problem(inputs.problem, one, inputs.grid, inputs.fine)
    fine = bound_integrator(inputs.fine, problem, one, inputs.grid)
    history = isinstance(fine, Multistep) and not fine.restart
    lanes = ActiveLanes(
        problem, fine, Mesh.build(inputs.grid, fine.steps, device), carries_history=history, places=count
    )
    in_turn = InTurn(lanes.method, inputs.rows, count, executor, counters) if InTurn.suits(lanes.method) else None
    us, ids = Boundaries(inputs.systems, slices + 1), np.arange(count)
    us.add(inputs.systems)
    try:
        u = trees.clone(inputs.systems)  # the caller's own tensor, which no right-hand side may change
        if isinstance(fine, Multistep) and history:
            u = Carried(u, fine.begin(u))
        # The same requests as in a run in parallel: so the two agree bit for bit if lanes do.
        for n in range(slices):
            if in_turn is not None:
                u = in_turn.over_slice(n, u)
            else:
                lanes.launch(ids, np.full(count, n), u, inputs.rows, samples=ids)
                while play_round([lanes], executor, counters):
                    pass
                ((_, u),) = lanes.take_arrived()
            us.add(without_history(u))
            if len(lanes.failures) == count:  # no system can go on
                for _ in range(n + 2, slices + 1):
                    us.add(without_history(u))
                break
    except BaseException as error:
        attach(error, _solution(inputs, us, lanes, in_turn, counters, started, (Status.INTERRUPTED,) * count))
        raise
    finally:
        lanes.close()
    finite = [torch.isfinite(leaf).reshape(count, -1).all(1) for leaf in trees.leaves(without_history(u))]
    failed = Status.UNSOLVED if fine.traits.implicit else Status.NONFINITE
    statuses = tuple(Status.FINAL if ok else failed for ok in torch.stack(finite).all(0).tolist())
    return _solution(inputs, us, lanes, in_turn, counters, started, statuses)


def _solution(
    inputs: Inputs,
    us: Boundaries,
    lanes: ActiveLanes,
    in_turn: InTurn | None,
    counters: Counters,
    started: float,
    statuses: tuple[Status, ...],
) -> Solution:
    samples = inputs.samples
    evaluations = lanes.evaluations if in_turn is None else in_turn.evaluations
    error = torch.tensor([0.0 if s is Status.FINAL else float("nan") for s in statuses], dtype=torch.float64)
    return Solution(
        us=inputs.unstacked(us.states),
        ts=inputs.grid.edges,
        status=Status.worst(statuses),
        iterations=torch.zeros(len(statuses), dtype=torch.int64) if samples else 0,
        history=History(),
        stats=cost(counters, evaluations, 0, started),
        sample_status=statuses if samples else None,
        error_estimate=error if samples else float(error[0]),
        failure=next(iter(lanes.failures.values()), None),
    )
