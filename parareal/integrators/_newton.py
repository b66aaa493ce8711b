"""Newton's method for the stages of an implicit step, on many lanes at once.

The unknowns are the slopes k of s stages, which solve k_i = f(t_i, u + h sum_j a_ij k_j). One iteration is one request:
it takes the right-hand side at all stages, its derivatives there, and solves the linear system

    (I - h J A) delta = f(...) - k,    k <- k + delta.

A lane that has converged gets no further correction and no further evaluation, so that neither its result nor its cost
depends on the lanes beside it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.integrators._base import Cost
from parareal.integrators._stage_systems import Matrix, System, to_vector

MOST_DENSE = 512
"""Unknowns of a system whose matrix is made: 2 MiB of float64 for each lane. Larger ones are solved by GMRES."""


@dataclass(frozen=True)
class Options:
    """How Newton's method iterates, and when it ends.

    Attributes:
        rtol: Size that the error may have, relative to the state; ``None`` for the rounding unit.
        most: Most iterations.
        krylov: Whether linear systems are solved by GMRES.
    """

    rtol: float | None
    most: int
    krylov: bool


@dataclass(frozen=True)
class Correction:
    """The function that is requested in an iteration: equal for the same system, so that stage groups join.

    Attributes:
        problem: The problem.
        a: The weights that couple the stages, s rows of s.
        inner: Relative residual of the linear systems by GMRES, or ``None`` to solve them by elimination.
        keep: Whether the derivatives of the right-hand side are wanted too, which elimination has.
        exact: Whether a matrix of the problem's own, which may be an approximation, will not do.
    """

    problem: Any
    a: Matrix
    inner: float | None
    keep: bool = False
    exact: bool = False

    def __call__(
        self, t: Tensor, h: Tensor, base: State, k: Tensor, active: Tensor, rows: State = None
    ) -> tuple[Tensor, ...]:
        """One correction on L lanes.

        Args:
            t: Times of the stages, float64, ``(L, s)``.
            h: Lengths of the steps, float64, ``(L,)``.
            base: What the stages add to, leaves ``(L, *state)``.
            k: Slopes, ``(L, s, D)``.
            active: Lanes that want one, bool, ``(L,)``, on the CPU: their number is needed there.
            rows: Per-sample data, leaves ``(L, ...)``.

        Returns:
            Corrections ``(L, s, D)``, zero for lanes that want none; the size of h J A, float64, ``(L,)``; and what
            they took, int64, on the CPU, ``(L, 2)``: evaluations, and those that follow one another. With ``keep``
            also the derivatives at the stages before the correction, ``(L, s, D, D)``, zero like the corrections.
        """
        active = active.cpu()  # several devices bring everything to where they are
        took = torch.zeros(len(active), 2, dtype=torch.int64)
        if not active.any():
            nothing = (k.new_zeros(*k.shape, k.shape[-1]),) if self.keep else ()
            return torch.zeros_like(k), torch.zeros_like(h), took, *nothing
        index = None if active.all() else active.nonzero()[:, 0].to(k.device)
        if index is not None:
            t, h, base, k = t[index], h[index], trees.lanes(base, index), k.index_select(0, index)
            rows = None if rows is None else trees.lanes(rows, index)
        system, jacobian = System(self.problem, self.a, t, h, base, k, rows, self.exact), k
        if self.inner is None:
            delta, jacobian = system.eliminate()
            took[active] = torch.tensor([k.shape[1] * (1 + system.directions), 1])
        else:
            delta, products = system.iterate(self.inner)
            took[active] = torch.stack([k.shape[1] * (1 + products), 1 + products], 1)
        given = (delta, system.stiffness, *((jacobian,) if self.keep else ()))
        if index is not None:
            given = (part.new_zeros(len(active), *part.shape[1:]).index_copy(0, index, part) for part in given)
        delta, stiffness, *kept = given
        return delta, stiffness, took, *kept

    @property
    def varies(self) -> bool:
        """Whether some lanes may take longer than others."""
        return self.inner is not None

    def cost(self, value: tuple[Tensor, ...], lanes: int) -> Cost:
        """Those of the lanes that wanted a correction; see `parareal.ImplicitRungeKutta` for how many."""
        evaluations, rounds = value[2].unbind(1)
        return Cost(int(evaluations.sum()), int(rounds.max()))


def solve_stages(
    problem: Any,
    a: Matrix,
    t: Tensor,
    h: Tensor,
    base: State,
    k: Tensor,
    alive: Tensor,
    options: Options,
    kept: list[Tensor] | None = None,
) -> Generator[tuple[Any, ...], State, tuple[Tensor, Tensor]]:
    """Newton's method for s stages of L lanes at once.

    The error after a correction is estimated from it and from the one before: convergence being quadratic, the next
    one would be about |delta|^3 / |delta before|^2, by elimination, so that a correction of sqrt(eps) is the last. Of
    each number u_i of the state no less than delta_i^2 / |u_i| is assumed: corrections of large numbers, whose equation
    may be linear, say nothing about those of small ones. By GMRES, whose own error makes convergence linear, the error
    is |delta|^2 / |delta before|. A lane is also done when corrections do not get smaller any more and are no larger
    than sqrt(eps), or than what rounding makes of the right-hand side, eps |h J A|: no further accuracy is available.

    Args:
        problem: The problem.
        a: Weights, s rows of s.
        t: Times of the stages, float64, ``(L, s)``.
        h: Lengths of the steps, float64, ``(L,)``.
        base: What the stages add to, leaves ``(L, *state)``.
        k: Slopes to begin with, ``(L, s, D)``.
        alive: Lanes to solve, bool, ``(L,)``, on the CPU.
        options: See there.
        kept: Takes the derivatives of the right-hand side at the stages, ``(L, s, D, D)``, those that the last
            correction of each lane was made with; ``None`` where nobody wants them.

    Yields:
        One `Correction` for each iteration.

    Returns:
        Slopes ``(L, s, D)``, and ``alive`` without the lanes that did not converge.
    """
    krylov, unit = options.krylov, units(base, options.rtol)
    noise, edge = max(precisions(base)), float(unit.min()) ** 0.5
    request = Correction(problem, a, float(unit.max()) ** 0.5 if krylov else None, kept is not None)
    jacobian: Tensor | None = None
    sizes, step = to_vector(base, 1).detach().abs().double()[:, None], h.detach().abs()[:, None, None]
    unit, least = unit.to(step.device), least_size(base)
    before = torch.full_like(step[:, 0, 0], torch.inf)
    active, failed = alive, ~alive
    for iteration in range(options.most):
        if not active.any():
            break
        delta, stiffness, _, *given = yield request, t, h, base, k, active
        k = k + delta
        for now in given:
            mask = active.to(now.device)[:, None, None, None]
            jacobian = now if jacobian is None else torch.where(mask, now, jacobian)
        moved, own = step * delta.detach().abs().double(), sizes + step * k.detach().abs().double()
        # In units of the tolerance, which differs between leaves of different precision; and as a number.
        change, number, scale = (moved / unit).amax((1, 2)), moved.amax((1, 2)), own.amax((1, 2)).clamp(min=least)
        done = change <= scale
        if iteration:
            rate = change / before
            if krylov:
                left = change * rate
            else:
                square = moved * (moved / own.clamp(min=torch.finfo(own.dtype).tiny)) / unit
                left = torch.maximum(change * rate**2, square.amax((1, 2)))
            floor = (ROUNDINGS * noise * (BESIDE + stiffness)).clamp(max=MOST_NOISE).clamp(min=edge)
            done |= ((rate < 1) & (left <= scale)) | ((change >= before) & (number <= floor * scale))
        before = change
        # The one transfer from the device: 0 continues, 1 is done, 2 has failed.
        state = torch.where(torch.isfinite(change) & torch.isfinite(scale), done.long(), 2).cpu()
        failed = failed | (active & (state == 2))
        active = active & (state == 0)
    if kept is not None:
        kept.append(k.new_zeros(*k.shape, k.shape[-1]) if jacobian is None else jacobian)
    return k, ~(failed | active)


ROUNDINGS = 8.0
"""Most units of rounding in an evaluation of the right-hand side. A choice."""

BESIDE = 4.0
"""What is added to the size of h J A where rounding is estimated by it: that of the state itself, and of sums."""

MOST_NOISE = 1e-2
"""Largest change, relative to the state, that counts as rounding. A choice."""


def precisions(u: State) -> set[float]:
    """The rounding units of the leaves of a state."""
    return {torch.finfo(leaf.dtype).eps for leaf in trees.leaves(u)}


def least_size(u: State) -> float:
    """Of a state that is smaller, rounding is that of the least normal number."""
    return max(torch.finfo(leaf.dtype).tiny / torch.finfo(leaf.dtype).eps for leaf in trees.leaves(u))


def units(u: State, rtol: float | None) -> Tensor:
    """The error allowed in each number of a state relative to its largest, ``(D,)``, on the CPU."""
    sizes = [(leaf[0].numel() * (2 if leaf.is_complex() else 1), leaf.dtype) for leaf in trees.leaves(u)]
    return torch.cat(
        [torch.full((n,), max(rtol or 0.0, torch.finfo(dtype).eps), dtype=torch.float64) for n, dtype in sizes]
    )
