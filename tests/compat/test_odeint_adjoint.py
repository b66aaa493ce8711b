"""`odeint_adjoint` against torchdiffeq: its `odeint` by backpropagation, and its own adjoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchdiffeq
from saved import saved_bytes
from torch import Tensor, nn

import parareal as pr

DOUBLE = torch.float64
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4")


class Func(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=DOUBLE))
        self.frozen = nn.Parameter(torch.ones(2, dtype=DOUBLE), requires_grad=False)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.sin(y @ self.weight + t) - y * self.frozen


def times(count: int = 9, end: float = 2.0) -> Tensor:
    return (torch.linspace(0.2, 1.0, count, dtype=DOUBLE) ** 1.2 * end).requires_grad_()


def gradients(call: Callable[..., Any], func: Func, t: Tensor, **options: Any) -> list[Tensor]:
    y0 = torch.tensor([1.0, -0.5], dtype=DOUBLE, requires_grad=True)
    y = call(func, y0, t, **options)
    weights = torch.linspace(0.5, 1.5, len(t), dtype=DOUBLE)[:, None]
    return [*torch.autograd.grad((weights * y.sin()).sum(), [y0, t, func.weight])]


def assert_close(found: list[Tensor], expected: list[Tensor], rtol: float) -> None:
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).abs().max()) <= rtol * float(b.abs().max())


@pytest.mark.parametrize("method", FIXED)
@pytest.mark.parametrize("falls", [False, True])
def test_fixed_steps_give_the_gradient_of_torchdiffeq_by_backpropagation(method: str, falls: bool) -> None:
    func, t = Func(), times()
    t = t.detach().flip(0).requires_grad_() if falls else t
    expected = gradients(torchdiffeq.odeint, func, t, method=method)
    found = gradients(pr.odeint_adjoint, func, t, method=method, rtol=1e-12, atol=1e-14)
    assert_close(found, expected, 1e-9)


@pytest.mark.parametrize("interp", ["linear", "cubic"])
def test_steps_between_times_are_filled_in(interp: str) -> None:
    func, t = Func(), times().detach()
    options = {"step_size": 0.04, "interp": interp}

    def run(call: Callable[..., Any], **tight: Any) -> list[Tensor]:
        y0 = torch.tensor([1.0, -0.5], dtype=DOUBLE, requires_grad=True)
        y = call(func, y0, t, method="rk4", options=options, **tight)
        return [*torch.autograd.grad(y.sin().sum(), [y0, func.weight])]

    assert_close(run(pr.odeint_adjoint, rtol=1e-12, atol=1e-14), run(torchdiffeq.odeint), 1e-9)


def test_the_default_method_agrees_with_the_adjoint_of_torchdiffeq() -> None:
    func, t = Func(), times(4)
    expected = gradients(torchdiffeq.odeint_adjoint, func, t, rtol=1e-10, atol=1e-12)
    found = gradients(pr.odeint_adjoint, func, t, rtol=1e-10, atol=1e-12, slices=4)
    assert_close(found, expected, 1e-7)


def test_tuples_and_functions_that_are_no_modules() -> None:
    weight = torch.tensor([0.3, -0.2], dtype=DOUBLE, requires_grad=True)
    y0 = (torch.ones(2, dtype=DOUBLE, requires_grad=True), torch.zeros((), dtype=DOUBLE, requires_grad=True))

    def f(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return y[0] * weight * torch.cos(t), (y[0] ** 2).sum()

    t = torch.linspace(0.0, 1.0, 7, dtype=DOUBLE)
    both = [
        torch.autograd.grad(sum(part.sin().sum() for part in call(f, y0, t, method="rk4", **tight)), [*y0, weight])
        for call, tight in ((pr.odeint_adjoint, {"rtol": 1e-12}), (torchdiffeq.odeint, {}))
    ]
    assert_close([*both[0]], [*both[1]], 1e-9)


def test_arguments_of_the_adjoint() -> None:
    func, t = Func(), times(5)
    expected = gradients(torchdiffeq.odeint, func, t, method="rk4")
    found = gradients(
        pr.odeint_adjoint,
        func,
        t,
        method="rk4",
        rtol=1e-12,
        adjoint_rtol=1e-12,
        adjoint_atol=1e-9,
        adjoint_method="euler",
        adjoint_options={"norm": "seminorm"},
        adjoint_params=(func.weight,),
    )
    assert_close(found, expected, 1e-9)
    y = pr.odeint_adjoint(func, torch.ones(2, dtype=DOUBLE), t.detach(), method="rk4", adjoint_params=())
    assert not y.requires_grad


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"adjoint_params": [torch.ones(2)]}, ValueError, "does not require a gradient"),
        ({"adjoint_params": torch.ones(2)}, TypeError, "expected tensors"),
        ({"adjoint_params": ["weight"]}, TypeError, r"adjoint_params\[0\]"),
        ({"adjoint_rtol": -1.0}, ValueError, "rtol=-1.0"),
        ({"adjoint_options": ["norm"]}, TypeError, "expected a dict"),
        ({"method": "rk5"}, ValueError, "unknown"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        pr.odeint_adjoint(Func(), torch.ones(2, dtype=DOUBLE), times().detach(), **options)


def test_bytes_do_not_grow_with_fine_steps() -> None:
    func, y0 = Func(), torch.randn(64, 2, dtype=DOUBLE)
    ends = torch.tensor([0.0, 1.0], dtype=DOUBLE)

    def bytes_of(steps: int) -> int:
        grid = pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=steps // 8)
        problem = pr.ODE(func, batching="loop")
        options: dict[str, Any] = {"fine": pr.Heun(), "coarse": pr.Heun(), "gradients": "adjoint"}
        return saved_bytes(lambda: pr.solve(problem, y0, grid, stop=pr.Tolerance(1e-3), **options))

    by_steps = [bytes_of(steps) for steps in (16, 64)]
    assert max(by_steps) <= 1.2 * min(by_steps)
    options = {"step_size": 1 / 64}
    assert by_steps[1] <= 0.1 * saved_bytes(lambda: torchdiffeq.odeint(func, y0, ends, method="heun2", options=options))
