"""The calls that `odeint` makes, differentiated by the adjoint where `odeint_adjoint` has called it.

Outside of that scope they are `parareal.solve` and ``fill`` themselves.
"""

from __future__ import annotations

from collections.abc import Generator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parareal import _solve
from parareal._core import trees
from parareal._core.scopes import scope
from parareal._core.trees import State
from parareal.adjoint._attach import Request
from parareal.adjoint._fill import fill_by_adjoint
from parareal.engine import _fill
from parareal.executors._base import Executor
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import Integrator
from parareal.problem._ode import Problem
from parareal.results._solution import Solution


@dataclass(eq=False)
class Scope:
    """A call of `odeint_adjoint`.

    Attributes:
        request: What is asked of the adjoint.
        times: The times, with their graph, where they are the points of the grid and need gradients.
    """

    request: Request
    times: Tensor | None = None


_SCOPE: ContextVar[Scope | None] = ContextVar("parareal_odeint_adjoint", default=None)


@scope
def by_adjoint(found: Scope) -> Generator[None, None, None]:
    """Within, `solve` and `fill` are differentiated by the adjoint."""
    token = _SCOPE.set(found)
    try:
        yield
    finally:
        _SCOPE.reset(token)


def times_of(points: Tensor) -> Tensor:
    """The points of a grid, with the graph of the times where these are the points and states have it."""
    found = _SCOPE.get()
    return points if found is None or found.times is None else found.times.to(points)


def solve(problem: Problem, u0: State, grid: TimeGrid, **options: Any) -> Solution:
    """`parareal.solve`."""
    found = _SCOPE.get()
    if found is None:
        return _solve.solve(problem, u0, grid, **options)
    if found.times is not None:
        object.__setattr__(grid, "given", times_of(grid.points))
    return _solve.solve_by_adjoint(found.request, problem, u0, grid, **options)


def fill(problem: Problem, fine: Integrator, grid: TimeGrid, us: State, executor: Executor) -> tuple[State, int, int]:
    """States at all points of a grid; see ``engine._fill.fill``."""
    found = _SCOPE.get()
    if found is None:
        return _fill.fill(problem, fine, grid, us, executor)
    with torch.no_grad():
        states, rounds, evaluations = _fill.fill(problem, fine, grid, us, executor)
    if found.request.made is not None and any(leaf.requires_grad for leaf in trees.leaves(us)):
        states = fill_by_adjoint(found.request.made, us, states)
    return states, rounds, evaluations
