"""An executor changes how a round is evaluated, never what comes out or what it costs in rounds and evaluations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import parareal as pr


@given(st.integers(1, 20), st.integers(1, 25))
def test_chunks_are_no_larger_than_asked_and_keep_their_order(lanes: int, size: int) -> None:
    seen = []

    def fn(x: torch.Tensor, tree: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(len(x))
        return {"sum": x + tree["a"]}

    x = torch.arange(lanes, dtype=torch.float64)
    executor = pr.Batched(max_lanes=size)
    value = executor.evaluate(fn, (x, {"a": 10 * x}), lanes)
    assert value["sum"].tolist() == (11 * x).tolist()
    assert sum(seen) == lanes
    assert max(seen) <= size
    assert len(seen) == executor.calls(lanes)


def test_calls() -> None:
    assert [executor.calls(7) for executor in (pr.Serial(), pr.Batched(), pr.Batched(3), pr.Batched(7))] == [7, 1, 3, 1]


@pytest.mark.parametrize("executor", [pr.Serial(), pr.Batched(), pr.Batched(2)], ids=repr)
def test_calls_are_counted(executor: pr.Executor) -> None:
    made = 0

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        nonlocal made
        made += 1
        return -u

    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=5, steps=4)
    sol = pr.solve(
        pr.ODE(f, batching="native"),
        torch.ones(2),
        grid,
        fine=pr.Heun(),
        coarse=pr.Euler(),
        executor=executor,
        stop=pr.Iterations(3),
    )
    assert made == sol.stats.calls


@given(
    st.integers(1, 9),
    st.integers(1, 40),
    st.sampled_from((torch.float32, torch.float64)),
    st.none() | st.integers(1, 4),
)
def test_rows_that_are_treated_alone_do_not_feel_their_neighbours(
    slices: int, width: int, dtype: torch.dtype, max_lanes: int | None
) -> None:
    """Products and sums of elements round the same wherever an element lies: batching changes no bit then."""
    u0 = torch.linspace(-1.0, 1.3, width, dtype=torch.float64).to(dtype)
    problem = pr.ODE(lambda t, u: u * (1 - u) + 0.1, batching="native")
    grid = pr.TimeGrid.uniform(0.0, 0.7, slices, 3)
    ref = pr.serial(problem, u0, grid, fine=pr.RK4())
    batched = pr.Batched(max_lanes)
    never = pr.Tolerance(0.0, 0.0)
    sol = pr.solve(problem, u0, grid, fine=pr.RK4(), coarse=pr.Heun(), executor=batched, stop=never)
    assert torch.equal(sol.us, ref.us)


def test_serial_and_the_serial_executor_are_bitwise_the_same_for_a_network() -> None:
    """Matrix products of one row and of many round differently; one lane at a time they cannot."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(9, 64), torch.nn.Tanh(), torch.nn.Linear(64, 8)).requires_grad_(False)

    def f(t: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return network(torch.cat([u, t.to(u.dtype)[:, None]], 1))

    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=6, steps=5)
    problem, u0 = pr.ODE(f, batching="native"), torch.rand(8)
    ref = pr.serial(problem, u0, grid, fine=pr.Heun())
    never = pr.Tolerance(0.0, 0.0)
    sol = pr.solve(problem, u0, grid, fine=pr.Heun(), coarse=pr.Euler(), executor=pr.Serial(), stop=never)
    assert torch.equal(sol.us, ref.us)
    sol = pr.solve(problem, u0, grid, fine=pr.Heun(), coarse=pr.Euler(), stop=never)
    # 60 evaluations in a row, each of which sums at most 64 products of numbers below one.
    assert float((sol.us - ref.us).abs().max()) <= 60 * 8 * torch.finfo(torch.float32).eps
