"""One block of slices in a pipeline of processes.

The processes of a run have neighbouring blocks of slices each. In iteration k every process

1. takes the state U^k at its left boundary from the process on its left, in a message (`_receive`);
2. moves its own boundaries to their iterate k, and passes the last one on to the process on its right (`_report`);
3. sends to the first process by how much its boundaries have moved (`_report`).

The first process decides, once all figures have arrived, and sends the decision to all (`_decide_all`, `_announce`).
Fine solves do not wait for the decision: they start from an iterate as soon as it has arrived. But no boundary moves to
iterate k + 1 before it is known that the run continues (`Readiness.open_to`). So all boundaries have the same iterate
when the run ends, whatever the number of processes, and no message is under way to a process that has left.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from parareal._core import trees
from parareal._core.arrays import Floats, Ints
from parareal._core.host import index_to
from parareal.distributed._block_parts import Announcement, Place, Received, Round, Totals, WokenError, joined
from parareal.distributed._mailbox import (
    BlockFigures,
    Kind,
    Mailbox,
    Message,
    boundary_content,
    boundary_states,
    pack,
    unpack,
)
from parareal.distributed._process_group import Like, Link, RankError
from parareal.engine._engine import Engine
from parareal.engine._rounds import Counters, play_round
from parareal.results._run_state import PER_SYSTEM
from parareal.schedules._schedule import Wavefront
from parareal.stopping._rules import error_record

_RESIDUALS = "residuals of the run"
_POLL = 0.5  # seconds that a process without work waits for a message before it checks for signals again: a choice


class BlockEngine(Engine):
    """The engine of one process of a pipeline.

    Args:
        link: The processes.
        sizes: How many slices each has.
        options: Those of `Engine`.
    """

    holds_all = False

    def __init__(self, link: Link, sizes: list[int], **options: Any) -> None:
        self._place = Place.of(link, sizes)
        super().__init__(**options, schedule=Wavefront(), block=self._place.blocks[link.rank])
        nobody = np.zeros_like(self.active)
        self._box: Mailbox | None = None  # from when all have begun until all have ended
        self._round, self._received = Round(0, nobody, nobody), Received()
        self._totals = Totals([np.zeros_like(self.state.frontier) for _ in sizes], np.zeros((len(sizes), 6), np.int64))
        self._announcement: Announcement | None = None

    @property
    def spent(self) -> tuple[int, int]:
        """Rounds and evaluations of all processes, as of the last decision."""
        return self._totals.spent

    @property
    def sent(self) -> int:
        """Bytes of boundary states sent so far."""
        return self._mailbox.sent[Kind.BOUNDARY]

    @property
    def _mailbox(self) -> Mailbox:
        assert self._box is not None, "messages are sent between begin and finish"
        return self._box

    def begin(self) -> None:
        """Makes the first guesses that need no evaluation, and waits for the other processes.

        No process sends before all can receive. Errors before that are exchanged here.
        """
        super().begin()
        self._place.link.settle()
        self._box = Mailbox(self._place.link, self._place.sources, self._place.readers)

    # --- one iteration ----------------------------------------------------------------------------------------------

    def advance(self) -> tuple[Ints, Floats]:
        """Continues until an iteration is complete on all processes and decided about; see `Engine.advance`."""
        self._announce()
        self._open()
        it, current = self.iterates, self.state.current
        waited = 0.0
        while True:
            before = current.sum()
            # Lanes start first, then boundaries move, and lanes start from what these have now: as in one process.
            if it.update():
                self._start_lanes()
                it.update(wait=False)
            self._start_lanes()
            self._drop_overtaken()
            if not self._round.reported and self._has_moved():
                self._report()
            self._sort(self._mailbox.take())
            if (decided := self._decide_all()) is not None:
                return decided
            if self._receive() or current.sum() != before or self._collect():
                continue
            played = play_round(self.propagators, self.parts.executor, self.counters)
            if played or any(lanes.arrived for lanes in self.propagators):
                waited = 0.0
                continue
            # Nothing to compute: only now does a process wait, and only for messages.
            began = time.perf_counter()
            message = self._mailbox.take(_POLL)
            waited = 0.0 if message else waited + time.perf_counter() - began
            self._sort(message)
            if waited > self._place.link.timeout.total_seconds():
                raise self._place.link.lost("no message has come")

    def _open(self) -> None:
        """Lets boundaries take their next iterate."""
        it, front = self.iterates, self.state.frontier
        start, end = it.layout.start, it.layout.end
        if self._round.number == 0 or it.open_to is None:
            it.open_to = self.state.current[:, :1]
            self._totals.fronts = [front.copy() for _ in self._totals.fronts]
        it.open_to = it.open_to + 1
        working = self.active & (end > start)
        self._round = Round(self._round.number + 1, working & (front < end), working & (front < start))

    def _has_moved(self) -> bool:
        """Whether all boundaries of the block have the iterate of this iteration, as the last one has."""
        it, moving = self.iterates, self._round.moving
        assert it.open_to is not None
        return bool(moving.any() and (self.state.current[:, it.layout.end] >= it.open_to[:, 0])[moving].all())

    def _sort(self, message: Message | None) -> None:
        """Sorts a message by its kind."""
        if self._place.link.signal:
            raise WokenError
        if message is None:
            return
        if message.kind is Kind.FAILED:
            raise WokenError
        if message.kind is Kind.LOST:
            raise self._place.link.lost(bytes(message.content.numpy()).decode())
        if message.kind is Kind.BOUNDARY:
            self._received.boundary = message
        elif message.kind is Kind.DECISION:
            self._received.decisions.append(message)
        else:
            self._note(message.source, unpack(message.content))

    def _receive(self) -> bool:
        """Moves the left boundary of the block, if its next iterate has arrived and may be taken."""
        it, message, state = self.iterates, self._received.boundary, self.state
        if message is None or message.number != self._round.number:
            return False
        layout, lanes, expected = it.layout, state.lanes, self._round.expecting
        first = layout.start
        used = lanes.fine_started[:, first]
        if not layout.free:
            used = np.minimum(used, lanes.coarse_started[:, first])
        # As for any boundary: lanes have started from the iterate that is replaced, and the first guess was made from
        # it.
        if ((used < state.current[:, first]) | (state.current[:, first + 1] < 0))[expected].any():
            return False
        self._received.boundary = None
        rows = np.arange(layout.systems) * (layout.slices + 1)
        like = it.rings.u.peek(rows, np.maximum(state.current[:, 0], 0))
        value, final = boundary_states(message.content, like, layout.systems)
        self.counters.rounds = max(self.counters.rounds, message.clock)
        it.receive(value, expected, final)
        return True

    def _report(self) -> None:
        """After all boundaries have moved: sends the last state to the right, and figures to the first process."""
        it, state, layout, self._round.reported = self.iterates, self.state, self.iterates.layout, True
        if self._place.right is not None:
            ids = np.arange(layout.systems) * (layout.slices + 1) + layout.end
            value = it.rings.u.take(ids, np.maximum(state.current[:, layout.end], 0))
            content = boundary_content(value, state.frontier >= layout.end)
            self._mailbox.send(self._place.right, Kind.BOUNDARY, self._round.number, self.counters.rounds, content)
        complete = self._round.moving.nonzero()[0]
        seen, known = self._measure(complete)
        grid = np.zeros((layout.systems, layout.end - layout.start, seen.grid.shape[-1]))
        grid[complete] = seen.grid[:, layout.start : layout.end]
        finite = np.ones(layout.systems, dtype=bool)
        finite[complete] = known | (state.frontier[complete] < layout.start)
        row, *moved = seen.moved
        content = [grid, complete[row], *moved, finite, state.frontier, self._cost]
        if self._place.link.rank == 0:
            self._note(0, [np.asarray(array, dtype=np.float64).reshape(-1) for array in content])
        else:
            self._mailbox.send(0, Kind.FIGURES, self._round.number, self.counters.rounds, pack(*content))

    @property
    def _cost(self) -> Ints:
        c = self.counters
        coarse = self.fine.carried if self.coarse is None else self.coarse.evaluations
        return np.array([c.rounds, c.calls, c.max_lanes, c.padded_lanes, self.fine.evaluations, coarse])

    # --- decisions --------------------------------------------------------------------------------------------------

    def _note(self, rank: int, arrays: list[np.ndarray[Any, Any]]) -> None:
        """Stores the figures of a block on the first process."""
        grid, system, n, number, exact, values, finite, frontier, costs = arrays
        start, end = self._place.blocks[rank]
        whole = [part.astype(np.int64) for part in (system, n, number)]
        moved: Any = (*whole, exact > 0, values.reshape(len(system), -1))
        front = frontier.astype(np.int64)
        figures = BlockFigures(grid.reshape(len(front), end - start, -1), moved, finite > 0, front)
        self._received.figures[rank] = figures
        self._totals.costs[rank] = costs

    def _decide_all(self) -> tuple[Ints, Floats] | None:
        """Decides once the figures of all blocks have arrived, or takes the decision of the first process."""
        if self._place.link.rank:
            return self._obey()
        totals, received, blocks = self._totals, self._received, self._place.blocks
        for rank in self._place.workers:  # a final block sends nothing more
            if (self.active & (totals.fronts[rank] < blocks[rank][1])).any() and rank not in received.figures:
                return None
        layout, parts, received.figures = self.iterates.layout, received.figures, {}
        totals.costs[0] = self._cost
        for rank, part in parts.items():
            totals.fronts[rank] = np.maximum(totals.fronts[rank], part.frontier)
        front = np.max(totals.fronts, axis=0)
        complete = self.active.nonzero()[0]
        seen, finite = joined(parts, blocks, complete, front, layout.slices)
        own = self._conclude(complete, seen, finite, front[complete])
        totals.fronts = [np.maximum(known, self.state.frontier) for known in totals.fronts]
        increments = np.zeros((layout.systems, layout.slices))
        increments[complete] = own
        self._announcement = Announcement(np.isin(np.arange(layout.systems), complete), increments)
        self._count()
        return complete, own

    def _count(self) -> None:
        costs = self._totals.costs
        fine, coarse = costs[:, 4].sum(), costs[:, 5].sum()
        self._totals.spent = int(costs[:, 0].max()), int(fine + coarse + self.parts.tangents * fine)

    def _announce(self) -> None:
        """Sends the decision to the others, after the callback."""
        if self._announcement is None:
            return
        (decided, increments), self._announcement = self._announcement, None
        state = self.state.pack(PER_SYSTEM)
        content = pack(decided, *state.values(), increments, np.array(self.spent))
        self._mailbox.tell_all(Kind.DECISION, self._round.number, self.counters.rounds, content)

    def _obey(self) -> tuple[Ints, Floats] | None:
        """Takes over the decision of the first process."""
        if not self._received.decisions:
            return None
        message = self._received.decisions.popleft()
        decided, *packed, increments, spent = unpack(message.content)
        self.counters.rounds = max(self.counters.rounds, message.clock)
        self._totals.spent = int(spent[0]), int(spent[1])
        state, own = self.state, self.state.frontier.copy()
        state.unpack(dict(zip(PER_SYSTEM, packed, strict=True)))
        np.maximum(state.frontier, own, out=state.frontier)
        self._after_decision()
        complete, shape = decided.nonzero()[0], state.residuals.shape
        return complete, increments.reshape(shape)[complete]

    # --- the end ----------------------------------------------------------------------------------------------------

    def together(self) -> None:
        """After a decision: collects the states of all blocks, and the error record, on every process.

        What may fail is done before the exchange, or after it: in between, the others would wait in vain.
        """
        self._announce()
        link, it, blocks = self._place.link, self.iterates, self._place.blocks
        layout, current, u = it.layout, self.state.current, it.rings.u
        error, sizes = None, [(end - start) * layout.systems for start, end in blocks]
        own, like, item = None, None, None
        try:
            n, system = np.divmod(np.arange(sizes[link.rank]), layout.systems)
            if len(n):
                ids = system * (layout.slices + 1) + layout.start + n + 1
                own = u.take(ids, np.maximum(current[system, layout.start + n + 1], 0))
            like = trees.map(Like.of, u.peek(np.arange(1), current[0, :1]))
            item = current[:, layout.start + 1 : layout.end + 1], self._cost, self._kept
        except BaseException as raised:
            error = raised
        link.settle(error)
        numbers, costs, kept = zip(*link.all(item), strict=True)
        value = link.gather(own, like, sizes, layout.device)
        current[:, 1:] = np.concatenate(numbers, axis=1)
        n, system = np.divmod(np.arange(layout.slices * layout.systems), layout.systems)
        there = (current[system, n + 1] >= 0).nonzero()[0]
        if len(there):
            ids = (system * (layout.slices + 1) + n + 1)[there]
            some = trees.lanes(value, index_to(layout.device, there))
            u.put(ids, current[:, 1:].T.reshape(-1)[there], some)
        for name, array in error_record(self.stopping).items():
            np.copyto(array, kept[0][name])
        self.state.residuals[:] = kept[0][_RESIDUALS]
        self._totals.costs = np.stack(costs)
        self._count()

    @property
    def _kept(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """The data that only the first process has, because it decides."""
        if self._place.link.rank:
            return None
        return {**error_record(self.stopping), _RESIDUALS: self.state.residuals}

    def finish(self) -> None:
        """Ends the run; every process has all of it."""
        self.together()
        rounds, calls, lanes, padded, fine, coarse = self._totals.costs.T
        self.counters = Counters(int(rounds.max()), int(calls.max()), int(lanes.sum()), int(padded.sum()))
        self.fine.evaluations = int(fine.sum())
        if self.coarse is not None:
            self.coarse.evaluations = int(coarse.sum())
        else:
            self.fine.carried = int(coarse.sum())
        self._place.link.settle()  # a process that fails has not said goodbye, and is not waited for
        self._mailbox.close()
        self._box = None

    def fail(self, error: BaseException) -> None:
        """After an exception: wakes the others, exchanges the reasons, and sends the last messages.

        In this order: others may be in the exchange already, where no message reaches them, and send their last message
        only after it. A process that has not begun, or has finished, wakes nobody: the others learn of it in the
        exchange.

        Raises:
            RankError, KeyboardInterrupt, SystemExit: What happened elsewhere.
        """
        box, self._box, link = self._box, None, self._place.link
        if box is None:
            return
        woken = isinstance(error, WokenError)
        try:
            if not link.over:
                box.tell_all(Kind.FAILED, quietly=True)
                if woken:
                    link.settle()
                    raise RankError("another process has ended the run")
                link.tell(error)
        except BaseException as told:
            told.__suppress_context__ = True  # that this process was woken is no news
            raise
        finally:
            box.close(quietly=True)
