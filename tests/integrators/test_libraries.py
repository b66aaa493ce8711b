"""Other libraries' solvers as propagators: they give what the library gives, lane by lane, and are counted like any."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
import torchdiffeq
import torchode
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from strategies import NONLINEAR as COUPLED
from strategies import TIME_DEPENDENT as TIMED
from strategies import distance, equal, examples, make_state, single
from torch import Tensor

import parareal as pr

EPS = float(torch.finfo(torch.float64).eps)
START = torch.tensor([0.8, -0.3, 0.4], dtype=torch.float64)
TIGHT = pr.Tolerance(1e-12, 1e-12, norm="max")


def swing(t: Tensor, u: Tensor) -> Tensor:
    """A nonlinear system that depends on time, one state or rows of them."""
    x, y, z = u.unbind(-1)
    t = t.to(u.dtype)
    return torch.stack([y * torch.cos(t), -torch.sin(x) + 0.3 * z, x * y - 0.5 * z + torch.sin(2 * t)], -1)


ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
FIXED = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}
APART = {
    **{f"torchdiffeq {name}": pr.TorchDiffEq(name, 1e-5, 1e-7) for name in ADAPTIVE},
    "torchdiffeq implicit_adams": pr.TorchDiffEq("implicit_adams", options={"step_size": 0.02}),
    **{f"scipy {name}": pr.SciPy(name, 1e-5, 1e-7) for name in ("RK45", "RK23", "DOP853", "Radau", "BDF", "LSODA")},
}
"""Lanes are solved by runs of their own."""
STACKED = {
    **{f"torchdiffeq {name}": pr.TorchDiffEq(name, steps=4) for name in FIXED},
    **{f"torchode {name}": pr.TorchODE(name, 1e-5, 1e-7) for name in ("tsit5", "dopri5", "heun")},
}
"""All lanes are one batch, which rounds them differently, but leaves each its own steps."""
TOGETHER = pr.TorchDiffEq(rtol=1e-5, atol=1e-7, together=True)
METHODS = {**APART, **STACKED}
FEW = {name: METHODS[name] for name in ("torchdiffeq dopri5", "scipy RK45", "scipy LSODA", "torchode tsit5")}
FEW["torchdiffeq rk4"] = METHODS["torchdiffeq rk4"]


def grid_of(falling: bool = False, slices: int = 4) -> pr.TimeGrid:
    return pr.TimeGrid.uniform(1.2, 0.2, slices) if falling else pr.TimeGrid.uniform(0.2, 1.2, slices)


# --- what the library gives ------------------------------------------------------------------------------------------


def directly(method: Any, t0: Tensor, t1: Tensor, u: Tensor) -> Tensor:
    """The library's own call for one slice."""
    span = torch.stack([t0, t1])
    if isinstance(method, pr.TorchDiffEq):
        if method.method in FIXED:
            span = torch.lerp(t0, t1, torch.linspace(0, 1, 5, dtype=torch.float64))
        options = method.options or None
        return torchdiffeq.odeint(
            swing, u, span, method=method.method, rtol=method.rtol, atol=method.atol, options=options
        )[-1]
    if isinstance(method, pr.SciPy):
        f = lambda t, y: swing(torch.tensor(t, dtype=torch.float64), torch.tensor(y)).numpy()  # noqa: E731
        found = solve_ivp(f, span.tolist(), u.numpy(), method.method, rtol=method.rtol, atol=method.atol)
        return torch.tensor(found.y[:, -1])
    term = torchode.ODETerm(swing_rows, with_stats=False)
    controller = torchode.PIDController(method.atol, method.rtol, 0.2, 0.5, 0.0, term=term)
    stepper = {"tsit5": torchode.Tsit5, "dopri5": torchode.Dopri5, "heun": torchode.Heun}[method.method](term=term)
    problem = torchode.InitialValueProblem(u[None], t0[None], t1[None])
    return torchode.AutoDiffAdjoint(stepper, controller).solve(problem, term).ys[0, -1]


def swing_rows(t: Tensor, u: Tensor) -> Tensor:
    return torch.func.vmap(swing)(t, u)


@pytest.mark.parametrize("falling", [False, True], ids=["rising", "falling"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.sweep(8)
def test_a_slice_is_what_the_library_gives(name: str, falling: bool) -> None:
    grid = grid_of(falling)
    us = pr.serial(pr.ODE(swing), START, grid, fine=METHODS[name]).us
    u = START
    for n, (a, b) in enumerate(zip(grid.edges[:-1], grid.edges[1:], strict=True)):
        u = directly(METHODS[name], a, b, u)
        if name in APART:
            assert torch.equal(us[n + 1], u)
        else:  # arithmetic of batches, or time normalised: a few roundings in each of a few hundred operations
            assert distance(us[n + 1], u) <= 1000 * EPS


@pytest.mark.parametrize("nest", ["scalar", "nested"])
@pytest.mark.parametrize("name", FEW)
def test_nests_are_solved_like_one_flat_state(name: str, nest: str) -> None:
    f, u0 = single(COUPLED.rows), make_state(nest, torch.float64, seed=3)
    exact = pr.serial(pr.ODE(f), u0, pr.TimeGrid.uniform(0.2, 0.9, 2), fine=pr.RK4(steps=20)).u
    found = pr.serial(pr.ODE(f), u0, pr.TimeGrid.uniform(0.2, 0.9, 2), fine=METHODS[name]).u
    assert distance(found, exact) <= 30 * 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", ["torchdiffeq dopri5", "torchdiffeq rk4", "scipy RK45", "torchode tsit5"])
@pytest.mark.sweep(6)
def test_dtypes_go_in_and_come_out(name: str, dtype: torch.dtype) -> None:
    u0 = make_state("tuple", dtype, seed=1)
    problem, grid = pr.ODE(single(TIMED.rows)), pr.TimeGrid.uniform(0.2, 0.9, 2)
    found = pr.serial(problem, u0, grid, fine=METHODS[name]).u
    assert [leaf.dtype for leaf in found] == [dtype] * 2
    assert distance(found, pr.serial(problem, u0, grid, fine=pr.RK4(steps=50)).u) <= 30 * 1e-5


# --- lanes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [pr.Batched(), pr.Serial(), pr.Batched(max_lanes=2)], ids=repr)
@pytest.mark.parametrize("name", FEW)
@pytest.mark.sweep(6)
def test_a_lane_does_not_depend_on_those_beside_it(name: str, executor: pr.Executor) -> None:
    batch = torch.stack([START, -0.5 * START, 0.01 * START, 30 * START])
    problem, grid = pr.ODE(swing), grid_of(slices=2)
    together = pr.serial(problem, batch, grid, fine=METHODS[name], samples=True, executor=executor).us
    for i in range(4):
        alone = pr.serial(problem, batch[i : i + 1], grid, fine=METHODS[name], samples=True).us[:, 0]
        if name in APART:
            assert torch.equal(together[:, i], alone)
        else:
            assert distance(together[:, i], alone) <= 1000 * EPS * float(alone.abs().max())


@pytest.mark.parametrize("batching", ["vmap", "native", "fold", "loop"])
@pytest.mark.parametrize("name", [*FEW, "together"])
@pytest.mark.sweep(8)
def test_batchings_and_rows_reach_the_right_hand_side(name: str, batching: Any) -> None:
    rates = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

    def f(t: Tensor, u: Tensor, rate: Tensor) -> Tensor:
        return -rate.reshape(*rate.shape, *[1] * (u.ndim - rate.ndim)) * u

    u0 = torch.ones(3, 2, dtype=torch.float64)
    problem = pr.ODE(f, batching=batching, per_sample=rates)
    fine = TOGETHER if name == "together" else METHODS[name]
    found = pr.solve(problem, u0, grid_of(), fine=fine, coarse=pr.Euler(), samples=True, stop=TIGHT).u
    assert distance(found, u0 * torch.exp(-rates)[:, None]) <= 30 * 1e-5


@pytest.mark.parametrize("name", FEW)
def test_where_a_solver_gives_up_only_its_lane_is_lost(name: str) -> None:
    if name == "torchdiffeq rk4":
        return  # steps on
    u0 = torch.tensor([[1.0], [30.0], [0.1], [float("inf")]], dtype=torch.float64)
    f = lambda t, u: torch.where(u < 50, u**2, torch.nan)  # noqa: E731
    grid = pr.TimeGrid.uniform(0.0, 0.8, 2)
    run = pr.serial(pr.ODE(f), u0, grid, fine=METHODS[name], samples=True)
    assert torch.isnan(run.u[[1, 3]]).all()
    # Small differences grow 25-fold.
    assert distance(run.u[[0, 2]], 1 / (1 / u0[[0, 2]] - 0.8)) <= 30 * 25 * 1e-5
    assert [status.failed for status in run.sample_status or ()] == [False, True, False, True]


# --- counts ----------------------------------------------------------------------------------------------------------


class Counter:
    """`swing` on one lane, and how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, t: Tensor, u: Tensor) -> Tensor:
        self.calls += 1
        return swing(t, u)


@pytest.mark.parametrize("executor", [pr.Batched(), pr.Serial()], ids=repr)
@pytest.mark.parametrize("name", [*METHODS, "together"])
@pytest.mark.sweep(7)
def test_evaluations_are_the_calls_that_were_made(name: str, executor: pr.Executor) -> None:
    fine, f = TOGETHER if name == "together" else METHODS[name], Counter()
    problem = pr.ODE(f, batching="loop")
    ref = pr.serial(problem, START, grid_of(), fine=fine, executor=executor)
    assert ref.stats.evaluations == ref.stats.rounds == f.calls
    f.calls = 0
    sol = pr.solve(
        problem,
        START,
        grid_of(),
        fine=fine,
        coarse=pr.SciPy("RK23", 1e-2, 1e-2),
        executor=executor,
        stop=pr.Iterations(2),
    )
    assert sol.stats.evaluations == f.calls
    assert ref.stats.rounds / 4 < sol.stats.rounds < f.calls


def test_rounds_are_those_of_the_longest_lane() -> None:
    u0 = torch.stack([START, 20 * START])
    problem, grid, fine = pr.ODE(swing), pr.TimeGrid.uniform(0.2, 1.2, 1), METHODS["torchdiffeq dopri5"]
    both = pr.serial(problem, u0, grid, fine=fine, samples=True).stats
    each = [pr.serial(problem, u, grid, fine=fine).stats.rounds for u in u0]
    assert each[0] != each[1]
    assert (both.rounds, both.evaluations) == (max(each), sum(each))


@pytest.mark.parametrize("name", FIXED)
def test_fixed_steps_are_as_declared(name: str) -> None:
    method = pr.TorchDiffEq(name, steps=5)
    run = pr.serial(pr.ODE(swing), START, grid_of(), fine=method)
    assert run.stats.rounds == 4 * 5 * FIXED[name] == 4 * 5 * (method.evaluations or 0)
    assert pr.TorchDiffEq("dopri5").evaluations is None


# --- laws ------------------------------------------------------------------------------------------------------------


@examples(8)
@given(
    st.sampled_from([*FEW, "rk4"]),
    st.sampled_from([*FEW, "rk4"]),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from((pr.Barrier(), pr.Wavefront(6))),
)
def test_finite_termination_and_the_prefix(
    fine: str, coarse: str, slices: int, k: int, falling: bool, schedule: pr.Schedule
) -> None:
    methods = {**METHODS, "rk4": pr.RK4(steps=1)}
    problem, grid, k = pr.ODE(swing), grid_of(falling, slices), min(k, slices)
    ref = pr.serial(problem, START, grid, fine=methods[fine]).us
    options: dict[str, Any] = {"fine": methods[fine], "coarse": methods[coarse], "schedule": schedule}
    run = pr.solve(problem, START, grid, executor=pr.Serial(), stop=pr.Iterations(k), **options)
    if fine in APART or fine == "rk4":
        assert torch.equal(run.us[: k + 1], ref[: k + 1])
    else:
        assert distance(run.us[: k + 1], ref[: k + 1]) <= 1000 * EPS
    # In a pipeline whose coarse lanes are no quicker than its fine ones, final states may come first.
    assert k == slices or slices == 1 or distance(run.us, ref) > 0 or fine == coarse or schedule != pr.Barrier()


@pytest.mark.parametrize("name", [*METHODS, "together"])
@pytest.mark.sweep(5)
def test_every_method_is_fine_and_coarse(name: str) -> None:
    schedule = pr.Windowed(3) if name in APART else pr.Barrier()
    method, problem, grid = METHODS.get(name, TOGETHER), pr.ODE(swing), grid_of(slices=5)
    exact = pr.serial(problem, START, grid, fine=pr.RK4(steps=10)).us
    asked = {"euler": 0.05, "midpoint": 1e-3, "heun2": 1e-3}.get(name.partition(" ")[2], 100 * 1e-5)
    sol = pr.solve(problem, START, grid, fine=method, coarse=pr.Midpoint(), schedule=schedule, stop=TIGHT)
    assert distance(sol.us, exact) <= asked
    sol = pr.solve(problem, START, grid, fine=pr.RK4(steps=10), coarse=method, schedule=schedule, stop=TIGHT)
    assert distance(sol.us, exact) <= 1e-10
    assert sol.iterations <= 5


@pytest.mark.parametrize(
    "fine",
    [pr.TorchDiffEq(), pr.TorchDiffEq("rk4", steps=3), TOGETHER, pr.TorchODE()],
    ids=lambda fine: repr(fine)[:30],
)
def test_gradients_are_those_of_the_serial_run(fine: pr.Integrator) -> None:
    def gradient(run: Any) -> tuple[Tensor, ...]:
        rate, u0 = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), START.clone().requires_grad_()
        u = run(pr.ODE(lambda t, u: swing(t, u) - rate * u), u0).u
        return torch.autograd.grad(u.square().sum(), (rate, u0))

    grid = grid_of(slices=3)
    found = gradient(lambda problem, u0: pr.solve(problem, u0, grid, fine=fine, coarse=pr.RK4(), stop=TIGHT))
    expected = gradient(lambda problem, u0: pr.serial(problem, u0, grid, fine=fine))
    near = 1e-4 if fine is TOGETHER else 1e-9  # which shares its steps among lanes: equal to its tolerance
    assert all(torch.allclose(a, b, rtol=near, atol=near) for a, b in zip(found, expected, strict=True))
    assert all(bool(g.abs().max() > 0.1) for g in expected)


# --- stochastic equations --------------------------------------------------------------------------------------------


def sde(noise: Any, calculus: Any = "ito", path: pr.NoisePath | None = None) -> pr.SDE:
    def diffusion(t: Tensor, u: Tensor) -> Tensor:
        columns = torch.stack([u.sin(), u.cos()], -1)
        return 0.5 * (columns if noise == "general" else torch.ones_like(u) if noise == "additive" else u.cos())

    generator = torch.Generator().manual_seed(0) if path is None else None
    channels = 2 if noise == "general" else None
    return pr.SDE(lambda t, u: -u * t, diffusion, noise, calculus, channels=channels, generator=generator, path=path)


@pytest.mark.parametrize(
    ("noise", "calculus", "method", "ours"),
    [
        *[(noise, "ito", "euler", pr.EulerMaruyama()) for noise in ("diagonal", "scalar", "additive", "general")],
        ("diagonal", "ito", "milstein", pr.Milstein()),
        ("scalar", "ito", "milstein", pr.Milstein()),
        ("diagonal", "stratonovich", "heun", pr.Heun()),
        ("general", "stratonovich", "heun", pr.Heun()),
    ],
)
@pytest.mark.sweep(4)
def test_torchsde_takes_the_same_steps_on_the_same_path(noise: str, calculus: str, method: str, ours: Any) -> None:
    problem, grid = sde(noise, calculus), pr.TimeGrid.uniform(0.0, 1.0, 4, 3)
    expected = pr.serial(problem, START, grid, fine=ours).us
    theirs = pr.TorchSDE(method)
    assert distance(pr.serial(problem, START, grid, fine=theirs).us, expected) <= 12 * 16 * EPS
    # Each as coarse propagator of the other: one step over a slice sees the sum of the noise in it.
    for fine, coarse in ((theirs, ours), (ours, theirs)):
        # TorchSDE asks for more values in a step than ours in a slice: in a pipeline final states would come first.
        found = pr.solve(problem, START, grid, fine=fine, coarse=coarse, schedule=pr.Barrier(), stop=TIGHT)
        assert distance(found.us, expected) <= 12 * 16 * EPS
        assert 1 < found.iterations <= 4


@pytest.mark.parametrize(
    ("noise", "calculus", "method", "ours"),
    [
        ("diagonal", "ito", "srk", pr.Milstein()),
        ("additive", "ito", "srk", pr.SRA1()),
        ("diagonal", "stratonovich", "milstein", pr.Heun()),
        ("diagonal", "stratonovich", "euler_heun", pr.Heun()),
        ("diagonal", "stratonovich", "midpoint", pr.Heun()),
    ],
)
@pytest.mark.sweep(2)
def test_torchsde_meets_our_methods_as_steps_become_small(noise: str, calculus: str, method: str, ours: Any) -> None:
    path = pr.BrownianPath(torch.linspace(0, 1, 513, dtype=torch.float64), seed=3)
    problem, apart = sde(noise, calculus, path), []
    for steps in (4, 64):
        grid = pr.TimeGrid.uniform(0.0, 1.0, 2, steps)
        found, expected = (pr.serial(problem, START, grid, fine=fine).us for fine in (pr.TorchSDE(method), ours))
        apart.append(distance(found, expected))
    assert 0 < apart[1] < apart[0] / 4  # order 1, over a factor of 16


def test_torchsde_solves_nests_and_samples_apart() -> None:
    problem, grid = sde("diagonal"), pr.TimeGrid.uniform(0.0, 1.0, 2, 2)
    batch = torch.stack([START, 2 * START])
    found = pr.serial(problem, batch, grid, fine=pr.TorchSDE(), samples=True).us
    assert equal(found, pr.serial(problem, batch, grid, fine=pr.EulerMaruyama(), samples=True).us)
    nest = {"a": START, "b": (START[0],)}
    f = lambda t, u: {"a": -u["a"] * u["b"][0], "b": (u["a"].sum(),)}  # noqa: E731
    g = lambda t, u: {"a": u["a"].cos(), "b": (u["b"][0].sin(),)}  # noqa: E731
    problem = pr.SDE(f, g, generator=torch.Generator().manual_seed(0))
    found = pr.serial(problem, nest, grid, fine=pr.TorchSDE("milstein")).u
    assert distance(found, pr.serial(problem, nest, grid, fine=pr.Milstein()).u) <= 4 * 16 * EPS


# --- what is refused -------------------------------------------------------------------------------------------------


def run(fine: pr.Integrator, u0: Any = START, f: Any = swing) -> Any:
    return pr.serial(pr.ODE(f), u0, grid_of(), fine=fine)


WEIGHT = torch.ones((), dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pr.TorchDiffEq("dopri6"), ValueError, ["'dopri6'", "'dopri5'", "'rk4'"]),
        (lambda: pr.TorchDiffEq("scipy_solver"), ValueError, ["pr.SciPy"]),
        (lambda: pr.TorchDiffEq(5), TypeError, ["int", "'dopri5'"]),
        (lambda: pr.TorchDiffEq(rtol=-1.0), ValueError, ["rtol=-1.0", "above 0"]),
        (lambda: pr.TorchDiffEq(atol="x"), TypeError, ["atol='x'", "float"]),
        (lambda: pr.TorchDiffEq(options={"frist_step": 1}), ValueError, ["'frist_step'", "'first_step'"]),
        (lambda: pr.TorchDiffEq("rk4", options={"first_step": 1}), ValueError, ["'first_step'", "'step_size'"]),
        (lambda: pr.TorchDiffEq(options=[1]), TypeError, ["list", "dict"]),
        (lambda: pr.TorchDiffEq("implicit_adams"), ValueError, ["step_size"]),
        (lambda: pr.TorchDiffEq(together=1), TypeError, ["together=1", "True or False"]),
        (lambda: pr.TorchDiffEq("rk4", together=True), ValueError, ["'rk4'", "adaptive"]),
        (lambda: pr.TorchDiffEq(options={"first_step": 1}, together=True), ValueError, ["normalised"]),
        (lambda: pr.TorchDiffEq(steps=0), ValueError, ["steps=0"]),
        (lambda: pr.SciPy("RK4"), ValueError, ["'RK4'", "'RK45'", "'LSODA'"]),
        (lambda: pr.SciPy("RK45", jac=None), ValueError, ["'jac'", "'max_step'"]),
        (lambda: pr.SciPy(rtol=1e-15), ValueError, ["rtol=1e-15", "2.2e-14"]),
        (lambda: setattr(pr.SciPy(), "rtol", 1.0), AttributeError, ["frozen"]),
        (lambda: pr.TorchODE("euler"), ValueError, ["'euler'", "'tsit5'"]),
        (lambda: pr.TorchODE(max_steps=0), ValueError, ["max_steps=0"]),
        (lambda: pr.TorchODE(pcoeff="a"), TypeError, ["pcoeff='a'", "float"]),
        (lambda: pr.TorchSDE("reversible_heun"), ValueError, ["'reversible_heun'", "'srk'"]),
        (lambda: run(pr.TorchSDE()), ValueError, ["SDE", "ODE"]),
        (
            lambda: pr.serial(sde("diagonal"), START, grid_of(), fine=pr.TorchSDE("heun")),
            ValueError,
            ["'ito'", "'srk'"],
        ),
        (lambda: pr.serial(sde("general"), START, grid_of(), fine=pr.TorchSDE("srk")), ValueError, ["general noise"]),
        (lambda: pr.serial(sde("diagonal"), START, grid_of(True), fine=pr.TorchSDE()), ValueError, ["time falls"]),
        (lambda: run(pr.SciPy("Radau"), START.float()), TypeError, ["float32", "u0.double()", "RK45"]),
        *[
            (lambda name=name, u0=u0: run(pr.SciPy(name), u0), TypeError, ["is for real states", "RK45", "BDF"])
            for name in ("Radau", "LSODA")
            for u0 in (START + 0j, (START + 0j).to(torch.complex64))
        ],
        (
            lambda: run(pr.SciPy("BDF"), (START + 0j).to(torch.complex64)),
            TypeError,
            ["complex64", "u0.to(torch.complex128)"],
        ),
        (
            lambda: run(pr.SciPy(), START.clone().requires_grad_()),
            ValueError,
            ["u0 requires", "TorchDiffEq"],
        ),
        (lambda: run(pr.SciPy(), f=lambda t, u: WEIGHT * u), ValueError, ["right-hand side", "no_grad", "TorchDiffEq"]),
        *[
            (
                lambda fine=fine: run(fine, (START, START.float()), lambda t, u: u),
                TypeError,
                ["float32 and", "one dtype"],
            )
            for fine in (pr.TorchDiffEq(), pr.SciPy(), pr.TorchODE())
        ],
    ],
)
def test_what_is_wrong_is_said(make: Any, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("name", FEW)
def test_errors_of_the_right_hand_side_come_through(name: str) -> None:
    def broken(t: Tensor, u: Tensor) -> Tensor:
        assert t < 0.7, "mine"
        return swing(t, u)

    with pytest.raises(AssertionError, match="mine"):
        pr.solve(pr.ODE(broken, batching="loop"), START, grid_of(), fine=METHODS[name], coarse=pr.Euler())


@pytest.mark.parametrize(
    ("fine", "library", "install"),
    [(pr.TorchODE(), "torchode", "torch-parareal[torchode]"), (pr.TorchDiffEq(), "torchdiffeq", "torchdiffeq>=0.2.4")],
)
def test_a_missing_library_is_named(
    fine: pr.Integrator, library: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError) as caught:
        run(fine)
    assert f"pip install '{install}'" in str(caught.value)


def test_threads_end_with_their_runs() -> None:
    import gc
    import threading

    before = threading.active_count()

    def broken(t: Tensor, u: Tensor) -> Tensor:
        if bool((t > 0.7).any()):
            raise ValueError("mine")
        return swing_rows(t, u)

    for _ in range(3):
        with pytest.raises(ValueError, match="mine"):
            pr.solve(
                pr.ODE(broken, batching="native"), START, grid_of(), fine=pr.SciPy(), coarse=pr.TorchDiffEq(rtol=1e-3)
            )
    gc.collect()
    assert threading.active_count() == before
    assert np.isfinite(float(run(pr.SciPy()).u.sum()))


def test_equal_states_are_equal() -> None:
    """What the comparisons above rest on."""
    assert equal(run(pr.SciPy()).us, run(pr.SciPy()).us)


@pytest.mark.parametrize("schedule", [pr.Barrier(), pr.Wavefront(), pr.Windowed(16)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "fine",
    [pr.TorchDiffEq("dopri5"), pr.SciPy("RK45"), pr.TorchODE("dopri5"), pr.RadauIIA(2)],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.sweep(1)
def test_a_lane_that_overtakes_another_of_its_slice_spoils_nothing(fine: pr.Integrator, schedule: pr.Schedule) -> None:
    """Early iterates are far off and take more steps: later ones of the same slice arrive before them."""

    def lorenz(t: Tensor, u: Tensor) -> Tensor:
        x, y, z = u
        return torch.stack((10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z))

    u0, grid = torch.tensor([1.0, 2.0, 20.0], dtype=torch.float64), pr.TimeGrid.uniform(0.0, 1.0, 16)
    stop = pr.Tolerance(1e-7, 1e-9)
    sol = pr.solve(pr.ODE(lorenz), u0, grid, fine=fine, coarse=pr.Heun(), schedule=schedule, stop=stop)
    ref = pr.serial(pr.ODE(lorenz), u0, grid, fine=fine)
    assert sol.converged
    assert (sol.u - ref.u).abs().max() <= 1e-5
    if isinstance(schedule, pr.Wavefront):
        assert sol.stats.rounds <= ref.stats.rounds


def test_no_thread_outlives_a_run_that_was_interrupted() -> None:
    interrupt = KeyboardInterrupt()  # held here, and with it the frames of the run

    def f(t: Tensor, u: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 40:
            raise interrupt
        return -u

    before = threading.active_count()
    for fine in (pr.TorchDiffEq(), pr.SciPy(), pr.TorchODE()):
        calls: list[int] = []
        with pytest.raises(KeyboardInterrupt) as caught:
            pr.solve(pr.ODE(f, "native"), START, pr.TimeGrid.uniform(0.0, 2.0, 8), fine=fine, coarse=pr.Euler())
        assert caught.value.solution is not None
        assert threading.active_count() == before
