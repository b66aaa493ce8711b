"""The equation: `ODE`, `SemilinearODE`, `SDE`, the noise of an SDE, and how a user's function is called on many lanes.

A problem is an argument of a step; no method owns it. This package imports `parareal._core` and `parareal.grid`.
"""
