"""One matrix for all lanes of a run, where f is affine in the state and its matrix the same at all times.

The matrix is taken at a reference, zero at the start of the run, and factorised for a step close to that of the lane,
see `near`. Neither depends on which lane asks first, so that what a lane gets is what it gets alone.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.integrators._adjoint import with_gradient
from parareal.integrators._base import Cost
from parareal.integrators._factors import Factors, Parts, factors_for, pattern_of
from parareal.integrators._stage_systems import Matrix, System, to_state, to_vector

_CHECKS = 16
"""Times at which f is checked to be affine, with one matrix: all in one call."""


@dataclass(frozen=True)
class Solution:
    """The function that is requested once for each system: the correction that solves it.

    Attributes:
        problem: The problem.
        a: The weights that couple the stages, s rows of s.
        keep: Whether the matrix of the run is wanted too.
    """

    problem: Any
    a: Matrix
    keep: bool = False
    varies = False

    def __call__(
        self, t: Tensor, h: Tensor, base: State, k: Tensor, active: Tensor, rows: State = None
    ) -> tuple[Tensor, ...]:
        """One correction on L lanes; see `parareal.integrators._simplified.Iteration`.

        Returns:
            Corrections ``(L, s, D)``, NaN for lanes that want none; int64, on the CPU, ``(L, 2)``: evaluations, and
            whether gradients are asked for; and with ``keep`` the matrix of the run, at each stage, ``(L, s, D, D)``.
        """
        active = active.cpu()
        index = None if active.all() else active.nonzero()[:, 0].to(k.device)
        if index is not None:
            t, h, base, k = t[index], h[index], trees.lanes(base, index), k.index_select(0, index)
        if not len(k):
            took = torch.zeros(len(active), 2, dtype=torch.int64)
            nothing = (k.new_full((len(active), *k.shape[1:], k.shape[2]), torch.nan),) if self.keep else ()
            return k.new_full((len(active), *k.shape[1:]), torch.nan), took, *nothing
        system = System(self.problem, self.a, t, h, base, k, rows)
        with torch.no_grad():
            jacobian = _matrix(self.problem, system, base)
            delta = _solved(self.problem, self.a, system, jacobian)
            given = (_whole(system, jacobian[0, 0]).expand(len(active), system.s, -1, -1),) if self.keep else ()
        took = torch.tensor([k.shape[1], int(system.residual.requires_grad)]) * active[:, None]
        if index is not None:
            delta = delta.new_full((len(active), *delta.shape[1:]), torch.nan).index_copy(0, index, delta)
        return delta, took, *given

    def cost(self, value: tuple[Tensor, ...], lanes: int) -> Cost:
        """Those of the lanes that wanted a solution; the matrix of the run is not counted."""
        return Cost(sum(row[0] for row in value[1].tolist()), 1)


def solve_shared(
    problem: Any, a: Matrix, t: Tensor, h: Tensor, base: State, k: Tensor, alive: Tensor, keep: bool = False
) -> Generator[tuple[Any, ...], Any, tuple[Tensor, Tensor, Tensor | None]]:
    """Stages of L lanes, each in one correction; see `solve_stages`.

    With ``keep`` also returns the matrix of the run at each stage, ``(L, s, D, D)``, or ``None`` where gradients are
    asked for, which it does not have.
    """
    k = k.detach()
    delta, took, *given = yield Solution(problem, a, keep), t, h, base, k, alive
    k = k + delta
    alive = torch.isfinite(k).flatten(1).all(1).cpu()
    if torch.is_grad_enabled() and bool(took[:, 1].any()):
        k, given = (yield from with_gradient(problem, a, t, h, base, k, alive)), []
    return k, alive, given[0] if given else None


def near(h: float, times: tuple[float, float]) -> float:
    """The step to factorise for: a function of the step and the run alone, the same for all steps of a uniform grid.

    These differ in their last digits. An equal share of the run within 36 binary digits is taken, or, where there is
    none, the step to that many digits.
    """
    span = times[1] - times[0]
    count = round(span / h) if h else 0
    if count and abs(span / count - h) <= 2.0**-36 * abs(h):
        return span / count
    fraction, exponent = math.frexp(h)
    return math.ldexp(round(math.ldexp(fraction, 36)), exponent - 36)


def _solved(problem: Any, a: Matrix, system: System, jacobian: Tensor) -> Tensor:
    """Corrections, with the matrix of the run."""
    assert system.known.kept is not None
    k = system.k
    factors, place = factors_for(problem, k[:, 0], system.s), (str(k.device), k.dtype, a)

    def parts(step: float) -> Parts:
        h = torch.tensor([step], dtype=k.dtype, device=k.device)
        return factors.of(jacobian.expand(1, system.s, *jacobian.shape[2:]), system.a, h)

    latest = system.t.abs().unflatten(0, (system.L, system.s)).amax(1)
    exact, sizes = torch.stack([system.h.double(), latest]).tolist()
    steps = [near(step, system.known.kept.times) for step in exact]
    different = dict.fromkeys(steps)
    kept = {step: system.known.kept.get((*place, step), lambda step=step: parts(step)) for step in different}
    # A difference within the rounding of the grid's points is none.
    off = [
        step / one - 1 if abs(step - one) > 2.0**-51 * size else 0.0
        for step, one, size in zip(exact, steps, sizes, strict=True)
    ]
    if len(different) == 1:
        return _refined(factors, kept[steps[0]], system.residual, off)
    delta = torch.empty_like(system.residual)
    for step in different:
        lanes = [i for i, one in enumerate(steps) if one == step]
        index = torch.tensor(lanes, device=k.device)
        delta[index] = _refined(factors, kept[step], system.residual[index], [off[i] for i in lanes])
    return delta


def _refined(factors: Factors, parts: Parts, rhs: Tensor, off: list[float]) -> Tensor:
    """Solutions for steps that are off those of the factors by a little, relative to these.

    With M = I - h J A for such an h, the system of a step h (1 + q) is M x - q (x - M x) = rhs. So one solution lacks
    q M^-1 (x - rhs), but for q^2, which is below rounding.
    """
    x = factors.solve(parts, rhs)
    if not any(off):
        return x
    return x + torch.tensor(off, dtype=x.dtype, device=x.device)[:, None, None] * factors.solve(parts, x - rhs)


def _matrix(problem: Any, system: System, base: State) -> Tensor:
    """df/du at the reference, ``(1, 1, D, D)`` or its entries; f is checked before it is used first."""
    kept, like = system.known.kept, system.k
    assert kept is not None

    def made() -> Tensor:
        zero = trees.map(lambda leaf: torch.zeros_like(leaf[:1]), base)
        time = torch.full((1,), kept.times[0], dtype=torch.float64, device=like.device)
        reference = System(problem, ((1.0,),), time[:, None], torch.zeros_like(time), zero, like[:1, :1] * 0, None)
        jacobian, _ = reference.matrices()
        if not kept.affine:
            _check_affine(problem, system, base, jacobian)
            kept.affine = True
        return jacobian

    return kept.matrix((str(like.device), like.dtype), made)


def _whole(system: System, matrix: Tensor) -> Tensor:
    """A matrix, ``(D, D)``, of which there may be the entries alone."""
    structure = system.known.structure
    return matrix if structure is None or matrix.ndim == 2 else pattern_of(structure, system.D).dense(matrix)


def _check_affine(problem: Any, system: System, base: State, jacobian: Tensor) -> None:
    """Raises ValueError unless f differs between two states by the matrix times their difference, at all times."""
    assert system.known.kept is not None
    matrix = _whole(system, jacobian[0, 0])
    like = trees.lanes(base, torch.zeros(_CHECKS, dtype=torch.int64, device=matrix.device))
    u = torch.nan_to_num(to_vector(like, 1).detach(), 0.0, 0.0, 0.0)
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(u.shape, generator=generator, dtype=torch.float64).to(u) * u.abs().max().clamp(min=1.0)
    start, end = system.known.kept.times
    # Not evenly: a period of f shall not be a multiple of the distances.
    share = torch.linspace(0.0, 1.0, _CHECKS, dtype=torch.float64, device=u.device) ** 1.3
    t = start + share * (end - start)
    one, two = (to_vector(problem.rhs(t, to_state(x, like, 1)), 1) for x in (u, u + change))
    eps = max(torch.finfo(leaf.dtype).eps for leaf in trees.leaves(base))
    actual = two - one
    scale = ((change.abs() + u.abs()) @ matrix.abs().mT).amax(1) + one.abs().amax(1)
    off = (actual - change @ matrix.mT).abs().amax(1)
    wrong = (off > eps**0.5 * scale) & torch.isfinite(actual).all(1)
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        raise ValueError(
            f"linear=True, but f(t, u + v) - f(t, u) at t={float(t[at]):.6g} is off df/du v by {float(off[at]):.3g}, "
            f"where its size is {float(actual[at].abs().amax()):.3g}; expected f affine in u, with a matrix that does "
            "not depend on t, and jacobian= and structure= to agree with it. Otherwise leave linear=False"
        )
