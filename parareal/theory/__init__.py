"""Theory of Parareal: stability functions, bounds on the error, and counts of rounds and evaluations.

Nothing here runs a solver. Functions map numbers to numbers; the tests compare them with the counters of the engine and
with measured errors.
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
