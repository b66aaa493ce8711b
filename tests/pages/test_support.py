"""The support table of the docs, cell by cell: what it says works ends in the sequential solution."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pages import table
from strategies import distance, equal
from torch import Tensor

import diffusion_adapters as da
import parareal as pr

METHODS = "| fine method | problem | Barrier | Wavefront | Windowed | `pr.Jacobian()` |"
REFUSED = "| refused method | problem | because |"
HEADER: str = "| correction | Barrier | Wavefront | Windowed | Serial | Batched |"
SCHEDULES: dict[str, list[pr.Schedule]] = {
    "Barrier": [pr.Barrier()],
    "Wavefront": [pr.Wavefront()],
    "Windowed": [pr.Windowed(7), pr.Windowed(3), pr.Windowed(2, "extrapolate"), pr.Windowed(1, "hold")],
}
EXECUTORS: dict[str, list[pr.Executor]] = {"Serial": [pr.Serial()], "Batched": [pr.Batched(), pr.Batched(max_lanes=2)]}


ROWS = {row[0].strip("`"): row[1:] for row in table(HEADER)}


def f(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(2 * t).reshape(-1, *[1] * (u.ndim - 1)) * u - 0.1 * u**3


GRID = pr.TimeGrid.from_points(torch.linspace(0.0, 3.0, 17, dtype=torch.float64) ** 1.1, slices=7)  # 2 or 3 steps each
U0 = torch.tensor([[1.0, -0.5], [0.3, 0.7]], dtype=torch.float64)


def test_the_table_has_every_correction_of_the_library() -> None:
    """Every final class derived from Correction is in it."""
    abstract = {"Correction", "Linear", "Whitened"}
    names = {n for n in pr.__all__ if isinstance(getattr(pr, n), type) and issubclass(getattr(pr, n), pr.Correction)}
    assert names - abstract <= {name for row in ROWS for name in re.findall(r"pr\.(\w+)", row)}


@pytest.mark.parametrize("samples", [False, True], ids=["one", "samples"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("correction", ROWS)
@pytest.mark.sweep(9)
def test_what_the_table_says_works_does(correction: str, schedule: str, samples: bool) -> None:
    cells = dict(zip(HEADER.strip("| ").split(" | ")[1:], ROWS[correction], strict=True))
    problem = pr.ODE(f, batching="native")
    if cells[schedule] == "refused":
        coarse = eval(correction, {"pr": pr, "torch": torch})
        with pytest.raises(ValueError, match="expected schedule="):
            pr.solve(problem, U0, GRID, fine=pr.Heun(), coarse=coarse, schedule=SCHEDULES[schedule][0])
        return
    assert cells[schedule] == "yes"
    ref = pr.serial(problem, U0, GRID, fine=pr.Heun(), samples=samples, executor=pr.Serial())
    for plan in SCHEDULES[schedule]:
        for name, executors in EXECUTORS.items():
            assert cells[name] == "yes"
            for executor in executors:
                options: dict[str, Any] = {
                    "fine": pr.Heun(),
                    "coarse": eval(correction, {"pr": pr, "torch": torch}),
                    "schedule": plan,
                    "executor": executor,
                    "samples": samples,
                }
                sol = pr.solve(problem, U0, GRID, stop=pr.Tolerance(0.0, 0.0), **options)
                if name == "Serial":
                    assert equal(sol.us, ref.us)
                assert distance(sol.us, ref.us) < 1e-13
                near = pr.solve(problem, U0, GRID, stop=pr.Tolerance(1e-4, 0.0), **options, dense=False)
                assert distance(near.u, ref.u) < 1e-3


@pytest.mark.parametrize(("expression", "because"), table("| refused | because |"))
def test_what_the_table_says_is_refused_is(expression: str, because: str) -> None:
    code = re.match(r"`(.+)`$", expression)
    if code is None:  # said in words: those have tests beside what they are about
        return

    def use() -> None:
        correction = eval(code[1], {"pr": pr, "torch": torch})
        pr.solve(pr.ODE(lambda t, u: -u), torch.ones(600), GRID, fine=pr.Euler(), coarse=correction)

    with pytest.raises((ValueError, TypeError)):
        use()


def ode(t: Tensor, u: Tensor) -> Tensor:
    return torch.cos(2 * t) * u - 0.1 * u**3


def amplitude(t: Tensor, u: Tensor) -> Tensor:
    return 0.1 * u


def sde(**kind: Any) -> pr.SDE:
    return pr.SDE(ode, amplitude, generator=torch.Generator().manual_seed(1), **kind)


PROBLEMS: dict[str, Callable[[], pr.Problem]] = {
    "ODE": lambda: pr.ODE(ode),
    'ODE(batching="loop")': lambda: pr.ODE(ode, batching="loop"),
    "SemilinearODE": lambda: pr.SemilinearODE(-1.0, lambda t, u: torch.sin(u + t)),
    "ODE(split=(f1, f2))": lambda: pr.ODE(split=(lambda t, u: -0.1 * u**3, lambda t, u: torch.cos(2 * t) * u)),
    "SeparableODE": lambda: pr.SeparableODE(lambda t, q: torch.cos(t) - torch.sin(q)),
    "SDE": sde,
    'SDE(calculus="stratonovich")': lambda: sde(calculus="stratonovich"),
    'SDE(noise="additive")': lambda: pr.SDE(
        ode, lambda t, u: 0.1 + 0 * u, noise="additive", generator=torch.Generator().manual_seed(1)
    ),
    'SDE(noise="general")': lambda: pr.SDE(
        ode, lambda t, u: torch.stack([u, -u], -1), noise="general", channels=2, generator=torch.Generator()
    ),
}
COARSE = {
    "ODE": pr.Euler(),
    "ODE(split=(f1, f2))": pr.Lie(pr.Euler()),
    "SeparableODE": pr.StoermerVerlet(),
    "SemilinearODE": pr.ExponentialEuler(),
    'SDE(calculus="stratonovich")': pr.Heun(),
}
STATES = {"SeparableODE": (U0, -0.5 * U0)}
FINE = table(METHODS)
SMALL = pr.TimeGrid.from_points(torch.linspace(0.0, 2.0, 10, dtype=torch.float64) ** 1.1, slices=5)


def method(code: str) -> pr.Integrator:
    return eval(code.strip("`"), {"pr": pr, "da": da, "torch": torch})


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("row", FINE, ids=lambda row: " ".join(row[:2]).replace("`", ""))
@pytest.mark.sweep(5)
def test_methods_and_problems_go_with_every_schedule_and_correction(row: list[str], schedule: str) -> None:
    fine, kind = method(row[0]), row[1].strip("`")
    u0 = STATES.get(kind, U0)
    problem, coarse, plan = PROBLEMS[kind](), COARSE.get(kind, pr.EulerMaruyama()), SCHEDULES[schedule][:2][-1]
    assert row[2 + list(SCHEDULES).index(schedule)] == "yes"
    ref = pr.serial(problem, u0, SMALL, fine=fine, executor=pr.Serial())
    assert ref.status is pr.Status.FINAL
    corrections = [
        pr.Coarse(coarse),
        pr.Identity(),
        pr.Zero(),
        pr.Damped(pr.Coarse(coarse), 0.8),
        pr.Secant(pr.Identity()),
        pr.Secant(pr.Coarse(coarse)),
        pr.Anderson(pr.Identity()),
    ]
    for correction in corrections:
        options: dict[str, Any] = {"fine": fine, "coarse": correction, "schedule": plan}
        sol = pr.solve(problem, u0, SMALL, stop=pr.Tolerance(0.0, 0.0), executor=pr.Serial(), **options)
        assert equal(sol.us, ref.us), correction
        sol = pr.solve(problem, u0, SMALL, stop=pr.Tolerance(0.0, 0.0), **options)
        assert distance(sol.us, ref.us) < 1e-12, correction


@pytest.mark.parametrize("row", FINE, ids=lambda row: " ".join(row[:2]).replace("`", ""))
def test_newton_goes_with_the_methods_that_the_table_says(row: list[str]) -> None:
    problem, fine = PROBLEMS[row[1].strip("`")](), method(row[0])
    u0 = STATES.get(row[1].strip("`"), U0)
    if row[5] == "yes":
        assert pr.solve(problem, u0, GRID, fine=fine, coarse=pr.Jacobian()).converged
    else:
        with pytest.raises(ValueError, match="Jacobian came with"):
            pr.solve(problem, u0, GRID, fine=fine, coarse=pr.Jacobian())


@pytest.mark.parametrize("row", table(REFUSED), ids=lambda row: " ".join(row[:2]).replace("`", ""))
def test_methods_that_do_not_fit_are_refused_with_these_words(row: list[str]) -> None:
    words = re.findall(r'"([^"]+)"', row[2])
    assert words
    with pytest.raises(ValueError, match=re.escape(words[0])):
        pr.serial(PROBLEMS[row[1].strip("`")](), U0, GRID, fine=method(row[0]))
