"""A model's equations: the probability-flow ODE in simple coordinates, and the reverse SDE.

This package imports models and noise schedules.
"""
