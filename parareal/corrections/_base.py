"""A correction approximates F(new) - F(old): how a slice's end moves when its start moves.

It is what tells Parareal, Picard and Jacobi apart; the recursion that uses it is the engine's and is the same for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.grid._mesh import Where
from parareal.integrators import Integrator


class Known(NamedTuple):
    """What is known of a slice at one iterate, on L lanes.

    Attributes:
        u: The state at the slice's left edge; ``None`` unless the correction has ``uses_input``.
        g: The coarse propagator's value there; ``None`` where the correction has no propagator.
        f: The fine propagator's value there; ``None`` for the new iterate, whose fine solve is yet to come.
        tangents: What the fine lane carried beside the state, for corrections that have it carry something.
        before: The same of the iterate before this one, for corrections with a ``lookback``; where there was none, this
            one again, so that differences are zero.
    """

    u: State
    g: State
    f: State = None
    tangents: State = None
    before: Known | None = None

    def fold(self, size: int) -> Known:
        """Leaves ``(R * size, *state)`` as ``(R, size, *state)``."""
        u, g, f, tangents = (None if part is None else trees.fold(part, size) for part in self[:4])
        return Known(u, g, f, tangents, self.before and self.before.fold(size))


class Edge(NamedTuple):
    """Edges of R rows: their times, float64, shape ``(R,)``, and the states there, leaves ``(R, *state)``."""

    t: Tensor
    u: State


class Sweep(NamedTuple):
    """R rows of L neighbouring slices through which a change passes.

    With D the amount by which an edge moves, the right edge of a slice moves by its defect, F(old) minus the iterate
    held there, plus the difference J D of the slice, where D is what its left edge moves by.

    Attributes:
        moved: D at the left edges of the first slices, leaves ``(R, *state)``.
        defects: Defects of all slices, leaves ``(R, L, *state)``.
        old: What is known of the slices at the old iterate, leaves ``(R, L, *state)``; ``None`` for corrections
            that do not look at it.
    """

    moved: State
    defects: State
    old: Known | None


class Correction(ABC):
    """An approximation of F(new) - F(old) on each slice.

    Attributes:
        propagator: What is evaluated at every new input, stacked with the fine lanes; ``None`` where the correction
            needs no evaluation of the right-hand side.
        uses_input: Whether `difference` looks at ``u``; the engine keeps the inputs only then.
        lookback: How many iterates before the old one `difference` looks back to; needs ``uses_input``.
        carries: Directional derivatives that fine lanes take with every evaluation; 0 where they carry nothing.
        mixing: How many iterates back `mix` looks; 0 for corrections without it. Only where ``stacked``.
        stacked: Whether `guess_run` and `difference_run` are there, which do a sweep over many slices in a few
            operations. Only for corrections without a propagator.
    """

    propagator: Integrator | None
    uses_input: bool
    lookback: int = 0
    carries: int = 0
    mixing: int = 0
    stacked: bool = False

    def bind(self, problem: Any, u0: State, grid: Any, fine: Any) -> Correction:
        """This correction, made ready for a problem before any work is done; raises where it does not fit.

        Args:
            problem: The problem.
            u0: One system's initial state.
            grid: The time grid.
            fine: The fine propagator.
        """
        return self

    def mismatch(self, at: Where) -> Tensor:
        """What `difference` may miss of a change of the input, as a part of it, before any was seen; float64, ``(N,)``.

        One, all of it, unless a correction knows better. Error estimates of first iterations rest on it.
        """
        return torch.ones(at.shape, dtype=torch.float64)

    def lift(self, u: State) -> State:
        """Where it ``carries`` something: states with what fine lanes carry beside them, ``(u, tangents)``."""
        raise NotImplementedError

    def lifted(self, problem: Any) -> Any:
        """Where it ``carries`` something: the problem for lifted states."""
        raise NotImplementedError

    @abstractmethod
    def guess(self, at: Where, new: Known) -> State:
        """The first iterate at the right edge, from the one at the left; leaves ``(L, *state)``."""

    @abstractmethod
    def difference(self, at: Where, new: Known, old: Known) -> State | None:
        """Approximates F(new.u) - F(old.u), leaves ``(L, *state)``; ``None`` stands for zero."""

    def guess_run(self, at: Where, u: State, before: tuple[Edge, ...]) -> State:
        """`guess` on rows of L neighbouring slices in one go.

        Args:
            at: The slices; times have shape ``(R, L)``.
            u: States at the left edges of the first slices, leaves ``(R, *state)``.
            before: The edges in front of those, up to two, the nearest first; none at the start of the grid. Where a
                row has none there it is the same edge again.

        Returns:
            First iterates at all right edges, leaves ``(R, L, *state)``.
        """
        raise NotImplementedError

    def difference_run(self, at: Where, sweep: Sweep) -> State | None:
        """`difference` on rows of L neighbouring slices in one go, for corrections that are linear in new.u - old.u.

        Args:
            at: The slices; times have shape ``(R, L)``.
            sweep: What moves, and how.

        Returns:
            J D of all slices, leaves ``(R, L, *state)``; ``None`` stands for zero.
        """
        raise NotImplementedError

    def mix(self, states: list[State], updates: list[State]) -> State:
        """The next iterates of rows of right edges, from what the recursion gives for them now and gave before.

        Args:
            states: What the edges hold, and what they held at the iterates before, newest first: ``mixing + 1`` trees
                of leaves ``(R, L, *state)``. Where there was none the oldest is repeated.
            updates: What the recursion made of each.

        Returns:
            Leaves ``(R, L, *state)``. An edge's must not depend on those to its right.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Coarse(Correction):
    """G(new) - G(old) with a cheap integrator G: Parareal.

    Args:
        propagator: The coarse propagator; ``steps=None`` means one step a slice.

    Raises:
        TypeError: ``propagator`` is not an integrator.

    Source:
        J.-L. Lions, Y. Maday, G. Turinici, Resolution d'EDP par un schema en temps "parareel", C. R. Acad. Sci. Paris
        332 (2001); with the coarse step on a diffusion ODE, Self-Refining Diffusion Samplers (arXiv 2412.08292).

    Examples:
        >>> from parareal import Euler
        >>> Coarse(Euler(steps=2)).propagator
        Euler(steps=2)
    """

    propagator: Integrator  # pyright: ignore[reportIncompatibleVariableOverride]
    uses_input = False

    def __post_init__(self) -> None:
        if not isinstance(self.propagator, Integrator):
            given: Any = self.propagator
            came = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
            raise TypeError(
                f"the coarse propagator is {came}; expected an integrator such as pr.Euler(), or pr.Propagator(fn) "
                "for a function of your own"
            )

    def guess(self, at: Where, new: Known) -> State:
        """G(new)."""
        return new.g

    def difference(self, at: Where, new: Known, old: Known) -> State:
        """G(new) - G(old)."""
        return trees.sub(new.g, old.g)
