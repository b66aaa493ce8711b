"""Compares a propagator with itself: a slice in one piece and in two, and on more and more steps."""

from __future__ import annotations

import dataclasses
from math import inf, isfinite, log2

import torch

from parareal._core import trees
from parareal._core.trees import State
from parareal.diagnostics._harness import Bench, Landing, distance, eps_of, equal, finite, size, widened
from parareal.diagnostics._report import Finding
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import Integrator, Multistep


def check_steps(bench: Bench, chosen: list[int], starts: list[State]) -> Finding:
    """F over a slice, compared with F over its two parts; on the same points if possible."""
    worst, same_points, change = 0.0, True, 0.0
    try:
        for lane, n in enumerate(chosen):
            points = bench.points_of(n)
            fine = _on_points(bench.fine)
            if fine is None or len(points) < 3:
                points = torch.stack([points[0], (points[0] + points[-1]) / 2, points[-1]])
            last, middle = len(points) - 1, len(points) // 2
            once, twice = TimeGrid(points, (0, last)), TimeGrid(points, (0, middle, last))
            if fine is None:
                once, same_points = TimeGrid.from_edges(points[[0, -1]]), False
            one = bench.fly([0], starts[lane], [lane], once, fine, whole=True).u
            two = bench.fly([0], starts[lane], [lane], twice, fine, whole=True).u
            if not (finite(one) and finite(two)) or equal(one, two):
                continue
            far = distance(one, two)
            if same_points or far > 64 * eps_of(one) * size(one):
                worst, change = max((worst, change), (far, distance(one, starts[lane])))
    except Exception as error:
        return Finding(
            "steps", "warning", f"a part of a slice raises {type(error).__name__}: {str(error).strip()[:120]}",
            "Grids with other slices end with this exception.", "take any t0 and t1, not only those of one grid.",
        )  # fmt: skip
    share = worst / max(change, 1e-300)
    if worst == 0.0:
        what = "on the same points, bit for bit" if same_points else "to rounding"
        return Finding("steps", "ok", f"a slice in one piece and in two agree {what}", value=0.0)
    if isinstance(bench.fine, Multistep) and not bench.remembers:
        what = f"a slice in two pieces differs by {share:.2g} of its change: the method starts anew"
        return Finding("steps", "ok", what, value=share)
    if not same_points and share <= 0.01:
        what = f"a slice in two pieces differs by {share:.2g} of its change: its own accuracy"
        return Finding("steps", "ok", what, value=share)
    return Finding(
        "steps", "warning",
        f"a slice in two pieces{', on the same points,' if same_points else ''} differs by {share:.2g} of its change",
        "The sequential solution depends on where slices are cut: runs on other slices solve for another solution.",
        "let a step depend on its own t0 and t1 alone, not on the slice or on the steps before; a black box: more "
        "steps inside.", share,
    )  # fmt: skip


def _on_points(fine: Integrator) -> Integrator | None:
    """The method on the points of the grid, if available."""
    if fine.steps is None:
        return fine
    try:
        return dataclasses.replace(fine, steps=None)  # pyright: ignore[reportArgumentType, reportCallIssue]
    except (TypeError, ValueError):
        return None


# --- order -----------------------------------------------------------------------------------------------------------


def check_order(bench: Bench, n: int, u: State, order: float | None) -> Finding:
    """Whether the stated order is reached as steps are halved, in double precision."""
    claimed = bench.fine.order if order is None else order
    if claimed is None:
        return Finding("order", "not applicable", "none is claimed")
    if not bench.deterministic:
        return Finding("order", "not applicable", "strong orders need many paths")
    edges = bench.grid.edges
    try:
        measured = _measured(bench, widened(u), float(edges[n]), float(edges[n + 1]))
        if measured is None:
            measured = _measured(bench, widened(u), float(edges[0]), float(edges[-1]))
    except Exception as error:
        return Finding(
            "order", "not applicable", f"no double precision: {type(error).__name__}: {str(error).strip()[:80]}"
        )
    if measured is None:
        return Finding("order", "not applicable", "errors are at rounding level, not finite, or do not fall")
    if measured >= claimed - 0.5:
        return Finding("order", "ok", f"order {measured:.1f} measured, {claimed:g} claimed", value=measured)
    return Finding(
        "order", "warning", f"order {measured:.1f} measured, {claimed:g} claimed",
        "Parareal gives the sequential solution all the same, but that is less accurate than its order promises.",
        "check coefficients, and the times at which the right-hand side is asked for. Stiff problems, kinks and too "
        "few steps lower the order of any method.", measured,
    )  # fmt: skip


def _measured(bench: Bench, u: State, a: float, c: float) -> float | None:
    """The order with which solutions on 1, 2, 4, ... steps from ``a`` to ``c`` approach each other."""
    fine = _on_points(bench.fine)
    ends: list[State] = []
    gaps: list[float] = []
    steps = 1
    while steps <= 64:
        grid = TimeGrid.uniform(a, c, 1, steps) if fine is not None else TimeGrid.uniform(a, c, steps)
        ends.append(bench.fly([0], u, [0], grid, fine, whole=True).u)
        if any(x.dtype != y.dtype for x, y in zip(trees.leaves(ends[-1]), trees.leaves(u), strict=True)):
            raise TypeError("the dtype comes back as another")
        if len(ends) > 1:
            known = finite(ends[-1]) and finite(ends[-2])
            gaps.append(distance(ends[-1], ends[-2]) if known else inf)
            if gaps[-1] <= 1e3 * eps_of(u) * max(size(ends[-1]), size(u)):
                gaps.pop()
                break
        steps *= 2
    gaps = [gap for gap in gaps if isfinite(gap)][-4:]
    if len(gaps) < 2:
        return None
    order = max(log2(gaps[-2] / gaps[-1]), log2(gaps[0] / gaps[-1]) / (len(gaps) - 1))  # one alone may be chance
    return order if order > -0.5 else None  # where steps are too long for the problem, errors grow


def check_evaluations(bench: Bench, chosen: list[int], alone: list[Landing]) -> Finding:
    """Evaluations of the steps, compared with what the propagator states, and between slices."""
    name, direct = "evaluations", bench.direct
    steps = [bench.steps_of(n) for n in chosen]
    each = [landing.evaluations / s for landing, s in zip(alone, steps, strict=True)]
    said, unit = bench.fine.evaluations, "calls" if bench.black_box else "evaluations"
    least, most = min(each), max(each)
    if direct and not bench.black_box:
        return Finding(
            name, "warning", f"the problem was called {direct} times past the engine",
            "These evaluations are not counted, and lanes that start at different times are not stacked.",
            "ask for values: k = yield problem.rhs, t, u.", float(direct),
        )  # fmt: skip
    if said is not None and not isinstance(bench.fine, Multistep) and any(one != said for one in each):
        varies = len({landing.rounds / s for landing, s in zip(alone, steps, strict=True)}) > 1
        return Finding(
            name, "failure" if varies else "warning",
            f"{least:g} to {most:g} a step were asked for, and evaluations = {said} is said" if least < most
            else f"{least:g} a step were asked for, and evaluations = {said} is said",
            "Iterates of a slice may arrive out of order, and an older one then replaces a newer." if varies
            else "Predicted rounds and speed-ups, of pr.theory and pr.plan, are wrong.",
            f"evaluations = {'None' if varies else f'{least:g}'} in the class of the propagator.", most,
        )  # fmt: skip
    if most > 1.5 * least and said is None:
        return Finding(
            name, "warning", f"{least:g} to {most:g} {unit} a step, depending on the slice",
            "Every iteration waits for the slowest slice: the others' time is lost, and the speed-up with it.",
            "cut slices so that each needs about as many (pr.TimeGrid.from_edges), or take pr.Wavefront().", most,
        )  # fmt: skip
    about = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    unit = unit[:-1] if about == "1" else unit
    return Finding(name, "ok", f"{about} {unit} a step, on every slice" + ("" if said is None else "; as said"),
                   value=most)  # fmt: skip
