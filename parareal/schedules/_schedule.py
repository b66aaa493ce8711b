"""A schedule decides when lanes start: of those whose input is known, which ones start now.

It sees the progress of each slice (`Progress`), never a state, and returns two masks. The engine does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from parareal._core.arrays import Bools, Ints
from parareal._core.checks import check_count, described
from parareal._core.trees import State
from parareal.executors._base import Executor
from parareal.grid._mesh import Where

Guess: TypeAlias = Callable[[Where, State, tuple[Any, ...]], State]

AHEAD = 6
"""The bound on speculative work by default; ``benchmarks/schedules.py`` prints the cost of others."""


@dataclass
class Progress:
    """The progress of M systems of N slices; with a batch each sample is a system, otherwise M is 1.

    Attributes:
        fine_ready: ``(M, N)``: the left boundary has an iterate from which no fine lane has started yet.
        fine_busy: ``(M, N)``: a fine lane is active.
        coarse_ready: ``(M, N)``: the left boundary has an iterate from which no coarse lane has started yet.
        coarse_busy: ``(M, N)``: a coarse lane is active.
        frontier: ``(M,)``: boundaries ``0 ... frontier`` are final.
        iteration: ``(M,)``: iterations completed.
        coarse: Whether the correction has a coarse propagator.
        ahead: ``(M, N)``: by how many iterations the left boundary is ahead of the end of the
            grid; ``None`` means 0 everywhere.
    """

    fine_ready: Bools
    fine_busy: Bools
    coarse_ready: Bools
    coarse_busy: Bools
    frontier: Ints
    iteration: Ints
    coarse: bool = False
    ahead: Ints | None = None


class Schedule(ABC):
    """Chooses which ready lanes start.

    Attributes:
        width: Most slices computed at a time, from the frontier on; ``None`` for all.
        guess: First iterates in place of the correction's own; see `Correction.guess_run`.
    """

    width: int | None = None
    guess: Guess | None = None

    @abstractmethod
    def admit(self, progress: Progress) -> tuple[Bools, Bools]:
        """Masks ``(M, N)`` of the fine and of the coarse lanes that start now, each a part of those that are ready.

        Called whenever the progress has changed. If a system has ready lanes and no active ones, some must start.
        """

    def joined(self, executor: Executor) -> AbstractContextManager[Executor]:
        """The executor of one run of this schedule, as a context manager."""
        return executor.joined()


def admitted(schedule: Schedule, progress: Progress) -> tuple[Bools, Bools]:
    """Calls `Schedule.admit` and checks the result: two masks ``(M, N)`` of lanes that are ready."""
    masks: Any = schedule.admit(progress)
    if not isinstance(masks, tuple | list) or len(masks) != 2:  # pyright: ignore[reportUnknownArgumentType]
        raise TypeError(
            f"admit of {schedule!r} returned {described(masks)}; expected two masks, return fine, coarse, such as "
            "progress.fine_ready, progress.coarse_ready"
        )
    fine, coarse = masks  # pyright: ignore[reportUnknownVariableType]
    return _checked(schedule, "fine", fine, progress.fine_ready), _checked(
        schedule, "coarse", coarse, progress.coarse_ready
    )


def _checked(schedule: Schedule, kind: str, mask: Any, ready: Bools) -> Bools:
    if mask is ready:
        return ready
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != ready.shape:
        shape = f" of shape {mask.shape} and {mask.dtype}" if isinstance(mask, np.ndarray) else ""
        raise TypeError(
            f"admit of {schedule!r} returned {described(mask)}{shape} for the {kind} lanes; expected a numpy array of "
            f"bool of shape {ready.shape}, made from progress.{kind}_ready"
        )
    if (mask & ~ready).any():
        system, n = (int(index[0]) for index in (mask & ~ready).nonzero())
        where = f"slice {n}" + (f" of sample {system}" if len(ready) > 1 else "")
        raise ValueError(
            f"admit of {schedule!r} admitted the {kind} lane of {where}, which is not ready; expected a part of the "
            f"lanes that are: return mask & progress.{kind}_ready"
        )
    return mask


@dataclass(frozen=True)
class Barrier(Schedule):
    """The classical order: all fine slices together, then one coarse sweep.

    With one coarse step of a one-evaluation method, S fine steps a slice, N slices and k iterations it takes
    N + k (N + S - 1) - k (k + 1) / 2 rounds. Each sample of a batch keeps its own barrier.
    """

    def admit(self, progress: Progress) -> tuple[Bools, Bools]:
        """Coarse lanes while no fine lane is active, fine lanes once the sweep has ended."""
        solving = progress.fine_busy.any(axis=1, keepdims=True)
        sweeping = (progress.coarse_ready | progress.coarse_busy).any(axis=1, keepdims=True)
        return progress.fine_ready & ~(sweeping | solving), progress.coarse_ready & ~solving


@dataclass(frozen=True)
class Wavefront(Schedule):
    """Pipelined Parareal: each slice's next iteration starts as soon as its input exists.

    Coarse and fine lanes of several iterations share the rounds. With one coarse step of a one-evaluation method, S
    fine steps a slice, N slices and k iterations it takes k S + N - k rounds; for k = N that is the N S of the
    sequential run, and it never takes more, whatever ``ahead`` is: the lane from the last final state never waits.

    Lanes that start before it is known whether they will be needed are speculative work, and count as evaluations like
    any other. While the first iteration crosses N slices, those on the left have time for N / (S - 1) more, which are
    wasted if the run ends earlier: most with short slices and quick convergence. ``ahead`` bounds this: a run
    that takes no more iterations than ``ahead + 1`` takes the rounds of an unbounded one, and its fine evaluations are
    at most ``(k + ahead) / k`` times those of `Barrier`, and one more a round, of the slice at the frontier. A run of
    more iterations takes more rounds than unbounded, and its final states may overtake iterates that were held back.

    Where every coarse lane takes fewer rounds than the fine lane beside it, each iteration moves every boundary as
    `Barrier` does. When the run ends, boundaries on the left may already be one iterate ahead; where coarse lanes
    are as slow as fine ones, a final state may overtake an iterate, whose results are then dropped.

    Args:
        ahead: By how many iterations the slices on the left may be ahead of the end of the grid; 0 for the lanes of
            `Barrier`, ``None`` for no bound.

    Raises:
        TypeError: ``ahead`` is not an int.
        ValueError: ``ahead`` is negative.

    Source:
        M. Minion, A hybrid parareal spectral deferred corrections method, Comm. App. Math. Comp. Sci. 5 (2010);
        E. Aubanel, Scheduling of tasks in the parareal algorithm, Parallel Computing 37 (2011); on diffusion models,
        Self-Refining Diffusion Samplers (arXiv 2412.08292).
    """

    ahead: int | None = None

    def __post_init__(self) -> None:
        if self.ahead is not None:
            check_count(self.ahead, "ahead", 0)

    def admit(self, progress: Progress) -> tuple[Bools, Bools]:
        """Everything that is ready and not too far ahead; the slice at the frontier always."""
        p = progress
        if self.ahead is None or p.ahead is None:
            return p.fine_ready, p.coarse_ready
        front = np.arange(p.fine_ready.shape[1]) == p.frontier[:, None]
        # A fine lane makes the next iterate of its right boundary, a coarse lane the one that its left boundary has.
        return p.fine_ready & (front | (p.ahead <= self.ahead)), p.coarse_ready & (front | (p.ahead <= self.ahead + 1))
