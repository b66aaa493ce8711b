"""What a run knows of its own boundaries: `Solution.residuals`, ``verify=True``, and acceptance that was a mistake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import Case, cases, corrections, distance, part, size
from torch import Tensor
from torch.utils import _pytree as pytree

import diffusion_adapters as da
import parareal as pr

METHODS = (pr.Euler(), pr.RK4(), pr.AdamsBashforth(2), pr.AdamsBashforth(3, restart=True))
DTYPES = (torch.float64, torch.complex128)


def lengths(tree: Any, kind: str, axes: int) -> Tensor:
    """The norm over all but the first ``axes`` axes of all leaves together."""
    flat = torch.cat([leaf.abs().double().reshape(*leaf.shape[:axes], -1) for leaf in pytree.tree_leaves(tree)], axes)
    return flat.pow(2).mean(axes).sqrt() if kind == "rms" else flat.amax(axes)


def defects(case: Case, sol: pr.Solution, kind: str, samples: bool) -> tuple[Tensor, Tensor]:
    """|F(U_n) - U_{n+1}| and |U_{n+1}|, each slice solved on a grid of its own; ``(N,)`` or ``(B, N)``."""
    out, sizes = [], []
    for n in range(case.grid.num_slices):
        points = case.grid.points[case.grid.bounds[n] : case.grid.bounds[n + 1] + 1]
        alone = pr.TimeGrid.from_points(points, 1)
        start, end = part(sol.us, n), part(sol.us, n + 1)
        value = pr.serial(case.problem, start, alone, fine=case.fine, samples=samples, executor=pr.Serial()).u
        missed = pytree.tree_map(torch.sub, value, end)
        out.append(lengths(missed, kind, int(samples)))
        sizes.append(lengths(end, kind, int(samples)))
    return torch.stack(out, -1), torch.stack(sizes, -1)


def schedules(slices: int) -> st.SearchStrategy[pr.Schedule]:
    """All of them; windows of every width."""
    return st.sampled_from((pr.Barrier(), pr.Wavefront())) | st.builds(pr.Windowed, st.integers(1, slices))


@st.composite
def stops(draw: st.DrawFn, kind: str) -> pr.Tolerance:
    """Tolerances of all rules, from loose to tight."""
    rtol, atol = draw(st.sampled_from((0.3, 1e-2, 1e-4, 1e-7))), draw(st.sampled_from((0.0, 1e-5)))
    rule = draw(st.sampled_from(("increment", "defect", "error")))
    return pr.Tolerance(rtol, atol, kind, rule, freeze=draw(st.booleans()))


def free_or_classical() -> st.SearchStrategy[pr.Correction]:
    """The library's corrections, exact derivatives among them."""
    return corrections() | st.sampled_from((pr.Identity(), pr.Secant(pr.Identity()), pr.Jacobian("diagonal")))


@given(case=cases(dtypes=DTYPES, min_slices=2, one_step=True), data=st.data(), samples=st.booleans())
def test_verify_evaluates_the_states_that_are_returned(case: Case, data: Any, samples: bool) -> None:
    """Each boundary solved alone has the residual that is reported; all together they keep within the tolerance."""
    if samples:
        case = replace(case, u0=pytree.tree_map(lambda leaf: torch.stack([leaf, 0.3 * leaf + 0.1]), case.u0))
    correction = data.draw(free_or_classical())
    assume(not (isinstance(correction, pr.Jacobian) and pytree.tree_leaves(case.u0)[0].is_complex()))
    kind = data.draw(st.sampled_from(("rms", "max")))
    stop = data.draw(stops(kind))
    sol = pr.solve(
        case.problem, case.u0, case.grid, fine=case.fine, coarse=correction, stop=stop, verify=True, samples=samples,
        schedule=data.draw(schedules(case.grid.num_slices)), executor=pr.Serial(),
    )  # fmt: skip
    statuses = sol.sample_status if samples else (sol.status,)
    assert set(statuses) <= {pr.Status.VERIFIED, pr.Status.FINAL}
    assert sol.converged
    missed, sizes = defects(case, sol, kind, samples)
    assert sol.residuals.shape == missed.shape
    torch.testing.assert_close(sol.residuals, missed / sizes, rtol=1e-6, atol=1e-15)
    end = lengths(sol.u, kind, int(samples))
    allowed = stop.rtol + stop.atol / end
    assert (sol.residuals.sum(-1) <= allowed * (1 + 1e-9)).all()
    estimate = torch.as_tensor(sol.error_estimate, dtype=torch.float64)
    assert (estimate <= allowed * end * (1 + 1e-9)).all()
    assert ((estimate == 0) == (sol.residuals.sum(-1) == 0)).all()
    # Whatever the correction: defects grow by no more than differences do. At most nine elements: max <= 3 rms.
    serial = pr.serial(case.problem, case.u0, case.grid, fine=case.fine, samples=samples, executor=pr.Serial())
    assert distance(sol.u, serial.u) <= 3 * case.growth * float(missed.sum(-1).max()) * (1 + 1e-9) + case.rounding
