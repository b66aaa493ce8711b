"""The candidates of a plan: combinations of slices, corrections and schedules."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeAlias

from parareal._core.checks import check_count, check_instance, described
from parareal.corrections._base import Coarse, Correction
from parareal.corrections._linear import Identity
from parareal.corrections._secant import Secant
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import Euler, Integrator
from parareal.schedules._schedule import Barrier, Schedule, Wavefront
from parareal.schedules._windowed import Windowed

Way: TypeAlias = tuple[TimeGrid, Correction, Schedule]


def points_of(grid: Any) -> TimeGrid:
    """The points of a grid or a span."""
    if isinstance(grid, TimeGrid):
        return grid
    if isinstance(grid, tuple | list) and len(grid) == 3:
        check_count(grid[2], "steps of the span")
        return TimeGrid.uniform(grid[0], grid[1], slices=1, steps=grid[2])
    raise TypeError(f"grid is {grid!r}; expected a TimeGrid, or a span (t0, t1, steps) such as (0.0, 10.0, 1000)")


def ways_to_solve(
    points: TimeGrid, own: TimeGrid, fine: Integrator, coarse: Any, slices: Any, schedules: Any
) -> list[Way]:
    """All combinations, likely winners first: a good candidate ends the trials of the others early."""
    if coarse is None:
        coarse = (Secant(Identity()), Euler())
    corrections = [Coarse(one) if isinstance(one, Integrator) else one for one in _several(coarse)]
    for name, given, example in (("slices", slices, "[8, 16]"), ("schedules", schedules, "[pr.Wavefront()]")):
        if given is not None and not isinstance(given, Iterable):
            raise TypeError(f"{name} is {described(given)}; expected a list, such as {example}")
    for one in corrections:
        check_instance(one, Correction, "coarse", "pr.Euler() or pr.Identity(), or a list of such")
    steps = points.num_steps
    found: list[Way] = []
    cuts: list[int]
    for correction in corrections:
        free = correction.traits.propagator is None
        if fine.steps is not None:  # other slices would change the solution
            cuts = [own.num_slices]
        elif slices is None:
            root = steps**0.5
            sizes = {min(steps, max(2, round(root * factor))) for factor in (0.5, 1.0, 2.0)}
            cuts = sorted({*sizes, *([steps] if free else [])})
        else:
            cuts = [one for one in dict.fromkeys(slices) if check_count(one, "slices") is None and one <= steps]
        for cut in cuts:
            grid = own if cut == own.num_slices else TimeGrid.from_points(points.points, slices=cut)
            for schedule in _schedules(schedules, grid, correction):
                found.append((grid, correction, schedule))
    if not found:
        raise ValueError(
            f"there is no candidate: coarse={coarse!r}, slices={slices!r} and schedules={schedules!r} leave none for "
            f"{steps} steps; expected a coarse propagator or correction, numbers of slices in 1 ... {steps}, and a "
            "schedule whose window is no wider than there are slices"
        )
    return found


def check_budget(budget: Any) -> None:
    """Raises unless it is a time."""
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise TypeError(f"budget is {described(budget)}; expected seconds, such as 60.0")
    if not budget >= 0:
        raise ValueError(f"budget={budget} is no time; expected seconds, at least 0")


def _several(value: Any) -> list[Any]:
    if isinstance(value, Integrator | Correction):
        return [value]
    if not isinstance(value, Iterable):
        raise TypeError(f"coarse is {described(value)}; expected an integrator, a correction, or a list of such")
    return list(value)  # pyright: ignore[reportUnknownVariableType]


def _schedules(given: Any, grid: TimeGrid, correction: Correction) -> list[Schedule]:
    if given is not None:
        chosen = list(given)
        for one in chosen:
            check_instance(one, Schedule, "schedules", "[pr.Wavefront(), pr.Windowed(8)]")
        return [one for one in chosen if one.width is None or one.width <= grid.num_slices]
    if correction.traits.nested is not None:
        return [Barrier()]
    if correction.traits.mixing or grid.num_slices <= 16:
        return [Wavefront()]
    return [*(Windowed(width) for width in (16, 64) if width < grid.num_slices), Wavefront()]


def lanes_of(grid: TimeGrid, schedule: Schedule) -> int:
    """Most lanes of a round, for one system."""
    return grid.num_slices if schedule.width is None else min(schedule.width, grid.num_slices)


def name_of(one: Any) -> str:
    """The name of a class, with its fields that differ from their defaults."""
    if isinstance(one, Coarse):
        return name_of(one.propagator)
    parts: list[str] = []
    for part in fields(one) if is_dataclass(one) else ():
        value = getattr(one, part.name)
        if not part.repr or (part.default is not MISSING and value == part.default):
            continue
        parts.append(name_of(value) if isinstance(value, Correction | Integrator) else repr(value))
    return f"{type(one).__name__}({', '.join(parts)})" if parts else type(one).__name__
