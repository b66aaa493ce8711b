"""A window of lanes that slides along the slices as they are accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from parareal._core import autocast, trees
from parareal._core.arrays import Bools
from parareal._core.checks import check_count
from parareal._core.names import one_of
from parareal._core.trees import State
from parareal.grid._mesh import Where
from parareal.problem._lane_calls import check_like
from parareal.schedules._schedule import Guess, Progress, Schedule


@dataclass(frozen=True)
class Windowed(Schedule):
    """A window of slices that slides with the frontier: at most ``width`` are computed at a time.

    Slices leave it on the left as they become final or are accepted by the stopping rule, which a window always asks to
    accept (``freeze``). Inside, every lane starts as soon as it is ready, as in `Wavefront`. The slice at the frontier
    always advances, so that it takes no more rounds than the sequential run. There is one exception: if accepted errors
    turn out at the end to have grown beyond the tolerance, the run continues from the last proven slice boundary, and
    those rounds are added (with ``dense=False`` it ends as `Status.UNCERTAIN` instead). An iteration ends whenever the
    frontier has moved.

    Args:
        width: Slices in the window, at least 1, and lanes in a round. Where the correction has a propagator its lanes
            count as well, and those of the slices at the frontier may be a few more.
        initial: First guesses on slices that enter: ``"coarse"``, the correction's own; ``"hold"``, the last state;
            ``"extrapolate"``, the line through the last two boundaries; or ``guess(t0, t1, u)``, called once for many
            slices with float64 times of shape ``(L,)`` and leaves ``(L, *state)``, which carries ``u`` from ``t0``,
            the last boundary with a state, to ``t1``.

    Raises:
        TypeError: ``width`` is not an int.
        ValueError: ``width`` is below 1, or ``initial`` is unknown.

    Source:
        Parallel Sampling of Diffusion Models (ParaDiGMS, arXiv 2305.16317), with `Identity` and slices of one step.

    Examples:
        >>> import torch, parareal as pr
        >>> grid = pr.TimeGrid.uniform(0.0, 8.0, slices=64)
        >>> problem = pr.ODE(lambda t, u: torch.cos(t) * u)
        >>> window = pr.Windowed(8)
        >>> sol = pr.solve(problem, torch.ones(1), grid, fine=pr.RK4(), coarse=pr.Identity(), schedule=window)
        >>> sol.stats.max_lanes, sol.stats.rounds < 4 * 64
        (8, True)
    """

    width: int  # pyright: ignore[reportIncompatibleVariableOverride]
    initial: Literal["coarse", "hold", "extrapolate"] | Callable[[Tensor, Tensor, State], State] = "coarse"

    def __post_init__(self) -> None:
        check_count(self.width, "width")
        if not callable(self.initial):
            one_of(self.initial, INITIAL, "initial", "a function guess(t0, t1, u) -> u at t1")

    @property
    def guess(self) -> Guess | None:  # pyright: ignore
        """The function that ``initial`` names."""
        if callable(self.initial):
            return partial(carried, self.initial, "initial(t0, t1, u)")
        return INITIAL[self.initial]

    def admit(self, progress: Progress) -> tuple[Bools, Bools]:
        """Everything that is ready, from the left, as long as there is room; the slice at the frontier always."""
        p = progress
        if self.width >= p.fine_ready.shape[1] and not p.coarse:
            return p.fine_ready, p.coarse_ready
        front = np.arange(p.fine_ready.shape[1]) == p.frontier[:, None]
        fine = p.fine_ready & (front | ~p.fine_busy)
        coarse = p.coarse_ready & (front | ~p.coarse_busy)
        under_way = (p.fine_busy.astype(np.int64) + p.coarse_busy) * ~front
        room = self.width - 1 - p.coarse - under_way.sum(axis=1, keepdims=True)  # some is kept for the frontier
        fits = front | (np.cumsum((fine.astype(np.int64) + coarse) * ~front, axis=1) <= room)
        return fine & fits, coarse & fits


def _held(at: Where, u: State, before: tuple[Any, ...]) -> State:
    length = at.shape[1]
    return trees.map(lambda leaf: leaf.unsqueeze(1).expand(leaf.shape[0], length, *leaf.shape[1:]), u)


def _extrapolated(at: Where, u: State, before: tuple[Any, ...]) -> State:
    if not before:
        return _held(at, u, before)
    start = at.t0[:, 0]
    ratio = (at.t1 - start[:, None]) / (start - before[0].t)[:, None]
    ratio = torch.where(torch.isfinite(ratio), ratio, 0.0)

    def leaf(now: Tensor, earlier: Tensor) -> Tensor:
        weights = ratio.to(now.real.dtype).reshape(*ratio.shape, *[1] * (now.ndim - 1))
        return now.unsqueeze(1) + weights * (now - earlier).unsqueeze(1)

    return trees.map(leaf, u, before[0].u)


def carried(
    fn: Callable[[Tensor, Tensor, State], State], name: str, at: Where, u: State, before: tuple[Any, ...]
) -> State:
    """Guesses of a user's ``fn(t0, t1, u)``, which errors call ``name``; see `Correction.guess_run`."""
    rows, length = at.shape
    many = trees.map(lambda leaf: leaf.repeat_interleave(length, dim=0), u)
    start = at.t0[:, :1].expand(rows, length).reshape(-1)
    with autocast.restored():
        value = fn(start, at.t1.reshape(-1), many)
    return trees.fold(check_like(value, many, name), length)


INITIAL: dict[str, Guess | None] = {
    "coarse": None,
    "hold": _held,
    "extrapolate": _extrapolated,
}
