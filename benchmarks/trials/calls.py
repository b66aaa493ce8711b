"""Random calls of `solve`: problems, methods, corrections, schedules, executors, states and options, right or wrong.

A call with right arguments has to give the sequential solution within what was asked, or to end with a status. Any call
may be refused, but before any work, by an error that says what came and what was expected.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import parareal as pr
from trials import Report

DTYPES = (torch.float64, torch.float64, torch.float32, torch.complex128, torch.bfloat16, torch.float16)
FINE: tuple[Callable[[], pr.Integrator], ...] = (
    pr.Euler,
    pr.Heun,
    pr.RK4,
    pr.DormandPrince,
    lambda: pr.AdamsBashforth(2, restart=False),
    lambda: pr.Adaptive(rtol=1e-3, atol=1e-4),
    pr.ImplicitEuler,
    pr.SDIRK2,
    lambda: pr.RadauIIA(2),
    lambda: pr.SDIRK2(krylov=True),
    pr.Trapezoid,
    lambda: pr.SciPy("RK45", rtol=1e-3, atol=1e-4),
    lambda: pr.TorchDiffEq("bosh3", rtol=1e-3, atol=1e-4),
    lambda: pr.Propagator(lambda t0, t1, u: 0.9 * u),
)
COARSE: tuple[Callable[[], Any], ...] = (
    pr.Euler,
    pr.Identity,
    pr.Zero,
    lambda: pr.LinearFlow(0.9),
    lambda: pr.Secant(pr.Identity()),
    lambda: pr.Secant(pr.Euler(), 2),
    lambda: pr.Secant(pr.Identity(), neighbours=(1,)),
    pr.Jacobian,
    lambda: pr.Jacobian("diagonal"),
    lambda: pr.Jacobian("diagonal", probes=2),
    lambda: pr.TrustRegion(pr.Jacobian()),
    lambda: pr.Anderson(pr.Identity()),
    lambda: pr.Damped(pr.Euler()),
    lambda: pr.Relaxed(pr.Euler(), 2),
    lambda: pr.ImplicitEuler(1),
    lambda: pr.Multilevel(pr.Euler(), pr.Euler(), 2),
)
SCHEDULES: tuple[Callable[[], Any], ...] = (
    lambda: None,
    pr.Barrier,
    pr.Wavefront,
    lambda: pr.Wavefront(1),
    lambda: pr.Windowed(2),
)
EXECUTORS: tuple[Callable[[], Any], ...] = (
    pr.Serial,
    pr.Batched,
    lambda: pr.Batched(max_lanes=2),
    lambda: pr.Batched(pad_to=4),
)
WRONG: tuple[Any, ...] = (None, -1, 0, 0.5, float("nan"), "euler", "no", pr.Euler, [], {}, object(), torch.ones(2))
"""Values that are right for few arguments."""


@dataclass
class Call:
    """One call of `solve`."""

    problem: Any
    u0: Any
    grid: Any
    options: dict[str, Any]
    wrong: bool
    calls: list[int]
    tensors: tuple[Tensor, ...] = ()

    def __repr__(self) -> str:
        batching = getattr(self.problem, "batching", "?")
        return f"u0={self.u0!r}, grid={self.grid!r}, {self.options!r}, batching={batching}"


def draw(chance: random.Random, wrong: float = 0.0, executors: Any = EXECUTORS) -> Call:
    """A random call, of which an argument is wrong with some probability."""
    dtype, calls = chance.choice(DTYPES), [0]
    batching: Any = chance.choice(("vmap", "native", "loop"))
    start = torch.randn(3, generator=torch.Generator().manual_seed(chance.randrange(1000)), dtype=torch.float64)
    u0, rate = start.to(dtype), torch.tensor(-1.0, dtype=torch.float64)
    gradients = chance.choice(("none", "none", "unroll", "adjoint"))
    if gradients != "none":
        u0, rate = u0.requires_grad_(), rate.requires_grad_()
    nested = chance.random() < 0.05

    def f(t: Tensor, u: Tensor) -> Tensor:
        calls[0] += 1
        t = t.reshape(-1, *[1] * (u.ndim - 1)) if t.ndim else t
        more: Any = 0.0
        if nested:
            with torch.no_grad():
                more = 0.01 * _inner().abs().sum().to(dtype)
        return rate.to(dtype) * u + 0.2 * torch.cos(3 * t).to(dtype) + more

    slices = chance.randint(1, 5)
    grid = pr.TimeGrid.uniform(*chance.choice(((0.0, 0.5), (1.0, 0.0), (1e6, 1e6 + 1))), slices, chance.randint(1, 3))
    coarse, schedule = chance.choice(COARSE)(), chance.choice(SCHEDULES)()
    options: dict[str, Any] = {
        "fine": chance.choice(FINE)(),
        "coarse": coarse,
        "schedule": schedule,
        "executor": chance.choice(executors)(),
        "stop": chance.choice((pr.Iterations(slices), pr.Tolerance(1e-3, 1e-6), pr.Tolerance(1e-8, 0.0, "max"), None)),
        "gradients": "adjoint" if gradients == "adjoint" else "unroll",
        "samples": chance.random() < 0.2,
        "dense": chance.random() < 0.8,
        "verify": chance.random() < 0.1,
        "throw": chance.random() < 0.5,
    }
    arguments: dict[str, Any] = {"problem": pr.ODE(f, batching), "u0": u0, "grid": grid, **options}
    if options["samples"]:
        arguments["u0"] = torch.stack([u0, 0.5 * u0])
    spoilt = chance.random() < wrong
    if spoilt:
        arguments[chance.choice([*arguments, "max_iterations", "callback", "start", "keep"])] = chance.choice(WRONG)
    problem, u0, grid = (arguments.pop(name) for name in ("problem", "u0", "grid"))
    return Call(problem, u0, grid, arguments, spoilt, calls, () if gradients == "none" else (u0, rate))


def _inner() -> Tensor:
    grid = pr.TimeGrid.uniform(0.0, 0.1, 2)
    stop = pr.Iterations(1)
    return pr.solve(pr.ODE(lambda t, u: -u), torch.ones(2), grid, fine=pr.Heun(), coarse=pr.Identity(), stop=stop).u


def answer(call: Call) -> Any:
    """The states and gradients of a call, or its error."""
    try:
        sol = pr.solve(call.problem, call.u0, call.grid, **call.options)
        grads: Any = ()
        if call.tensors and sol.u.requires_grad and not call.wrong:
            grads = torch.autograd.grad(sol.u.abs().sum(), call.tensors, allow_unused=True)
        return sol, grads
    except Exception as error:
        return error


def fault(call: Call, came: Any) -> str:
    """What is wrong with the answer; nothing where it is right."""
    if isinstance(came, pr.SolveError):
        return "" if not came.solution.status.converged else "raised although it has converged"
    if isinstance(came, TypeError | ValueError):
        text = str(came)
        told = any(word in text for word in ("expected", "cannot", "pass ", "leave ", "use ", "needs "))
        return "" if told else f"a {type(came).__name__} that does not say what was expected: {text[:200]}"
    if isinstance(came, Exception):
        return f"{type(came).__name__}: {str(came)[:200]}"
    sol, grads = came
    if call.wrong or sol.status not in (pr.Status.CONVERGED, pr.Status.FINAL, pr.Status.VERIFIED):
        return ""
    with torch.no_grad():
        try:
            samples = call.options["samples"]
            ref = pr.serial(call.problem, call.u0, call.grid, fine=call.options["fine"], samples=samples).u
        except Exception as error:
            return f"solve works, serial raises {type(error).__name__}: {str(error)[:100]}"
        off, size = (sol.u - ref).abs().max().double(), ref.abs().max().double()
    unit = 40 * torch.finfo(ref.dtype).eps
    asked = 0.0 if sol.status is pr.Status.FINAL else 1e-3 * 5
    if not off <= (asked + unit) * size + 1e-5:
        return f"off by {float(off):.2g} of {float(size):.2g}, status {sol.status.name}"
    if any(grad is not None and not grad.isfinite().all() for grad in grads):
        return "a gradient that is not finite"
    return ""


def random_calls(count: int, seed: int = 0) -> Report:
    """Random calls, of which every third has a wrong argument."""
    report = Report("random calls of solve")
    for number in range(seed, seed + count):
        call = draw(random.Random(number), wrong=1 / 3)
        came = answer(call)
        report.tried += 1
        if isinstance(came, TypeError | ValueError):
            report.refused[str(came)[:60]] += 1
        if found := fault(call, came):
            report.broken.append(f"seed {number}: {found}; {call!r}"[:600])
    return report


ALONE: tuple[Callable[[], Any], ...] = (
    pr.Serial,
    lambda: pr.Batched(max_lanes=1),
    lambda: pr.Batched(max_lanes=1, devices=["cpu", "cpu"]),
)
"""Executors that compute each lane by itself, so that its bits do not depend on which others there are."""


def concurrent(count: int, threads: int = 16, seed: int = 0) -> Report:
    """Random calls in threads of one process, derivatives and nested solves included: bit for bit as one by one."""
    threads = min(threads, count)  # a pool starts no more, and those that there are would wait for the others
    report = Report(f"solves in {threads} threads at once")
    numbers = range(seed, seed + count)

    def one(number: int) -> tuple[Tensor | None, ...] | str:
        came = answer(draw(random.Random(number), executors=ALONE))
        if isinstance(came, Exception):
            text = re.sub("0x[0-9a-f]+", "", str(came))  # a place in memory
            return f"{type(came).__name__}: {text[:120]}"
        return came[0].us.detach(), *came[1]

    alone = [one(number) for number in numbers]
    begin = threading.Barrier(threads)
    with ThreadPoolExecutor(threads, initializer=begin.wait) as pool:
        together = list(pool.map(one, numbers))
    for number, a, b in zip(numbers, alone, together, strict=True):
        report.tried += 1
        if isinstance(a, str):
            report.refused[a[:60]] += 1
        if not _same(a, b):
            report.broken.append(f"seed {number}: {a!r:.150} alone, {b!r:.150} together")
    return report


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    pairs = list(zip(a, b, strict=True))
    if any((x is None) != (y is None) for x, y in pairs):
        return False
    return all(x is None or x.equal(y) or _nans(x, y) for x, y in pairs)


def _nans(x: Tensor, y: Tensor) -> bool:
    return torch.allclose(x, y, rtol=0.0, atol=0.0, equal_nan=True)
