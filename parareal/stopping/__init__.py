"""When to stop: stopping rules, what they observe, and the estimate of the error that they decide by.

All is figures in numpy; states are measured in `_increments` alone. This package imports `parareal._core`.
"""
