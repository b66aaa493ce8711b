"""UniPC: an exponential predictor-corrector of one evaluation a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from parareal._core.arrays import Ints
from parareal._core.multistep_state import Carried, Memory
from parareal._core.names import one_of
from parareal._core.trees import State
from parareal.integrators._adams import check_order
from parareal.integrators._base import Multistep, check_steps
from parareal.integrators._history import History, no_history, placed, remember
from parareal.integrators._interpolation import exact, node_weights
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._ode import Stages
from parareal.problem._semilinear import Factors, Prediction, Semilinear, Split, Weights, beside_factor, chosen, lincomb


@dataclass(frozen=True)
class UniPC(Multistep):
    """The unified predictor-corrector: one evaluation a step.

    The value at the end of a step, which the next step needs anyway, first corrects the state that it was taken at.

    Args:
        order: 1, 2 or 3 of the predictor; the corrector has one more. The first step bounds that of a whole run by 3.
        prediction: What is assumed to be smooth in the log-SNR: ``"data"`` or ``"noise"``.
        variant: ``"bh1"`` or ``"bh2"``, the B(h) of the paper: it matters only with a single difference.
        lower_order_final: Lower the order in the last steps, down to 1 in the last one.
        restart: Restart in every slice, without history.
        steps: Steps in each slice; ``None`` takes the grid's own points (fine) or one step (coarse), which is DDIM.

    Raises:
        TypeError: ``order`` or ``steps`` is not an int.
        ValueError: An argument is out of range or unknown; from `solve`, that the problem has no split.

    Source:
        UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models (arXiv 2302.04867).

    Examples:
        >>> UniPC(2).evaluations
        1
    """

    order: int = 2
    prediction: Prediction = "data"
    variant: Literal["bh1", "bh2"] = "bh2"
    lower_order_final: bool = True
    restart: bool = False
    steps: int | None = None

    def __post_init__(self) -> None:
        check_order(self.order, 3)
        check_steps(self.steps)
        for name, known in (("prediction", ("data", "noise")), ("variant", ("bh1", "bh2"))):
            one_of(getattr(self, name), known, name)

    @property
    def traits(self) -> IntegratorTraits:
        """One evaluation a step."""
        return IntegratorTraits(
            order=self.order, evaluations=1, shares_first_stage=True, solves=(Semilinear,), multistep=True
        )

    def first_function(self, problem: Any) -> Any:
        """The function of the split of the problem."""
        return problem.split(self.prediction).function

    def begin(self, u: State) -> Memory:
        """The empty history."""
        return no_history(u, self.order, kept=1)

    def variants(self, step: Ints, steps: Ints) -> Ints:
        """The order of a step by its place in the grid."""
        return np.minimum(self.order, steps - step) if self.lower_order_final else np.full(len(step), self.order)

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Carried, variant: int = 1) -> Stages:
        """One step on L lanes; see `Multistep.step`."""
        split, state = problem.split(self.prediction), u.u
        history, (begin, end) = placed(split, u.memory, t0, t1)
        rest = split.rest(t0, state, (yield split.function, t0, state))
        t0, t1 = begin, end
        before = min(self.order, variant + 1) if self.lower_order_final else self.order
        state = self._corrected(split, history, t0, state, rest, before)
        weights = split.weights(t0, t1, variant)
        nodes, usable = history.nodes(split, weights, t0)
        m = variant - 1
        each = node_weights(weights, nodes[:m], usable.clamp(max=m), self._predicted)
        terms = [(weights.keep, state), (each[0], rest)]
        terms += [(history.factor(each[j + 1], j), history.values[j]) for j in range(m)]
        memory = remember(history._replace(kept=(state,)), t0, rest, weights.unit)
        return Carried(lincomb(terms), memory)

    def _corrected(self, split: Split, history: History, t: Tensor, u: State, rest: State, order: int) -> State:
        """The state at ``t``, made again from the last step's beginning with the value at its end."""
        corrects = history.known > 0
        begin = torch.where(corrects, history.times[0], t)
        weights = split.weights(begin, t, order + 1)
        before = history._replace(times=history.times[1:], known=(history.known - 1).clamp(min=0))
        older, usable = before.nodes(split, weights, begin)
        m = order - 1
        # The value at the end, and those before the beginning.
        usable = torch.where(torch.isfinite(weights.h), 1 + usable.clamp(max=m), 0)
        end = torch.ones_like(t)
        each = node_weights(weights, [end, *older[:m]], usable, self._correcting)
        terms = [(weights.keep, history.kept[0]), (history.factor(each[0], 0), history.values[0]), (each[1], rest)]
        terms += [(history.factor(each[j + 2], j + 1), history.values[j + 1]) for j in range(m)]
        return chosen(corrects, lincomb(terms), u)

    def _half(self, weights: Weights) -> Factors:
        if self.variant == "bh2":
            return tuple(part / 2 for part in weights.phi[0])
        half = weights.scale * weights.h / 2
        return tuple(beside_factor(half, part).expand_as(part) for part in weights.phi[0])

    def _predicted(self, weights: Weights, m: int) -> list[Factors]:
        return [self._half(weights)] if m == 1 else exact(weights, m)

    def _correcting(self, weights: Weights, m: int) -> list[Factors]:
        return [self._half(weights)] if m == 1 else exact(weights, m)
