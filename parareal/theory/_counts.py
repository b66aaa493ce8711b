"""Rounds and evaluations as the engine counts them, from the cost of a slice with each propagator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parareal._core.arrays import Ints
from parareal._core.checks import check_count, described
from parareal.corrections._base import Correction
from parareal.integrators._base import Integrator
from parareal.integrators._runge_kutta import Euler
from parareal.schedules._schedule import Barrier, Schedule, Wavefront
from parareal.schedules._windowed import Windowed


@dataclass(frozen=True, eq=False)
class Counts:
    """The cost of k iterations.

    Attributes:
        lanes: Lanes of each round, int64, shape ``(rounds,)``: evaluations made side by side.
        fine_evaluations: Evaluations of the fine propagator.
        coarse_evaluations: Evaluations of the coarse propagator.
    """

    lanes: Ints
    fine_evaluations: int
    coarse_evaluations: int

    @property
    def rounds(self) -> int:
        """Evaluations one after another."""
        return len(self.lanes)

    @property
    def evaluations(self) -> int:
        """All evaluations."""
        return self.fine_evaluations + self.coarse_evaluations

    @property
    def max_lanes(self) -> int:
        """Lanes of the widest round."""
        return int(self.lanes.max(initial=0))


def rounds(
    schedule: Schedule,
    slices: int,
    steps: int | Sequence[int],
    iterations: int,
    *,
    fine: Integrator | None = None,
    coarse: Integrator | Correction | None = None,
) -> int:
    """Rounds of k iterations, in closed form.

    With one coarse step of a one-evaluation method, S fine steps a slice and N slices these are
    N + k (N + S - 1) - k (k + 1) / 2 for `Barrier` and k S + N - k for `Wavefront`. With phi rounds a fine slice and
    gamma a coarse one `Wavefront` takes k phi + (N - k) gamma. Where slices differ, it is the sum of all gamma and of
    the k largest phi - gamma; where no phi is above its gamma, the sum of all phi, since final states then overtake all
    coarse lanes. A `Windowed` run whose rule accepts no slice early moves its frontier by a slice an iteration, which
    takes k phi; one that accepts takes no more than N phi in all.

    Args:
        schedule: `Barrier`, `Wavefront` or `Windowed`.
        slices: N.
        steps: Fine steps in each slice, one number or N.
        iterations: k; above N as N.
        fine: The fine propagator; ``None`` for a method of one evaluation a step.
        coarse: The coarse propagator or a correction; ``None`` for one step of a method of one evaluation.

    Raises:
        TypeError: An argument has the wrong type, or the schedule is another one.
        ValueError: A count is out of range, a method's evaluations vary, under `Wavefront` coarse lanes are
            overtaken in some slices only, or there are more iterations than its ``ahead + 1``.

    Examples:
        >>> import parareal as pr
        >>> rounds(pr.Barrier(), 16, 16, 4), rounds(pr.Wavefront(), 16, 16, 4)
        (130, 76)
    """
    work = _Work.of(slices, steps, fine, coarse)
    k = _iterations(iterations, slices)
    if isinstance(schedule, Barrier):
        longest = np.maximum.accumulate(work.fine[::-1])[::-1] - work.shared
        sweeps = np.cumsum(work.coarse[::-1])[::-1]  # over the slices from each on
        return int(sweeps[0] + longest[:k].sum() + sweeps[1 : k + 1].sum())
    if isinstance(schedule, Windowed):
        return int(work.fine[:k].sum())
    if isinstance(schedule, Wavefront):
        if schedule.ahead is not None and k > schedule.ahead + 1:
            raise _bounded(schedule)
        least = np.minimum(work.coarse, work.fine)
        if (least < work.coarse).any() and (least < work.fine).any():
            raise ValueError(
                f"a coarse slice takes {work.coarse.max()} rounds, and fine ones {work.fine.min()} to "
                f"{work.fine.max()}; expected no more than any fine slice takes: final states overtake coarse lanes in "
                "short slices, which has no closed formula"
            )
        return int(least.sum() + np.sort(work.fine - least)[slices - k :].sum())
    raise _unknown(schedule)


def evaluations(
    schedule: Schedule,
    slices: int,
    steps: int | Sequence[int],
    iterations: int,
    *,
    fine: Integrator | None = None,
    coarse: Integrator | Correction | None = None,
) -> int:
    """Evaluations of k iterations, speculative ones included; arguments and errors as of `counts`.

    Examples:
        >>> import parareal as pr
        >>> evaluations(pr.Barrier(), 16, 16, 4), evaluations(pr.Wavefront(), 16, 16, 4)
        (940, 1006)
    """
    return counts(schedule, slices, steps, iterations, fine=fine, coarse=coarse).evaluations


def counts(
    schedule: Schedule,
    slices: int,
    steps: int | Sequence[int],
    iterations: int,
    *,
    fine: Integrator | None = None,
    coarse: Integrator | Correction | None = None,
) -> Counts:
    """The cost of k iterations, round by round, with ``stop=Iterations(k)``.

    `Barrier` makes k N - k (k - 1) / 2 fine and N + k N - k (k + 1) / 2 coarse solves. `Wavefront` makes those and
    whatever else starts before the end. A first evaluation that both propagators share counts for the coarse one.

    Args:
        schedule: `Barrier`, `Wavefront`, or `Windowed` with a correction without propagator.
        slices: N.
        steps: Fine steps in each slice, one number or N.
        iterations: k; above N as N.
        fine: The fine propagator; ``None`` for a method of one evaluation a step.
        coarse: The coarse propagator or a correction; ``None`` for one step of a method of one evaluation.

    Raises:
        TypeError: An argument has the wrong type, or the schedule is another one.
        ValueError: A count is out of range, a method's evaluations vary, or they have no formula here: those of
            `Wavefront` where a coarse slice takes as many rounds as a fine one or where ``ahead`` is a bound, and of
            `Windowed` with a coarse
            propagator or uneven slices. Without a propagator they are at most width times rounds.

    Examples:
        >>> import parareal as pr
        >>> counts(pr.Barrier(), 3, 4, 1).lanes
        array([1, 1, 1, 3, 3, 3, 1, 1])
    """
    work = _Work.of(slices, steps, fine, coarse)
    k = _iterations(iterations, slices)
    if isinstance(schedule, Barrier):
        return _barrier(work, k)
    if isinstance(schedule, Windowed):
        if work.coarse.any() or np.ptp(work.fine):
            raise ValueError(
                "evaluations in a window depend on the order in which lanes enter it; expected a correction without a "
                "propagator, such as pr.Identity(), and slices of as many steps each"
            )
        width = np.minimum(schedule.width, slices - np.arange(k))
        return Counts(np.repeat(width, work.fine[:k]), int((width * work.fine[:k]).sum()), 0)
    if isinstance(schedule, Wavefront):
        if schedule.ahead is not None and slices > schedule.ahead + 1:
            raise _bounded(schedule)
        if (work.coarse >= work.fine).any():
            raise ValueError(
                f"a coarse slice takes {work.coarse.max()} rounds and a fine one {work.fine.min()}; expected fewer: "
                "coarse lanes as slow as fine ones are overtaken by final states, and dropped"
            )
        return _wavefront(work, int(rounds(schedule, slices, steps, k, fine=fine, coarse=coarse)))
    raise _unknown(schedule)


@dataclass(frozen=True)
class _Work:
    """Rounds that each slice takes of the fine and of the coarse propagator, ``(N,)``.

    ``shared`` is 1 where the first evaluation serves both, otherwise 0.
    """

    fine: Ints
    coarse: Ints
    shared: int

    @classmethod
    def of(cls, slices: int, steps: Any, fine: Any, coarse: Any) -> _Work:
        check_count(slices, "slices")
        many = [steps] * slices if np.ndim(steps) == 0 else list(steps)
        for one in many:
            check_count(one, "steps")
        if len(many) != slices:
            raise ValueError(f"steps holds {len(many)} numbers; expected {slices}, one for each slice, or one for all")
        fine = Euler() if fine is None else fine
        coarse = Euler() if coarse is None else coarse
        if not isinstance(fine, Integrator) or not isinstance(coarse, Integrator | Correction):
            raise TypeError(
                f"fine is {described(fine)} and coarse {described(coarse)}; expected pr.RK4() or another "
                "integrator, and for coarse an integrator or a correction"
            )
        if isinstance(coarse, Correction):
            traits = coarse.traits
            if traits.carries:
                raise ValueError(
                    f"{coarse!r} takes derivatives with every fine evaluation, which are not counted here; expected a "
                    "correction that carries nothing, such as pr.Secant(pr.Identity())"
                )
            if traits.relaxations or traits.nested is not None:
                raise ValueError(
                    f"{coarse!r} has iterations that differ, or a sweep that is solved in parallel, which are not "
                    "counted here; expected a correction such as pr.Coarse(pr.Euler()), or take the stats of a run"
                )
            coarse = traits.propagator
        each = np.full(slices, fine.steps) if fine.steps else np.array(many, dtype=np.int64)
        if coarse is None:
            return cls(each * _evaluations(fine), np.zeros(slices, dtype=np.int64), 0)
        sweep = np.full(slices, _evaluations(coarse) * (coarse.steps or 1))
        shared = fine.traits.shares_first_stage and coarse.traits.shares_first_stage
        return cls(each * _evaluations(fine), sweep, int(shared and _first_function(fine) == _first_function(coarse)))


def _evaluations(method: Integrator) -> int:
    traits = method.traits
    if traits.evaluations is None or traits.multistep:
        raise ValueError(
            f"{method!r} takes a number of evaluations that varies from step to step; expected a method of a fixed "
            "number: an explicit Runge-Kutta or exponential one, or pr.Propagator(fn)"
        )
    return traits.evaluations


class _AnyProblem:
    """Stands for a problem, to compare the first requests of methods: if they are equal, they share that evaluation."""

    rhs = terms = "the right-hand side"
    kick = "the force of a separable problem"

    @dataclass(frozen=True)
    class Split:
        """Stands for `parareal.Split`; all predictions come from the same evaluation."""

        function: str = "the split"

    def split(self, prediction: str) -> Split:
        """The split, the same for every prediction."""
        return self.Split()


def _first_function(method: Integrator) -> Any:
    try:
        return method.first_function(_AnyProblem())
    except Exception as error:
        raise ValueError(
            f"first_function of {method!r} needs a problem ({error}), so it is not known here whether an evaluation is "
            "shared; expected problem.rhs or problem.split(...).function, or shares_first_stage=False"
        ) from error


def _iterations(iterations: int, slices: int) -> int:
    check_count(iterations, "iterations")
    return min(iterations, slices)


def _bounded(schedule: Wavefront) -> ValueError:
    return ValueError(
        f"{schedule!r} holds lanes back, and what overtakes them has no formula; expected pr.Wavefront() without a "
        "bound, or for rounds at most ahead + 1 iterations, and for evaluations as few slices"
    )


def _unknown(schedule: Any) -> TypeError:
    return TypeError(f"schedule is {schedule!r}; expected pr.Barrier(), pr.Wavefront() or pr.Windowed(width)")


def _barrier(work: _Work, k: int) -> Counts:
    left = work.fine - work.shared
    lanes = [np.ones(work.coarse.sum(), dtype=np.int64)]
    for j in range(k):  # slices before the frontier take no part
        lanes.append((left[j:, None] > np.arange(left[j:].max())).sum(axis=0))
        lanes.append(np.ones(work.coarse[j + 1 :].sum(), dtype=np.int64))
    sweeps = work.coarse.sum() + sum(work.coarse[j + 1 :].sum() for j in range(k))
    return Counts(np.concatenate(lanes), int(sum(left[j:].sum() for j in range(k))), int(sweeps))


def _wavefront(work: _Work, end: int) -> Counts:
    """Every lane starts as soon as its input exists. Iterate j exists at boundary n once all its parts do."""
    slices = len(work.fine)
    change = np.zeros(end + 1, dtype=np.int64)  # lanes of a round minus those of the round before
    there = np.array([0])  # when each iterate exists at boundary n: iterates 0 ... n, the last of which is final
    fine = coarse = 0
    for n in range(slices):
        late = end if (there >= end).any() else 0  # the next iterate comes too late, or comes after the final one
        there = there[there < end]
        for start, stop in ((there + work.shared, there + work.fine[n]), (there, there + work.coarse[n])):
            np.add.at(change, np.minimum(start, end), 1)
            np.add.at(change, np.minimum(stop, end), -1)
        fine += int(np.clip(end - there - work.shared, 0, work.fine[n] - work.shared).sum())
        coarse += int(np.minimum(end - there, work.coarse[n]).sum())
        refined = np.concatenate([[0], there + work.fine[n]])
        there = np.maximum(refined, np.concatenate([there + work.coarse[n], [late]]))
    return Counts(np.cumsum(change[:-1]), fine, coarse)
