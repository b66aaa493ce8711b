"""Whether a propagator uses the right time and the right direction, by comparison with another solution."""

from __future__ import annotations

from parareal.diagnostics._harness import Bench
from parareal.diagnostics._reference import ENOUGH, SHORTER, Compared, is_wrong
from parareal.diagnostics._report import Finding


def check_time(bench: Bench, seen: list[Compared] | str) -> Finding:
    """Whether F on a slice is the problem's solution there."""
    if isinstance(seen, str):
        return Finding("time", "not applicable", seen)
    turned = [one for one in seen if one.mistake in ("sign", "mirror")]
    wrong = [one for one in seen if one.wrong and one not in turned]
    if not wrong:
        if turned:
            return Finding("time", "not applicable", "the direction of time is wrong")
        worst = max(seen, key=lambda one: one.error)
        shrinks = ""
        if worst.shorter is not None and worst.shorter <= worst.error / 2:
            shrinks = f", {_shown(worst.shorter)} on slices {SHORTER} times as short"
        if worst.error > 1.0 and not bench.remembers:  # a method without its history is less accurate
            return Finding(
                "time", "warning", f"local error {worst.error:.2g} of the change over slice {worst.slice}{shrinks}",
                "The sequential solution, which Parareal reproduces, is itself far from that of the problem.",
                "shorter steps, or an implicit or exponential method where the problem is stiff.", worst.error,
            )  # fmt: skip
        return Finding(
            "time",
            "ok",
            f"local error {_shown(worst.error)} of the change over slice {worst.slice}{shrinks}",
            value=worst.error,
        )
    one = wrong[0]
    consequence = (
        "Each slice solves another equation than the one that was asked for: Parareal settles, on a wrong solution."
    )
    if one.mistake == "restart":
        return Finding(
            "time", "failure",
            f"slice {one.slice} is solved as if time began anew: error {one.error:.2g} of its change",
            consequence,
            "use the t0 and t1 that are given, in every evaluation: f(t0 + s, u) for s in 0 ... t1 - t0; no counter of "
            "steps, no time that starts at 0.", one.error,
        )  # fmt: skip
    also = " Or the problem's right-hand side is not that of the black box." if bench.black_box else ""
    return Finding(
        "time", "warning" if bench.black_box else "failure",
        f"local error {one.error:.2g} of the change over slice {one.slice}, and still {one.shorter:.2g} on a slice "
        f"{SHORTER} times as short",
        consequence,
        f"make sure that every evaluation is at its own time, and that steps add up to t1 - t0.{also}", one.error,
    )  # fmt: skip


def check_direction(bench: Bench, seen: list[Compared] | str) -> Finding:
    """Whether F propagates in the direction of time."""
    falling = bool(bench.grid.points[-1] < bench.grid.points[0])
    way = "falling" if falling else "rising"
    if isinstance(seen, str) or bench.noisy:
        return Finding("direction", "not applicable", seen if isinstance(seen, str) else "noise has no direction")
    turned = [one for one in seen if one.mistake in ("sign", "mirror")]
    if turned:
        one = turned[0]
        what = (
            "the right-hand side with the other sign" if one.mistake == "sign" else "the solution the other way in time"
        )
        return Finding(
            "direction", "failure", f"time is {way}, and slice {one.slice} follows {what}",
            "Parareal settles on the solution of another equation, which may grow where it should decay.",
            "take the step with its sign, h = t1 - t0, also in t0 + c * h; no abs().",
        )  # fmt: skip
    if is_wrong(seen):
        return Finding("direction", "not applicable", "another equation is solved")
    return Finding("direction", "ok", f"time is {way}, and slices follow the problem")


def _shown(error: float) -> str:
    return f"{error:.2g}" if error > ENOUGH else f"below {ENOUGH:g}"
