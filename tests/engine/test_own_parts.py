"""Parts of one's own that are not complete, and names that are none: named at first use, with the fix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import parareal as pr

GRID = pr.TimeGrid.uniform(0.0, 1.0, 4, 2)
U0 = torch.ones(2, dtype=torch.float64)


def run(problem: Any = None, **options: Any) -> pr.Solution:
    settings: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Euler(), **options}
    return pr.solve(problem or pr.ODE(lambda t, u: -u), U0, GRID, **settings)


class Equation(pr.Problem):
    """A problem of one's own, with no more than it needs."""

    def bind(self, u0: Any, grid: Any, fine: Any) -> Any:
        return self

    def rhs(self, t: Tensor, u: Any, rows: Any = None) -> Any:
        return -u


class Unbound(Equation):
    def bind(self, u0: Any, grid: Any, fine: Any) -> Any:
        return None


class Steps(pr.Integrator):
    traits = pr.IntegratorTraits(evaluations=1, order=1, solves=(pr.Problem,))

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Any) -> Any:
        slope = yield problem.rhs, t0, u
        return u + (t1 - t0)[:, None] * slope


def test_a_problem_needs_no_more_than_its_two_methods() -> None:
    sol = run(Equation(), fine=Steps(), coarse=pr.Identity())
    assert torch.equal(sol.us, pr.serial(Equation(), U0, GRID, fine=Steps()).us)


@pytest.mark.parametrize("call", [run, lambda p, fine, coarse: pr.serial(p, U0, GRID, fine=fine)])
def test_a_problem_whose_bind_returns_nothing_is_named(call: Any) -> None:
    with pytest.raises(TypeError, match=r"bind of Unbound returned None; expected .* return self"):
        call(Unbound(), fine=Steps(), coarse=pr.Identity())


@pytest.mark.parametrize(
    ("value", "message"),
    [(1.0, "a float; expected a tensor"), (torch.ones(3), r"a Tensor of shape \(3,\); expected .* shape \(4,\)")],
)
def test_a_mismatch_that_is_no_number_for_each_slice_is_named(value: Any, message: str) -> None:
    class Own(pr.Damped):
        def mismatch(self, at: Any) -> Any:
            return value

    with pytest.raises(TypeError, match=f"mismatch of .* returned {message}"):
        run(coarse=Own(pr.Identity(), 0.5))


@pytest.mark.parametrize(
    ("name", "message"),
    [("evaluate", r"evaluate of .* None; expected the value of fn\(\*args\)"), ("calls", "calls of .* None")],
)
def test_an_executor_that_returns_nothing_is_named(name: str, message: str) -> None:
    own: Any = type("Own", (pr.Batched,), {name: lambda self, *given: None})
    with pytest.raises(TypeError, match=message):
        run(executor=own())


# --- names of files --------------------------------------------------------------------------------------------------


class Counted:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, t: Tensor, u: Tensor) -> Tensor:
        self.calls += 1
        return -u


NAMES = [
    ("x" * 300, OSError, "too long"),
    ("x" * 240, OSError, "too long"),  # the name of the incomplete file is longer
    ("missing/run", FileNotFoundError, "there is no folder"),
    (".", ValueError, "is a folder"),
    ("a\0b", ValueError, "is not the name of a file"),
    ("", ValueError, "is not the name of a file"),
    (3, TypeError, "path=3 is an int; expected the name of a file"),
    (None, TypeError, "path=None is a NoneType"),
    ("pipe", ValueError, "is a device, a pipe or a socket"),
]


@pytest.mark.parametrize(("name", "error", "message"), NAMES)
def test_a_name_that_no_file_can_have_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    sol = run()
    with pytest.raises(error, match=message):
        sol.save(name)
    if name is not None:
        f = Counted()
        with pytest.raises(error, match=message):
            run(pr.ODE(f, "native"), checkpoint=name)
        assert f.calls == 0
    assert os.listdir() == ["pipe"]
