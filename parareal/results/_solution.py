"""The result of a run: states, status, history and cost."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.described import brief, ends
from parareal._core.trees import State
from parareal.results import _tensor_file
from parareal.results._adjoint_report import AdjointReport
from parareal.results._history import History, unpack_history
from parareal.results._record import Record, pack_record, unpack_record
from parareal.results._snapshot import Snapshot, pack_snapshot, unpack_snapshot
from parareal.results._stats import Stats as Stats
from parareal.results._status import Status
from parareal.results._tensor_file import get_state, put, put_state


@dataclass(frozen=True, eq=False)
class Solution:
    """The outcome of `solve` or `serial`.

    Attributes:
        us: States at the slice boundaries: the tree of the initial state, leaves ``(N + 1, *state)``, NaN where an
            interrupted run has none. With ``dense=False`` only at the first and the last, ``(2, *state)``; if the run
            was interrupted, the last is that of its frontier, at the time in ``ts``, and with ``samples=True`` NaN for
            samples that had not reached the end.
        ts: Their times, float64, shape ``(N + 1,)``, or ``(2,)``.
        status: How the run ended; ``status.value`` is a sentence. With ``samples=True`` the worst of all samples.
        iterations: Iterations made; with ``samples=True`` one number for each sample, int64, shape ``(B,)``.
        history: One report for each iteration, a `History`: ``history.to_dict()``, ``history.to_frame()``. With
            ``dense=False`` reports keep the largest increment alone; see ``solve(..., history=...)``.
        stats: Rounds, evaluations and wall time.
        error_estimate: Estimated distance of the final state from that of `serial`, in the norm of the `Tolerance` and
            its own units; 0 where the result is the sequential solution itself, NaN if unknown.
            With ``samples=True`` one number for each sample, float64, shape ``(B,)``. It is estimated from the iterates
            and assumes that relative errors do not shrink on their way: it is not a bound.
        residuals: Relative defect of every slice's right boundary, |F(U_n) - U_{n+1}| / |U_{n+1}|, as last measured
            in the run, in the norm of the stopping rule: float64, shape ``(N,)``, or ``(B, N)`` with ``samples=True``.
            Zero where the boundary is final, NaN where none was ever computed. The state that is returned is one update
            better than the measured one, except with ``verify=True``, which measures the returned state.
        iterates: With ``keep="all"`` every iterate and its solutions, a `Record`; else ``None``.
        standing: What ``solve(..., resume=solution)`` continues; ``None`` with ``dense=False`` and from `serial`.
        sample_status: With ``samples=True`` the status of each sample, else ``None``.
        serial_rounds: Rounds of the serial run; ``None`` if their number varies.
        adjoint: With ``gradients="adjoint"`` the cost of the last backward pass, else ``None``.
        serial_time: No less than the seconds that the serial run would take: the mean time of a round, as timed in this
            run with the fewest lanes, times ``serial_rounds`` and one more for each slice. ``None`` where that is not
            known: if ``serial_rounds`` is not, with few rounds, from a `RankPipeline`, and for states on a GPU, where
            calls return before they are done.
        failure: Why and at which time an `Adaptive` fine propagator could not go on from a final state, if so: its step
            size underflowed, the state was not finite, or ``max_num_steps`` was reached.
        continuous: What makes `dense`; ``None`` with ``dense=False`` and from a file.
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
    standing: Snapshot | None = field(default=None, repr=False)
    serial_rounds: int | None = None
    adjoint: AdjointReport | None = field(default=None, repr=False)
    serial_time: float | None = None
    failure: str | None = None
    continuous: Callable[[], Any] | None = field(default=None, repr=False)

    @property
    def u(self) -> State:
        """The state at the end of the grid."""
        return trees.map(lambda leaf: leaf[-1], self.us)

    def dense(self) -> Any:
        """The solution at all times of its interval, as a function of a time or a tensor of times.

        An `Adaptive` fine propagator has an interpolant of its own; its slices are stepped once more, all at once, as
        are those of fixed-step methods, for cubics between their points. Others have cubics between slice boundaries,
        and SDEs and `Propagator` straight lines.

        Raises:
            ValueError: The run kept no states (``dense=False``), the solution comes from a file, or it has states that
                are not finite.

        Examples:
            >>> import torch, parareal as pr
            >>> grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4)
            >>> sol = pr.serial(pr.ODE(lambda t, u: -u), torch.ones(1), grid, fine=pr.Adaptive())
            >>> round(sol.dense()(0.3).item(), 4)
            0.7408
        """
        if self.continuous is None:
            raise ValueError(
                "this solution has no states between its ends, or comes from a file; expected one of solve(..., "
                "dense=True) or of serial, in the process that made it"
            )
        if not all(bool(torch.isfinite(leaf).all()) for leaf in trees.leaves(self.us)):
            raise ValueError("this solution has states that are not finite; expected a run that reached its end")
        return self.continuous()

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met or every slice is final; with ``samples=True`` for all samples."""
        return all(s.converged for s in self.sample_status) if self.sample_status else self.status.converged

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes all of it to one file, in the format of safetensors, which holds no code.

        The file appears, or replaces an older one, once it is complete. Tensors are written as they are, bit
        for bit, without their graphs.

        Args:
            path: The file, such as ``"run.safetensors"``.

        Raises:
            TypeError: The state holds something other than tuples, lists and dicts with strings as keys.
            FileNotFoundError: There is no folder of that name to write to.
            ValueError: It is the name of a folder.
            OSError: It cannot be written, for example because the disk is full; an older file stays.
            ImportError: safetensors is not installed.
        """
        save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Solution:
        """Reads what `save` wrote.

        Args:
            path: The file.
            device: The device for its states.

        Raises:
            ValueError: The file is damaged, or was not written by `save`.
            FileNotFoundError: There is no such file.
            ImportError: safetensors is not installed.
        """
        torch.empty(0, device=device)  # raises if there is no such device, before the file is read
        packed, tensors = _tensor_file.load(path)
        try:
            return _unpack(packed, tensors, torch.device(device))
        except Exception as error:  # a file can have the right digest, and not what `save` puts in
            raise _tensor_file.damaged(path, f"{type(error).__name__}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Without what makes `dense`, which is made of the caller's functions."""
        return {key: value for key, value in vars(self).items() if key != "continuous"}

    def __repr__(self) -> str:
        slices = self.history[-1].slices if self.history else len(self.ts) - 1
        made = self.iterations if isinstance(self.iterations, int) else ends(self.iterations.tolist())
        return (
            f"Solution({self.status.name}, slices={slices}, iterations={made}, rounds={self.stats.rounds}, "
            f"evaluations={self.stats.evaluations}, wall_time={self.stats.wall_time:.3g}s)"
        )

    def __str__(self) -> str:
        lines = [repr(self), self.status.value, f"us: {brief(self.us)}"]
        if self.failure is not None:
            lines.append(f"What happened: {self.failure}")
        serial = self.serial_rounds
        if serial is not None and self.stats.rounds > serial:
            lines.append(
                f"More rounds than the serial run, which takes {serial}: parallel in time gains nothing here. Take "
                "pr.serial; schedule=pr.Wavefront(), which takes no more rounds; or a better coarse propagator"
            )
        elif self.serial_time is not None and self.stats.wall_time > self.serial_time:
            lines.append(
                f"More time than the serial run, which takes {self.serial_time:.3g}s or less, as timed in "
                "this run: parallel in time gains nothing on this device. Take "
                "pr.serial; or fewer lanes, schedule=pr.Wavefront(ahead=0) or pr.Windowed(width); and see pr.plan"
            )
        return "\n".join(lines)


class SolveError(RuntimeError):
    """A run did not reach its tolerance; ``error.solution`` is the partial result.

    Attributes:
        solution: The partial `Solution`.
    """

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        why = "" if solution.failure is None else f" What happened: {solution.failure}."
        rest = "" if solution.status is Status.NO_EVENT else " Pass throw=False to get the partial solution instead."
        super().__init__(f"{solution.status.value}{why}{rest} {solution!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.solution,)


def save(solution: Solution, path: str | os.PathLike[str], previous: Path | None = None) -> None:
    """See `Solution.save`; a file that is replaced is kept as ``previous``."""
    tensors: dict[str, Tensor] = {}
    packed = _pack(solution, tensors)
    _tensor_file.save(packed, tensors, path, previous)


def _pack(solution: Solution, tensors: dict[str, Tensor]) -> dict[str, Any]:
    history = solution.history
    put(tensors, "ts", solution.ts)
    if history:
        full = [report.kept for report in history if report.kept is not None]
        if full:
            put(tensors, "history.increments", torch.stack(full))
        if len(full) < len(history):  # summaries
            largest = [torch.as_tensor(report.increment, dtype=torch.float64) for report in history]
            put(tensors, "history.increment", torch.stack(largest))
        put(tensors, "history.frontier", torch.stack([torch.as_tensor(report.frontier) for report in history]))
    put(tensors, "iterations", torch.as_tensor(solution.iterations))
    if solution.error_estimate is not None:
        put(tensors, "error_estimate", torch.as_tensor(solution.error_estimate, dtype=torch.float64))
    if solution.residuals is not None:
        put(tensors, "residuals", solution.residuals)
    return {
        "us": put_state(tensors, "us", solution.us),
        "status": solution.status.name,
        "sample_status": None if solution.sample_status is None else [s.name for s in solution.sample_status],
        "history": [[report.iteration, report.rounds, report.evaluations] for report in history],
        "summaries": [[i, report.slices] for i, report in enumerate(history) if report.kept is None],
        "stats": solution.stats.to_dict(),
        "iterates": None if solution.iterates is None else pack_record(solution.iterates, tensors),
        "serial_rounds": solution.serial_rounds,
        "serial_time": solution.serial_time,
        "failure": solution.failure,
        "standing": None if solution.standing is None else pack_snapshot(solution.standing, tensors),
    }


def _unpack(packed: Any, tensors: dict[str, Tensor], device: torch.device) -> Solution:
    samples = packed["sample_status"]
    iterations, history = tensors["iterations"], unpack_history(packed, tensors)
    us, estimate = get_state(tensors, "us", packed["us"], device), tensors.get("error_estimate")
    return Solution(
        us=us,
        ts=tensors["ts"],
        status=Status[packed["status"]],
        iterations=int(iterations) if iterations.ndim == 0 else iterations,
        history=history,
        stats=Stats(**packed["stats"]),
        sample_status=None if samples is None else tuple(Status[name] for name in samples),
        error_estimate=float(estimate) if estimate is not None and estimate.ndim == 0 else estimate,
        residuals=tensors.get("residuals"),
        iterates=None if packed["iterates"] is None else unpack_record(packed["iterates"], tensors, device),
        standing=None if packed["standing"] is None else unpack_snapshot(packed["standing"], tensors, device, us),
        serial_rounds=packed.get("serial_rounds"),  # missing in files of older versions, like the next
        serial_time=packed.get("serial_time"),
        failure=packed.get("failure"),  # likewise
    )
