"""One process among those of a run: it exchanges its status and its lanes of a round with the others.

Before every exchange of states each process sends its status, two small numbers on the host. So nobody waits for a
process that has raised: all learn of it at the same point, and all raise.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import kind_of
from parareal._core.scopes import add_note, scope
from parareal._core.trees import State
from parareal.distributed._reports import Report, from_bytes, to_bytes
from parareal.distributed._round_messages import Mail

_FAILED = 1 << 10  # above every number of a signal
_NOBODY = 2414  # tag of messages that nobody sends


class RankError(RuntimeError):
    """Another process of the run has raised, or is lost.

    Attributes:
        rank: Which one, as a rank of the run's group; ``None`` where that is not known.
        solution: The partial `Solution`, if there is any.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        self.rank = rank
        super().__init__(message)


@dataclass(frozen=True)
class Like:
    """Shape and dtype of a tensor of lanes, without their number."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, leaf: Tensor) -> Like:
        """Of leaves ``(L, *state)``."""
        return cls(tuple(leaf.shape[1:]), leaf.dtype)


class Link:
    """This process and the others of its group.

    Args:
        group: A process group, a device mesh of one dimension, or ``None`` for the default group.
        timeout: Seconds after which a process that does not answer counts as lost.
        name: The executor or schedule, for errors.

    Attributes:
        rank: Number of this process in the group.
        size: Number of processes.
        signal: Number of a signal that this process has received and must report; 0 for none.
        sent: Bytes of states sent so far; a state that goes to all others counts once for each.
        control: A group of the same processes for data on the host.
        mail: Messages of the current round.
        over: The others know that this process has raised, or cannot be reached any more.
        gone: They cannot be reached: some process has died, or has not answered in time.
    """

    def __init__(self, group: Any, timeout: float, name: str) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                f"{name} found no process group; expected torch.distributed.init_process_group() before the call, in "
                "a script started by: torchrun --nproc-per-node=2 script.py"
            )
        if hasattr(group, "get_group"):
            if group.ndim != 1:
                raise ValueError(
                    f"{name} came with a device mesh of {group.ndim} dimensions, {group}; expected one of them: "
                    'mesh["time"]'
                )
            group = group.get_group()
        group = dist.group.WORLD if group is None else group
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"{name} came with group={group!r}, {kind_of(group)}, or this process is not in it; expected a "
                'group from torch.distributed.new_group(...) that holds this process, or mesh["time"]'
            )
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)
        self.timeout, self.signal, self.sent = timedelta(seconds=timeout), 0, 0
        self.over, self.gone = False, False
        self.control = _control(group)
        self.mail = Mail(group, self.size)

    # --- status and small objects -----------------------------------------------------------------------------------

    def settle(self, error: BaseException | None = None, flag: bool = False) -> bool:
        """Exchanges the status of all processes; returns whether ``flag`` is set on any.

        Raises:
            RankError: Another process has an ``error``, or is lost.
            KeyboardInterrupt, SystemExit: Some process has received a signal.
            BaseException: ``error`` itself.
        """
        if self.over:
            if error is not None:
                raise error
            return flag
        return self.heard(*self.ask(error, flag), error)

    def ask(self, error: BaseException | None, flag: bool = False) -> tuple[Tensor, Any]:
        """Starts the exchange that `heard` completes."""
        # The largest number wins: a failure outranks a signal, and both outrank success.
        seen = torch.tensor([_FAILED if error is not None else self.signal, flag], dtype=torch.int32)
        if self.size == 1:
            return seen, None
        try:
            return seen, self.begun(dist.all_reduce, seen, dist.ReduceOp.MAX, group=self.control, async_op=True)
        except RankError as lost:
            return seen, lost

    def heard(self, seen: Tensor, work: Any, error: BaseException | None) -> bool:
        """Completes the exchange of `settle`."""
        worst, any_flag, reports = 0, False, []
        try:
            if isinstance(work, RankError):
                raise work
            if work is not None:
                self.wait(work)
            worst, any_flag = seen.tolist()
            reports = self._reports(error) if worst else []
        except RankError as lost:
            if error is None:
                raise
            add_note(error, f"The other processes could not be told: {lost}")
        if error is not None or worst:
            self._raise(worst, error, reports)
        return bool(any_flag)

    def tell(self, error: BaseException) -> None:
        """Reports to the others that this process has raised, if they do not know; ignores their status."""
        if not self.over:
            try:
                self.settle(error)
            except BaseException as answer:
                if answer is not error:
                    add_note(error, f"The other processes could not be told: {answer}")

    def all(self, item: Any) -> list[Any]:
        """Small objects of all processes, in the order of their ranks."""
        with self.unbroken():
            own = to_bytes(item)
            sizes = self._gathered(torch.tensor([len(own)])).tolist()
            padded = torch.zeros(max(sizes), dtype=torch.uint8)
            padded[: len(own)] = own
            raws = self._gathered(padded).reshape(self.size, -1)
            return [from_bytes(raw[:size]) for raw, size in zip(raws, sizes, strict=True)]

    def _gathered(self, own: Tensor) -> Tensor:
        """The tensors of all processes, one after another; of one shape, on the host."""
        whole = own.new_empty(self.size * len(own))
        self.wait(self.begun(_all_gather, whole, own, group=self.control, async_op=True))
        return whole

    def shared(self, raw: Tensor | None) -> Any:
        """An object of the first process, on all; it comes as `to_bytes`."""
        with self.unbroken():
            size = self.same(torch.tensor([0 if raw is None else len(raw)]))
            if raw is None or self.rank:
                raw = torch.empty(int(size), dtype=torch.uint8)
            return from_bytes(self.same(raw))

    def same(self, numbers: Tensor) -> Tensor:
        """The numbers of the first process, on all; they are on the host."""
        self.wait(self.begun(dist.broadcast, numbers, group_src=0, group=self.control, async_op=True))
        return numbers

    # --- waiting, and losing the others -----------------------------------------------------------------------------

    def begun(self, operation: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Begins an operation of the group, on which `wait` waits."""
        try:
            return operation(*args, **options)
        except RuntimeError as error:
            raise self.lost(error) from error

    def wait(self, work: Any) -> None:
        """Waits for an exchange, up to the timeout."""
        try:
            work.wait(self.timeout)
        except RuntimeError as error:
            raise self.lost(error) from error

    @scope
    def unbroken(self) -> Generator[None]:
        """An exchange that the others wait in: whoever leaves it by an exception leaves the group."""
        try:
            yield
        except BaseException as error:
            self.lost(error)
            raise

    def lost(self, error: object) -> RankError:
        """Leaves the group, because others are lost; returns the exception to raise."""
        self.leave()
        return RankError(
            f"rank {self.rank} of {self.size} lost the others: one is gone, or has not answered for "
            f"{self.timeout.total_seconds():g} s ({error}). With solve(..., checkpoint=path), the same script started "
            "again continues from there; torchrun --max-restarts=3 does that by itself"
        )

    def leave(self) -> None:
        """Closes the connections, so that nobody waits for this process, though it may live on.

        Others may wait for a message of this one that it will not send any more, and have no other way to see that.
        Gloo has no call for it in all versions, but closes all connections of a group when a receive times out.
        """
        if self.gone:
            return
        self.over = self.gone = True
        for other in range(self.size):
            if other != self.rank:
                with suppress(Exception):  # as it must: closed before, or now
                    work = dist.irecv(torch.empty(1), group=self.control, group_src=other, tag=_NOBODY)
                    assert work is not None
                    work.wait(timedelta(milliseconds=1))

    def release(self) -> None:
        """Lets go of the group at the end of a run.

        An exception keeps its frames, and with them this link: a group that it kept would outlive
        `torch.distributed.destroy_process_group`, which is to end gloo's threads. One that frees a tensor while the
        interpreter ends aborts the process.
        """
        del self.group, self.control
        self.mail.release()

    def _reports(self, error: BaseException | None) -> list[Report | None]:
        """After a failure or signal of some processes: exchanges the reasons, and completes the messages under way."""
        own = None if error is None else Report.of(error)
        reports, mails = zip(*self.all((own, self.mail.under_way)), strict=True)
        self.over = True
        # Some process may be lost meanwhile: the known error matters more.
        with suppress(RankError):
            self.mail.make_up(self.rank, mails, self.begun)
            self.mail.end(self.wait)
        return list(reports)

    def _raise(self, worst: int, error: BaseException | None, reports: list[Report | None]) -> NoReturn:
        """Raises the reason."""
        if error is not None:
            add_note(error, f"This was raised on rank {self.rank} of {self.size}.")
            raise error
        for rank, other in enumerate(reports):
            if other is not None:
                raise RankError(f"rank {rank} of {self.size} raised {other.what}\n\nIts traceback:\n{other.text}", rank)
        if worst == 2:  # SIGINT
            raise KeyboardInterrupt
        raise SystemExit(128 + worst)

    # --- states -----------------------------------------------------------------------------------------------------

    def check_device(self, state: State, name: str) -> None:
        """Raises unless the group can carry tensors of the state's device."""
        device = trees.leaves(state)[0].device.type
        known = [pair.split(":") for pair in dist.get_backend_config(self.group).split(",")]
        if device not in [pair[0] for pair in known]:
            backends = ", ".join(f"{pair[-1]} for {pair[0]}" for pair in known)
            raise ValueError(
                f"the state lies on {device!r}, and the group of {name} has the backends {backends}; expected a state "
                "on a device that one of them carries: u0.to(device), or "
                'torch.distributed.init_process_group("cpu:gloo,cuda:nccl")'
            )

    def gather(self, part: State, like: State, sizes: Sequence[int], device: torch.device) -> State:
        """Collects the lanes of all processes.

        Args:
            part: This process's lanes, leaves ``(sizes[rank], *state)``; ignored if it has none.
            like: Shapes and dtypes, a tree of `Like`.
            sizes: How many each process has.
            device: Their device.

        Returns:
            Leaves ``(sum(sizes), *state)``.
        """
        if self.size == 1 and sizes[0]:
            return part
        ends = list(accumulate(sizes, initial=0))
        mine = slice(ends[self.rank], ends[self.rank + 1])
        works: list[Any] = []
        parts = trees.leaves(part) if sizes[self.rank] else []

        def leaf(number: int, like: Like) -> Tensor:
            whole = torch.empty((ends[-1], *like.shape), dtype=like.dtype, device=device)
            if whole.numel() == 0:
                return whole
            if parts:
                whole[mine] = parts[number]
                self.sent += whole[mine].numel() * whole.element_size() * (self.size - 1)
            raw = as_bytes(whole)
            step = len(raw) // ends[-1]
            if len(set(sizes)) == 1:
                own = raw[mine.start * step : mine.stop * step].clone()
                works.append(self.begun(_all_gather, raw, own, group=self.group, async_op=True))
            else:
                for rank, size in enumerate(sizes):
                    if size:
                        some = raw[ends[rank] * step : ends[rank + 1] * step]
                        given = self.begun(dist.broadcast, some, group_src=rank, group=self.group, async_op=True)
                        works.append(given)
            return whole

        likes: list[Any] = trees.leaves(like) if not isinstance(like, Like) else [like]
        with self.unbroken():
            wholes = [leaf(i, each) for i, each in enumerate(likes)]
            for work in works:
                self.wait(work)
        return wholes[0] if isinstance(like, Like) else trees.rebuild(wholes, like)


def as_bytes(whole: Tensor) -> Tensor:
    """The bytes of a contiguous tensor, in one dimension: every backend supports bytes."""
    return (torch.view_as_real(whole) if whole.is_complex() else whole).reshape(-1).view(torch.uint8)


_all_gather: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor")  # noqa: B009  by age
_controls: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # a group that was destroyed must not live on in here


def _control(group: Any) -> Any:
    """A group of the same processes for data on the host."""
    devices = [pair.split(":")[0] for pair in dist.get_backend_config(group).split(",")]
    if "cpu" in devices:
        return group
    control = _controls.get(group)
    if control is None:
        ranks = dist.get_process_group_ranks(group)
        control = _controls[group] = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
    return control
