"""When to stop: stopping rules, what they observe, and the estimate of the error that they decide by.

Rules work on figures in numpy; only `_increments` measures states. This package imports `parareal._core`.
"""
