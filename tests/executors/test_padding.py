"""Calls of fixed numbers of lanes: `pr.Batched(pad_to=...)`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import diffusion_adapters as da
import parareal as pr

U0 = torch.linspace(0.3, 1.2, 3, dtype=torch.float64)


class Watched:
    """A right-hand side, row by row, that notes how many lanes its calls have."""

    def __init__(self) -> None:
        self.lanes: list[int] = []

    def __call__(self, t: Tensor, u: Tensor) -> Tensor:
        self.lanes.append(len(t))
        return torch.sin(3 * t)[:, None] - u * u.flip(-1)


def sizes() -> st.SearchStrategy[int | tuple[int, ...]]:
    many = st.sets(st.integers(1, 20), min_size=1, max_size=4).map(lambda found: tuple(sorted(found)))
    return st.one_of(st.integers(1, 20), many)


@given(data=st.data())
def test_every_call_has_one_of_the_sizes_and_results_are_the_same(data: st.DataObject) -> None:
    pad_to = data.draw(sizes())
    slices, steps = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    fine = data.draw(st.sampled_from([pr.Euler(), pr.RK4(), pr.AdamsBashforth(2), pr.ImplicitEuler()]))
    coarse = data.draw(
        st.sampled_from([pr.Euler(), pr.Identity(), pr.Secant(pr.Identity()), pr.Anderson(pr.Identity())])
    )
    schedule = data.draw(st.sampled_from([pr.Barrier(), pr.Wavefront(), pr.Windowed(min(3, slices))]))
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=slices, steps=steps)
    f, g = Watched(), Watched()
    options: dict[str, Any] = {"fine": fine, "coarse": coarse, "schedule": schedule, "throw": False}
    plain, padded = pr.ODE(f, batching="native"), pr.ODE(g, batching="native")
    a = pr.solve(plain, U0, grid, **options)
    b = pr.solve(padded, U0, grid, executor=pr.Batched(pad_to=pad_to), **options)
    torch.testing.assert_close(b.us, a.us, rtol=1e-12, atol=1e-13)
    assert (b.stats.rounds, b.stats.evaluations, b.stats.max_lanes) == (
        a.stats.rounds,
        a.stats.evaluations,
        a.stats.max_lanes,
    )
    assert a.stats.padded_lanes == 0
    allowed = {pad_to} if isinstance(pad_to, int) else {*pad_to}
    assert {*g.lanes} <= allowed
    if not fine.implicit:  # whose calls ask f for all stages, and for derivatives
        assert len(g.lanes) == b.stats.calls
        assert sum(g.lanes) == b.stats.evaluations + b.stats.padded_lanes
    assert b.status is a.status


WATCHED = Watched()
ONE = pr.ODE(WATCHED, "native")
PARTS = (lambda t, u: 0.5 * WATCHED(t, u), lambda t, u: 0.5 * WATCHED(t, u))
SPLIT = pr.ODE(split=PARTS, batching="native")
BOTH = pr.ODE(WATCHED, "native", split=PARTS)
LINEAR = pr.ODE(lambda t, u: WATCHED(t, 0 * u) - u, "native", linear=True)
PAIR = pr.SeparableODE(WATCHED, WATCHED, "native")
MANY = torch.linspace(0.3, 1.2, 20, dtype=torch.float64)  # factorisations are kept


@pytest.mark.parametrize(
    ("problem", "u0", "fine", "coarse"),
    [
        (ONE, U0, pr.RadauIIA(2), pr.ImplicitEuler()),
        (ONE, MANY, pr.SDIRK2(), pr.ImplicitEuler()),
        (ONE, U0, pr.ImplicitEuler(krylov=True), pr.Euler()),
        (LINEAR, U0, pr.RadauIIA(2), pr.ImplicitEuler()),
        (SPLIT, U0, pr.ARS222(), pr.IMEXEuler()),
        (BOTH, U0, pr.Strang((pr.RK4(), pr.ImplicitEuler())), pr.Lie()),
        (PAIR, (U0, U0), pr.StoermerVerlet(), pr.StoermerVerlet()),
        (pr.SemilinearODE(-1.0, WATCHED, "native"), U0, pr.ETDRK4(), pr.ExponentialEuler()),
        (pr.SDE(WATCHED, WATCHED, batching="native"), U0, pr.Milstein(), pr.EulerMaruyama()),
        (ONE, U0, pr.RK4(), pr.Jacobian()),
        (ONE, U0, pr.Adaptive(rtol=1e-4), pr.Euler()),
        (ONE, U0, pr.SciPy("Radau"), pr.Euler()),
        (ONE, U0, pr.SciPy("LSODA"), pr.Euler()),
    ],
    ids=lambda part: repr(part) if isinstance(part, pr.Integrator) else type(part).__name__,
)
@pytest.mark.parametrize("devices", [None, ["cpu", "cpu"]])
def test_every_call_of_every_method_has_one_of_the_sizes(
    problem: pr.Problem, u0: Any, fine: Any, coarse: Any, devices: Any
) -> None:
    """Calls inside of implicit methods too, and the checks before the first round."""
    if isinstance(fine, pr.SciPy):
        pytest.importorskip("scipy")
    executor, grid = pr.Batched(pad_to=(3, 8), devices=devices), pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=2)
    options: dict[str, Any] = {"fine": fine, "coarse": coarse, "stop": pr.Iterations(2), "executor": executor}
    WATCHED.lanes.clear()
    pr.solve(problem, u0, grid, **options)
    pr.serial(problem, u0, grid, fine=fine, executor=executor)
    assert {*WATCHED.lanes} <= {3, 8}
    assert WATCHED.lanes


@pytest.mark.parametrize("fine", [pr.RK4(), pr.AdamsBashforth(3), pr.ImplicitEuler(), pr.Adaptive(rtol=1e-4)], ids=repr)
def test_every_call_of_the_adjoint_has_one_of_the_sizes(fine: Any) -> None:
    """Before the run, where it looks for parameters, and in the backward pass, where slices have different lengths."""
    f, u0 = Watched(), U0.clone().requires_grad_()
    grid, found = pr.TimeGrid.from_points(torch.linspace(0.0, 1.0, 8), slices=3), list[Tensor]()
    for executor in (pr.Batched(pad_to=5), None):
        options: dict[str, Any] = {"fine": fine, "coarse": pr.Heun(), "stop": pr.Iterations(3), "executor": executor}
        sol = pr.solve(pr.ODE(f, "native"), u0, grid, gradients="adjoint", **options)
        found += torch.autograd.grad(sol.u.sum(), u0)
        if executor is not None:
            sol.dense()(torch.linspace(0.0, 1.0, 7))
            assert {*f.lanes} == {5}
    torch.testing.assert_close(found[0], found[1])


def test_a_solve_inside_of_f_has_numbers_of_its_own() -> None:
    inner, seen = Watched(), set[int]()

    def f(t: Tensor, u: Tensor) -> Tensor:
        seen.add(len(u))
        once = pr.TimeGrid.uniform(0.0, 0.1, slices=2, steps=1)
        return -u + 0 * pr.serial(pr.ODE(inner, "native"), u[0], once, fine=pr.Euler()).u

    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=3, steps=1)
    fixed = pr.Batched(pad_to=4)
    pr.solve(pr.ODE(f, "native"), U0, grid, fine=pr.Euler(), coarse=pr.Zero(), executor=fixed, stop=pr.Iterations(1))
    assert (seen, {*inner.lanes}) == ({4}, {1})


@settings(max_examples=20)
@given(lanes=st.integers(1, 60), pad_to=sizes(), devices=st.integers(0, 3))
def test_counts_beforehand(lanes: int, pad_to: Any, devices: int) -> None:
    on = ["cpu"] * devices or None
    seen: list[int] = []

    def fn(u: Tensor) -> Tensor:
        seen.append(len(u))
        return 2 * u

    executor = pr.Batched(pad_to=pad_to, devices=on)
    u = torch.arange(float(lanes))
    if devices < 2:  # copies of a function note in lists of their own
        torch.testing.assert_close(executor.evaluate(fn, (u,), lanes), 2 * u)
        assert (len(seen), sum(seen) - lanes) == (executor.calls(lanes), executor.padded(lanes))
    else:
        torch.testing.assert_close(executor.evaluate(lambda u: 2 * u, (u,), lanes), 2 * u)


def test_lanes_are_filled_up_with_real_ones() -> None:
    """A function that fails on zeros, or makes NaN of them, never sees any."""
    seen: list[Tensor] = []

    def f(t: Tensor, u: Tensor) -> Tensor:
        seen.append(u)
        return u.log() - t[:, None]

    grid = pr.TimeGrid.uniform(1.0, 2.0, slices=5, steps=2)
    pr.solve(
        pr.ODE(f, batching="native"), U0 + 3, grid, fine=pr.RK4(), coarse=pr.Euler(), executor=pr.Batched(pad_to=8)
    )
    assert all(len(u) == 8 and bool((u > 0).all()) for u in seen)


def test_per_sample_data_and_samples() -> None:
    rate = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    problem = pr.ODE(lambda t, u, rate: -rate * u, per_sample=rate)
    u0, grid = torch.rand(3, 2, dtype=torch.float64), pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=2)
    options: dict[str, Any] = {"fine": pr.Heun(), "coarse": pr.Euler(), "samples": True}
    a = pr.solve(problem, u0, grid, **options)
    b = pr.solve(problem, u0, grid, executor=pr.Batched(pad_to=(5, 16)), **options)
    torch.testing.assert_close(b.us, a.us)
    assert b.stats.padded_lanes > 0


def test_gradients_pass() -> None:
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=2)
    found = []
    for executor in (pr.Batched(), pr.Batched(pad_to=16)):
        sol = pr.solve(pr.ODE(lambda t, u: -w * u), U0, grid, fine=pr.RK4(), coarse=pr.Euler(), executor=executor)
        found.append(torch.autograd.grad(sol.u.sum(), w)[0])
    torch.testing.assert_close(found[1], found[0])


def test_a_callable_of_one_fixed_batch() -> None:
    """As one exported, or captured, for a fixed batch is."""

    def fixed(x: Tensor, t: Tensor) -> Tensor:
        assert len(x) == 8, f"built for 8, called with {len(x)}"
        return x / (1 + t.reshape(-1, *[1] * (x.ndim - 1)))

    model = da.DiffusionModel(fixed, da.EDM(0.01, 20.0), prediction="x0")
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    for parallel in (True, False):
        out = da.sample(model, noise, steps=10, executor=pr.Batched(pad_to=8), parallel=parallel)
        assert out.solution.stats.padded_lanes > 0


def test_mixing_lanes_is_found_out() -> None:
    norm = nn.BatchNorm1d(3, affine=False).double()
    problem = pr.ODE(lambda t, u: -norm(u), batching="native")
    grid = pr.TimeGrid.uniform(0.0, 1.0, slices=4, steps=2)
    report = pr.check_propagator(pr.Euler(), problem, U0, grid)
    assert not report.ok


def test_plan_measures_at_the_padded_sizes() -> None:
    f = Watched()
    pr.plan(pr.ODE(f, batching="native"), U0, (0.0, 1.0, 16), fine=pr.Euler(), executor=pr.Batched(pad_to=(4, 16)))
    assert {*f.lanes} <= {4, 16}


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (0, ValueError, "pad_to=0"),
        ((), ValueError, "empty"),
        ((8, 4), ValueError, r"does not rise; expected \(4, 8\)"),
        ((4, 4), ValueError, "does not rise"),
        (2.5, TypeError, "pad_to"),
        ((4, 8.0), TypeError, "pad_to"),
        (True, TypeError, "pad_to"),
        ("16", TypeError, "pad_to"),
    ],
)
def test_bad_sizes(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        pr.Batched(pad_to=given)


def test_one_limit_is_enough() -> None:
    with pytest.raises(ValueError, match="expected one of them"):
        pr.Batched(max_lanes=4, pad_to=8)
