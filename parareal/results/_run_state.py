"""The run state, as plain numbers: one record, which the engine owns and nothing else writes to.

It is below the engine, so that a solution can hold a copy of it. It holds no states: these are in ring buffers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import numpy as np

from parareal._core.arrays import Bools, Floats, Ints
from parareal.results._status import Status

STATUSES = tuple(Status)
RUNNING = -1
"""The system has not ended; in place of the position of a status in `STATUSES`."""
PER_SYSTEM = ("iteration", "frontier", "proven", "errors", "status")
"""The arrays that a decision changes; see `RunState.pack`."""
_SHOWN = 4  # systems in a repr: a choice, they fit a screen


@dataclass(eq=False, slots=True)
class LaneNumbers:
    """From which iterate lanes have started, of M systems of N slices, ``(M, N)`` each; -1 for none.

    A slice has an active lane if ``started > arrived``. Numbers never decrease.

    Attributes:
        fine_started: The iterate from which the last fine lane started.
        fine_arrived: The same of the last one that has arrived.
        fine_first: The iterate from which the first fine lane started that corrections use.
        coarse_started: As ``fine_started``, of coarse lanes; read-only where there are none.
        coarse_arrived: As ``fine_arrived``, of coarse lanes.
        first_stage: The iterate at which the right-hand side is known on the left boundary.
    """

    fine_started: Ints
    fine_arrived: Ints
    fine_first: Ints
    coarse_started: Ints
    coarse_arrived: Ints
    first_stage: Ints

    @classmethod
    def none(cls, systems: int, slices: int, coarse: bool) -> LaneNumbers:
        """No lane has started yet."""
        shape = (systems, slices)
        nothing = np.broadcast_to(np.array(-1), shape)  # read-only, and of the size of one number
        fine = [np.full(shape, -1) for _ in range(3)]
        return cls(*fine, *(np.full(shape, -1) if coarse else nothing for _ in range(3)))


@dataclass(eq=False, slots=True, repr=False)
class RunState:
    """The state of a run of M systems of N slices.

    Slices are counted from the left: a ``frontier`` of n means that boundaries 0 ... n are not computed any more.

    Invariants, between two calls of the engine:

    - ``proven <= settled <= frontier <= N`` for each system, and none of them decreases, except when a run is reopened.
    - Boundaries up to ``proven`` are the sequential solution. Those from there to ``settled`` were accepted by a
      tolerance. Those from ``settled`` to ``frontier`` have become final since: as final as the one at ``settled``.
    - ``current[:, :frontier + 1] >= 0``, and a lane's number is at most ``current`` of its left boundary.
    - A system is active exactly while its ``status`` is `RUNNING`.

    Attributes:
        frontier: Slices final or accepted, ``(M,)``.
        settled: The frontier after the last decision, ``(M,)``.
        proven: Slices final without any accepted before them, as of the last decision, ``(M,)``.
        counted: The number of the last boundary's iterate at the last decision, ``(M,)``: an iteration is complete once
            it has grown. Windows count iterations by ``settled`` instead.
        iteration: Iterations completed, ``(M,)``.
        limit: Most iterations, ``(M,)``.
        status: How the system has ended, as a position in `STATUSES`, or `RUNNING`, ``(M,)``.
        errors: Estimated error at the last boundary, in the norm of the rule, ``(M,)``; NaN if unknown.
        residuals: Relative defects of right boundaries, as last seen, ``(M, N)``.
        current: The number of the iterate that each boundary has now, -1 for none, ``(M, N + 1)``.
        first: The number of each boundary's first iterate, ``(M, N + 1)``: mixing corrections use none before it.
        lanes: From which iterates lanes have started.
    """

    frontier: Ints
    settled: Ints
    proven: Ints
    counted: Ints
    iteration: Ints
    limit: Ints
    status: Ints
    errors: Floats
    residuals: Floats
    current: Ints
    first: Ints
    lanes: LaneNumbers

    @classmethod
    def new(cls, systems: int, slices: int, limit: int | None = None, coarse: bool = True) -> RunState:
        """The state before the first evaluation: only the first boundary has a state."""
        zeros = [np.zeros(systems, dtype=np.int64) for _ in range(5)]
        most = np.full(systems, slices if limit is None else min(limit, slices))
        current = np.full((systems, slices + 1), -1)
        current[:, 0] = 0
        return cls(
            *zeros,
            limit=most,
            status=np.full(systems, RUNNING),
            errors=np.full(systems, np.nan),
            residuals=np.full((systems, slices), np.nan),
            current=current,
            first=np.zeros((systems, slices + 1), dtype=np.int64),
            lanes=LaneNumbers.none(systems, slices, coarse),
        )

    @property
    def active(self) -> Bools:
        """Systems that have not ended, ``(M,)``."""
        return self.status == RUNNING

    @property
    def accepted(self) -> Bools:
        """Systems with boundaries accepted by a tolerance, ``(M,)``."""
        return self.proven < self.settled

    @property
    def doubtful(self) -> Bools:
        """Systems that were accepted to their end with an error above the tolerance, ``(M,)``."""
        return self.status == STATUSES.index(Status.UNCERTAIN)

    @property
    def statuses(self) -> tuple[Status | None, ...]:
        """The status of each system; ``None`` if it has not ended."""
        return tuple(None if code == RUNNING else STATUSES[code] for code in self.status.tolist())

    def end(self, system: int, status: Status | None) -> None:
        """Sets the status of a system that has ended."""
        self.status[system] = RUNNING if status is None else STATUSES.index(status)

    def limit_to(self, most: int | None) -> None:
        """Sets the limit of iterations, at most the number after which all slices are final."""
        self.limit[:] = self.iteration + self.residuals.shape[1] - self.frontier
        if most is not None:
            np.minimum(self.limit, most, out=self.limit)

    def look_back(self, slices: Ints, boundaries: Ints | None) -> None:
        """Earlier iterates were restored: their number for each slice, ``(M, N)``, and for each boundary."""
        number = self.current.max(1)[:, None]
        first = self.lanes.fine_first
        first[:] = np.where(slices > 0, number - slices, first)
        if boundaries is not None:
            self.first[:] = np.where(boundaries > 0, number - boundaries, self.first)

    # --- copies, files and messages ---------------------------------------------------------------------------------

    def copy(self) -> RunState:
        """A copy, independent of later changes."""
        return self._each(np.copy)

    def restrict(self, systems: Ints) -> RunState:
        """A copy of some systems."""
        return self._each(lambda array: array[systems])

    def between_iterations(self, number: Ints, frontier: Ints) -> RunState:
        """A copy as of the end of an iteration: no active lanes, and all boundaries reached have the same iterate.

        The limit is left out, because it belongs to a call, and another call may have another limit.

        Args:
            number: The number of that iterate, ``(M,)``.
            frontier: The frontier there, ``(M,)``.
        """
        new = RunState.new(*self.residuals.shape)
        new.unpack({**self.pack(), "number": number, "frontier": frontier, "proven": self.final(frontier)})
        return new

    def final(self, frontier: Ints | None = None) -> Ints:
        """Slices that are the sequential solution if the frontier is as given, ``(M,)``."""
        return np.where(self.accepted, self.proven, self.frontier if frontier is None else frontier)

    def pack(self, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """New arrays by name: those of a file, or with ``names`` some of them, for a message.

        Lanes are left out, because they start again. So is which boundaries are ahead of others: a file holds a
        state between two iterations, where ``number`` is the iterate of all that are ``reached``.
        """
        packed: dict[str, np.ndarray[Any, Any]] = {
            "reached": self.current >= 0,
            "number": self.current.max(1),
            "iteration": self.iteration.copy(),
            "frontier": self.frontier.copy(),
            "proven": self.proven.copy(),
            "errors": self.errors.copy(),
            "residuals": self.residuals.copy(),
            "status": self.status.copy(),
        }
        return packed if names is None else {name: packed[name] for name in names}

    def unpack(self, packed: dict[str, np.ndarray[Any, Any]]) -> None:
        """Takes over the arrays of `pack`, of the same systems and slices; others stay.

        Arrays with a ``number`` are a state between two iterations, without active lanes.
        """
        for name in ("iteration", "frontier", "proven", "errors", "residuals", "status"):
            if name in packed:
                np.copyto(getattr(self, name), packed[name].reshape(getattr(self, name).shape), casting="unsafe")
        if "frontier" in packed:  # states between two iterations and decisions alike: nothing has moved since
            np.copyto(self.settled, self.frontier)
        if "number" in packed:
            number = packed["number"][:, None]
            self.current[:] = np.where(packed["reached"], number, -1)
            self.first[:] = number
            self.counted[:] = packed["number"]

    def _each(self, change: Any) -> RunState:
        lanes = LaneNumbers(*(change(getattr(self.lanes, part.name)) for part in fields(LaneNumbers)))
        own = {part.name: change(getattr(self, part.name)) for part in fields(self) if part.name != "lanes"}
        return RunState(**own, lanes=lanes)

    # --- for a debugger ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        systems, slices = self.residuals.shape
        lines = [f"RunState: {systems} system{'s' * (systems > 1)} of {slices} slices"]
        few = self.restrict(np.arange(min(systems, _SHOWN)))
        fine = _under_way(few.lanes.fine_started, few.lanes.fine_arrived)
        coarse = _under_way(few.lanes.coarse_started, few.lanes.coarse_arrived)
        for m, status in enumerate(few.statuses):
            ended = "running" if status is None else status.name
            lines += [
                f"  system {m}: {ended}, iteration {few.iteration[m]} of at most {few.limit[m]}",
                f"    frontier: {few.frontier[m]} (proven {few.proven[m]}), estimated error {few.errors[m]:.2g}",
                f"    iterates of boundaries: {_ranges(few.current[m])}",
                f"    fine lanes from iterates: {_ranges(fine[m])}",
                f"    coarse lanes from iterates: {_ranges(coarse[m])}",
            ]
        if systems > _SHOWN:
            lines.append(f"  and {systems - _SHOWN} more")
        return "\n".join(lines)


def _under_way(started: Ints, arrived: Ints) -> Ints:
    """The iterates from which the last active lanes have started; -1 for none."""
    return np.where(started > arrived, started, -1)


def _ranges(numbers: Ints) -> str:
    """Numbers with their positions, neighbours with the same one together; those below 0 are left out."""
    parts: list[str] = []
    for number, group in groupby(enumerate(numbers.tolist()), key=lambda pair: pair[1]):
        at = [position for position, _ in group]
        if number >= 0:
            parts.append(f"{number} at {at[0]}" + (f"-{at[-1]}" if len(at) > 1 else ""))
    return ", ".join(parts) or "none"
