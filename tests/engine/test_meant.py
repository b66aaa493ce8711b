"""What was probably meant: names of other libraries and misspelt ones, classes, functions and numbers for objects."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import parareal as pr

GRID = pr.TimeGrid.uniform(0.0, 1.0, 4, 2)
U0 = torch.ones(2, dtype=torch.float64)
T = torch.linspace(0.0, 1.0, 3, dtype=torch.float64)


def f(t: Tensor, u: Tensor) -> Tensor:
    return -u


def run(**options: Any) -> pr.Solution:
    settings: dict[str, Any] = {"problem": pr.ODE(f), "u0": U0, "grid": GRID, "fine": pr.RK4(), "coarse": pr.Euler()}
    return pr.solve(**(settings | options))


NAMES: list[tuple[Callable[[], Any], str]] = [
    (lambda: pr.SciPy("rk45"), 'method="RK45"'),
    (lambda: pr.SciPy("dopri5"), 'method="RK45"'),
    (lambda: pr.SciPy("LSODE"), 'method="LSODA"'),
    (lambda: pr.TorchDiffEq("RK45"), 'method="dopri5"'),
    (lambda: pr.TorchDiffEq("heun"), 'method="heun2"'),
    (lambda: pr.TorchDiffEq("implicit-adams"), 'method="implicit_adams"'),
    (lambda: pr.TorchDiffEq("scipy_solver"), "pr.SciPy"),
    (lambda: pr.TorchDiffEq("Radau"), 'pr.SciPy("Radau")'),
    (lambda: pr.Adaptive("Dopri5"), 'tableau="dopri5"'),
    (lambda: pr.Adaptive("RK23"), 'tableau="bosh3"'),
    (lambda: pr.Adaptive("rk4"), "pr.RK4()"),
    (lambda: pr.odeint(f, U0, T, method="RK45"), 'method="dopri5"'),
    (lambda: pr.odeint(f, U0, T, method="dorpi5"), 'method="dopri5"'),
    (lambda: pr.odeint(f, U0, T, method="BDF"), 'pr.SciPy("BDF")'),
    (lambda: pr.odeint(f, U0, T, method="rk4", options={"stepsize": 0.1}), "'step_size'"),
    (lambda: pr.Tolerance(norm="l2"), 'norm="rms"'),  # pyright: ignore
    (lambda: pr.Tolerance(norm="inf"), 'norm="max"'),  # pyright: ignore
    (lambda: pr.Tolerance(rule="defects"), 'rule="defect"'),  # pyright: ignore
    (lambda: pr.ODE(f, "vmpa"), 'batching="vmap"'),  # pyright: ignore
    (lambda: pr.ODE(f, "batched"), 'batching="native"'),  # pyright: ignore
    (lambda: pr.Jacobian("diag"), 'kind="diagonal"'),  # pyright: ignore
    (lambda: pr.Windowed(2, "Hold"), 'initial="hold"'),  # pyright: ignore
    (lambda: run(gradients="adjoints"), 'gradients="adjoint"'),
    (lambda: run(history="sumary"), 'history="summary"'),
]
OBJECTS: list[tuple[dict[str, Any], str]] = [
    ({"fine": "rk4"}, "fine=pr.RK4()"),
    ({"fine": "dopri5"}, 'fine=pr.Adaptive("dopri5")'),
    ({"fine": pr.RK4}, "fine=pr.RK4()"),
    ({"fine": pr.RungeKutta}, "fine=pr.RungeKutta(...)"),
    ({"fine": lambda t0, t1, u: u}, "fine=pr.Propagator(fn)"),
    ({"coarse": "euler"}, "coarse=pr.Euler()"),
    ({"coarse": "picard"}, "coarse=pr.Identity()"),
    ({"coarse": "newton"}, "coarse=pr.Jacobian()"),
    ({"coarse": pr.Secant}, "coarse=pr.Secant(...)"),
    ({"coarse": lambda t0, t1, u: u}, 'coarse=pr.Propagator(fn, batching="vmap")'),
    ({"schedule": "wavefront"}, "schedule=pr.Wavefront()"),
    ({"schedule": pr.Barrier}, "schedule=pr.Barrier()"),
    ({"executor": "serial"}, "executor=pr.Serial()"),
    ({"stop": 1e-3}, "stop=pr.Tolerance(rtol=0.001)"),
    ({"stop": 3}, "stop=pr.Iterations(3)"),
    ({"problem": f}, "problem=pr.ODE(fn)"),
]


@pytest.mark.parametrize(("call", "meant"), NAMES, ids=[meant for _, meant in NAMES])
def test_a_name_of_another_library_or_a_misspelt_one(call: Callable[[], Any], meant: str) -> None:
    with pytest.raises(ValueError, match=rf"is unknown.*expected .*Did you mean {re.escape(meant)}\?"):
        call()


@pytest.mark.parametrize(("options", "meant"), OBJECTS, ids=[meant for _, meant in OBJECTS])
def test_something_else_in_place_of_an_object(options: dict[str, Any], meant: str) -> None:
    (name,) = options
    with pytest.raises(TypeError, match=rf"^{name} is .*; expected .*Did you mean {re.escape(meant)}\?$"):
        run(**options)


@pytest.mark.parametrize("name", ["xyz", "q", "", "?"])
def test_nothing_is_suggested_where_nothing_is_near(name: str) -> None:
    with pytest.raises(ValueError, match=r"is unknown; expected one of") as caught:
        pr.SciPy(name)
    assert "Did you mean" not in str(caught.value)
    with pytest.raises(TypeError) as told:
        run(fine=name)
    assert "Did you mean" not in str(told.value)


@pytest.mark.parametrize("name", ["samples", "dense", "verify", "throw", "progress"])
@pytest.mark.parametrize("value", [1, None, "no", torch.ones(2)], ids=repr)
def test_flags_are_true_or_false(name: str, value: Any) -> None:
    """``samples=8`` is no number of samples."""
    with pytest.raises(TypeError, match=rf"^{name}=.*; expected True or False"):
        run(**{name: value})
    assert run(dense=np.True_).status.converged


@pytest.mark.parametrize("answer", ["go on", [1, 2], torch.ones(2), object()], ids=["text", "list", "two", "object"])
def test_the_answer_of_a_callback_is_true_false_or_nothing(answer: Any) -> None:
    with pytest.raises(TypeError, match=r"the callback returned .*; expected True to stop the run, or None") as caught:
        run(callback=lambda report: answer)
    assert caught.value.solution.iterations == 1  # pyright: ignore


@pytest.mark.parametrize("answer", [True, np.True_, torch.tensor(True), torch.ones(1), 1])
def test_what_stops_a_run(answer: Any) -> None:
    assert run(callback=lambda report: answer).status is pr.Status.STOPPED
    assert run(callback=lambda report: not answer).status is not pr.Status.STOPPED


@pytest.mark.parametrize(
    ("call", "keyword", "meant"),
    [
        (pr.solve, "corse", "coarse="),
        (pr.solve, "tol", "stop=pr.Tolerance"),
        (pr.solve, "methd", "fine="),
        (pr.solve, "dt", "grid=pr.TimeGrid.uniform"),
        (pr.solve, "max_iter", "max_iterations="),
        (pr.solve, "nothing_like_it", "one of problem, u0, grid"),
        (pr.serial, "sample", "samples="),
        (pr.plan, "schedule", "schedules="),
        (pr.lyapunov_exponent, "integrator", "fine="),
    ],
)
def test_an_unknown_keyword_is_told_what_was_meant(call: Any, keyword: str, meant: str) -> None:
    grid = pr.TimeGrid.uniform(0.0, 1.0, 2)
    with pytest.raises(TypeError, match=f"{call.__name__} has no argument {keyword}; expected {re.escape(meant)}"):
        call(pr.ODE(lambda t, u: -u), torch.ones(2), grid, fine=pr.RK4(), **{keyword: 1})
