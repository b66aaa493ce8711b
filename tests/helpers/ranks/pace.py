"""How long things take on this machine now, and processes that do not outlive the tests.

No limit of a test is a number of seconds: a machine may be slow, or busy with something else. Limits are so many times
what a new Python takes to load torch, which is measured when it is first asked for, and again before anybody is given
up, as the machine may have become busy since.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.connection import Connection

FACTOR = 30.0
LEAST = 60.0
GIVEN = "PARAREAL_TEST_LIMIT"  # to processes that tests start: the limit of whoever has measured

_measured: list[float] = []
_line: list[Connection] = []  # both ends, of which nobody else has the second


def measure() -> float:
    """Seconds until a new Python has loaded torch, just now."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True, capture_output=True)
    _measured.append(time.perf_counter() - began)
    return _measured[-1]


def limit() -> float:
    """Seconds after which something that takes a few seconds on an idle machine is given up on this one."""
    if GIVEN in os.environ:
        return float(os.environ[GIVEN])
    return max(LEAST, FACTOR * max(_measured or [measure()]))


class Deadline:
    """A limit for one thing, in the units of `limit`; it grows if the machine turns out to have become slower."""

    def __init__(self, limits: float = 1.0) -> None:
        self._began, self._limits, self.limit = time.monotonic(), limits, limits * limit()

    @property
    def left(self) -> float:
        """Seconds left; 0 when the time is up, and the machine is not to blame."""
        left = self.limit - (time.monotonic() - self._began)
        if left <= 0:
            measure()
            self.limit = self._limits * limit()
            left = self.limit - (time.monotonic() - self._began)
        return max(0.0, left)


def lifeline() -> Connection:
    """What breaks when the tests end, however they do; for `ends_with`."""
    if not _line:
        _line.extend(multiprocessing.Pipe(duplex=False))
    return _line[0]


def ends_with(line: Connection) -> None:
    """This process is gone as soon as the tests are: whoever has started it may live as long as it does."""

    def wait() -> None:
        with contextlib.suppress(EOFError, OSError):
            line.recv()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def kill(pids: Iterable[int]) -> None:
    """Ends processes, and all that these have started, at once."""
    for pid in _with_children(pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _with_children(pids: Iterable[int]) -> list[int]:
    out = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], check=True, capture_output=True, text=True).stdout
    children: dict[int, list[int]] = {}
    for line in out.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    found = list(pids)
    for pid in found:  # which grows on the way
        found += children.get(pid, [])
    return found


def run(command: Sequence[str], environ: Mapping[str, str], limits: float = 1.0) -> subprocess.CompletedProcess[str]:
    """A command with its output; whatever happens, nothing of it is running afterwards."""
    deadline = Deadline(limits)
    with subprocess.Popen(
        [sys.executable, __file__, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environ, GIVEN: str(limit())},
    ) as process:
        try:
            while True:
                try:
                    out, errors = process.communicate(timeout=max(deadline.left, 0.01))
                    return subprocess.CompletedProcess(command, process.returncode, out, errors)
                except subprocess.TimeoutExpired:
                    if not deadline.left:
                        raise
        finally:
            if process.poll() is None:
                kill([process.pid])


def _supervise(command: Sequence[str]) -> int:
    """Runs the command, and ends it, with all that it has started, when the tests that wait for it are gone."""
    parent, process = os.getppid(), subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while True:
        try:
            return process.wait(0.2)
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                kill([process.pid])
                return 1


if __name__ == "__main__":
    sys.exit(_supervise(sys.argv[1:]))
