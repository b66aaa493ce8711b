"""`sample` and `plan`, with the Gaussian coarse flow and stochastic steps.

This package imports equations, models and noise schedules.
"""
