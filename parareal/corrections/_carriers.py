"""Methods that carry tangents beside the state where these do not go through the same steps by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.forward_mode import derivatives_for
from parareal._core.multistep_state import Carried, without_history
from parareal._core.trees import State
from parareal.integrators._base import Integrator
from parareal.integrators._implicit import Implicit
from parareal.integrators._propagator import Propagator
from parareal.integrators._stage_systems import Matrix, to_state, to_vector
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import Stages


@dataclass(frozen=True)
class Carrier(Integrator):
    """A method for states with tangents beside them, ``(u, V)``, for `Jacobian`.

    Attributes:
        method: The method for states alone.
        jacobian: The correction that the tangents are for, bound.
    """

    method: Any
    jacobian: Any

    @property
    def traits(self) -> IntegratorTraits:
        """Those of the method."""
        return self.method.traits


@dataclass(frozen=True)
class ImplicitCarrier(Carrier):
    """An implicit method: the slopes K of tangents V solve K_i = J_i (V + h sum_j a_ij K_j).

    The J_i are the derivatives with which Newton's method made its last correction, so that tangents cost no further
    evaluation and no round. They are off by as little as that correction was. Where systems are solved with a
    factorisation that is kept, they are taken at the solution, in one more round, or are the matrix of the run.
    """

    method: Implicit

    def begin_slice(self, problem: Any, u: State) -> Any:
        """The factorisations that the method keeps."""
        return self.method.begin_slice(problem.plain, u[0])

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """One step of states and tangents."""
        method, (state, tangents) = self.method, without_history(u)
        solver = method.solver(problem.plain, Carried(state, u.memory) if isinstance(u, Carried) else state)
        solver.derivatives = []
        k, alive = yield from method.slopes(solver, t0, t1, state)
        new, jacobian = method.stepped(t1 - t0, state, k, alive), torch.cat(solver.derivatives, 1)
        table, h = method.table, (t1 - t0).to(k.dtype)
        a = tuple((*row, *[0.0] * (len(table.b) - len(row))) for row in table.a)
        if self.jacobian.kind == "full":
            rows = to_vector(tangents, 2)
            moved = to_state(_stepped(a, table.b, h, jacobian, rows), tangents, 2)
            return solver.carried((new, moved))
        slopes = _diagonals(jacobian, state)

        def each(part: Tensor, diagonal: Tensor) -> Tensor:
            # Elements on their own: systems of one number.
            numbers = part.reshape(len(part), -1, 1).transpose(0, 1)
            factors = diagonal.reshape(*diagonal.shape[:2], -1, 1, 1).movedim(2, 0)
            moved = torch.func.vmap(lambda x, d: _stepped(a, table.b, h, d, x.unsqueeze(1)))(numbers, factors)
            return moved.transpose(0, 1).reshape(part.shape)

        return solver.carried((new, trees.map(each, tangents, slopes)))


def _stepped(a: Matrix, b: tuple[float, ...], h: Tensor, jacobian: Tensor, rows: Tensor) -> Tensor:
    """One step of tangents, which are rows ``(L, d, D)``, with the derivatives at the stages, ``(L, s, D, D)``."""
    h, by = h[:, None, None], jacobian.mT  # a row times it is what becomes of a tangent
    stages, size = len(b), rows.shape[-1]
    eye = torch.eye(size, dtype=rows.dtype, device=rows.device)
    if all(a[i][j] == 0.0 for i in range(stages) for j in range(i + 1, stages)):
        slopes = list[Tensor]()
        for i in range(stages):
            base = rows
            for weight, slope in zip(a[i], slopes, strict=False):
                base = base + h * weight * slope if weight else base
            right = base @ by[:, i]
            slopes.append(right if a[i][i] == 0.0 else _divided(right, eye - h * a[i][i] * by[:, i]))
    else:
        right = torch.cat([rows @ by[:, i] for i in range(stages)], -1)
        blocks = [[(eye if i == j else 0.0) - h * a[i][j] * by[:, i] for i in range(stages)] for j in range(stages)]
        matrix = torch.cat([torch.cat(line, -1) for line in blocks], -2)
        slopes = list(_divided(right, matrix).split(size, -1))
    new = rows
    for weight, slope in zip(b, slopes, strict=True):
        new = new + h * weight * slope if weight else new
    return new


def _divided(right: Tensor, matrix: Tensor) -> Tensor:
    """X with X ``matrix`` = ``right``; NaN where the matrix is singular."""
    if matrix.shape[-1] == 1:
        return right / matrix
    solution, info = torch.linalg.solve_ex(matrix, right, left=False)
    return torch.where((info != 0)[:, None, None], torch.nan, solution)


def _diagonals(jacobian: Tensor, like: State) -> State:
    """The diagonals of derivatives ``(L, s, D, D)`` with respect to real numbers, leaves ``(L, s, *state)``.

    That of a complex element is its derivative along the real axis.
    """
    imaginary = trees.map(lambda leaf: torch.full_like(leaf[:1], 1j if leaf.is_complex() else 0.0), like)
    second = to_vector(imaginary, 1)[0] > 0
    own, below = jacobian.diagonal(0, 2, 3), torch.nn.functional.pad(jacobian.diagonal(-1, 2, 3), (1, 0))
    return to_state(torch.where(second, below, own), trees.map(lambda leaf: leaf.unsqueeze(1), like), 2)


@dataclass(frozen=True)
class PropagatorCarrier(Carrier):
    """A black box that `torch.func` can differentiate: the tangents are what its derivative makes of them."""

    method: Propagator

    @property
    def steps(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One: the whole slice."""
        return self.method.steps

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Stages:
        """The whole slice in one request."""
        return (yield self.propagate, t0, t1, u)

    def propagate(self, t0: Tensor, t1: Tensor, u: State, rows: State = None) -> State:
        """States and tangents at ``t1``."""
        state, tangents = u
        value = self.method.propagate(t0, t1, state)

        def slope(v: State) -> State:
            return trees.in_dtypes(torch.func.jvp(lambda x: self.method.along(t0, t1, x), (state,), (v,))[1], state)

        fix = ": replace what has none, or take another correction, such as pr.Secant, with differentiable=False"
        with derivatives_for("pr.Jacobian needs derivatives of fn", fix):
            return value, self.jacobian.rate(slope, state, tangents, self.method.batching == "loop")
