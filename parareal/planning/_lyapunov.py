"""How fast neighbouring solutions part: the largest Lyapunov exponent, from pairs of runs side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Floats
from parareal._core.keywords import explain_keywords
from parareal._core.trees import State
from parareal._core.vectors import flat, unflat
from parareal._inputs import Inputs
from parareal.engine._lanes import ActiveLanes
from parareal.engine._rounds import Counters, play_round
from parareal.executors._base import Executor
from parareal.executors._local import Batched
from parareal.grid._mesh import Mesh
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._base import Integrator, bound_integrator
from parareal.problem._ode import Problem

_TRANSIENT = 0.25
"""Part of the slices in which a pair turns into the direction that grows most, left out where there are enough."""

_FEW = 8
"""Fewest slices of which some are left out."""


@dataclass(frozen=True)
class Lyapunov:
    """The result of `lyapunov_exponent`. It prints as a sentence.

    Attributes:
        exponent: The largest Lyapunov exponent, per unit of time in the direction of the grid; over a short grid it is
            what holds on that grid alone.
        error: Its standard error, from how the growth varies between slices; NaN for fewer than four.
        span: Length of the grid.
        evaluations: Evaluations of the right-hand side that it took.
    """

    exponent: float
    error: float
    span: float
    evaluations: int

    @property
    def growth(self) -> float:
        """The factor by which a small difference grows over the whole grid."""
        try:
            return math.exp(self.exponent * self.span)
        except OverflowError:
            return math.inf

    @property
    def verdict(self) -> str:
        """What that means for a solution in parallel, in a few words."""
        decades = self.exponent * self.span / math.log(10)
        if not math.isfinite(self.exponent):
            return "no estimate: solutions are not finite, or do not part"
        if decades <= 0.5:
            return "differences do not grow much, so that iterations need not grow with the length of the grid"
        if decades <= 4:
            return "differences grow, but a solution over this grid is well determined"
        return (
            f"errors grow by {decades:.0f} decades over the grid: expect iterations in proportion to its length, and "
            "no solution accurate to the end beyond rounding times that; cut the time span, or stop by pr.Proximity"
        )

    def __str__(self) -> str:
        error = "" if math.isnan(self.error) else f" +- {self.error:.2g}"
        return f"Largest Lyapunov exponent: {self.exponent:.3g}{error} per unit of time; {self.verdict}."


@explain_keywords
def lyapunov_exponent(
    problem: Problem, u0: State, grid: TimeGrid, *, fine: Integrator, samples: bool = False
) -> Lyapunov:
    """Estimates the largest Lyapunov exponent of a problem along its solution: whether it can be parallelised.

    The solution and a neighbour go over the grid side by side; after each slice the neighbour is brought back to its
    first distance, and the logarithms of how it has grown are averaged (Benettin's method). The first quarter is left
    out where there are at least 8 slices. Differences must stay small within a slice: take slices no longer than the
    time in which they grow by about 1e4, and no shorter than it takes them to change at all.

    A positive exponent says that errors grow along the trajectory, and so does the number of iterations, whatever the
    correction. A negative one says that errors are forgotten, and the number need not depend on the length.

    Args:
        problem: The equation. For an `SDE` both see the same noise.
        u0: State at the start of the grid.
        grid: The grid; its slices are where the neighbour is brought back.
        fine: The propagator, as `solve` takes it. The exponent is that of its discrete solution.
        samples: As in `solve`; the exponent is the mean over samples.

    Returns:
        A `Lyapunov`. It costs twice the evaluations of the serial run, in as many rounds.

    Raises:
        TypeError, ValueError: An argument is wrong.

    Source:
        G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, Meccanica 15 (1980). What it means for parallel
        solutions: Predictability Enables Parallelization of Nonlinear State Space Models (arXiv 2508.16817).

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: u * torch.tensor([0.5, -1.0], dtype=u.dtype))
        >>> u0, grid = torch.ones(2, dtype=torch.float64), pr.TimeGrid.uniform(0.0, 20.0, slices=40, steps=20)
        >>> print(f"{lyapunov_exponent(problem, u0, grid, fine=pr.RK4()).exponent:.3f}")
        0.500
    """
    inputs = Inputs.checked(problem, u0, grid, fine, Batched(), samples)
    return of_run(inputs, Batched())


def of_run(inputs: Inputs, executor: Executor, until: float = math.inf) -> Lyapunov:
    """The estimate for checked input; no slice begins after ``until``, a time of `time.perf_counter`."""
    one, grid = trees.one(inputs.systems, 0), inputs.grid
    problem = inputs.problem.bind(one, grid, inputs.fine)
    fine = bound_integrator(inputs.fine, problem, one, grid)
    device = trees.leaves(one)[0].device
    pairs, spent = Pairs(inputs.systems), 0

    def over(n: int, u: State) -> State:
        nonlocal spent
        lanes = 2 * pairs.count
        active = ActiveLanes(problem, fine, Mesh.build(grid, fine.steps, device), places=lanes)
        rows = None if inputs.rows is None else trees.cat([inputs.rows, inputs.rows])
        counters, ids = Counters(), np.arange(lanes)
        try:
            active.launch(ids, np.full(lanes, n), u, rows)
            while play_round([active], executor, counters):
                pass
            arrived = active.take_arrived()
        finally:
            active.close()
            spent += active.evaluations
        order = torch.from_numpy(np.argsort(np.concatenate([some for some, _ in arrived]))).to(device)
        return trees.lanes(trees.cat([state for _, state in arrived]), order)

    with torch.no_grad(), executor.joined() as joined:
        executor = joined
        for n in range(grid.num_slices):
            if time.perf_counter() > until or not pairs.alive:
                break
            pairs.step(lambda u, n=n: over(n, u))
    lengths = grid.edges.diff().abs().numpy()
    return pairs.estimate(lengths[: len(pairs.growths)], float(lengths.sum()), spent)


class Pairs:
    """Solutions and their neighbours.

    Attributes:
        growths: Logarithms of the growth of each slice so far, mean over systems.

    Args:
        systems: Where they begin, leaves ``(M, *state)``.
    """

    def __init__(self, systems: State) -> None:
        self.growths: list[float] = []
        self.count = trees.leaves(systems)[0].shape[0]
        self._u = trees.map(lambda leaf: leaf.detach(), systems)
        vector = flat(self._u, 1)
        self._eps = max(torch.finfo(leaf.dtype).eps for leaf in trees.leaves(systems))
        generator = torch.Generator().manual_seed(0)
        # Of no special direction, and the same for every run.
        drawn = torch.randn(vector.shape, generator=generator, dtype=torch.float64).to(vector)
        self._direction = drawn / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)

    @property
    def alive(self) -> bool:
        """Whether all growths so far are finite."""
        return not self.growths or math.isfinite(self.growths[-1])

    def step(self, over: Callable[[State], State]) -> None:
        """One slice: ``over`` takes states of all systems and then of all neighbours to its right end."""
        u = flat(self._u, 1)
        size = torch.linalg.vector_norm(u, dim=1, keepdim=True)
        apart = self._eps**0.5 * torch.where(size > 0, size, torch.ones_like(size))
        near = u + apart * self._direction
        first = torch.linalg.vector_norm(near - u, dim=1)  # as rounding has left it
        end = over(trees.cat([self._u, unflat(near, self._u, 1)]))
        rows = flat(end, 1)
        moved = rows[self.count :] - rows[: self.count]
        last = torch.linalg.vector_norm(moved, dim=1)
        least = self._eps * torch.linalg.vector_norm(rows[: self.count], dim=1)  # nothing smaller can be seen
        tiny = torch.finfo(last.dtype).tiny
        self.growths.append(float(torch.log(torch.maximum(last, least).clamp(min=tiny) / first).double().mean()))
        seen = last > 0
        self._direction = torch.where(seen[:, None], moved / last.clamp(min=tiny)[:, None], self._direction)
        self._u = trees.lanes(end, slice(0, self.count))

    def estimate(self, lengths: Floats, span: float, evaluations: int) -> Lyapunov:
        """The exponent from slices of these lengths."""
        growths = np.array(self.growths)
        skip = int(_TRANSIENT * len(growths)) if len(growths) >= _FEW else 0
        kept, times = growths[skip:], lengths[skip:]
        exponent = float(kept.sum() / times.sum()) if len(kept) else math.nan
        error = math.nan
        if len(kept) >= 4:
            blocks = np.array_split(np.arange(len(kept)), min(8, len(kept) // 2))  # neighbours are not independent
            each = np.array([kept[block].sum() / times[block].sum() for block in blocks])
            error = float(each.std(ddof=1) / math.sqrt(len(each)))
        return Lyapunov(exponent, error, span, evaluations)
