"""The clock of the experiments: wall time, or on a machine that others use too the time of this process alone.

The second is processor time and stated waits: a network that waits is then not waited for, only the account is kept.
With one thread and an idle machine both say the same.
"""

from __future__ import annotations

import time


class Clock:
    """Set ``wall`` to choose."""

    def __init__(self) -> None:
        self.wall = True
        self._waited = 0.0

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter() if self.wall else time.process_time() + self._waited

    def wait(self, seconds: float) -> None:
        """Let this time pass."""
        if self.wall:
            time.sleep(seconds)
        else:
            self._waited += seconds

    @property
    def name(self) -> str:
        return "wall time" if self.wall else "processor time, and stated waits"


CLOCK = Clock()
