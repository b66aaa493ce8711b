"""Integrators: frozen objects that know how to step, and nothing else."""

from parareal.integrators._adams import DEIS, AdamsBashforth
from parareal.integrators._base import Cost, Integrator, Multistep
from parareal.integrators._dpm import DPMSolver, DPMSolverPP
from parareal.integrators._exponential import ETDRK2, ETDRK4, ExponentialEuler
from parareal.integrators._propagator import Propagator
from parareal.integrators._runge_kutta import RK4, ButcherTableau, Euler, Heun, Midpoint, RungeKutta
from parareal.integrators._scipy import SciPy
from parareal.integrators._stochastic import SRA1, EulerMaruyama, Milstein
from parareal.integrators._torchdiffeq import TorchDiffEq
from parareal.integrators._torchode import TorchODE
from parareal.integrators._unipc import UniPC

__all__ = [
    "DEIS",
    "ETDRK2",
    "ETDRK4",
    "RK4",
    "SRA1",
    "AdamsBashforth",
    "ButcherTableau",
    "Cost",
    "DPMSolver",
    "DPMSolverPP",
    "Euler",
    "EulerMaruyama",
    "ExponentialEuler",
    "Heun",
    "Integrator",
    "Midpoint",
    "Milstein",
    "Multistep",
    "Propagator",
    "RungeKutta",
    "SciPy",
    "TorchDiffEq",
    "TorchODE",
    "UniPC",
]
