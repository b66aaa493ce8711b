"""A correction approximates F(new) - F(old): how the right boundary of a slice moves when the left one moves.

Parareal, Picard and Jacobi iteration differ only in the correction. The engine applies the same recursion to all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Floats
from parareal._core.checks import check_instance, described
from parareal._core.declared import Collected, Declared
from parareal._core.host import Upload
from parareal._core.names import check_kind
from parareal._core.trees import State
from parareal.corrections._scan import Factors
from parareal.corrections._traits import BY_ATTRIBUTE, EXAMPLE, CorrectionTraits
from parareal.grid._mesh import Where
from parareal.integrators._base import Integrator


class Known(NamedTuple):
    """The known values of a slice at one iterate, on L lanes.

    Attributes:
        u: The state at the slice's left boundary; ``None`` unless the correction has ``uses_input``.
        g: The coarse solution from ``u``; ``None`` if the correction has no propagator.
        f: The fine solution from ``u``; ``None`` for the new iterate, which is not solved yet.
        tangents: Tangents that the fine lane carried beside the state, for corrections with ``carries``.
        before: The same of the iterate before, for corrections with a ``lookback``; this one again if there was none,
            so that differences are zero.
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
    """Slice boundaries of R rows: their times, float64, shape ``(R,)``, and the states there, ``(R, *state)``."""

    t: Tensor
    u: State


class Sweep(NamedTuple):
    """R rows of L neighbouring slices through which a change passes.

    Let D be the change of the state at the left boundary of a slice. The state at its right boundary then changes by
    the defect of the slice, F(old) minus the current iterate there, plus J D, the difference that the correction gives.

    Attributes:
        moved: D at the left boundaries of the first slices, leaves ``(R, *state)``.
        defects: Defects of all slices, leaves ``(R, L, *state)``.
        old: The known values of the slices at the old iterate, leaves ``(R, L, *state)``; ``None`` for corrections
            that do not read it.
    """

    moved: State
    defects: State
    old: Known | None


class Correction(ABC):
    """An approximation of F(new) - F(old) on each slice.

    Declare the traits as ``traits = pr.CorrectionTraits(uses_input=True)`` in the class body, as a property ``traits``
    where they depend on the fields, or one by one as class attributes. Both forms can be read from an object.

    Attributes:
        traits: The declarations of the correction, a `CorrectionTraits`.
        propagator: The integrator evaluated at every new input, or ``None``; see `CorrectionTraits`, also for the next.
        uses_input: Whether `difference` reads ``u``.
        lookback: How many iterates before the old one `difference` reads.
        carries: Directional derivatives that fine lanes take with every evaluation.
        mixing: How many earlier iterates `mix` reads.
        stacked: Whether there are `guess_run` and `difference_run`.
    """

    traits_defaults: ClassVar[dict[str, Any]] = {}
    traits = Collected[CorrectionTraits](CorrectionTraits, BY_ATTRIBUTE, ("propagator",), EXAMPLE)
    propagator = Declared["Integrator | None"]()
    uses_input = Declared[bool]()
    lookback = Declared[int]()
    carries = Declared[int]()
    mixing = Declared[int]()
    stacked = Declared[bool]()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        vars(Correction)["traits"].settle(cls)

    def bind(self, problem: Any, u0: State, grid: Any, fine: Any) -> Correction:
        """Returns the correction to use for a problem, before any work is done; raises if it does not fit.

        Args:
            problem: The problem.
            u0: One system's initial state.
            grid: The time grid.
            fine: The fine propagator.
        """
        return self

    def mismatch(self, at: Where) -> Tensor:
        """The part of a change that `difference` is expected to miss; float64, shape ``(N,)``.

        It is 1 by default, which means all of it. The error estimates of the first iterations use it.
        """
        return torch.ones(at.shape, dtype=torch.float64)

    def lift(self, u: State) -> State:
        """For ``carries``: states together with the tangents of fine lanes, ``(u, tangents)``."""
        raise NotImplementedError

    def lifted(self, problem: Any) -> Any:
        """For ``carries``: the problem for lifted states."""
        raise NotImplementedError

    @abstractmethod
    def guess(self, at: Where, new: Known) -> State:
        """The first iterate at the right boundary, from the one at the left; leaves ``(L, *state)``."""

    @abstractmethod
    def difference(self, at: Where, new: Known, old: Known) -> State | None:
        """Approximates F(new.u) - F(old.u), leaves ``(L, *state)``; ``None`` stands for zero."""

    def guess_run(self, at: Where, u: State, before: tuple[Edge, ...]) -> State:
        """`guess` on rows of L neighbouring slices at once.

        Args:
            at: The slices; times have shape ``(R, L)``.
            u: States at the left boundaries of the first slices, leaves ``(R, *state)``.
            before: Up to two slice boundaries to the left of those, the nearest first; none at the start of the grid.
                A row that has fewer than another repeats its last one.

        Returns:
            First iterates at all right boundaries, leaves ``(R, L, *state)``.
        """
        raise NotImplementedError

    def difference_run(self, at: Where, sweep: Sweep) -> State | None:
        """`difference` on rows of L neighbouring slices at once, for corrections that are linear in new.u - old.u.

        Args:
            at: The slices; times have shape ``(R, L)``.
            sweep: The change at the left, and the defects.

        Returns:
            J D of all slices, leaves ``(R, L, *state)``; ``None`` stands for zero.
        """
        raise NotImplementedError

    def prepare_run(self, at: Where, like: State, upload: Upload) -> None:  # noqa: B027  most compute nothing there
        """Adds to an upload what `difference_run` will compute on the host for these slices.

        Args:
            at: The slices, as `difference_run` will get them.
            like: States, whose dtype the numbers take.
            upload: What is sent to the device of the states in one copy.
        """

    def factors(self, at: Where, sweep: Sweep) -> Factors | None:
        """For ``factored``: the maps J of all slices as numbers, from which a sweep is made in a few operations.

        Args:
            at: The slices; times have shape ``(R, L)``.
            sweep: What is to pass through them.

        Returns:
            A `Factors`; ``None`` where another way is the cheaper one.
        """
        raise NotImplementedError

    def carrier(self, fine: Any) -> Any:
        """For ``carries``: the method that steps lifted states; ``fine`` itself unless a subclass needs another."""
        return fine

    def mix(self, states: list[State], updates: list[State]) -> State:
        """The next iterates at right boundaries, from the current and earlier updates of the recursion.

        Args:
            states: The current states and those of earlier iterates, newest first: ``mixing + 1`` trees of leaves
                ``(R, L, *state)``. Where there are too few, the oldest is repeated.
            updates: The update of the recursion for each of them.

        Returns:
            Leaves ``(R, L, *state)``. The state at a boundary must not depend on those to its right.
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

    propagator: Integrator

    def __post_init__(self) -> None:
        given: Any = self.propagator
        if not isinstance(given, Integrator):
            raise TypeError(
                f"the coarse propagator is {described(given)}; expected an integrator such as pr.Euler(), or "
                "pr.Propagator(fn) for a function of your own"
            )

    @property
    def traits(self) -> CorrectionTraits:
        """It only needs the values of the propagator."""
        return CorrectionTraits(propagator=self.propagator, uses_input=False)

    def guess(self, at: Where, new: Known) -> State:
        """G(new)."""
        return new.g

    def difference(self, at: Where, new: Known, old: Known) -> State:
        """G(new) - G(old)."""
        return trees.sub(new.g, old.g)


def check_correction_kind(correction: Any, name: str, example: str) -> None:
    """Raises unless this is a correction; an integrator may be meant where a name or a class came."""
    if not isinstance(correction, Integrator):
        check_kind(correction, (Correction, Integrator), name, example, 'pr.Propagator(fn, batching="vmap")')
    check_instance(correction, Correction, name, example)


def check_correction(correction: Any) -> None:
    """Raises unless this is a correction that declares its traits and has the methods that these require."""
    check_correction_kind(correction, "coarse", "pr.Euler() or pr.Coarse(pr.Euler(steps=2))")
    traits: Any = correction.traits
    if not isinstance(traits, CorrectionTraits):
        raise TypeError(f"traits of {correction!r} is {described(traits)}; expected a pr.CorrectionTraits(...)")
    for trait, names in _NEEDED.items():
        lacking = [name for name in names if getattr(type(correction), name, None) is getattr(Correction, name, None)]
        if getattr(traits, trait) and lacking:
            raise TypeError(
                f"{correction!r} declares {trait}={getattr(traits, trait)!r} and has no {' and no '.join(lacking)}; "
                f"expected a class with {' and '.join(names)}, or {trait}={type(getattr(traits, trait))()!r}"
            )


_NEEDED = {
    "stacked": ("guess_run", "difference_run"),
    "mixing": ("mix",),
    "carries": ("lift", "lifted"),
    "linear": ("apply",),
    "factored": ("factors",),
    "whitened": ("whiten", "unwhiten", "dual", "clock", "weight"),
}
"""The methods that each trait requires."""


def bound_correction(correction: Correction, problem: Any, u0: State, grid: Any, fine: Any) -> Correction:
    """Calls `Correction.bind`, and checks the result."""
    bound: Any = correction.bind(problem, u0, grid, fine)
    if not isinstance(bound, Correction):
        raise TypeError(
            f"bind of {correction!r} returned {described(bound)}; expected the correction to be used: end it "
            "with return self"
        )
    check_correction(bound)
    return bound


def mismatch_of(correction: Correction, at: Where) -> Floats:
    """Calls `Correction.mismatch`, and checks the result; on the host."""
    mismatch: Any = correction.mismatch(at)
    if not isinstance(mismatch, Tensor) or mismatch.shape != at.shape:
        shape = f" of shape {tuple(mismatch.shape)}" if isinstance(mismatch, Tensor) else ""
        raise TypeError(
            f"mismatch of {correction!r} returned {described(mismatch)}{shape}; expected a tensor of shape "
            f"{tuple(at.shape)}, one number for each slice: torch.full(at.shape, 0.5, dtype=torch.float64)"
        )
    return mismatch.detach().to("cpu", torch.float64).numpy()
