"""Newton's correction: the derivative of the fine propagator, carried along beside the state."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import check_count, kind_of
from parareal._core.forward_mode import differentiating
from parareal._core.names import one_of
from parareal._core.trees import State
from parareal._core.vectors import added, flat, unflat
from parareal.corrections._base import Correction, Edge, Known, Sweep
from parareal.corrections._carriers import ImplicitCarrier, PropagatorCarrier
from parareal.corrections._linear import held
from parareal.corrections._scan import Factors
from parareal.corrections._traits import CorrectionTraits
from parareal.grid._mesh import Where
from parareal.integrators._implicit import Implicit
from parareal.integrators._propagator import Propagator
from parareal.integrators._timed import Timed
from parareal.problem._ode import ODE
from parareal.problem._semilinear import Semilinear

Kind: TypeAlias = Literal["full", "diagonal"]

_MOST_ELEMENTS = 512
"""Largest state for exact derivatives. Each lane carries a tangent for each element: a Jacobian of 2 MiB in float64."""


@dataclass(frozen=True)
class Jacobian(Correction):
    """J (new - old) with the derivative J of the fine propagator at the old input: Newton's method.

    The fine lanes carry tangents beside the state, through the same steps, so that J is the exact derivative of the
    discrete method; `torch.func` gives the derivatives of the right-hand side. Convergence is quadratic, and an affine
    equation is solved in one iteration. The correction costs no rounds, but it does cost work: every evaluation also
    computes one directional derivative for each tangent. They count as evaluations of the correction. The step of an
    implicit method has its derivatives at hand, and carries tangents without further evaluations, or, where it keeps a
    factorisation, with derivatives at the solution. A `Propagator` with
    ``differentiable=True`` is differentiated as a whole. Sweeps go by blocks of slices, a few sqrt(N) operations.

    Args:
        kind: ``"full"`` carries a tangent for each of the d elements of a state. ``"diagonal"`` is a quasi-Newton
            method: it follows only the diagonal of the right-hand side's derivative and carries one more state.
        probes: With ``"diagonal"`` and explicit methods, estimate the diagonal from this number of random sign vectors
            (Hutchinson's estimator, fixed seed) instead of d directional derivatives. Use it for large states.

    Raises:
        TypeError: ``probes`` is not an int.
        ValueError: ``kind`` is unknown, or ``probes`` comes with ``"full"``. From `solve`: the state is too large, or
            `torch.func` cannot differentiate the problem.

    Source:
        Parallelizing non-linear sequential models over the sequence length (DEER, arXiv 2309.12252); the diagonal:
        Towards Scalable and Stable Parallelization of Nonlinear RNNs (arXiv 2407.19115).

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: torch.sin(u.flip(0)) - u)
        >>> grid = pr.TimeGrid.uniform(0.0, 4.0, slices=100)
        >>> u0 = torch.tensor([1.0, -2.0], dtype=torch.float64)
        >>> sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=pr.Jacobian(), stop=pr.Tolerance(1e-10))
        >>> sol.iterations, sol.stats.rounds
        (6, 24)
    """

    kind: Kind = "full"
    probes: int | None = None
    signs: Tensor | None = dataclasses.field(default=None, init=False, repr=False, compare=False)
    size: int = dataclasses.field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        one_of(self.kind, get_args(Kind), "kind")
        if self.probes is not None:
            check_count(self.probes, "probes")
            if self.kind == "full":
                raise ValueError(f"probes={self.probes} came with kind='full'; expected kind='diagonal' for estimates")

    def bind(self, problem: Any, u0: State, grid: Any, fine: Any) -> Jacobian:
        """Checks that the problem can be differentiated, and how many derivatives that takes."""
        _check_differentiable(problem, u0, fine)
        size = sum(leaf.numel() for leaf in trees.leaves(u0))
        if size > _MOST_ELEMENTS and self.probes is None:
            raise ValueError(
                f"Jacobian({self.kind!r}) needs {size} directional derivatives for a state of {size} elements in every "
                f"evaluation; expected at most {_MOST_ELEMENTS}. Use Jacobian('diagonal', probes=2), or corrections "
                "that cost nothing, such as pr.Secant(pr.Identity())"
            )
        bound = dataclasses.replace(self)
        object.__setattr__(bound, "size", self.probes or size)
        if self.probes is not None:
            generator = torch.Generator().manual_seed(0)
            signs = torch.randint(0, 2, (self.probes, size), generator=generator) * 2 - 1
            object.__setattr__(bound, "signs", signs)
        return bound

    # --- what fine lanes carry ------------------------------------------------------------------------------------

    @property
    def traits(self) -> CorrectionTraits:
        """The number of directional derivatives with every evaluation is known once bound to a problem."""
        return CorrectionTraits(uses_input=True, stacked=True, factored=True, carries=self.size or 1)

    def lift(self, u: State) -> State:
        """States and tangents ``(u, V)``, V with leaves ``(L, d, *state)``, or ``(L, *state)`` for a diagonal."""
        if self.kind == "diagonal":
            return u, trees.map(torch.ones_like, u)
        vector = flat(u, 1)
        eye = torch.eye(vector.shape[1], dtype=vector.dtype, device=vector.device).expand(len(vector), -1, -1)
        return u, unflat(eye, trees.map(lambda leaf: leaf.unsqueeze(1), u), 2)

    def lifted(self, problem: Any) -> Lifted:
        """The problem for lifted states."""
        return Lifted(problem, self)

    def carrier(self, fine: Any) -> Any:
        """Implicit methods and propagators carry tangents in ways of their own."""
        if isinstance(fine, Timed) and isinstance(fine.inner, Implicit):
            return replace(fine, inner=ImplicitCarrier(fine.inner, self))
        if isinstance(fine, Implicit):
            return ImplicitCarrier(fine, self)
        return PropagatorCarrier(fine, self) if isinstance(fine, Propagator) else fine

    def rate(self, slope: Any, u: State, tangents: State, one_by_one: bool = False) -> State:
        """What the tangents change by, with ``slope(v)`` for the directional derivatives along ``v``.

        They are taken side by side by vmap, or ``one_by_one``.
        """
        if self.kind == "full" and one_by_one:
            count = trees.leaves(tangents)[0].shape[1]
            return trees.stack([slope(trees.map(lambda leaf, i=i: leaf[:, i], tangents)) for i in range(count)], 1)
        if self.kind == "full":
            # A leaf whose slope does not depend on the state comes out without the axis, which vmap adds in front only.
            return trees.map(lambda leaf: leaf.movedim(0, 1), torch.func.vmap(slope, in_dims=1)(tangents))
        vector = flat(u, 1)
        if self.signs is None:
            signs = torch.eye(vector.shape[1], dtype=vector.dtype, device=vector.device)
        else:
            signs = self.signs.to(vector)

        def along(sign: Tensor) -> Tensor:
            return flat(slope(unflat(sign.expand(vector.shape), u, 1)), 1) * sign

        each = torch.stack([along(sign) for sign in signs]) if one_by_one else torch.func.vmap(along)(signs)
        diagonal = added(each)
        diagonal = diagonal if self.signs is None else diagonal / len(signs)
        return trees.map(torch.mul, unflat(diagonal, u, 1), tangents)

    # --- the correction ---------------------------------------------------------------------------------------------

    def guess(self, at: Where, new: Known) -> State:
        """The state at the left end of the slice."""
        return new.u

    def guess_run(self, at: Where, u: State, before: tuple[Edge, ...]) -> State:
        """The same state at every slice boundary."""
        return held(at, u)

    def difference(self, at: Where, new: Known, old: Known) -> State:
        """J (new - old)."""
        return self._apply(old.tangents, trees.sub(new.u, old.u))

    def factors(self, at: Where, sweep: Sweep) -> Factors:
        """The derivatives that the fine lanes have brought."""
        assert sweep.old is not None
        tangents = sweep.old.tangents
        return Factors(tangents) if self.kind == "diagonal" else Factors(flat(tangents, 3), whole=True)

    def difference_run(self, at: Where, sweep: Sweep) -> State:
        """A sweep in blocks of slices."""
        return self.factors(at, sweep).sweep(sweep.moved, sweep.defects)

    def _apply(self, tangents: State, change: State) -> State:
        if self.kind == "diagonal":
            return trees.map(torch.mul, tangents, change)
        return unflat((flat(change, 1).unsqueeze(1) @ flat(tangents, 2)).squeeze(1), change, 1)


class Lifted:
    """A problem with its linearisation: its right-hand side maps states and tangents to their slopes."""

    def __init__(self, problem: ODE, jacobian: Jacobian) -> None:
        self.plain, self._jacobian = problem, jacobian

    def rhs(self, t: Tensor, lifted: State, rows: State = None) -> State:
        """The right-hand side and the change of the tangents."""
        u, tangents = lifted

        def slope(v: State) -> State:
            return trees.in_dtypes(torch.func.jvp(lambda x: self.plain.rhs(t, x, rows), (u,), (v,))[1], u)

        value = self.plain.rhs(t, u, rows)
        with differentiating():
            return value, self._jacobian.rate(slope, u, tangents)


def _check_differentiable(problem: Any, u0: State, fine: Any) -> None:
    """Raises unless tangents can be carried through the steps of ``fine``."""
    if isinstance(fine, Propagator) and fine.differentiable:
        return
    fine = fine.inner if isinstance(fine, Timed) else fine
    traits = fine.traits
    implicit = isinstance(fine, Implicit) and type(fine).step is Implicit.step
    # Another method whose work varies would take different steps with tangents than without them.
    other = (traits.evaluations is None and not implicit) or Semilinear in traits.solves or traits.multistep
    other |= traits.splits
    if other or not problem.traits.plain:
        raise ValueError(
            f"Jacobian came with {fine!r} for {kind_of(problem)}; expected a one-step method for "
            "an ODE, explicit or implicit, through whose steps tangents can be carried, or another correction: "
            "pr.Secant"
        )
    if not problem.traits.differentiable or isinstance(fine, Propagator):
        what = repr(fine) if problem.traits.differentiable else f'a problem with batching="{problem.batching}"'
        raise ValueError(
            f"Jacobian came with {what}, of which torch.func takes no derivatives; expected torch code with "
            'batching "vmap", "native" or "fold", stepped by an integrator, or a propagator of torch operations that '
            "says so, pr.Propagator(fn, differentiable=True), or another correction: pr.Secant"
        )
    if implicit and not fine.eliminates(problem, u0):
        raise ValueError(
            f"Jacobian came with {fine!r}, which solves its systems by GMRES, or above 512 unknowns with structure=, "
            "and so without the whole matrix that carries tangents through a step; expected krylov=False in place of "
            "GMRES, a smaller state, or another correction: pr.Secant"
        )
