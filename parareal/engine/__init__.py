"""The recursion, written once: read `_engine`, then `_update`, then `_readiness` and `_lanes`.

It knows the protocols of problems, integrators, corrections, schedules, executors and stopping rules, and no class of
any of them by name. Nothing below `parareal._run` and `parareal.distributed` imports it.
"""
