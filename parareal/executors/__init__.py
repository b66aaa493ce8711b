"""Executors evaluate the lanes of one round, in one process.

Those of several processes are in `parareal.distributed`. This package imports only `parareal._core`.
"""
