"""`sample` and `plan`, and what they solve with: the Gaussian coarse flow and stochastic steps.

This package imports equations, models and noise schedules.
"""
