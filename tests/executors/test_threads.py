"""Several solves at once in the threads of one process: each gives what it gives alone, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

import parareal as pr
from parareal._core.forward_mode import differentiating
from parareal.integrators.external._coroutine import Coroutine

START = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)
SHORT = pr.TimeGrid.uniform(0.0, 0.1, slices=2)
GRID = pr.TimeGrid.uniform(0.0, 0.5, slices=2, steps=1)
ESDIRK = pr.ButcherTableau(a=((0.0, 0.0), (0.5, 0.5)), b=(0.5, 0.5), order=2)
METHODS: dict[str, tuple[pr.Integrator, Any]] = {
    "ImplicitEuler": (pr.ImplicitEuler(), pr.ImplicitEuler(1)),
    "ImplicitMidpoint": (pr.ImplicitMidpoint(), pr.Identity()),
    "Trapezoid": (pr.Trapezoid(), pr.Trapezoid(1)),
    "SDIRK2": (pr.SDIRK2(), pr.Secant(pr.Identity())),
    "RadauIIA": (pr.RadauIIA(2), pr.ImplicitEuler(1)),
    "RadauIIA(3)": (pr.RadauIIA(3), pr.Identity()),
    "LobattoIIIC": (pr.LobattoIIIC(2), pr.Identity()),
    "GaussLegendre": (pr.GaussLegendre(2), pr.Euler()),
    "tableau": (pr.ImplicitRungeKutta(ESDIRK), pr.Identity()),
    "krylov": (pr.SDIRK2(krylov=True, steps=1), pr.Identity()),
    "Jacobian": (pr.RK4(), pr.Jacobian()),
    "Jacobian('diagonal')": (pr.Heun(), pr.Jacobian("diagonal")),
    "Jacobian(probes)": (pr.RK4(), pr.Jacobian("diagonal", probes=2)),
}
BESIDE: dict[str, tuple[pr.Integrator, Any]] = {
    "SciPy": (pr.SciPy("RK45"), pr.ImplicitEuler(1)),
    "TorchDiffEq": (pr.TorchDiffEq("dopri5"), pr.ImplicitEuler(1)),
    "together": (pr.TorchDiffEq("bosh3", together=True), pr.ImplicitEuler(1)),
}
if find_spec("torchode") is not None:
    BESIDE["TorchODE"] = pr.TorchODE(), pr.ImplicitEuler(1)


def f(t: Tensor, u: Tensor) -> Tensor:
    return torch.sin(u.flip(-1)) - 5 * u**3 + torch.cos(3 * t)


def states(name: str, executor: pr.Executor) -> list[Tensor]:
    fine, coarse = (METHODS | BESIDE)[name]
    stop = pr.Iterations(2)
    return [pr.solve(pr.ODE(f), START, GRID, fine=fine, coarse=coarse, executor=executor, stop=stop).us]


def with_gradients(name: str, executor: pr.Executor) -> list[Tensor]:
    fine, coarse = METHODS[name]
    u0, rate = START.clone().requires_grad_(), torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    problem = pr.ODE(lambda t, u: rate * u**3 + torch.cos(t))
    us = pr.solve(problem, u0, GRID, fine=fine, coarse=coarse, executor=executor, stop=pr.Iterations(2)).us
    return [us.detach(), *torch.autograd.grad(us.sum(), (u0, rate))]


def at_once(calls: list[Callable[[], list[Tensor]]], times: int = 1) -> list[list[Tensor]]:
    """All calls at once, each so many times over in a thread of its own, which begin together."""
    begin = threading.Barrier(len(calls))

    def work(call: Callable[[], list[Tensor]]) -> list[list[Tensor]]:
        begin.wait()
        return [call() for _ in range(times)]

    with ThreadPoolExecutor(len(calls)) as threads:
        return [part for parts in threads.map(work, calls) for part in parts]


@pytest.mark.parametrize("call", [states, with_gradients])
def test_all_methods_at_once(call: Callable[..., list[Tensor]]) -> None:
    names = [*METHODS, *(BESIDE if call is states else ())]
    calls = [lambda name=name: call(name, pr.Serial()) for name in names]
    alone = [one() for one in calls]
    for i, together in enumerate(at_once(calls)):
        assert all(torch.equal(a, b) for a, b in zip(alone[i], together, strict=True)), names[i]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.sweep(6)
def test_devices_of_one_process(name: str) -> None:
    """Each lane by itself, so that it does not matter which are computed together."""
    several = pr.Batched(max_lanes=1, devices=["cpu", "cpu", "cpu"])
    assert torch.equal(states(name, several)[0], states(name, pr.Serial())[0])


@pytest.mark.parametrize("inner", [pr.Batched(), pr.Batched(devices=["cpu", "cpu"])], ids=["one", "several devices"])
@pytest.mark.parametrize("outer", [pr.Euler(), pr.SciPy("RK23", rtol=0.1, atol=0.1)], ids=lambda m: type(m).__name__)
def test_a_right_hand_side_may_solve_itself(outer: pr.Integrator, inner: pr.Executor) -> None:
    """Something else, by a method that takes derivatives, in threads of its own."""

    def nested(t: Tensor, u: Tensor) -> Tensor:
        options: dict[str, Any] = {"fine": pr.ImplicitEuler(), "coarse": pr.Identity(), "stop": pr.Iterations(1)}
        return -u * pr.solve(pr.ODE(f), START, SHORT, executor=inner, **options).u.abs().sum()

    def run() -> list[Tensor]:
        problem = pr.ODE(nested, batching="native")
        options: dict[str, Any] = {"fine": outer, "coarse": pr.Identity(), "stop": pr.Iterations(1)}
        return [pr.solve(problem, START, SHORT, executor=pr.Serial(), **options).us]

    alone = run()
    for together in at_once([run, run]):
        assert torch.equal(alone[0], together[0])


def derived(u: Tensor) -> Tensor:
    with differentiating():
        return torch.func.jvp(torch.sin, (u,), (torch.ones_like(u),))[1]


@pytest.mark.parametrize("devices", [["cpu", "cpu", "cpu"], ["cpu"]], ids=lambda devices: f"{len(devices)} devices")
def test_who_has_the_turn_may_wait_for_threads_that_want_it(devices: list[str]) -> None:
    """They are its own, started with its context: the threads of devices, and those of other libraries' solvers."""
    done: list[Tensor] = []

    def work() -> None:
        executor = pr.Batched(devices=devices)
        with differentiating():
            done.append(executor.evaluate(derived, (START,), 3))
            solver = Coroutine(lambda ask: derived(ask(1)), START)
            assert solver.advance(None)
            assert not solver.advance(START)
            done.append(solver.result)

    thread = threading.Thread(target=work, daemon=True)  # were it to wait for itself, the test would not
    thread.start()
    thread.join(60)
    assert len(done) == 2
    assert all(torch.equal(value, START.cos()) for value in done)


def test_turns_are_taken_by_threads_and_passed_on_within_one() -> None:
    inside, most = [0], [0]

    def work() -> None:
        with differentiating(), differentiating():
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            threading.Event().wait(0.01)
            inside[0] -= 1

    with ThreadPoolExecutor(4) as threads:
        for one in [threads.submit(work) for _ in range(8)]:
            one.result()
    assert most == [1]


def test_a_turn_ends_with_an_error() -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), differentiating():
            _ = 1 / 0
    assert states("ImplicitEuler", pr.Serial())[0].isfinite().all()


def test_a_jacobian_and_a_preconditioner_may_take_derivatives_themselves() -> None:
    def near(t: Tensor, u: Tensor, gamma: Tensor, v: Tensor) -> Tensor:
        return v - gamma * torch.func.jvp(lambda x: f(t, x), (u,), (v,))[1]

    given = pr.ODE(f, jacobian=torch.func.jacfwd(f, 1), preconditioner=near)
    options: dict[str, Any] = {"coarse": pr.ImplicitEuler(1), "stop": pr.Iterations(2)}
    for fine in (pr.ImplicitEuler(), pr.ImplicitEuler(krylov=True, rtol=1e-6)):

        def run(executor: pr.Executor, fine: pr.Integrator = fine) -> list[Tensor]:
            return [pr.solve(given, START, GRID, fine=fine, executor=executor, **options).us]

        alone = run(pr.Serial())
        calls = [lambda run=run: run(pr.Serial())] * 2
        for together in [*at_once(calls, 2), run(pr.Batched(max_lanes=1, devices=["cpu", "cpu"]))]:
            assert torch.equal(alone[0], together[0])
