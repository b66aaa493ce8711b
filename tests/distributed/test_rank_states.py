"""Every fault in every state of a rank's protocol: all ranks end, within seconds, and say what has happened."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from profiles import PROFILE
from ranks import injected, states
from ranks.pool import Pool

from parareal._core import signals

pytestmark = pytest.mark.xdist_group("ranks")  # one pool of processes, not one for each worker

EVERYTHING = states.everything()
VICTIMS = [(size, victim) for size in (2, 3) for victim in range(size)]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(3)
    yield made
    made.close()


@pytest.mark.parametrize(("size", "victim"), VICTIMS)
@pytest.mark.parametrize("way", list(states.STATES))
@pytest.mark.parametrize("kind", states.KINDS)
@pytest.mark.sweep(24)
def test_all_ranks_end_whatever_happens_to_one_in_whatever_state(
    pool: Pool, kind: str, way: str, size: int, victim: int
) -> None:
    faults = [each for each in EVERYTHING if (each.kind, each.way, each.size, each.victim) == (kind, way, size, victim)]
    if PROFILE == "ci":
        faults = random.Random(f"{kind} {way} {size} {victim}").sample(faults, 1 if kind in states.HARD else 2)
    outcomes = [injected.tried(pool, fault) for fault in faults]
    for outcome in outcomes:
        assert not outcome.hangs, outcome
        assert not outcome.wrong, outcome.wrong
    assert sum(outcome.happened for outcome in outcomes) >= 0.5 * len(outcomes)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("way", list(states.STATES))
def test_every_state_is_one_that_ranks_come_to(pool: Pool, way: str, size: int) -> None:
    fault = states.Fault(way, size, 0, "any moment", "raises", kept=True)
    seen = pool.run(size, injected.visited, fault, 600.0)
    injected_into = {(each.state, each.victim) for each in EVERYTHING if (each.way, each.size) == (way, size)}
    for state, victim in injected_into - {("any moment", rank) for rank in range(size)}:
        assert seen[victim].get(state, 0) > 0, (state, victim)


def test_a_stopped_process_and_a_hang_are_seen_and_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the tests above hold to: a rank that waits for its time limit is found, and all its processes are ended.
    before: list[Any] = []
    started = injected._started

    def noted(*args: Any) -> Any:
        processes, pipes = started(*args)
        before.extend(processes)
        return processes, pipes

    monkeypatch.setattr(injected, "_started", noted)
    monkeypatch.setenv("PARAREAL_TEST_LIMIT", "6")
    outcome = injected.hard(states.Fault("lanes", 2, 1, "callback", "stopped", kept=False), timeout=600.0)
    assert outcome.hangs == [0]
    assert len(before) == 2
    assert all(process.exitcode is not None for process in before)


def _sent(numbers: list[int], noted: list[int]) -> None:
    """Signals to this process during a run of several."""
    with signals.held_back(noted.append, lambda: noted.append(0)):
        for number in numbers:
            os.kill(os.getpid(), number)
        noted.append(-1)


@pytest.fixture
def usual_handlers() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    yield
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("usual_handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_come_again_soon_are_one(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[int] = []
    monkeypatch.setattr(signals, "_ONE", float("inf"))
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt):
        _sent([number] * 3, noted)
    assert noted == [number, -1]


@pytest.mark.usefixtures("usual_handlers")
def test_of_signals_that_come_again_later_only_an_interrupt_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_ONE", -1.0)
    terminated: list[int] = []
    with pytest.raises(SystemExit):  # and the process lives: a launcher on a busy machine may forward them late
        _sent([signal.SIGTERM] * 3, terminated)
    assert terminated == [signal.SIGTERM, -1]
    interrupted: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        _sent([signal.SIGINT] * 2, interrupted)
    assert interrupted == [signal.SIGINT, 0]
