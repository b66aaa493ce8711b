"""CHORDS: solvers on several cores that start at later and later steps, and correct those ahead of them.

CHORDS: Diffusion Sampling Accelerator with Multi-core Hierarchical ODE Solvers, arXiv 2507.15260. The first core is the
sequential sampler. Every other one gets there by long steps, one from each core to the next. Whenever a core comes to
the place where the one ahead was last corrected, that one takes the difference over, carried along by an Euler step:

    x' = F(x) + (y - b) + (tau' - tau_b) (f(y) - f(b)),

with b the state from which the core ahead started at tau_b, and y that of the core behind at the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PUBLISHED = (0, 2, 4, 8, 16, 24, 32, 40)
"""First steps of 8 cores for 50 steps, as published."""


def allocation(steps: int) -> tuple[int, ...]:
    """The published first steps in proportion for another number of steps."""
    return tuple(sorted({step * steps // 50 for step in PUBLISHED}))


@dataclass
class Output:
    """What one core ends with, after which round, and how many evaluations all cores have made by then."""

    state: Tensor
    rounds: int
    evaluations: int


@dataclass
class _Core:
    """A core at step n; it started, or was last corrected, at step ``base`` with state and slope known there."""

    n: int
    x: Tensor
    base: int
    base_x: Tensor
    base_slope: Tensor | None = None
    slope: Tensor | None = None
    done: bool = False


def chords(f: Callable[[Tensor, Tensor], Tensor], u0: Tensor, taus: Tensor, first: Sequence[int]) -> list[Output]:
    """All outputs, from that of the fastest core to that of the first, which is the sequential solution.

    Args:
        f: The right-hand side on L lanes: times ``(L,)``, states ``(L, *state)``.
        u0: The initial state.
        taus: The points of the grid, ``(N + 1,)``.
        first: The step at which each core starts; the first of them is 0.
    """
    steps = len(taus) - 1
    cores, outputs = [_Core(0, u0, 0, u0)], list[Output]()
    rounds = evaluations = 0
    while not cores[0].done:
        active = [core for core in cores if not core.done]
        slopes = f(taus[[core.n for core in active]], torch.stack([core.x for core in active]))
        rounds, evaluations = rounds + 1, evaluations + len(active)
        for core, slope in zip(active, slopes, strict=True):
            core.slope = slope
            if core.n == core.base:
                core.base_slope = slope
        reached = [(core.n, core.x) for core in cores]
        if len(cores) < len(first):  # the last core starts the next with one long step
            last = cores[-1]
            start = last.x + (taus[first[len(cores)]] - taus[last.n]) * last.slope
            begun = _Core(first[len(cores)], start, first[len(cores)], start)
        else:
            begun = None
        for k, core in enumerate(cores):
            if not core.done:
                _advance(core, cores[k - 1] if k else None, reached[k - 1] if k else None, taus)
                if core.n == steps:
                    core.done = True
                    outputs.append(Output(core.x, rounds, evaluations))
        if begun is not None:
            cores.append(begun)
    return outputs


def _advance(core: _Core, behind: _Core | None, reached: tuple[int, Tensor] | None, taus: Tensor) -> None:
    """One step, with the correction where the core behind has just been evaluated where this one started."""
    assert core.slope is not None
    after = core.n + 1
    new = core.x + (taus[after] - taus[core.n]) * core.slope
    if behind is not None and reached is not None and reached[0] == core.base:
        assert behind.slope is not None
        assert core.base_slope is not None
        new = new + (reached[1] - core.base_x) + (taus[after] - taus[core.base]) * (behind.slope - core.base_slope)
        core.base, core.base_x, core.base_slope = after, new, None
    core.n, core.x = after, new
