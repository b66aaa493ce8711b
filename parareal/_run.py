"""One run in parallel: the loop over iterations, its partial result after an error, and its reopening."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from parareal._assemble import attach, cost, no_solution, solution_of
from parareal._core.arrays import Bools, Floats
from parareal._core.checks import described
from parareal._core.described import brief
from parareal._core.progress_bar import Bar
from parareal._core.scopes import add_note
from parareal._inputs import Inputs
from parareal._sections import Passed, Section, first_section, move_on
from parareal.corrections._base import Correction
from parareal.engine._engine import Engine
from parareal.engine._first import First
from parareal.engine._rounds import Counters
from parareal.engine._verify import evaluate
from parareal.executors._base import Executor
from parareal.persistence._checkpoint import Checkpoint
from parareal.persistence._resume import capture, restore, restore_ended
from parareal.results._history import IterationReport, Moved
from parareal.results._record import Record, Recorder
from parareal.results._run_state import RUNNING
from parareal.results._solution import Solution, Stats
from parareal.results._status import Status
from parareal.schedules._schedule import Schedule
from parareal.stopping._rules import StoppingRule, cleared, reopen, verified

Callback = Callable[[IterationReport], Any]


@dataclass(frozen=True)
class Options:
    """The options of a run: what it keeps and reports.

    Attributes:
        dense: Whether the states at all boundaries are kept.
        keep: ``"all"`` for every iterate.
        verify: Whether accepted boundaries are evaluated once more.
        summary: Whether the history keeps the largest increment of each iteration alone.
        callback: Called after each iteration.
        progress: Whether a bar is shown.
    """

    dense: bool = True
    keep: str = "last"
    verify: bool = False
    summary: bool = False
    callback: Callback | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback is {described(self.callback)}; expected a function of an IterationReport")


@dataclass(frozen=True, eq=False)
class Method:
    """The settings of a run, which may change when it is resumed."""

    correction: Correction
    schedule: Schedule
    stop: StoppingRule
    max_iterations: int | None
    start: First | None = None


class Run:
    """One run, from its first iteration, or from a snapshot of another, to its solution.

    Args:
        inputs: The checked input.
        executor: How the lanes of a round are evaluated.
        options: What the run keeps and reports.

    Attributes:
        history: A report of each iteration.
    """

    def __init__(self, inputs: Inputs, executor: Executor, options: Options) -> None:
        self._inputs, self._executor, self._options = inputs, executor, options
        self._started = time.perf_counter()
        self.history: list[IterationReport] = []
        self._increments: dict[int, Moved] = {}  # of iterations that some samples have not completed
        self._before: Stats | None = None  # the cost of the run that is resumed
        self._recorder: Recorder | None = None
        self._passed: Passed | None = None  # where the engine sees a section of the grid

    def parallel(
        self, method: Method, resume: Solution | None = None, checkpoint: Checkpoint | None = None
    ) -> Solution:
        """Parareal on all systems."""
        inputs = self._inputs
        if inputs.batch == 0:
            return no_solution(inputs, self._options.dense, cost(Counters(), 0, 0, self._started))
        if resume is not None:
            inputs.check_resume(resume)
        section = None
        if method.start is None and resume is None and self._options.keep == "last":  # a snapshot has the whole grid
            section = first_section(inputs, method.correction, method.schedule, method.stop, self._options.dense)
        self._passed = None if section is None else Passed.none(section)
        bar = Bar(self._options.progress and self._executor.leads, inputs.grid.num_slices)
        engine = self._engine(method, method.start)
        if resume is not None:
            self._resume(engine, resume, method)
        # After the restore: the record begins with the current iterates.
        self._record(engine, None if resume is None else resume.iterates)
        try:
            while not self._advance(engine, bar, checkpoint):
                engine = self._moved_on(engine, method)
            again = 0
            while self._options.dense and (doubtful := self._doubtful(engine)).any():
                again += 1
                engine = self._reopened(engine, doubtful, again, method)
                self._advance(engine, bar, checkpoint)
            engine.finish()
        except BaseException as error:
            engine.halt(Status.INTERRUPTED)
            solution = self._salvaged(engine, error)
            try:
                engine.fail(error)
            except BaseException as told:
                attach(told, solution)
                raise
            # A partial result is not saved: the last complete file is better.
            new = checkpoint is not None and len(self.history) > checkpoint.iterations
            if engine.holds_all and solution is not None and checkpoint is not None and new:
                with suppress(Exception):  # the last file is good enough, and this error matters more
                    checkpoint.save(solution)
            raise
        finally:
            bar.close()
            engine.close()
        return self._solution(engine)

    def _engine(self, method: Method, given: First | None) -> Engine:
        section = None if self._passed is None else self._passed.section
        more: dict[str, Any] = {} if section is None else {"outside": section.outside}
        return self._executor.engine(
            Engine,
            self._options.keep,
            problem=self._inputs.problem,
            u0=self._inputs.systems,
            rows=self._inputs.rows,
            grid=self._inputs.grid if section is None else section.part,
            fine=self._inputs.fine,
            correction=method.correction,
            schedule=method.schedule,
            executor=self._executor,
            stop=method.stop,
            max_iterations=method.max_iterations,
            dense=self._options.dense,
            given=given,
            **more,
        )

    def _moved_on(self, engine: Engine, method: Method) -> Engine:
        """The engine of the next section, in which the run continues."""
        section = self._next_section(engine)
        assert self._passed is not None
        assert section is not None
        by = section.begin - self._passed.section.begin
        before, cost = self._passed, self._cost(engine)
        self._passed = before.after(engine, section)
        try:
            new = self._engine(method, None)
            move_on(engine, new, by)
        except BaseException:
            self._passed = before
            raise
        self._before, self._started = cost, time.perf_counter()
        engine.close()
        return new

    def _next_section(self, engine: Engine) -> Section | None:
        if self._passed is None:
            return None
        return self._passed.section.next(int(engine.state.frontier[0]), engine.iterates.layout.width)

    def _resume(self, engine: Engine, resume: Solution, method: Method) -> None:
        """Restores the snapshot, history and cost of the run that is resumed."""
        assert resume.standing is not None
        restore(engine, resume.standing, method.max_iterations)
        restore_ended(engine, resume)
        self.history, self._before = list(resume.history), resume.stats
        for key, rows in resume.standing.increments.items():
            self._increments[key] = Moved(*rows.shape)
            for system, row in enumerate(rows):
                self._increments[key].put(system, row)

    def _record(self, engine: Engine, before: Record | None) -> None:
        """Records all iterates, after those of the resumed run, if they are kept."""
        if self._options.keep == "all":
            layout, coarse = engine.iterates.layout, engine.coarse is not None
            rounds = 0 if self._before is None else self._before.rounds
            self._recorder = Recorder(layout.systems, layout.slices, self._inputs.samples, coarse, before, rounds)
            engine.iterates.record(self._recorder)
            engine.counters.log = self._recorder.log

    # --- iterations -------------------------------------------------------------------------------------------------

    def _advance(self, engine: Engine, bar: Bar, checkpoint: Checkpoint | None) -> bool:
        """Continues until every system has come to its end, or the window to that of its section; whether the first."""
        engine.begin()
        while engine.active.any():
            complete, moved = engine.advance()
            for system, row in zip(complete, moved, strict=True):
                key = int(engine.state.iteration[system])
                self._increments.setdefault(key, Moved(*engine.state.residuals.shape)).put(int(system), row)
            if self._executor.any(self._report(engine, bar)):
                engine.halt(Status.STOPPED)
            if checkpoint is not None:  # after the callback: a file has all that the caller has seen
                engine.together()
                checkpoint.save(self._solution(engine))
            if engine.active.any() and self._next_section(engine) is not None:
                return False
        return True

    def _report(self, engine: Engine, bar: Bar) -> bool:
        """Reports the iterations that all active systems have completed; returns whether to stop."""
        halt, before, state, samples = False, self._before, engine.state, self._inputs.samples
        begin = 0 if self._passed is None else self._passed.section.begin
        active = state.active
        done = state.iteration[active] if active.any() else state.iteration.max(keepdims=True)
        # Samples complete iterations one after another: an iteration is reported once the slowest has completed it.
        while len(self.history) < done.min():
            rows = self._increments.pop(len(self.history) + 1, None)
            # Ctrl-C may come between an iteration and its report.
            moved = np.full(state.residuals.shape, np.nan) if rows is None else rows.table()
            wanted = self._options.callback is not None or not self._options.summary
            if self._passed is not None and wanted:
                moved = self._passed.spread(moved)
            rounds, evaluations = engine.spent
            report = IterationReport(
                iteration=len(self.history) + 1,
                increments=torch.from_numpy(moved if samples else moved[0]),
                frontier=torch.from_numpy(state.frontier.copy()) if samples else begin + int(state.frontier[0]),
                rounds=rounds + (before.rounds if before else 0),
                evaluations=evaluations + (before.evaluations if before else 0),
            )
            summary = report.summary(self._inputs.grid.num_slices)
            self.history.append(summary if self._options.summary else report)
            largest = float(torch.as_tensor(report.increment, dtype=torch.float64).max())
            bar.update(begin + int(state.frontier.min()), report.iteration, report.rounds, largest)
            halt |= self._options.callback is not None and _stops(self._options.callback(report))
        return halt

    # --- reopening --------------------------------------------------------------------------------------------------

    def _doubtful(self, engine: Engine) -> Bools:
        """Systems that have ended with an error above the tolerance, and continue from the last proven boundary."""
        for system in engine.state.doubtful.nonzero()[0].tolist():
            if self._can_look(engine, system):  # estimates are cautious, and often the defects do not bear them out
                error, allowed = evaluate(engine, system, cleared)
                if error <= allowed:
                    engine.state.end(system, Status.VERIFIED if self._options.verify else Status.CONVERGED)
        doubtful = engine.state.doubtful
        return doubtful | (self._verify(engine) if self._options.verify else np.zeros_like(doubtful))

    def _can_look(self, engine: Engine, system: int) -> bool:
        """Whether accepted boundaries can be evaluated without more rounds than the sequential run takes.

        A run that has been reopened may take more in any case.
        """
        per_step, counts = engine.fine.method.integrator.traits.evaluations, engine.fine.method.mesh.count
        if per_step is None or not engine.holds_all:
            return False
        rounds = engine.counters.rounds + (self._before.rounds if self._before else 0)
        looks = -(-int(len(counts) - engine.state.proven[system]) // engine.iterates.layout.width)
        most = int(counts.sum()) * per_step
        return rounds > most or rounds + looks * int(counts.max()) * per_step <= most

    def _verify(self, engine: Engine) -> Bools:
        """Evaluates all accepted boundaries; returns the systems whose defects add up to too much."""
        failed = np.zeros_like(engine.active)
        for system, status in enumerate(engine.state.statuses):
            if status is Status.CONVERGED:
                error, allowed = evaluate(engine, system, verified)
                failed[system] = not error <= allowed
                if not failed[system]:
                    engine.state.end(system, Status.VERIFIED)
        return failed

    def _reopened(self, engine: Engine, systems: Bools, times: int, method: Method) -> Engine:
        """A new engine that reopens some systems of an old one, from the last proven boundary.

        Their states are the first iterates now, so that few iterations are needed. The error record stays.
        """
        engine.finish()  # until here each process has only a part of the states
        at = capture(engine, engine.iterates.states, self._pending(), self._inputs.identity)
        state = at.state.copy()
        state.status[systems] = RUNNING
        state.frontier[systems] = state.proven[systems]
        # Without earlier iterates: accepted boundaries have not moved with the others.
        engine.close()
        self._before, self._started = self._cost(engine), time.perf_counter()
        record = self._recorder.record() if self._recorder else None
        new = self._engine(method, First(at.u, shifted=False))
        restore(new, replace(at, state=state, earlier=None), method.max_iterations)
        reopen(new.stopping, systems, times)
        self._record(new, record)
        return new

    # --- what comes of it -------------------------------------------------------------------------------------------

    def _salvaged(self, engine: Engine, error: BaseException) -> Solution | None:
        """Attaches the partial solution to an error. If that fails too, the first error is raised."""
        try:
            solution = self._solution(engine)
        except Exception as second:
            add_note(error, f"What was computed before this cannot be put together: {type(second).__name__}: {second}")
            return None
        attach(error, solution)
        return solution

    def _solution(self, engine: Engine) -> Solution:
        stats, pending, dense = self._cost(engine), self._pending(), self._options.dense
        passed = None if self._passed is None else (self._passed.section.begin, self._passed.fill(engine))
        return solution_of(engine, self._inputs, dense, self.history, stats, self._recorder, pending, passed)

    def _cost(self, engine: Engine) -> Stats:
        fine, coarse = engine.fine.evaluations, engine.coarse_evaluations
        return cost(engine.counters, fine, coarse, self._started, self._before)

    def _pending(self) -> dict[int, Floats]:
        """Increments of the iterations that are not in the history yet, ``(M, N)`` each."""
        return {key: moved.table() for key, moved in self._increments.items()}


def _stops(answer: Any) -> bool:
    """Whether the result of a callback stops the run.

    Raises:
        TypeError: It is neither ``None`` nor true or false.
    """
    if answer is None or isinstance(answer, bool):
        return bool(answer)
    try:
        one = np.asarray(answer.detach().cpu() if isinstance(answer, torch.Tensor) else answer)
        if one.size == 1 and one.dtype.kind in "biuf":
            return bool(one)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(
        f"the callback returned {brief(answer)}; expected True to stop the run, or None to go on: end it with "
        "return True, or without a return"
    )
