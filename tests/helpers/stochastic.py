"""Random stochastic equations with methods that go with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from strategies import EQUATIONS, NESTS, grids, make_state, on_leaves, single
from torch import Tensor

import parareal as pr

FUNCTION = Callable[[Any, Any], Any]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leafwise(fn: Callable[[Tensor], Tensor]) -> FUNCTION:
    return lambda t, u: on_leaves(fn, u)


def bounded(x: Tensor) -> Tensor:
    return 0.2 + 0.3 * x / (1 + (x * x.conj()).real)


DIFFUSIONS: dict[tuple[str, int | None], FUNCTION] = {
    ("diagonal", None): leafwise(bounded),
    ("scalar", None): lambda t, u: on_leaves(lambda x: 0.3 * x + 0.1, u),
    ("additive", None): leafwise(lambda x: torch.full_like(x, 0.4)),
    ("additive", 2): leafwise(lambda x: torch.stack([torch.full_like(x, 0.4), torch.full_like(x, -0.1)], -1)),
    ("general", 3): leafwise(lambda x: torch.stack([bounded(x), 0.1 * x, torch.full_like(x, 0.2)], -1)),
}


@dataclass(frozen=True, eq=False)
class Case:
    problem: pr.SDE
    u0: Any
    grid: pr.TimeGrid
    fine: pr.Integrator
    coarse: pr.Integrator
    samples: bool


@st.composite
def stochastic(draw: st.DrawFn, min_slices: int = 1) -> Case:
    """Random equations with methods that go with them."""
    noise, channels = draw(st.sampled_from(sorted(DIFFUSIONS, key=str)))
    calculus = draw(st.sampled_from(("ito", "stratonovich")))
    methods: list[Any] = [pr.EulerMaruyama] if calculus == "ito" or noise == "additive" else [pr.Heun]
    methods += [pr.Milstein] if noise != "general" else []
    methods += [pr.SRA1, pr.Heun] if noise == "additive" else []
    fine, coarse = (draw(st.sampled_from(methods))(steps=draw(st.sampled_from((None, 1, 2, 3)))) for _ in range(2))
    samples = draw(st.booleans())
    dtype = draw(st.sampled_from((torch.float32, torch.float64, torch.complex128)))
    u0 = make_state(draw(st.sampled_from(tuple(NESTS))), dtype, draw(st.integers(0, 99)), (3,) if samples else ())
    problem = pr.SDE(
        single(draw(st.sampled_from(EQUATIONS)).rows),
        DIFFUSIONS[noise, channels],
        noise=noise,  # type: ignore[arg-type]
        calculus=calculus,
        channels=channels,
        generator=seeded(draw(st.integers(0, 99))),
    )
    return Case(problem, u0, draw(grids(6, min_slices)), fine, coarse, samples)
