"""Parallel-in-time integration in PyTorch: one engine, six replaceable parts.

A time interval is cut into slices; a rough solution is refined on all slices at once until it is the sequential one.
See `solve`.
"""

from parareal import extend, plot, theory
from parareal._core.multistep_state import Carried, Memory
from parareal._core.version import __version__ as __version__
from parareal._solve import serial, solve
from parareal.compat._odeint import odeint
from parareal.compat._odeint_adjoint import odeint_adjoint
from parareal.compat._odeint_event import odeint_event
from parareal.corrections._anderson import Anderson
from parareal.corrections._base import Coarse, Correction, Edge, Known, Sweep
from parareal.corrections._damped import Damped
from parareal.corrections._jacobian import Jacobian
from parareal.corrections._linear import Identity, Linear, Whitened, Zero
from parareal.corrections._linear_flow import LinearFlow
from parareal.corrections._multilevel import Multilevel
from parareal.corrections._relaxed import Relaxed
from parareal.corrections._secant import Secant
from parareal.corrections._traits import CorrectionTraits
from parareal.corrections._trust_region import TrustRegion
from parareal.diagnostics._check_propagator import check_propagator
from parareal.diagnostics._report import Finding, PropagatorReport
from parareal.distributed._lane_parallel import Distributed
from parareal.distributed._process_group import RankError
from parareal.distributed._rank_pipeline import RankPipeline
from parareal.executors._base import Executor
from parareal.executors._captured import Captured
from parareal.executors._local import Batched, Serial
from parareal.grid._time_grid import TimeGrid
from parareal.integrators import (
    ARS222,
    ARS443,
    DEIS,
    ETDRK2,
    ETDRK4,
    RK4,
    SDIRK2,
    SRA1,
    SSPRK33,
    AdamsBashforth,
    Adaptive,
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
    IMEXEuler,
    IMEXRungeKutta,
    ImplicitEuler,
    ImplicitMidpoint,
    ImplicitRungeKutta,
    Integrator,
    Kutta3,
    Lie,
    LobattoIIIC,
    Midpoint,
    Milstein,
    Multistep,
    Propagator,
    RadauIIA,
    Ralston,
    RungeKutta,
    SciPy,
    StoermerVerlet,
    Strang,
    ThreeEighths,
    TorchDiffEq,
    TorchODE,
    TorchSDE,
    Trapezoid,
    UniPC,
)
from parareal.integrators._traits import IntegratorTraits
from parareal.planning._lyapunov import Lyapunov, lyapunov_exponent
from parareal.planning._plan import Plan, plan
from parareal.planning._trials import Candidate
from parareal.problem._brownian_path import BrownianPath
from parareal.problem._given_path import FrozenPath
from parareal.problem._noise_path import NoisePath
from parareal.problem._ode import ODE, Problem
from parareal.problem._sde import SDE
from parareal.problem._semilinear import Prediction, Semilinear, SemilinearODE, Split, Weights, scaled_phis
from parareal.problem._separable import SeparableODE
from parareal.problem._structure import Banded, Sparse
from parareal.problem._traits import ProblemTraits
from parareal.results._adjoint_report import AdjointReport
from parareal.results._history import History, IterationReport
from parareal.results._record import Record
from parareal.results._solution import Solution, SolveError, Stats
from parareal.results._status import Status
from parareal.schedules._schedule import Barrier, Progress, Schedule, Wavefront
from parareal.schedules._windowed import Windowed
from parareal.stopping._increments import Change
from parareal.stopping._proximity import Proximity
from parareal.stopping._rules import Iterations, StoppingRule
from parareal.stopping._tolerance import Tolerance, Verdict
from parareal.stopping._traits import StoppingTraits
from parareal.studies._study import study
from parareal.studies._table import Study

__all__ = [
    "ARS222",
    "ARS443",
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
    "Adaptive",
    "AdjointReport",
    "Anderson",
    "Banded",
    "Barrier",
    "Batched",
    "BogackiShampine",
    "BrownianPath",
    "ButcherTableau",
    "Candidate",
    "Captured",
    "Carried",
    "CashKarp",
    "Change",
    "Coarse",
    "Correction",
    "CorrectionTraits",
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
    "IMEXEuler",
    "IMEXRungeKutta",
    "Identity",
    "ImplicitEuler",
    "ImplicitMidpoint",
    "ImplicitRungeKutta",
    "Integrator",
    "IntegratorTraits",
    "IterationReport",
    "Iterations",
    "Jacobian",
    "Known",
    "Kutta3",
    "Lie",
    "Linear",
    "LinearFlow",
    "LobattoIIIC",
    "Lyapunov",
    "Memory",
    "Midpoint",
    "Milstein",
    "Multilevel",
    "Multistep",
    "NoisePath",
    "Plan",
    "Prediction",
    "Problem",
    "ProblemTraits",
    "Progress",
    "Propagator",
    "PropagatorReport",
    "Proximity",
    "RadauIIA",
    "Ralston",
    "RankError",
    "RankPipeline",
    "Record",
    "Relaxed",
    "RungeKutta",
    "Schedule",
    "SciPy",
    "Secant",
    "Semilinear",
    "SemilinearODE",
    "SeparableODE",
    "Serial",
    "Solution",
    "SolveError",
    "Sparse",
    "Split",
    "Stats",
    "Status",
    "StoermerVerlet",
    "StoppingRule",
    "StoppingTraits",
    "Strang",
    "Study",
    "Sweep",
    "ThreeEighths",
    "TimeGrid",
    "Tolerance",
    "TorchDiffEq",
    "TorchODE",
    "TorchSDE",
    "Trapezoid",
    "TrustRegion",
    "UniPC",
    "Verdict",
    "Wavefront",
    "Weights",
    "Whitened",
    "Windowed",
    "Zero",
    "check_propagator",
    "extend",
    "lyapunov_exponent",
    "odeint",
    "odeint_adjoint",
    "odeint_event",
    "plan",
    "plot",
    "scaled_phis",
    "serial",
    "solve",
    "study",
    "theory",
]
