"""The states of a rank's protocol, and faults in each of them.

A state is a place in the code at which a rank is in it: a user's function, or a step of the exchange between ranks. A
fault is injected as its victim comes to that place for the n-th time.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from ranks.jobs import plain
from torch import Tensor

import parareal as pr
from parareal._core import signals
from parareal.distributed import _block_engine, _exchange, _lane_parallel, _mailbox, _process_group, _round_messages
from parareal.persistence import _checkpoint
from parareal.results import _tensor_file

STOP = pr.Tolerance(0.0, 0.0, rule="defect")  # as many iterations as slices
_Engine, _Link = _block_engine.BlockEngine, _process_group.Link

USERS: dict[str, tuple[Any, str] | None] = {
    "right-hand side": None,
    "callback": None,
    "correction": (pr.Coarse, "difference"),
    "correction, bound": (pr.Coarse, "bind"),
    "correction, first guess": (pr.Coarse, "guess"),
    "stopping rule, beginning": (pr.Tolerance, "begin"),
    "stopping rule, measuring": (pr.Tolerance, "measure"),
    "stopping rule, deciding": (pr.Tolerance, "decide"),
    "checkpoint read": (_checkpoint.Checkpoint, "_read"),
    "checkpoint written": (_tensor_file, "save"),
}
"""States in which code of the user runs, or something fails that is the user's: an exception may be raised there."""

COMMON: dict[str, tuple[Any, str] | None] = {
    "any moment": None,
    "joining": (_lane_parallel, "compare"),
    "status sent": (_Link, "ask"),
    "status awaited": (_Link, "heard"),
    "objects exchanged": (_Link, "all"),
    "object of rank 0": (_Link, "shared"),
    "states gathered": (_Link, "gather"),
}
LANES: dict[str, tuple[Any, str] | None] = {
    **COMMON,
    "lanes expected": (_exchange.Swap, "__init__"),
    "lanes sent": (_exchange.Swap, "give"),
    "lanes awaited": (_round_messages.Mail, "end"),
    "figures of rank 0": (_Link, "same"),
}
BLOCKS: dict[str, tuple[Any, str] | None] = {
    **COMMON,
    "mailbox opened": (_mailbox.Mailbox, "__init__"),
    "message sent": (_mailbox.Mailbox, "send"),
    "message taken": (_mailbox.Mailbox, "take"),
    "boundary received": (_Engine, "_receive"),
    "boundary and figures sent": (_Engine, "_report"),
    "decision sent": (_Engine, "_announce"),
    "decision taken": (_Engine, "_obey"),
    "all collected": (_Engine, "together"),
    "finishing": (_Engine, "finish"),
    "mailbox closed": (_mailbox.Mailbox, "close"),
}
GATHERED: dict[str, tuple[Any, str] | None] = {**COMMON, "figures of rank 0": (_Link, "same")}
STATES = {"lanes": USERS | LANES, "gathered lanes": USERS | GATHERED, "blocks": USERS | BLOCKS}
"""The ways to split a run; lanes are gathered, and not sent as messages, where there are many ranks."""

WITH_CHECKPOINT = ("checkpoint read", "checkpoint written", "object of rank 0")
ON_RANK_0 = {"lanes": ("checkpoint read", "checkpoint written")}
ON_RANK_0["gathered lanes"] = ON_RANK_0["lanes"]
ON_RANK_0["blocks"] = (*ON_RANK_0["lanes"], "stopping rule, deciding", "decision sent")
ON_OTHERS = ("decision taken",)

SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
HARD = ("killed", "gone", "stopped", "impatient")
"""After these the group cannot be used: its victim is killed, ends its process, does not answer any more, or is left at
once, as after a second Ctrl-C."""
KINDS = ("raises", *SIGNALS, *HARD)


class TroubleError(Exception):
    """What is raised."""


class StubbornError(Exception):
    """One that takes no attributes and has no text."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("__"):  # those that contexts of the standard library set
            raise AttributeError(name)

    def __str__(self) -> str:
        raise RuntimeError("no text")


class NoExceptionError(BaseException):
    """One that `except Exception` does not see, with something that cannot be sent to another process."""

    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())


class OddError(ValueError):
    """One whose text cannot be written in UTF-8."""

    def __init__(self, text: str) -> None:
        super().__init__(text + " \ud800")


def _endless(text: str) -> None:
    _endless(text)


def _stop(text: str) -> None:
    raise StopIteration(text)


def _exit(text: str) -> None:
    sys.exit(3)


RAISED: dict[str, Callable[[str], Any]] = {
    "TroubleError": TroubleError,
    "StubbornError": StubbornError,
    "NoExceptionError": NoExceptionError,
    "OddError": OddError,
    "SystemExit": _exit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "MemoryError": MemoryError,
    "RecursionError": _endless,
    "OSError": OSError,
    "RuntimeError": RuntimeError,
    "TimeoutError": TimeoutError,
    "AssertionError": AssertionError,
}
"""Exceptions by name: a class to be raised, or a function that raises one."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        way: A key of `STATES`.
        size: How many ranks there are.
        victim: Which of them has it.
        state: The state that it is in.
        kind: What happens, one of `KINDS`.
        kept: Whether the run has a checkpoint.
        at: Which visit to the state, as a share of all of a run without fault.
        error: What is raised, a key of `RAISED`.
        slices: Those of the run.
        seed: Of short pauses on all ranks, which change who comes first; 0 for none.
    """

    way: str
    size: int
    victim: int
    state: str
    kind: str
    kept: bool
    at: float = 0.5
    error: str = "TroubleError"
    slices: int = 5
    seed: int = 0

    @property
    def hard(self) -> bool:
        """Whether the group is lost with it."""
        return self.kind in HARD


def everything() -> list[Fault]:
    """Every fault in every state of every rank, with a checkpoint and without; what is left open is drawn."""
    found: list[Fault] = []
    ranks = [(size, victim) for size in (2, 3) for victim in range(size)]
    for (way, states), (size, victim), kind, kept in itertools.product(STATES.items(), ranks, KINDS, (False, True)):
        for state in states:
            if kind == "raises" and state not in USERS:
                continue
            if (state in WITH_CHECKPOINT and not kept) or state in (ON_RANK_0[way] if victim else ON_OTHERS):
                continue
            found.append(Fault(way, size, victim, state, kind, kept))
    return [_drawn(fault, random.Random(number)) for number, fault in enumerate(found)]


def _drawn(fault: Fault, chance: random.Random) -> Fault:
    error = "TroubleError" if chance.random() < 0.3 else chance.choice(list(RAISED))
    slices = chance.choice((1, 2, 3, 5, 5, 7)) if fault.kind == "raises" else chance.choice((2, 3, 5, 7))
    seed = chance.randrange(1, 10**6) if chance.random() < 0.7 else 0
    return replace(fault, at=chance.random(), error=error, slices=slices, seed=seed)


class Visits:
    """Counts how often this rank comes to each state, and lets the fault happen.

    Args:
        rank: This rank.
        fault: The fault to come, on its victim.
        counts: How often each state is visited in a run without fault.
        before: Called just before a fault from which this process may not come back.
    """

    def __init__(
        self,
        rank: int,
        fault: Fault | None = None,
        counts: dict[str, int] | None = None,
        before: Callable[[], None] | None = None,
        pauses: int = 0,
    ) -> None:
        self.rank, self.fault, self.before = rank, fault if fault and fault.victim == rank else None, before
        self.count: dict[str, int] = {}
        self.done, self.when = False, 0.0
        self._chance = random.Random(pauses * 10 + rank) if pauses else None
        self._main = threading.main_thread()
        self._timer: threading.Thread | None = None
        self._takes: float | None = None
        self._ending, self._over, self._restore = threading.RLock(), False, signals._restore
        often = (counts or {}).get(fault.state, 0) if fault else 0
        # What is visited often is visited as often as messages are waited for: not always the same number of times.
        self._when = 1 + int(fault.at * (often if often < 10 else 0.8 * often)) if fault else 0

    def __call__(self, state: str) -> None:
        if threading.current_thread() is not self._main:
            return
        self.count[state] = self.count.get(state, 0) + 1
        if self._chance is not None and self._chance.random() < 0.05:
            time.sleep(self._chance.uniform(0.0, 0.01))
        fault = self.fault
        if fault is None or self.done:
            return
        if fault.state == "any moment":
            if self._timer is None and self._takes is not None:
                self._timer = threading.Thread(target=self._later, args=(fault.at * self._takes,), daemon=True)
                self._timer.start()
        elif state == fault.state and self.count[state] == self._when:
            self._happen(fault)

    def lasts(self, seconds: float) -> None:
        """Tells how long a run without fault takes, for a fault at any moment of it."""
        self._takes = seconds

    def _later(self, seconds: float) -> None:
        assert self.fault is not None
        time.sleep(seconds)
        with self._ending:
            if not self._over:
                self._happen(self.fault)

    def _restored(self, previous: dict[int, Any]) -> None:
        """In place of the end of the run's own handlers: after it, a signal would not come to the run."""
        with self._ending:
            self._over = self._over or bool(previous)
        self._restore(previous)

    def _happen(self, fault: Fault) -> None:
        self.done, self.when = True, time.monotonic()
        if fault.kind == "raises":
            made = RAISED[fault.error](f"on rank {self.rank}")
            raise made
        if self.before is not None:
            self.before()
        if fault.kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[fault.kind])
        elif fault.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "gone":
            os._exit(7)
        elif fault.kind == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.kind == "impatient":
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    @contextmanager
    def watched(self, way: str) -> Iterator[None]:
        """Sees all visits to what is patched."""
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(signals, "_restore", self._restored))
            for state, where in STATES[way].items():
                if where is not None:
                    owner, name = where
                    stack.enter_context(mock.patch.object(owner, name, self._seen(state, getattr(owner, name))))
            yield

    def _seen(self, state: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def seen(*args: Any, **options: Any) -> Any:
            self(state)
            return real(*args, **options)

        return seen


def run(
    group: Any, fault: Fault, visits: Visits, path: Path | None, timeout: float, again: bool = False
) -> pr.Solution:
    """The run in which the fault happens."""

    def f(t: Tensor, u: Tensor) -> Tensor:
        visits("right-hand side")
        return torch.cos(t)[:, None] * u - 0.3 * u**3

    ways: dict[str, dict[str, Any]] = {
        "lanes": {"executor": pr.Distributed(group, timeout=timeout)},
        "gathered lanes": {"executor": pr.Distributed(group, timeout=timeout)},
        "blocks": {"schedule": pr.RankPipeline(group, timeout=timeout)},
    }
    # Not how busy the machine is decides whether a second signal is another one.
    one = -1.0 if fault.kind == "impatient" else float("inf")
    few = 1 if fault.way == "gathered lanes" else 8
    with (
        visits.watched(fault.way),
        mock.patch.object(signals, "_ONE", one),
        mock.patch.object(_exchange, "_FEW", few),
    ):
        return plain(
            pr.ODE(f, batching="native"),
            grid=pr.TimeGrid.uniform(0.0, 3.0, slices=fault.slices, steps=2),
            fine=pr.Heun(),
            stop=STOP,
            checkpoint=path,
            callback=lambda report: visits("callback"),
            **ways[fault.way],
        )
