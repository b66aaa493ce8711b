"""The secant's sweep from one product of matrices is that of substitution, to rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import diffusion_adapters as da
import parareal as pr
from parareal.corrections._base import Known, Sweep
from parareal.corrections._gram_sweep import LONGEST
from parareal.grid._mesh import Span


@dataclass(frozen=True)
class Shrinking(pr.Whitened):
    """The flow of du/dt = -rate u, whose divisor is exp(-rate t)."""

    rate: float

    def divisor(self, t: Tensor) -> Tensor:
        return torch.exp(-self.rate * t)

    def _scale(self, t: Tensor, u: Tensor) -> Tensor:
        return self.divisor(t).to(u.dtype).reshape(*t.shape, *[1] * (u.ndim - t.ndim))

    def whiten(self, t: Tensor, u: Tensor) -> Tensor:
        return u / self._scale(t, u)

    def unwhiten(self, t: Tensor, w: Tensor) -> Tensor:
        return w * self._scale(t, w)

    def dual(self, t: Tensor, b: Tensor) -> Tensor:
        return b * self._scale(t, b)


def bound(flow: pr.Correction, neighbours: tuple[int, ...], grid: pr.TimeGrid, size: int) -> Any:
    problem = pr.ODE(lambda t, u: -u)
    return pr.Secant(flow, neighbours=neighbours).bind(problem, torch.zeros(size), grid, pr.Euler())


def sweep_of(rows: int, length: int, size: int, dtype: torch.dtype, seed: int, spoiled: list[tuple[str, int]]) -> Sweep:
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    u, u_before, f, f_before = (some(rows, length, size) for _ in range(4))
    for how, n in spoiled:
        n %= length
        if how == "still":
            u_before[:, n] = u[:, n]
        else:
            (u if how == "nan" else f)[:, n, 0] = float("nan" if how == "nan" else "inf")
    before = Known(u_before, None, f_before)
    return Sweep(some(rows, size), some(rows, length, size), Known(u, None, f, None, before))


@given(data=st.data())
def test_it_is_the_sweep_of_substitution(data: st.DataObject) -> None:
    rows, length, size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 24)), data.draw(st.integers(1, 12))
    dtype = data.draw(st.sampled_from([torch.float64, torch.complex128, torch.float32]))
    flow = data.draw(st.sampled_from([pr.Identity(), Shrinking(0.7), Shrinking(-2.0)]))
    neighbours = data.draw(st.sampled_from([(), (1,), (2,), (1, 2, 4)]))
    gaps = data.draw(st.lists(st.floats(0.01, 0.2), min_size=30, max_size=30))
    edges = torch.tensor(gaps, dtype=torch.float64).cumsum(0)
    grid = pr.TimeGrid.from_edges(edges if data.draw(st.booleans()) else -edges)
    first = data.draw(st.lists(st.integers(0, 29 - length), min_size=rows, max_size=rows))
    at = Span(grid.edges, torch.tensor(first).reshape(-1, 1).numpy() + torch.arange(length).numpy())
    kinds = st.tuples(st.sampled_from(["still", "nan", "inf"]), st.integers(0, 23))
    sweep = sweep_of(rows, length, size, dtype, data.draw(st.integers(0, 99)), data.draw(st.lists(kinds, max_size=2)))
    secant = bound(flow, neighbours, grid, size)
    assert secant._numbers is not None
    found, expected = secant.difference_run(at, sweep), secant._by_substitution(at, sweep)
    eps = torch.finfo(dtype).eps
    scale = expected.abs().amax((0, 1, 2)).clamp_min(1.0)
    assert found.isfinite().all()
    assert ((found - expected).abs().max() <= 1e4 * eps * scale).item()


def test_longer_rows_gradients_and_states_of_half_precision_go_by_substitution() -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=LONGEST + 4)
    secant = bound(pr.Identity(), (), grid, 2)
    for length, dtype, grad in (
        (LONGEST + 1, torch.float64, False),
        (5, torch.float64, True),
        (5, torch.float16, False),
    ):
        sweep = sweep_of(1, length, 2, torch.float64, 0, [])
        sweep = sweep._replace(defects=sweep.defects.to(dtype).requires_grad_(grad))
        called: list[int] = []

        def noted(self: Any, at: Any, sweep: Sweep, called: list[int] = called) -> Any:
            called.append(1)
            return sweep.defects

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(secant), "_by_substitution", noted)
            secant.difference_run(Span(grid.edges, torch.arange(length)[None].numpy()), sweep)
        assert called


def test_whose_whitening_is_a_number() -> None:
    model = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())
    flow = da.probability_flow(model)
    grid = flow.grid(model.noise_schedule.times(6))
    u0 = torch.zeros(1, 4)
    for gaussian, number in (
        (da.GaussianFlow(variance=0.3), True),
        (da.GaussianFlow(variance=torch.tensor([0.1, 0.2, 0.3, 0.4])), False),
        (da.GaussianFlow(covariance=torch.eye(4)), False),
    ):
        bound_flow: Any = gaussian.bind(flow.problem, u0, grid, pr.Euler())
        divisor = bound_flow.divisor(grid.edges)
        assert (divisor is not None) is number
        if divisor is not None:
            u = torch.ones(grid.num_slices + 1, 1, 4, dtype=torch.float64)
            torch.testing.assert_close(bound_flow.whiten(grid.edges, u), u / divisor[:, None, None])


@given(seed=st.integers(0, 999), rows=st.integers(1, 3), start=st.integers(0, 4), length=st.integers(1, 5))
def test_first_guesses_in_one_product_are_the_extrapolation(seed: int, rows: int, start: int, length: int) -> None:
    model = da.GaussianMixture(torch.tensor([[-1.0], [1.0]]), 0.01).model(da.VP())
    flow = da.probability_flow(model)
    grid = flow.grid(model.noise_schedule.times(12), slices=12)
    bound_flow: Any = da.GaussianFlow(variance=0.3).bind(flow.problem, torch.zeros(1, 3), grid, pr.Euler())
    generator = torch.Generator().manual_seed(seed)
    u, *earlier = (torch.randn(rows, 1, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    n = torch.arange(rows)[:, None].numpy() + start + torch.arange(length).numpy()
    places = [torch.from_numpy(n[:, 0] - back).clamp(min=0) for back in (1, 2)]
    before = tuple(pr.Edge(grid.edges[place], state) for place, state in zip(places, earlier, strict=True))
    found = bound_flow.guess_run(Span(grid.edges, n), u, before)
    expected = bound_flow._continued(Span(grid.edges, n), u, before)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
