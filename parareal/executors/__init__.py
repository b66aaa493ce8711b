"""Where: how the lanes of one round are evaluated, in one process.

Processes of a group are in `parareal.distributed`. This package imports `parareal._core` alone.
"""
