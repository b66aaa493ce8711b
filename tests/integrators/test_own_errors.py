"""What a right-hand side raises itself arrives as it is, wherever it is called; what torch refuses is explained."""

from __future__ import annotations

import warnings
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import parareal as pr

GRID = pr.TimeGrid.uniform(0.0, 2.0, slices=4, steps=2)
U0 = torch.ones(2, dtype=torch.float64)


class QuotaError(RuntimeError):
    pass


ERRORS = (
    QuotaError("licence server gone"),
    RuntimeError("licence server gone"),
    NotImplementedError("licence server gone"),
    RecursionError("licence server gone"),
    ValueError("licence server gone"),
    KeyboardInterrupt("licence server gone"),
)
METHODS = (
    (pr.ImplicitEuler(), pr.Euler()),
    (pr.RadauIIA(2), pr.Euler()),
    (pr.ImplicitEuler(krylov=True), pr.Euler()),
    (pr.RK4(), pr.Jacobian()),
    (pr.ImplicitEuler(), pr.Jacobian()),
    (pr.RK4(), pr.ImplicitEuler()),
)


def failing(error: BaseException, call: int) -> Any:
    left = call

    def f(t: Tensor, u: Tensor) -> Tensor:
        nonlocal left
        left -= 1
        if left == 0:
            raise error
        return torch.cos(t) * u - u**3

    return f


@given(st.sampled_from(ERRORS), st.sampled_from(METHODS), st.integers(1, 30), st.sampled_from(("vmap", "auto")))
@example(ERRORS[0], METHODS[0], 12, "vmap")
@example(ERRORS[1], METHODS[0], 12, "vmap")
@example(ERRORS[1], METHODS[3], 6, "auto")
def test_errors_of_the_right_hand_side_arrive_as_they_are(
    error: BaseException, methods: Any, call: int, batching: Any
) -> None:
    fine, coarse = methods
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not work under")
        try:
            pr.solve(pr.ODE(failing(error, call), batching), U0, GRID, fine=fine, coarse=coarse)
        except BaseException as caught:
            assert caught is error  # noqa: PT017  it may also end before that call


def test_those_of_a_propagator_that_is_differentiated_do_too() -> None:
    for error, call in product(ERRORS, (1, 5, 8)):
        f = failing(error, call)
        fine = pr.Propagator(lambda t0, t1, u, f=f: u + (t1 - t0) * f(t0, u), differentiable=True)
        with pytest.raises(type(error)) as caught:
            pr.solve(pr.ODE(lambda t, u: u), U0, GRID, fine=fine, coarse=pr.Jacobian())
        assert caught.value is error


def no_derivative(t: Tensor, u: Tensor) -> Tensor:
    return Opaque.apply(u)  # type: ignore[no-any-return,no-untyped-call]


class Opaque(torch.autograd.Function):
    """An operation without a forward derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor) -> Tensor:
        return -u

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return -grad


def by_item(t: Tensor, u: Tensor) -> Tensor:
    return -u * float(1.0 + 0.0 * u.sum().item())


def by_numpy(t: Tensor, u: Tensor) -> Tensor:
    return torch.from_numpy(-u.detach().numpy())


@pytest.mark.parametrize("f", [no_derivative, by_numpy])
def test_what_torch_refuses_is_explained(f: Any) -> None:
    with pytest.raises(ValueError, match=r"torch\.func\.jvp could not take them"):
        pr.serial(pr.ODE(f), U0, pr.TimeGrid.uniform(0.0, 1.0, slices=1), fine=pr.ImplicitEuler())


def test_what_vmap_refuses_is_called_lane_by_lane() -> None:
    with pytest.warns(UserWarning, match="does not work under torch.func.vmap"):
        sol = pr.solve(pr.ODE(by_item, "auto"), U0, GRID, fine=pr.RK4(), coarse=pr.Euler())
    assert sol.converged
