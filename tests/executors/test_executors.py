"""An executor changes how a round is evaluated, never what comes out or what it costs in rounds and evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

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


ODD = st.lists(st.integers(1, 11), min_size=1, max_size=3).map(tuple)
NEVER = pr.Tolerance(0.0, 0.0)


def mixing(shape: tuple[int, ...], dtype: torch.dtype, columns: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """A linear layer along the last axis; its values may lie in memory the other way round."""
    a = torch.randn(shape[-1], shape[-1], generator=torch.Generator().manual_seed(1), dtype=dtype)

    def f(t: Tensor, u: Tensor) -> Tensor:
        return torch.tanh((a @ u.mT).mT if columns else u @ a.T)

    return f


@settings(max_examples=12)
@example((3, 7), torch.float32, "vmap", False, 1)
@example((3, 7), torch.float64, "native", True, 0)
@example((3, 33), torch.float64, "fold", False, 1)
@given(
    ODD,
    st.sampled_from((torch.float32, torch.float64)),
    st.sampled_from(("vmap", "native", "fold", "loop")),
    st.booleans(),
    st.integers(0, 5),
)
def test_a_lane_alone_rounds_as_in_the_sequential_run_wherever_it_lies_in_memory(
    shape: tuple[int, ...], dtype: torch.dtype, batching: Any, columns: bool, offset: int
) -> None:
    """Matrix products of one shape round differently for memory that begins elsewhere, or is read the other way."""
    columns &= len(shape) > 1
    problem = pr.ODE(mixing(shape, dtype, columns), batching=batching)
    if len(shape) < 3:
        shape = (2, *shape)
    u0 = torch.randn(offset + torch.Size(shape).numel(), generator=torch.Generator().manual_seed(2), dtype=dtype)
    u0, grid = u0[offset:].view(shape), pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=2)
    ref = pr.serial(problem, u0, grid, fine=pr.Heun())
    for executor in (pr.Serial(), pr.Batched(max_lanes=1), pr.Batched(1, devices=["cpu", "cpu"])):
        sol = pr.solve(problem, u0, grid, fine=pr.Heun(), coarse=pr.Euler(), executor=executor, stop=NEVER)
        assert torch.equal(sol.us, ref.us)


@settings(max_examples=5)
@example(7, 5, torch.float32)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from((torch.float32, torch.float64)))
def test_a_sample_and_its_data_round_as_they_do_alone(width: int, more: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(width)
    a, u0 = torch.randn(width, width, generator=generator, dtype=dtype), torch.randn(3, 2, width, dtype=dtype)
    data = torch.randn(3, more, width, generator=generator, dtype=dtype)
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=2)

    def f(t: Tensor, u: Tensor, row: Tensor) -> Tensor:
        return torch.tanh(u @ a.T + (row @ a).mean(-2, keepdim=True))

    options: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Euler(), "executor": pr.Serial(), "samples": True}
    options["stop"] = pr.Iterations(2)
    together = pr.solve(pr.ODE(f, per_sample=data), u0, grid, **options).us
    for i in range(3):
        alone = pr.solve(pr.ODE(f, per_sample=data[i : i + 1]), u0[i : i + 1], grid, **options).us
        assert torch.equal(together[:, i : i + 1], alone)
    ref = pr.serial(pr.ODE(f, per_sample=data), u0, grid, fine=pr.RK4(), samples=True, executor=pr.Serial()).us
    options["stop"] = NEVER
    assert torch.equal(pr.solve(pr.ODE(f, per_sample=data), u0, grid, **options).us, ref)


def test_a_lane_is_copied_only_where_it_lies_elsewhere_and_gradients_pass() -> None:
    seen: list[Tensor] = []

    def fn(u: Tensor) -> Tensor:
        seen.append(u)
        return u * u

    stack = torch.arange(16.0).reshape(2, 8).repeat(1, 3)[:, :20].contiguous().requires_grad_()  # 80 bytes a lane
    value = pr.Serial().evaluate(fn, (stack,), 2)
    assert seen[0].data_ptr() == stack.data_ptr()
    assert seen[1].data_ptr() % 64 == 0
    (gradient,) = torch.autograd.grad(value.sum(), stack)
    assert torch.equal(gradient, 2 * stack)
    assert torch.equal(torch.func.grad(lambda u: pr.Serial().evaluate(fn, (u,), 2).sum())(stack.detach()), gradient)
    assert torch.equal(torch.func.vmap(lambda u: pr.Serial().evaluate(fn, (u,), 1))(stack[:, None]), value[:, None])
