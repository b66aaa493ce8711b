"""The base of corrections around another one: it forwards everything that a wrapper does not change."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor

from parareal._core.host import Upload
from parareal._core.trees import State
from parareal.corrections._base import (
    Coarse,
    Correction,
    Edge,
    Known,
    bound_correction,
    check_correction,
    check_correction_kind,
)
from parareal.corrections._traits import CorrectionTraits
from parareal.grid._mesh import Where
from parareal.integrators._base import Integrator


@dataclass(frozen=True)
class Wrapper(Correction):
    """A correction around another one."""

    correction: Correction | Integrator
    _whole: ClassVar[bool] = False  # whether it may go around a correction that sweeps in parallel

    def __post_init__(self) -> None:
        given: Any = self.correction
        given = Coarse(given) if isinstance(given, Integrator) else given
        check_correction_kind(given, "correction", "pr.Identity() or pr.Coarse(pr.Euler())")
        check_correction(given)
        if given.traits.relaxations or (given.traits.nested is not None and not self._whole):
            raise ValueError(
                f"{given!r} came inside {type(self).__name__}, and says what is done on all slices together; expected "
                f"it outermost, as in pr.Relaxed(pr.{type(self).__name__}(...)), or without {type(self).__name__}"
            )
        object.__setattr__(self, "correction", given)

    def _check_unmixed(self) -> None:
        """Raises if the inner correction mixes iterates, which only the outermost one can do."""
        if self._base.traits.mixing:
            raise ValueError(
                f"{self.correction!r} came inside {type(self).__name__}, where it would not mix; expected it "
                f"outermost: pr.Anderson(pr.{type(self).__name__}(...))"
            )

    @property
    def _base(self) -> Correction:
        return cast(Correction, self.correction)  # since `__post_init__`

    @property
    def traits(self) -> CorrectionTraits:
        """The traits of the inner correction that hold for any wrapper of it."""
        return dataclasses.replace(
            self._base.traits,
            stacked=False,
            mixing=0,
            linear=False,
            factored=False,
            whitened=False,
            stability=None,
        )

    def bind(self, problem: Any, u0: State, grid: Any, fine: Any) -> Correction:
        """Binds the inner correction."""
        return dataclasses.replace(self, correction=bound_correction(self._base, problem, u0, grid, fine))

    def mismatch(self, at: Where) -> Tensor:
        """Calls the inner correction."""
        return self._base.mismatch(at)

    def lift(self, u: State) -> State:
        """Calls the inner correction."""
        return self._base.lift(u)

    def lifted(self, problem: Any) -> Any:
        """Calls the inner correction."""
        return self._base.lifted(problem)

    def carrier(self, fine: Any) -> Any:
        """That of the correction inside."""
        return self._base.carrier(fine)

    def guess(self, at: Where, new: Known) -> State:
        """Calls the inner correction."""
        return self._base.guess(at, new)

    def guess_run(self, at: Where, u: State, before: tuple[Edge, ...]) -> State:
        """Calls the inner correction."""
        return self._base.guess_run(at, u, before)

    def prepare_run(self, at: Where, like: State, upload: Upload) -> None:
        """Calls the inner correction."""
        self._base.prepare_run(at, like, upload)
