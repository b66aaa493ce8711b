"""The history of a run: one report for each iteration, with the increments of all slices or only the largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core.arrays import Floats
from parareal.results._tensor_file import number


@dataclass(frozen=True, eq=False, slots=True, init=False, repr=False)
class IterationReport:
    """One iteration, as the callback sees it and the history keeps it.

    Attributes:
        iteration: Counted from 1.
        increments: How far each slice's right boundary moved, in the norm of the stopping rule and its own units,
            float64, shape ``(N,)``, or ``(B, N)`` with ``samples=True``. Zero where nothing was computed any more; NaN
            or Inf where the new iterate was not finite, or was the first one. A summary does not have them (see
            `solve`), and reading them is an `AttributeError` then.
        increment: The largest of them, those that are NaN left out; NaN where all are. With ``samples=True`` one number
            for each sample, float64, shape ``(B,)``.
        slices: Number of slices, N.
        frontier: Number of slices known final from the left, or with ``samples=True`` one number for each sample,
            int64, shape ``(B,)``.
        rounds: Rounds since the start of the run.
        evaluations: Evaluations since the start of the run.
        kept: The increments, or ``None`` in a summary.
    """

    iteration: int
    frontier: int | Tensor
    rounds: int
    evaluations: int
    increment: float | Tensor
    slices: int
    kept: Tensor | None

    def __init__(
        self,
        iteration: int,
        increments: Tensor | None,
        frontier: int | Tensor,
        rounds: int,
        evaluations: int,
        increment: float | Tensor = float("nan"),
        slices: int = 0,
    ) -> None:
        if increments is not None:
            increment, slices = _largest(increments), increments.shape[-1]
        values = {
            "iteration": iteration,
            "frontier": frontier,
            "rounds": rounds,
            "evaluations": evaluations,
            "increment": increment,
            "slices": slices,
            "kept": increments,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def increments(self) -> Tensor:
        """See the class."""
        if self.kept is None:
            raise AttributeError(
                "this run has kept a summary of its history: report.increment, the largest, and not those of all "
                'slices; expected solve(..., history="full"), or a callback, which sees them'
            )
        return self.kept

    def __repr__(self) -> str:
        cells = ", ".join(f"{name}={cell}" for name, cell in zip(_COLUMNS, self.cells(), strict=True))
        return f"IterationReport({cells})"

    def cells(self) -> tuple[str, ...]:
        """A short text; of a batch of samples the largest increment and the smallest frontier."""
        increment, frontier = self.increment, self.frontier
        if isinstance(increment, Tensor):
            increment = float(np.fmax.reduce(increment.numpy(), initial=np.nan))
        if isinstance(frontier, Tensor):
            frontier = int(frontier.min()) if len(frontier) else self.slices
        return str(self.iteration), str(frontier), str(self.rounds), str(self.evaluations), f"{increment:.3g}"

    def summary(self, slices: int) -> IterationReport:
        """The same without the increments of the slices, of which there are as many as given."""
        figures = (self.frontier, self.rounds, self.evaluations, self.increment, slices)
        return IterationReport(self.iteration, None, *figures)


def _largest(increments: Tensor) -> float | Tensor:
    """The largest, (of each sample), NaN only where there is nothing else."""
    largest = np.fmax.reduce(increments.numpy(), axis=-1, initial=np.nan)
    return torch.from_numpy(largest) if increments.ndim == 2 else float(largest)


class History(tuple[IterationReport, ...]):
    """Reports of all iterations, one after another: a tuple that becomes a dict or a pandas frame."""

    __slots__ = ()

    def __repr__(self) -> str:
        count = len(self)
        chosen = self if count <= SHOWN else (*self[: SHOWN // 2], *self[-(SHOWN // 2) :])
        rows = [_COLUMNS, *(report.cells() for report in chosen)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
        lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
        if count > SHOWN:
            lines.insert(1 + SHOWN // 2, f"... {count - len(chosen)} more ...")
        samples = isinstance(self[0].increment, Tensor) if self else False
        of = ", of each the sample that is furthest behind" if samples else ""
        return "\n".join([f"History of {count} iteration{'' if count == 1 else 's'}{of}", *(lines if count else [])])

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns with an entry for each iteration, of plain numbers and lists, as JSON takes them.

        ``iteration``, ``increments``, ``increment``, ``frontier``, ``rounds`` and ``evaluations``. ``increments`` is a
        list of lists over the slices, or of ``None`` where a summary was kept; with ``samples=True`` ``frontier`` and
        ``increment`` are lists over the samples, and ``increments`` lists of such lists.
        """

        def plain(value: Any) -> Any:
            return value.tolist() if isinstance(value, Tensor) else value

        columns = {name: [plain(getattr(report, name)) for report in self] for name in _COLUMNS}
        return {"iteration": columns.pop("iteration"), "increments": [plain(each.kept) for each in self], **columns}

    def to_frame(self) -> Any:
        """A pandas frame with a row for each iteration and slice, and with ``samples=True`` for each sample.

        Columns ``iteration``, ``sample`` (with ``samples=True``), ``slice``, ``increment``, ``final`` (whether the
        slice was final or accepted after the iteration), ``rounds`` and ``evaluations``.

        Raises:
            ImportError: pandas is not installed.
            ValueError: The history is a summary, which knows no slices.
        """
        try:
            import pandas  # pyright: ignore
        except ImportError as error:
            raise ImportError(
                "history.to_frame() needs pandas: pip install 'torch-parareal[pandas]', or take history.to_dict()"
            ) from error
        if any(report.kept is None for report in self):
            raise ValueError(
                "history.to_frame() has a row for each slice, and this run has kept a summary of its history; expected "
                'solve(..., history="full"), or take history.to_dict()'
            )
        rows: list[dict[str, Any]] = []
        for report in self:
            table = report.increments.reshape(-1, report.slices).tolist()
            samples = report.increments.ndim == 2
            frontier = report.frontier.tolist() if isinstance(report.frontier, Tensor) else [report.frontier]
            for i, increments in enumerate(table):
                for n, increment in enumerate(increments):
                    row = {"iteration": report.iteration, **({"sample": i} if samples else {}), "slice": n}
                    row |= {"increment": increment, "final": n < frontier[i]}
                    rows.append(row | {"rounds": report.rounds, "evaluations": report.evaluations})
        return pandas.DataFrame(rows)


SHOWN = 16
"""Most iterations that are printed. A choice."""
_COLUMNS = ("iteration", "frontier", "rounds", "evaluations", "increment")


class Moved:
    """Increments of M systems of N slices in one iteration, which systems may complete one after another.

    In a window most are zero, on its left, or NaN, on its right. These are left out, so that the memory does not grow
    with the number of slices.

    Args:
        systems: M.
        slices: N.
    """

    def __init__(self, systems: int, slices: int) -> None:
        self._shape = (systems, slices)
        self._rows: dict[int, tuple[int, Floats]] = {}

    def put(self, system: int, row: Floats) -> None:
        """Those of one system, ``(N,)``."""
        nonzero, known = row != 0, ~np.isnan(row)
        first = int(nonzero.argmax()) if nonzero.any() else len(row)
        end = len(row) - int(known[::-1].argmax()) if known.any() else 0
        self._rows[system] = first, row[first : max(first, end)].copy()

    def table(self) -> Floats:
        """All of them, ``(M, N)``; zero for systems without any."""
        table = np.zeros(self._shape)
        for system, (first, values) in self._rows.items():
            table[system, first : first + len(values)] = values
            table[system, first + len(values) :] = np.nan
        return table


def unpack_history(packed: Any, tensors: dict[str, Tensor]) -> History:
    summaries: dict[int, int] = dict(packed.get("summaries", []))  # files of older versions have none
    full, reports = iter(tensors.get("history.increments", ())), list[IterationReport]()
    for i, (iteration, rounds, evaluations) in enumerate(packed["history"]):
        frontier: Any = number(tensors["history.frontier"][i], int)
        if i in summaries:
            largest: Any = number(tensors["history.increment"][i], float)
            reports.append(IterationReport(iteration, None, frontier, rounds, evaluations, largest, summaries[i]))
        else:
            reports.append(IterationReport(iteration, next(full), frontier, rounds, evaluations))
    return History(reports)
