"""Ctrl-C and SIGTERM during a run: it ends in order, with all that was computed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from parareal._core.scopes import scope

_ONE = 1.0
"""Seconds within which a second signal counts as the same one: launchers forward signals that their processes have
received as well. A choice."""


@scope
def held_back(note: Callable[[int], None]) -> Generator[Callable[[], None]]:
    """SIGINT and SIGTERM are recorded instead of raised, so that processes that wait for each other can stop together.

    A second signal, a second or more after the first, is handled as usual at once. A recorded signal that was not
    handled during the run is raised at the end: KeyboardInterrupt for SIGINT, SystemExit for SIGTERM. It is not sent
    again, because the usual handler of SIGTERM would end the process at once and close nothing.

    Args:
        note: Called with the number of the signal.

    Yields:
        A function to call when the recorded signal is being handled.
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
    """SIGTERM raises SystemExit, as SIGINT raises KeyboardInterrupt, so that open resources are closed."""
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
    """Replaces the usual handlers. Handlers set by other code stay, and only the main thread can have any."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in numbers:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            previous[number] = signal.signal(number, handle)
