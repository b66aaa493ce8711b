"""When Newton's method may end: it gives the solution of the step, whatever matrix corrections are made with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor

import parareal as pr

EPS = {dtype: float(torch.finfo(dtype).eps) for dtype in (torch.float32, torch.float64)}


def steps(count: int, end: float = 1.0) -> pr.TimeGrid:
    return pr.TimeGrid.uniform(0.0, end, slices=1, steps=count)


# --- rates that change quickly ---------------------------------------------------------------------------------------


@dataclass
class Rates:
    """Parts v of a state u = 1 + Q v, of sizes far apart, that decay at r = a + b sigmoid(c (t - d)) + e v^2 + f v_0^2.

    Rates grow or fall within a step, and parts are near the steady state: whatever ends an iteration too early shows.
    """

    seed: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        g = np.random.default_rng(self.seed)
        size, lanes = int(g.integers(1, 41)), int(g.integers(1, 4))
        self.count = int(g.integers(1, 7))
        self.Q = np.linalg.qr(g.normal(size=(size, size)))[0] if g.random() < 0.6 else np.eye(size)
        self.least, self.more, self.square, self.first = 10 ** g.uniform(
            [[-1], [-1], [-1], [0]], [[1], [1], [1.5], [2]], (4, size)
        )
        self.more *= g.random(size) < 0.7
        self.square *= g.random(size) < 0.5
        self.first *= g.random(size) < 0.5
        self.first[0] = 0.0
        self.at, self.speed = g.uniform(0, 1, size), 10 ** g.uniform(0, 2, size) * g.choice([-1, 1], size)
        tiny = -14 if self.dtype == torch.float64 else -6
        self.start = 10 ** g.uniform(tiny, 0, (lanes, size)) * g.choice([-1, 1], (lanes, size))
        if g.random() < 0.5:
            self.start[:, g.random(size) < 0.8] *= 1e-9 if self.dtype == torch.float64 else 1e-4

    def tensor(self, value: Any) -> Tensor:
        return torch.from_numpy(np.asarray(value)).to(self.dtype)

    @property
    def u0(self) -> Tensor:
        return self.tensor(1 + self.start @ self.Q.T)

    @property
    def problem(self) -> pr.ODE:
        Q, *numbers = map(self.tensor, (self.Q, self.least, self.more, self.square, self.first, self.at, self.speed))
        least, more, square, first, at, speed = numbers

        def f(t: Tensor, u: Tensor) -> Tensor:
            v = (u - 1) @ Q
            rate = least + more * torch.sigmoid(speed * (t.to(u.dtype) - at)) + square * v**2 + first * v[..., :1] ** 2
            return -(rate * v) @ Q.T

        return pr.ODE(f)

    def exact(self) -> np.ndarray[Any, Any]:
        """Implicit Euler in numpy, each part from its own cubic equation."""
        v = (self.u0.double().numpy() - 1) @ self.Q
        points = steps(self.count).points.numpy()
        for start, end in pairwise(points):
            h = end - start
            rate = self.least + self.more / (1 + np.exp(-self.speed * (end - self.at)))
            first = cubic(1 + h * rate, h * self.square, v)[:, :1]
            v = cubic(1 + h * (rate + self.first * first**2), h * self.square, v)
        return 1 + v @ self.Q.T


def cubic(a: Any, b: Any, v: Any) -> Any:
    """The w with a w + b w^3 = v, for a >= 1 and b >= 0."""
    w = np.zeros_like(v)
    for _ in range(60):
        w = w - (w * (a + b * w**2) - v) / (a + 3 * b * w**2)
    return w


@examples(5)
@given(st.integers(0, 10**6), st.sampled_from((torch.float64, torch.float32)), st.sampled_from((None, 1e-6)))
@example(76, torch.float64, None)  # a matrix from an earlier step, and corrections that grow below sqrt(eps)
@example(76, torch.float32, None)
@example(88, torch.float64, None)
@example(13, torch.float64, None)
@example(17, torch.float32, None)  # a large part that is solved at once hides small ones above the rounding of f
def test_a_step_is_solved_to_rounding_whatever_is_kept(seed: int, dtype: torch.dtype, rtol: float | None) -> None:
    case = Rates(seed, dtype)
    exact = case.exact()
    ours = pr.serial(case.problem, case.u0, steps(case.count), fine=pr.ImplicitEuler(rtol=rtol), samples=True)
    assert ours.status is pr.Status.FINAL
    error = np.abs(ours.u.double().numpy() - exact).max() / np.abs(exact).max()
    assert error <= 64 * EPS[dtype] + 8 * case.count * (rtol or 0.0)


@pytest.mark.parametrize("dtype", EPS, ids=str)
@pytest.mark.parametrize("size", [16, 17])
def test_corrections_that_grow_near_a_steady_state_are_no_solution(dtype: torch.dtype, size: int) -> None:
    """At t = 0.15 the rate rises from 1 to 31: with the matrix of the first step the second one diverges, slowly."""
    rate = lambda t: 1 + 30 * torch.sigmoid(50 * (t - 0.15))  # noqa: E731
    u0 = torch.full((size,), 1 + EPS[dtype] ** 0.6, dtype=dtype)
    ours = pr.serial(pr.ODE(lambda t, u: -rate(t).to(u.dtype) * (u - 1)), u0, steps(2, 0.2), fine=pr.ImplicitEuler())
    exact = u0[0].double() - 1
    for start, end in ((0.0, 0.1), (0.1, 0.2)):
        exact = exact / (1 + (end - start) * rate(torch.tensor(end, dtype=torch.float64)))
    assert (ours.u.double() - 1 - exact).abs().max() <= 2 * EPS[dtype]


def test_a_small_part_is_not_hidden_by_a_large_one() -> None:
    """The large part is solved by the first correction of the matrix that is kept, the small ones hardly by several."""
    rate = lambda t: 10 - 9 * torch.sigmoid(200 * (t - 0.15))  # noqa: E731
    u0 = torch.full((20,), 1e-9, dtype=torch.float64).index_fill(0, torch.tensor([0]), 1.0)

    def f(t: Tensor, u: Tensor) -> Tensor:
        return -torch.cat([u[:1], rate(t) * u[1:]])

    ours = pr.serial(pr.ODE(f), u0, steps(3, 0.3), fine=pr.ImplicitEuler())
    exact = 1e-9
    for end in (0.1, 0.2, 0.3):
        exact = exact / (1 + 0.1 * float(rate(torch.tensor(end, dtype=torch.float64))))
    assert (ours.u[1:] - exact).abs().max() <= 4 * EPS[torch.float64]


@examples(5)
@given(st.floats(0, 4), st.floats(-6, -1))
@example(4.0, -5.125)
@example(3.0, -3.5)
def test_a_small_number_is_not_hidden_by_a_large_one(rate: float, size: float) -> None:
    """With new derivatives in every iteration: u_1 is linear and large, u_2 small, and its equation is quadratic."""
    c, v = 10.0**rate, 10.0**size
    u0 = torch.tensor([1.0, v], dtype=torch.float64)
    ours = pr.serial(pr.ODE(lambda t, u: torch.stack([-u[0], -c * u[1] ** 2])), u0, steps(1), fine=pr.ImplicitEuler())
    assert abs(float(ours.u[1]) - 2 * v / (1 + (1 + 4 * c * v) ** 0.5)) <= 8 * EPS[torch.float64]


@pytest.mark.parametrize("size", [4, 17])
def test_a_state_may_vanish(size: int) -> None:
    """Below the least normal numbers corrections no longer shrink, and there is nothing left to solve."""
    rate = torch.linspace(50.0, 100.0, size)
    ours = pr.serial(
        pr.ODE(lambda t, u: -rate * u * (1 + u**2)), torch.ones(size), steps(60, 30.0), fine=pr.RadauIIA(2)
    )
    assert ours.status is pr.Status.FINAL
    assert ours.u.abs().max() <= 1e-37


# --- matrices that are approximations --------------------------------------------------------------------------------


def decay(size: int) -> tuple[Tensor, Any]:
    rate = torch.linspace(1.0, 10.0, size, dtype=torch.float64)
    return rate, lambda t, u: -rate * u - 0.3 * u**3


def solved(rate: Tensor, u: Tensor, count: int, h: float) -> Any:
    v = u.numpy()
    for _ in range(count):
        v = cubic(1 + h * rate.numpy(), h * 0.3, v)
    return v


@pytest.mark.parametrize("size", [2, 16, 17])
@pytest.mark.parametrize("share", [1.0, 0.8, 0.5, 1.5])
def test_an_approximate_matrix_takes_longer_to_the_same_result(size: int, share: float) -> None:
    rate, f = decay(size)
    u0 = torch.ones(size, dtype=torch.float64)
    runs = [
        pr.serial(pr.ODE(f, jacobian=lambda t, u, s=s: -s * torch.diag(rate)), u0, steps(4), fine=pr.ImplicitEuler())
        for s in (1.0, share)
    ]
    for run in runs:
        assert run.status is pr.Status.FINAL
        np.testing.assert_allclose(run.u.numpy(), solved(rate, u0, 4, 0.25), rtol=0, atol=8 * EPS[torch.float64])
    assert runs[0].stats.rounds <= runs[1].stats.rounds <= 4 * 24 * 20


@pytest.mark.parametrize("size", [2, 17])
@pytest.mark.parametrize("start", [1e-11, 1.0])
def test_a_wrong_matrix_gives_no_wrong_result(size: int, start: float) -> None:
    """With a tenth of the matrix corrections grow, also where all are below sqrt(eps)."""
    rate, _ = decay(size)
    u0 = torch.full((size,), 1 + start, dtype=torch.float64)
    problem = pr.ODE(lambda t, u: -rate * (u - 1), jacobian=lambda t, u: -0.1 * torch.diag(rate))
    ours = pr.serial(problem, u0, steps(1), fine=pr.ImplicitEuler())
    assert ours.status is pr.Status.UNSOLVED
    assert ours.u.isnan().all()
    assert ours.stats.rounds <= 100


@pytest.mark.parametrize("structure", [None, pr.Banded(0, 0)], ids=["whole", "banded"])
@pytest.mark.parametrize("size", [2, 17])
@pytest.mark.parametrize("steady", [False, True])
def test_gradients_with_an_approximate_matrix(size: int, structure: Any, steady: bool) -> None:
    """Of v = w + h r (w - c): dw/dv = 1 / (1 + h r), also where the first guess is the solution."""
    rate = torch.linspace(1.0, 10.0, size, dtype=torch.float64)
    u0 = torch.full((size,), 1.0 if steady else 2.0, dtype=torch.float64, requires_grad=True)
    problem = pr.ODE(lambda t, u: -rate * (u - 1), jacobian=lambda t, u: -0.5 * torch.diag(rate), structure=structure)
    ours = pr.serial(problem, u0, steps(2), fine=pr.ImplicitEuler())
    (found,) = torch.autograd.grad(ours.u.sum(), u0)
    torch.testing.assert_close(found, (1 + 0.5 * rate) ** -2, rtol=1e-12, atol=0)


# --- calls on no lanes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", [None, pr.Banded(0, 0)], ids=["whole", "banded"])
@pytest.mark.parametrize(
    "executor", [pr.Serial(), pr.Batched(max_lanes=2), pr.Batched(devices=["cpu"] * 2), pr.Batched(pad_to=2)], ids=repr
)
def test_nothing_is_called_on_no_lanes(executor: pr.Executor, structure: Any) -> None:
    """Lanes that want a new matrix are in one call of a round, those of another one want none."""
    rate, seen = torch.linspace(1.0, 50.0, 20, dtype=torch.float64), list[int]()

    def f(t: Tensor, u: Tensor) -> Tensor:
        seen.append(len(t))
        return -rate * u - u**3 + torch.cos(2 * t)[:, None]

    def jacobian(t: Tensor, u: Tensor) -> Tensor:
        seen.append(len(t))
        return torch.diag_embed(-rate - 3 * u**2)

    points = torch.tensor([0, 0.1, 0.2, 0.5, 0.7, 1.6, 2.2, 2.3, 2.5], dtype=torch.float64)
    grid, u0 = pr.TimeGrid.from_points(points, slices=4), torch.linspace(0.1, 2.0, 20, dtype=torch.float64)
    problem = pr.ODE(f, "native", jacobian=jacobian if structure is None else None, structure=structure)
    ours = pr.solve(problem, u0, grid, fine=pr.ImplicitEuler(), coarse=pr.ImplicitEuler(), executor=executor)
    assert ours.status is pr.Status.FINAL
    assert min(seen) >= 1
