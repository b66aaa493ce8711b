"""A model's equations: the probability-flow ODE in coordinates where it is plain, and the reverse SDE.

This package imports models and noise schedules.
"""
