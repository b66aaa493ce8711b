"""Methods that choose their own steps: the engine plays one step of many lanes, and each lane says whether it arrived.

All that a step decides with lies on the host, one row of numbers for each lane. So lanes that are in the same phase of
a step share one call and one piece of arithmetic, whatever their slices and their step sizes are, and a lane that has
arrived takes no part in the calls of the others.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from torch import Tensor

from parareal._core.arrays import Bools, Floats, Ints
from parareal._core.multistep_state import Moving
from parareal._core.trees import State
from parareal.integrators._base import Integrator
from parareal.problem._ode import Stages

PHASE, TIME, SIZE, COUNT, SAMPLE = range(5)
"""Columns of a lane's numbers: the phase of its next step, its time, the size of its next step (not negative; NaN where
it is not known), the steps it has made, and which sample it belongs to."""

Failures: TypeAlias = dict[int, str]
"""What went wrong, by number of the lane in its stack."""


class Pace(NamedTuple):
    """Where the lanes of a step of a `Paced` method are after it.

    Attributes:
        state: Their states and slopes, leaves ``(L, *state)``.
        t: Their times, float64, ``(L,)``.
        number: Their numbers, ``(L, 5)``.
        done: Which lanes have arrived, or failed.
        ends: States of those at the end of their interval, leaves ``(D, *state)``, NaN where they failed; ``None``
            where there are none.
        failures: Why lanes failed, and where.
        tried: The step that was tried, for its interpolant; ``None`` in phases that make none.
    """

    state: Moving
    t: Tensor
    number: Floats
    done: Bools
    ends: State = None
    failures: Failures = {}  # noqa: RUF012  never changed
    tried: Any = None


class Paced(Integrator):
    """A method whose lanes make as many steps as they need to reach the end of their interval."""

    @abstractmethod
    def enter(self, u: State, t: Floats, samples: Ints) -> tuple[Moving, Floats]:
        """Lanes that start: their states as `step` takes them, and their numbers.

        Args:
            u: States, leaves ``(L, *state)``.
            t: Times, ``(L,)``.
            samples: Which sample each lane belongs to, ``(L,)``.
        """

    @abstractmethod
    def leave(self, u: State, number: Floats) -> State:
        """States of lanes that have arrived, as they lie at slice boundaries, from states at the end.

        Args:
            u: States, leaves ``(L, *state)``.
            number: Numbers of these lanes.
        """

    @abstractmethod
    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: Moving, number: Floats | None = None) -> Stages:
        """One step of lanes in one phase, towards ``t1``, to a `Pace`. See `Integrator.step`."""


def fresh_numbers(t: Floats, samples: Ints) -> Floats:
    """Numbers of lanes that start at these times, without a step size."""
    number = np.zeros((len(t), 5))
    number[:, TIME], number[:, SIZE], number[:, SAMPLE] = t, np.nan, samples
    return number
