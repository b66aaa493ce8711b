"""Processes that run a function together, each as one rank of a group, for tests.

They are started once and kept. A job is a function at the top level of a module, called on every rank of the size asked
for with a group of just these; what it returns comes back from all of them, and what it raises is raised here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MOST = 4
PATIENCE = 240.0  # seconds for one job


def serve(rank: int, store: str, pipe: Connection) -> None:
    """What each process does until it is told to end."""
    import faulthandler

    import conftest  # noqa: F401  the profile of Hypothesis, and torch's threads
    import torch
    import torch.distributed as dist

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=MOST)
    groups = {size: dist.new_group(list(range(size)), timeout=timedelta(seconds=60)) for size in range(1, MOST + 1)}
    while (job := pipe.recv()) is not None:
        size, fn, args = job
        try:
            torch.manual_seed(0)
            pipe.send((True, fn(groups[size], *args)))
        except BaseException as error:
            pipe.send((False, f"rank {rank}: {''.join(traceback.format_exception(error))}"))
    dist.destroy_process_group()


class Pool:
    """The processes."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        pipes = [context.Pipe() for _ in range(MOST)]
        store = str(Path(self._folder.name) / "store")
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
        self._processes = [
            context.Process(target=partial(serve, rank, store, pipe[1]), daemon=True) for rank, pipe in enumerate(pipes)
        ]
        self._pipes = [pipe[0] for pipe in pipes]
        for process in self._processes:
            process.start()

    def run(self, size: int, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``fn(group, *args)`` returns on each of ``size`` ranks."""
        for pipe in self._pipes[:size]:
            pipe.send((size, fn, args))
        answers = []
        for rank, pipe in enumerate(self._pipes[:size]):
            if not pipe.poll(self.patience):
                for process in self._processes[:size]:
                    os.kill(process.pid or 0, signal.SIGUSR1)
                    time.sleep(0.5)
                self.close()
                raise TimeoutError(f"rank {rank} has not answered for {self.patience} s: a deadlock")
            answers.append(pipe.recv())
        failed = [text for good, text in answers if not good]
        if failed:
            raise AssertionError("\n".join(failed))
        return [value for _, value in answers]

    def close(self) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
        self._folder.cleanup()
