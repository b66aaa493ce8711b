"""The tables of ``docs/reference.md``: published, independent and our figures side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import cache
from math import floor, log10
from pathlib import Path
from typing import Any

from reference import cases, figures, independent, ours

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "reference.md"
STORED = HERE / "independent.json"
PUBLISHED: dict[str, Any] = {
    case["name"]: case
    for part in ("cases", "other")
    for case in json.loads((HERE / "published.json").read_text())[part]
}
COUNTED = [name for name, setting in cases.PUBLISHED.items() if setting.rule is not None]
Row = list[str]
RULES = ("increment", "frozen", "defect")
METHODS = {
    "euler": "Euler",
    "midpoint": "midpoint",
    "heun": "Heun",
    "kutta3": "Kutta 3",
    "rk4": "RK4",
    "three_eighths": "3/8",
    "implicit_euler": "implicit Euler",
    "trapezoid": "trapezoid",
    "sdirk2": "SDIRK2",
    "euler_maruyama": "Euler-Maruyama",
    "milstein": "Milstein",
    "sra1": "SRA1",
}


@cache
def stored() -> Any:
    return json.loads(STORED.read_text())


def shown(value: float, rounding: float = 0.0) -> str:
    """Six digits, or as many as rounding leaves."""
    if value == 0 or value <= 2 * rounding:
        return "0" if rounding == 0 else "rounding"
    digits = 6 if rounding == 0 else min(6, floor(log10(value / rounding)))
    return f"{value:.{max(digits, 1) - 1}e}"


def as_printed(value: float) -> str:
    """A published figure, to seven digits or as many as it was published with."""
    digits = len(Decimal(repr(value)).normalize().as_tuple().digits)
    return f"{value:.{min(digits, 7) - 1}e}"


def errors(name: str, k: int) -> tuple[str, str]:
    """Of iteration k, independent, and ours to the digits that rounding leaves."""
    run = stored()[name]
    made = len(run["errors"]) - 1
    if k > made:
        return "rounding", "rounding"
    rounding = run["errors_rounding"][k]
    return shown(run["errors"][k]), shown(ours.figures(name, made)["errors"][k], rounding)


def published_counts(names: Iterable[str] = COUNTED) -> Iterator[Row]:
    """| case | rule | published | independent | ours |"""
    keys = {"increment": "iterations_increment_rule", "frozen": "iterations_prefix_frozen_right_node"}
    for name in names:
        for rule, key in keys.items():
            title = "increment" if rule == "increment" else "prefix frozen"
            counts = (PUBLISHED[name][key], stored()[name][rule], ours.stops(name)[rule])
            yield [f"`{name}`", title, *map(str, counts)]


def published_errors(names: Iterable[str] = cases.PUBLISHED) -> Iterator[Row]:
    """| run | k | published | independent | ours |"""
    for name in names:
        listed = PUBLISHED[name]["max_error_by_iteration_from_0"]
        for k in (1, 3, 6):
            yield [f"`{name}`", str(k), as_printed(listed[k]), *errors(name, k)]


def bounds() -> Iterator[Row]:
    """| k | superlinear: published | independent | linear: published | independent | measured, independent | ours |"""
    case, N = PUBLISHED["dahlquist_be"], 10
    F, G = independent.exact_factor(-1 / N), independent.factor("implicit_euler", 1, -1 / N)
    start = stored()["dahlquist_be"]["errors"][0]
    for k in (1, 2, 3, 4, 6):
        super_, linear = case["superlinear_bound"][k], case["linear_bound"][k]
        yield [
            str(k),
            as_printed(super_),
            shown(start * independent.superlinear(F, G, N, k)),
            as_printed(linear),
            shown(start * independent.linear(F, G, k)),
            *errors("dahlquist_be", k),
        ]


def factors() -> Iterator[Row]:
    """| coarse method | interval | published | independent | ours |"""
    for name, listed in PUBLISHED["convergence_factors"]["table"].items():
        theirs, mine = figures.convergence_factors(figures.COARSE[name]), ours.convergence_factors(name)
        for i, interval in enumerate(("short", "long")):
            yield [name, interval, f"{listed[i]:.6f}", f"{theirs[i]:.6f}", f"{mine[i]:.6f}"]


def iteration_orders(names: Iterable[str] = figures.MEAN_SQUARES) -> Iterator[Row]:
    """| equation | k | published | independent | ours | chance |"""
    for name in names:
        listed = PUBLISHED["sde_strong_order"]["table"][name]
        theirs, (mine, deviation) = figures.orders_of_iterations(name), ours.strong_orders(name)
        for k in range(4):
            yield [name, str(k), f"{listed[k]:.2f}", f"{theirs[k]:.2f}", f"{mine[k]:.2f}", f"{deviation[k]:.3f}"]


def settings() -> Iterator[Row]:
    """| case | slices | coarse | fine | norm | rtol | atol |"""
    for name, case in cases.INDEPENDENT.items():
        (coarse, few), (fine, many), rule = case.coarse, case.fine, case.rule
        assert rule is not None
        ways = [f"{METHODS[coarse]} x {few}", f"{METHODS[fine]} x {many}"]
        yield [f"{name}: {case.title}", str(case.slices), *ways, rule.norm, f"{rule.rtol:g}", f"{rule.atol:g}"]


def independent_counts(names: Iterable[str] = cases.INDEPENDENT) -> Iterator[Row]:
    """| case | increment: independent | ours | prefix frozen: independent | ours | defect: independent | ours |"""
    for name in names:
        run, own = stored()[name], ours.stops(name)
        yield [name, *(str(of[rule]) for rule in RULES for of in (run, own))]


def independent_errors(names: Iterable[str] = cases.INDEPENDENT) -> Iterator[Row]:
    """| case | k = 1: independent | ours | k = 3: independent | ours | k = 5: independent | ours |"""
    for name in names:
        yield [name, *(cell for k in (1, 3, 5) for cell in errors(name, k))]


def strong_orders() -> Iterator[Row]:
    """| method | equation | strong order | independent | ours |"""
    for name, strong in figures.ORDERS.items():
        measured = [figures.strong_order(name), figures.strong_order(name, ours.ends)]
        yield [METHODS[name], strong.title, str(strong.order), *(f"{x:.4f}" for x in measured)]


BY_CASE: dict[Callable[..., Iterator[Row]], Iterable[str]] = {
    published_counts: COUNTED,
    published_errors: cases.PUBLISHED,
    iteration_orders: figures.MEAN_SQUARES,
    independent_counts: cases.INDEPENDENT,
    independent_errors: cases.INDEPENDENT,
}
"""Tables whose rows are made case by case, and the cases."""
TABLES: dict[str, Callable[..., Iterator[Row]]] = {
    table.__name__: table for table in (*BY_CASE, bounds, factors, settings, strong_orders)
}


def header(name: str) -> str:
    text = TABLES[name].__doc__
    assert text is not None
    return text


def written(name: str, case: str | None = None) -> list[Row]:
    """The table's rows as the page has them, or those of a case."""
    text = PAGE.read_text()
    rows = text[text.index(header(name)) :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [row for row in cells if case is None or row[0].strip("`") == case]


def markdown(name: str) -> str:
    """The table, made anew."""
    lines = [header(name), "|" + "---|" * (header(name).count("|") - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in TABLES[name]()])
