"""Compares a propagator with a reference solution: right time, right direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.trees import State
from parareal.diagnostics._harness import Bench, distance, eps_of, finite, size
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import DormandPrince, EulerMaruyama, Heun, Integrator, SciPy
from parareal.integrators._traits import IntegratorTraits
from parareal.problem._sde import SDE

_MOST = 128
"""Steps of the reference solution on a slice. A choice."""
SHORTER = 8
"""A slice is checked a second time, shorter by this factor. A choice."""
_SMALL = 1e-4
"""Part of the change over a slice: a smaller error is no failure. A choice."""
_FAR = 0.25
"""Part of the change over a slice: two methods on one path differ by less if steps are short enough. A choice."""
ENOUGH = 0.01 * _SMALL
"""Part of the change over a slice: the accuracy of reference solutions. A choice."""
_LARGE = 0.1
"""Part of the change over a slice: an error that stays that large on shorter slices is a failure. A choice."""


@dataclass(frozen=True)
class Compared:
    """F on a slice, compared with a reference solution.

    Attributes:
        slice: Its number.
        error: Of the change over the slice; 0 where it is at rounding level.
        shorter: The same on the first part of the slice; ``None`` if not computed.
        mistake: What F agrees with in place of the solution: ``"restart"``, ``"sign"``, ``"mirror"``, or ``None``.
    """

    slice: int
    error: float
    shorter: float | None = None
    mistake: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether the error is more than the accuracy of the method explains."""
        if self.mistake is not None:
            return True
        return self.shorter is not None and self.shorter > max(self.error / 2, _LARGE)


def compare(bench: Bench, chosen: list[int], starts: list[State], ends: list[State]) -> list[Compared] | str:
    """F on some slices, compared with a reference solution, or why there is none."""
    if isinstance(bench.problem, SDE):
        return _compare_paths(bench, chosen, starts, ends)
    if not bench.deterministic:
        return "no other solution on the same path of noise is known"
    seen: list[Compared] = []
    why = "the states are not finite"
    for lane, n in enumerate(chosen):
        if not finite(ends[lane]):
            continue
        try:
            one = _compare_one(bench, lane, n, starts[lane], ends[lane])
        except Exception as error:  # whatever a user's code raises
            return f"the right-hand side raises {type(error).__name__}: {str(error).strip()[:120]}"
        if one is None:
            why = "no other solution was found: it would take too many steps"
        else:
            seen.append(one)
    return _agreed(seen) or why


def _agreed(seen: list[Compared]) -> list[Compared]:
    """One mistake for all slices that are wrong, if it explains most of them: on one alone it may be chance."""
    wrong = [one for one in seen if one.wrong]
    for kinds in (("restart",), ("sign", "mirror")):
        named = [one.mistake for one in wrong if one.mistake in kinds]
        if 2 * len(named) > len(wrong):
            return [replace(one, mistake=named[0]) if one.wrong else one for one in seen]
    return [replace(one, mistake=None) for one in seen]


def _compare_one(bench: Bench, lane: int, n: int, u: State, end: State) -> Compared | None:
    points = bench.points_of(n)
    a, c = float(points[0]), float(points[-1])
    error = _error(bench, lane, u, end, a, c)
    if error is None or error <= _SMALL:
        return None if error is None else Compared(n, error)
    near = points[0] + (points - points[0]) / SHORTER
    short = _on(bench, lane, u, near)
    shorter = _error(bench, lane, u, short, a, float(near[-1])) if finite(short) else None
    mistake = None
    if shorter is None or shorter > error / 2:
        mistake = _mistake(bench, lane, u, end, a, c)
    return Compared(n, error, shorter, mistake)


def _compare_paths(bench: Bench, chosen: list[int], starts: list[State], ends: list[State]) -> list[Compared] | str:
    """Compares F with a simple method on the same path, at the right time and at wrong ones.

    Two sound methods differ by less than the noise moves the state; another interval has other noise.
    """
    method: Integrator = Heun() if bench.problem.calculus == "stratonovich" else EulerMaruyama()
    seen: list[Compared] = []
    explained: dict[tuple[str, bool], list[bool]] = {}
    for lane, n in enumerate(chosen):
        points, u = bench.points_of(n), starts[lane]
        grid = TimeGrid(points, (0, len(points) - 1))
        found = bench.fly([0], u, [lane], grid, method).u
        if not (finite(found) and finite(ends[lane])):
            continue
        far = distance(ends[lane], found)
        seen.append(Compared(n, far / max(distance(found, u), 1e-300)))
        left = float(points[0])
        for (name, shift), noise_alone in product(
            (("zero", -left), ("start", float(bench.grid.points[0]) - left)), (0, 1)
        ):
            if shift != 0:
                near = _explains(
                    bench, lane, grid, u, ends[lane], _Mistaken(method, shift, noise_alone=bool(noise_alone))
                )
                explained.setdefault((name, bool(noise_alone)), []).append(near < 0.25 * far)
    worst = max((one.error for one in seen), default=0.0)
    if worst > _FAR and any(all(each) for each in explained.values()):  # on one slice alone it may be chance
        return [replace(one, mistake="restart") if one.error > _FAR else one for one in seen]
    if worst > 2 * _FAR:
        return f"steps are too long: two methods on the same path differ by {worst:.2g} of the change over a slice"
    return seen or "the states are not finite"


def _explains(bench: Bench, lane: int, grid: TimeGrid, u: State, end: State, mistaken: Integrator) -> float:
    """How far F is from a method with a mistake; infinite where there is no such path."""
    try:
        return distance(end, bench.fly([0], u, [lane], grid, mistaken).u)
    except Exception:
        return float("inf")


def _on(bench: Bench, lane: int, u: State, points: Tensor) -> State:
    """F over one slice from the first to the last of some points."""
    own = bench.fine.steps is None
    grid = TimeGrid(points, (0, len(points) - 1)) if own else TimeGrid.from_edges(points[[0, -1]])
    return bench.fly([0], u, [lane], grid).u


def _error(bench: Bench, lane: int, u: State, end: State, a: float, c: float) -> float | None:
    """The error of ``end``, of the change over the slice; ``None`` if there is no reference solution."""
    found = _solution(bench, lane, u, end, a, c)
    if found is None:
        return None
    far = distance(end, found)
    scale = max(size(u), size(found))
    if far <= 64 * 16 * eps_of(u) * scale:
        return 0.0
    return far / max(distance(found, u), 1e-300)


def _solution(
    bench: Bench, lane: int, u: State, end: State, a: float, c: float, method: Callable[[int], Integrator] | None = None
) -> State | None:
    """A reference solution from ``a`` to ``c``, whose own error is negligible against that of ``end``."""
    grid, make = TimeGrid.uniform(a, c, 1), method or DormandPrince
    steps, last = 4, None
    while steps <= _MOST:
        now = bench.fly([0], u, [lane], grid, make(steps)).u
        if last is not None and finite(now) and distance(now, last) <= _enough(now, u, end):
            return now
        steps, last = 2 * steps, now
    leaves = trees.leaves(u)
    if (
        method is None
        and sum(leaf.numel() for leaf in leaves) <= 64
        and {leaf.dtype for leaf in leaves} == {torch.float64}
    ):
        try:
            now = bench.fly([0], u, [lane], grid, SciPy("Radau", rtol=1e-9, atol=1e-11 * max(size(u), 1e-3))).u
        except ImportError:
            return None
        return now if finite(now) else None
    return None


def _enough(now: State, u: State, end: State) -> float:
    """How near solutions on n and 2n steps must be to each other: the error of the second is then small enough."""
    return max(0.1 * distance(now, end), ENOUGH * distance(now, u), 16 * eps_of(now) * size(now))


# --- mistakes that are often made ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mistaken(Integrator):
    """A method with a deliberate mistake: it evaluates the right-hand side at another time, or with the other sign."""

    inner: Integrator
    shift: float = 0.0
    sign: float = 1.0
    noise_alone: bool = False

    traits = IntegratorTraits(evaluations=None)

    @property
    def steps(self) -> int | None:
        return self.inner.steps

    def bind(self, problem: Any, u0: State, grid: Any) -> Integrator:
        return replace(self, inner=self.inner.bind(problem, u0, grid))

    def step(self, problem: Any, t0: Tensor, t1: Tensor, u: State) -> Any:
        stages = self.inner.step(problem, t0, t1, u)
        try:
            request = next(stages)
            while True:
                fn, *times, at = request
                if not self.noise_alone or getattr(fn, "free", False):
                    times = [t + self.shift for t in times]
                value = yield fn, *times, at
                request = stages.send(trees.map(lambda leaf: leaf * self.sign, value))
        except StopIteration as stop:
            return stop.value


def _mistake(bench: Bench, lane: int, u: State, end: State, a: float, c: float) -> str | None:
    """Which mistake explains the result of F, if any."""
    found = _solution(bench, lane, u, end, a, c)
    if found is None:
        return None
    start = float(bench.grid.points[0])
    ways: list[tuple[str, float, float, Callable[[int], Integrator]]] = [
        ("restart", a, c, lambda steps: _Mistaken(DormandPrince(steps), shift=-a)),
        ("restart", a, c, lambda steps: _Mistaken(DormandPrince(steps), shift=start - a)),
        ("sign", a, c, lambda steps: _Mistaken(DormandPrince(steps), sign=-1.0)),
        ("mirror", a, 2 * a - c, DormandPrince),
    ]
    nearest, mistake = 0.5 * distance(end, found), None
    for name, left, right, method in ways:
        try:
            other = _solution(bench, lane, u, found, left, right, method)
        except Exception:  # a right-hand side need not be defined there
            continue
        if other is not None and (far := distance(end, other)) <= nearest:
            nearest, mistake = far, name
    return mistake


def is_wrong(seen: list[Compared] | str) -> bool:
    """Whether F may solve another equation than the one of the problem."""
    return not isinstance(seen, str) and any(one.wrong for one in seen)
