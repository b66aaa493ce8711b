"""Lanes of an adaptive method outside the engine: step by step, in the hands of whoever wants to look at each step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.arrays import Floats, Ints
from parareal._core.host import index_to, known, to_device
from parareal._core.multistep_state import Moving
from parareal._core.trees import State
from parareal.executors._base import Executor
from parareal.integrators._adaptive import Adaptive
from parareal.integrators._paced import PHASE, TIME, Pace


class March:
    """L lanes of an adaptive method on their way from ``t0`` to ``t1``.

    Attributes:
        lanes: The lanes that have not arrived, by number, ``(R,)``.
        state: Their states and slopes, leaves ``(R, *state)``.
        t: Their times, ``(R,)``.
        number: Their numbers; see `Paced`.
        rounds: Calls so far, one after another.
        evaluations: Lanes times calls.

    Args:
        method: The method.
        problem: The problem.
        t0: Where each lane starts, float64, ``(L,)``; may have a graph.
        t1: Where it ends; infinite for lanes without an end.
        u: States, leaves ``(L, *state)``.
        executor: How calls are made.
        rows: Per-sample data of the lanes, or ``None``.
        samples: Their samples; ``None`` where there is one.
    """

    def __init__(
        self,
        method: Adaptive,
        problem: Any,
        t0: Tensor,
        t1: Tensor,
        u: State,
        executor: Executor,
        rows: State = None,
        samples: Ints | None = None,
    ) -> None:
        device, count = trees.leaves(u)[0].device, len(t0)
        host = t0.detach().cpu()
        self._method, self._problem, self._executor, self._rows = method, problem, executor, rows
        self.lanes: Ints = np.arange(count)
        self.t = known(_on(device, t0), host)
        self._t1 = known(_on(device, t1), t1.detach().cpu())
        self._ends: Floats = t1.detach().cpu().numpy()
        self.state, self.number = method.enter(u, host.numpy(), np.zeros(count) if samples is None else samples)  # pyright: ignore
        self.rounds = self.evaluations = 0

    @property
    def time(self) -> float:
        """The time of the first lane."""
        return float(self.number[0, TIME])

    def advance(self) -> list[tuple[Ints, Pace]]:
        """One phase of every lane; those that arrive or fail leave.

        Returns:
            For each phase the numbers of its lanes and where they are.
        """
        phases = self.number[:, PHASE]
        played: list[tuple[Ints, Pace]] = []
        for phase in np.unique(phases):
            chosen = (phases == phase).nonzero()[0]
            played.append((self.lanes[chosen], self._play(chosen)))
        going = [(lanes[~pace.done], _kept(pace)) for lanes, pace in played if not pace.done.all()]
        if not going:
            self.lanes = np.zeros(0, dtype=np.int64)
            return played
        self.lanes = np.concatenate([lanes for lanes, _ in going])
        self.state = trees.cat([state for _, (state, _, _) in going])
        self.number = np.concatenate([number for _, (_, _, number) in going])
        times = torch.cat([t for _, (_, t, _) in going]) if len(going) > 1 else going[0][1][1]
        self.t = known(times, torch.from_numpy(self.number[:, TIME].copy()))
        return played

    def _play(self, chosen: Ints) -> Pace:
        whole, lanes = len(chosen) == len(self.lanes), len(chosen)
        index = index_to(self.t.device, chosen)
        state = self.state if whole else trees.lanes(self.state, index)
        t = self.t if whole else self.t[index]
        at = self.lanes[chosen]
        ends = known(self._t1[index_to(self.t.device, at)], torch.from_numpy(self._ends[at]))
        rows = () if self._rows is None else (trees.lanes(self._rows, index_to(self.t.device, at)),)
        assert isinstance(state, Moving)
        stages = self._method.step(self._problem, t, ends, state, self.number if whole else self.number[chosen])
        try:
            request = next(stages)
            while True:
                fn, *args = request
                self.rounds, self.evaluations = self.rounds + 1, self.evaluations + lanes
                request = stages.send(self._executor.evaluate(fn, (*args, *rows), lanes))
        except StopIteration as end:
            return end.value


def _on(device: torch.device, t: Tensor) -> Tensor:
    """Times on a device, with their graph if they have one."""
    return t.to(device) if t.requires_grad else to_device(t.detach().cpu(), device)


def _kept(pace: Pace) -> tuple[Moving, Tensor, Floats]:
    """The lanes that have not arrived."""
    if not pace.done.any():
        return pace.state, pace.t, pace.number
    index = index_to(pace.t.device, (~pace.done).nonzero()[0])
    return trees.lanes(pace.state, index), pace.t[index], pace.number[~pace.done]
