"""Pipelined Parareal over processes: each has a block of slices, and boundary states go from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import torch

from parareal._core import trees
from parareal._core.arrays import Bools
from parareal._core.scopes import scope
from parareal._core.trees import State
from parareal.corrections._base import Correction
from parareal.distributed._block_engine import BlockEngine
from parareal.distributed._lane_parallel import Crew, check_timeout, linked
from parareal.distributed._process_group import Link
from parareal.executors._base import Executor, blocks
from parareal.executors._local import check_inner
from parareal.schedules._schedule import Progress, Schedule


@dataclass(frozen=True)
class RankPipeline(Schedule):
    """Pipelined Parareal over the processes of a group: each owns one block of neighbouring slices.

    Every process makes the same call of `solve` with the same arguments, in a script started by ``torchrun``, and every
    one ends with the same `Solution`. The slices are split into blocks as even as possible; processes beyond the number
    of slices have none. In each iteration the state at the boundary between two blocks goes from process to process
    until it is final, with some numbers for each slice, from which the first process decides which systems
    continue. Fine solves do not wait for a decision or for another process: they start as soon as their input has
    arrived. Boundaries move once it is known that the run continues, so that the result is that of `Barrier`, to
    rounding, whatever the number of processes. At the end, and with a ``checkpoint`` after each iteration, all states
    come together everywhere.

    Every process computes first guesses for itself, from the start of the grid to the end of its block, which
    takes no longer than waiting for them. Rounds are those of the longest chain of calls through all processes;
    evaluations are the sum over all of them. Each evaluates its lanes with the ``executor`` of `solve`, a `Batched` or
    `Serial`. A callback is called everywhere; what it returns counts on the first process. It must not wait for other
    processes, which learn of the end of an iteration only after it has returned on the first one. States are sent
    through the memory of the host. Nothing is differentiated across processes. Which lanes share a call depends on
    when messages come: a right-hand side with messages of its own, as a model split over processes has, needs
    `Distributed`, where all processes make their calls in one order.

    Args:
        group: A process group; a `torch.distributed.device_mesh.DeviceMesh` of one dimension; or ``None`` for the
            default group.
        timeout: Seconds after which the others count as lost: more than an iteration takes, or writing a checkpoint.

    Raises:
        TypeError: ``timeout`` is not a number.
        ValueError: ``timeout`` is not positive. From `solve`, that there is no group, that processes came with other
            problems, states or grids, or that the run keeps all iterates or none (``keep="all"``, ``dense=False``) or
            has a correction that looks at all boundaries together (`Anderson`).

    Source:
        M. Minion, A hybrid parareal spectral deferred corrections method, Comm. App. Math. Comp. Sci. 5 (2010);
        E. Aubanel, Scheduling of tasks in the parareal algorithm, Parallel Computing 37 (2011).

    Examples:
        >>> RankPipeline(timeout=60.0)
        RankPipeline(timeout=60.0)
    """

    group: Any = field(default=None, repr=False)
    timeout: float = 300.0

    def __post_init__(self) -> None:
        check_timeout(self.timeout)

    def admit(self, progress: Progress) -> tuple[Bools, Bools]:
        """All lanes that are ready."""
        return progress.fine_ready, progress.coarse_ready

    @scope
    def joined(self, executor: Executor) -> Generator[Executor]:
        """An executor in a run of this schedule."""
        check_inner(executor, "executor beside schedule=pr.RankPipeline()")
        with linked(self.group, self.timeout, "pr.RankPipeline()") as link:
            with executor.joined() as local:
                yield InBlock(link, local)
            link.settle()  # no process leaves before all have finished


class InBlock(Crew):
    """The executor of one process of a pipeline, and its engine."""

    def __init__(self, link: Link, local: Executor) -> None:
        super().__init__(link, "pr.RankPipeline()")
        self._local = local

    def evaluate(self, fn: Callable[..., State], args: tuple[Any, ...], lanes: int) -> State:
        return self._local.evaluate(fn, args, lanes)

    def calls(self, lanes: int) -> int:
        return self._local.calls(lanes)

    def engine(self, make: Callable[..., Any], keep: str, **options: Any) -> BlockEngine:
        """The engine of the block of this process, in place of the one of ``make``.

        Raises:
            ValueError: The run cannot be split into blocks.
        """
        correction: Correction = options["correction"]
        if keep == "all" or not options["dense"]:
            came = 'keep="all"' if keep == "all" else "dense=False"
            raise ValueError(
                f"{came} came with schedule=pr.RankPipeline(), whose processes keep the states at the slice boundaries "
                "of their own blocks; expected neither, or executor=pr.Distributed()"
            )
        if correction.traits.mixing:
            raise ValueError(
                f"{correction!r} looks at all boundaries together, and schedule=pr.RankPipeline() splits them "
                "into blocks; expected another correction, such as pr.Coarse or pr.Secant, or executor=pr.Distributed()"
            )
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in trees.leaves(options["u0"])):
            raise ValueError(
                "the initial state asks for gradients, and nothing is differentiated across processes; expected the "
                "call under torch.no_grad()"
            )
        sizes = blocks(options["grid"].num_slices, self.link.size)
        del options["schedule"]  # this one: `BlockEngine` says itself what it comes to in one process
        return BlockEngine(self.link, sizes, **options)

    def check_verify(self) -> None:
        """Raises: no process has all states."""
        raise ValueError(
            "verify=True came with RankPipeline, whose ranks hold a block of slices each; expected another schedule, "
            "such as pr.Wavefront() with executor=pr.Distributed(), or verify=False"
        )
