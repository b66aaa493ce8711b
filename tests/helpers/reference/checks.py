"""What the tests of this folder compare, and to how many digits."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import ours, tables
from reference.cases import Setting

SIX = 5e-7
"""Half a unit of the sixth digit, at the least."""


def assert_near(got: Any, listed: Any, what: str) -> None:
    """To six digits and to rounding."""
    wanted, rounding = np.array(listed[what]), np.array(listed[f"{what}_rounding"])
    assert (np.abs(np.array(got) - wanted) <= SIX * np.abs(wanted) + rounding).all()


def assert_run(name: str, setting: Setting) -> None:
    """A run of ours gives the independent figures, and the page has both."""
    listed = tables.stored()[name]
    own = ours.figures(name, len(listed["increments"]))
    assert_near(own["errors"], listed, "errors")
    assert_near(own["increments"], listed, "increments")
    end = np.array(listed["end"])
    if end.ndim == 2:  # complex numbers as pairs
        end = end[:, 0] + 1j * end[:, 1]
    # Rounding of the end itself is less than the figures' six digits, also where it is chaotic.
    assert (np.abs(np.array(own["end"]) - end) <= SIX * np.abs(end).max()).all()
    # The comparison means something: of the first three errors at least, six digits are compared.
    errors, rounding = (np.array(listed[key][:3]) for key in ("errors", "errors_rounding"))
    assert (rounding < SIX * errors).all()
    if setting.rule is not None:
        assert listed["nearest"] > 1e-3, "a figure so near to the tolerance that rounding decides"
        assert {rule: ours.stops(name)[rule] for rule in tables.RULES} == {rule: listed[rule] for rule in tables.RULES}
        assert_near(ours.stops(name)["frozen_error"], listed, "frozen_error")
    for table, names in tables.BY_CASE.items():
        if name in names and table is not tables.iteration_orders:  # whose names are equations
            assert_written(tables.written(table.__name__, name), list(table([name])))


def alike(page: str, fresh: str) -> bool:
    """The same, or numbers of as many digits that differ by one unit of the last: rounding may turn it."""
    if page == fresh:
        return True
    if "." not in page and "e" not in page:  # a count
        return False
    if not all(text.replace(".", "").replace("e-", "").replace("e+", "").isdigit() for text in (page, fresh)):
        return False
    mantissas = [text.partition("e")[0] for text in (page, fresh)]
    unit = 10.0 ** -len(mantissas[1].partition(".")[2])
    exponent = float(f"1e{fresh.partition('e')[2] or 0}")
    return len(mantissas[0]) == len(mantissas[1]) and abs(float(page) - float(fresh)) <= 1.01 * unit * exponent


def assert_written(page: list[tables.Row], fresh: list[tables.Row]) -> None:
    """The rows say the same."""
    assert [len(row) for row in page] == [len(row) for row in fresh]
    for written, row in zip(page, fresh, strict=True):
        assert all(alike(*pair) for pair in zip(written, row, strict=True)), (written, row)
