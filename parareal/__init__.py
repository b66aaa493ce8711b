"""Parallel-in-time integration in PyTorch: one engine, six replaceable parts.

A time interval is cut into slices; a rough solution is refined on all slices at once until it is the sequential one.
See `solve`.
"""

from parareal import plot, theory
from parareal._anderson import Anderson
from parareal._brownian import BrownianPath
from parareal._changes import Change
from parareal._check_propagator import check_propagator
from parareal._correction import Coarse, Correction, Edge, Known, Sweep
from parareal._distributed import Distributed
from parareal._executor import Batched, Executor, Serial
from parareal._findings import Finding, PropagatorReport
from parareal._frozen import FrozenPath
from parareal._grid import TimeGrid
from parareal._history import History, IterationReport
from parareal._jacobian import Jacobian
from parareal._linear import Identity, Linear, LinearFlow, Whitened, Zero
from parareal._link import RankError
from parareal._memory import Carried, Memory
from parareal._odeint import odeint
from parareal._path import NoisePath
from parareal._plan import Plan, plan
from parareal._problem import ODE, Problem
from parareal._rank_pipeline import RankPipeline
from parareal._record import Record
from parareal._schedule import Barrier, Progress, Schedule, Wavefront, Windowed
from parareal._sde import SDE
from parareal._secant import Secant
from parareal._semilinear import Prediction, Semilinear, SemilinearODE, Split, Weights, scaled_phis
from parareal._solution import Solution, SolveError, Stats, Status
from parareal._solve import serial, solve
from parareal._stop import Iterations, StoppingRule, Tolerance, Verdict
from parareal._trials import Candidate
from parareal._wrappers import Damped
from parareal.integrators import (
    DEIS,
    ETDRK2,
    ETDRK4,
    RK4,
    SDIRK2,
    SRA1,
    SSPRK33,
    AdamsBashforth,
    BogackiShampine,
    ButcherTableau,
    CashKarp,
    Cost,
    DormandPrince,
    DPMSolver,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    ExponentialEuler,
    GaussLegendre,
    Heun,
    Heun3,
    ImplicitEuler,
    ImplicitMidpoint,
    ImplicitRungeKutta,
    Integrator,
    Kutta3,
    LobattoIIIC,
    Midpoint,
    Milstein,
    Multistep,
    Propagator,
    RadauIIA,
    Ralston,
    RungeKutta,
    SciPy,
    ThreeEighths,
    TorchDiffEq,
    TorchODE,
    TorchSDE,
    Trapezoid,
    UniPC,
)

__all__ = [
    "DEIS",
    "ETDRK2",
    "ETDRK4",
    "ODE",
    "RK4",
    "SDE",
    "SDIRK2",
    "SRA1",
    "SSPRK33",
    "AdamsBashforth",
    "Anderson",
    "Barrier",
    "Batched",
    "BogackiShampine",
    "BrownianPath",
    "ButcherTableau",
    "Candidate",
    "Carried",
    "CashKarp",
    "Change",
    "Coarse",
    "Correction",
    "Cost",
    "DPMSolver",
    "DPMSolverPP",
    "Damped",
    "Distributed",
    "DormandPrince",
    "Edge",
    "Euler",
    "EulerMaruyama",
    "Executor",
    "ExponentialEuler",
    "Finding",
    "FrozenPath",
    "GaussLegendre",
    "Heun",
    "Heun3",
    "History",
    "Identity",
    "ImplicitEuler",
    "ImplicitMidpoint",
    "ImplicitRungeKutta",
    "Integrator",
    "IterationReport",
    "Iterations",
    "Jacobian",
    "Known",
    "Kutta3",
    "Linear",
    "LinearFlow",
    "LobattoIIIC",
    "Memory",
    "Midpoint",
    "Milstein",
    "Multistep",
    "NoisePath",
    "Plan",
    "Prediction",
    "Problem",
    "Progress",
    "Propagator",
    "PropagatorReport",
    "RadauIIA",
    "Ralston",
    "RankError",
    "RankPipeline",
    "Record",
    "RungeKutta",
    "Schedule",
    "SciPy",
    "Secant",
    "Semilinear",
    "SemilinearODE",
    "Serial",
    "Solution",
    "SolveError",
    "Split",
    "Stats",
    "Status",
    "StoppingRule",
    "Sweep",
    "ThreeEighths",
    "TimeGrid",
    "Tolerance",
    "TorchDiffEq",
    "TorchODE",
    "TorchSDE",
    "Trapezoid",
    "UniPC",
    "Verdict",
    "Wavefront",
    "Weights",
    "Whitened",
    "Windowed",
    "Zero",
    "check_propagator",
    "odeint",
    "plan",
    "plot",
    "scaled_phis",
    "serial",
    "solve",
    "theory",
]

__version__ = "0.1.0"
