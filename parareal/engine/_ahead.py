"""What a round will ask the host for, sent to the device in one copy before it is asked for.

Which boundaries will move, and from which rows of the buffers, is known as soon as it has been decided which slices are
live, because lanes of a method with a fixed number of evaluations arrive together. So the bookkeeping of the round is
played in advance, on copies. What comes otherwise than expected costs a copy of its own, and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from parareal._core.arrays import Bools, Ints
from parareal._core.host import Upload
from parareal._core.multistep_state import without_history
from parareal.engine._readiness import Readiness, Runs, some
from parareal.grid._mesh import Span

if TYPE_CHECKING:
    from parareal.engine._states import StoredStates


class Ahead:
    """Sends what `Iterates` is about to ask for; only where states do not lie on the host."""

    def __init__(self, iterates: StoredStates) -> None:
        self._it, layout, setup = iterates, iterates.layout, iterates.setup
        other = layout.nested or layout.relaxations or layout.in_step
        self._plays = layout.free and setup.traits.stacked and setup.by_run and layout.whole and not other
        self._expected = b""  # the lanes whose arrival has been played

    # --- one phase of a round, where it is not played in advance ------------------------------------------------------

    def of_guesses(self, rows: Runs, boundary: Ints, iterate: Ints) -> None:
        """Before the first guesses of rows, from the iterates of the boundaries on their left."""
        if not self._plays:
            self._send(self._guesses(rows, boundary, iterate, self._it.state.current))

    def of_launch(self, at: Ints, ids: Ints, system: Ints, iterate: Ints, rows: bool) -> None:
        """Before lanes start from points ``at`` of the mesh; ``rows`` says whether samples have data of their own."""
        if not self._plays:
            self._send(self._launch(at, ids, system, iterate, rows))

    def of_final(self, system: Ints, n: Ints, left: Ints) -> None:
        """Before boundaries take their final state."""
        if not self._plays:
            self._send(self._final(system, n, left, self._it.state.current))

    def of_updates(self, rows: Runs, system: Ints, n: Ints, k: Ints) -> None:
        """Before rows of boundaries take their next iterates."""
        if not self._plays:
            self._send(self._updates(rows, system, n, k, self._it))

    def _send(self, wanted: list[Any]) -> None:
        upload = Upload(self._it.layout.device)
        upload.indices(wanted)
        if upload.count > 1:
            upload.send()

    # --- a whole round ------------------------------------------------------------------------------------------------

    def of_round(self, start: Ints, rows: bool) -> None:
        """After a decision: all that the next round will ask for, where its beginning asks for anything.

        Args:
            start: Where each slice begins in the mesh of the fine propagator.
            rows: Whether samples have data of their own.
        """
        if not self._plays:
            return
        upload, played = Upload(self._it.layout.device), self._copy()
        state, slices = played.state, self._it.layout.slices
        if self._it.layout.windowed and some(guess := played.moves(False).guess):
            runs = played.runs_to_guess(guess)
            first = runs.n[:, 0]
            iterate = state.current[runs.system, first]
            boundary = runs.system * (slices + 1) + first
            upload.indices(self._guesses(runs, boundary, iterate, state.current))
            inside = runs.valid.reshape(-1)
            system, n = (part[inside] for part in runs.flat())
            state.current[system, n + 1] = np.repeat(iterate, runs.n.shape[1])[inside]
            played.look()
        starting = played.live & (state.current[:, :-1] > state.lanes.fine_started)
        system, n = starting.nonzero()
        iterate = played.note_started(starting, state.lanes.fine_started)
        upload.indices(self._launch(start[n], system * slices + n, system, iterate, rows))
        if upload.count:  # otherwise the rest can wait until the network has been called
            self._expected = (system * slices + n + starting.size * iterate).tobytes()
            self._arrive(played, starting, upload)
            upload.send()

    def of_arrivals(self, tickets: list[Ints]) -> None:
        """Before the results of lanes are stored: what they and all updates up to the decision will ask for."""
        it = self._it
        if not (self._plays and tickets) or np.concatenate(tickets).tobytes() == self._expected:
            return
        self._expected = np.concatenate(tickets).tobytes()
        arriving = np.zeros_like(it.live)
        for part in tickets:
            arriving.reshape(-1)[part % it.live.size] = True
        upload, played = Upload(it.layout.device), self._copy()
        self._arrive(played, arriving & it.live, upload)
        upload.wait()

    def _copy(self) -> Readiness:
        """The bookkeeping as it is, to be played on."""
        state = self._it.state
        lanes = replace(
            state.lanes,
            fine_started=state.lanes.fine_started.copy(),
            fine_arrived=state.lanes.fine_arrived.copy(),
            fine_first=state.lanes.fine_first.copy(),
        )
        copied = replace(state, current=state.current.copy(), frontier=state.frontier.copy(), lanes=lanes)
        return Readiness(copied, self._it.layout)

    def _arrive(self, played: Readiness, arriving: Bools, upload: Upload) -> None:
        """From the arrival of fine lanes up to the decision."""
        it, state, slices = self._it, played.state, self._it.layout.slices
        if not some(arriving):
            return
        system, n = arriving.nonzero()
        iterate = state.lanes.fine_started[arriving]
        upload.indices(it.rings.fine.wanted(system * slices + n, iterate))
        state.lanes.fine_arrived[arriving] = iterate
        while True:
            _, final, refined, *_ = played.moves(True)
            if some(final):
                system, n = final.nonzero()
                left, k = state.current[system, n], state.current[system, n + 1]
                upload.indices(self._final(system, n, left, state.current))
                state.current[system, n + 1] = np.where(k < 0, left, k) + 1
                state.frontier[system] = n + 1
                played.look()
            runs = played.runs_from(refined) if some(refined) else None
            if runs is not None:
                system, n = runs.flat()
                k = state.current[system, n + 1]
                upload.indices(self._updates(runs, system, n, k, played))
                at, like = Span(it.setup.times, runs.n), without_history(it.setup.u0)
                it.setup.correction.prepare_run(at, like, upload)
                state.current[system, n + 1] = k + 1
            if runs is None and not some(final):
                return

    # --- the indices of each phase ------------------------------------------------------------------------------------

    def _launch(self, at: Ints, ids: Ints, system: Ints, iterate: Ints, rows: bool) -> list[Any]:
        wanted = [at, at + 1, *self._it.rings.u.wanted(ids + system, iterate)]
        return [*wanted, system] if rows else wanted

    def _final(self, system: Ints, n: Ints, left: Ints, current: Ints) -> list[Any]:
        right, u = system * (self._it.layout.slices + 1) + n + 1, self._it.rings.u
        k = current[system, n + 1]
        place = system * self._it.layout.slices + n
        wanted = self._it.rings.fine.wanted(place, left) + self._earlier(place, left)
        return [*wanted, *u.wanted(right, np.maximum(k, 0)), *u.wanted(right, np.where(k < 0, left, k) + 1)]

    def _updates(self, rows: Runs, system: Ints, n: Ints, k: Ints, played: Readiness) -> list[Any]:
        it, current = self._it, played.state.current
        u, fine, slices, first = it.rings.u, it.rings.fine, it.layout.slices, rows.n[:, 0]
        place, boundary = system * slices + n, rows.system * (slices + 1) + first
        iterate, right = current[rows.system, first + 1], place + system + 1
        before = played.before(system, n, k)
        wanted = [rows.n, rows.n + 1]
        wanted += fine.wanted(place, k) + u.wanted(right, np.maximum(k, 0))
        wanted += u.wanted(boundary, iterate) + u.wanted(boundary, iterate + 1)
        if it.setup.traits.lookback or it.setup.empty is not None:
            wanted += fine.wanted(place, before)
        if it.setup.traits.lookback:
            wanted += u.wanted(place + system, k) + u.wanted(place + system, before)
        inside = rows.valid.reshape(-1)
        if rows.ragged:
            wanted += [inside, inside.nonzero()[0]]
            place, right, k = place[inside], right[inside], k[inside]
        return wanted + self._earlier(place, k) + u.wanted(right, k + 1)

    def _earlier(self, place: Ints, k: Ints) -> list[Any]:
        """The index of the fine solutions before, for the stopping rule."""
        it = self._it
        if not it.setup.keep_earlier:
            return []
        wanted = it.rings.fine.wanted_or_nan(place, k - 1)
        if it.setup.first_order is None:
            return wanted
        boundary, u = place + place // it.layout.slices, it.rings.u
        return [*wanted, *u.wanted_or_nan(boundary, k), *u.wanted_or_nan(boundary, k - 1)]

    def _guesses(self, rows: Runs, boundary: Ints, iterate: Ints, current: Ints) -> list[Any]:
        u, start, slices = self._it.rings.u, rows.n[:, 0], self._it.layout.slices
        wanted = [rows.n, rows.n + 1, start, *u.wanted(boundary, iterate)]
        for back in (1, 2):
            n = np.maximum(start - back, 0)
            wanted += [n, *u.wanted(boundary - start + n, current[rows.system, n])]
        system, n = rows.flat()
        right, iterate = system * (slices + 1) + n + 1, np.repeat(iterate, rows.n.shape[1])
        if rows.ragged:
            inside = rows.valid.reshape(-1)
            wanted.append(inside.nonzero()[0])
            right, iterate = right[inside], iterate[inside]
        if self._it.setup.given is not None:
            wanted += [right, boundary]
        return wanted + u.wanted(right, iterate)
