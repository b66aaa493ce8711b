"""When to stop: stopping rules, what they observe, and the estimate of the error that they decide by.

Everything here is figures in numpy; states are measured in `_increments` alone. This package imports schedules' progress
and `parareal._core`.
"""
