"""A solution at all times: the interpolant of its method, slice by slice, all slices at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.checks import described
from parareal._core.host import index_to
from parareal._core.trees import State
from parareal.engine._fill import fill
from parareal.executors._base import Executor
from parareal.grid._mesh import Mesh
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._adaptive import Adaptive, Carrying
from parareal.integrators._base import Integrator, Multistep
from parareal.integrators._march import March
from parareal.integrators._paced import Paced
from parareal.integrators._propagator import Propagator
from parareal.integrators._quartic import Quartic
from parareal.integrators._timed import untimed
from parareal.problem._ode import ODE, Problem


class Dense:
    """A solution that can be called at any time of its interval: ``dense(t)``.

    Attributes:
        ts: Where its pieces begin, and where the last one ends, float64, on the host.
        rounds: Calls of the right-hand side that it took to make.
        evaluations: Likewise.
    """

    def __init__(self, pieces: Quartic, end: float, rounds: int = 0, evaluations: int = 0) -> None:
        self._pieces = pieces  # the last of a slice may reach beyond its boundary, where the next one begins
        left = pieces.left.detach().cpu()
        self.ts = torch.cat([left, left.new_tensor([end])])
        self.rounds, self.evaluations = rounds, evaluations

    def __call__(self, t: Any) -> State:
        """States at times ``t``: leaves ``(*t.shape, *state)``.

        Raises:
            TypeError: ``t`` is no number and no tensor of such.
            ValueError: A time lies outside the interval of the solution.
        """
        if not isinstance(t, Tensor | float | int | np.ndarray | Sequence) or isinstance(t, str):
            raise TypeError(f"t is {described(t)}; expected a time or a tensor of times")
        times = torch.as_tensor(t, dtype=torch.float64)  # pyright: ignore[reportUnknownArgumentType]
        where = times.detach().cpu().reshape(-1)
        sign = 1.0 if self.ts[-1] > self.ts[0] else -1.0
        inside = (sign * where >= sign * self.ts[0]) & (sign * where <= sign * self.ts[-1])
        if not bool(inside.all()):
            outside = where[~inside][0].item()
            raise ValueError(
                f"t={outside!r} lies outside the solution; expected times from {self.ts[0].item()!r} to "
                f"{self.ts[-1].item()!r}"
            )
        at = torch.searchsorted(sign * self.ts[1:-1], sign * where, right=True)
        device = self._pieces.left.device
        states = self._pieces[at.to(device)].at(times.to(device).reshape(-1))
        return trees.map(lambda leaf: leaf.reshape(*times.shape, *leaf.shape[1:]), states)

    def after(self, pieces: Sequence[Quartic]) -> Dense:
        """This solution, which continues that of earlier pieces."""
        whole = joined([*pieces, self._pieces])
        return Dense(whole, float(self.ts[-1]), self.rounds, self.evaluations)

    def __repr__(self) -> str:
        return f"Dense(from={self.ts[0].item()!r}, to={self.ts[-1].item()!r}, pieces={len(self.ts) - 1})"


def adaptive_pieces(
    method: Adaptive, problem: Any, t0: Tensor, t1: Tensor, u: State, executor: Executor
) -> tuple[Quartic, Ints, int, int]:
    """The steps of all slices at once, from the states at their left boundaries.

    Returns:
        Their interpolants in the order of time, the slice of each, and the rounds and evaluations.
    """
    march = March(method, problem, t0, t1, u, executor)
    found, slices, starts = list[Quartic](), list[Ints](), list[Any]()
    while len(march.lanes):
        for lanes, pace in march.advance():
            if pace.tried is None:
                continue
            accepted = pace.tried.accepted.nonzero()[0]
            if len(accepted):
                found.append(pace.tried.quartic(index_to(march.t.device, accepted)))
                slices.append(lanes[accepted])
                starts.append(pace.tried.t[accepted])
    sign = 1.0 if bool(t1[0] > t0[0]) else -1.0
    order = np.lexsort((sign * np.concatenate(starts), np.concatenate(slices)))
    return (
        joined(found)[index_to(march.t.device, order)],
        np.concatenate(slices)[order],
        march.rounds,
        march.evaluations,
    )


def joined(parts: Sequence[Quartic]) -> Quartic:
    """Quartics one after another."""
    weights = tuple(trees.cat([part.weights[i] for part in parts]) for i in range(5))
    left, right = torch.cat([part.left for part in parts]), torch.cat([part.right for part in parts])
    return Quartic(left, right, weights, trees.cat([part.end for part in parts]))


def hermite(t0: Tensor, t1: Tensor, u: State, v: State, f0: State, f1: State) -> Quartic:
    """Cubics through states ``u`` at ``t0`` and ``v`` at ``t1``, with these slopes."""
    h = t1 - t0

    def leaf(a: Tensor, b: Tensor, k0: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        dt = trees.per_lane(h, a)
        d = b - a
        return a, dt * k0, 3 * d - dt * (2 * k0 + k1), dt * (k0 + k1) - 2 * d, torch.zeros_like(a)

    return _pieces(t0, t1, u, v, leaf, f0, f1)


def lines(t0: Tensor, t1: Tensor, u: State, v: State) -> Quartic:
    """Straight lines from ``u`` to ``v``."""

    def leaf(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        zero = torch.zeros_like(a)
        return a, b - a, zero, zero, zero

    return _pieces(t0, t1, u, v, leaf)


def _pieces(t0: Tensor, t1: Tensor, u: State, v: State, leaf: Any, *rest: State) -> Quartic:
    each = [leaf(*parts) for parts in zip(*(trees.leaves(state) for state in (u, v, *rest)), strict=True)]
    return Quartic(t0, t1, tuple(trees.rebuild([parts[i] for parts in each], u) for i in range(5)), v)


def dense_of(
    problem: Problem, fine: Integrator, grid: TimeGrid, us: State, executor: Executor, rows: State, samples: bool
) -> Dense:
    """The solution of a run at all times, from its states at all slice boundaries.

    An `Adaptive` method has an interpolant of its own, and its slices are stepped once more. Between the points of
    fixed-step methods, and between slice boundaries for all others, there are cubics with the slopes at both ends, or
    straight lines for an `SDE` or a `Propagator`, whose slopes are not known. With ``samples`` all samples have their
    pieces between slice boundaries.
    """
    device, end = trees.leaves(us)[0].device, float(grid.edges[-1])
    one = trees.map(lambda leaf: leaf[0, :1] if samples else leaf[0], us)
    problem = problem.bind(one, grid, fine)
    fine = fine.bind(problem, one, grid)
    points, states, rounds, evaluations = grid.edges, us, 0, 0
    plain, timed = untimed(fine)  # where times have a graph, so have the boundaries of pieces
    if not samples and isinstance(plain, Adaptive | Carrying):
        method = plain.method if isinstance(plain, Carrying) else plain
        points = points if timed is None else timed.attach(points)
        u = trees.map(lambda leaf: leaf[:-1], us)
        t0, t1 = points[:-1], points[1:]
        pieces, _, rounds, evaluations = adaptive_pieces(method, problem, t0, t1, u, executor)
        return Dense(pieces, end, rounds, evaluations)
    known = isinstance(problem, ODE) and not isinstance(plain, Propagator)
    if known and not samples and not isinstance(fine, Multistep | Paced) and not fine.traits.apart:
        if fine.steps is not None:
            mesh = Mesh.build(grid, fine.steps, torch.device("cpu"))
            at = np.concatenate([mesh.start[:, None] + np.arange(fine.steps)], axis=1).reshape(-1)
            grid = TimeGrid.from_points(torch.cat([mesh.on_host[torch.from_numpy(at)], points[-1:]]), grid.num_slices)
        states, rounds, evaluations = fill(problem, fine, grid, us, executor)
        points = grid.points
    points = (points if timed is None else timed.attach(points)).to(device)
    left, right = _sides(states)
    if not known:
        return Dense(lines(points[:-1], points[1:], left, right), end)
    slopes = _slopes(problem, points, states, executor, rows, samples)
    f0, f1 = _sides(slopes)
    pieces = hermite(points[:-1], points[1:], left, right, f0, f1)
    return Dense(pieces, end, rounds + 1, evaluations + len(points))


def _slopes(problem: Any, t: Tensor, states: State, executor: Executor, rows: State, samples: bool) -> State:
    """The right-hand side at states ``(P, *state)``, or ``(P, B, *rest)`` with samples."""
    if not samples:
        return executor.evaluate(problem.rhs, (t, states), len(t))
    batch = trees.leaves(states)[0].shape[1]
    lanes = trees.map(lambda leaf: leaf.flatten(0, 1).unsqueeze(1), states)
    more = () if rows is None else (trees.map(lambda leaf: torch.cat([leaf] * len(t)), rows),)
    slopes = executor.evaluate(problem.rhs, (t.repeat_interleave(batch), lanes, *more), len(t) * batch)
    return trees.map(lambda leaf: leaf.squeeze(1).unflatten(0, (-1, batch)), slopes)


def _sides(states: State) -> tuple[State, State]:
    """The states at the left and at the right of all intervals."""
    return trees.map(lambda leaf: leaf[:-1], states), trees.map(lambda leaf: leaf[1:], states)
