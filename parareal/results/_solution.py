"""What comes out of a run: states, how it ended in a sentence, what each iteration did and what all of it cost."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal.results._history import History
from parareal.results._record import Record
from parareal._core.trees import State

if TYPE_CHECKING:
    from parareal.persistence._resume import Standing


class Status(Enum):
    """How a run ended; the value is a sentence that says what to do about it."""

    VERIFIED = (
        "The stopping rule was met, and verified: the defects of all slice boundaries, evaluated after it was met, add "
        "up to less than the tolerance."
    )
    CONVERGED = "The stopping rule was met: every slice has settled to within the tolerance."
    FINAL = "Every slice is final: the result is the sequential solution itself."
    ITERATIONS = "The iterations asked for were made; no tolerance was met, or none was asked for."
    STOPPED = "The callback stopped the run: the solution holds the iterates computed up to then."
    MAX_ITERATIONS = (
        "max_iterations was reached before the tolerance was met: allow more iterations, loosen the tolerance, or use "
        "a more accurate coarse propagator."
    )
    NONFINITE = (
        "The fine propagator itself gave NaN or Inf from a final state, so the sequential run fails there as well: "
        "use smaller fine steps or another method, and look at the right-hand side near the time named by the frontier."
    )
    UNSOLVED = (
        "Newton's method did not solve the equations of an implicit step of the fine propagator, from a final state, "
        "so the sequential run fails there as well: use smaller fine steps, allow more Newton iterations, or look at "
        "the right-hand side near the time named by the frontier."
    )
    UNCERTAIN = (
        "Slices were accepted whose errors have grown beyond the tolerance since: keep the states of all slice "
        "boundaries (dense=True), so that the run can go back to them, or ask for a smaller tolerance."
    )
    INTERRUPTED = "An exception ended the run: the solution holds the iterates computed before it."

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met or every slice is final."""
        return self in (Status.CONVERGED, Status.FINAL, Status.VERIFIED)

    @property
    def failed(self) -> bool:
        """Whether the run ended without what was asked of it."""
        return self in (
            Status.MAX_ITERATIONS,
            Status.NONFINITE,
            Status.UNSOLVED,
            Status.UNCERTAIN,
            Status.INTERRUPTED,
        )

    @staticmethod
    def worst(statuses: tuple[Status, ...]) -> Status:
        """That of a batch whose samples ended so: the sequential solution itself is the best that there is."""
        order = [Status.FINAL, *(status for status in Status if status is not Status.FINAL)]
        return max(statuses, key=order.index)


@dataclass(frozen=True)
class Stats:
    """What a run cost.

    Attributes:
        rounds: Sequential calls of the right-hand side, the unit of latency: all lanes that could advance together
            count as one, however the executor went about it.
        evaluations: Lanes times rounds, the unit of work.
        fine_evaluations: Those of the fine propagator.
        coarse_evaluations: Those of the correction, directional derivatives included; a first stage that both share is
            counted here, once.
        calls: Calls that the executor made: equal to ``rounds`` unless it went lane by lane or in chunks, or a round
            asked for two functions, as it does where a `Propagator` is one of fine and coarse.
        max_lanes: Most lanes in one round.
        wall_time: Seconds.
    """

    rounds: int
    evaluations: int
    fine_evaluations: int
    coarse_evaluations: int
    calls: int
    max_lanes: int
    wall_time: float

    def to_dict(self) -> dict[str, int | float]:
        """All figures by name."""
        return asdict(self)

    def after(self, before: Stats | None) -> Stats:
        """What both cost together."""
        if before is None:
            return self
        together = {name: value + getattr(before, name) for name, value in asdict(self).items()}
        return Stats(**{**together, "max_lanes": max(self.max_lanes, before.max_lanes)})


@dataclass(frozen=True, eq=False)
class Solution:
    """The outcome of `solve` or `serial`.

    Attributes:
        us: States at the slice edges: the tree of the initial state, leaves ``(N + 1, *state)``. Edges that a run cut
            short had not reached hold NaN. With ``dense=False`` the first and the last edge alone, ``(2, *state)``; if
            the run was cut short the last is that of its frontier, at the time in ``ts``, and with ``samples=True`` NaN
            for samples that were not at the end.
        ts: Their times, float64, shape ``(N + 1,)``, or ``(2,)``.
        status: How the run ended; ``status.value`` is a sentence. With ``samples=True`` the worst of all samples.
        iterations: Iterations made; with ``samples=True`` one number for each sample, int64, shape ``(B,)``.
        history: One report for each iteration, a `History`: ``history.to_dict()``, ``history.to_frame()``. With
            ``dense=False`` reports keep the largest increment alone; see ``solve(..., history=...)``.
        stats: Rounds, evaluations and wall time.
        error_estimate: Estimated distance of the final state from that of `serial`, in the norm of the `Tolerance` and
            its own units; 0 where the result is the sequential solution itself, NaN where nothing is known.
            With ``samples=True`` one number for each sample, float64, shape ``(B,)``. It rests on what the iterates
            show and on the assumption that relative errors are carried on as they are: it is no bound.
        residuals: Relative defect of every slice's right boundary, |F(U_n) - U_{n+1}| / |U_{n+1}|, as it was last seen
            in the run, in the norm of the stopping rule: float64, shape ``(N,)``, or ``(B, N)`` with ``samples=True``.
            Zero where the boundary is final, NaN where none was ever computed. The state that is returned is one move
            better than the one that was looked at, but for ``verify=True``, where it is that state itself.
        iterates: With ``keep="all"`` every iterate and what the propagators made of them, a `Record`; else ``None``.
        standing: What ``solve(..., resume=solution)`` goes on from; ``None`` with ``dense=False`` and from `serial`.
        sample_status: With ``samples=True`` the status of each sample, else ``None``.
    """

    us: State
    ts: Tensor
    status: Status
    iterations: int | Tensor
    history: History
    stats: Stats
    sample_status: tuple[Status, ...] | None = None
    error_estimate: float | Tensor | None = None
    residuals: Tensor | None = None
    iterates: Record | None = None
    standing: Standing | None = field(default=None, repr=False)

    @property
    def u(self) -> State:
        """The state at the end of the grid."""
        return trees.map(lambda leaf: leaf[-1], self.us)

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met or every slice is final; with ``samples=True`` for all samples."""
        return all(s.converged for s in self.sample_status) if self.sample_status else self.status.converged

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it to one file, in the format of safetensors, which holds no code.

        The file appears, or takes the place of an older one, once it is complete. Tensors are written as they are, bit
        for bit, without their graphs.

        Args:
            path: Where to, such as ``"run.safetensors"``.

        Raises:
            TypeError: The state holds something other than tuples, lists and dicts with strings as keys.
            FileNotFoundError: There is no folder of that name to write to.
            ValueError: It is the name of a folder.
            ImportError: safetensors is not installed.
        """
        from parareal.results import _tensor_file

        _tensor_file.save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Solution:
        """Reads what `save` wrote.

        Args:
            path: The file.
            device: Where its states shall lie.

        Raises:
            ValueError: The file is damaged, or none that `save` wrote.
            FileNotFoundError: There is none.
            ImportError: safetensors is not installed.
        """
        from parareal.results import _tensor_file

        return _tensor_file.load(path, device)

    def __repr__(self) -> str:
        slices = self.history[-1].slices if self.history else len(self.ts) - 1
        made: Any = self.iterations if isinstance(self.iterations, int) else self.iterations.tolist()
        return (
            f"Solution({self.status.name}, slices={slices}, iterations={made}, rounds={self.stats.rounds}, "
            f"evaluations={self.stats.evaluations}, wall_time={self.stats.wall_time:.3g}s)"
        )


class SolveError(RuntimeError):
    """A run did not reach what was asked; ``error.solution`` holds what it did compute.

    Attributes:
        solution: The partial `Solution`.
    """

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        super().__init__(f"{solution.status.value} Pass throw=False to get the partial solution instead. {solution!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.solution,)
