"""Ctrl-C and SIGTERM while a run goes on: it ends in order, with all that was computed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def held_back(note: Callable[[int], None]) -> Generator[Callable[[], None]]:
    """SIGINT and SIGTERM are noted instead of raised, so that processes that wait for each other can stop together.

    A second one goes its usual way at once. What was noted and not heeded by the end is sent again.

    Args:
        note: Is called with the number of the signal.

    Yields:
        A function that says that what was noted is being heeded.
    """
    noted: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)
        previous.clear()

    def handle(number: int, frame: Any) -> None:
        if noted:
            restore()
            os.kill(os.getpid(), number)
            return
        noted.append(number)
        note(number)

    _install(previous, (signal.SIGINT, signal.SIGTERM), handle)
    try:
        yield noted.clear
    finally:
        restore()
        if noted:
            os.kill(os.getpid(), noted[0])


@contextmanager
def raising() -> Generator[None]:
    """SIGTERM raises SystemExit, as SIGINT raises KeyboardInterrupt: what is open can be closed."""
    previous: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    _install(previous, (signal.SIGTERM,), handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _install(previous: dict[int, Any], numbers: tuple[int, ...], handle: Callable[[int, Any], None]) -> None:
    """Takes the place of usual handlers; those of somebody else are left alone, and other threads can have none."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in numbers:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            previous[number] = signal.signal(number, handle)
