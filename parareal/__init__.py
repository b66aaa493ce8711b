"""Parallel-in-time integration in PyTorch: one engine, six replaceable parts.

A time interval is cut into slices; a rough solution is refined on all slices at once until it is the sequential one.
See `solve`.
"""

from parareal._anderson import Anderson
from parareal._changes import Change
from parareal._correction import Coarse, Correction, Edge, Known, Sweep
from parareal._executor import Batched, Executor, Serial
from parareal._grid import TimeGrid
from parareal._jacobian import Jacobian
from parareal._linear import Identity, Linear, LinearFlow, Whitened, Zero
from parareal._memory import Carried, Memory
from parareal._problem import ODE, Problem
from parareal._schedule import Barrier, Progress, Schedule, Wavefront, Windowed
from parareal._secant import Secant
from parareal._solution import IterationReport, Solution, SolveError, Stats, Status
from parareal._solve import serial, solve
from parareal._stop import Iterations, StoppingRule, Tolerance, Verdict
from parareal._wrappers import Damped
from parareal.integrators import (
    RK4,
    ButcherTableau,
    Cost,
    Euler,
    Heun,
    Integrator,
    Midpoint,
    Multistep,
    Propagator,
    RungeKutta,
)

__all__ = [
    "ODE",
    "RK4",
    "Anderson",
    "Barrier",
    "Batched",
    "ButcherTableau",
    "Carried",
    "Change",
    "Coarse",
    "Correction",
    "Cost",
    "Damped",
    "Edge",
    "Euler",
    "Executor",
    "Heun",
    "Identity",
    "Integrator",
    "IterationReport",
    "Iterations",
    "Jacobian",
    "Known",
    "Linear",
    "LinearFlow",
    "Memory",
    "Midpoint",
    "Multistep",
    "Problem",
    "Progress",
    "Propagator",
    "RungeKutta",
    "Schedule",
    "Secant",
    "Serial",
    "Solution",
    "SolveError",
    "Stats",
    "Status",
    "StoppingRule",
    "Sweep",
    "TimeGrid",
    "Tolerance",
    "Verdict",
    "Wavefront",
    "Whitened",
    "Windowed",
    "Zero",
    "serial",
    "solve",
]

__version__ = "0.1.0"
