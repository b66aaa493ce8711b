"""Simplified Newton: a Jacobian and its factorisation serve for many iterations, stages and steps.

What may be shared, so that the result of a lane is a function of its own slice alone:

- A matrix that is the same for all states and times (``linear=True``) serves all lanes of a run. It is taken at a
  reference, and factorised for a rounded step size, neither of which depends on who asks first.
- Any other matrix stays with its lane, from the first step of its slice on, and is dropped at its end: `Implicit` keeps
  it beside the state, and every slice begins without one.

Whether a factor is still good enough is measured lane by lane, by the rate at which corrections get smaller.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.integrators._adjoint import Adjoint
from parareal.integrators._base import Cost
from parareal.integrators._factors import Factors, Parts, factors_for, pattern_of
from parareal.integrators._newton import (
    MOST_NOISE,
    ROUNDINGS,
    Correction,
    Matrix,
    Options,
    System,
    to_state,
    to_vector,
    units,
)
from parareal.problem._derivatives import derivatives_of

PATIENCE = 8
"""Iterations that a factor may still need; a new one costs about as much as that many (benchmarks/implicit.py)."""

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
    """The function that is asked for in an iteration: equal for the same system, so that lanes of groups join.

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
            slot: Their `Slot`, or ``()`` where all lanes of a run share one matrix.
            rows: Per-sample data, leaves ``(L, ...)``.

        Returns:
            Corrections ``(L, s, D)``, zero for lanes that want none; the size of h J A; what they took, int64, on the
            CPU, ``(L, 3)``: evaluations, those that follow one another, and whether gradients are asked for; and the
            slot, where ``makes``.
        """
        active, renew = active.cpu(), renew.cpu()
        took = torch.zeros(len(active), 3, dtype=torch.int64)
        made = Slot(*slot) if slot else ()
        if not active.any():
            return torch.zeros_like(k), torch.zeros_like(h), took, made if self.makes else ()
        index = None if active.all() else active.nonzero()[:, 0].to(k.device)
        if index is not None:
            t, h, base, k = t[index], h[index], trees.lanes(base, index), k.index_select(0, index)
            rows = None if rows is None else trees.lanes(rows, index)
        system = System(self.problem, self.a, t, h, base, k, rows)
        with torch.no_grad():
            if isinstance(made, Slot):
                if self.makes:
                    made, evaluations = self._renewed(system, made, renew, active)
                    took[renew & active, 0] = evaluations
                used = made if index is None else trees.lanes(made, index)
                delta, stiffness = self._factors(k).solve(used.parts, system.residual), used.stiffness
            else:
                delta, stiffness = _by_shared(self.problem, self.a, system, base)
        took[active, 0] += k.shape[1]
        took[active, 1], took[active, 2] = 1, int(system.residual.requires_grad)
        if index is not None:
            delta = delta.new_zeros(len(active), *delta.shape[1:]).index_copy(0, index, delta)
            stiffness = stiffness.new_zeros(len(active)).index_copy(0, index, stiffness)
        return delta, stiffness, took, made if self.makes else ()

    varies = False
    """All lanes take the same time."""

    def cost(self, value: tuple[Tensor, Tensor, Tensor, Any], lanes: int) -> Cost:
        """Those of the lanes that wanted a correction."""
        evaluations, rounds, _ = value[2].unbind(1)
        return Cost(int(evaluations.sum()), int(rounds.max()))

    def _factors(self, k: Tensor) -> Factors:
        return factors_for(self.problem, k[:, 0], k.shape[1])

    def _renewed(self, system: System, slot: Slot, renew: Tensor, active: Tensor) -> tuple[Slot, int]:
        """The slots of all lanes, new ones where they are wanted, and the evaluations that one of these takes."""
        want = renew & active
        among = None if want.equal(active) else renew[active].nonzero()[:, 0].to(system.k.device)
        factors, h = self._factors(system.k), system.h if among is None else system.h[among]
        jacobian, evaluations = system.matrices(among)
        new = Slot(h.double(), factors.row_sums(jacobian, system.a, h), factors.of(jacobian, system.a, h))
        if want.all():
            return new, evaluations
        places = want.nonzero()[:, 0].to(system.k.device)
        return trees.map(lambda old, made: old.index_copy(0, places, made), slot, new), evaluations


# --- one matrix for all lanes of a run -----------------------------------------------------------------------------


def rounded(h: float) -> float:
    """A step, to 36 binary digits: steps of a uniform grid differ in their last ones alone."""
    fraction, exponent = math.frexp(h)
    return math.ldexp(round(math.ldexp(fraction, 36)), exponent - 36)


def _by_shared(problem: Any, a: Matrix, system: System, base: State) -> tuple[Tensor, Tensor]:
    """Corrections, and the size of h J A, with the matrix of the run."""
    known = system.known
    assert known.kept is not None
    jacobian = _shared_matrix(problem, system, base)
    factors, k = factors_for(problem, system.k[:, 0], system.s), system.k
    place = str(k.device), k.dtype, a

    def made(step: float) -> Slot:
        h = torch.tensor([step], dtype=k.dtype, device=k.device)
        each = jacobian.expand(1, system.s, *jacobian.shape[2:])
        return Slot(h.double(), factors.row_sums(each, system.a, h), factors.of(each, system.a, h))

    steps = [rounded(step) for step in system.h.double().tolist()]
    delta, stiffness = torch.empty_like(system.residual), torch.empty_like(system.stiffness)
    for step in dict.fromkeys(steps):
        lanes = torch.tensor([i for i, one in enumerate(steps) if one == step], device=k.device)
        slot = known.kept.get((*place, step), lambda step=step: made(step))
        if len(lanes) == len(steps):
            return factors.solve(slot.parts, system.residual), slot.stiffness.expand(len(steps)).clone()
        delta[lanes] = factors.solve(slot.parts, system.residual[lanes])
        stiffness[lanes] = slot.stiffness
    return delta, stiffness


def _shared_matrix(problem: Any, system: System, base: State) -> Tensor:
    """df/du at the reference, ``(1, 1, D, D)`` or its entries: zero at the start of the run."""
    known, like = system.known, system.k
    assert known.kept is not None
    kept = known.kept

    def made() -> Tensor:
        zero = trees.map(lambda leaf: torch.zeros_like(leaf[:1]), base)
        time = torch.full((1,), kept.times[0], dtype=torch.float64, device=like.device)
        reference = System(problem, ((1.0,),), time[:, None], torch.zeros_like(time), zero, like[:1, :1] * 0, None)
        jacobian, _ = reference.matrices()
        if not kept.affine:
            _check_affine(problem, system, base, jacobian)
            kept.affine = True
        return jacobian

    return kept.get((str(like.device), like.dtype, "matrix"), made)


def _check_affine(problem: Any, system: System, base: State, jacobian: Tensor) -> None:
    """Raises ValueError unless f differs between two states by the matrix times their difference, at three times."""
    assert system.known.kept is not None
    matrix, structure = jacobian[0, 0], system.known.structure
    matrix = pattern_of(structure, system.D).dense(matrix) if structure is not None and matrix.ndim == 1 else matrix
    u = to_vector(trees.lanes(base, slice(0, 1)), 1).detach()
    generator = torch.Generator().manual_seed(0)
    sizes = u.abs().max().clamp(min=1.0) if bool(torch.isfinite(u).all()) else u.new_ones(())
    u = torch.where(torch.isfinite(u), u, 0.0)
    start, end = system.known.kept.times
    like = trees.lanes(base, slice(0, 1))
    eps = max(torch.finfo(leaf.dtype).eps for leaf in trees.leaves(base))
    for part in (0.0, 0.37, 1.0):
        change = torch.randn(u.shape, generator=generator, dtype=torch.float64).to(u) * sizes
        t = torch.full((1,), start + part * (end - start), dtype=torch.float64, device=u.device)
        one, two = (to_vector(problem.rhs(t, to_state(x, like, 1)), 1)[0] for x in (u, u + change))
        expected, actual = matrix @ change[0], two - one
        if not bool(torch.isfinite(actual).all()):
            continue
        scale = (matrix.abs() @ (change[0].abs() + u[0].abs())).amax() + one.abs().amax()
        off = (actual - expected).abs().amax()
        if bool(off > eps**0.5 * scale):
            raise ValueError(
                f"linear=True, but f(t, u + v) - f(t, u) at t={float(t):.6g} is off df/du v by {float(off):.3g}, where "
                f"its size is {float(actual.abs().amax()):.3g}; expected f affine in u, with a matrix that does not "
                "depend on t, and jacobian= and structure= to agree with it. Otherwise leave linear=False"
            )


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
    slot: Slot | None,
) -> Generator[tuple[Any, ...], Any, tuple[Tensor, Tensor, Slot | None]]:
    """Simplified Newton for s stages of L lanes at once; see `solve_stages` for the arguments.

    With a factor that is kept, corrections shrink by a rate q, measured from two of them; what is still missing is
    then q / (1 - q) of the last. A lane whose rate asks for more than `PATIENCE` further iterations gets a new factor
    at the point where it is. Where corrections grow with a factor from an earlier step, it begins anew, as if it had
    had none.

    Args:
        slot: What lanes keep; ``None`` where they share one matrix, which is never made anew.

    Returns:
        Slopes ``(L, s, D)``, ``alive`` without the lanes that did not converge, and the slot.
    """
    with torch.no_grad():
        unit = units(base, options.rtol)
        size, length = to_vector(base, 1).abs().amax(1).double(), h.abs()
    coarsest, finest = float(unit.max()), float(unit.min())
    guess, k, asked = k.detach(), k.detach(), False
    nothing = torch.zeros(len(alive), dtype=torch.bool)
    renew = nothing if slot is None else ~((h - slot.h).abs() <= SAME_STEP * length).cpu()
    own = renew.clone()  # lanes whose factor was made for this very system
    before = torch.full_like(length, torch.inf)
    active, failed = alive, ~alive
    for _ in range(options.most):
        if not active.any():
            break
        makes = bool((renew & active).any())
        given = () if slot is None else tuple(slot)
        delta, stiffness, took, new = yield Iteration(problem, a, makes), t, h, base, k, active, renew, given
        asked |= bool(took[:, 2].any())
        slot = Slot(*new) if makes else slot
        with torch.no_grad():
            k = k + delta
            change = length * (delta.abs() / unit.to(delta)).amax((1, 2)).double()
            scale = size + length * k.abs().amax((1, 2)).double()
            rate = change / before  # 0 where there was none before
            known = torch.isfinite(before)
            left = change * rate / (1 - rate)
            floor = (ROUNDINGS * stiffness).clamp(max=MOST_NOISE / coarsest).clamp(min=finest**-0.5)
            done = (change <= scale) | (known & (rate < 1) & (left <= scale))
            done |= (change >= before) & (change <= floor * scale)
            slow = known & ~((rate < 1) & (rate**PATIENCE * left <= scale))
            finite = torch.isfinite(change) & torch.isfinite(scale)
            grows = ~finite | (known & (rate >= 1))
            # The one transfer from the device.
            done, slow, finite, grows = torch.stack([done & finite, slow, finite, grows]).cpu()
        if slot is None:
            renew, again = nothing, nothing
            failed = failed | (active & ~finite)
        else:
            again = active & ~done & grows & ~own
            renew = active & ~done & (slow | again)
            failed = failed | (active & ~finite & own)
            own = own | renew
        active = active & ~done & ~failed
        before = change
        if again.any():
            where = again.to(k.device)
            k = torch.where(where[:, None, None], guess, k)
            before = torch.where(where, torch.inf, before)
    solved_lanes = ~(failed | active)
    if asked and torch.is_grad_enabled():
        k = yield from _with_gradient(problem, a, t, h, base, k, solved_lanes)
    return k, solved_lanes, slot


def _with_gradient(
    problem: Any, a: Matrix, t: Tensor, h: Tensor, base: State, k: Tensor, alive: Tensor
) -> Generator[tuple[Any, ...], Any, Tensor]:
    """The same slopes, with the gradient of the implicit function.

    A step of Newton's method from the solution has its derivative, and a second one the derivatives of second order;
    of the values nothing is changed.
    """
    known = derivatives_of(problem)
    if known.structure is not None:
        delta, *_ = yield Adjoint(problem, a), t, h, base, k, alive
        return k + (delta - delta.detach())
    for _ in range(2):
        delta, *_ = yield Correction(problem, a, None), t, h, base, k, alive
        k = k + (delta - delta.detach())
    return k
