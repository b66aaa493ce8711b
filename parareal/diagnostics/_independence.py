"""Slices side by side: the result of a lane must not depend on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from parareal._core import trees
from parareal._core.trees import State
from parareal.diagnostics._harness import Bench, EndlessError, Landing, distance, eps_of, equal, finite, size
from parareal.diagnostics._report import Finding, said


@dataclass
class SideBySide:
    """Slices as lanes of one call.

    Attributes:
        bench: Runs them.
        chosen: The slices.
        starts: Their states.
        alone: The result of each alone.
        stacked: Their results side by side, once computed.
    """

    bench: Bench
    chosen: list[int]
    starts: list[State]
    alone: list[Landing]
    stacked: list[State] = field(default_factory=list)

    def _stacked(self, order: Sequence[int], u: list[State] | None = None, limit: int | None = None) -> list[State]:
        """All lanes in one call, given in some order; returned in their own."""
        starts = self.starts if u is None else u
        lanes = trees.cat([starts[i] for i in order])
        end = self.bench.fly([self.chosen[i] for i in order], lanes, order, limit=limit).u
        ends: list[State] = [None] * len(order)
        for place, i in enumerate(order):
            ends[i] = trees.lanes(end, slice(place, place + 1))
        return ends

    def check_lanes(self) -> Finding:
        """Each slice alone, beside others, and in another order."""
        every = list(range(len(self.chosen)))
        try:
            self.stacked, turned = self._stacked(every), self._stacked(every[::-1])
        except Exception as error:
            return Finding(
                "lanes", "failure", f"{len(every)} lanes in one call raise {said(error)}",
                "pr.solve ends with this exception, though pr.serial does not.",
                'write it for stacked lanes, or pass batching="loop" to have it called once a lane.',
            )  # fmt: skip
        far, where, unit = 0.0, 0, 0.0
        rounding = True
        for i in every:
            apart = max(distance(self.stacked[i], self.alone[i].u), distance(turned[i], self.alone[i].u))
            if apart > 0:
                scale = max(size(self.alone[i].u), size(self.starts[i])) if finite(self.alone[i].u) else 0.0
                rounding = rounding and apart <= self._rounding(i, scale)
                far, where, unit = max((far, where, unit), (apart, self.chosen[i], apart / max(scale, 1e-300)))
        if far == 0.0:
            return Finding(
                "lanes", "ok", "slices alone, side by side and in another order agree bit for bit", value=0.0
            )
        if rounding:
            ulp = unit / eps_of(self.starts[0])
            return Finding(
                "lanes", "ok",
                f"equal to rounding, not bit for bit: results depend on the batching to {ulp:.2g} eps", value=far
            )  # fmt: skip
        if not any(self._coupled(i) for i in every):
            return Finding(
                "lanes", "warning",
                f"results depend on the number of lanes, by {unit:.2g} of their size, not on what is in them",
                "Increments do not fall below that difference, and the solution is that of pr.serial to within it.",
                "less precise kernels are chosen for many lanes: no autocast, and no TF32 "
                "(torch.backends.cudnn.allow_tf32 = False); or a tolerance above it; or executor=pr.Serial().", far,
            )  # fmt: skip
        return Finding(
            "lanes", "failure", f"slice {where} beside others differs by {far:.2g} from slice {where} alone",
            "A slice's result depends on which others are under way, so that the solution is not that of pr.serial, "
            "and increments do not fall below that difference.",
            "let every lane be computed from its own t and u: network.eval() for batch norm, norms and means over the "
            "axes of the state alone, one time for each lane (t[:, None], not t[0]), and step sizes chosen lane by "
            'lane (together=False). batching="loop", or executor=pr.Serial(), also keeps lanes apart.',
            far,
        )  # fmt: skip

    def _coupled(self, lane: int) -> bool:
        """Whether a lane depends on the values of the others, and not only on their number."""
        count = len(self.chosen)
        copies = self.bench.fly([self.chosen[lane]] * count, trees.cat([self.starts[lane]] * count), [lane] * count).u
        beside = trees.lanes(copies, slice(lane, lane + 1))
        if equal(beside, self.stacked[lane]):
            return False
        # Slices of different length leave the stack one by one, so that there are not as many lanes all the way.
        apart, scale = distance(self.stacked[lane], self.alone[lane].u), size(self.alone[lane].u)
        uneven = len({self.bench.steps_of(n) for n in self.chosen}) > 1
        return not (uneven and apart <= 0.01 * scale and distance(beside, self.alone[lane].u) >= 0.1 * apart)

    def _rounding(self, lane: int, scale: float) -> float:
        """The largest effect of rounding: a few units in each evaluation, times the growth over the slice."""
        eps, u = eps_of(self.starts[lane]), self.starts[lane]
        moved = trees.map(lambda leaf: leaf * (1 + eps**0.5), u)
        end = self.bench.fly([self.chosen[lane]], moved, [lane]).u
        growth = distance(end, self.alone[lane].u) / max(distance(moved, u), 1e-300) if size(u) > 0 else 1.0
        return 4 * eps * max(self.alone[lane].rounds, 16) * scale * max(1.0, growth)

    def check_stray(self) -> Finding:
        """Whether a lane of NaN changes the results of the others."""
        every = list(range(len(self.chosen)))
        last = every[-1]
        starts = [*self.starts[:-1], trees.map(lambda leaf: torch.full_like(leaf, float("nan")), self.starts[last])]
        limit = 100 + 10 * sum(landing.rounds for landing in self.alone)
        consequence = "Where one slice's iterate overflows, which finite termination would have mended, "
        try:
            ends = self._stacked(every, starts, limit)
        except Exception as error:
            did = "does not end" if isinstance(error, EndlessError) else f"raises {said(error)}"
            return Finding(
                "stray lanes", "warning", f"from NaN it {did}", consequence + "the whole run ends with it.",
                "return NaN for a state that is not finite: if not torch.isfinite(u).all(): return u * float('nan').",
            )  # fmt: skip
        spoilt = [
            self.chosen[i]
            for i in every[:-1]
            if distance(ends[i], self.stacked[i]) > 0
            and not distance(ends[i], self.stacked[i]) <= self._rounding(i, size(self.alone[i].u))
        ]
        if not spoilt:
            return Finding("stray lanes", "ok", "NaN in one lane leaves the others as they are")
        return Finding(
            "stray lanes", "failure", f"NaN in another lane changes slice {', '.join(map(str, spoilt))}",
            consequence + "it spoils the slices beside it, the final ones too.",
            "let nothing be summed, or a step be chosen, over the lane axis; 0 * NaN is NaN: mask with torch.where.",
        )  # fmt: skip
