"""A file that a run is written to after each iteration, and from which the same call continues after a crash."""

from __future__ import annotations

import os
import warnings
from typing import Any

from parareal._core.checks import level_outside
from parareal.executors._base import Executor
from parareal.results import _tensor_file
from parareal.results._solution import Solution, save


class Checkpoint:
    """Where a run is saved after each iteration.

    There is a complete file at any time: the new one is written beside the old one, which is renamed before it is
    replaced.

    Attributes:
        iterations: Iterations in the history of what was saved last.

    Args:
        path: The file; the one before it is kept as ``path + ".previous"``.
        dense: Whether the run keeps the states at all boundaries.
        executor: How lanes are evaluated: of several processes one writes and reads the file.

    Raises:
        ValueError: The run does not keep what it would continue from.
    """

    def __init__(self, path: str | os.PathLike[str], dense: bool, executor: Executor) -> None:
        self._executor = executor
        self._loaded: tuple[Any, ...] | None = None
        self._path, self._keep_previous, self.iterations = _tensor_file.as_path(path), False, 0
        self._previous = self._path.with_name(self._path.name + ".previous")
        if not dense:
            raise ValueError(
                "checkpoint came with dense=False, which keeps no states to continue from; expected dense=True"
            )

    def load(self) -> Solution | None:
        """What was saved last, or ``None`` where nothing was.

        Raises:
            ValueError: There are files, but none that can be read; or it is a folder.
            FileNotFoundError: There is no folder to write to.
        """
        solution = self._executor.shared(self._read)
        self.iterations = 0 if solution is None else len(solution.history)
        self._loaded = None if solution is None else _end(solution)
        return solution

    def _read(self) -> Solution | None:
        _tensor_file.check_place(self._path)
        damaged: ValueError | None = None
        for path in (self._path, self._previous):
            if not path.exists():
                continue
            try:
                solution = Solution.load(path)
            except ValueError as error:
                damaged = damaged or error
                continue
            if damaged is not None:
                self._keep_previous = True
                warnings.warn(
                    f"{damaged} Continuing from {str(path)!r} instead, which is an iteration older.",
                    stacklevel=level_outside(),
                )
            return solution
        if damaged is not None:
            raise ValueError(f"the checkpoint cannot be continued, and was left as it is: {damaged}") from damaged
        return None

    def finish(self, solution: Solution) -> None:
        """Writes the solution of the run, unless it had ended already when it was loaded."""
        if self._loaded != _end(solution):
            self.save(solution)

    def save(self, solution: Solution) -> None:
        """Writes the solution; what was there before becomes the previous file."""
        if self._executor.leads:
            save(solution, self._path, None if self._keep_previous else self._previous)
        self._keep_previous, self.iterations = False, len(solution.history)


def _end(solution: Solution) -> tuple[Any, ...]:
    """How a run has ended, and how far it has come: another one that goes on from it differs in this."""
    return solution.status, solution.sample_status, len(solution.history), solution.stats.rounds
