"""One run: checked input, the clock, what is kept when it ends early, and how a solution is put together."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Floats
from parareal._core.checks import check_instance
from parareal._core.multistep_state import Carried, bare
from parareal._core.progress_bar import Bar
from parareal._core.ring_buffer import Ring
from parareal._core.trees import State
from parareal._input_checks import as_lanes, check_fold, check_per_sample, check_solves, check_state
from parareal.corrections._base import Correction
from parareal.distributed._block_engine import BlockEngine
from parareal.distributed._rank_pipeline import InBlock
from parareal.engine._engine import Engine
from parareal.engine._lanes import Flight
from parareal.engine._rounds import Counters, play_round
from parareal.engine._verify import evaluate
from parareal.executors._base import Executor
from parareal.grid._mesh import Mesh
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import Integrator, Multistep
from parareal.persistence._checkpoint import Checkpoint
from parareal.persistence._resume import capture, restore
from parareal.problem._ode import Problem
from parareal.results._history import History, IterationReport, Moved
from parareal.results._record import Record, Recorder
from parareal.results._run_identity import Identity, describe, nameless, raw
from parareal.results._solution import Solution, Stats
from parareal.results._status import Status
from parareal.schedules._schedule import Schedule
from parareal.stopping._rules import StoppingRule, reopen

Callback = Callable[[IterationReport], Any]


@dataclass
class Run:
    """What `solve` and `serial` share: checked input, the clock, and the way a solution is put together."""

    problem: Problem
    u0: State
    grid: TimeGrid
    fine: Integrator
    executor: Executor
    samples: bool
    callback: Callback | None
    progress: bool
    dense: bool
    keep: str = "last"
    verify: bool = False
    summary: bool = False  # the history keeps the largest increment of each iteration alone
    started: float = field(default_factory=time.perf_counter)
    history: list[IterationReport] = field(default_factory=list)
    _increments: dict[int, Moved] = field(
        default_factory=dict
    )  # of iterations that some samples have still before them
    _before: Stats | None = None  # what the run that is gone on with has cost
    _recorder: Recorder | None = None

    def __post_init__(self) -> None:
        check_instance(self.problem, Problem, "problem", "pr.ODE(lambda t, u: -u)")
        check_instance(self.grid, TimeGrid, "grid", "pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=16)")
        check_instance(self.fine, Integrator, "fine", "pr.RK4(), or pr.Propagator(fn) for a function of your own")
        check_solves(self.fine, self.problem, "fine")
        check_instance(self.executor, Executor, "executor", "pr.Batched()")
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback is a {type(self.callback).__name__}; expected a function of an IterationReport")
        count = check_state(self.u0, self.samples)
        check_fold(self.problem, self.u0)
        self.batch = count if self.samples else None
        check_per_sample(self.problem, self.batch)
        self.systems = as_lanes(self.u0, self.batch)
        data = self.problem.rows(self.batch, trees.leaves(self.u0)[0].device)
        self.rows = None if data is None else as_lanes(data, self.batch)

    # --- in parallel ----------------------------------------------------------------------------------------------

    def parallel(
        self,
        correction: Correction,
        schedule: Schedule,
        stop: StoppingRule,
        most: int | None,
        resume: Solution | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Solution:
        """Parareal on all systems."""
        if self.batch == 0:
            return self._empty()
        if resume is not None:
            self._check_resume(resume)
        bar = Bar(self.progress and self.executor.leads, self.grid.num_slices)
        parts = (correction, schedule, stop, most)
        engine = self._engine(*parts)
        if resume is not None and resume.standing is not None:
            restore(engine, resume.standing, most)
            self.history, self._before = list(resume.history), resume.stats
            for key, rows in resume.standing.increments.items():
                self._increments[key] = Moved(*rows.shape)
                for system, row in enumerate(rows):
                    self._increments[key].put(system, row)
        self._record(engine, None if resume is None else resume.iterates)
        try:
            self._advance(engine, bar, checkpoint)
            again = 0
            while self.dense and (reopen := self._doubtful(engine)).any():
                again += 1
                engine = self._reopened(engine, reopen, again, parts)
                self._advance(engine, bar, checkpoint)
            engine.finish()
        except BaseException as error:
            engine.halt(Status.INTERRUPTED)
            solution = self._salvaged(engine, error)
            if isinstance(engine, BlockEngine):
                try:  # what there is here is a part of the whole: what was saved last is better
                    engine.fail(error)
                except BaseException as told:
                    attach(told, solution)
                    raise
            elif solution is not None and checkpoint is not None and len(self.history) > checkpoint.iterations:
                with suppress(Exception):  # what is there already is good enough, and this error is the one to see
                    checkpoint.save(solution)
            raise
        finally:
            bar.close()
            engine.close()
        return self._solution(engine)

    def _advance(self, engine: Engine, bar: Bar, checkpoint: Checkpoint | None) -> None:
        """Goes on until every system has come to its end."""
        engine.begin()
        while engine.active.any():
            complete, moved = engine.advance()
            for system, row in zip(complete, moved, strict=True):
                key = int(engine.iteration[system])
                self._increments.setdefault(key, Moved(*engine.iterates.live.shape)).put(int(system), row)
            if self.executor.any(self._report(engine, bar)):
                engine.halt(Status.STOPPED)
            if checkpoint is not None:
                engine.together()
                checkpoint.save(self._solution(engine))

    def _record(self, engine: Engine, before: Record | None) -> None:
        """Records all iterates, after those of a run before, where they are wanted."""
        if self.keep == "all":
            systems, has_coarse = engine.iterates.systems, engine.coarse is not None
            rounds = 0 if self._before is None else self._before.rounds
            self._recorder = Recorder(systems, self.grid.num_slices, self.samples, has_coarse, before, rounds)
            engine.iterates.record(self._recorder)
            engine.counters.log = self._recorder.log

    def _doubtful(self, engine: Engine) -> Bools:
        """Which systems have ended with more error than they may have, and are to go on from what was not accepted."""
        return engine.doubtful | (self._verify(engine) if self.verify else np.zeros_like(engine.doubtful))

    def _verify(self, engine: Engine) -> Bools:
        """Evaluates all boundaries that were accepted; returns the systems in which too many of them are off."""
        failed = np.zeros_like(engine.doubtful)
        for system, status in enumerate(engine.status):
            if status is Status.CONVERGED:
                error, allowed = evaluate(engine, system)
                failed[system] = not error <= allowed
                if not failed[system]:
                    engine.status[system] = Status.VERIFIED
        return failed

    def _reopened(self, engine: Engine, systems: Bools, times: int, parts: Any) -> Engine:
        """A new engine that goes on where an old one has ended: some systems from the last state that is proven.

        Their states are first iterates now, so that it takes few iterations. What slices have shown stays known.
        """
        at = capture(engine, engine.iterates.states, self._pending(), self.identity)
        statuses = tuple(None if again else status for again, status in zip(systems, engine.status, strict=True))
        frontier = np.where(systems, at.proven, at.frontier)
        engine.close()
        self._before = self._stats(engine.counters, engine.fine.evaluations, engine.coarse_evaluations)
        self.started = time.perf_counter()
        record = self._recorder.record() if self._recorder else None
        new = self._engine(*parts, start=at.u)
        restore(new, replace(at, frontier=frontier, statuses=statuses, past=None), parts[-1])
        new.accepted &= ~systems
        reopen(new.judge, systems, times)
        self._record(new, record)
        return new

    def _engine(
        self, correction: Correction, schedule: Schedule, stop: StoppingRule, most: int | None, start: State = None
    ) -> Engine:
        options: dict[str, Any] = {
            "problem": self.problem,
            "u0": self.systems,
            "rows": self.rows,
            "grid": self.grid,
            "fine": self.fine,
            "correction": correction,
            "executor": self.executor,
            "stop": stop,
            "max_iterations": most,
            "dense": self.dense,
        }
        if isinstance(self.executor, InBlock):
            return self.executor.engine(keep=self.keep, **options)
        return Engine(**options, schedule=schedule, start=start)

    def _check_resume(self, resume: Solution) -> None:
        """Raises unless this run can go on from there."""
        at = resume.standing
        if at is None:
            raise ValueError(
                "resume is a solution that does not say where its run stood, as those of pr.serial and of runs with "
                "dense=False; expected one of pr.solve(..., dense=True)"
            )
        at.identity.check(self.identity)
        systems = len(at.number)
        start = torch.arange(systems) * (self.grid.num_slices + 1)
        for now, then in zip(trees.leaves(self.systems), trees.leaves(bare(at.u)), strict=True):
            if not torch.equal(raw(now), raw(then.detach().index_select(0, start.to(then.device)))):
                raise ValueError(
                    "resume is a solution from another initial state; expected the same u0 bit for bit: "
                    "u0=resume.us[0], or begin a new run without resume"
                )

    @property
    def identity(self) -> Identity:
        """What this is a run of."""
        return Identity(
            problem=type(self.problem).__name__,
            fine=nameless(repr(self.fine)),
            state=describe(self.u0),
            samples=self.samples,
            points=self.grid.points,
            bounds=self.grid.bounds,
            data=() if self.rows is None else self.rows,
        )

    def _report(self, engine: Engine, bar: Bar) -> bool:
        """Reports the iterations that no active system has still before it; returns whether to stop."""
        halt, before = False, self._before
        done = engine.iteration[engine.active] if engine.active.any() else engine.iteration.max(keepdims=True)
        while len(self.history) < done.min():
            rows = self._increments.pop(len(self.history) + 1, None)
            # Ctrl-C may come between an iteration and its report.
            moved = np.full(engine.iterates.live.shape, np.nan) if rows is None else rows.table()
            frontier = (
                torch.from_numpy(engine.iterates.frontier.copy()) if self.samples else int(engine.iterates.frontier[0])
            )
            rounds, evaluations = engine.spent
            report = IterationReport(
                iteration=len(self.history) + 1,
                increments=torch.from_numpy(moved if self.samples else moved[0]),
                frontier=frontier,
                rounds=rounds + (before.rounds if before else 0),
                evaluations=evaluations + (before.evaluations if before else 0),
            )
            self.history.append(report.summary() if self.summary else report)
            largest = float(torch.as_tensor(report.increment, dtype=torch.float64).max())
            bar.update(int(engine.iterates.frontier.min()), report.iteration, report.rounds, largest)
            halt |= self.callback is not None and bool(self.callback(report))
        return halt

    def _salvaged(self, engine: Engine, error: BaseException) -> Solution | None:
        """What was computed until an error, attached to it. Where that fails too, the first error is the one to see."""
        try:
            solution = self._solution(engine)
        except Exception as second:
            error.add_note(f"What was computed before this cannot be put together: {type(second).__name__}: {second}")
            return None
        attach(error, solution)
        return solution

    def _solution(self, engine: Engine) -> Solution:
        statuses = tuple(status or Status.INTERRUPTED for status in engine.status)
        iterations = torch.from_numpy(engine.iteration.copy()) if self.samples else int(engine.iteration[0])
        states, ts, reached = engine.iterates.states, self._times, engine.iterates.reached
        us = self._unstack(bare(states))
        # Boundaries may have become final since an iteration was last measured.
        final = np.where(engine.accepted, engine.proven, engine.iterates.frontier)[:, None]
        residuals = np.where(np.arange(self.grid.num_slices) < final, 0.0, engine.residuals)
        if not self.dense and self.batch is None:
            ts = self.grid.edges[[0, int(reached[0])]]
        elif not self.dense:  # samples end at one time: those that were not there yet have no state to show for it
            there = torch.from_numpy(reached == self.grid.num_slices)
            us = trees.map(lambda leaf: _blank(leaf, there.to(leaf.device)), us)
        return Solution(
            us=us,
            ts=ts,
            status=Status.worst(statuses),
            iterations=iterations,
            history=History(self.history),
            stats=self._stats(engine.counters, engine.fine.evaluations, engine.coarse_evaluations),
            sample_status=statuses if self.samples else None,
            error_estimate=torch.from_numpy(engine.errors.copy()) if self.samples else float(engine.errors[0]),
            residuals=torch.from_numpy(residuals if self.samples else residuals[0]),
            iterates=self._recorder.record() if self._recorder else None,
            standing=capture(engine, states, self._pending(), self.identity) if self.dense else None,
        )

    def _pending(self) -> dict[int, Floats]:
        """Increments of iterations that are not in the history yet, ``(M, N)`` each."""
        return {key: moved.table() for key, moved in self._increments.items()}

    # --- one slice after another ----------------------------------------------------------------------------------

    def sequential(self) -> Solution:
        """The fine propagator, slice after slice, on all systems together."""
        if self.batch == 0:
            return self._empty()
        slices, device = self.grid.num_slices, trees.leaves(self.systems)[0].device
        count = trees.leaves(self.systems)[0].shape[0]
        one = trees.one(self.systems, 0)
        problem = self.problem.bind(one, self.grid, self.fine)
        fine = self.fine.bind(problem, one, self.grid)
        remembers = isinstance(fine, Multistep) and not fine.restart
        flight = Flight(problem, fine, Mesh.build(self.grid, fine.steps, device), remembers=remembers, places=count)
        us, counters, ids = Ring(self.systems, count, slices + 1), Counters(), np.arange(count)
        us.put(ids * (slices + 1), ids, self.systems)
        try:
            u = trees.clone(self.systems)  # the caller's own tensor, which no right-hand side shall reach
            if isinstance(fine, Multistep) and remembers:
                u = Carried(u, fine.begin(u))
            for n in range(slices):
                flight.launch(ids, np.full(count, n), u, self.rows)
                while play_round([flight], self.executor, counters):
                    pass
                ((_, u),) = flight.take_arrived()
                us.put(ids * (slices + 1) + n + 1, ids, bare(u))
        except BaseException as error:
            attach(error, self._sequential_solution(us, flight, counters, (Status.INTERRUPTED,) * count))
            raise
        finally:
            flight.close()
        finite = [torch.isfinite(leaf).reshape(count, -1).all(1) for leaf in trees.leaves(bare(u))]
        failed = Status.UNSOLVED if fine.implicit else Status.NONFINITE
        statuses = tuple(Status.FINAL if ok else failed for ok in torch.stack(finite).all(0).tolist())
        return self._sequential_solution(us, flight, counters, statuses)

    def _sequential_solution(
        self, us: Ring, flight: Flight, counters: Counters, statuses: tuple[Status, ...]
    ) -> Solution:
        iterations = torch.zeros(len(statuses), dtype=torch.int64) if self.samples else 0
        sample_status = statuses if self.samples else None
        error = torch.tensor([0.0 if s is Status.FINAL else float("nan") for s in statuses], dtype=torch.float64)
        return Solution(
            us=self._unstack(us.tree),
            ts=self.grid.edges,
            status=Status.worst(statuses),
            iterations=iterations,
            history=History(),
            stats=self._stats(counters, flight.evaluations, 0),
            sample_status=sample_status,
            error_estimate=error if self.samples else float(error[0]),
        )

    # --- shared -----------------------------------------------------------------------------------------------------

    def _stats(self, counters: Counters, fine: int, coarse: int) -> Stats:
        stats = Stats(
            rounds=counters.rounds,
            evaluations=fine + coarse,
            fine_evaluations=fine,
            coarse_evaluations=coarse,
            calls=counters.calls,
            max_lanes=counters.max_lanes,
            padded_lanes=counters.padded_lanes,
            wall_time=time.perf_counter() - self.started,
        )
        return stats.after(self._before)

    def _unstack(self, rows: State) -> State:
        """Rows of all systems as states at the edges: leaves ``(N + 1, *state)``."""
        if self.batch is None:
            return rows
        edges = len(self._times)
        return trees.map(lambda leaf: leaf.reshape(-1, edges, *leaf.shape[2:]).transpose(0, 1), rows)

    @property
    def _times(self) -> Tensor:
        """The times of the states that a solution keeps."""
        edges = self.grid.edges
        return edges if self.dense else edges[[0, -1]]

    def _empty(self) -> Solution:
        us = trees.map(lambda leaf: leaf.new_empty((len(self._times), *leaf.shape)), self.u0)
        none = torch.zeros(0, dtype=torch.int64)
        stats, exact = self._stats(Counters(), 0, 0), torch.zeros(0, dtype=torch.float64)
        return Solution(us, self._times, Status.FINAL, none, History(), stats, (), exact)


def _blank(leaf: Tensor, there: Tensor) -> Tensor:
    """States ``(2, B, *state)``, the last of them NaN where a sample is not marked in ``there``."""
    last = torch.where(there.reshape(-1, *[1] * (leaf.ndim - 2)), leaf[1], float("nan"))
    return torch.stack([leaf[0], last])


def attach(error: BaseException, solution: Solution | None) -> None:
    """Hands what was computed, if anything, to whoever catches the error."""
    if solution is None:
        return
    with suppress(AttributeError, TypeError):  # some exceptions take no attributes
        error.solution = solution  # pyright: ignore[reportAttributeAccessIssue]
        error.add_note("What was computed before this is kept: see the attribute 'solution' of this exception.")
