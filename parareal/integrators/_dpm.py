"""DPM-Solver and DPM-Solver++: exponential methods for diffusion ODEs, of one evaluation a step.

In the log-SNR both are exponential integrators with a constant linear part; they differ in what is assumed to
be smooth: the noise or the clean data that the model predicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Ints
from parareal._core.multistep_state import Carried, Memory
from parareal._core.names import one_of
from parareal._core.trees import State
from parareal.integrators._adams import check_order, extrapolate, first_order, midpoint
from parareal.integrators._base import Multistep, check_steps
from parareal.integrators._history import no_history, placed, store
from parareal.integrators._interpolation import Moments, exact, node_weights
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import Stages
from parareal.problem._semilinear import Factors, Prediction, Semilinear, Split, Weights, chosen, lincomb

Kind: TypeAlias = Literal["singlestep", "multistep"]
Rule: TypeAlias = Literal["midpoint", "heun"]


def published(weights: Weights, m: int) -> list[Factors]:
    """As DPM-Solver++(3M) is published and implemented: x^2 counts by half of its integral."""
    return exact(weights, 1) if m == 1 else [weights.phi[1], weights.phi[2]]


@dataclass(frozen=True)
class _DPM(Multistep):
    """The base of both families: everything except the prediction."""

    order: int = 2
    kind: Kind = "singlestep"
    rule: Rule = "midpoint"
    lower_order_final: bool = False
    restart: bool = False
    steps: int | None = None

    prediction: ClassVar[Prediction]

    def __post_init__(self) -> None:
        check_order(self.order, 3)
        check_steps(self.steps)
        for name, known in (("kind", ("singlestep", "multistep")), ("rule", ("midpoint", "heun"))):
            one_of(getattr(self, name), known, name)

    @property
    def traits(self) -> IntegratorTraits:
        """One evaluation a step."""
        return IntegratorTraits(
            order=self.order, evaluations=1, shares_first_stage=True, solves=(Semilinear,), multistep=True
        )

    @property
    def group(self) -> int:
        """As many as the order, where they are one step of it."""
        return self.order if self.kind == "singlestep" else 1

    def first_function(self, problem: Any) -> Any:
        """The function of the split of the problem."""
        return problem.split(self.prediction).function

    def begin(self, u: State) -> Memory:
        """The empty history."""
        return no_history(u, self.order - 1, kept=int(self.kind == "singlestep"))

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """The place of the step in its group, or its order by its place in the grid."""
        if self.kind == "multistep":
            return np.minimum(self.order, steps - step) if self.lower_order_final else np.full(len(step), self.order)
        alone = self.lower_order_final & (step == steps - 1) & (steps % self.order == 0)
        return np.where(alone, 1, step % self.order + 1)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Carried, variant: int = 1) -> Stages:
        """One step on L lanes; see `Multistep.step`."""
        split = problem.split(self.prediction)
        if self.kind == "singlestep":
            return (yield from _in_group(split, t0, t1, u, variant, self.rule))
        return (yield from extrapolate(split, t0, t1, u, variant, self._moments))

    def first_order(self, problem: Any, t0: Tensor, t1: Tensor) -> tuple[Tensor, Tensor] | None:
        """DDIM, of which ``"multistep"`` makes more."""
        if self.kind != "multistep":
            return None
        return first_order(problem.split(self.prediction), t0, t1, self.order)

    def _moments(self, weights: Weights, m: int) -> list[Factors]:
        if m == 1:
            return midpoint(weights, 1) if self.rule == "midpoint" else exact(weights, 1)
        return published(weights, m)


def _in_group(split: Split, t0: Tensor, t1: Tensor, state: Carried, place: int, rule: Rule) -> Stages:
    """Step number ``place`` of a group: from where the group began to ``t1``, through all N since."""
    u, (history, (begin, end)) = state.u, placed(split, state.memory, t0, t1)
    rest = split.rest(t0, u, (yield split.function, t0, u))
    t0, t1 = begin, end
    # A lane without the beginning of the group, or with an infinitely long step, begins a group here.
    oldest = max(place - 2, 0)
    since = history.times[oldest] if place > 1 else t0
    whole = (history.known == place - 1) & torch.isfinite(split.level(t1)) & torch.isfinite(split.level(since))
    values, begun = history.values, history.kept[0]
    if place > 1:
        begin = torch.where(whole, since, t0)
        weights = split.weights(begin, t1, place)
        nodes = [(split.level(time) - split.level(begin)) / weights.h for time in (t0, *history.times[:oldest])]
        moments: Moments = midpoint if place == 2 and rule == "midpoint" else exact
        if rule == "midpoint":
            nodes = nodes[:1]
        each = node_weights(weights, nodes, torch.where(whole, len(nodes), 0), moments)
        base = chosen(whole, begun, u)
        first = chosen(whole, _divided(values[oldest], history.units[oldest], whole), rest)
        terms = [(weights.keep, base), (each[0], first), (each[1], rest)]
        if len(nodes) == 2:
            terms.append((history.factor(each[2], 0), values[0]))
        kept, values = base, [chosen(whole, value, torch.zeros_like) for value in values[: place - 1]]
    else:
        weights = split.weights(t0, t1, 1)
        terms = [(weights.keep, u), (weights.phi[0], rest)]
        kept, values = u, []
    depth = len(history.values)
    known = (
        torch.where(whole, place, 1).clamp(max=depth) if place > 1 else torch.full_like(history.known, min(1, depth))
    )
    padding = [trees.map(torch.zeros_like, u)] * (depth - 1 - len(values))
    memory = store(history._replace(known=known, kept=(kept,)), [rest, *values, *padding][:depth], t0, weights.unit)
    return Carried(lincomb(terms), memory)


def _divided(value: State, unit: Tensor, mask: Tensor) -> State:
    safe = torch.where(mask, unit, 1.0)
    return lincomb([((1 / safe,), value)])


@dataclass(frozen=True)
class DPMSolver(_DPM):
    """DPM-Solver: assumes that the noise predicted by the model is smooth in the log-SNR.

    ``"singlestep"``: every ``order`` steps of the grid are one step of that order, with its inner stages on the grid's
    points; uniform in the log-SNR they are those of the paper. The beginning of a group is carried
    with the state, so that slices may end anywhere. ``"multistep"`` extrapolates from earlier steps.

    On a `SemilinearODE` they are exponential Runge-Kutta and Adams methods for its own split.

    Args:
        order: 1 (DDIM), 2 or 3.
        kind: ``"singlestep"`` or ``"multistep"``.
        rule: How derivatives are taken from differences: ``"midpoint"`` or ``"heun"``.
        lower_order_final: Lower the order in the last steps. Into a noise level of zero it is lowered to 1 in any case.
        restart: Restart in every slice, without history.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse), which is DDIM.

    Raises:
        TypeError: ``order`` or ``steps`` is not an int.
        ValueError: An argument is out of range or unknown; from `solve`, that the problem has no split.

    Source:
        DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps (arXiv 2206.00927).

    Examples:
        >>> DPMSolver(3).evaluations
        1
    """

    prediction: ClassVar[Prediction] = "noise"


@dataclass(frozen=True)
class DPMSolverPP(_DPM):
    """DPM-Solver++: assumes that the clean data predicted by the model is smooth in the log-SNR.

    See `DPMSolver` for the arguments. ``DPMSolverPP(2, "multistep")`` is DPM-Solver++(2M), the usual sampler of latent
    diffusion models. ``DPMSolverPP(3, "multistep")`` is DPM-Solver++(3M) as it is published and implemented elsewhere:
    there the second derivative counts by half, which makes its order of accuracy 2; `DEIS` has the exact weights.

    Source:
        DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (arXiv 2211.01095).

    Examples:
        >>> DPMSolverPP(2, "multistep").evaluations
        1
    """

    prediction: ClassVar[Prediction] = "data"
