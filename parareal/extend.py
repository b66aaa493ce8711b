"""What methods, problems and planners of your own are written with, beside the abstract classes of the package itself.

The package ``diffusion_adapters`` imports from here and from `parareal`, and nothing else; so can yours. The names are
as stable as those of `parareal`.

- Types of a step: `Stages`, `Ints`, `Factors`.
- Arithmetic on lanes: `lincomb`, `select`, `per_lane`.
- Multistep exponential methods: `no_history`, `extrapolate`, `exact_moments`, `midpoint_moments`, `first_order`.
- Checks of a method's arguments: `check_steps`, `check_order`, `one_of` for names; what came instead, for an error:
  `described`.
- Noise: `fine_points`, `draw_seeds`, `path_keys`.
- First iterates: the type `StartGuess`, and `check_start`, for calls with ``start=`` that solve in sequence.
- A solver that calls a function and waits, as a step: `Coroutine`.
- What depends on the grid alone, computed on the host: `Slices`, `Table`, `sent`, `to_device`, `values_of`.
- Planning: `time_rounds`, `serial_seconds`, `Trial`, `try_out`, `conclude`, `state_bytes`, `check_budget`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from parareal._core.arrays import Ints
from parareal._core.checks import described
from parareal._core.host import Table, sent, to_device, values_of
from parareal._core.names import one_of
from parareal._core.trees import State, per_lane
from parareal._inputs import Inputs
from parareal._start import StartGuess, first_iterates
from parareal.executors._local import Batched
from parareal.grid._mesh import Mesh
from parareal.grid._mesh import Span as Slices
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._adams import check_order, extrapolate, first_order
from parareal.integrators._adams import midpoint as midpoint_moments
from parareal.integrators._base import Integrator, check_steps
from parareal.integrators._history import no_history
from parareal.integrators._interpolation import exact as exact_moments
from parareal.integrators.external._coroutine import Coroutine
from parareal.planning._candidates import check_budget
from parareal.planning._cost_model import state_bytes, time_rounds
from parareal.planning._plan import conclude
from parareal.planning._trials import Trial, serial_seconds, try_out
from parareal.problem._brownian_path import brownian_keys
from parareal.problem._ode import Problem, Stages
from parareal.problem._sde import draw_seeds
from parareal.problem._semilinear import Factors, chosen, lincomb

__all__ = [
    "Coroutine",
    "Factors",
    "Ints",
    "Slices",
    "Stages",
    "StartGuess",
    "Table",
    "Trial",
    "check_budget",
    "check_order",
    "check_start",
    "check_steps",
    "conclude",
    "described",
    "draw_seeds",
    "exact_moments",
    "extrapolate",
    "fine_points",
    "first_order",
    "lincomb",
    "midpoint_moments",
    "no_history",
    "one_of",
    "path_keys",
    "per_lane",
    "select",
    "sent",
    "serial_seconds",
    "state_bytes",
    "time_rounds",
    "to_device",
    "try_out",
    "values_of",
]


def check_start(
    problem: Problem, u0: State, grid: TimeGrid, fine: Integrator, start: StartGuess, samples: bool = False
) -> None:
    """Raises where ``solve(problem, u0, grid, fine=fine, start=start, samples=samples)`` would because of ``start``."""
    first_iterates(start, Inputs.checked(problem, u0, grid, fine, Batched(), samples))


def select(mask: Tensor, a: State, b: State) -> State:
    """``a`` on the lanes of a mask, and ``b`` on the others.

    Args:
        mask: Shape ``(L,)``.
        a: A state on L lanes, leaves ``(L, *state)``.
        b: Likewise.
    """
    return chosen(mask, a, b)


def fine_points(grid: TimeGrid, fine: Integrator) -> Tensor:
    """The points between which the fine propagator takes its steps, float64, on the CPU, none repeated.

    A path of noise whose atoms lie between them brings each step its own noise: ``pr.BrownianPath(fine_points(grid,
    fine), seed)``. A problem makes one in its method ``bind(u0, grid, fine)``.
    """
    return Mesh.build(grid, fine.steps, torch.device("cpu")).points.unique_consecutive()


def path_keys(seed: int | Sequence[int], samples: int | None) -> Tensor:
    """Rows that decide the paths of samples, int64, ``(samples, 3)``, for a problem's method ``rows``.

    Args:
        seed: One for all, of which each sample has a path of its own, or one for each.
        samples: How many samples there are; ``None`` for a single system, whose keys have shape ``(1, 3)``.

    Raises:
        ValueError: There are several seeds, and another number of samples.
    """
    return brownian_keys(seed, samples)
