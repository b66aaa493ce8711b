"""Stopping rules and problems of one's own: what they declare, in either form, and what is said of faulty ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import parareal as pr

GRID = pr.TimeGrid.uniform(0.0, 2.0, slices=6, steps=4)
U0 = torch.ones(2, dtype=torch.float64)


def run(stop: Any, problem: Any = None, **options: Any) -> pr.Solution:
    settings: dict[str, Any] = {"fine": pr.RK4(), "coarse": pr.Euler(), **options}
    return pr.solve(problem or pr.ODE(lambda t, u: torch.cos(t) * u), U0, GRID, stop=stop, **settings)


class Small(pr.StoppingRule):
    """Stops when all increments are below 1e-4, in the largest element."""

    traits = pr.StoppingTraits(width=1, norm="max")

    def measure(self, change: Any) -> Any:
        return [change.norm("increment", "max")]

    def decide(self, figures: Any, iteration: Any) -> Any:
        stop = (figures[..., 0] < 1e-4).all(1)
        return pr.Verdict(stop, stop, np.zeros(len(stop), dtype=np.int64))


class ByAttributes(Small):
    """The same in the older form."""

    width = 1
    norm = "max"


class ByProperties(Small):
    """The same by properties."""

    width = property(lambda self: 1)
    norm = property(lambda self: "max")


@dataclass(frozen=True)
class Wrapped(pr.StoppingRule):
    """A wrapper forwards one attribute."""

    rule: pr.StoppingRule

    @property
    def traits(self) -> pr.StoppingTraits:
        return self.rule.traits

    def measure(self, change: Any) -> list[Tensor]:
        return self.rule.measure(change)

    def decide(self, figures: Any, iteration: Any) -> pr.Verdict:
        return self.rule.decide(figures, iteration)

    def begin(self, start: Any) -> Any:
        return self.rule.begin(start)

    def accepting(self) -> pr.StoppingRule:
        return Wrapped(self.rule.accepting())


@pytest.mark.parametrize("rule", [Small(), ByAttributes(), ByProperties(), Wrapped(Small())])
def test_every_form_of_declaration_is_understood(rule: Any) -> None:
    assert rule.traits == pr.StoppingTraits(width=1, norm="max")
    assert (rule.width, rule.norm, rule.uses_growth) == (1, "max", False)
    assert run(rule).iterations == run(Small()).iterations


@pytest.mark.parametrize("rule", ["increment", "defect", "error"])
@pytest.mark.parametrize("schedule", [None, pr.Windowed(3)])
def test_a_wrapped_tolerance_is_that_tolerance(rule: Any, schedule: Any) -> None:
    tolerance = pr.Tolerance(1e-6, 0.0, norm="max", rule=rule)
    a, b = (run(stop, schedule=schedule) for stop in (tolerance, Wrapped(tolerance)))
    assert torch.equal(a.us, b.us)
    assert (a.iterations, a.error_estimate) == (b.iterations, b.error_estimate)


def test_traits_of_combined_rules() -> None:
    exact = pr.Tolerance(norm="max", rule="error")
    assert (pr.Iterations(3) | exact).traits == pr.StoppingTraits(width=5, norm="max", uses_growth=True)
    assert (exact & pr.Iterations(3)).traits == pr.StoppingTraits(width=5, norm="max", uses_growth=True)
    assert (pr.Tolerance() | exact | Small()).traits == pr.StoppingTraits(width=11, norm="rms", uses_growth=True)
    assert (Small() & pr.Tolerance()).norm == "max"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("measure", lambda self, change: change.norm("increment", "rms"), "measure of .* a Tensor.* a list of width=1"),
        ("measure", lambda self, change: [], "measure of .* a list of 0; expected a list of width=1 tensors"),
        ("measure", lambda self, change: [change.norm("size", "rms")] * 2, "a list of 2; expected a list of width=1"),
        ("measure", lambda self, change: [0.5], "measure of .* a float; expected tensors of torch.float64, shape"),
        ("measure", lambda self, change: [change.norm("size", "rms").sum()], r"shape \(\); expected .* one number for"),
        ("measure", lambda self, change: [change.norm("size", "rms").float()], "float32, .* expected .*float64"),
        ("decide", lambda self, figures, iteration: None, r"decide of .* None; expected pr\.Verdict"),
        ("decide", lambda self, figures, iteration: (True, True, 0), r"decide of .* a tuple; expected pr\.Verdict"),
        ("decide", lambda self, figures, iteration: pr.Verdict(True, True, 0), r"a bool as stop .* of bool, shape \(1"),
        (
            "decide",
            lambda self, figures, iteration: pr.Verdict(*[np.zeros(1)] * 3),
            r"an ndarray of float64, shape \(1,\) as stop",
        ),
        (
            "decide",
            lambda self, figures, iteration: pr.Verdict(*[np.zeros(1, dtype=bool)] * 3),
            "as accepted .* expected a numpy array of int64",
        ),
        (
            "decide",
            lambda self, figures, iteration: pr.Verdict(*[figures[..., 0] > 0] * 3),
            r"shape \(1, 6\) as stop .* shape \(1,\)",
        ),
        (
            "decide",
            lambda self, figures, iteration: pr.Verdict(*[np.ones(1, dtype=bool)] * 2, np.full(1, 7)),
            "accepted 7 of 6 slices",
        ),
        ("begin", lambda self, start: None, "begin of .* returned None; expected an object with the attribute rule"),
        ("traits", property(lambda self: None), "traits of .* is None; expected a pr.StoppingTraits"),
    ],
)
def test_what_a_faulty_rule_returns_is_named(name: str, value: Any, message: str) -> None:
    rule = type("Faulty", (Small,), {name: value})()
    with pytest.raises((TypeError, ValueError), match=message):
        run(rule)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"traits": {"width": 1}}, "traits of Own is a dict; expected a record such as traits = pr.StoppingTraits"),
        ({"width": 2, "traits": pr.StoppingTraits(width=1)}, "Own declares width twice, as 2 and as 1"),
    ],
)
def test_a_faulty_declaration_is_named_where_it_stands(body: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        type("Own", (pr.StoppingRule,), body)


def test_a_rule_that_declares_nothing_is_told_what_to_declare() -> None:
    class Own(pr.StoppingRule):
        def measure(self, change: Any) -> list[Tensor]:
            return []

        def decide(self, figures: Any, iteration: Any) -> Any:
            raise AssertionError

    with pytest.raises(TypeError, match=r"Own declares no width; expected .* pr\.StoppingTraits\(width=1"):
        run(Own())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"width": -1}, ValueError, "width=-1 is too small"),
        ({"width": 1.0}, TypeError, "width=1.0 is a float"),
        ({"width": 1, "norm": "l1"}, ValueError, "norm='l1' is unknown; expected one of 'rms', 'max'"),
        ({"width": 1, "uses_growth": 1}, TypeError, "uses_growth=1 is an int; expected True or False"),
    ],
)
def test_traits_are_checked(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pr.StoppingTraits(**options)


# --- problems --------------------------------------------------------------------------------------------------------


def test_traits_of_the_kinds_of_problems() -> None:
    def f(t: Tensor, u: Tensor) -> Tensor:
        return -u

    assert pr.ODE(f).traits == pr.ProblemTraits(plain=True)
    assert pr.ODE(f, batching="loop").traits == pr.ProblemTraits(plain=True, differentiable=False)
    assert pr.SemilinearODE(-1.0, f).traits == pr.ProblemTraits(plain=True)
    assert pr.SDE(f, f).traits == pr.ProblemTraits(stochastic=True)


@dataclass(frozen=True, eq=False)
class Forced(pr.Problem):
    """A problem of one's own that is no `ODE`: du/dt = -u + sin t, or another sign."""

    batching: Any = "vmap"
    per_sample: Any = None

    traits = pr.ProblemTraits(plain=True)

    def bind(self, u0: Any, grid: Any, fine: Any) -> Forced:
        return self

    def rhs(self, t: Tensor, u: Any, rows: Any = None) -> Any:
        return torch.sin(t)[:, None] - u


class Opaque(Forced):
    """The same, of which nothing is declared but that it has no derivatives."""

    traits = pr.ProblemTraits(differentiable=False)


@dataclass(frozen=True)
class Steps(pr.Integrator):
    """Euler's method for any problem."""

    steps: int | None = None
    traits = pr.IntegratorTraits(evaluations=1, order=1, shares_first_stage=True, solves=(pr.Problem,))

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Any) -> Any:
        slope = yield problem.rhs, t0, u
        return tree_map(lambda x, k: x + (t1 - t0).reshape(-1, *[1] * (x.ndim - 1)) * k, u, slope)


def test_what_a_problem_of_ones_own_declares_counts_and_not_its_class() -> None:
    problem = Forced()
    ref = pr.serial(problem, U0, GRID, fine=Steps())
    newton = run(None, problem, fine=Steps(), coarse=pr.Jacobian())
    assert newton.iterations <= 2
    assert torch.allclose(newton.us, ref.us, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"Jacobian came with .* for an Opaque"):
        run(None, Opaque(), fine=Steps(), coarse=pr.Jacobian())
    report = pr.check_propagator(Steps(), problem, U0, GRID)
    assert next(one for one in report.findings if one.name == "order").status == "ok"


def test_a_problem_cannot_be_plain_and_stochastic() -> None:
    with pytest.raises(ValueError, match="plain=True came with stochastic=True"):
        pr.ProblemTraits(plain=True, stochastic=True)
    with pytest.raises(TypeError, match="plain=1 is an int"):
        pr.ProblemTraits(plain=1)  # pyright: ignore
