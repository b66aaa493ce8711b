"""Complex states: a lane does not depend on how many lie beside it, to the last bit, and dtypes stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import examples
from torch import Tensor

import parareal as pr
from parareal._core.norms import modulus, norm, rms
from parareal._core.vectors import added

D, C, C64 = torch.float64, torch.complex128, torch.complex64
SHAPES = ((), (1,), (2,), (3,), (5,), (2, 3))
EVEN = pr.TimeGrid.uniform(0.0, 2.0, slices=6, steps=2)
UNEVEN = pr.TimeGrid.from_points(torch.linspace(0, 1, 13, dtype=D) ** 2 * 2, slices=6)


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


# --- methods ----------------------------------------------------------------------------------------------------------


def ode(u0: Tensor) -> pr.ODE:
    return pr.ODE(lambda t, u: 1j * torch.cos(t).to(u.real.dtype) * u - 0.3 * u)


def number(u0: Tensor) -> pr.ODE:
    return pr.SemilinearODE(-1.0 + 0.5j, lambda t, u: 0.3 * u)


def modes(u0: Tensor) -> pr.ODE:
    linear = torch.linspace(-2.0, 3.0, u0.numel(), dtype=D).reshape(u0.shape) * (0.2 + 1j)
    return pr.SemilinearODE(linear, lambda t, u: 0.3 * u / (1 + u.real.square() + u.imag.square()))


def halves(u0: Tensor) -> pr.ODE:
    return pr.ODE(split=(lambda t, u: 1j * u, lambda t, u: -0.3 * u))


EXPONENTIAL = (pr.ETDRK4(), pr.DPMSolver(3), pr.DPMSolverPP(2, "multistep"), pr.DEIS(3), pr.UniPC(2), pr.Strang())
PLAIN = (
    pr.RK4(),
    pr.AdamsBashforth(3),
    pr.RadauIIA(2),
    pr.Adaptive(rtol=1e-5, atol=1e-7),
    pr.Adaptive("tsit5", rtol=1e-3, atol=1e-5),
)
CASES: tuple[tuple[Callable[[Tensor], pr.ODE], Any], ...] = (
    *((make, fine) for make in (number, modes) for fine in EXPONENTIAL),
    *((ode, fine) for fine in PLAIN),
    (halves, pr.Strang((pr.ImplicitMidpoint(), pr.RK4()))),
)


@examples(20)
@given(
    st.sampled_from(CASES),
    st.sampled_from(SHAPES),
    st.sampled_from((C, C64)),
    st.sampled_from((EVEN, UNEVEN)),
    st.sampled_from((pr.Barrier(), pr.Windowed(3), None)),
    st.integers(0, 10**6),
)
@example((number, pr.ETDRK4()), (3,), C, UNEVEN, pr.Barrier(), 0)
@example((number, pr.ETDRK4()), (3,), C, UNEVEN, pr.Barrier(), 1)
@example((ode, pr.Adaptive(rtol=1e-5, atol=1e-7)), (3,), C, EVEN, pr.Barrier(), 4)
def test_a_final_run_is_the_sequential_one_to_the_last_bit(
    case: Any, shape: tuple[int, ...], dtype: torch.dtype, grid: pr.TimeGrid, schedule: Any, seed: int
) -> None:
    (make, fine), u0 = case, drawn(shape, dtype, seed)
    call = {"fine": fine, "executor": pr.Serial()}
    ref = pr.serial(make(u0), u0, grid, **call)
    stop = pr.Iterations(grid.num_slices)
    sol = pr.solve(make(u0), u0, grid, **call, coarse=pr.Identity(), schedule=schedule, stop=stop)
    assert sol.status is pr.Status.FINAL
    assert sol.us.dtype is dtype
    assert torch.equal(sol.us, ref.us)


# --- norms ------------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 5), max_size=2),
    st.sampled_from((torch.float32, D, C64, C)),
    st.integers(-8, 8),
    st.integers(0, 10**6),
)
@example(200, [2], C, 0, 0)
@example(200, [3], C, 0, 0)
def test_norms_of_a_lane_do_not_depend_on_the_others(
    lanes: int, shape: list[int], dtype: torch.dtype, power: int, seed: int
) -> None:
    x = drawn((lanes, *shape), dtype, seed) * 10.0**power
    wide = x.numpy().astype(np.complex128).reshape(lanes, -1)
    expected = {
        "rms": np.sqrt((np.abs(wide) ** 2).mean(1)),
        "max": np.abs(wide).max(1),
    }
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        "rms": lambda part: norm(part, "rms"),
        "max": lambda part: norm(part, "max"),
        "own": rms,
    }
    rtol = 1e-5 if dtype in (torch.float32, C64) else 1e-13
    for name, call in calls.items():
        whole = call(x)
        assert torch.equal(whole, torch.cat([call(x[i : i + 1]) for i in range(lanes)]))
        np.testing.assert_allclose(whole.double().numpy(), expected["max" if name == "max" else "rms"], rtol)
    size = modulus(x)
    assert torch.equal(size, torch.stack([modulus(row) for row in x]))
    assert size.dtype is x.dtype.to_real()
    np.testing.assert_allclose(size.double().reshape(lanes, -1).numpy(), np.abs(wide), rtol)


@pytest.mark.parametrize(("dtype", "exponents"), [(C, (-1074, -1000, -400, 0, 400, 1022)), (C64, (-149, -120, 0, 126))])
def test_the_modulus_is_right_where_squares_overflow(dtype: torch.dtype, exponents: tuple[int, ...]) -> None:
    real = dtype.to_real()
    for power in exponents:
        part = torch.tensor(2.0**power, dtype=real)
        size = modulus(torch.complex(part, part))
        expected = np.hypot(part.numpy(), part.numpy())
        assert abs(float(size) - float(expected)) <= 2 * abs(float(np.spacing(expected)))
    odd = torch.tensor([complex(np.inf, 1.0), complex(0.0, -np.inf), complex(np.nan, 1.0), 0.0], dtype=dtype)
    np.testing.assert_array_equal(modulus(odd).numpy(), np.array([np.inf, np.inf, np.nan, 0.0], dtype=np.float64))


def test_a_conjugate_view_has_the_same_norm() -> None:
    x = drawn((4, 3), C, 0)
    for call in (modulus, rms, lambda part: norm(part, "rms"), lambda part: norm(part, "max")):
        assert torch.equal(call(x.conj()), call(x))


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from((D, C64, C)), st.integers(0, 10**6))
def test_sums_over_rows_do_not_depend_on_the_other_columns(
    rows: int, columns: int, dtype: torch.dtype, seed: int
) -> None:
    x = drawn((rows, columns), dtype, seed)
    assert torch.equal(added(x), torch.cat([added(x[:, i : i + 1]) for i in range(columns)]))
    rtol = 1e-4 if dtype is C64 else 1e-12
    np.testing.assert_allclose(added(x).numpy(), x.numpy().sum(0), rtol, 10 * rtol)


# --- tangents ---------------------------------------------------------------------------------------------------------

SMOOTH = (
    lambda t, u: 1j * u - 0.5 * u,
    lambda t, u: 0.5j * torch.sin(u),
    lambda t, u: (1j * u[0] - u[1] * u[0], 0.3j * u[1]),
)


@pytest.mark.parametrize("kind", [("full", None), ("diagonal", None), ("diagonal", 2)], ids=repr)
@pytest.mark.parametrize("executor", [pr.Serial(), pr.Batched()], ids=repr)
@pytest.mark.parametrize("f", range(3))
def test_tangents_of_single_precision_numbers_stay_so(f: int, executor: pr.Executor, kind: Any) -> None:
    """Torch makes double precision of a tangent where a number of no dimension meets a Python number."""
    u0: Any = torch.tensor(0.7 + 0.3j, dtype=C64)
    if f == 2:
        u0 = (u0, torch.tensor([0.2 + 0.1j, 0.4j], dtype=C64).sum())
    call = {"executor": executor, "fine": pr.Heun()}
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=3)
    ref = pr.serial(pr.ODE(SMOOTH[f]), u0, grid, **call)
    for schedule in (pr.Barrier(), None):
        sol = pr.solve(pr.ODE(SMOOTH[f]), u0, grid, **call, coarse=pr.Jacobian(*kind), schedule=schedule)
        for ours, theirs in zip(sol.u if f == 2 else (sol.u,), ref.u if f == 2 else (ref.u,), strict=True):
            assert ours.dtype is C64
            assert abs(ours - theirs) < 1e-3


def test_so_do_those_of_a_propagator() -> None:
    def fn(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        return u * 1j * 0.5 + u * u * 0.1

    fine, grid = pr.Propagator(fn, differentiable=True), pr.TimeGrid.uniform(0.0, 1.0, slices=4)
    u0 = torch.tensor(0.7 + 0.3j, dtype=C64)
    sol = pr.solve(pr.ODE(lambda t, u: u), u0, grid, fine=fine, coarse=pr.Jacobian())
    assert sol.us.dtype is C64
    assert abs(sol.u - pr.serial(pr.ODE(lambda t, u: u), u0, grid, fine=fine).u) < 1e-4
