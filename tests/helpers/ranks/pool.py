"""Processes that run a function together, each as one rank of a group, for tests.

They are started when first needed, and kept. A job is a function at the top level of a module, called on every rank of
the size asked for with a group of just these; what it returns comes back from all of them, and what it raises is raised
here. After a job that has raised, has not come to its end or has lost a process, nobody knows what the others still
wait for: all are ended, and the next job gets new ones.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hypothesis import settings
from ranks import pace

MOST = 4
LOADED = [
    "torch",
    "torch.distributed",
    "safetensors.torch",
    "parareal",
    "strategies",
    "ranks.faults",
    "ranks.jobs",
    "ranks.states",
]


def context() -> multiprocessing.context.ForkServerContext:
    """Makes processes, from one that has loaded what takes long to load."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(LOADED)
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    return made


def serve(rank: int, most: int, store: str, pipe: Connection, line: Connection, limit: float) -> None:
    """What each process does until it is told to end."""
    os.setpgrp()  # Ctrl-C in a terminal is for the tests, which end their processes themselves
    pace.ends_with(line)
    os.environ[pace.GIVEN] = str(limit)
    import faulthandler

    import profiles  # noqa: F401
    import torch
    import torch.distributed as dist
    from hypothesis import core

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does
    patience = timedelta(seconds=limit)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=most, timeout=patience)
    groups = {size: dist.new_group(list(range(size)), timeout=patience) for size in range(1, most + 1)}
    pipe.send((True, None))  # at work
    with contextlib.suppress(EOFError):
        while (job := pipe.recv()) is not None:
            size, fn, args, seed = job
            try:
                torch.manual_seed(0)
                core.global_force_seed = seed  # under profiles that look for new examples: the same on all ranks
                pipe.send((True, fn(groups[size], *args)))
            except BaseException as error:
                pipe.send((False, f"rank {rank}: {''.join(traceback.format_exception(error))}"))
    dist.destroy_process_group()


class Pool:
    """The processes, so many at most."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, size: int, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``fn(group, *args)`` returns on each of ``size`` ranks."""
        try:
            if not self._processes or not all(process.is_alive() for process in self._processes):
                self._start()
                self._answers(self.most)
            seed = random.getrandbits(64)
            for pipe in self._pipes[:size]:
                pipe.send((size, fn, args, seed))
            answers = self._answers(size)
            failed = [text for good, text in answers if not good]
            if failed:
                raise AssertionError("\n".join(failed))
        except BaseException:  # Ctrl-C and a test's own time limit as well
            self.kill()
            raise
        return [value for _, value in answers]

    def _answers(self, size: int) -> list[tuple[bool, Any]]:
        """What has come from all ranks."""
        # Twice the time after which a run gives its other ranks up: what it then has to say is worth hearing.
        answers: dict[int, tuple[bool, Any]] = {}
        examples = max(1.0, settings().max_examples / 15)  # a job tries more under profiles that take more
        deadline, pipes = pace.Deadline(2.0 * examples), self._pipes[:size]
        while len(answers) < size:
            missing = [pipe for rank, pipe in enumerate(pipes) if rank not in answers]
            ready = wait(missing, timeout=deadline.left)
            if not ready and not deadline.left:
                for process in self._processes[:size]:
                    os.kill(process.pid or 0, signal.SIGUSR1)
                    time.sleep(0.5)
                ranks = [rank for rank in range(size) if rank not in answers]
                raise TimeoutError(f"ranks {ranks} have not answered for {deadline.limit:.0f} s: a deadlock")
            for rank, pipe in enumerate(pipes):
                if pipe not in ready:
                    continue
                try:
                    answers[rank] = pipe.recv()
                except (EOFError, OSError):
                    self._processes[rank].join(1.0)
                    code, heard = self._processes[rank].exitcode, [text for good, text in answers.values() if not good]
                    text = "\n".join([f"rank {rank} died in the midst of the job, exit code {code}", *heard])
                    raise AssertionError(text) from None
        return [answers[rank] for rank in range(size)]

    def _start(self) -> None:
        self.kill()
        make = context()
        self._folder = tempfile.TemporaryDirectory()
        store = str(Path(self._folder.name) / "store")
        limit = pace.limit()
        for rank in range(self.most):
            here, there = make.Pipe()
            target = partial(serve, rank, self.most, store, there, pace.lifeline(), limit)
            process = make.Process(target=target, daemon=True)
            process.start()
            there.close()  # so that the end of the process is seen here
            self._processes.append(process)
            self._pipes.append(here)

    @property
    def pids(self) -> list[int]:
        """Of the processes that are there."""
        return [process.pid or 0 for process in self._processes]

    def kill(self) -> None:
        """Ends all processes at once."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        self._forget()

    def close(self) -> None:
        """Ends all processes in order."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        until = time.monotonic() + 5.0
        for process in self._processes:
            process.join(max(0.0, until - time.monotonic()))
        self.kill()

    def _forget(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
