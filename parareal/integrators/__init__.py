"""Integrators: frozen objects that know how to step, and nothing else."""

from parareal.integrators._base import Cost, Integrator, Multistep
from parareal.integrators._propagator import Propagator
from parareal.integrators._runge_kutta import RK4, ButcherTableau, Euler, Heun, Midpoint, RungeKutta

__all__ = [
    "RK4",
    "ButcherTableau",
    "Cost",
    "Euler",
    "Heun",
    "Integrator",
    "Midpoint",
    "Multistep",
    "Propagator",
    "RungeKutta",
]
