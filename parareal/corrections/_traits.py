"""The traits of a correction: one frozen record of what the library must know beside its formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from parareal._core.checks import check_count, check_flag, described
from parareal.integrators._base import Integrator


class Nested(NamedTuple):
    """A sweep over all slices that is solved in parallel: a run of its own, whose slices are blocks of slices.

    Attributes:
        correction: The correction of that run, a `Correction`.
        slices: How many slices make a block; ``None`` for a number that takes few rounds.
        iterations: Iterations of that run.
    """

    correction: Any
    slices: int | None
    iterations: int


@dataclass(frozen=True, kw_only=True)
class CorrectionTraits:
    """The declarations of a correction, the ``traits`` of a `Correction`; ``None``, 0 and ``False`` cost nothing.

    Attributes:
        propagator: The integrator that is evaluated at every new input, stacked with the fine lanes; ``None`` where the
            correction needs no evaluation of the right-hand side.
        uses_input: Whether `Correction.difference` reads ``u``. The engine keeps the inputs only then.
        lookback: How many iterates before the old one `Correction.difference` reads. Needs ``uses_input``.
        carries: Directional derivatives that fine lanes take with every evaluation; 0 where they carry nothing. Where
            the number depends on the problem it is known once the correction is bound, and 1 before.
        mixing: How many earlier iterates `Correction.mix` reads; 0 for corrections without it. Needs ``stacked``.
        pairs: Whether `Correction.difference` reads ``before`` as secant pairs, of which another run may give one more.
        relaxations: How many iterations without a correction precede each one that has it; see `Relaxed`.
        stacked: Whether the correction has `Correction.guess_run` and `Correction.difference_run`, which do a sweep
            over many slices in a few operations. Only for corrections without a propagator.
        linear: Whether it has ``apply(at, change)``, as a `Linear` has.
        factored: Whether it has ``factors(at, sweep)``, its maps as numbers; for corrections of the library.
        whitened: Whether it also has ``whiten``, ``unwhiten``, ``dual``, ``clock`` and ``weight``, as a `Whitened` has.
        nested: How the sweep of ``propagator`` is itself solved in parallel, a `Nested`; ``None`` where it goes from
            slice to slice. For corrections of the library.
        stability: The factor by which the correction multiplies a change over a whole slice of u' = (c + d) u, as
            ``R(z, rest)``, for `parareal.theory.stability_function`; see `IntegratorTraits`. ``None`` if there is no
            such number.

    Raises:
        TypeError: A trait has the wrong type.
        ValueError: A number is below 0, or a trait lacks another one that it needs.

    Examples:
        >>> CorrectionTraits(uses_input=True).propagator is None
        True
    """

    propagator: Integrator | None = None
    uses_input: bool = True
    lookback: int = 0
    carries: int = 0
    mixing: int = 0
    pairs: bool = False
    relaxations: int = 0
    stacked: bool = False
    linear: bool = False
    factored: bool = False
    whitened: bool = False
    nested: Nested | None = None
    stability: Callable[[Any, Any], Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        given: Any = self.propagator
        if given is not None and not isinstance(given, Integrator):
            raise TypeError(
                f"propagator is {described(given)}; expected an integrator such as pr.Euler(), or None where "
                "nothing is evaluated"
            )
        for name in ("uses_input", "pairs", "stacked", "linear", "factored", "whitened"):
            check_flag(getattr(self, name), name)
        for name in ("lookback", "carries", "mixing", "relaxations"):
            check_count(getattr(self, name), name, 0)
        if self.lookback and not self.uses_input:
            raise ValueError(f"lookback={self.lookback} came with uses_input=False; expected uses_input=True with it")
        if self.stacked and self.propagator is not None:
            raise ValueError("stacked=True came with a propagator; expected stacked=False, or propagator=None")
        if self.mixing and not self.stacked:
            raise ValueError(f"mixing={self.mixing} came with stacked=False; expected stacked=True with it")
        if self.mixing and self.relaxations:
            raise ValueError(
                f"mixing={self.mixing} came with relaxations={self.relaxations}; expected one of them: iterates that "
                "are relaxed in between do not belong to the sequence that is mixed"
            )
        if self.nested is not None and self.propagator is None:
            raise ValueError("nested came without a propagator; expected the one whose sweep is solved in parallel")
        given = self.stability
        if given is not None and not callable(given):
            raise TypeError(f"stability is {described(given)}; expected a function R(z, rest) of arrays, or None")


BY_ATTRIBUTE = ("propagator", "uses_input", "lookback", "carries", "mixing", "stacked")
"""The traits that a class may also declare as plain attributes."""
EXAMPLE = "traits = pr.CorrectionTraits(propagator=None, uses_input=True)"
