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
def held_back(note: Callable[[int], None], at_once: Callable[[], None]) -> Generator[Callable[[], None]]:
    """SIGINT and SIGTERM are recorded instead of raised, so that processes that wait for each other can stop together.

    One SIGINT that comes a second or more after the first signal is handled as usual at once. SIGTERM never is, however
    often it comes, because its usual handler ends the process and closes nothing: on a busy machine a launcher may
    forward it late, and one that will not wait sends SIGKILL. A recorded signal that was not handled during the run
    is raised at the end: KeyboardInterrupt for SIGINT, SystemExit for SIGTERM.

    Args:
        note: Called with the number of the signal.
        at_once: Called before a signal is handled at once, whatever the run is doing.

    Yields:
        A function to call when the recorded signal is being handled.
    """
    noted: list[int] = []
    since = 0.0
    previous: dict[int, Any] = {}

    def handle(number: int, frame: Any) -> None:
        nonlocal since
        if not since:
            since = time.monotonic()
            noted.append(number)
            note(number)
        elif number == signal.SIGINT and time.monotonic() - since >= _ONE:
            at_once()
            _restore(previous)
            os.kill(os.getpid(), number)

    ended: BaseException | None = None
    try:
        _install(previous, (signal.SIGINT, signal.SIGTERM), handle)
        yield noted.clear
    except BaseException as error:
        ended = error
        raise
    finally:
        _restore(previous)
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

    try:
        _install(previous, (signal.SIGTERM,), handle)
        yield
    finally:
        _restore(previous)


def _install(previous: dict[int, Any], numbers: tuple[int, ...], handle: Callable[[int, Any], None]) -> None:
    """Replaces the usual handlers. Handlers set by other code stay, and only the main thread can have any."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in numbers:
        usual = signal.getsignal(number)
        if usual in (signal.SIG_DFL, signal.default_int_handler):
            previous[number] = usual  # before the handler is there, which may raise at once
            signal.signal(number, handle)


def _restore(previous: dict[int, Any]) -> None:
    """Puts the usual handlers back: that of SIGINT last, which may raise from then on."""
    for number in sorted(previous, reverse=True):
        if number in previous:  # a signal may have restored it in between
            signal.signal(number, previous[number])
    previous.clear()
