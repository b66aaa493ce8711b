"""A coarse propagator whose sweep is itself solved in parallel: three levels, or more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parareal._core import trees
from parareal._core.checks import check_count, described
from parareal._core.trees import State
from parareal.corrections._base import Coarse, Correction, Known, check_correction, check_correction_kind
from parareal.corrections._traits import CorrectionTraits, Nested
from parareal.grid._mesh import Where
from parareal.integrators._base import Integrator


@dataclass(frozen=True)
class Multilevel(Correction):
    """G(new) - G(old) as in `Coarse`, with a sweep that is solved in parallel by a coarser propagator.

    The sweep of `Coarse` goes over N slices one after another. Here it is a run of its own: its slices are blocks of m
    of the N, its fine propagator makes the m steps of G inside a block, and ``coarser`` corrects from block to block.
    Its steps count as coarse evaluations. One iteration of it takes about 2 m rounds for G and N / m for a coarser
    propagator, in place of N. It is approximate, so that more iterations may be needed than with `Coarse`; a coarser
    propagator that is accurate over a whole block, or a second inner iteration, keeps their number down.

    Final states stay final, whatever either propagator does. All slices move together, so the schedule is `Barrier`,
    which is the default with this correction. ``keep="all"`` does not record the lanes of the inner run.

    Args:
        propagator: The coarse propagator G; ``steps=None`` means one step a slice.
        coarser: The correction of the inner run, or an integrator, which stands for `Coarse`: ``steps=None`` means one
            step a block. Another `Multilevel` adds a fourth level, `Relaxed` gives FCF-relaxation on the second.
        slices: How many slices make a block, m; ``None`` for about sqrt(N / 2).
        iterations: Iterations of the inner run; ``None`` for one with a correction.

    Raises:
        TypeError: ``propagator`` is not an integrator, ``coarser`` is neither, or a number is not an int.
        ValueError: A number is below 1, or ``coarser`` carries tangents.

    Source:
        R. D. Falgout, S. Friedhoff, T. V. Kolev, S. P. MacLachlan, J. B. Schroder, Parallel time integration with
        multigrid, SIAM J. Sci. Comput. 36 (2014): this is its V-cycle.

    Examples:
        >>> import torch, parareal as pr
        >>> grid = pr.TimeGrid.uniform(0.0, 20.0, slices=400, steps=10)
        >>> problem = pr.ODE(lambda t, u: torch.cos(t)[:, None] - u * u * u, batching="native")
        >>> u0 = torch.ones(1, dtype=torch.float64)
        >>> for coarse in (pr.Heun(), pr.Multilevel(pr.Heun(), pr.Heun())):
        ...     sol = pr.solve(problem, u0, grid, fine=pr.Heun(), coarse=coarse, schedule=pr.Barrier())
        ...     print(sol.iterations, sol.stats.rounds)
        2 2432
        7 1083
    """

    propagator: Integrator
    coarser: Correction | Integrator
    slices: int | None = None
    iterations: int | None = None

    def __post_init__(self) -> None:
        given: Any = self.propagator
        if not isinstance(given, Integrator):
            raise TypeError(f"the coarse propagator is {described(given)}; expected an integrator such as pr.Euler()")
        given = self.coarser
        given = Coarse(given) if isinstance(given, Integrator) else given
        check_correction_kind(given, "coarser", "pr.Euler() or pr.Coarse(pr.Euler())")
        check_correction(given)
        if given.traits.carries:
            raise ValueError(
                f"{given!r} takes derivatives along the fine lanes, and those of the inner run make several steps that "
                "are not the fine propagator's alone; expected a correction that carries nothing"
            )
        for name in ("slices", "iterations"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name)
        object.__setattr__(self, "coarser", given)

    @property
    def traits(self) -> CorrectionTraits:
        """The values of the propagator, and how its sweep is solved."""
        assert isinstance(self.coarser, Correction)
        iterations = self.iterations or 1 + self.coarser.traits.relaxations
        nested = Nested(self.coarser, self.slices, iterations)
        return CorrectionTraits(propagator=self.propagator, uses_input=False, nested=nested)

    def guess(self, at: Where, new: Known) -> State:
        """G(new), to which the inner run comes close."""
        return new.g

    def difference(self, at: Where, new: Known, old: Known) -> State:
        """G(new) - G(old), likewise."""
        return trees.sub(new.g, old.g)
