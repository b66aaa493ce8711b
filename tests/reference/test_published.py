"""Published Parareal runs, reproduced twice: by the library, and from the definition without it.

The figures and their sources are in ``published.json``. Counts must be the same. Errors and increments agree to half a
unit of the last digit printed, and to what rounding may move them, as measured in `figures.py`: published figures went
through float64 themselves.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from reference import figures, independent, ours, tables
from reference.cases import PUBLISHED
from reference.checks import assert_run, assert_written

TEXT = (tables.HERE / "published.json").read_text()
# Every float as it was printed.
PRINTED: dict[str, Any] = {
    case["name"]: case for part in ("cases", "other") for case in json.loads(TEXT, parse_float=Decimal)[part]
}
# Exact statements, that tests/engine/test_laws.py holds the engine to.
ELSEWHERE = {"counting_algebra", "closed_form_linear"}
LONG = {"lorenz_py", "fhn_1600"}
"""Runs of thousands of steps."""


def assert_printed(got: list[float], printed: list[Any], rounding: list[float]) -> None:
    """To half a unit of the last digit printed, and to rounding."""
    for value, listed, spread in zip(got, map(Decimal, printed), rounding, strict=True):
        unit = 10.0 ** int(listed.as_tuple().exponent) if listed else 0.0
        assert abs(value - float(listed)) <= 0.5 * unit + spread


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly if name in LONG else ()) for name in PUBLISHED]
)
@pytest.mark.sweep(2)
def test_a_published_run(name: str) -> None:
    """From the definition, then ours, then as the page has it."""
    case, listed = PRINTED[name], tables.stored()[name]
    own = ours.figures(name, len(listed["increments"]))
    for key, kind in (("max_error_by_iteration_from_0", "errors"), ("max_increment_by_iteration", "increments")):
        if key in case:
            printed, rounding = case[key], listed[f"{kind}_rounding"]
            assert kind == "increments" or len(listed[kind]) == min(len(printed), PUBLISHED[name].slices + 1)
            known = len(printed)
            assert_printed(listed[kind][:known], printed[: len(listed[kind])], rounding[:known])
            assert_printed(own[kind][:known], printed[: len(listed[kind])], rounding[:known])
    if name in tables.COUNTED:
        for of in (listed, ours.stops(name)):
            assert of["increment"] == case["iterations_increment_rule"]
            assert of["frozen"] == case["iterations_prefix_frozen_right_node"]
    for key in {"u_fine_end", "u_end"} & set(case):
        end = case[key] if isinstance(case[key], list) else [case[key]]
        assert_printed(own["end"], end, listed["end_rounding"])
    assert_run(name, PUBLISHED[name])


def test_convergence_bounds() -> None:
    """Of the library's runs; `test_independent.py` has them in every eigenvector of larger problems."""
    case, N = tables.PUBLISHED["dahlquist_be"], 10
    F, G = independent.exact_factor(-1 / N), independent.factor("implicit_euler", 1, -1 / N)
    errors = ours.figures("dahlquist_be", N)["errors"]
    for k in range(7):
        superlinear, linear = independent.superlinear(F, G, N, k), independent.linear(F, G, k)
        start = case["max_error_by_iteration_from_0"][0]
        np.testing.assert_allclose(start * superlinear, case["superlinear_bound"][k], rtol=5e-7)
        np.testing.assert_allclose(start * linear, case["linear_bound"][k], rtol=5e-7)
        # F of the run is 20 steps, not the exact factor: the bound with it is another, and its own.
        rounding = 10 * float(torch.finfo(torch.float64).eps)
        own = independent.factor("implicit_euler", 20, -1 / N)
        for bound in (independent.superlinear(own, G, N, k), independent.linear(own, G, k)):
            assert errors[k] <= errors[0] * bound + rounding


@pytest.mark.parametrize("name", tables.PUBLISHED["convergence_factors"]["table"])
def test_convergence_factors(name: str) -> None:
    theirs = figures.convergence_factors(figures.COARSE[name])
    published = tables.PUBLISHED["convergence_factors"]["table"][name]
    np.testing.assert_allclose(theirs, published, rtol=0, atol=6e-8)
    np.testing.assert_allclose(ours.convergence_factors(name), theirs, rtol=0, atol=1e-10)


# How far chance moves orders from 40,000 plain paths, standard deviations: those of the first equation estimated by
# leaving out groups of 4,000, those of the second scaled from 3,000 paths and rounded up.
PLAIN = {
    "geometric Brownian motion": (0.005, 0.02, 0.04, 0.07),
    "Ornstein-Uhlenbeck (additive)": (0.003, 0.002, 0.002, 0.002),
}


@pytest.mark.parametrize("equation", figures.MEAN_SQUARES)
@pytest.mark.nightly
def test_strong_orders_of_iterations(equation: str) -> None:
    """Published orders and ours are sampled, those in closed form are exact; chance is estimated from ours."""
    published = np.array(tables.PUBLISHED["sde_strong_order"]["table"][equation])
    exact, (orders, deviation) = figures.orders_of_iterations(equation), ours.strong_orders(equation)
    assert (deviation < 0.15).all()  # an order is told from the next half
    assert (np.abs(orders - exact) <= 3 * deviation).all()
    # Half a unit of the last digit is what printing cut off.
    plain = np.array(PLAIN[equation])
    assert (np.abs(published - exact) <= 3 * plain + 0.005).all()
    assert (np.abs(orders - published) <= 3 * np.hypot(plain, deviation) + 0.005).all()
    assert_written(tables.written("iteration_orders", equation), list(tables.iteration_orders([equation])))


def test_every_published_case_is_reproduced_or_named() -> None:
    assert set(PRINTED) == set(PUBLISHED) | {"convergence_factors", "sde_strong_order"} | ELSEWHERE
