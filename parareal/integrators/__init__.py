"""Integrators: frozen objects that know how to step, and nothing else."""

from parareal.integrators._adams import DEIS, AdamsBashforth
from parareal.integrators._adaptive import Adaptive
from parareal.integrators._base import Cost, Integrator, Multistep
from parareal.integrators._dpm import DPMSolver, DPMSolverPP
from parareal.integrators._explicit import (
    SSPRK33,
    BogackiShampine,
    CashKarp,
    DormandPrince,
    Heun3,
    Kutta3,
    Ralston,
    ThreeEighths,
)
from parareal.integrators._exponential import ETDRK2, ETDRK4, ExponentialEuler
from parareal.integrators._imex_named import ARS222, ARS443, IMEXEuler, IMEXRungeKutta
from parareal.integrators._implicit import ImplicitRungeKutta
from parareal.integrators._implicit_named import (
    SDIRK2,
    GaussLegendre,
    ImplicitEuler,
    ImplicitMidpoint,
    LobattoIIIC,
    RadauIIA,
    Trapezoid,
)
from parareal.integrators._propagator import Propagator
from parareal.integrators._runge_kutta import RK4, Euler, Heun, Midpoint, RungeKutta
from parareal.integrators._splitting import Lie, Strang
from parareal.integrators._stochastic import SRA1, EulerMaruyama, Milstein
from parareal.integrators._tableau import ButcherTableau
from parareal.integrators._unipc import UniPC
from parareal.integrators._verlet import StoermerVerlet
from parareal.integrators.external._scipy import SciPy
from parareal.integrators.external._torchdiffeq import TorchDiffEq
from parareal.integrators.external._torchode import TorchODE
from parareal.integrators.external._torchsde import TorchSDE

__all__ = [
    "ARS222",
    "ARS443",
    "DEIS",
    "ETDRK2",
    "ETDRK4",
    "RK4",
    "SDIRK2",
    "SRA1",
    "SSPRK33",
    "AdamsBashforth",
    "Adaptive",
    "BogackiShampine",
    "ButcherTableau",
    "CashKarp",
    "Cost",
    "DPMSolver",
    "DPMSolverPP",
    "DormandPrince",
    "Euler",
    "EulerMaruyama",
    "ExponentialEuler",
    "GaussLegendre",
    "Heun",
    "Heun3",
    "IMEXEuler",
    "IMEXRungeKutta",
    "ImplicitEuler",
    "ImplicitMidpoint",
    "ImplicitRungeKutta",
    "Integrator",
    "Kutta3",
    "Lie",
    "LobattoIIIC",
    "Midpoint",
    "Milstein",
    "Multistep",
    "Propagator",
    "RadauIIA",
    "Ralston",
    "RungeKutta",
    "SciPy",
    "StoermerVerlet",
    "Strang",
    "ThreeEighths",
    "TorchDiffEq",
    "TorchODE",
    "TorchSDE",
    "Trapezoid",
    "UniPC",
]
