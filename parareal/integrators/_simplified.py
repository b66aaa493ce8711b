"""Simplified Newton: a Jacobian and its factorisation serve for many iterations, stages and steps.

What may be shared, so that the result of a lane is a function of its own slice alone:

- A matrix that is the same for all states and times (``linear=True``) serves all lanes of a run: see `_shared`.
- Any other matrix stays with its lane, from the first step of its slice on, and is dropped at its end: `Implicit` keeps
  it beside the state, and every slice begins without one.

Whether a factor is still good enough is measured lane by lane, by the rate at which corrections get smaller.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Bools, Floats
from parareal._core.trees import State
from parareal.integrators._adjoint import with_gradient
from parareal.integrators._base import Cost
from parareal.integrators._factors import Factors, Parts, factors_for
from parareal.integrators._newton import BESIDE, MOST_NOISE, ROUNDINGS, Options, least_size, precisions, units
from parareal.integrators._stage_systems import Matrix, System, to_vector
from parareal.problem._derivatives import derivatives_of

PATIENCE = 8
"""Iterations that a factor may still need before a new one is made. Chosen within the 7 to 10 usual for Radau codes."""

SLOWER = 24
"""How many times ``options.most`` the iterations may be, with few new factors, while corrections get smaller. A choice:
with 20, corrections that shrink by a rate of 0.92 get from the size of the state to its rounding."""

LEAST_RATE = 0.5
"""The least rate that is assumed, whatever was measured: parts of the error that are small and hardly shrink do not
show in a rate until the others are gone."""

PROMPT = 0.1
"""Where corrections shrink by this rate or faster, one of the size of what rounding makes of a stiff right-hand side,
eps |h J A|, is the last: the next one would be no smaller."""

SAME_STEP = 1e-6
"""Largest relative change of a step for which a factor is kept: it slows each iteration down by no more than that."""


class Slot(NamedTuple):
    """A factorisation that lanes keep for later steps of their slice.

    Attributes:
        h: The step for which it was made, float64, ``(L,)``; NaN for none.
        stiffness: The size of h J A then, float64, ``(L,)``.
        parts: The factors, ``(L, ...)``.
    """

    h: Tensor
    stiffness: Tensor
    parts: Parts


def new_slot(problem: Any, u: State, stages: int) -> Slot:
    """A slot without a factorisation."""
    vector = to_vector(u, 1)
    lanes = len(vector)
    nothing = torch.full((lanes,), torch.nan, dtype=torch.float64, device=vector.device)
    return Slot(nothing, nothing, factors_for(problem, vector, stages).empty(lanes, vector))


@dataclass(frozen=True)
class Iteration:
    """The function that is requested in an iteration: equal for the same system, so that stage groups join.

    Attributes:
        problem: The problem.
        a: The weights that couple the stages, s rows of s.
        makes: Whether some lanes want a new factorisation, which is then returned for all of them.
    """

    problem: Any
    a: Matrix
    makes: bool

    def __call__(
        self, t: Tensor, h: Tensor, base: State, k: Tensor, active: Tensor, renew: Tensor, slot: Any, rows: State = None
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """One correction on L lanes.

        Args:
            t: Times of the stages, float64, ``(L, s)``.
            h: Lengths of the steps, float64, ``(L,)``.
            base: What the stages add to, leaves ``(L, *state)``.
            k: Slopes, ``(L, s, D)``.
            active: Lanes that want one, bool, ``(L,)``, on the CPU.
            renew: Those of them that want a new factorisation.
            slot: Their `Slot`.
            rows: Per-sample data, leaves ``(L, ...)``.

        Returns:
            Corrections ``(L, s, D)``, zero for lanes that want none; the size of h J A; what they took, int64, on the
            CPU, ``(L, 3)``: evaluations, those that follow one another, and whether gradients are asked for; and the
            slot, where ``makes``.
        """
        active, renew = active.cpu(), renew.cpu()
        wanted: Bools = active.numpy()
        count, took, made = np.count_nonzero(wanted), np.zeros((len(wanted), 3), dtype=np.int64), Slot(*slot)
        if not count:
            return torch.zeros_like(k), torch.zeros_like(h), torch.from_numpy(took), made if self.makes else ()
        index = None if count == len(wanted) else active.nonzero()[:, 0].to(k.device)
        if index is not None:
            t, h, base, k = t[index], h[index], trees.lanes(base, index), k.index_select(0, index)
            rows = None if rows is None else trees.lanes(rows, index)
        system = System(self.problem, self.a, t, h, base, k, rows)
        with torch.no_grad():
            if self.makes:
                made, evaluations = self._renewed(system, made, renew, active)
                took[renew.numpy() & wanted, 0] = evaluations
            used = made if index is None else trees.lanes(made, index)
            delta, stiffness = self._factors(k).solve(used.parts, system.residual), used.stiffness
        took[wanted] += (k.shape[1], 1, int(system.residual.requires_grad))
        if index is not None:
            delta = delta.new_zeros(len(active), *delta.shape[1:]).index_copy(0, index, delta)
            stiffness = stiffness.new_zeros(len(active)).index_copy(0, index, stiffness)
        return delta, stiffness, torch.from_numpy(took), made if self.makes else ()

    varies = False
    """All lanes take the same time."""

    def cost(self, value: tuple[Tensor, Tensor, Tensor, Any], lanes: int) -> Cost:
        """Those of the lanes that wanted a correction."""
        rows = value[2].tolist()
        return Cost(sum(row[0] for row in rows), max(row[1] for row in rows))

    def _factors(self, k: Tensor) -> Factors:
        return factors_for(self.problem, k[:, 0], k.shape[1])

    def _renewed(self, system: System, slot: Slot, renew: Tensor, active: Tensor) -> tuple[Slot, int]:
        """The slots of all lanes, new ones where they are wanted, and the evaluations that one of these takes."""
        want = renew & active
        if not want.any():  # they are in another call of the same round
            return slot, 0
        among = None if want.equal(active) else renew[active].nonzero()[:, 0].to(system.k.device)
        factors, h = self._factors(system.k), system.h if among is None else system.h[among]
        jacobian, evaluations = system.matrices(among)
        new = Slot(h.detach().double(), factors.row_sums(jacobian, system.a, h), factors.of(jacobian, system.a, h))
        if want.all():
            return new, evaluations
        places = want.nonzero()[:, 0].to(system.k.device)
        return trees.map(lambda old, made: old.index_copy(0, places, made), slot, new), evaluations


# --- the iteration ---------------------------------------------------------------------------------------------------


def solve_kept(
    problem: Any,
    a: Matrix,
    t: Tensor,
    h: Tensor,
    base: State,
    k: Tensor,
    alive: Tensor,
    options: Options,
    slot: Slot,
) -> Generator[tuple[Any, ...], Any, tuple[Tensor, Tensor, Slot]]:
    """Simplified Newton for s stages of L lanes at once.

    With a factor that is kept, corrections shrink by a rate q, measured from two of them; what is still missing is
    then q / (1 - q) of the last, where no less than `LEAST_RATE` is taken for q. A lane whose rate asks for more than
    `PATIENCE` further iterations gets a new factor at the point where it is. Where corrections grow, the last one is
    taken back, or with a factor from an earlier step all of them, before a new factor is made. A correction with a new
    factor is an iteration of Newton's method, and of these each lane has ``options.most``.

    Corrections that do not get smaller end the iteration at the level of rounding, or at sqrt(eps) where they are
    Newton's own: with a factor from elsewhere they may as well be those of an iteration that diverges.

    The problem's own ``jacobian`` may be an approximation, of which a new factor is no better. So after a new one there
    is an iteration that keeps it, and once there were ``options.most`` the last one goes on while corrections shrink.

    Args:
        problem: The problem.
        a: Weights, s rows of s.
        t: Times of the stages, float64, ``(L, s)``.
        h: Lengths of the steps, float64, ``(L,)``.
        base: What the stages add to, leaves ``(L, *state)``.
        k: Slopes to begin with, ``(L, s, D)``.
        alive: Lanes to solve, bool, ``(L,)``, on the CPU.
        options: See there.
        slot: What lanes keep.

    Yields:
        One `Iteration` for each iteration.

    Returns:
        Slopes ``(L, s, D)``, ``alive`` without the lanes that did not converge, and the slot.
    """
    guess, k, asked = k.detach(), k.detach(), False
    supplied = derivatives_of(problem).matrix is not None
    allowed = _Allowed(base, h, options.rtol, exact=not supplied)
    step = h.detach()
    renew: Bools = ~((step - slot.h).abs() <= SAME_STEP * step.abs()).cpu().numpy()
    own = renew.copy()  # lanes whose factor was made for this very system
    made = np.zeros(len(alive), dtype=np.int64)
    before = mark = np.full(len(alive), np.inf)
    active: Bools = alive.numpy().copy()
    failed: Bools = ~active
    for iteration in range(options.most * SLOWER):
        failed = failed | (active & renew & (made == options.most))
        active = active & ~failed
        if not active.any():
            break
        makes = bool((renew & active).any())
        made = made + (renew & active)
        masks = torch.from_numpy(active), torch.from_numpy(renew)
        delta, stiffness, took, new = yield Iteration(problem, a, makes), t, h, base, k, *masks, tuple(slot)
        asked = asked or bool(took[:, 2].any())
        slot = Slot(*new) if makes else slot
        last, k = k, k + delta
        progress = allowed.progress(delta, k, stiffness, before, renew, own)
        # Corrections that grow are taken back, unless they are Newton's own, with a factor from this very point.
        spent = (made == options.most) if supplied else np.zeros_like(renew)
        back = active & progress.grows & ~renew & ~spent
        failed = failed | (active & ~progress.finite & (renew | spent))
        if iteration % PATIENCE == 0:
            failed, mark = failed | (active & spent & ~progress.done & (progress.change >= mark)), progress.change
        active = active & ~progress.done & ~failed
        before = np.where(back, np.where(own, before, np.inf), progress.change)
        if back.any():
            k = torch.where(_on_lanes(back, k), torch.where(_on_lanes(own, k), last, guess), k)
        slow = progress.slow & ~renew if supplied else progress.slow
        renew = active & (slow | back) & ~spent
        own = own | renew
    solved = torch.from_numpy(~(failed | active))
    if asked and torch.is_grad_enabled():
        k = yield from with_gradient(problem, a, t, h, base, k, solved)
    return k, solved, slot


def _on_lanes(mask: Bools, like: Tensor) -> Tensor:
    """A mask of lanes beside slopes, ``(L, 1, 1)``."""
    return torch.from_numpy(mask).to(like.device)[:, None, None]


class _Progress(NamedTuple):
    """What a correction says, of each lane.

    Attributes:
        change: Its size, in roundings of the tolerance.
        done: No further one is needed.
        slow: The rate asks for too many further ones.
        grows: It was no smaller than the one before, or is not finite.
        finite: All numbers are.
    """

    change: Floats
    done: Bools
    slow: Bools
    grows: Bools
    finite: Bools


class _Allowed:
    """The errors that lanes may have; decisions are made on the CPU, from one transfer an iteration."""

    def __init__(self, base: State, h: Tensor, rtol: float | None, exact: bool) -> None:
        self._noise, self._exact = precisions(base), exact
        self._coarsest, self._finest = (max(rtol or 0.0, edge(self._noise)) for edge in (max, min))
        # In units of the tolerance, which differs between leaves of different precision.
        self._unit = None if self._coarsest == self._finest else units(base, rtol)
        self._size = to_vector(base, 1).detach().abs().amax(1).double().clamp(min=least_size(base)).cpu().numpy()
        self._length = h.detach().abs().cpu().numpy()

    def progress(
        self, delta: Tensor, k: Tensor, stiffness: Tensor, before: Floats, new: Bools, own: Bools
    ) -> _Progress:
        """What a correction says; the factors of ``own`` lanes are of this system, those of ``new`` of this point."""
        sizes = delta.abs().amax((1, 2))
        weighed = sizes if self._unit is None else (delta.abs() / self._unit.to(delta)).amax((1, 2))
        read = torch.stack([part.double() for part in (sizes, weighed, k.abs().amax((1, 2)), stiffness)]).cpu().numpy()
        with np.errstate(all="ignore"):
            number, change = self._length * read[:2]
            change = change / (self._coarsest if self._unit is None else 1.0)
            scale = self._size + self._length * read[2]
            finite = np.isfinite(change) & np.isfinite(scale)
            known = np.isfinite(before)
            rate = change / before  # 0 where there was none before
            left = change * np.maximum(rate, LEAST_RATE) / (1 - rate)
            done = (change <= scale) | (known & (rate < 1) & (left <= scale))
            noise = np.where(new, max(self._noise), min(self._noise))
            prompt = np.minimum(noise * (BESIDE + read[3]), MOST_NOISE)
            done |= known & (rate < PROMPT) & (number <= prompt * scale)
            floor = np.minimum(ROUNDINGS * noise * (BESIDE + read[3] * own), MOST_NOISE)
            floor = np.where(new & self._exact, np.maximum(floor, self._finest**0.5), floor)
            done |= (change >= before) & (number <= floor * scale)
            done &= finite
            slow = known & ~((rate < 1) & (rate**PATIENCE * left <= scale))
        return _Progress(change, done, slow, ~done & (~finite | (known & ~(rate < 1))), finite)
