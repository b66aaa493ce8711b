"""The cost of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Stats:
    """The cost of a run.

    Attributes:
        rounds: Sequential calls of the right-hand side, the unit of latency: all lanes that could advance together
            count as one, whatever the executor does.
        evaluations: Lanes times rounds, the unit of work.
        fine_evaluations: Evaluations of the fine propagator.
        coarse_evaluations: Evaluations of the correction, with directional derivatives; a shared first stage is
            counted here, once.
        calls: Calls that the executor made: equal to ``rounds`` unless it went lane by lane or in chunks, or a round
            asked for two functions, as it does where a `Propagator` is one of fine and coarse.
        max_lanes: Most lanes in one round.
        wall_time: Seconds.
        padded_lanes: Padding lanes of the calls of rounds, with ``pr.Batched(pad_to=...)``; they are not evaluations.
    """

    rounds: int
    evaluations: int
    fine_evaluations: int
    coarse_evaluations: int
    calls: int
    max_lanes: int
    wall_time: float
    padded_lanes: int = 0

    def to_dict(self) -> dict[str, int | float]:
        """All figures by name."""
        return asdict(self)

    def after(self, before: Stats | None) -> Stats:
        """The cost of both together."""
        if before is None:
            return self
        together = {name: value + getattr(before, name) for name, value in asdict(self).items()}
        return Stats(**{**together, "max_lanes": max(self.max_lanes, before.max_lanes)})
