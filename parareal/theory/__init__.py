"""What Parareal is known to do: stability functions, bounds on its error, and counts of its work.

Nothing here runs a solver. Numbers go in and numbers come out; the tests hold the engine's own counters and measured
errors to them.
"""

from parareal.theory._bounds import (
    convergence_factor,
    dahlquist_error,
    generating_function_bound,
    linear_bound,
    nonlinear_bound,
    superlinear_bound,
)
from parareal.theory._counts import Counts, counts, evaluations, rounds
from parareal.theory._makespan import Layout, Solve, layout, makespan
from parareal.theory._speedup import classical_speedup, pipelined_speedup, speedup, speedup_limit
from parareal.theory._stability import StabilityFunction, stability_function

__all__ = [
    "Counts",
    "Layout",
    "Solve",
    "StabilityFunction",
    "classical_speedup",
    "convergence_factor",
    "counts",
    "dahlquist_error",
    "evaluations",
    "generating_function_bound",
    "layout",
    "linear_bound",
    "makespan",
    "nonlinear_bound",
    "pipelined_speedup",
    "rounds",
    "speedup",
    "speedup_limit",
    "stability_function",
    "superlinear_bound",
]
