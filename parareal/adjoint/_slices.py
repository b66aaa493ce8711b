"""Gradients through slices: each is computed once more from its boundary state, and differentiated part by part.

A part of a few steps is computed with its graph, differentiated, and dropped. The parts are walked from the last to the
first, and the states in between are computed anew, level by level. So the memory of a lane is that of the graph of one
part and of a few states, whatever the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.host import entries, index_to
from parareal._core.multistep_state import Carried, without_history
from parareal._core.scopes import of_torch
from parareal._core.trees import State
from parareal.adjoint._dependencies import check_all_known, now
from parareal.engine._lanes import ActiveLanes
from parareal.engine._rounds import Counters, play_round
from parareal.executors._base import Executor, whole
from parareal.grid._mesh import Mesh
from parareal.integrators._base import Integrator, Multistep

PART = 16
"""Most steps of a slice whose graph is held at a time."""
BRANCHES = 8
"""Most parts that a longer piece is cut into. Each level costs one more forward pass."""


class _Here(Executor):
    """All lanes in one call, inside of a call of the run's executor, which says what numbers of lanes ``f`` may see."""

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        return whole(fn, args, lanes)

    def calls(self, lanes: int) -> int:
        return 1


_HERE = _Here()


class _PlainMesh(Mesh):
    """A mesh whose times have a graph: no function of them is computed from what the host knows instead."""

    def times(self, at: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """The points of these numbers."""
        return entries(self.points, at)


@dataclass
class Spent:
    """Rounds one after another, and evaluations."""

    rounds: int = 0
    evaluations: int = 0

    def add(self, rounds: int, evaluations: int) -> None:
        """Adds those of one call."""
        self.rounds += rounds
        self.evaluations += evaluations


@dataclass(eq=False)
class Totals:
    """Sums of gradients over lanes, beside those of their states.

    Attributes:
        params: The tensors that need gradients, of those that the right-hand side depends on.
        rows: Per-sample data of the systems, leaves ``(M, ...)``, of which those in ``row_leaves`` need gradients.
        row_leaves: Numbers of leaves of ``rows``.
        points: Whether times need gradients.
        param_sums: Gradients of ``params``, ``None`` where nothing depends on one.
        row_sums: Gradients of the leaves of ``rows``.
        point_sum: The gradient with respect to the points of the mesh.
    """

    params: list[Tensor]
    rows: State
    row_leaves: list[int]
    points: bool
    param_sums: list[Tensor | None] = field(default_factory=list)
    row_sums: list[Tensor] = field(default_factory=list)
    point_sum: Tensor | None = None

    def __post_init__(self) -> None:
        leaves = [] if self.rows is None else trees.leaves(self.rows)
        self.param_sums = [None] * len(self.params)
        self.row_sums = [torch.zeros_like(leaves[i]) for i in self.row_leaves]


@dataclass(frozen=True, eq=False)
class Slices:
    """One propagator on all slices.

    Attributes:
        problem: The bound problem.
        fine: The bound propagator.
        mesh: The points that it visits.
        carries_history: Whether states at boundaries carry the history of a multistep method.
    """

    problem: Any
    fine: Integrator
    mesh: Mesh
    carries_history: bool

    @property
    def threads(self) -> bool:
        """Whether steps may be made in other threads, as those of other libraries' solvers."""
        return ".external." in type(self.fine).__module__

    @property
    def steps(self) -> int:
        """Steps of the longest slice."""
        return int(self.mesh.count.max())

    def through(self, n: Ints, u: State, rows: State, begin: int, end: int, spent: Spent) -> State:
        """States of L lanes after the steps from number ``begin`` to before ``end`` of their slices ``n``.

        A lane whose slice has fewer steps keeps its state.
        """
        mesh, multistep = self.mesh, self.fine if isinstance(self.fine, Multistep) else None
        left = np.minimum(mesh.count[n], end) - begin
        ids = np.flatnonzero(left > 0)
        if not len(ids):
            return u
        which, every = n[ids], len(ids) == len(n)
        index = None if every else index_to(mesh.points.device, ids)
        part, data = (one if index is None or one is None else trees.lanes(one, index) for one in (u, rows))
        number = None
        if multistep is not None:
            done, total = np.zeros(len(ids), dtype=np.int64), mesh.count[which]
            if self.carries_history:
                done, total = (mesh.count.cumsum() - mesh.count)[which], np.full(len(ids), mesh.count.sum())
            number = np.stack([done + begin, total], 1)
        lanes = ActiveLanes(self.problem, self.fine, mesh, carries_history=multistep is not None, places=len(n))
        counters = Counters()
        try:
            lanes.launch_at(ids, mesh.start[which] + begin, left[ids], part, data, number)
            while play_round([lanes], _HERE, counters):
                pass
            arrived = lanes.take_arrived()
        finally:
            lanes.close()
        spent.add(counters.rounds, lanes.evaluations)
        order = np.concatenate([those for those, _ in arrived]).argsort()
        new = trees.cat([state for _, state in arrived])
        if len(arrived) > 1:
            new = trees.lanes(new, index_to(mesh.points.device, order))
        return new if index is None else trees.map(lambda old, one: old.index_copy(0, index, one), u, new)

    def opened(self, u: State) -> State:
        """States at left boundaries as steps take them."""
        if isinstance(self.fine, Multistep) and not self.carries_history:
            return Carried(u, self.fine.begin(u))
        return u

    def closed(self, u: State) -> State:
        """States after the last step as boundaries have them."""
        return u if self.carries_history else without_history(u)

    def pull(
        self,
        n: Ints,
        u: State,
        cotangent: State,
        rows: State,
        spent: Spent,
        inner: State = None,
        totals: Totals | None = None,
        system: Tensor | None = None,
        basis: bool = False,
        starts: list[State] | None = None,
        known: list[Tensor] | None = None,
    ) -> State:
        """The transposed derivative of slices, applied to ``cotangent``.

        Args:
            n: Slices, ``(L,)``.
            u: States at their left boundaries, leaves ``(L, *state)``.
            cotangent: Gradients with respect to the states at their right boundaries, leaves ``(L, *state)``.
            rows: Per-sample data, leaves ``(L, ...)``, or ``None``.
            spent: Takes the cost.
            inner: Gradients with respect to the states after each step, leaves ``(L, S, *state)``; zero after the
                last step of a slice.
            totals: Takes the gradients with respect to all else.
            system: The systems of the lanes, ``(L,)``, for ``totals``.
            basis: Whether cotangents are many for each lane, leaves ``(K, L, *state)``, and so is the result.
            starts: What `starts` returns for these lanes, if it is known.
            known: The tensors that the right-hand side depends on: others that need gradients are an error. ``None``
                where nobody asks.

        Returns:
            Gradients with respect to ``u``.
        """
        job = _Job(self, n, rows, spent, inner, totals, system, basis, known)
        with torch.no_grad():
            return job.back(0, self.steps, u, cotangent, starts)

    @property
    def parts(self) -> list[int]:
        """Where slices are cut, at the highest level: numbers of steps, from 0 to that of the longest slice."""
        return _cuts(0, self.steps)

    def starts(self, n: Ints, u: State, rows: State, spent: Spent) -> list[State]:
        """States at the cuts inside slices, from those at their left boundaries."""
        return self.between(self.parts, n, u, rows, spent)

    def between(self, cuts: list[int], n: Ints, u: State, rows: State, spent: Spent) -> list[State]:
        """States at all cuts but the first and the last."""
        out: list[State] = []
        u = self.opened(u) if cuts[0] == 0 else u
        for a, b in pairwise(cuts[:-1]):
            u = self.through(n, u, rows, a, b, spent)
            out.append(u)
        return out


def _cuts(begin: int, end: int) -> list[int]:
    size = PART
    while size * BRANCHES < end - begin:
        size *= BRANCHES
    return [*range(begin, end, size), end]


@dataclass(eq=False)
class _Job:
    """A backward pass through L slices; see `Slices.pull`."""

    slices: Slices
    n: Ints
    rows: State
    spent: Spent
    inner: State
    totals: Totals | None
    system: Tensor | None
    basis: bool
    known: list[Tensor] | None

    def back(self, begin: int, end: int, u: State, cotangent: State, starts: list[State] | None = None) -> State:
        """Through the steps from ``begin`` to before ``end``."""
        if end - begin <= PART:
            return self._differentiated(begin, end, u, cotangent)
        cuts = _cuts(begin, end)
        if starts is None:
            starts = self.slices.between(cuts, self.n, u, self.rows, self.spent)
        starts = [u, *starts]
        for a, b in reversed([*pairwise(cuts)]):
            cotangent = self.back(a, b, starts.pop(), cotangent)
        return cotangent

    def _differentiated(self, begin: int, end: int, u: State, cotangent: State) -> State:
        slices, totals, spent, mark = self.slices, self.totals, Spent(), now(self.slices.threads)
        u = trees.map(lambda leaf: leaf.detach().requires_grad_(), u)
        rows, points = self.rows, None
        if totals is not None and totals.row_leaves:
            data = [leaf.detach() for leaf in trees.leaves(rows)]
            rows = trees.rebuild([one.requires_grad_(i in totals.row_leaves) for i, one in enumerate(data)], rows)
        if totals is not None and totals.points:
            points = slices.mesh.points.detach().clone().requires_grad_()
            mesh = _PlainMesh(points, slices.mesh.on_host, slices.mesh.start, slices.mesh.count)
            slices = replace(slices, mesh=mesh)
        outputs, gradients = list[Tensor](), list[Tensor]()
        with torch.enable_grad():
            state = slices.opened(u) if begin == 0 else u
            for a, b in [(begin, end)] if self.inner is None else [(a, a + 1) for a in range(begin, end)]:
                state = slices.through(self.n, state, rows, a, b, spent)
                if self.inner is not None:
                    outputs += trees.leaves(without_history(state))
                    gradients += [leaf[:, a] for leaf in trees.leaves(self.inner)]
            outputs += trees.leaves(slices.closed(state) if end == slices.steps else state)
            gradients += trees.leaves(cotangent)
        wanted = trees.leaves(u)
        if self.known is not None:
            mine = [leaf for leaf in trees.leaves((u, rows, points)) if isinstance(leaf, Tensor)]
            check_all_known(outputs, mark, [*self.known, *mine])
        if totals is not None:
            wanted = [*wanted, *totals.params, *[trees.leaves(rows)[i] for i in totals.row_leaves]]
            wanted += [] if points is None else [points]
        found = self._gradients(outputs, wanted, gradients)
        self.spent.add(2 * spent.rounds, spent.evaluations * (1 + (len(gradients[0]) if self.basis else 1)))
        count = len(trees.leaves(u))
        if totals is not None:
            self._add(totals, found[count:], points is not None)
        lead = gradients[0].shape[:1] if self.basis else ()
        full = [
            leaf.new_zeros(*lead, *leaf.shape) if one is None else one
            for leaf, one in zip(trees.leaves(u), found[:count], strict=True)
        ]
        return trees.rebuild(full, u)

    def _gradients(self, outputs: list[Tensor], wanted: list[Tensor], cotangents: list[Tensor]) -> list[Tensor | None]:
        pairs = [(one, to) for one, to in zip(outputs, cotangents, strict=True) if one.requires_grad]
        if not pairs:
            return [None] * len(wanted)
        outputs, cotangents = [one for one, _ in pairs], [to for _, to in pairs]
        if not self.basis:
            # Kept, for what the right-hand side has computed before the run may be part of the graph.
            return list(torch.autograd.grad(outputs, wanted, cotangents, allow_unused=True, retain_graph=True))
        try:
            return list(
                torch.autograd.grad(
                    outputs, wanted, cotangents, allow_unused=True, retain_graph=True, is_grads_batched=True
                )
            )
        except RuntimeError as error:
            if not of_torch(error):
                raise
            # An operation whose derivative vmap does not know.
            each = [
                torch.autograd.grad(outputs, wanted, [to[k] for to in cotangents], allow_unused=True, retain_graph=True)
                for k in range(len(cotangents[0]))
            ]
            return [None if parts[0] is None else torch.stack(parts) for parts in zip(*each, strict=True)]

    def _add(self, totals: Totals, found: list[Tensor | None], points: bool) -> None:
        """Adds gradients to the totals."""
        count = len(totals.params)
        for i, gradient in enumerate(found[:count]):
            if gradient is not None:
                before = totals.param_sums[i]
                totals.param_sums[i] = gradient if before is None else before + gradient
        for into, gradient in zip(totals.row_sums, found[count : count + len(totals.row_leaves)], strict=True):
            if gradient is not None:
                assert self.system is not None
                into.index_add_(0, self.system, gradient)
        if points and found[-1] is not None:
            totals.point_sum = found[-1] if totals.point_sum is None else totals.point_sum + found[-1]
