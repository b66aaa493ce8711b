"""The checked input of `solve` and `serial`: the equation, the initial state, the grid and the fine propagator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import check_flag
from parareal._core.multistep_state import without_history
from parareal._core.names import check_kind
from parareal._core.trees import State
from parareal._input_checks import as_lanes, check_fold, check_parameters, check_per_sample, check_solves, check_state
from parareal.executors._base import Executor
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._base import Integrator
from parareal.problem._ode import Problem
from parareal.results._run_identity import Identity, describe, exactly, raw
from parareal.results._solution import Solution


@dataclass(frozen=True, eq=False)
class Inputs:
    """Checked input.

    Attributes:
        problem: The problem.
        u0: The initial state, as it was given.
        grid: The time grid.
        fine: The fine propagator.
        systems: The initial state as M systems, leaves ``(M, *state)``: samples, or a single one.
        rows: Per-sample data as systems, or ``None``.
        batch: Number of samples; ``None`` where the state is not a batch.
    """

    problem: Problem
    u0: State
    grid: TimeGrid
    fine: Integrator
    systems: State
    rows: State
    batch: int | None

    @classmethod
    def checked(
        cls, problem: Problem, u0: State, grid: TimeGrid, fine: Integrator, executor: Executor, samples: bool
    ) -> Inputs:
        """Checks the arguments, and splits the state into systems.

        Raises:
            TypeError, ValueError: An argument is wrong.
        """
        check_kind(problem, Problem, "problem", "pr.ODE(lambda t, u: -u)", "pr.ODE(fn)")
        check_kind(grid, TimeGrid, "grid", "pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=16)")
        check_kind(
            fine, Integrator, "fine", "pr.RK4(), or pr.Propagator(fn) for a function of your own", "pr.Propagator(fn)"
        )
        check_solves(fine, problem, "fine")
        check_kind(executor, Executor, "executor", "pr.Batched()")
        check_flag(samples, "samples")
        count = check_state(u0, samples)
        check_fold(problem, u0)
        batch = count if samples else None
        check_per_sample(problem, batch)
        check_parameters(problem, fine)
        data = problem.rows(batch, trees.leaves(u0)[0].device)
        rows = None if data is None else as_lanes(data, batch)
        return cls(problem, u0, grid, fine, as_lanes(u0, batch), rows, batch)

    @property
    def samples(self) -> bool:
        """Whether the state is a batch of samples."""
        return self.batch is not None

    @property
    def serial_rounds(self) -> int | None:
        """Rounds of `serial`, where the number is known without running it."""
        traits, steps = self.fine.traits, self.fine.steps
        if traits.evaluations is None or traits.multistep:
            return None
        return traits.evaluations * (steps * self.grid.num_slices if steps else self.grid.num_steps)

    @cached_property
    def identity(self) -> Identity:
        """The identity of a run with this input."""
        return Identity(
            problem=type(self.problem).__name__,
            fine=exactly(self.fine),
            state=describe(self.u0),
            samples=self.samples,
            points=self.grid.points,
            bounds=self.grid.bounds,
            data=() if self.rows is None else self.rows,
            compared=self.problem.compared(),
        )

    def check_resume(self, resume: Solution) -> None:
        """Raises unless a run with this input can resume that solution."""
        at = resume.standing
        if at is None:
            raise ValueError(
                "resume is a solution without a snapshot of its run, as those of pr.serial and of runs with "
                "dense=False; expected one of pr.solve(..., dense=True)"
            )
        at.identity.check(self.identity)
        start = torch.arange(len(at.state.frontier)) * (self.grid.num_slices + 1)
        for now, then in zip(trees.leaves(self.systems), trees.leaves(without_history(at.u)), strict=True):
            if not torch.equal(raw(now), raw(then.detach().index_select(0, start.to(then.device)))):
                raise ValueError(
                    "resume is a solution from another initial state; expected the same u0 bit for bit: "
                    "u0=resume.us[0], or begin a new run without resume"
                )

    # --- states of systems as states of a solution --------------------------------------------------------------------

    def times(self, dense: bool) -> Tensor:
        """The times of the states that a solution keeps."""
        return self.grid.edges if dense else self.grid.points[[0, -1]]

    def unstacked(self, rows: State, dense: bool = True) -> State:
        """Rows of all systems as states at the boundaries: leaves ``(N + 1, *state)``, or ``(N + 1, B, *rest)``."""
        if self.batch is None:
            return rows
        count = len(self.times(dense))
        return trees.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[2:]).transpose(0, 1), rows)
