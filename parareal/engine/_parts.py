"""The parts of a run: problem, schedule, executor and stopping rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.host import index_to
from parareal._core.trees import State
from parareal.executors._base import Executor
from parareal.integrators._base import Integrator
from parareal.schedules._schedule import Schedule
from parareal.stopping._rules import StoppingRule


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a run, bound to its problem; they never change.

    Attributes:
        problem: The problem.
        fine: The fine propagator, of states without tangents.
        rows: Per-sample data as systems, leaves ``(M, ...)``, or ``None``.
        schedule: Which lanes start when.
        executor: How the lanes of a round are evaluated.
        stop: The stopping rule.
        lift: Adds tangents to the states of fine lanes, if the correction uses any.
        tangents: The number of tangents.
        windowed: Whether a window slides along the slices; an iteration then ends when the frontier has moved.
        carries_history: Whether states carry the history of a multistep method.
        shares_first_stage: Whether fine and coarse lanes begin with the same value of the right-hand side.
    """

    problem: Any
    fine: Integrator
    rows: State
    schedule: Schedule
    executor: Executor
    stop: StoppingRule
    lift: Callable[[State], State] | None
    tangents: int
    windowed: bool
    carries_history: bool
    shares_first_stage: bool

    def rows_of(self, system: Ints, device: torch.device) -> State:
        """Per-sample data of some systems, if there are any."""
        if self.rows is None:
            return None
        return trees.lanes(self.rows, index_to(device, system))
