"""Locks that a forked process does not inherit."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager


class ForkSafeLock:
    """A lock for the threads of one process.

    In a forked process there are no other threads, so that nobody is there to release a lock which one of them held.
    """

    def __init__(self) -> None:
        self._lock, self._process = threading.RLock(), os.getpid()

    @property
    def current(self) -> AbstractContextManager[bool]:
        """The lock of this process, which a thread may take again while it holds it."""
        if self._process != os.getpid():
            self._lock, self._process = threading.RLock(), os.getpid()
        return self._lock
