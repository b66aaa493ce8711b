"""`check_propagator`: whether a propagator is what Parareal takes it for, found out on a few slices.

Parareal takes F for a function of (t0, t1, u) that treats every lane alone. What is not one gives a wrong solution, or
an iteration that never settles, and no exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from parareal import _tree
from parareal._bench import Bench, EndlessError, InPlaceError, Landing, distance, eps_of, equal, finite, size, unlike
from parareal._check_accuracy import compare, is_wrong
from parareal._check_cost import check_evaluations
from parareal._check_steps import check_order, check_steps
from parareal._check_time import check_direction, check_time
from parareal._executor import Batched
from parareal._findings import Finding, PropagatorReport
from parareal._grid import TimeGrid, check_count
from parareal._problem import Problem
from parareal._run import Run
from parareal._tree import State
from parareal._undisturbed import undisturbed
from parareal.integrators import Integrator

CHECKS = ("call", "determinism", "lanes", "finite", "stray lanes", "time", "direction", "steps", "evaluations", "order")


def check_propagator(
    fine: Integrator,
    problem: Problem,
    u0: State,
    grid: TimeGrid,
    *,
    slices: int = 3,
    order: float | None = None,
    samples: bool = False,
) -> PropagatorReport:
    """Finds out whether a propagator is fit for Parareal, what will go wrong where it is not, and how to mend it.

    It carries states over a few slices, each alone and all side by side, and compares: with itself, with another
    solution of the problem, and with what it says of itself. Random number generators, and networks that the problem
    or the propagator refers to, are left as they were. A propagator that raises does not raise here.

    Args:
        fine: The propagator, as `solve` takes it.
        problem: The equation.
        u0: State at the start of the grid.
        grid: The grid. The slices that are tried lie evenly over it, the first and the last among them. The first
            starts from ``u0``, and each of the others from where the one before has ended.
        slices: How many of them are tried.
        order: The order that the propagator should have; ``None`` for what it says itself.
        samples: As in `solve`; each lane then carries another sample.

    Returns:
        A `PropagatorReport`. It costs about six times as many evaluations as the propagator needs for so many slices,
        a few hundred for the other solution of each, and a few hundred steps for the order.

    Raises:
        TypeError, ValueError: An argument is not what it should be, or `solve` would refuse it too.
        ImportError: The propagator needs a library that is not there.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: torch.cos(t) * u)
        >>> grid = pr.TimeGrid.uniform(0.0, 6.0, slices=12, steps=20)
        >>> late = pr.Propagator(lambda t0, t1, u: u * torch.exp(torch.sin(t1 - t0)))
        >>> report = pr.check_propagator(late, problem, torch.ones(1, dtype=torch.float64), grid)
        >>> [one.name for one in report.failures]
        ['time']
    """
    run = Run(problem, u0, grid, fine, Batched(), samples, None, False, True)
    check_count(slices, "slices")
    if order is not None and (isinstance(order, bool) or not isinstance(order, int | float) or not order > 0):
        raise ValueError(f"order={order!r}; expected a number above 0, or None for what the propagator says itself")
    if run.batch == 0:
        raise ValueError("u0 holds no samples; expected one at least")
    chosen = np.unique(np.linspace(0, grid.num_slices - 1, slices).round().astype(np.int64)).tolist()
    chosen = chosen * 2 if len(chosen) == 1 else chosen  # two lanes at least
    with undisturbed(problem, fine) as networks:
        bench = Bench(run)
        findings = _Checks(bench, chosen, order, any(one.training for one in networks)).all()
    return PropagatorReport(repr(fine), findings, tuple(dict.fromkeys(chosen)), bench.evaluations)


@dataclass
class _Checks:
    """All checks on some slices."""

    bench: Bench
    chosen: list[int]
    order: float | None
    training: bool
    starts: list[State] = field(default_factory=list)
    alone: list[Landing] = field(default_factory=list)
    stacked: list[State] = field(default_factory=list)

    def all(self) -> tuple[Finding, ...]:
        """Every finding; what makes no sense after a failure is not applicable."""
        call = self._call()
        if call.status == "failure":
            return self._only([call], "the call failed")
        found = [call, self._determinism()]
        if found[-1].status == "failure":
            return self._only(
                [*found, check_evaluations(self.bench, self.chosen, self.alone)],
                "the same call gives different results",
            )
        found += [self._lanes(), self._finite()]
        related = found[2].status == "failure"
        found.append(_na("stray lanes", "lanes depend on each other") if related else self._stray())
        u, ends = self.starts, [landing.u for landing in self.alone]
        seen = compare(self.bench, self.chosen, u, ends)
        found += [check_time(self.bench, seen), check_direction(self.bench, seen)]
        why = "another equation is solved"
        found.append(_na("steps", why) if is_wrong(seen) else check_steps(self.bench, self.chosen, u))
        found.append(check_evaluations(self.bench, self.chosen, self.alone))
        order = self.order
        found.append(_na("order", why) if is_wrong(seen) else check_order(self.bench, self.chosen[0], u[0], order))
        return tuple(found)

    def _only(self, found: list[Finding], why: str) -> tuple[Finding, ...]:
        there = {one.name: one for one in found}
        return tuple(there.get(name) or _na(name, why) for name in CHECKS)

    # --- each slice alone ---------------------------------------------------------------------------------------

    def _call(self) -> Finding:
        """Every slice alone, each from where the one before has ended."""
        bench = self.bench
        count = _tree.leaves(bench.systems)[0].shape[0]
        for lane, n in enumerate(self.chosen):
            u = _tree.lanes(bench.systems, slice(lane % count, lane % count + 1))
            if lane and count == 1 and finite(self.alone[-1].u):
                u = self.alone[-1].u
            if any(distance(u, other) <= 1e-3 * size(u) for other in self.starts):
                u = _tree.map(lambda leaf: leaf * (1 - len(self.starts) / 64), u)  # lanes are to be told apart
            try:
                landing = bench.fly([n], u, [lane])
            except InPlaceError as error:
                return Finding(
                    "call", "failure", str(error),
                    "Slices that still need that state go on from another one, and the solution is wrong.",
                    "return a new tensor: write u + h * k for u.add_(h * k), or begin with u = u.clone().",
                )  # fmt: skip
            except Exception as error:  # whatever a user's code raises
                return Finding(
                    "call", "failure", f"slice {n} raises {_said(error)}",
                    "pr.solve and pr.serial end with this exception.",
                    "see the message; python's traceback of pr.serial with the same arguments says where.",
                )  # fmt: skip
            if (said := unlike(landing.u, u)) is not None:
                return Finding(
                    "call", "failure", said,
                    "The correction adds and subtracts such states: the run fails, or goes on in another dtype.",
                    "return what came in, in shape, dtype and device; time is float64: (t1 - t0).to(u.dtype).",
                )  # fmt: skip
            self.starts.append(u)
            self.alone.append(landing)
        return Finding("call", "ok", "shape, dtype and device come back as they went in; nothing is changed in place")

    def _determinism(self) -> Finding:
        """The same again, after the others."""
        worst, where = 0.0, 0
        for lane, n in enumerate(self.chosen):
            try:
                again = self.bench.fly([n], self.starts[lane], [lane]).u
            except Exception as error:
                return self._indeterminate(f"slice {n} raises when it is run again: {_said(error)}", None)
            if not equal(again, self.alone[lane].u):
                far = distance(again, self.alone[lane].u)
                worst, where = max((worst, where), (far, n))
        if worst == 0.0:
            return Finding("determinism", "ok", "the same slice again gives the same, bit for bit", value=0.0)
        return self._indeterminate(f"slice {where} run again differs by {worst:.2g}", worst)

    def _indeterminate(self, measured: str, value: float | None) -> Finding:
        network = " The network is in training mode: call network.eval() before." if self.training else ""
        return Finding(
            "determinism", "failure", measured,
            "The iteration never settles: its increments do not fall below that difference, and what it ends in is "
            "not the sequential solution.",
            "make it a function of (t0, t1, u): noise from a fixed path (pr.SDE, pr.BrownianPath), network.eval() for "
            f"dropout and batch norm, and no step size or history kept from call to call (pr.Multistep).{network}",
            value,
        )  # fmt: skip

    # --- side by side --------------------------------------------------------------------------------------------

    def _stacked(self, order: Sequence[int], u: list[State] | None = None, limit: int | None = None) -> list[State]:
        """All lanes in one call, given in some order; returned in their own."""
        starts = self.starts if u is None else u
        lanes = _tree.cat([starts[i] for i in order])
        end = self.bench.fly([self.chosen[i] for i in order], lanes, order, limit=limit).u
        ends: list[State] = [None] * len(order)
        for place, i in enumerate(order):
            ends[i] = _tree.lanes(end, slice(place, place + 1))
        return ends

    def _lanes(self) -> Finding:
        every = list(range(len(self.chosen)))
        try:
            self.stacked, turned = self._stacked(every), self._stacked(every[::-1])
        except Exception as error:
            return Finding(
                "lanes", "failure", f"{len(every)} lanes in one call raise {_said(error)}",
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
        """Whether a lane depends on what is in the others, not only on how many there are."""
        count = len(self.chosen)
        copies = self.bench.fly([self.chosen[lane]] * count, _tree.cat([self.starts[lane]] * count), [lane] * count).u
        beside = _tree.lanes(copies, slice(lane, lane + 1))
        if equal(beside, self.stacked[lane]):
            return False
        # Slices of different length leave the stack one by one, so that there are not as many lanes all the way.
        apart, scale = distance(self.stacked[lane], self.alone[lane].u), size(self.alone[lane].u)
        uneven = len({self.bench.steps_of(n) for n in self.chosen}) > 1
        return not (uneven and apart <= 0.01 * scale and distance(beside, self.alone[lane].u) >= 0.1 * apart)

    def _rounding(self, lane: int, scale: float) -> float:
        """What rounding may come to: a few units in each evaluation, enlarged as the slice enlarges a change."""
        eps, u = eps_of(self.starts[lane]), self.starts[lane]
        moved = _tree.map(lambda leaf: leaf * (1 + eps**0.5), u)
        end = self.bench.fly([self.chosen[lane]], moved, [lane]).u
        growth = distance(end, self.alone[lane].u) / max(distance(moved, u), 1e-300) if size(u) > 0 else 1.0
        return 4 * eps * max(self.alone[lane].rounds, 16) * scale * max(1.0, growth)

    def _finite(self) -> Finding:
        bad = [i for i, landing in enumerate(self.alone) if not finite(landing.u)]
        if not bad:
            return Finding("finite", "ok", "finite states stay finite")
        places = ", ".join(str(self.chosen[i]) for i in bad)
        certain = 0 in bad or self.chosen[bad[0]] == bad[0]  # its states are those of the sequential run
        return Finding(
            "finite", "failure" if certain else "warning",
            f"NaN or Inf from a finite state on slice {places}" + ("" if certain else ", from a state near by"),
            "The run ends with Status.NONFINITE, or Status.UNSOLVED, where the sequential solution gets there.",
            "more steps or an implicit method where the steps are too long for the problem; float64 where numbers are "
            "too large for the dtype; no division by zero at the ends of the time interval.",
        )  # fmt: skip

    def _stray(self) -> Finding:
        """One lane is NaN: what do the others give?"""
        every = list(range(len(self.chosen)))
        last = every[-1]
        starts = [*self.starts[:-1], _tree.map(lambda leaf: torch.full_like(leaf, float("nan")), self.starts[last])]
        limit = 100 + 10 * sum(landing.rounds for landing in self.alone)
        consequence = "Where one slice's iterate overflows, which finite termination would have mended, "
        try:
            ends = self._stacked(every, starts, limit)
        except Exception as error:
            did = "does not end" if isinstance(error, EndlessError) else f"raises {_said(error)}"
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


def _na(name: str, why: str) -> Finding:
    return Finding(name, "not applicable", why)


def _said(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
