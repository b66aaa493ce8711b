"""How many operations and synchronisations a round costs outside the network: counted on a pretend device."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import launches

CEILINGS = {
    "default, DDIM": (100, 2),
    "default, DDIM, batch of 4": (110, 2),
    "default, Heun": (100, 2),
    "Picard": (50, 2),
    "SRDS": (75, 2),
    "serial": (12, 1),
}
"""Launches and synchronisations a round: the mean over rounds in the middle of a run."""


@pytest.mark.parametrize("name", CEILINGS)
def test_a_round_costs_no_more_than_this(name: str) -> None:
    row = launches.measure(name, **launches.CASES[name])
    most_launches, most_waits = CEILINGS[name]
    assert row.launches <= most_launches
    assert row.waits <= most_waits
    assert row.rounds > 4  # there is a middle


def test_causes_are_named() -> None:
    row = launches.measure("serial", **launches.CASES["serial"])
    assert any("parareal/" in cause for cause in row.causes["launches"])
