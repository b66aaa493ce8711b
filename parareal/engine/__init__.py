"""The recursion, written once: read `_engine`, then `_update`, then `_readiness` and `_lanes`.

It uses the protocols of problems, integrators, corrections, schedules, executors and stopping rules, and none of their
classes by name. Nothing below `parareal._run` and `parareal.distributed` imports it.
"""
