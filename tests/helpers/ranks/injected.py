"""Jobs of ranks into which faults are injected, and what must come of each."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks import pace
from ranks.pool import Pool, context
from ranks.states import SIGNALS, Fault, Visits, run

import parareal as pr

ENDED_LATE = ("status awaited", "any moment")
"""A rank that is lost in these states may have sent its last message: then the others end in order."""
NAMES = {"SIGTERM": "SystemExit", "SIGINT": "KeyboardInterrupt"}


@dataclass(frozen=True)
class End:
    """How a run ended on one rank.

    Attributes:
        name: The class of what it raised; empty where it raised nothing.
        text: Its text.
        at: When, by the clock of the machine.
        fault: When the fault happened on this rank; 0 where it did not.
        again: What went wrong with the run after it; empty if nothing did.
    """

    name: str
    text: str
    at: float
    fault: float = 0.0
    again: str = ""


@dataclass
class Outcome:
    """What came of a fault.

    Attributes:
        fault: The fault.
        happened: Whether its victim came to the state.
        wrong: What is wrong with the ends of the ranks; empty if nothing is.
        hangs: Ranks that did not end.
        seconds: From the fault to the end of the last rank that was left.
        timeout: After how many a rank that is stopped should count as lost.
        ends: Those of all ranks; ``None`` for one that is gone.
    """

    fault: Fault
    happened: bool = False
    wrong: str = ""
    hangs: list[int] = field(default_factory=list[int])
    seconds: float = 0.0
    timeout: float = 0.0
    ends: list[End | None] = field(default_factory=list["End | None"])


def _ended(call: Callable[[], Any]) -> tuple[str, str]:
    try:
        call()
    except BaseException as error:
        try:
            return type(error).__name__, str(error)
        except Exception:
            return type(error).__name__, ""
    return "", ""


def _undisturbed(group: Any, fault: Fault, path: Path | None, timeout: float) -> tuple[pr.Solution, Visits, float]:
    visits, began = Visits(dist.get_rank(group)), time.monotonic()
    return run(group, fault, visits, path, timeout), visits, time.monotonic() - began


def _disturbed(
    group: Any, fault: Fault, path: Path | None, timeout: float, usual: Visits, lasts: float, before: Callable[[], None]
) -> End:
    visits = Visits(dist.get_rank(group), fault, usual.count, before, fault.seed)
    visits.lasts(lasts)
    name, text = _ended(lambda: run(group, fault, visits, path, timeout))
    return End(name, text, time.monotonic(), visits.when)


# --- faults after which the group works again ----------------------------------------------------------------------


def soft_rank(group: Any, fault: Fault, timeout: float) -> End:
    """One rank of a pool: a run without fault, one with it, and one that must be as the first."""
    with tempfile.TemporaryDirectory() as made:
        names: list[Any] = [made]
        dist.broadcast_object_list(names, group_src=0, group=group)
        shared = Path(names[0])
        first, path = (shared / "first.file", shared / "run.file") if fault.kept else (None, None)
        undisturbed, usual, lasts = _undisturbed(group, fault, first, timeout)
        end = _disturbed(group, fault, path, timeout, usual, lasts, lambda: None)
        again = ""
        try:
            solution, _, _ = _undisturbed(group, fault, path, timeout)
            torch.testing.assert_close(solution.us, undisturbed.us, rtol=1e-12, atol=0.0)
            assert solution.iterations == undisturbed.iterations == len(solution.history)
            handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
            assert handlers == [signal.SIG_DFL, signal.default_int_handler]
        except BaseException:
            again = traceback.format_exc()
        dist.barrier(group)
        return End(end.name, end.text, end.at, end.fault, again)


def visited(group: Any, fault: Fault, timeout: float) -> dict[str, int]:
    """How often a rank comes to each state in a run without fault."""
    with tempfile.TemporaryDirectory() as made:
        names: list[Any] = [made]
        dist.broadcast_object_list(names, group_src=0, group=group)
        _, usual, _ = _undisturbed(group, fault, Path(names[0]) / "run.file" if fault.kept else None, timeout)
        dist.barrier(group)
        return usual.count


def soft(pool: Pool, fault: Fault) -> Outcome:
    """An exception or signal, on the ranks of a pool."""
    outcome = Outcome(fault)
    try:
        outcome.ends = pool.run(fault.size, soft_rank, fault, 10 * pace.limit())
    except TimeoutError as error:
        outcome.hangs, outcome.wrong = list(range(fault.size)), str(error)
        return outcome
    except AssertionError as error:
        outcome.wrong = str(error)
        return outcome
    _judge(outcome)
    return outcome


# --- faults after which it does not ---------------------------------------------------------------------------------


def hard_rank(
    fault: Fault, folder: Path, timeout: float, limit: float, pipe: Connection, line: Connection, rank: int
) -> None:
    """One process: it reports how the run ends, and stays until it is told to go, as a user's script may."""
    os.setpgrp()
    pace.ends_with(line)
    torch.set_num_threads(1)
    os.dup2(os.open(folder / f"output-{rank}", os.O_WRONLY | os.O_CREAT), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    faulthandler.register(signal.SIGUSR1)  # where it hangs, if it does
    patience = timedelta(seconds=10 * limit)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=fault.size, timeout=patience)
    group = dist.group.WORLD
    first, path = (folder / "first.file", folder / "run.file") if fault.kept else (None, None)
    _, usual, lasts = _undisturbed(group, fault, first, 10 * limit)
    end = _disturbed(group, fault, path, timeout, usual, lasts, lambda: pipe.send(time.monotonic()))
    pipe.send(end)
    with contextlib.suppress(EOFError):
        pipe.recv()
    dist.destroy_process_group()


def hard(fault: Fault, timeout: float | None = None) -> Outcome:
    """A fault that ends or stops its victim, on processes of its own; ``timeout`` is that of the group."""
    outcome, limit = Outcome(fault), pace.limit()
    # Whoever waits for the time limit of the group, though there is no reason to, has not ended in time.
    timeout = (2.0 + limit / 100.0 if fault.kind == "stopped" else 10 * limit) if timeout is None else timeout
    outcome.timeout = timeout if fault.kind == "stopped" else 0.0
    with tempfile.TemporaryDirectory() as folder:
        processes, pipes = _started(fault, Path(folder), timeout, limit)
        try:
            _hear(outcome, processes, pipes)
            if not outcome.hangs:
                _let_go(outcome, processes, pipes)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.join()
            for pipe in pipes:
                pipe.close()
        outputs = [(Path(folder) / f"output-{rank}") for rank in range(fault.size)]
        said = [path.read_text(errors="replace") for path in outputs if path.exists()]
    if outcome.hangs or outcome.wrong:
        outcome.wrong = "\n".join([outcome.wrong, *said])
    return outcome


def _started(fault: Fault, folder: Path, timeout: float, limit: float) -> tuple[list[BaseProcess], list[Connection]]:
    make, processes, pipes = context(), [], []
    for rank in range(fault.size):
        here, there = make.Pipe()
        args = (fault, folder, timeout, limit, there, pace.lifeline(), rank)
        process: BaseProcess = make.Process(target=hard_rank, args=args, daemon=True)
        process.start()
        there.close()
        processes.append(process)
        pipes.append(here)
    return processes, pipes


def _hear(outcome: Outcome, processes: list[BaseProcess], pipes: list[Connection]) -> None:
    fault = outcome.fault
    ends: dict[int, End | None] = {}
    happened = 0.0
    deadline = pace.Deadline()

    def hear(ranks: list[int]) -> None:
        nonlocal happened
        while any(rank not in ends for rank in ranks):
            missing = [rank for rank in range(fault.size) if rank not in ends]
            ready = wait([pipes[rank] for rank in missing], deadline.left)
            if not ready and not deadline.left:
                return
            for rank in sorted(missing, key=lambda rank: rank != fault.victim):  # what it says comes before its fault
                if pipes[rank] not in ready:
                    continue
                try:
                    heard = pipes[rank].recv()
                except (EOFError, OSError):
                    ends[rank] = None
                    continue
                if isinstance(heard, End):
                    ends[rank] = heard
                else:
                    happened = heard

    others = [rank for rank in range(fault.size) if rank != fault.victim]
    hear(others)
    outcome.hangs = [rank for rank in others if rank not in ends]
    if fault.kind == "stopped":
        os.kill(processes[fault.victim].pid or 0, signal.SIGCONT)
    if not outcome.hangs:
        deadline = pace.Deadline()
        hear([fault.victim])
        outcome.hangs = [rank for rank in range(fault.size) if rank not in ends]
    for rank in outcome.hangs:
        os.kill(processes[rank].pid or 0, signal.SIGUSR1)
        time.sleep(0.5)
    outcome.ends = [ends.get(rank) for rank in range(fault.size)]
    last = [end.at for rank, end in ends.items() if end is not None and rank != fault.victim]
    outcome.happened, outcome.seconds = happened > 0, max(last, default=0.0) - happened if happened else 0.0
    if not outcome.hangs:
        _judge(outcome)


def _let_go(outcome: Outcome, processes: list[BaseProcess], pipes: list[Connection]) -> None:
    """All that are left come to their end, which a thread that waits for a lost rank could prevent."""
    deadline = pace.Deadline()
    for pipe in pipes:
        with contextlib.suppress(OSError):
            pipe.send(None)
    while (left := [process for process in processes if process.exitcode is None]) and deadline.left:
        wait([process.sentinel for process in left], deadline.left)
    outcome.hangs = [rank for rank, process in enumerate(processes) if process.exitcode is None]


# --- what must come -------------------------------------------------------------------------------------------------


def _judge(outcome: Outcome) -> None:
    """Fills in what is wrong."""
    fault, ends = outcome.fault, outcome.ends
    if not fault.hard:
        happened = [end.fault for end in ends if end is not None and end.fault]
        outcome.happened = bool(happened)
        if happened:
            outcome.seconds = max(end.at for end in ends if end is not None) - happened[0]
    wrong = [f"rank {rank}, the run after it: {end.again}" for rank, end in enumerate(ends) if end and end.again]
    names = [None if end is None else end.name for end in ends]
    if not outcome.happened:
        # On a machine that is busy enough a rank may seem to be lost before the fault, where little time is allowed.
        if any(name not in (("", "RankError") if fault.kind == "stopped" else ("",)) for name in names):
            wrong.append(f"without a fault, the ranks ended with {names}")
    else:
        own, others = names[fault.victim], names[: fault.victim] + names[fault.victim + 1 :]
        judge = _lost if fault.hard else _signalled if fault.kind in SIGNALS else _raised
        if said := judge(fault, own, others, [end for end in ends if end is not None]):
            wrong.append(f"{said}: {names}")
        if outcome.timeout and outcome.seconds > outcome.timeout + pace.limit() / 10:
            wrong.append(f"the other ranks have ended {outcome.seconds:.1f} s after the fault")
    if wrong:
        wrong += [f"rank {rank}: {end}" for rank, end in enumerate(ends)]
    outcome.wrong = "\n".join(wrong)


def _raised(fault: Fault, own: str | None, others: list[str | None], ends: list[End]) -> str:
    if own != fault.error:
        return f"expected {fault.error} on rank {fault.victim}"
    if set(others) != {"RankError"}:
        return "expected RankError on the other ranks"
    for rank, end in enumerate(ends):
        if rank != fault.victim:
            words = (f"rank {fault.victim} of {fault.size} raised {fault.error}", "Its traceback:", "in _happen")
            if missing := [word for word in words if word not in end.text]:
                return f"the error of rank {rank} does not say {missing}"
    return ""


def _signalled(fault: Fault, own: str | None, others: list[str | None], ends: list[End]) -> str:
    name = NAMES[fault.kind]
    if own != name:
        return f"expected {name} on rank {fault.victim}"
    if set(others) != {name} and set(others) != {""}:
        return f"expected {name} on all ranks, or none on the others"
    return ""


def _lost(fault: Fault, own: str | None, others: list[str | None], ends: list[End]) -> str:
    if fault.kind == "impatient":
        if own != "KeyboardInterrupt":
            return "expected KeyboardInterrupt where it was sent twice"
        if not set(others) <= {"RankError", "KeyboardInterrupt", ""}:
            return "expected RankError or KeyboardInterrupt on the others"
        return ""
    if fault.kind == "stopped":
        if own not in ("", "RankError"):
            return "expected RankError where it had been stopped"
    elif own is not None:
        return "expected the victim to be gone"
    allowed = {"", "RankError"} if fault.state in ENDED_LATE else {"RankError"}
    if not set(others) <= allowed:
        return f"expected {sorted(allowed)} on the others"
    for end in ends:
        if end.name == "RankError" and "lost the others" not in end.text:
            return f"expected that the others are lost: {end.text[:300]}"
    return ""


def tried(pool: Pool, fault: Fault) -> Outcome:
    """Injects a fault into a job of ranks, and says what came of it."""
    return hard(fault) if fault.hard else soft(pool, fault)


if __name__ == "__main__":  # one fault, for a debugger
    print(tried(Pool(3), eval(sys.argv[1])))
