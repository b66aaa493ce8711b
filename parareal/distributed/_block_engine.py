"""One block of slices in a pipeline of processes.

The first process decides. After each iteration the others write to it what their edges have moved by, and it writes
back who goes on. Nobody waits for that with fine solves: they set out from an iterate as soon as it is there. But no
edge moves on before it is known that the run goes on, so that whenever it ends all edges hold the same iterate,
whatever the number of processes, and no message is on its way to somebody who has left.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import accumulate, pairwise
from typing import Any, cast

import numpy as np
import torch

from parareal._core import trees
from parareal._core.arrays import Floats, Ints
from parareal.distributed._mailbox import Kind, Letter, Packet, Post, as_letter, edge_content, edge_states, pack, unpack
from parareal.distributed._process_group import Like, Link, RankError
from parareal.engine._engine import Engine, Figures
from parareal.engine._rounds import Counters, play_round
from parareal.results._status import Status
from parareal.schedules._schedule import Wavefront
from parareal.stopping._rules import account

_STATUSES = list(Status)
_RESIDUALS = "residuals of the run"


class WokenError(Exception):
    """Another process has raised, or got a signal; all meet to hear what."""


class BlockEngine(Engine):
    """The engine of one process of a pipeline.

    Args:
        link: The processes.
        sizes: How many slices each has.
        options: Those of `Engine`.
    """

    def __init__(self, link: Link, sizes: list[int], **options: Any) -> None:
        self._blocks = list(pairwise(accumulate(sizes, initial=0)))
        self._link, rank = link, link.rank
        super().__init__(**options, schedule=Wavefront(), block=self._blocks[rank])
        workers = [other for other, size in enumerate(sizes) if size]
        self._right = rank + 1 if rank + 1 in workers else None
        left = [rank - 1] if rank and rank in workers else []
        others = [other for other in range(link.size) if other != rank]
        right = [] if self._right is None else [self._right]
        self._partners = ([*left, 0] if rank else others, [*right, 0] if rank else others)
        self._letters: Post | None = None  # from when all have begun until all have ended
        self._workers, self._round = workers, 0
        self._edge: Letter | None = None
        self._decisions: deque[Letter] = deque()  # several, where this block has been done for long
        self._increments: Floats | None = None  # of a decision that the others have still to hear of
        self._packets: dict[int, Packet] = {}
        self._fronts = [np.zeros_like(self.iteration) for _ in sizes]
        self._costs = np.zeros((len(sizes), 5), dtype=np.int64)
        self._totals: tuple[int, int] | None = None
        self._reported = False

    @property
    def spent(self) -> tuple[int, int]:
        """Rounds and evaluations of all processes, as of the last decision."""
        return (0, 0) if self._totals is None else self._totals

    @property
    def sent(self) -> int:
        """Bytes of edge states sent so far."""
        return self._post.sent[Kind.EDGE]

    @property
    def _post(self) -> Post:
        assert self._letters is not None, "letters are written between begin and finish"
        return self._letters

    def begin(self) -> None:
        """Makes what guesses cost nothing, and meets the others.

        Nobody writes before all are there to read: who fails earlier is heard of here.
        """
        super().begin()
        self._link.settle()
        self._letters = Post(self._link, *self._partners)

    # --- one iteration ----------------------------------------------------------------------------------------------

    def advance(self) -> tuple[Ints, Floats]:
        """Goes on until an iteration is complete on all processes and decided about; see `Engine.advance`."""
        self._announce()
        it = self.iterates
        if self._round == 0 or it.open_to is None:
            it.open_to = it.held[:, :1]
            self._fronts = [it.frontier.copy() for _ in self._fronts]
        it.open_to = it.open_to + 1
        self._round += 1
        self._reported = False
        self._part = self.active & (it.frontier < it.end) & (it.end > it.start)
        self._expects = self.active & (it.frontier < it.start) & (it.end > it.start)
        waited = 0.0
        while True:
            before = it.held.sum()
            if it.update():
                self._set_out()
                it.update(wait=False)
            self._set_out()
            for flight in self._flights:
                if flight.queue is not None:  # a lane that a final one has overtaken may take long
                    flight.leave_behind(it.live.reshape(-1))
            if not self._reported and self._part.any() and (it.held[:, it.end] >= it.open_to[:, 0])[self._part].all():
                self._report()
            self._heed(self._post.take())
            if (decided := self._decide_all()) is not None:
                return decided
            if self._receive() or it.held.sum() != before or self._collect():
                continue
            if play_round(self._flights, self.executor, self.counters) or any(f.arrived for f in self._flights):
                waited = 0.0
                continue
            began = time.perf_counter()
            letter = self._post.take(0.5)
            waited = 0.0 if letter else waited + time.perf_counter() - began
            self._heed(letter)
            if waited > self._link.timeout.total_seconds():
                raise self._link.lost("no word has come")

    def _heed(self, letter: Letter | None) -> None:
        """Puts a letter where it will be looked for."""
        if self._link.signal:
            raise WokenError
        if letter is None:
            return
        if letter.kind is Kind.FAILED:
            raise WokenError
        if letter.kind is Kind.LOST:
            raise self._link.lost(bytes(letter.content.numpy()).decode())
        if letter.kind is Kind.EDGE:
            self._edge = letter
        elif letter.kind is Kind.DECISION:
            self._decisions.append(letter)
        else:
            self._note(letter.source, unpack(letter.content))

    def _receive(self) -> bool:
        """Moves the block's left edge, if its next iterate is here and may be taken."""
        it, letter = self.iterates, self._edge
        if letter is None or letter.number != self._round:
            return False
        first, expected = it.start, self._expects
        used = it.fine_from[:, first] if it.free else np.minimum(it.fine_from[:, first], it.coarse_from[:, first])
        if ((used < it.held[:, first]) | (it.held[:, first + 1] < 0))[expected].any():
            return False
        self._edge = None
        like = it.u.peek(np.arange(it.systems) * (it.slices + 1), np.maximum(it.held[:, 0], 0))
        value, final = edge_states(letter.content, like, it.systems)
        self.counters.rounds = max(self.counters.rounds, letter.clock)
        it.receive(value, expected, final)
        return True

    def _report(self) -> None:
        """The block's edges hold the iterate of this round: on with it to the right, and the figures to the first."""
        it, self._reported = self.iterates, True
        if self._right is not None:
            ids = np.arange(it.systems) * (it.slices + 1) + it.end
            value = it.u.take(ids, np.maximum(it.held[:, it.end], 0))
            content = edge_content(value, it.frontier >= it.end)
            self._post.send(self._right, Kind.EDGE, self._round, self.counters.rounds, content)
        complete = self._part.nonzero()[0]
        figures, known = self._measure(complete)
        grid = np.zeros((it.systems, it.end - it.start, figures.grid.shape[-1]))
        grid[complete] = figures.grid[:, it.start : it.end]
        finite = np.ones(it.systems, dtype=bool)
        finite[complete] = known | (it.frontier[complete] < it.start)
        row, *moved = figures.moved
        packet = [grid, complete[row], *moved, finite, it.frontier, self._cost]
        if self._link.rank == 0:
            self._note(0, [np.asarray(array, dtype=np.float64).reshape(-1) for array in packet])
        else:
            self._post.send(0, Kind.FIGURES, self._round, self.counters.rounds, pack(*packet))

    @property
    def _cost(self) -> Ints:
        c = self.counters
        coarse = 0 if self.coarse is None else self.coarse.evaluations
        return np.array([c.rounds, c.calls, c.max_lanes, self.fine.evaluations, coarse])

    # --- decisions --------------------------------------------------------------------------------------------------

    def _note(self, rank: int, arrays: list[np.ndarray[Any, Any]]) -> None:
        """Figures of a block have come to the first process."""
        grid, system, n, number, exact, values, finite, frontier, costs = arrays
        start, end = self._blocks[rank]
        whole = [part.astype(np.int64) for part in (system, n, number)]
        moved: Any = (*whole, exact > 0, values.reshape(len(system), -1))
        front = frontier.astype(np.int64)
        self._packets[rank] = Packet(grid.reshape(len(front), end - start, -1), moved, finite > 0, front)
        self._costs[rank] = costs

    def _decide_all(self) -> tuple[Ints, Floats] | None:
        """What follows from the figures of all blocks once they are there, or what the first process says."""
        if self._link.rank:
            return self._obey()
        ends = [end for _, end in self._blocks]
        if any((self.active & (self._fronts[r] < ends[r])).any() and r not in self._packets for r in self._workers):
            return None
        it, packets, self._packets = self.iterates, self._packets, {}
        self._costs[0] = self._cost
        for rank, packet in packets.items():
            self._fronts[rank] = np.maximum(self._fronts[rank], packet.frontier)
        front = np.max(self._fronts, axis=0)
        finite = np.ones(it.systems, dtype=bool)
        for rank, packet in packets.items():
            start, end = self._blocks[rank]
            finite &= packet.finite | (front <= start) | (front > end)
        complete = self.active.nonzero()[0]
        columns = next(iter(packets.values())).grid.shape[-1]
        grid = np.zeros((it.systems, it.slices, columns))
        for rank, packet in packets.items():
            start, end = self._blocks[rank]
            grid[:, start:end] = packet.grid
        parts = [packets[rank].moved for rank in sorted(packets)]
        system, *rest = (np.concatenate(part) for part in zip(*parts, strict=True))
        moved = cast(Any, (np.searchsorted(complete, system), *rest))
        figures = Figures(grid[complete], moved)
        increments = self._conclude(complete, figures, finite[complete], front[complete])
        self._fronts = [np.maximum(known, it.frontier) for known in self._fronts]
        self._increments = np.zeros((it.systems, it.slices))
        self._increments[complete] = increments
        self._decided = np.isin(np.arange(it.systems), complete)
        self._count()
        return complete, increments

    def _count(self) -> None:
        costs = self._costs
        fine, coarse = costs[:, 3].sum(), costs[:, 4].sum()
        self._totals = int(costs[:, 0].max()), int(fine + coarse + self._carries * fine)

    def _announce(self) -> None:
        """Tells the others what was decided, once the callback has had its say."""
        if self._increments is None:
            return
        it, increments, self._increments = self.iterates, self._increments, None
        status = np.array([-1 if s is None else _STATUSES.index(s) for s in self.status])
        who = [self._decided, self.active, self.iteration, status, it.frontier, self.errors]
        content = pack(*who, self.settled, self.proven, self.accepted, increments, np.array(self.spent))
        self._post.tell_all(Kind.DECISION, self._round, self.counters.rounds, content)

    def _obey(self) -> tuple[Ints, Floats] | None:
        """Takes over what the first process has decided."""
        it = self.iterates
        if not self._decisions:
            return None
        letter = self._decisions.popleft()
        arrays = unpack(letter.content)
        decided, active, iteration, status, frontier, errors, settled, proven, accepted, increments, spent = arrays
        self.counters.rounds = max(self.counters.rounds, letter.clock)
        self._totals = int(spent[0]), int(spent[1])
        self.active, self.accepted, self.errors = active > 0, accepted > 0, errors.copy()
        self.iteration, self.settled, self.proven = (part.astype(np.int64) for part in (iteration, settled, proven))
        self.status = [None if number < 0 else _STATUSES[int(number)] for number in status]
        it.frontier = np.maximum(it.frontier, frontier.astype(np.int64))
        self._go_on()
        complete = decided.nonzero()[0]
        return complete, increments.reshape(it.systems, it.slices)[complete]

    # --- the end ----------------------------------------------------------------------------------------------------

    def together(self) -> None:
        """After a decision: what all blocks hold comes together on every process, and what the run remembers.

        What may fail here comes before all hear from each other, or after the states were exchanged: in between, the
        others would wait for something that does not come.
        """
        self._announce()
        link, it = self._link, self.iterates
        error, sizes = None, [(end - start) * it.systems for start, end in self._blocks]
        own, like, item = None, None, None
        try:
            n, system = np.divmod(np.arange(sizes[link.rank]), it.systems)
            if len(n):
                ids = system * (it.slices + 1) + it.start + n + 1
                own = it.u.take(ids, np.maximum(it.held[system, it.start + n + 1], 0))
            like = trees.map(Like.of, it.u.peek(np.arange(1), it.held[0, :1]))
            item = it.held[:, it.start + 1 : it.end + 1], self._cost, self._memory
        except BaseException as raised:
            error = raised
        link.settle(error)
        held, costs, memory = zip(*link.all(item), strict=True)
        value = link.gather(own, like, sizes, it.device)
        it.held = np.concatenate([it.held[:, :1], *held], axis=1)
        n, system = np.divmod(np.arange(it.slices * it.systems), it.systems)
        there = (it.held[system, n + 1] >= 0).nonzero()[0]
        if len(there):
            ids = (system * (it.slices + 1) + n + 1)[there]
            some = trees.lanes(value, torch.from_numpy(there).to(it.device))
            it.u.put(ids, it.held[:, 1:].T.reshape(-1)[there], some)
        for name, array in account(self.judge).items():
            np.copyto(array, memory[0][name])
        self.residuals = memory[0][_RESIDUALS]
        self._costs = np.stack(costs)
        self._count()

    @property
    def _memory(self) -> dict[str, np.ndarray[Any, Any]] | None:
        return {**account(self.judge), _RESIDUALS: self.residuals} if self._link.rank == 0 else None

    def finish(self) -> None:
        """The run is over: every process has all of it."""
        self.together()
        rounds, calls, lanes, fine, coarse = self._costs.T
        self.counters = Counters(int(rounds.max()), int(calls.max()), int(lanes.sum()))
        self.fine.evaluations = int(fine.sum())
        if self.coarse is not None:
            self.coarse.evaluations = int(coarse.sum())
        self._link.settle()  # who fails has not said goodbye, and is not waited for
        self._post.close()
        self._letters = None

    def fail(self, error: BaseException) -> None:
        """An exception ends the run here: the others are woken, all meet, and then say goodbye.

        In this order: others may have come to meet already, where no letter reaches them, and say goodbye only when
        they have heard. Who has not begun, or has finished, has nobody to wake: the others hear of it where they meet.

        Raises:
            RankError, KeyboardInterrupt, SystemExit: What happened elsewhere.
        """
        post, self._letters, link = self._letters, None, self._link
        if post is None:
            return
        woken = isinstance(error, WokenError)
        try:
            if link.gone:
                post.tell_all(Kind.LOST, content=as_letter(error), quietly=True)
            elif not link.over:
                post.tell_all(Kind.FAILED, quietly=True)
                if woken:
                    link.settle()
                    raise RankError("another process has ended the run") from None
                link.tell(error)
        finally:
            post.close(quietly=True)
