"""Ctrl-C and SIGTERM while a run goes on: it ends in order, with all that was computed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from parareal._core.scopes import scope

_ONE = 1.0
"""Seconds within which a further signal is the same one: launchers pass on what their processes have got as well."""


@scope
def held_back(note: Callable[[int], None]) -> Generator[Callable[[], None]]:
    """SIGINT and SIGTERM are noted instead of raised, so that processes that wait for each other can stop together.

    A second one, a second or more after the first, goes its usual way at once. What was noted and not heeded by the end
    is raised there: KeyboardInterrupt for SIGINT, SystemExit for SIGTERM. It is not sent again, since the usual handler
    of SIGTERM ends the process on the spot, with nothing closed, and that at a moment when all has just been brought to
    an end in order: where the signal came in the last moments of a run, or where the others were lost before they had
    heard of it.

    Args:
        note: Is called with the number of the signal.

    Yields:
        A function that says that what was noted is being heeded.
    """
    noted: list[int] = []
    since = 0.0
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)
        previous.clear()

    def handle(number: int, frame: Any) -> None:
        nonlocal since
        if not since:
            since = time.monotonic()
            noted.append(number)
            note(number)
        elif time.monotonic() - since >= _ONE:
            restore()
            os.kill(os.getpid(), number)

    _install(previous, (signal.SIGINT, signal.SIGTERM), handle)
    ended: BaseException | None = None
    try:
        yield noted.clear
    except BaseException as error:
        ended = error
        raise
    finally:
        restore()
        if noted:
            late = KeyboardInterrupt() if noted[0] == signal.SIGINT else SystemExit(128 + noted[0])
            if hasattr(ended, "solution"):
                late.solution = ended.solution  # pyright: ignore
            raise late


@scope
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
