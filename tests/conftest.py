"""Settings shared by all tests: Hypothesis profiles, torch's threads, and how much of exhaustive sweeps is run.

The profile ``ci`` is the default: few examples, always the same, and of every sweep a sample. ``nightly`` and
``thorough`` look for new examples and run all there is: ``make nightly``, or ``HYPOTHESIS_PROFILE=thorough``.

A test with the mark ``sweep(n)`` has more parameters than need be tried each time: of their combinations n x `SHARE`
are drawn, always the same, in which every value of every parameter occurs, if n allows it. One with the mark
``nightly`` is left out. Whoever asks for a test by name, as in ``tests/engine/test_laws.py::test_one`` or with ``-k``,
gets all of it.
"""

import gc
import random
import time
from collections.abc import Generator

import matplotlib
import pytest
from profiles import PROFILE

matplotlib.use("Agg")
SHARE = 0.2
"""Of the combinations that tests ask for with the mark ``sweep``: all of them in a nightly run."""
collect_ignore = ["helpers"]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests, and all they import, are no garbage and not looked through for any, now or in each test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 20)
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if PROFILE != "ci" or config.getoption("keyword") or any("::" in argument for argument in config.args):
        return
    left_out = {item for item in items if item.get_closest_marker("nightly")}
    sweeps: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sweep") and item not in left_out:
            sweeps.setdefault(item.nodeid.split("[")[0], []).append(item)
    for name, combinations in sweeps.items():
        mark = combinations[0].get_closest_marker("sweep")
        assert mark is not None
        count = max(1, round(mark.args[0] * SHARE))
        left_out |= set(combinations) - set(sample(combinations, count, name))
    config.hook.pytest_deselected(items=sorted(left_out, key=lambda item: item.nodeid))
    items[:] = [item for item in items if item not in left_out]


def sample(combinations: list[pytest.Item], count: int, seed: str) -> list[pytest.Item]:
    """So many of the combinations; those first that have a value which none before has."""
    rest, chosen, seen = random.Random(seed).sample(combinations, len(combinations)), [], set()
    while rest and len(chosen) < count:
        best = max(rest, key=lambda item: len(_values(item) - seen))
        rest.remove(best)
        chosen.append(best)
        seen |= _values(best)
    return chosen


def _values(item: pytest.Item) -> set[tuple[int, str]]:
    """The values of its parameters, as its name has them."""
    return set(enumerate(item.name.partition("[")[2].rstrip("]").split("-")))


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by 10 us whenever it is looked at, whatever the machine is busy with.

    What waits for it takes as long as it says, and all else next to nothing.
    """
    now = -1e6  # before any time that was taken when classes were made: that of a run counts as nothing

    def look() -> float:
        nonlocal now
        now += 1e-5
        return now

    monkeypatch.setattr(time, "perf_counter", look)
