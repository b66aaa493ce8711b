"""`study`: all combinations of grids, coarse propagators and schedules, iteration by iteration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from parareal._core import trees
from parareal._core.checks import described
from parareal._core.keywords import explain_keywords
from parareal._core.trees import State
from parareal._solve import serial, solve
from parareal.corrections._base import Coarse, Correction
from parareal.grid._time_grid import TimeGrid
from parareal.integrators._base import Integrator
from parareal.problem._ode import Problem
from parareal.results._solution import Solution
from parareal.schedules._schedule import Barrier, Schedule
from parareal.stopping._rules import Iterations, StoppingRule
from parareal.studies._table import Study
from parareal.theory._bounds import generating_function_bound, linear_bound, nonlinear_bound, superlinear_bound

_NOISE = 1e-10
"""Differences below this part of a state say nothing about a Lipschitz constant."""


@explain_keywords
def study(
    problem: Problem,
    u0: State,
    grids: TimeGrid | Iterable[TimeGrid] | Mapping[str, TimeGrid],
    fine: Integrator,
    coarse: Integrator | Correction | Iterable[Integrator | Correction] | Mapping[str, Integrator | Correction],
    *,
    slices: int | Iterable[int] | None = None,
    schedules: Schedule | Iterable[Schedule] | Mapping[str, Schedule] | None = None,
    stop: StoppingRule | None = None,
) -> Study:
    """Solves a problem in all combinations of what is given, and lists what each iteration was worth.

    Each run is compared with `serial` at all slice boundaries. Where the correction is a coarse propagator G, constants
    for bounds are measured: ``alpha`` and ``beta`` are the largest factors by which F - G and G move a difference
    between an iterate of this run and the serial solution apart, and ``gamma`` is the largest F - G on the serial
    solution. With these the bounds hold for this run, and say what theory can tell of it at best; they are no
    prediction for another one.

    Args:
        problem: The equation.
        u0: The initial state.
        grids: A grid, or some; by name in a mapping.
        fine: The fine propagator.
        coarse: A coarse propagator or correction, or some; by name in a mapping.
        slices: Numbers of slices, for each of which every grid's points are cut anew; ``None`` for their own.
        schedules: A schedule, or some; `Barrier`, whose iterations are those of theory, by default.
        stop: When runs stop; by default after as many iterations as there are slices.

    Returns:
        A `Study`, with columns ``run``, its name; ``grid``, ``coarse``, ``schedule``, names; ``slices``, ``steps``;
        ``iteration``, from 0, the first guess, on; ``error``, the largest of all elements and boundaries;
        ``error_at_end``; ``increment``; ``frontier``; ``rounds`` and ``evaluations`` so far, ``serial_rounds``;
        ``status`` of the run; ``alpha``, ``beta``, ``gamma``; and ``bound_linear``, ``bound_superlinear``,
        ``bound_nonlinear`` and ``bound_generating``, see `parareal.theory`, which are NaN where there is no coarse
        propagator. What is not known of iteration 0 is NaN or 0.

    Raises:
        TypeError, ValueError: An argument is wrong.

    Examples:
        >>> import torch, parareal as pr
        >>> grid = pr.TimeGrid.uniform(0.0, 4.0, slices=8, steps=8)
        >>> u0 = torch.ones(1, dtype=torch.float64)
        >>> table = pr.study(pr.ODE(lambda t, u: -u), u0, grid, pr.RK4(), [pr.Euler(), pr.Heun()], slices=[4, 8])
        >>> len(table.last()), table[0]["run"]
        (4, 'Euler(), 4 slices')
        >>> all(row["error"] <= row["bound_generating"] + 1e-14 for row in table)
        True
    """
    cut = _cut(_named(grids, TimeGrid, "grids"), slices)
    corrections = _named(coarse, (Integrator, Correction), "coarse")
    plans = _named(Barrier() if schedules is None else schedules, Schedule, "schedules")
    alone = [len({name for name, _, _ in cut}) == 1, len(cut) == len({name for name, _, _ in cut}), len(plans) == 1]
    rows: list[dict[str, Any]] = []
    references: dict[int, Solution] = {}
    with torch.no_grad():
        for (grid_name, number, grid), (name, correction), (plan, schedule) in product(
            cut, corrections.items(), plans.items()
        ):
            if id(grid) not in references:
                references[id(grid)] = serial(problem, u0, grid, fine=fine)
            run = [name, *([] if alone[0] else [grid_name]), *([] if alone[1] else [f"{number} slices"])]
            run += [] if alone[2] else [plan]
            keys = {"run": ", ".join(run), "grid": grid_name, "coarse": name, "schedule": plan}
            one = _Run(problem, u0, grid, fine, correction, references[id(grid)])
            rows += [{**keys, **row} for row in one.rows(schedule, stop)]
    return Study(tuple(rows))


@dataclass(frozen=True, eq=False)
class _Run:
    """One combination, and the serial run on its grid."""

    problem: Problem
    u0: State
    grid: TimeGrid
    fine: Integrator
    correction: Integrator | Correction
    reference: Solution

    def rows(self, schedule: Schedule, stop: StoppingRule | None) -> list[dict[str, Any]]:
        """A row for each iteration."""
        count, grid = self.grid.num_slices, self.grid
        solution = solve(
            self.problem,
            self.u0,
            grid,
            fine=self.fine,
            coarse=self.correction,
            schedule=schedule,
            stop=Iterations(count) if stop is None else stop,
            keep="all",
            throw=False,
        )
        kept: Any = solution.iterates
        errors = [_vector(trees.map(torch.sub, kept.after(k), self.reference.us)) for k in range(len(kept.has_u))]
        tables = [error.abs().amax(1).numpy() for error in errors]
        constants = self._constants(kept)
        shared = {
            "slices": count,
            "steps": grid.num_steps,
            "serial_rounds": self.reference.stats.rounds,
            "status": solution.status.name,
            **constants,
        }
        out: list[dict[str, Any]] = []
        for k in range(len(solution.history) + 1):
            table = tables[min(k, len(tables) - 1)]
            report = solution.history[k - 1] if k else None
            row = {
                "iteration": k,
                "error": float(table.max()),
                "error_at_end": float(table[-1]),
                "increment": float("nan") if report is None else float(report.increment),
                "frontier": 0 if report is None else int(report.frontier),
                "rounds": 0 if report is None else report.rounds,
                "evaluations": 0 if report is None else report.evaluations,
            }
            bounds = _bounds(constants, k, count, float(tables[0].max()))
            out.append({"slices": count, "steps": grid.num_steps, **row, **shared, **bounds})
        return out

    def _constants(self, kept: Any) -> dict[str, float]:
        """The factors alpha and beta, and gamma; NaN without a coarse propagator."""
        correction = Coarse(self.correction) if isinstance(self.correction, Integrator) else self.correction
        if kept.coarse is None or not isinstance(correction, Coarse):
            return dict.fromkeys(("alpha", "beta", "gamma"), float("nan"))
        us = self.reference.us
        coarse = self._coarse(correction.propagator)
        begin, exact = _vector(us)[:-1], _vector(us)[1:]
        alpha = beta = 0.0
        for k in range(len(kept.has_u)):
            u, f, g = (_vector(trees.map(lambda leaf, k=k: leaf[k], part)) for part in (kept.u, kept.fine, kept.coarse))
            moved, there = (u[:-1] - begin).abs().amax(1), kept.has_fine[k] & kept.has_coarse[k] & kept.has_u[k, :-1]
            there &= moved > _NOISE * begin.abs().amax(1).clamp(min=1e-300)
            if not there.any():
                continue
            miss = ((f - g) - (exact - coarse)).abs().amax(1)
            alpha = max(alpha, float((miss / moved)[there].max()))
            beta = max(beta, float(((g - coarse).abs().amax(1) / moved)[there].max()))
        return {"alpha": alpha, "beta": beta, "gamma": float((exact - coarse).abs().amax(1).max())}

    def _coarse(self, propagator: Integrator) -> Tensor:
        """G of the serial solution at the left boundary of each slice, ``(N, D)``."""
        out: list[Tensor] = []
        for n in range(self.grid.num_slices):
            edges = self.grid.edges[n : n + 2]
            grid = TimeGrid.from_edges(edges)
            start = trees.map(lambda leaf, n=n: leaf[n], self.reference.us)
            out.append(_vector(serial(self.problem, start, grid, fine=propagator).us)[1])
        return torch.stack(out)


def _bounds(constants: Mapping[str, float], k: int, slices: int, initial: float) -> dict[str, float]:
    alpha, beta, gamma = (constants[name] for name in ("alpha", "beta", "gamma"))
    if np.isnan(alpha):
        return dict.fromkeys(("bound_linear", "bound_superlinear", "bound_nonlinear", "bound_generating"), float("nan"))
    return {
        "bound_linear": linear_bound(alpha, beta, k, initial=initial),
        "bound_superlinear": superlinear_bound(alpha, beta, k, slices=slices, initial=initial),
        "bound_nonlinear": nonlinear_bound(alpha, beta, gamma, k, slices=slices),
        "bound_generating": generating_function_bound(alpha, beta, k, slices=slices, gamma=gamma),
    }


def _vector(states: State) -> Tensor:
    """States ``(K, *state)`` as ``(K, D)``, real."""
    parts = [
        leaf.detach().cpu().flatten(1) if leaf.ndim > 1 else leaf.detach().cpu()[:, None]
        for leaf in trees.leaves(states)
    ]
    return torch.cat([torch.view_as_real(part).flatten(1) if part.is_complex() else part for part in parts], 1)


def _named(given: Any, kinds: Any, name: str) -> dict[str, Any]:
    """Things by name; those without a name are called as they print."""
    if isinstance(given, kinds):
        given = [given]
    if isinstance(given, Mapping):
        found = {str(key): one for key, one in cast("Mapping[Any, Any]", given).items()}
    elif isinstance(given, Iterable) and not isinstance(given, str | Tensor):
        listed = list(cast("Iterable[Any]", given))
        found = {}
        for one in listed:
            label = _label(one)
            found[label if label not in found else f"{label} ({len(found) + 1})"] = one
    else:
        raise TypeError(f"{name} is {described(given)}; expected one, a list of some, or a mapping from names")
    if not found:
        raise ValueError(f"{name} is empty; expected at least one")
    for one in found.values():
        if not isinstance(one, kinds):
            raise TypeError(f"{name} holds {described(one)}; expected for example {_EXAMPLES[name]}")
    return found


_EXAMPLES = {
    "grids": "pr.TimeGrid.uniform(0.0, 1.0, slices=8, steps=16)",
    "coarse": "pr.Euler(), or a list: [pr.Euler(), pr.Heun()]",
    "schedules": "pr.Barrier(), or a list: [pr.Barrier(), pr.Wavefront()]",
}


def _label(one: Any) -> str:
    """How it prints, without what is left to defaults; a coarse propagator for the correction with it."""
    if isinstance(one, Coarse):
        return _label(one.propagator)
    if not isinstance(one, Integrator | Correction | Schedule) or not dataclasses.is_dataclass(one):
        return repr(one)
    shown: list[str] = []
    for part in dataclasses.fields(one):
        value = getattr(one, part.name, None)
        if part.init and part.repr and not (value is part.default or (_plain(value) and value == part.default)):
            shown.append(f"{part.name}={_label(value)}")
    return f"{type(one).__name__}({', '.join(shown)})"


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | tuple)


def _cut(grids: dict[str, TimeGrid], slices: Any) -> list[tuple[str, int, TimeGrid]]:
    if slices is None:
        return [(name, grid.num_slices, grid) for name, grid in grids.items()]
    numbers = [slices] if isinstance(slices, int) else list(slices)
    if not numbers:
        raise ValueError("slices is empty; expected numbers of slices, such as [8, 16], or None")
    return [(name, n, TimeGrid.from_points(grid.points, n)) for name, grid in grids.items() for n in numbers]
