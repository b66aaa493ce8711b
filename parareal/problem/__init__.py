"""The equation: `ODE`, `SemilinearODE`, `SDE`, the noise of an SDE, and how a user's function is called on many lanes.

A problem is an argument of a step and is owned by none. This package imports `parareal._core` and `parareal.grid`.
"""
