"""Gradients of `odeint` with respect to its times, against finite differences of its own results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchdiffeq
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import parareal as pr
from parareal.integrators._timed import Points, timed

D = torch.float64
Y0 = torch.tensor([0.3, 1.0], dtype=D)
T = torch.tensor([0.0, 0.7, 1.5], dtype=D)
AT = torch.tensor([0.31, 1.17], dtype=D)
CONTINUOUS = torch.tensor([-1.590825, 0.0, 0.112531], dtype=D)
"""The gradient of the sum of the last states, with respect to the three times, of the equation itself."""


def f(t: Tensor, y: Any) -> Any:
    return torch.tanh(y) * torch.cos(t)


def check(fn: Callable[[Tensor], Tensor], t: Tensor = T, close: float = 1e-6) -> None:
    """The gradient of a number agrees with differences along a direction, and its value with theirs."""
    given = t.clone().requires_grad_()
    value = fn(given)
    (found,) = torch.autograd.grad(value, given)
    along, step = torch.linspace(-1.0, 1.7, len(t), dtype=D), 1e-5
    with torch.no_grad():
        right, left = fn(t + step * along), fn(t - step * along)
    torch.testing.assert_close(found @ along, (right - left) / (2 * step), rtol=close, atol=close)
    torch.testing.assert_close(value.detach(), (right + left) / 2, rtol=1e-8, atol=1e-8)


def number(y: Tensor) -> Tensor:
    weights = torch.linspace(1.0, 2.0, y.numel(), dtype=D).reshape(y.shape)
    return (weights * y).sum() + (y[0] ** 2).sum()


# --- methods of torchdiffeq that have a history ----------------------------------------------------------------------


@pytest.mark.parametrize(("method", "falls"), [("explicit_adams", False), ("implicit_adams", True)])
def test_slices_of_adams_methods(method: str, falls: bool) -> None:
    options, t = {"step_size": 0.093}, T.flip(0) if falls else T
    check(lambda t: number(pr.odeint(f, Y0, t, method=method, options=options, slices=2)), t)


@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_steps_that_divide_the_slices_keep_the_derivative_at_their_ends(method: str) -> None:
    t = T.clone().requires_grad_()
    y = pr.odeint(f, Y0, t, method=method, options={"step_size": 0.05}, slices=4)
    (found,) = torch.autograd.grad(y[-1].sum(), t)
    # The coefficients are those of even steps: with respect to the last one the slope is that of its middle.
    torch.testing.assert_close(found, CONTINUOUS, rtol=0.0, atol=0.05)


# --- continuous solutions --------------------------------------------------------------------------------------------


DENSE: dict[str, dict[str, Any]] = {
    "RK4": {"method": pr.RK4(steps=3)},
    "ImplicitEuler": {"method": pr.ImplicitEuler(steps=2)},
    "AdamsBashforth": {"method": pr.AdamsBashforth(3, steps=3)},
    "Propagator": {"method": pr.Propagator(lambda a, b, u: u * torch.exp(a * a - b))},
    "rk4": {"method": "rk4", "options": {"step_size": 0.4}},
    "euler": {"method": "euler"},
    "dopri5": {"method": "dopri5"},
    "adams": {"method": "explicit_adams", "options": {"step_size": 0.15}},
}


@pytest.mark.parametrize("name", DENSE)
def test_a_continuous_solution_moves_with_the_times(name: str) -> None:
    options = DENSE[name] | {"slices": 2, "dense": True}

    def at(t: Tensor) -> Tensor:
        dense = pr.odeint(f, Y0, t, **options)
        return number(dense(AT)) + 0.7 * number(dense(t))

    check(at, close=2e-6)


@pytest.mark.parametrize("method", ["rk4", pr.RK4(steps=8), "dopri5"])
def test_the_solution_of_the_run_moves_with_the_times(method: Any) -> None:
    def at(t: Tensor) -> Tensor:
        _, solution = pr.odeint(f, Y0, t, method=method, slices=3, return_solution=True)
        return number(solution.dense()(AT))

    check(at)


@pytest.mark.parametrize("method", ["rk4", pr.RK4(steps=8), "dopri5"])
def test_a_continuous_solution_by_the_adjoint(method: Any) -> None:
    def call(odeint: Any) -> Tensor:
        t, y0 = T.clone().requires_grad_(), Y0.clone().requires_grad_()
        dense = odeint(f, y0, t, method=method, slices=3, dense=True)
        return torch.cat(torch.autograd.grad(number(dense(AT)) + number(dense(t)), [t, y0]))

    torch.testing.assert_close(call(pr.odeint_adjoint), call(pr.odeint), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fine", [pr.RK4(), pr.ImplicitEuler(steps=2), pr.AdamsBashforth(2)], ids=repr)
def test_a_grid_with_a_graph_by_the_adjoint(fine: Any) -> None:
    def at(t: Tensor) -> Tensor:
        grid = pr.TimeGrid.from_points(t, slices=2)
        dense = pr.solve(
            pr.ODE(f), Y0, grid, fine=fine, coarse=pr.Heun(), stop=pr.Tolerance(1e-11), gradients="adjoint"
        ).dense()
        return number(dense(AT)) + number(dense(t))

    check(at, torch.tensor([0.0, 0.4, 0.7, 1.1, 1.5], dtype=D))


# --- implicit methods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2,), (17,), (4, 3)], ids=str)
@pytest.mark.parametrize("method", ["implicit_euler", "gl4", "radauIIA5", "trapezoid"])
@pytest.mark.parametrize("perturb", [False, True])
@pytest.mark.sweep(8)
def test_implicit_methods_with_and_without_factors_that_are_kept(method: str, size: Any, perturb: bool) -> None:
    y0 = torch.linspace(0.3, 1.0, torch.Size(size).numel(), dtype=D).reshape(size)
    options = {"step_size": 0.4, "perturb": perturb}
    check(lambda t: number(pr.odeint(f, y0, t, method=method, options=options, slices=2)))


@pytest.mark.parametrize("method", ["implicit_euler", "gl4"])
def test_implicit_methods_by_the_adjoint(method: str) -> None:
    y0 = torch.linspace(0.3, 1.0, 17, dtype=D)
    check(lambda t: number(pr.odeint_adjoint(f, y0, t, method=method)))


SIZE = 12
MATRIX = (torch.ones(SIZE - 1, dtype=D).diag(1) - torch.eye(SIZE, dtype=D)) * 2
MATRIX = MATRIX + MATRIX.mT


def bent(t: Tensor, u: Tensor) -> Tensor:
    return u @ MATRIX.mT - u**3 * torch.cos(t) + torch.sin(t)


def straight(t: Tensor, u: Tensor) -> Tensor:
    return u @ MATRIX.mT + torch.sin(t)


PROBLEMS = {
    "dense": pr.ODE(bent),
    "banded": pr.ODE(bent, structure=pr.Banded(1, 1)),
    "sparse": pr.ODE(bent, structure=pr.Sparse(MATRIX != 0)),
    "jacobian": pr.ODE(bent, jacobian=lambda t, u: MATRIX - (3 * u**2 * torch.cos(t)).diag()),
    "linear": pr.ODE(straight, linear=True),
    "linear banded": pr.ODE(straight, linear=True, structure=pr.Banded(1, 1)),
}


@pytest.mark.sweep(7)
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("method", [pr.ImplicitEuler(steps=2), pr.RadauIIA(2, steps=2)], ids=repr)
def test_systems_of_every_kind(name: str, method: Any) -> None:
    u0 = torch.linspace(0.3, 1.0, SIZE, dtype=D)

    def last(edges: Tensor) -> Tensor:
        grid = pr.TimeGrid.from_edges(edges.detach())
        coarse = timed(pr.ImplicitEuler(), edges)
        return number(pr.solve(PROBLEMS[name], u0, grid, fine=timed(method, edges), coarse=coarse).us)

    check(last)


def test_jacobian_corrects_implicit_steps_between_times_with_a_graph() -> None:
    y0 = torch.linspace(0.3, 1.0, 17, dtype=D)
    options: dict[str, Any] = {"method": "implicit_euler", "options": {"step_size": 0.4}, "coarse": pr.Jacobian()}
    check(lambda t: number(pr.odeint(f, y0, t, **options)))


# --- integrators -----------------------------------------------------------------------------------------------------


@given(
    method=st.sampled_from([pr.RK4, pr.Heun, pr.ImplicitEuler, pr.AdamsBashforth]),
    steps=st.integers(1, 4),
    order=st.integers(1, 4),
    restart=st.booleans(),
    slices=st.integers(1, 4),
    falls=st.booleans(),
)
def test_any_steps_in_slices(method: Any, steps: int, order: int, restart: bool, slices: int, falls: bool) -> None:
    own = {"order": order, "restart": restart} if method is pr.AdamsBashforth else {}
    call: dict[str, Any] = {"method": method(steps=steps, **own), "slices": slices, "rtol": 1e-10, "atol": 1e-12}
    check(lambda t: number(pr.odeint(f, Y0, t, **call)), T.flip(0) if falls else T)


def test_a_history_of_complex_and_nested_states() -> None:
    y0 = (torch.ones(2, dtype=torch.complex128), torch.tensor(0.5, dtype=D))

    def last(t: Tensor) -> Tensor:
        method = pr.AdamsBashforth(3, steps=3)
        u, v = pr.odeint(lambda t, y: (1j * y[0] * t, -y[1] * y[0].real.sum()), y0, t, method=method, slices=3)
        return (u[-1].real + 2 * u[1].imag).sum() + (v[-1] + v[1]).real

    check(last)


def test_scipy_says_before_any_work_that_no_gradient_flows() -> None:
    calls: list[int] = []

    def counted(t: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return f(t, y)

    t = T.clone().requires_grad_()
    for solver in ("RK45", "LSODA"):
        calls.clear()
        with pytest.raises(ValueError, match=r"the times require a gradient, and none flows through SciPy's solvers"):
            pr.odeint(counted, Y0, t, method=pr.SciPy(solver), batching="loop")
        assert len(calls) <= 1


def test_events_by_the_adjoint_take_times_with_a_graph() -> None:
    def last(odeint: Any) -> Tensor:
        t = T[:2].clone().requires_grad_()
        at, y = odeint(f, Y0, t, event_fn=lambda t, y: 1.05 - t, method="dopri5")
        assert abs(float(at) - 1.05) < 1e-6
        return torch.autograd.grad(y[-1].sum() + (y[0] ** 2).sum(), t)[0]

    torch.testing.assert_close(last(pr.odeint_adjoint), last(torchdiffeq.odeint), rtol=1e-3, atol=1e-3)


def test_times_between_points_move_with_both() -> None:
    points = torch.tensor([2.0, 1.0, -1.0], dtype=D, requires_grad=True)
    times = torch.tensor([2.0, 1.75, 1.0, 0.5, -1.0], dtype=D)
    attached = Points(points).attach(times)
    assert torch.equal(attached.detach(), times)
    weights = torch.stack([torch.autograd.grad(one, points, retain_graph=True)[0] for one in attached])
    expected = [[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.0, 0.75, 0.25], [0.0, 0.0, 1.0]]
    assert torch.equal(weights, torch.tensor(expected, dtype=D))
