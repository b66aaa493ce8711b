"""`check_propagator`: whether a propagator meets the assumptions of Parareal, measured on a few slices.

Parareal assumes that F is a function of (t0, t1, u) that treats every lane on its own. Otherwise the solution is wrong,
or the iteration never settles, without an exception.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from parareal._core import trees
from parareal._core.checks import check_count
from parareal._core.keywords import explain_keywords
from parareal._core.preserve_state import undisturbed
from parareal._core.trees import State
from parareal._inputs import Inputs
from parareal.diagnostics._direction import check_direction, check_time
from parareal.diagnostics._harness import Bench, InPlaceError, Landing, distance, equal, finite, size, unlike
from parareal.diagnostics._independence import SideBySide
from parareal.diagnostics._reference import compare, is_wrong
from parareal.diagnostics._refinement import check_evaluations, check_order, check_steps
from parareal.diagnostics._report import Finding, PropagatorReport, said
from parareal.executors._local import Batched
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import Integrator
from parareal.planning._lyapunov import Lyapunov, Pairs
from parareal.problem._ode import Problem

CHECKS = ("call", "determinism", "lanes", "finite", "stray lanes", "time", "direction", "steps", "evaluations", "order")


@explain_keywords
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
    """Checks whether a propagator is valid for Parareal; if not, says what will go wrong and how to fix it.

    It propagates states over a few slices, each alone and all side by side, and compares the results with each other,
    with another solution of the problem, and with what the propagator states. Random number generators, and networks
    that the problem or the propagator refers to, are restored. A propagator that raises does not raise here.

    Args:
        fine: The propagator, as `solve` takes it.
        problem: The equation.
        u0: State at the start of the grid.
        grid: The grid. The slices checked are spread evenly over it, with the first and the last. The first
            starts from ``u0``, and each of the others from the end of the one before.
        slices: How many slices are checked.
        order: The order that the propagator should have; ``None`` for the one that it states.
        samples: As in `solve`; each lane then carries another sample.

    Returns:
        A `PropagatorReport`. It costs nine to eleven times as many evaluations as the propagator needs for that many
        slices; 72 to 1,512 evaluations for another solution of each slice, twice that where a shorter slice is looked
        at, and more where the propagator disagrees with it or the problem is stiff; and up to 254 steps for the order.

    Raises:
        TypeError, ValueError: An argument is wrong, or `solve` would refuse it too.
        ImportError: The propagator needs a library that is not installed.

    Examples:
        >>> import torch, parareal as pr
        >>> problem = pr.ODE(lambda t, u: torch.cos(t) * u)
        >>> grid = pr.TimeGrid.uniform(0.0, 6.0, slices=12, steps=20)
        >>> late = pr.Propagator(lambda t0, t1, u: u * torch.exp(torch.sin(t1 - t0)))
        >>> report = pr.check_propagator(late, problem, torch.ones(1, dtype=torch.float64), grid)
        >>> [one.name for one in report.failures]
        ['time']
    """
    inputs = Inputs.checked(problem, u0, grid, fine, Batched(), samples)
    check_count(slices, "slices")
    if order is not None and (isinstance(order, bool) or not isinstance(order, int | float) or not order > 0):
        raise ValueError(f"order={order!r}; expected a number above 0, or None for the one that the propagator states")
    if inputs.batch == 0:
        raise ValueError("u0 holds no samples; expected one at least")
    chosen = np.unique(np.linspace(0, grid.num_slices - 1, slices).round().astype(np.int64)).tolist()
    chosen = chosen * 2 if len(chosen) == 1 else chosen  # two lanes at least
    with undisturbed(problem, fine) as networks:
        bench = Bench(inputs)
        findings = _Checks(bench, chosen, order, any(one.training for one in networks)).all()
        settled = all(one.status != "failure" for one in findings)
        parted = _parting(bench, sorted(set(chosen))) if settled else None
    return PropagatorReport(repr(fine), findings, tuple(dict.fromkeys(chosen)), bench.evaluations, parted)


def _parting(bench: Bench, chosen: list[int]) -> Lyapunov:
    """How fast pairs of neighbours part over the slices that were checked, each from the end of the one before."""
    pairs, before = Pairs(bench.systems), bench.evaluations
    lanes = [*range(pairs.count)] * 2
    for n in chosen:
        if pairs.alive:
            pairs.step(lambda u, n=n: bench.fly([n] * len(lanes), u, lanes).u)
    lengths = bench.grid.edges.diff().abs().numpy()
    return pairs.estimate(lengths[chosen[: len(pairs.growths)]], float(lengths.sum()), bench.evaluations - before)


@dataclass
class _Checks:
    """All checks on some slices."""

    bench: Bench
    chosen: list[int]
    order: float | None
    training: bool
    starts: list[State] = field(default_factory=list)
    alone: list[Landing] = field(default_factory=list)

    def all(self) -> tuple[Finding, ...]:
        """All findings; a check that makes no sense after a failure is not applicable."""
        call = self._call()
        if call.status == "failure":
            return self._only([call], "the call failed")
        found = [call, self._determinism()]
        if found[-1].status == "failure":
            return self._only(
                [*found, check_evaluations(self.bench, self.chosen, self.alone)],
                "the same call gives different results",
            )
        side = SideBySide(self.bench, self.chosen, self.starts, self.alone)
        found += [side.check_lanes(), self._finite()]
        related = found[2].status == "failure"
        found.append(_na("stray lanes", "lanes depend on each other") if related else side.check_stray())
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
        """Every slice alone, each from the end of the one before."""
        bench = self.bench
        count = trees.leaves(bench.systems)[0].shape[0]
        for lane, n in enumerate(self.chosen):
            u = trees.lanes(bench.systems, slice(lane % count, lane % count + 1))
            if lane and count == 1 and finite(self.alone[-1].u):
                u = self.alone[-1].u
            if any(distance(u, other) <= 1e-3 * size(u) for other in self.starts):
                u = trees.map(
                    lambda leaf: leaf * (1 - len(self.starts) / 64), u
                )  # different states, so that lanes can be told apart
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
                    "call", "failure", f"slice {n} raises {said(error)}",
                    "pr.solve and pr.serial end with this exception.",
                    "see the message; python's traceback of pr.serial with the same arguments says where.",
                )  # fmt: skip
            if (difference := unlike(landing.u, u)) is not None:
                return Finding(
                    "call", "failure", difference,
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
                return self._indeterminate(f"slice {n} raises when it is run again: {said(error)}", None)
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

    def _finite(self) -> Finding:
        bad = [i for i, landing in enumerate(self.alone) if not finite(landing.u)]
        if not bad:
            return Finding("finite", "ok", "finite states stay finite")
        places = ", ".join(str(self.chosen[i]) for i in bad)
        certain = (
            0 in bad or self.chosen[bad[0]] == bad[0]
        )  # the states of the first slices are those of the sequential run
        return Finding(
            "finite", "failure" if certain else "warning",
            f"NaN or Inf from a finite state on slice {places}" + ("" if certain else ", from a state near by"),
            "The run ends with Status.NONFINITE, or Status.UNSOLVED, where the sequential solution gets there.",
            "more steps or an implicit method where the steps are too long for the problem; float64 where numbers are "
            "too large for the dtype; no division by zero at the ends of the time interval.",
        )  # fmt: skip


def _na(name: str, why: str) -> Finding:
    return Finding(name, "not applicable", why)
