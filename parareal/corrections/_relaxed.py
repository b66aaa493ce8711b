"""A correction that is left out in some iterations: FCF-relaxation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from parareal._core.checks import check_count
from parareal._core.trees import State
from parareal.corrections._base import Known, Sweep
from parareal.corrections._scan import Factors
from parareal.corrections._traits import CorrectionTraits
from parareal.corrections._wrapper import Wrapper
from parareal.grid._mesh import Where


@dataclass(frozen=True)
class Relaxed(Wrapper):
    """Another correction in every second iteration, or every third, and none in the iterations between.

    An iteration without a correction takes V_{n+1} = F_n(U_n) on all slices. The next one corrects from there,

        U_{n+1} <- F_n(V_n) + [ G_n(U_n) - G_n(V_n) ].

    The two together are one iteration of multigrid reduction in time with FCF-relaxation, in which slices overlap by
    one. An iteration without a correction has no sweep, but a fine solve, so it pays where sweeps are what takes the
    time: mostly under `Barrier`, where every sweep is waited for. It takes more iterations, since iterations with and
    without a correction count alike, and more fine evaluations.

    Args:
        correction: A correction, or an integrator, which stands for `Coarse`.
        relaxations: Iterations without a correction before each one with it.

    Raises:
        TypeError: ``correction`` is neither, or ``relaxations`` is not an int.
        ValueError: ``relaxations`` is below 1, or ``correction`` is an `Anderson` or another `Relaxed`.

    Source:
        R. D. Falgout, S. Friedhoff, T. V. Kolev, S. P. MacLachlan, J. B. Schroder, Parallel time integration with
        multigrid, SIAM J. Sci. Comput. 36 (2014); as overlapping Parareal: M. J. Gander, F. Kwok, H. Zhang, Multigrid
        interpretations of the parareal algorithm leading to an overlapping variant and MGRIT (2018).

    Examples:
        >>> import torch, parareal as pr
        >>> grid = pr.TimeGrid.uniform(0.0, 16.0, slices=64, steps=16)
        >>> problem = pr.ODE(lambda t, u: torch.stack([u[1], -u[0]]))
        >>> u0 = torch.tensor([1.0, 0.0], dtype=torch.float64)
        >>> for coarse in (pr.Midpoint(), pr.Relaxed(pr.Midpoint())):
        ...     sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=coarse, schedule=pr.Barrier())
        ...     print(sol.iterations, sol.stats.rounds)
        4 872
        5 691
    """

    relaxations: int = 1
    _whole: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_unmixed()
        check_count(self.relaxations, "relaxations")

    @property
    def traits(self) -> CorrectionTraits:
        """Those of the correction inside, which the engine leaves out itself, with ``relaxations``."""
        return replace(super().traits, stacked=self._base.traits.stacked, relaxations=self.relaxations)

    def difference(self, at: Where, new: Known, old: Known) -> State | None:
        """That of the correction inside: it is not asked for in the iterations between."""
        return self._base.difference(at, new, old)

    def difference_run(self, at: Where, sweep: Sweep) -> State | None:
        """That of the correction inside."""
        return self._base.difference_run(at, sweep)

    def factors(self, at: Where, sweep: Sweep) -> Factors | None:
        """Those of the correction inside."""
        return self._base.factors(at, sweep)
