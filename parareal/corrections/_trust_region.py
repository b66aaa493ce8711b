"""Newton's method kept from steps that its own derivatives do not support."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.trees import State
from parareal.corrections._base import Known, Sweep
from parareal.corrections._linear import sweep_through
from parareal.corrections._scan import Factors, Times
from parareal.corrections._traits import CorrectionTraits
from parareal.corrections._wrapper import Wrapper
from parareal.grid._mesh import Where


@dataclass(frozen=True)
class TrustRegion(Wrapper):
    """Newton's method with derivatives whose growth over a slice is bounded, for problems where full steps diverge.

    Newton's method multiplies the derivatives of all slices. Where these are larger than one at the first iterates,
    though not at the solution, products grow with the number of slices: steps leave the region in which the
    derivatives mean anything, and states overflow. Here the map of a slice whose norm is above ``most`` is scaled down
    to it, and one that is not finite counts as zero. So a step is at most what the defects of the slices amount to,
    times powers of ``most``. Where derivatives at the solution are smaller than that, the last iterations are those of
    Newton's method, and quadratic. Elsewhere convergence is linear. Sweeps go by blocks of slices as before.

    Args:
        correction: `Jacobian`, or `Damped` around it.
        most: Largest norm of the map of a slice: the spectral norm, or the modulus of a diagonal's elements.

    Raises:
        TypeError: ``correction`` is no correction, or ``most`` no number.
        ValueError: The correction brings no derivatives, or ``most`` is not above zero.

    Source:
        That full steps need damping, for the same reason: Towards Scalable and Stable Parallelization of Nonlinear RNNs
        (arXiv 2407.19115), whose trust region bounds the whole step. `Damped` around `Jacobian` scales all maps alike.

    Examples:
        >>> import parareal as pr
        >>> pr.TrustRegion(pr.Jacobian()).most
        1.0
    """

    most: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.most, bool) or not isinstance(self.most, Real):
            raise TypeError(f"most={self.most!r} is {described(self.most)}; expected a number such as 1.0")
        if not math.isfinite(self.most) or self.most <= 0:
            raise ValueError(f"most={self.most!r} is out of range; expected a finite number above 0")
        if not (self._base.traits.factored and self._base.traits.carries):
            raise ValueError(
                f"TrustRegion came with {self.correction!r}, which brings no derivatives of the slices; expected "
                "pr.Jacobian(), or pr.Damped around it"
            )

    @property
    def traits(self) -> CorrectionTraits:
        """Those of the correction inside, whose sweep is still linear."""
        return replace(super().traits, stacked=True, factored=True)

    def difference(self, at: Where, new: Known, old: Known) -> State:
        """J (new - old) with the bounded J."""
        moved = trees.sub(new.u, old.u)
        defects = trees.map(lambda leaf: torch.zeros_like(leaf).unsqueeze(1), moved)
        each = Times(at.t0[:, None], at.t1[:, None])
        return trees.map(lambda leaf: leaf[:, 0], self.difference_run(each, Sweep(moved, defects, old.fold(1))))

    def difference_run(self, at: Where, sweep: Sweep) -> State:
        """A sweep in blocks of slices."""
        return sweep_through(self, at, sweep)

    def factors(self, at: Where, sweep: Sweep) -> Factors | None:
        """Those of the correction inside, bounded."""
        inner = self._base.factors(at, sweep)
        if inner is None:
            return None
        if inner.whole:
            return Factors(self._matrices(inner.value), whole=True)
        ndims = [leaf.ndim for leaf in trees.leaves(sweep.defects)]
        bounded = [
            self._matrices(value) if value.ndim == ndim + 1 else self._numbers(value)
            for value, ndim in zip(trees.leaves(inner.value), ndims, strict=True)
        ]
        return Factors(trees.rebuild(bounded, inner.value))

    def _matrices(self, value: Tensor) -> Tensor:
        finite = torch.isfinite(value).all(-1, keepdim=True).all(-2, keepdim=True)
        value = torch.where(finite, value, 0.0)
        wide = value.detach().to(
            torch.promote_types(value.dtype, torch.float32)
        )  # torch has no norms in half precision
        norm = torch.linalg.matrix_norm(wide, ord=2, keepdim=True).to(value.real.dtype)
        return value * torch.where(norm > self.most, self.most / norm, 1.0)

    def _numbers(self, value: Tensor) -> Tensor:
        value = torch.where(torch.isfinite(value), value, 0.0)
        size = value.detach().abs()
        return value * torch.where(size > self.most, self.most / size, 1.0)
