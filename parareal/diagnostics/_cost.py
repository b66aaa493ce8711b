"""What a propagator costs against what it says that it costs."""

from __future__ import annotations

from parareal.diagnostics._harness import Bench, Landing
from parareal.diagnostics._report import Finding
from parareal.integrators import Multistep


def check_evaluations(bench: Bench, chosen: list[int], alone: list[Landing]) -> Finding:
    """What steps asked for against what the propagator says, and from slice to slice."""
    name, direct = "evaluations", bench.direct
    steps = [bench.steps_of(n) for n in chosen]
    each = [landing.evaluations / s for landing, s in zip(alone, steps, strict=True)]
    said, unit = bench.fine.evaluations, "calls" if bench.black_box else "evaluations"
    least, most = min(each), max(each)
    if direct and not bench.black_box:
        return Finding(
            name, "warning", f"the problem was called {direct} times past the engine",
            "These evaluations are not counted, and lanes that set out at different times are not stacked.",
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
