"""A right-hand side is called as its batching says, and what it returns is what the state is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from strategies import equal
from torch import Tensor

import parareal as pr

GRID = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=3)
LAST = pr.Iterations(2)


def shapes_seen(batching: Any, u0: Any, **options: Any) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes of t and u in all calls of a run under the batched executor."""
    seen = set()

    def f(t: Tensor, u: Tensor) -> Tensor:
        seen.add((tuple(t.shape), tuple(u.shape)))
        assert t.dtype == torch.float64
        return -u

    methods = {"fine": pr.Euler(), "coarse": pr.Euler(), "schedule": pr.Barrier()}
    pr.solve(pr.ODE(f, batching=batching), u0, GRID, stop=LAST, **methods, **options)
    return seen


def test_shapes_by_batching() -> None:
    u0 = torch.ones(2, 5)
    assert shapes_seen("vmap", u0) == {((), (2, 5))}
    assert shapes_seen("loop", u0) == {((), (2, 5))}
    # One lane in a coarse sweep; 4, then 3 lanes of fine solves (the first iteration's 4, the second's 3).
    assert shapes_seen("native", u0) == {((lanes,), (lanes, 2, 5)) for lanes in (1, 3, 4)}
    assert shapes_seen("fold", u0) == {((2 * lanes,), (2 * lanes, 5)) for lanes in (1, 3, 4)}


def test_shapes_by_batching_with_samples() -> None:
    u0 = torch.ones(2, 5)
    assert shapes_seen("vmap", u0, samples=True) == {((), (1, 5))}
    assert shapes_seen("native", u0, samples=True) == {((lanes,), (lanes, 1, 5)) for lanes in (2, 6, 8)}
    assert shapes_seen("fold", u0, samples=True) == {((lanes,), (lanes, 5)) for lanes in (2, 6, 8)}


def test_max_lanes_bounds_every_call() -> None:
    seen = shapes_seen("native", torch.ones(5), executor=pr.Batched(max_lanes=2))
    assert {t[0] for t, _ in seen} == {1, 2}
    assert shapes_seen("native", torch.ones(5), executor=pr.Serial()) == {((1,), (1, 5))}


def test_loop_takes_numpy() -> None:
    def f(t: Tensor, u: Tensor) -> Any:
        return -np.asarray(u) * float(t)

    u0 = torch.rand(3, dtype=torch.float64)
    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Euler(), "stop": LAST}
    a = pr.solve(pr.ODE(f, batching="loop"), u0, GRID, **options)
    b = pr.solve(pr.ODE(lambda t, u: -u * t), u0, GRID, **options)
    torch.testing.assert_close(a.us, b.us, rtol=1e-14, atol=1e-15)


def test_loop_allows_control_flow_and_vmap_says_what_to_do() -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        return -u if u.sum() > 0 else u

    options: dict[str, Any] = {"fine": pr.Euler(), "coarse": pr.Euler()}
    assert pr.solve(pr.ODE(f, batching="loop"), torch.ones(2), GRID, **options).converged
    with pytest.raises(RuntimeError) as caught:
        pr.solve(pr.ODE(f), torch.ones(2), GRID, **options)
    assert any('batching="loop"' in note for note in caught.value.__notes__)


def test_per_sample_data_follows_its_sample() -> None:
    rates = torch.tensor([0.5, 1.0, 2.0, 20.0], dtype=torch.float64)
    u0 = torch.ones(4, 2, dtype=torch.float64)
    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Heun(), "stop": pr.Tolerance(1e-4, 1e-6)}
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=4)
    runs = [
        pr.solve(problem, u0, grid, samples=True, **options)
        for problem in (
            pr.ODE(lambda t, u, rate: -rate[:, None] * u, per_sample=rates),
            pr.ODE(lambda t, u, rate: -rate[:, :, None] * u, batching="native", per_sample=rates),
            pr.ODE(lambda t, u, rate: -rate[:, None] * u, batching="fold", per_sample=rates),
            pr.ODE(lambda t, u, rate: -rate[:, None] * u, batching="loop", per_sample=rates),
            pr.ODE(lambda t, u, rows: -rows["rate"][0][:, None] * u, per_sample={"rate": [rates]}),
        )
    ]
    assert len(set(runs[0].iterations.tolist())) > 1, "all samples took the same number of iterations"
    for run in runs:
        torch.testing.assert_close(run.us, runs[0].us, rtol=1e-13, atol=1e-14)
        assert torch.equal(run.iterations, runs[0].iterations)
    for i, rate in enumerate(rates):
        alone = pr.solve(pr.ODE(lambda t, u, rate=rate: -rate * u), u0[i : i + 1], grid, samples=True, **options)
        torch.testing.assert_close(alone.us[:, 0], runs[0].us[:, i], rtol=1e-13, atol=1e-14)


def test_per_sample_data_without_samples_belongs_to_the_batch_axis() -> None:
    rates = torch.tensor([0.5, 2.0], dtype=torch.float64)
    u0 = torch.ones(2, 3, dtype=torch.float64)
    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Euler(), "stop": LAST}
    expected = pr.solve(pr.ODE(lambda t, u: -rates[:, None] * u), u0, GRID, **options).us
    for problem in (
        pr.ODE(lambda t, u, rate: -rate[:, None] * u, per_sample=rates),
        pr.ODE(lambda t, u, rate: -rate[:, None] * u, batching="fold", per_sample=rates),
        pr.ODE(lambda t, u, rate: -rate[:, :, None] * u, batching="native", per_sample=rates),
    ):
        torch.testing.assert_close(pr.solve(problem, u0, GRID, **options).us, expected, rtol=1e-14, atol=1e-15)


class Pair(NamedTuple):
    x: Tensor
    v: Tensor


def test_named_tuples_are_states() -> None:
    u0 = Pair(torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    sol = pr.solve(pr.ODE(lambda t, u: Pair(u.v, -u.x)), u0, GRID, fine=pr.RK4(), coarse=pr.Euler(), stop=LAST)
    assert isinstance(sol.u, Pair)
    assert sol.us.x.shape == (5, 2)


@pytest.mark.parametrize("batching", ["vmap", "native", "loop"])
def test_a_dict_may_come_back_in_another_order(batching: Any) -> None:
    u0 = {"x": torch.ones(2, dtype=torch.float64), "v": torch.zeros(2, dtype=torch.float64)}
    runs = [
        pr.solve(pr.ODE(f, batching=batching), u0, GRID, fine=pr.RK4(), coarse=pr.Euler(), stop=LAST).us
        for f in (lambda t, u: {"x": u["v"], "v": -u["x"]}, lambda t, u: {"v": -u["x"], "x": u["v"]})
    ]
    assert equal(*runs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batching", ["vmap", "native", "fold", "loop"])
def test_low_precision_states_stay_what_they_are(dtype: torch.dtype, batching: Any) -> None:
    u0 = torch.tensor([[1.0, -0.5]], dtype=dtype)
    sol = pr.solve(
        pr.ODE(lambda t, u: -u, batching=batching), u0, GRID, fine=pr.RK4(), coarse=pr.Euler(), stop=pr.Iterations(4)
    )
    assert sol.us.dtype == dtype
    exact = u0.double() * np.exp(-1.0)
    # 12 steps, each rounding a few numbers of size one.
    assert float((sol.u.double() - exact).abs().max()) <= 4 * 12 * torch.finfo(dtype).eps
    ref = pr.serial(pr.ODE(lambda t, u: -u, batching=batching), u0, GRID, fine=pr.RK4())
    assert torch.equal(sol.us, ref.us)
