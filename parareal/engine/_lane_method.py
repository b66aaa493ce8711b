"""The propagator of lanes, and how lanes enter a slice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from parareal._core.arrays import Ints
from parareal._core.multistep_state import Carried
from parareal._core.trees import State
from parareal.grid._mesh import Mesh
from parareal.integrators._base import Integrator, Multistep
from parareal.integrators._paced import Paced


@dataclass(frozen=True, eq=False)
class Method:
    """The propagator of lanes, which never changes.

    Attributes:
        problem: The problem.
        integrator: The propagator.
        mesh: The points that it visits.
        keep_first: Whether values of the right-hand side at left boundaries are kept.
        carries_history: Whether states carry the history of a multistep method, which restarts in each slice otherwise.
        first_function: The function that a step requests first, at the state it starts from, if the method declares it.
        places: Number of places of lanes.
    """

    problem: Any
    integrator: Integrator
    mesh: Mesh
    keep_first: bool = False
    carries_history: bool = False
    first_function: Any = None
    places: int = 1

    @cached_property
    def apart(self) -> bool:
        """Whether each lane asks for a number of values of its own; read once."""
        return self.integrator.traits.apart

    @property
    def multistep(self) -> Multistep | None:
        """The propagator, if it is a multistep method."""
        return self.integrator if isinstance(self.integrator, Multistep) else None

    @cached_property
    def paced(self) -> Paced | None:
        """The propagator, if it chooses its own steps."""
        return self.integrator if isinstance(self.integrator, Paced) else None

    def entered(self, slices: Ints, u: State, samples: Ints | None) -> tuple[State, Any]:
        """Lanes at left boundaries: their states as steps take them, and the numbers that go with them.

        Args:
            slices: Their slices, ``(L,)``.
            u: Their states, leaves ``(L, *state)``.
            samples: Their samples; ``None`` where there is one.
        """
        mesh, multistep = self.mesh, self.multistep
        if self.paced is not None:
            samples = np.zeros_like(slices) if samples is None else samples
            return self.paced.enter(u, mesh.on_host.numpy()[mesh.start[slices]], samples)
        if multistep is None:
            kept = self.integrator.begin_slice(self.problem, u)
            return u if kept is None else Carried(u, kept), None
        count, zero = mesh.count, np.zeros(len(slices), dtype=np.int64)
        if self.carries_history:
            return u, np.stack([count.cumsum()[slices] - count[slices], zero + count.sum()], 1)
        return Carried(u, multistep.begin(u)), np.stack([zero, count[slices]], 1)
