"""Data of a process of a pipeline: about itself, the current iteration, and the other processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from parareal._core.arrays import Bools, Floats, Ints
from parareal.distributed._mailbox import BlockFigures, Message
from parareal.distributed._process_group import Link
from parareal.engine._measure import Figures


class WokenError(Exception):
    """Another process has raised, or received a signal; all exchange the reason."""


@dataclass(frozen=True)
class Place:
    """The fixed place of this process among the others.

    Attributes:
        link: The processes.
        blocks: The first slice of each, and the first after it.
        workers: Ranks that have slices.
        right: The rank that has the next block, if any.
        sources: Ranks that send messages to this one.
        readers: Ranks that this one sends messages to.
    """

    link: Link
    blocks: tuple[tuple[int, int], ...]
    workers: tuple[int, ...]
    right: int | None
    sources: tuple[int, ...]
    readers: tuple[int, ...]

    @classmethod
    def of(cls, link: Link, sizes: list[int]) -> Place:
        """The place of this process, from the number of slices of each rank."""
        rank = link.rank
        workers = tuple(other for other, size in enumerate(sizes) if size)
        right = rank + 1 if rank + 1 in workers else None
        left = (rank - 1,) if rank and rank in workers else ()
        others = tuple(other for other in range(link.size) if other != rank)
        readers = (*(() if right is None else (right,)), 0)
        blocks = tuple(pairwise(accumulate(sizes, initial=0)))
        # The first process decides: all others send their figures to it, and receive its decision.
        return cls(link, blocks, workers, right, (*left, 0) if rank else others, readers if rank else others)


@dataclass
class Round:
    """The current iteration.

    Attributes:
        number: Counted from 1.
        moving: Systems of which boundaries of this block move in it, ``(M,)``.
        expecting: Systems whose left boundary waits for its next state, ``(M,)``.
        reported: Whether the figures of this block have been sent.
    """

    number: int
    moving: Bools
    expecting: Bools
    reported: bool = False


@dataclass
class Received:
    """Messages that have arrived and are not needed yet.

    Attributes:
        boundary: The next state of the left boundary.
        decisions: Decisions; several, if this block has long been final.
        figures: Figures of blocks, by rank; on the first process.
    """

    boundary: Message | None = None
    decisions: deque[Message] = field(default_factory=deque[Message])
    figures: dict[int, BlockFigures] = field(default_factory=dict[int, BlockFigures])


@dataclass
class Totals:
    """Data of all processes, on the first one.

    Attributes:
        fronts: The frontier of each, ``(M,)``.
        costs: Rounds, calls, most lanes, padded lanes, fine and coarse evaluations of each, ``(P, 6)``.
        spent: Rounds and evaluations of all, as of the last decision; on every process.
    """

    fronts: list[Ints]
    costs: Ints
    spent: tuple[int, int] = (0, 0)


class Announcement(NamedTuple):
    """A decision that was not sent yet: the systems decided, and the increments of all, ``(M, N)``."""

    decided: Bools
    increments: Floats


def joined(
    parts: dict[int, BlockFigures], blocks: Sequence[tuple[int, int]], complete: Ints, front: Ints, slices: int
) -> tuple[Figures, Bools]:
    """The figures of all blocks as those of one run, and whether the states at the frontiers are finite, ``(Q,)``.

    Args:
        parts: Figures by rank.
        blocks: The first slice of each rank, and the first after it.
        complete: Their systems, ``(Q,)``.
        front: The frontiers of all systems, ``(M,)``.
        slices: N.
    """
    columns = next(iter(parts.values())).grid.shape[-1]
    finite, grid = np.ones(len(front), dtype=bool), np.zeros((len(front), slices, columns))
    for rank, part in parts.items():
        start, end = blocks[rank]
        # Only the block that contains a frontier reports on it.
        finite &= part.finite | (front <= start) | (front > end)
        grid[:, start:end] = part.grid
    changes = [parts[rank].moved for rank in sorted(parts)]
    system, *rest = (np.concatenate(part) for part in zip(*changes, strict=True))
    moved = cast(Any, (np.searchsorted(complete, system), *rest))
    return Figures(grid[complete], moved), finite[complete]
