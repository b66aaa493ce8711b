"""A correction that mixes iterates, from left to right only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from parareal._core.checks import check_count
from parareal._core.trees import State
from parareal._core.vectors import flat, unflat
from parareal.corrections._base import Known, Sweep
from parareal.corrections._traits import CorrectionTraits
from parareal.corrections._wrapper import Wrapper
from parareal.grid._mesh import Where


@dataclass(frozen=True)
class Anderson(Wrapper):
    """Another correction with triangular Anderson mixing of its iterates, which needs no evaluations.

    Let V be the update of the recursion for the states U at the slice boundaries, and R = V - U its residual. Both are
    extrapolated over the last ``memory`` iterates: at each boundary the next iterate is V - sum_j g_j dV_j, where the
    g_j minimise the norm of R - sum_j g_j dR_j over that boundary and those to its left. Information still moves only
    from left to right, so the run ends at the sequential solution after at most as many iterations as there are slices.

    Args:
        correction: A correction that costs no evaluations, such as `Identity` or `LinearFlow`.
        memory: How many iterates back, at least 1.

    Raises:
        TypeError: ``correction`` is not a correction, or ``memory`` is not an int.
        ValueError: ``memory`` is below 1, or the correction sweeps slice after slice.

    Source:
        Accelerating Parallel Sampling of Diffusion Models (ParaTAA, arXiv 2402.09970).

    Examples:
        >>> import parareal as pr
        >>> pr.Anderson(pr.Identity(), memory=2)
        Anderson(correction=Identity(), memory=2)
    """

    memory: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.memory, "memory")
        if not self._base.traits.stacked:
            raise ValueError(
                f"{self.correction!r} sweeps slice after slice, and mixing needs the residuals of a whole sweep; "
                "expected a correction without evaluations, such as pr.Identity(), or pr.Secant around that"
            )
        if self._base.traits.mixing:
            raise ValueError(f"{self.correction!r} mixes iterates itself; expected one that does not inside Anderson")

    @property
    def traits(self) -> CorrectionTraits:
        """The traits of the inner correction, with ``mixing``."""
        return replace(super().traits, stacked=True, mixing=self.memory)

    def difference(self, at: Where, new: Known, old: Known) -> State | None:
        """The result of the inner correction."""
        return self._base.difference(at, new, old)

    def difference_run(self, at: Where, sweep: Sweep) -> State | None:
        """The result of the inner correction."""
        return self._base.difference_run(at, sweep)

    def mix(self, states: list[State], updates: list[State]) -> State:
        """The extrapolated update; see the class."""
        u, v = [flat(state, 2) for state in states], [flat(state, 2) for state in updates]
        r = [update - state for update, state in zip(v, u, strict=True)]
        dv = torch.stack([now - before for now, before in pairwise(v)], 2)  # (R, L, m, D)
        dr = torch.stack([now - before for now, before in pairwise(r)], 2)
        wide = torch.complex128 if dr.is_complex() else torch.float64
        seen, now = dr.to(wide), r[0].to(wide)
        gram = (seen.conj() @ seen.transpose(-1, -2)).cumsum(1)  # over this boundary and those to its left
        right = (seen.conj() @ now.unsqueeze(-1)).cumsum(1)
        size = gram.diagonal(dim1=-2, dim2=-1).real.sum(-1)[..., None, None]
        eye = torch.eye(gram.shape[-1], dtype=wide, device=gram.device)
        system = torch.where(size > 0, gram + _RIDGE * size * eye, eye)
        system, right = (torch.where(torch.isfinite(part), part, 0.0) for part in (system, right))
        weights, info = torch.linalg.solve_ex(system, right)
        weights = torch.where((info == 0)[..., None, None] & (size > 0), weights, 0.0)
        return unflat(v[0] - (dv * weights.to(dv.dtype)).sum(2), states[0], 2)


_RIDGE = 1e-10
"""Regularisation of the normal equations, relative to their trace. A choice."""
