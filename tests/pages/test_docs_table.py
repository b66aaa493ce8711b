"""The table of methods in the docs says of each what its class says, and nothing public is missing from the docs."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pages import table

import diffusion_adapters as da
import parareal as pr

HEADER = "| method | order | evaluations | for stiff problems | shared | source |"
RALSTON = pr.ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), order=2)
MIDPOINT = pr.ButcherTableau(a=((1 / 2,),), b=(1.0,), order=2)
PAIR = pr.ARS222().tables
ROWS = {row[0].strip("`"): row[1:] for row in table(HEADER)}


def methods(code: str, orders: str) -> list[Any]:
    """What a row stands for: one method, or one for each of its orders."""
    names: dict[str, Any] = {
        "pr": pr,
        "da": da,
        "tableau": RALSTON,
        "implicit": MIDPOINT,
        "fn": lambda t0, t1, u: u,
        "pair": PAIR,
    }
    return (
        [eval(code, {**names, "order": int(order)}) for order in orders.split(", ")]
        if "order" in code
        else [eval(code, names)]
    )


def integrators() -> set[str]:
    """Names of all final integrators of the two packages, as the docs write them."""
    abstract = {pr.Integrator, pr.Multistep}
    return {
        f"{short}.{name}"
        for short, package in (("pr", pr), ("da", da))
        for name in package.__all__
        if isinstance(kind := getattr(package, name), type) and issubclass(kind, pr.Integrator) and kind not in abstract
    }


def test_the_table_has_every_method_and_no_other() -> None:
    assert {code.partition("(")[0] for code in ROWS} == integrators()
    assert len(ROWS) == len(table(HEADER)), "a row is there twice"


@pytest.mark.parametrize("code", ROWS)
def test_a_row_says_what_the_class_says(code: str) -> None:
    orders, evaluations, stiff, shared, source = ROWS[code]
    assert source
    for number, method in enumerate(methods(code, orders)):
        if orders != "of the tableau":
            assert str(method.order) == {"unknown": "None"}.get(orders, orders).split(", ")[number]
        if evaluations != "of the tableau":
            assert str(method.evaluations) == {"varies": "None"}.get(evaluations, evaluations)
        if shared not in ("of the tableau", "of its methods"):
            assert method.shares_first_stage is (shared == "yes")
        if method.implicit and stiff != "stiff part":
            assert stiff == stability(method.table) or stiff == "of the tableau"
        anything = any(issubclass(problem, method.solves) for problem in (pr.ODE, pr.SDE))
        assert (stiff == "linear part") is not anything


def stability(tableau: pr.ButcherTableau) -> str:
    """L-stable where the stability function falls off towards minus infinity; A-stable for methods that are no more."""
    z, a, b = -1e8, np.array(tableau.a), np.array(tableau.b)
    factor = abs(1 + z * b @ np.linalg.solve(np.eye(len(b)) - z * a, np.ones(len(b))))
    return "L-stable" if factor < 1e-6 else "A-stable" if factor < 1 + 1e-6 else "no"


@pytest.mark.parametrize("package", [pr, pr.plot, pr.theory, da], ids=lambda package: package.__name__)
def test_the_reference_lists_every_public_name_and_no_other(package: ModuleType) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    assert sorted(re.findall(rf"^::: {package.__name__}\.(\w+)$", page, re.MULTILINE)) == sorted(package.__all__)
