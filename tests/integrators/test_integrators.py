"""A method is what its name says: measured order, tableau identities, and other people's implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.integrate._ivp.rk import RK23, RK45
from strategies import KUTTA3, distance, make_state, single
from strategies import TIME_DEPENDENT as COUPLED
from swing import START, swing
from torch import Tensor
from torchdiffeq._impl.bosh3 import _BOGACKI_SHAMPINE_TABLEAU
from torchdiffeq._impl.dopri5 import _DORMAND_PRINCE_SHAMPINE_TABLEAU
from trees import density, misses, square, trees

import parareal as pr

EPS = float(torch.finfo(torch.float64).eps)

INTEGRATORS = {
    method.__name__: method()
    for method in (
        pr.Euler,
        pr.Midpoint,
        pr.Heun,
        pr.Ralston,
        pr.Heun3,
        pr.Kutta3,
        pr.SSPRK33,
        pr.BogackiShampine,
        pr.RK4,
        pr.ThreeEighths,
        pr.DormandPrince,
        pr.CashKarp,
    )
}


@pytest.mark.parametrize("interval", [(0.0, 2.0), (1.5, -0.5)], ids=["rising", "falling"])
@pytest.mark.parametrize("name", INTEGRATORS)
@pytest.mark.sweep(8)
def test_measured_order(name: str, interval: tuple[float, float]) -> None:
    method = INTEGRATORS[name]
    exact = torch.from_numpy(solve_ivp(swing, interval, START.numpy(), "DOP853", rtol=1e-13, atol=1e-14).y[:, -1])
    steps = np.array([48, 64, 80, 96, 128])
    errors = [
        float(
            (pr.serial(pr.ODE(swing), START, pr.TimeGrid.uniform(*interval, 4, n // 4), fine=method).u - exact).norm()
        )
        for n in steps
    ]
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert order == pytest.approx(method.order, abs=0.15)


@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        (pr.Euler(), "euler"),
        (pr.Midpoint(), "midpoint"),
        (pr.Heun(), "heun2"),
        (pr.Heun3(), "heun3"),
        (pr.ThreeEighths(), "rk4"),
    ],
    ids=["euler", "midpoint", "heun2", "heun3", "rk4 is the 3/8 rule"],
)
@pytest.mark.parametrize("direction", [1.0, -1.0], ids=["rising", "falling"])
def test_torchdiffeq_steps_the_same(method: pr.Integrator, theirs: str, direction: float) -> None:
    t = direction * torch.tensor([0.0, 0.1, 0.15, 0.3, 0.35, 0.6, 0.7, 1.0], dtype=torch.float64)
    ours = pr.serial(pr.ODE(swing), START, pr.TimeGrid.from_edges(t), fine=method).us
    # At most four stages of a few roundings each, in 7 steps of a system that hardly enlarges them.
    assert distance(ours, torchdiffeq.odeint(swing, START, t, method=theirs)) <= 16 * 7 * EPS


def test_rk4_is_not_torchdiffeqs_rk4() -> None:
    t = torch.linspace(0.0, 1.0, 4, dtype=torch.float64)
    ours = pr.serial(pr.ODE(swing), START, pr.TimeGrid.from_edges(t), fine=pr.RK4()).us
    assert distance(ours, torchdiffeq.odeint(swing, START, t, method="rk4")) > 1e-9


TABLEAUX = {name: method.tableau for name, method in INTEGRATORS.items()}  # type: ignore[attr-defined]


def test_there_are_as_many_rooted_trees_as_known() -> None:
    assert [len(trees(order)) for order in range(1, 7)] == [1, 1, 2, 4, 9, 20]  # OEIS A000081
    assert [density(tree) for tree in trees(3)] == [3, 6]


@pytest.mark.parametrize("name", TABLEAUX)
def test_order_conditions(name: str) -> None:
    table = TABLEAUX[name]
    A, _ = square(table)
    np.testing.assert_allclose(A.sum(axis=1), table.nodes, atol=4 * EPS * np.abs(A).sum())
    assert max(misses(table, order) for order in range(1, table.order + 1)) <= 16 * EPS
    assert misses(table, table.order + 1) > 1e-4


@pytest.mark.parametrize(
    ("method", "theirs", "ours"),
    [
        (pr.BogackiShampine(), RK23, _BOGACKI_SHAMPINE_TABLEAU),
        (pr.DormandPrince(), RK45, _DORMAND_PRINCE_SHAMPINE_TABLEAU),
    ],
    ids=["bosh3", "dopri5"],
)
def test_pairs_are_those_of_scipy_and_torchdiffeq(method: Any, theirs: Any, ours: Any) -> None:
    A, b = square(method.tableau)
    s = len(b)
    np.testing.assert_allclose(A[:, : theirs.A.shape[1]], theirs.A, rtol=2 * EPS)
    np.testing.assert_allclose(b, theirs.B, rtol=2 * EPS)
    np.testing.assert_allclose(method.tableau.nodes, theirs.C, rtol=4 * EPS)
    for i, row in enumerate(ours.beta[: s - 1]):
        np.testing.assert_allclose(A[i + 1, : i + 1], row.numpy(), rtol=2 * EPS)
    np.testing.assert_allclose(b, ours.c_sol.numpy()[:s], rtol=2 * EPS)


@pytest.mark.parametrize("name", INTEGRATORS)
def test_evaluations_are_as_declared(name: str) -> None:
    times = []
    problem = pr.ODE(lambda t, u: times.append(float(t)) or -u, batching="loop")
    pr.serial(problem, START, pr.TimeGrid.uniform(0.0, 1.0, 1, 1), fine=INTEGRATORS[name])
    assert times == pytest.approx(TABLEAUX[name].nodes)
    assert len(times) == INTEGRATORS[name].evaluations


@pytest.mark.parametrize("nest", ["scalar", "tuple", "dict", "nested"])
@pytest.mark.parametrize("name", INTEGRATORS)
def test_nests_are_stepped_like_one_flat_state(name: str, nest: str) -> None:
    def flat(u: Any) -> Tensor:
        return torch.cat([leaf.reshape(-1) for leaf in torch.utils._pytree.tree_leaves(u)])

    f, u0 = single(COUPLED.rows), make_state(nest, torch.float64, seed=3)
    leaves, spec = torch.utils._pytree.tree_flatten(u0)

    def flat_f(t: Tensor, v: Tensor) -> Tensor:
        parts = [p.reshape(leaf.shape) for p, leaf in zip(v.split([x.numel() for x in leaves]), leaves, strict=True)]
        return flat(f(t, torch.utils._pytree.tree_unflatten(parts, spec)))

    grid = pr.TimeGrid.uniform(0.2, 0.9, 2, 3)
    nested = pr.serial(pr.ODE(f), u0, grid, fine=INTEGRATORS[name]).u
    assert distance(flat(nested), pr.serial(pr.ODE(flat_f), flat(u0), grid, fine=INTEGRATORS[name]).u) <= 16 * 6 * EPS


@given(st.integers(1, 5), st.sampled_from(sorted(INTEGRATORS)))
def test_steps_are_uniform_points_in_each_slice(steps: int, name: str) -> None:
    method = INTEGRATORS[name]
    stepped = pr.RungeKutta(TABLEAUX[name], steps=steps)
    edges = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    a = pr.serial(pr.ODE(swing), START, pr.TimeGrid.from_edges(edges), fine=stepped).us
    halves = [torch.linspace(a, b, steps + 1, dtype=torch.float64) for a, b in ((0.0, 0.25), (0.25, 1.0))]
    points = torch.cat([halves[0][:-1], halves[1]])
    b = pr.serial(pr.ODE(swing), START, pr.TimeGrid.from_points(points, 2), fine=method).us
    assert distance(a, b) <= 16 * 2 * steps * EPS


def test_named_methods_are_their_tableaux() -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, 2, 3)
    for name in INTEGRATORS:
        named = pr.serial(pr.ODE(swing), START, grid, fine=INTEGRATORS[name]).us
        assert torch.equal(named, pr.serial(pr.ODE(swing), START, grid, fine=pr.RungeKutta(TABLEAUX[name])).us)
        assert pr.RungeKutta(TABLEAUX[name]).order == INTEGRATORS[name].order


def test_a_tableau_may_be_given_as_nested_sequences() -> None:
    assert pr.RungeKutta(([[], [0.5]], [0, 1])).tableau == pr.ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0))
    assert pr.RungeKutta(([[], [0.5]], [0, 1], [0, 0.5])).tableau.c == (0.0, 0.5)
    full = pr.ButcherTableau(a=((0.0, 0.0), (0.5, 0.0)), b=(0.0, 1.0))  # the upper triangle may be spelt out
    assert full.a == ((), (0.5,))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.ButcherTableau(a=((),), b=()), ValueError, ["b is empty"]),
        (lambda: pr.ButcherTableau(a=((),), b=(0.5, 0.5)), ValueError, ["1 rows", "2 weights"]),
        (lambda: pr.ButcherTableau(a=((), ()), b=(0.5, 0.5)), ValueError, ["row 1", "0 weights", "expected 1"]),
        (lambda: pr.ButcherTableau(a=((0.5, 0.5),), b=(1.0,)), ValueError, ["row 0", "2 weights", "at most 1"]),
        (
            lambda: pr.RungeKutta(pr.ButcherTableau(a=((0.5,),), b=(1.0,))),
            ValueError,
            ["implicit", "strictly lower triangular", "pr.ImplicitRungeKutta"],
        ),
        (lambda: pr.ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), c=(0.0, 0.6)), ValueError, ["row 1", "0.6"]),
        (lambda: pr.ButcherTableau(a=((), (0.5,)), b=(0.0, 1.0), c=(0.0,)), ValueError, ["1 nodes", "2 weights"]),
        (lambda: pr.ButcherTableau(a=((), (0.5,)), b=(0.0, 0.9)), ValueError, ["b sums to 0.9", "expected 1"]),
        (lambda: pr.ButcherTableau(a=((), (float("nan"),)), b=(0.0, 1.0)), ValueError, ["row 1", "nan"]),
        (lambda: pr.ButcherTableau(a=((),), b=(float("nan"),)), ValueError, ["b sums to nan"]),
        (lambda: pr.RungeKutta("rk4"), TypeError, ["tableau is a str", "ButcherTableau"]),
        (lambda: pr.RungeKutta(pr.RK4), TypeError, ["tableau is the class RK4", "ButcherTableau"]),
        (lambda: pr.Euler(steps=0), ValueError, ["steps=0", "at least 1"]),
        (lambda: pr.RK4(steps=2.0), TypeError, ["steps=2.0", "float", "int"]),
        (lambda: pr.RungeKutta(KUTTA3, steps=-1), ValueError, ["steps=-1", "at least 1"]),
        (lambda: pr.Heun(steps=True), TypeError, ["steps=True", "bool"]),
    ],
)
def test_what_is_wrong_with_a_method_is_said(make: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


# --- black boxes -----------------------------------------------------------------------------------------------------


def shrink(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
    return u * torch.exp(t0 - t1)


def shrink_rows(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
    return u * torch.exp(t0 - t1)[:, None]


@pytest.mark.parametrize("samples", [False, True])
def test_propagator_batchings_agree(samples: bool) -> None:
    u0 = torch.rand(2, 3, dtype=torch.float64)
    grid = pr.TimeGrid.from_points(torch.tensor([0.0, 0.1, 0.4, 0.9, 1.0], dtype=torch.float64), slices=4)
    native = lambda t0, t1, u: u * torch.exp(t0 - t1).reshape(-1, *[1] * (u.ndim - 1))  # noqa: E731
    runs = [
        pr.solve(
            pr.ODE(lambda t, u: -u),
            u0,
            grid,
            fine=fine,
            coarse=pr.Euler(),
            schedule=pr.Barrier(),
            samples=samples,
            stop=pr.Iterations(2),
        )
        for fine in (
            pr.Propagator(shrink),
            pr.Propagator(shrink, batching="vmap"),
            pr.Propagator(native, batching="native"),
        )
    ]
    for run in runs:
        assert distance(run.us, runs[0].us) <= 32 * EPS
        assert distance(run.us[2], u0 * np.exp(-0.4)) <= 32 * EPS
        assert run.stats.fine_evaluations == (4 + 3) * (2 if samples else 1)


def test_a_propagator_sees_slices_and_scalar_times() -> None:
    seen = []

    def fn(t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
        seen.append((t0.ndim, t0.dtype, float(t0), float(t1), tuple(u.shape)))
        return u

    grid = pr.TimeGrid.uniform(1.0, 0.0, slices=2, steps=7)
    sol = pr.serial(pr.ODE(lambda t, u: u), torch.zeros(3), grid, fine=pr.Propagator(fn))
    assert seen == [(0, torch.float64, 1.0, 0.5, (3,)), (0, torch.float64, 0.5, 0.0, (3,))]
    assert sol.stats.rounds == 2
    assert pr.Propagator(fn).order is None


@pytest.mark.parametrize("batching", ["loop", "vmap", "native"])
@pytest.mark.parametrize(
    ("fn", "error", "words"),
    [
        (lambda t0, t1, u: u[..., :1], ValueError, ["fn(t0, t1, u)", "shape"]),
        (lambda t0, t1, u: u.double(), TypeError, ["fn(t0, t1, u)", "float64", "float32"]),
        (lambda t0, t1, u: (u,), TypeError, ["fn(t0, t1, u)", "tuple"]),
    ],
)
def test_what_a_propagator_returns_is_checked(batching: str, fn: Any, error: type[Exception], words: list[str]) -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, 2)
    with pytest.raises(error) as caught:
        pr.serial(pr.ODE(lambda t, u: u), torch.zeros(3), grid, fine=pr.Propagator(fn, batching=batching))
    assert all(word in str(caught.value) for word in words), str(caught.value)
