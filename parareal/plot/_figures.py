"""The numbers of plots, from solutions: tables over iterations and slices, and distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Floats
from parareal._core.checks import check_instance, described, kind_of
from parareal._core.names import NORM_HINTS, one_of
from parareal._core.norms import NormName, norm
from parareal._core.trees import State
from parareal.results._record import Record
from parareal.results._solution import Solution

EXAMPLE = "pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=pr.Euler())"


def check_run(run: Any, name: str = "run") -> Solution:
    """Raises unless it is a solution."""
    check_instance(run, Solution, name, EXAMPLE)
    return run


def record_of(run: Any, what: str) -> Record:
    """The record of a run with ``keep="all"``.

    Raises:
        TypeError: It is no solution.
        ValueError: Nothing was kept.
    """
    kept = check_run(run).iterates
    if kept is None:
        raise ValueError(
            f'this solution has kept no iterates, which {what} is made from; expected one of pr.solve(..., keep="all")'
        )
    return kept


def iterated(run: Any) -> Solution:
    """Raises unless the run has made iterations."""
    if not check_run(run).history:
        raise ValueError(
            f"this solution has no iterations to show (it is one of pr.serial, or its run was cut short); expected "
            f"one of {EXAMPLE}"
        )
    return run


def check_norm(kind: Any) -> None:
    """Raises unless it is the name of a norm."""
    one_of(kind, ("rms", "max"), "norm", hints=NORM_HINTS)


def of_sample(table: Floats, sample: int | None) -> Floats:
    """From ``(..., B)`` one sample's figures, or the largest; NaN counts only where there is nothing else.

    Raises:
        TypeError: ``sample`` is no int.
        ValueError: There is no such sample.
    """
    if sample is None:
        filled = np.where(np.isnan(table), -np.inf, table).max(-1, initial=-np.inf)
        return np.where(filled == -np.inf, np.nan, filled)
    check_sample(sample, table.shape[-1])
    return table[..., sample]


def check_sample(sample: Any, count: int | None) -> None:
    """Raises unless there is such a sample; ``count`` is ``None`` where there are none."""
    if isinstance(sample, bool) or not isinstance(sample, int):
        raise TypeError(f"sample={sample!r} is {kind_of(sample)}; expected an int")
    if count is None:
        raise ValueError(f"sample={sample} came with a run of a single system; leave it out")
    if not 0 <= sample < count:
        raise ValueError(f"sample={sample} is none of this batch; expected 0 ... {count - 1}")


def distances(us: State, reference: State, kind: NormName, samples: bool, name: str = "reference") -> Floats:
    """Norms of the differences at each boundary, ``(N + 1,)``, or ``(N + 1, B)``.

    Raises:
        TypeError: The reference holds no tensors.
        ValueError: It has another structure, or other shapes.
    """
    if isinstance(reference, Solution):
        reference = reference.us
    parts = trees.leaves(reference)
    if not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"{name} is {described(reference)}; expected a Solution of pr.serial, or its us")
    reference = trees.in_order_of(reference, us)
    ours, theirs = ([tuple(x.shape) for x in trees.leaves(tree)] for tree in (us, reference))
    if trees.structure(us) != trees.structure(reference) or ours != theirs:
        raise ValueError(
            f"{name} has leaves of shapes {theirs} and the run {ours}; expected the same: pr.serial on the same u0 and "
            "grid gives such a reference"
        )
    gap = trees.map(lambda a, b: a.detach() - b.detach().to(a.device), us, reference)
    rows = trees.leaves(gap)[0].shape[: 1 + samples]
    lanes = trees.map(lambda x: x.reshape(-1, *x.shape[1 + samples :]), gap)
    return norm(lanes, kind).cpu().reshape(rows).numpy()


def increments_of(run: Solution) -> tuple[Floats, Any]:
    """Increments ``(K, N)`` or ``(K, B, N)``, and what was final before each iteration, bool, likewise."""
    moved = torch.stack([report.increments for report in run.history]).numpy()
    fronts = np.stack([np.asarray(report.frontier) for report in run.history])
    before = np.concatenate([np.zeros_like(fronts[:1]), fronts[:-1]])
    return moved, np.arange(moved.shape[-1]) < before[..., None]


def errors_of(run: Any, reference: Any, kind: NormName, what: str) -> tuple[Floats, Any]:
    """Errors of iterates 0 ... K at boundaries 1 ... N, ``(K + 1, N)`` or ``(K + 1, N, B)``, and which are older ones.

    A boundary without an iterate of a number holds the one before.
    """
    check_norm(kind)
    kept = record_of(run, what)
    rows = range(len(kept.has_u))
    table = np.stack([distances(kept.after(k), reference, kind, kept.has_u.ndim == 3) for k in rows])[:, 1:]
    there = kept.has_u.numpy()[:, 1:]
    return table, np.logical_or.accumulate(there) & ~there
