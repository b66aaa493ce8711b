"""The library against Parareal computed from its definition: see `independent.py`, `cases.py` and `figures.py`.

Counts must be the same. Errors and increments agree to six digits, and to what rounding may move them: twice the widest
spread of the independent formulas in float64, as measured in `figures.py`.
"""

from __future__ import annotations

import itertools
from math import pi
from typing import Any

import numpy as np
import pytest
import torch
from reference import figures, independent, ours, tables
from reference.cases import INDEPENDENT, PUBLISHED
from reference.checks import alike, assert_run, assert_written
from reference.independent import DIGITS, EXACT, factor, linear, superlinear

RUNS = INDEPENDENT | PUBLISHED
QUICK = ("decay", "oscillation", "logistic", "Riccati", "Lotka-Volterra, backwards", "additive noise", "dahlquist_be")
EPS = float(torch.finfo(torch.float64).eps)


def test_every_case_is_stored_and_every_stored_case_is_run() -> None:
    assert set(tables.stored()) == set(RUNS)
    assert len(INDEPENDENT) >= 12


@pytest.mark.parametrize("name", QUICK)
def test_stored_figures_can_be_computed_again(name: str) -> None:
    """All of them by `python scripts/reproduce.py --independent`; these take little time."""
    setting, listed = RUNS[name], tables.stored()[name]
    again = figures.compute(setting, EXACT if setting.exact else DIGITS, len(listed["increments"]))
    for what, value in again.items():
        if isinstance(value, int):
            assert value == listed[what]
        else:
            np.testing.assert_allclose(value, listed[what], rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", INDEPENDENT)
@pytest.mark.sweep(2)
def test_a_run_and_what_the_page_says_of_it(name: str) -> None:
    assert_run(name, INDEPENDENT[name])


def test_the_rules_differ_somewhere() -> None:
    """So that none of them could stand for another."""
    for one, other in itertools.combinations(tables.RULES, 2):
        assert any(tables.stored()[name][one] != tables.stored()[name][other] for name in INDEPENDENT)


# --- bounds ----------------------------------------------------------------------------------------------------------


def modes(name: str) -> tuple[Any, Any]:
    """Eigenvalues of the linear problem and the unitary matrix of its eigenvectors."""
    j = np.arange(16)
    waves = np.exp(2j * pi * np.outer(j, j) / 16) / 4
    turn = np.exp(2j * pi * j / 16)
    sines = np.sin(pi * np.outer(j[1:], j[1:]) / 16) / 8**0.5
    turning = np.array([[1, 1], [1j, -1j]]) / 2**0.5
    return {
        "decay": (np.array([-1.0]), np.eye(1)),
        "oscillation": (np.array([1j, -1j]), turning),
        "heat": (-1024 * np.sin(pi * j[1:] / 32) ** 2, sines),
        "transport, upwind": (-16 * (1 - 1 / turn), waves),
        "transport, centred": (-8 * (turn - 1 / turn), waves),
    }[name]


@pytest.mark.parametrize("name", ["decay", "oscillation", "heat", "transport, upwind", "transport, centred"])
@pytest.mark.parametrize("who", ["independent", "ours"])
@pytest.mark.sweep(4)
def test_errors_stay_below_the_bounds_in_every_eigenvector(name: str, who: str) -> None:
    setting, N = INDEPENDENT[name], INDEPENDENT[name].slices
    values, vectors = modes(name)
    if who == "ours":
        run = ours.Run(setting)
        far = (run.iterates(N) - run.serial()).numpy()
    else:
        fine, coarse = setting.propagators(independent.DOUBLE)
        u0 = setting.start(independent.DOUBLE)
        U, _ = independent.parareal(fine, coarse, u0, N, N)
        far = np.array(U) - np.array(independent.serial(fine, u0, N))
    errors = np.abs(far @ vectors.conj()).max(1)  # iteration, eigenvector
    assert errors[0].max() > 1e-3
    H = float(setting.points[-1] - setting.points[0]) / N
    rounding = 100 * N * EPS * max(1.0, errors.max())
    sharpest = 0.0
    for value, column in zip(values, errors.T, strict=True):
        F, G = factor(setting.fine[0], setting.fine[1], value * H), factor(setting.coarse[0], 1, value * H)
        for k in range(1, N + 1):
            bound = column[0] * min(superlinear(F, G, N, k), linear(F, G, k))
            assert column[k] <= bound * (1 + 1e-9) + rounding
            if bound > 1e-9:
                sharpest = max(sharpest, column[k] / bound)
    assert sharpest > 0.1  # the bound is one of this problem, and not far off


# --- other figures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", figures.ORDERS)
def test_strong_orders(method: str) -> None:
    """End states as those of the formulas, path by path, and the order that the exact solution shows."""
    for steps in figures.STEPS:
        np.testing.assert_allclose(
            ours.ends(method, steps), figures.ends(method, steps), rtol=0, atol=steps * 100 * EPS
        )
    # A sample of 1000 paths, and steps that are not yet short: 0.15 tells each order from the next all the same.
    assert figures.strong_order(method, ours.ends) == pytest.approx(figures.ORDERS[method].order, abs=0.15)


@pytest.mark.parametrize(
    ("equation", "drift", "diffusion"),
    [("geometric Brownian motion", 1, lambda x: x / 2), ("Ornstein-Uhlenbeck (additive)", -1, lambda x: 0.5)],
)
def test_mean_squares_are_those_of_all_paths(equation: str, drift: int, diffusion: Any) -> None:
    """Steps of +-sqrt(h) have the moments that they rest on, and few enough paths to take them all."""
    N, S = 3, 2
    dw = np.array(list(itertools.product((-1.0, 1.0), repeat=N * S))).T / (N * S) ** 0.5

    def fine(n: int, u: Any) -> Any:
        for i in range(S * n, S * n + S):
            u = [u[0] + drift * u[0] / (N * S) + diffusion(u[0]) * dw[i]]
        return u

    def coarse(n: int, u: Any) -> Any:
        return [u[0] + drift * u[0] / N + diffusion(u[0]) * dw[S * n : S * n + S].sum(0)]

    U, _ = independent.parareal(fine, coarse, [np.ones(2 ** (N * S))], N, 3)
    end = independent.serial(fine, U[0][0], N)[-1][0]
    squares = [np.mean((u[-1][0] - end) ** 2) for u in U]
    np.testing.assert_allclose(figures.MEAN_SQUARES[equation](N, S), squares, rtol=1e-9, atol=1e-30)
    assert squares[2] > 1e-9


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_page_says_what_comes_out(name: str) -> None:
    """Rows of runs are compared where the runs are made; here, that none is missing or too many."""
    table = tables.TABLES[name]
    if table in tables.BY_CASE:
        names = [row[0].strip("`") for row in tables.written(name)]
        assert list(dict.fromkeys(names)) == list(tables.BY_CASE[table])
    else:
        assert_written(tables.written(name), list(table()))


def test_counts_on_the_page_agree_with_each_other() -> None:
    """Of every count all columns are the same number, not only near."""
    for row in tables.written("published_counts"):
        assert row[2] == row[3] == row[4]
    for row in tables.written("independent_counts"):
        assert row[1::2] == row[2::2]


def test_alike_tells_digits() -> None:
    assert alike("1.2345e-06", "1.2346e-06")
    assert not alike("1.2345e-06", "1.2347e-06")
    assert not alike("9", "8")
    assert not alike("1.23e-06", "1.2345e-06")
    assert not alike("rounding", "1.2e-06")
