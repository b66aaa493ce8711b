"""The status of a run: a sentence that says what to do about it."""

from __future__ import annotations

from enum import Enum


class Status(Enum):
    """How a run ended; the value is a sentence that says what to do about it."""

    VERIFIED = (
        "The stopping rule was met, and verified: the defects of all slice boundaries, evaluated after it was met, add "
        "up to less than the tolerance."
    )
    CONVERGED = "The stopping rule was met: every slice has settled to within the tolerance."
    FINAL = "Every slice is final: the result is the sequential solution itself."
    ITERATIONS = "The iterations asked for were made; no tolerance was met, or none was asked for."
    STOPPED = "The callback stopped the run: the solution holds the iterates computed up to then."
    MAX_ITERATIONS = (
        "max_iterations was reached before the tolerance was met: allow more iterations, loosen the tolerance, or use "
        "a more accurate coarse propagator."
    )
    NONFINITE = (
        "The fine propagator itself gave NaN or Inf from a final state, so the sequential run fails there as well: "
        "use smaller fine steps or another method, and look at the right-hand side near the time named by the frontier."
    )
    UNSOLVED = (
        "Newton's method did not solve the equations of an implicit step of the fine propagator, from a final state, "
        "so the sequential run fails there as well: use smaller fine steps, allow more Newton iterations, or look at "
        "the right-hand side near the time named by the frontier."
    )
    UNCERTAIN = (
        "Slices were accepted whose errors have grown beyond the tolerance since: keep the states of all slice "
        "boundaries (dense=True), so that the run can go back to them, or ask for a smaller tolerance."
    )
    NO_EVENT = (
        "No event came: the solution holds where the search began and where it ended. Start closer to the event, allow "
        "more steps, or look at the sign of the event function."
    )
    INTERRUPTED = "An exception ended the run: the solution holds the iterates computed before it."

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met or every slice is final."""
        return self in (Status.CONVERGED, Status.FINAL, Status.VERIFIED)

    @property
    def failed(self) -> bool:
        """Whether the run ended without reaching its tolerance."""
        return self in (
            Status.MAX_ITERATIONS,
            Status.NONFINITE,
            Status.UNSOLVED,
            Status.UNCERTAIN,
            Status.NO_EVENT,
            Status.INTERRUPTED,
        )

    @staticmethod
    def worst(statuses: tuple[Status, ...]) -> Status:
        """The worst status of a batch; the sequential solution itself is the best."""
        order = [Status.FINAL, *(status for status in Status if status is not Status.FINAL)]
        return max(statuses, key=order.index)
